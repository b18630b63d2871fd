//! Crashes at every step of every change, on the real engine over a simulated disk. Afterwards the
//! service is in the state before or after the change, never between. Acknowledged changes are not
//! lost.
//!
//! One story uses every operation of the service. The test stops it at each operation of the file
//! system, with each subset (or a sample) of the unsynced writes lost, and opens the store again.
//! It then makes every read that a caller can make: users, passwords, tokens, records and the audit
//! trail. The answers must be those from before or after the interrupted call. Then the service
//! must work normally.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of sampled disk states per operation (default 2).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use hightower_auth::crypto::MasterKeyId;
use hightower_auth::{
    Action, AesGcmEncryptor, ApiKeyOptions, AuditVerdict, AuthOptions, AuthService, Factor, FactorCheck, FactorPolicy,
    Grant, KeyRange, KeyRing, Login, Proof, StepUp, Token, records,
};
use hightower_engine::{AppendMode, Components, Durability, KvState, SingleNodeEngine, StoreConfig};
use hightower_seams::ManualClock;
use hightower_segment::sim::{CrashPlan, SeededEntropy, SimFs};
use support::{
    Image, MemEngine, OTHER, PASSWORD, Service, cheap_hasher, check_by, no_delays, options, stronger_hasher, totp_code,
};

mod support;

type Engine = Arc<SingleNodeEngine>;

fn open(fs: &SimFs, mode: AppendMode, durability: Durability) -> Engine {
    let components = Components::default().with_fs(Arc::new(fs.clone())).with_entropy(Arc::new(SeededEntropy::new(1)));
    let config = StoreConfig::at("/store")
        .with_max_segment_size(16 * 1024)
        .with_append_mode(mode)
        .with_durability(durability)
        .with_compaction_interval(Duration::ZERO);
    Arc::new(SingleNodeEngine::with_components(config, components).unwrap())
}

fn records_of(engine: &Engine) -> KvState {
    engine.snapshot().unwrap().keyspace(&records()).unwrap().to_state().unwrap()
}

fn image(engine: &Engine) -> Image {
    let state = records_of(engine);
    let entry = |(key, value): (&[u8], &[u8])| (key.to_vec(), (value.to_vec(), state.version_of(key).unwrap()));
    Image { entries: state.iter().map(entry).collect(), version: engine.latest_version(), ..Image::default() }
}

/// Master keys 1 up to `newest`.
fn keys_to(newest: MasterKeyId) -> Arc<AesGcmEncryptor> {
    let mut ring = KeyRing::single([7; 32]);
    (2..=newest).for_each(|id| ring.insert(id, [u8::try_from(id).unwrap(); 32]).unwrap());
    Arc::new(AesGcmEncryptor::with_ring(ring))
}

/// One call, and the state of the disk after it.
struct Step {
    name: &'static str,
    /// The number of file system operations so far.
    op: usize,
    image: Image,
}

/// A store under test, and the tokens and codes issued so far.
struct Story {
    fs: SimFs,
    engine: Engine,
    clock: Arc<ManualClock>,
    auth: Service<Engine>,
    steps: Vec<Step>,
    tokens: Vec<Token>,
}

impl Story {
    fn new(mode: AppendMode, durability: Durability) -> Self {
        let fs = SimFs::new();
        let engine = open(&fs, mode, durability);
        let clock = support::clock();
        let auth = AuthService::with_options(Arc::clone(&engine), cheap_hasher(), keys_to(1), options(&clock)).unwrap();
        let empty = Step { name: "nothing", op: 0, image: Image::default() };
        Self { fs, engine, clock, auth, steps: vec![empty], tokens: Vec::new() }
    }

    fn step<T>(&mut self, name: &'static str, call: impl FnOnce(&Service<Engine>) -> T) -> T {
        let outcome = call(&self.auth);
        self.steps.push(Step { name, op: self.fs.op_count(), image: image(&self.engine) });
        outcome
    }

    fn id(&self, name: &str) -> String {
        self.auth.find_user(name).unwrap().unwrap().user_id.to_string()
    }

    fn login(&mut self, name: &str, password: &str) -> String {
        let login = self.step("login", |auth| auth.from_source("192.0.2.7").unwrap().login(name, password).unwrap());
        let Login::Accepted { session, token, .. } = login else { panic!("{name} is refused") };
        self.tokens.push(token);
        session.session_id.to_string()
    }

    fn api_key(&mut self, name: &str) -> String {
        let id = self.id(name);
        let metadata = Some(&b"of the key"[..]);
        let options = ApiKeyOptions { label: Some("ci"), metadata, ..ApiKeyOptions::default() };
        let (key, token) = self.step("create key", |auth| auth.create_api_key_with(&id, &options).unwrap());
        self.tokens.push(token);
        key.key_id.to_string()
    }
}

fn people_come(story: &mut Story) {
    story.step("prepare", |auth| auth.prepare().unwrap());
    story.step("create user", |auth| auth.create_user_with_metadata("Alice", PASSWORD, Some(b"hers")).unwrap());
    story.step("create user", |auth| auth.create_user("bob", PASSWORD).unwrap());
    story.step("create user, taken", |auth| auth.create_user("ALICE", PASSWORD).unwrap_err());
    let grant = Grant::new([Action::Read, Action::Write], KeyRange::prefix("jobs/")).unwrap();
    story.step("set role", |auth| auth.set_role("operator", &[grant]).unwrap());
    story.step("set another role", |auth| auth.set_role("auditor", &[]).unwrap());
    let alice = story.id("alice");
    story.step("set user roles", |auth| auth.set_user_roles(&alice, &["operator".into()]).unwrap());
    story.step("change user roles", |auth| auth.change_user_roles(&alice, &["auditor".into()], &[]).unwrap());
    story.step("rename user", |auth| auth.rename_user(&alice, "carol").unwrap());
}

fn credentials_change(story: &mut Story) {
    let carol = story.id("carol");
    story.login("carol", PASSWORD);
    story.step("wrong password", |auth| assert!(!auth.verify_password("carol", OTHER).unwrap()));
    let key = story.api_key("carol");
    story.clock.shift_ms(61_000);
    let (first, second) = (story.tokens[0].clone(), story.tokens[1].clone());
    story.step("use of a session", |auth| assert!(auth.authenticate_session(&first).unwrap().is_some()));
    story.step("use of a key", |auth| assert!(auth.authenticate_api_key(&second).unwrap().is_some()));
    let (_, token) = story.step("rotate key", |auth| auth.rotate_api_key(&key, 1000).unwrap());
    story.tokens.push(token);
    story.step("change password", |auth| assert!(auth.change_password("carol", PASSWORD, OTHER).unwrap()));
    let engine = Arc::clone(&story.engine);
    let stronger = AuthService::with_options(engine, stronger_hasher(), keys_to(1), options(&story.clock)).unwrap();
    story.step("rehash at login", |_| assert!(stronger.verify_password("carol", OTHER).unwrap()));
    let session = story.login("carol", OTHER);
    story.login("carol", OTHER);
    story.step("revoke session", |auth| assert!(auth.revoke_session(&carol, &session).unwrap()));
    story.step("revoke all sessions", |auth| auth.revoke_all_sessions(&carol).unwrap());
    story.step("set metadata", |auth| auth.set_user_metadata(&carol, Some(b"hers, anew")).unwrap());
}

fn the_store_is_looked_after(story: &mut Story) {
    let bob = story.id("bob");
    let key = story.api_key("bob");
    story.login("bob", PASSWORD);
    story.step("disable user", |auth| auth.disable_user(&bob).unwrap());
    story.step("enable user", |auth| auth.enable_user(&bob).unwrap());
    story.step("reset password", |auth| auth.reset_password(&bob, OTHER).unwrap());
    story.step("revoke key", |auth| assert!(auth.revoke_api_key(&key).unwrap()));
    story.auth.encryptor().add_key(2, [2; 32]).unwrap();
    let rotation = story.step("rotate master key", |auth| auth.rotate_master_key().unwrap());
    assert!(rotation.rewrapped > 2, "{rotation:?}");
    story.auth.encryptor().add_key(3, [3; 32]).unwrap();
    let rotation = story.step("rotate root", |auth| auth.rotate_root().unwrap());
    assert!(rotation.rewrapped > 20, "{rotation:?}");
    let engine = Arc::clone(&story.engine);
    story.step("compaction", |_| drop(engine.run_compaction_now().unwrap()));
    story.clock.shift_ms(13 * 60 * 60 * 1000);
    let purged = story.step("purge a session", |auth| auth.purge_expired().unwrap());
    assert!(purged.sessions > 0);
    story.step("prune audit", |auth| assert_eq!(auth.prune_audit(5).unwrap(), 5));
}

fn factors_and_tokens(story: &mut Story) {
    let (erin, invitation) = story.step("invite user", |auth| auth.invite_user("erin").unwrap());
    let erin = erin.user_id.to_string();
    let accepted = |auth: &Service<Engine>| assert!(auth.accept_invitation(&invitation, PASSWORD).unwrap().is_some());
    story.step("accept invitation", accepted);
    let enrolment = story.step("enrol", |auth| auth.enrol_totp(&erin).unwrap());
    let code = totp_code(&enrolment.secret, &story.clock);
    let right = FactorCheck::Accepted(Factor::Totp);
    story.step("confirm", |auth| assert_eq!(auth.confirm_totp(&erin, &code).unwrap(), right));
    story.clock.shift_ms(30_000);
    let half = story.step("half a login", |auth| auth.login("erin", PASSWORD).unwrap());
    let Login::FactorRequired { token, .. } = half else { panic!("{half:?}") };
    let code = totp_code(&enrolment.secret, &story.clock);
    let whole = story.step("the other half", |auth| auth.complete_login(&token, &code).unwrap());
    let Login::Accepted { token, .. } = whole else { panic!("{whole:?}") };
    story.tokens.push(token.clone());
    let stepped =
        story.step("step up", |auth| auth.step_up(&token, Proof::Code(&enrolment.recovery_codes[0])).unwrap());
    let StepUp::Accepted { token, .. } = stepped else { panic!("{stepped:?}") };
    story.tokens.push(token);
    story.step("recovery codes", |auth| auth.regenerate_recovery_codes(&erin).unwrap());
    story.step("require factor", |auth| auth.require_second_factor(&erin, true).unwrap());
    let policy = FactorPolicy { roles: vec!["janitor".to_owned()], ..FactorPolicy::default() };
    story.step("factor policy", |auth| auth.set_factor_policy(&policy).unwrap());
    let (_, verification) = story.step("issue", |auth| auth.issue_verification(&erin, "erin@example.org").unwrap());
    let verified = |auth: &Service<Engine>| auth.verify_with(&verification, "erin@example.org").unwrap();
    assert!(story.step("verify", verified).is_some());
    let (_, reset) = story.step("issue", |auth| auth.issue_password_reset(&erin).unwrap());
    story.step("reset", |auth| assert!(auth.reset_password_with(&reset, OTHER).unwrap().is_some()));
    story.step("issue", |auth| auth.issue_password_reset(&erin).unwrap());
    story.step("revoke tokens", |auth| assert_eq!(auth.revoke_tokens(&erin).unwrap(), 1));
    story.step("disable factor", |auth| assert!(auth.disable_second_factor(&erin).unwrap()));
    story.step("enrol", |auth| auth.enrol_totp(&erin).unwrap());
    story.step("issue", |auth| auth.issue_password_reset(&erin).unwrap());
    story.step("delete user", |auth| assert!(auth.delete_user(&erin).unwrap()));
}

fn people_go(story: &mut Story) {
    let (bob, carol) = (story.id("bob"), story.id("carol"));
    story.login("carol", OTHER);
    story.api_key("carol");
    story.step("delete role", |auth| assert!(auth.delete_role("operator").unwrap()));
    story.step("delete user", |auth| assert!(auth.delete_user(&carol).unwrap()));
    story.step("create user again", |auth| auth.create_user("carol", PASSWORD).unwrap());
    story.step("delete user", |auth| assert!(auth.delete_user(&bob).unwrap()));
}

fn story(mode: AppendMode, durability: Durability) -> Story {
    let mut story = Story::new(mode, durability);
    people_come(&mut story);
    credentials_change(&mut story);
    the_store_is_looked_after(&mut story);
    factors_and_tokens(&mut story);
    people_go(&mut story);
    story
}

/// A service in memory on a copy, with all master keys.
fn copy_of(image: &Image) -> Service {
    let options = AuthOptions { guess_policy: no_delays(), ..options(&support::clock()) };
    AuthService::with_options(MemEngine::with_image(image.clone()), cheap_hasher(), keys_to(3), options).unwrap()
}

/// Everything that a caller can read, as text. Fails if records are inconsistent.
fn answers(image: &Image, tokens: &[Token]) -> String {
    if image.entries.is_empty() {
        return "an empty store".into();
    }
    let auth = copy_of(image);
    check_by(&auth, image);
    let mut text = String::new();
    for user in auth.list_users(None, 99).unwrap() {
        let metadata = auth.decrypt_user_metadata(&user).unwrap();
        let facts = (&user.user_id, &user.username, user.disabled, &user.roles, user.last_login_ms, metadata);
        writeln!(text, "{facts:?} {:?}", auth.list_sessions(&user.user_id).unwrap()).unwrap();
        let factors = auth.factor_status(&user.user_id).unwrap();
        writeln!(text, "  {factors:?} {:?}", auth.list_tokens(&user.user_id).unwrap()).unwrap();
        for key in auth.list_api_keys(&user.user_id).unwrap() {
            let metadata = auth.decrypt_api_key_metadata(&key).unwrap();
            let times = (key.last_used_ms, key.previous_secret_until_ms);
            writeln!(text, "  {} {:?} {:?} {times:?} {metadata:?}", key.key_id, key.label, key.access).unwrap();
        }
    }
    writeln!(text, "{:?} {:?}", auth.list_roles(None, 99).unwrap(), auth.factor_policy().unwrap()).unwrap();
    let AuditVerdict::Intact { entries, .. } = auth.verify_audit(None).unwrap() else { panic!("the trail is broken") };
    writeln!(text, "{entries} audit entries").unwrap();
    // The following checks write, to the copy.
    let works = |token: &Token| auth.authenticate(token).unwrap().is_some();
    writeln!(text, "{:?}", tokens.iter().map(works).collect::<Vec<_>>()).unwrap();
    for name in ["alice", "bob", "carol"] {
        let right = [PASSWORD, OTHER].map(|password| auth.verify_password(name, password).unwrap());
        writeln!(text, "{name}: {right:?}").unwrap();
    }
    text
}

/// The service works after the crash: it accepts new users, and completes interrupted operations.
/// Old keys then open nothing.
fn goes_on(engine: &Engine) {
    let auth =
        AuthService::with_options(Arc::clone(engine), cheap_hasher(), keys_to(3), options(&support::clock())).unwrap();
    auth.create_user("dave", PASSWORD).unwrap();
    match auth.rotate_root() {
        Ok(_) => {}
        // The rotation ended before the crash, or the store is new.
        Err(error) => assert_eq!(error.code(), "conflict", "{error}"),
    }
    assert_eq!(auth.master_key_usage().unwrap().into_keys().collect::<Vec<_>>(), [3]);
    auth.encryptor().remove_key(1).unwrap();
    auth.encryptor().remove_key(2).unwrap();
    let latest = AuthService::with_options(
        Arc::clone(engine),
        cheap_hasher(),
        Arc::clone(auth.encryptor()),
        options(&support::clock()),
    );
    assert!(latest.unwrap().verify_password("dave", PASSWORD).unwrap());
    assert!(matches!(auth.verify_audit(None).unwrap(), AuditVerdict::Intact { .. }));
}

fn samples() -> u64 {
    std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(2)
}

/// Crashes the story everywhere. (Rotation of the master key is many commits: of them only its own
/// entry of the trail is seen, which is the last.)
fn explore(mode: AppendMode, durability: Durability) {
    let story = story(mode, durability);
    let expected: Vec<String> = story.steps.iter().map(|step| answers(&step.image, &story.tokens)).collect();
    let changes = expected.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes + 4 >= expected.len() - 1, "{changes} of {} steps show", expected.len() - 1);
    let mut known: HashMap<u64, String> = HashMap::new();
    let mut visited = 0;
    for state in story.fs.crash_states(CrashPlan { exhaustive_limit: 4, samples: samples(), seed: 1 }) {
        visited += 1;
        let engine = open(&state.fs, mode, durability);
        let digest = records_of(&engine).digest();
        let found = known.entry(digest).or_insert_with(|| {
            let found = answers(&image(&engine), &story.tokens);
            goes_on(&engine);
            found
        });
        let done = story.steps.iter().rposition(|step| step.op <= state.point.op).unwrap();
        let next = (done + 1).min(expected.len() - 1);
        // Without syncs only the order is guaranteed.
        let promised = if durability == Durability::Sync { done } else { 0 };
        assert!(
            expected[promised..=next].contains(found),
            "crash {} in {:?} after {:?}: found\n{found}\nbefore\n{}\nafter\n{}",
            state.point,
            story.steps[next].name,
            story.steps[done].name,
            expected[done],
            expected[next],
        );
    }
    println!(
        "{mode:?} {durability:?}: {} steps, {} operations, {visited} crashes, {} states",
        expected.len(),
        story.fs.op_count(),
        known.len()
    );
    assert!(visited > 400 && known.len() >= changes, "{visited} crashes, {} states", known.len());
}

#[test]
fn every_crash_is_before_or_after_with_positioned_appends() {
    explore(AppendMode::Positioned, Durability::Sync);
}

#[test]
fn every_crash_is_before_or_after_with_mapped_appends() {
    explore(AppendMode::Mapped, Durability::Sync);
}

#[test]
fn every_crash_without_syncs_is_some_moment_of_the_story() {
    explore(AppendMode::Mapped, Durability::Os);
}
