//! The service from the view of its callers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::Arc;

use hightower_auth::{
    Action, ApiKeyOptions, AuditVerdict, AuthOptions, AuthService, AuthorizedEngine, EncryptedBlob, EnvelopeEncryptor,
    Grant, KeyRange, Login, PasswordCheck, Principal, Token, UserRecord,
};
use hightower_engine::{Batch, Command, Expect, KeyspaceOptions, KvEngine, SingleNodeEngine};
use support::{MemEngine, OTHER, PASSWORD, Service, cheap_hasher, no_delays, options, service, service_on};

mod support;

fn login(auth: &Service, username: &str, password: &str) -> Token {
    match auth.login(username, password).unwrap() {
        Login::Accepted { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

fn intact(auth: &Service) -> u64 {
    match auth.verify_audit(None).unwrap() {
        AuditVerdict::Intact { entries, .. } => entries,
        broken => panic!("{broken:?}"),
    }
}

#[test]
fn a_user_from_creation_to_deletion() {
    let (_, _, auth) = service();
    let user = auth.create_user_with_metadata(" Alice ", PASSWORD, Some(b"notes")).unwrap();
    assert_eq!(user.username, "Alice");
    assert_eq!(auth.decrypt_user_metadata(&user).unwrap().unwrap(), b"notes");
    assert_eq!(auth.create_user("ALICE", PASSWORD).unwrap_err().code(), "conflict");
    assert!(auth.verify_password("ａlice", PASSWORD).unwrap());
    assert!(!auth.verify_password("alice", OTHER).unwrap());
    assert!(!auth.verify_password("nobody", PASSWORD).unwrap());
    assert!(!auth.verify_password("not a name", PASSWORD).unwrap());

    let renamed = auth.rename_user(&user.user_id, "Bob").unwrap();
    assert_eq!((renamed.user_id.clone(), renamed.username.as_str()), (user.user_id.clone(), "Bob"));
    assert!(auth.find_user("alice").unwrap().is_none());
    auth.rename_user(&user.user_id, "BOB").unwrap();
    let other = auth.create_user("alice", PASSWORD).unwrap();
    assert_eq!(auth.rename_user(&other.user_id, "bob").unwrap_err().code(), "conflict");

    auth.disable_user(&user.user_id).unwrap();
    assert!(!auth.verify_password("bob", PASSWORD).unwrap());
    auth.enable_user(&user.user_id).unwrap();
    assert!(auth.verify_password("bob", PASSWORD).unwrap());
    assert!(auth.delete_user(&user.user_id).unwrap());
    assert!(!auth.delete_user(&user.user_id).unwrap());
    assert!(!auth.verify_password("bob", PASSWORD).unwrap());
    assert_eq!(auth.disable_user(&user.user_id).unwrap_err().code(), "not_found");
    assert!(auth.get_user(&user.user_id).unwrap().is_none());
    assert!(auth.get_user("usr_00000000000000000000000000000000").unwrap().is_none());
    intact(&auth);
}

#[test]
fn lists_are_paged_and_hide_nobody_else() {
    let (_, _, auth) = service();
    for n in 0..25 {
        auth.create_user(&format!("user{n}"), PASSWORD).unwrap();
    }
    let (mut after, mut names) = (None, Vec::new());
    loop {
        let page = auth.list_users(after.as_ref(), 10).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.user_id.clone());
        names.extend(page.into_iter().map(|user| user.username));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 25);
}

#[test]
fn passwords_change_and_end_all_sessions() {
    let (_, _, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    let token = login(&auth, "alice", PASSWORD);
    assert!(auth.authenticate_session(&token).unwrap().is_some());
    assert!(!auth.change_password("alice", OTHER, OTHER).unwrap());
    assert_eq!(auth.change_password("alice", PASSWORD, "short").unwrap_err().code(), "validation");
    assert!(auth.authenticate_session(&token).unwrap().is_some());
    assert!(auth.change_password("ALICE", PASSWORD, OTHER).unwrap());
    assert!(auth.authenticate_session(&token).unwrap().is_none());
    assert!(!auth.verify_password("alice", PASSWORD).unwrap());
    assert!(auth.verify_password("alice", OTHER).unwrap());
    auth.reset_password(&user.user_id, PASSWORD).unwrap();
    assert!(auth.verify_password("alice", PASSWORD).unwrap());
}

#[test]
fn weak_hashes_are_replaced_at_login() {
    let (engine, clock, auth) = service();
    auth.create_user("alice", PASSWORD).unwrap();
    let stronger =
        hightower_auth::Argon2SecretHasher::with_params(hightower_auth::Argon2Params::insecure(16, 1, 1).unwrap());
    let encryptor = Arc::new(hightower_auth::AesGcmEncryptor::new([7; 32]));
    let next = AuthService::with_options(Arc::clone(&engine), stronger, encryptor, options(&clock)).unwrap();
    let has = |text: &str| {
        engine.image().entries.values().filter(|(value, _)| String::from_utf8_lossy(value).contains(text)).count()
    };
    assert_eq!(has("m=16,t=1"), 0);
    assert!(!next.verify_password("alice", OTHER).unwrap());
    assert_eq!(has("m=16,t=1"), 0);
    assert!(next.verify_password("alice", PASSWORD).unwrap());
    assert_eq!(has("m=16,t=1"), 1);
    assert!(next.verify_password("alice", PASSWORD).unwrap());
}

#[test]
fn sessions_expire_idle_and_absolutely_and_are_bounded() {
    let (_, clock, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    let token = login(&auth, "alice", PASSWORD);
    for _ in 0..20 {
        clock.shift_ms(29 * 60_000);
        assert!(auth.authenticate_session(&token).unwrap().is_some());
    }
    clock.shift_ms(31 * 60_000);
    assert!(auth.authenticate_session(&token).unwrap().is_none(), "idle");
    let token = login(&auth, "alice", PASSWORD);
    for _ in 0..24 {
        clock.shift_ms(29 * 60_000);
        assert!(auth.authenticate_session(&token).unwrap().is_some());
    }
    clock.shift_ms(25 * 60_000);
    assert!(auth.authenticate_session(&token).unwrap().is_none(), "absolute");
    assert_eq!(auth.purge_expired().unwrap().sessions, 2);

    let first = login(&auth, "alice", PASSWORD);
    for _ in 0..64 {
        clock.shift_ms(1);
        login(&auth, "alice", PASSWORD);
    }
    assert_eq!(auth.list_sessions(&user.user_id).unwrap().len(), 64);
    assert!(auth.authenticate_session(&first).unwrap().is_none());
    auth.revoke_all_sessions(&user.user_id).unwrap();
    assert!(auth.list_sessions(&user.user_id).unwrap().is_empty());

    let (one, two) = (login(&auth, "alice", PASSWORD), login(&auth, "alice", PASSWORD));
    assert!(auth.logout(&one).unwrap() && !auth.logout(&one).unwrap());
    let left = auth.list_sessions(&user.user_id).unwrap();
    assert!(auth.revoke_session(&user.user_id, &left[0].session_id).unwrap());
    assert!(auth.authenticate_session(&two).unwrap().is_none());
}

#[test]
fn ending_all_sessions_writes_as_much_for_one_as_for_sixty() {
    let (engine, _, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    for _ in 0..60 {
        login(&auth, "alice", PASSWORD);
    }
    let before = engine.image();
    auth.revoke_all_sessions(&user.user_id).unwrap();
    assert_eq!(engine.image().version - before.version, 4); // user, generation, audit entry, head
}

/// A principal ends with the secret that it authenticated by, at once or at the secret's expiry.
#[test]
fn principals_end_with_the_secret_that_they_came_by() {
    let (_, clock, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    auth.set_role("all", &[Grant::new([Action::Read], KeyRange::prefix("")).unwrap()]).unwrap();
    auth.set_user_roles(&user.user_id, &["all".to_owned()]).unwrap();
    let may = |principal: &Principal| auth.authorize(principal, Action::Read, b"key").unwrap();
    let by = |token: &str| auth.authenticate(token).unwrap();
    let (record, first) = auth.create_api_key(&user.user_id, None).unwrap();
    let by_first = by(&first).unwrap();
    assert!(may(&by_first));

    let (_, second) = auth.rotate_api_key(&record.key_id, 1000).unwrap();
    let (late, by_second) = (by(&first).unwrap(), by(&second).unwrap());
    assert!(may(&by_first) && may(&late) && may(&by_second));
    clock.shift_ms(999);
    assert!(may(&by_first) && may(&late));
    clock.shift_ms(1);
    assert!(!may(&by_first) && !may(&late), "the overlap is over");
    assert!(may(&by_second));

    let (_, third) = auth.rotate_api_key(&record.key_id, 0).unwrap();
    assert!(!may(&by_second), "its secret is gone");
    assert!(may(&by(&third).unwrap()) && by(&second).is_none());
}

#[test]
fn api_keys_work_expire_rotate_and_die() {
    let (engine, clock, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    let (record, token) = auth.create_api_key_with_metadata(&user.user_id, Some("ci"), Some(b"meta")).unwrap();
    assert!(token.starts_with(record.key_id.as_str()));
    assert_eq!(auth.decrypt_api_key_metadata(&record).unwrap().unwrap(), b"meta");
    assert_eq!(auth.authenticate_api_key(&token).unwrap().unwrap().label.as_deref(), Some("ci"));
    assert!(auth.authenticate_api_key("htk_nonsense").unwrap().is_none());

    let writes = engine.writes();
    for _ in 0..100 {
        assert!(auth.authenticate_api_key(&token).unwrap().is_some());
    }
    assert_eq!(engine.writes(), writes, "no write in the steady state");
    clock.shift_ms(60_000);
    for _ in 0..100 {
        auth.authenticate_api_key(&token).unwrap();
    }
    assert_eq!(engine.writes(), writes + 1, "one write a minute");

    let (_, newer) = auth.rotate_api_key(&record.key_id, 1000).unwrap();
    assert!(auth.authenticate_api_key(&token).unwrap().is_some());
    assert!(auth.authenticate_api_key(&newer).unwrap().is_some());
    clock.shift_ms(1000);
    assert!(auth.authenticate_api_key(&token).unwrap().is_none(), "the overlap is over");
    assert!(auth.authenticate_api_key(&newer).unwrap().is_some());
    let (_, newest) = auth.rotate_api_key(&record.key_id, 0).unwrap();
    assert!(auth.authenticate_api_key(&newer).unwrap().is_none());

    auth.disable_user(&user.user_id).unwrap();
    assert!(auth.authenticate_api_key(&newest).unwrap().is_none(), "owner disabled");
    auth.enable_user(&user.user_id).unwrap();
    assert!(auth.authenticate_api_key(&newest).unwrap().is_some());
    assert!(auth.revoke_api_key(&record.key_id).unwrap());
    assert!(auth.authenticate_api_key(&newest).unwrap().is_none(), "revoked");
    assert!(!auth.revoke_api_key(&record.key_id).unwrap());

    let expires = ApiKeyOptions { expires_at_ms: Some(1_800_000_100_000), ..ApiKeyOptions::default() };
    let (_, token) = auth.create_api_key_with(&user.user_id, &expires).unwrap();
    assert!(auth.authenticate_api_key(&token).unwrap().is_some());
    clock.shift_ms(100_000);
    assert!(auth.authenticate_api_key(&token).unwrap().is_none(), "expired");
    assert_eq!(auth.purge_expired().unwrap().api_keys, 1);

    let (_, token) = auth.create_api_key(&user.user_id, None).unwrap();
    auth.delete_user(&user.user_id).unwrap();
    assert!(auth.authenticate_api_key(&token).unwrap().is_none(), "owner deleted");
}

#[test]
fn a_verified_key_is_not_believed_past_a_change() {
    let (engine, _, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    let (record, token) = auth.create_api_key(&user.user_id, None).unwrap();
    (0..3).for_each(|_| assert!(auth.authenticate_api_key(&token).unwrap().is_some()));
    let cold = auth.stats().api_keys_verified_cold;
    assert!(auth.authenticate_api_key(&token).unwrap().is_some());
    assert_eq!(auth.stats().api_keys_verified_cold, cold, "the cache is used");
    // Another service on the same engine revokes the key: the first one's cache must not accept it.
    let other = service_on(Arc::clone(&engine), &support::clock());
    assert!(other.revoke_api_key(&record.key_id).unwrap());
    assert!(auth.authenticate_api_key(&token).unwrap().is_none());
}

#[test]
fn a_cache_of_any_size_gives_the_same_answers_and_holds_what_fits() {
    for (entries, most_cold) in [(0, u64::MAX), (1, u64::MAX), (4096, 40)] {
        let (engine, clock) = (MemEngine::new(), support::clock());
        let options = AuthOptions { verified_cache_entries: entries, ..options(&clock) };
        let encryptor = Arc::new(hightower_auth::AesGcmEncryptor::new([7; 32]));
        let auth = AuthService::with_options(engine, cheap_hasher(), encryptor, options).unwrap();
        let user = auth.create_user("alice", PASSWORD).unwrap();
        let tokens: Vec<Token> = (0..40).map(|_| auth.create_api_key(&user.user_id, None).unwrap().1).collect();
        // The first round writes the last use, which changes the record; the second fills the
        // cache.
        let round = || tokens.iter().for_each(|token| assert!(auth.authenticate_api_key(token).unwrap().is_some()));
        (0..2).for_each(|_| round());
        let filled = auth.stats().api_keys_verified_cold;
        (0..5).for_each(|_| round());
        assert!(auth.stats().api_keys_verified_cold - filled <= most_cold / 40, "{entries} entries");
    }
}

#[test]
fn guessing_is_delayed_but_locks_nobody_out() {
    let (engine, clock, auth) = service();
    auth.create_user("alice", PASSWORD).unwrap();
    let (home, away) = (auth.from_source("home").unwrap(), auth.from_source("away").unwrap());
    assert!(home.verify_password("alice", PASSWORD).unwrap());
    for _ in 0..5 {
        assert_eq!(away.check_password("alice", OTHER).unwrap(), PasswordCheck::Refused);
    }
    assert_eq!(away.check_password("alice", PASSWORD).unwrap(), PasswordCheck::Delayed { retry_after_ms: 1000 });
    assert!(!away.change_password("alice", PASSWORD, OTHER).unwrap(), "counted for changes too");
    assert!(home.verify_password("alice", PASSWORD).unwrap(), "another source is not held up");
    clock.shift_ms(1000);
    assert!(away.verify_password("alice", PASSWORD).unwrap(), "a delay runs out");

    for n in 0..200 {
        let stranger = auth.from_source(&format!("stranger {n}")).unwrap();
        let answer = stranger.check_password("alice", OTHER).unwrap();
        assert!(answer == PasswordCheck::Refused || n >= 15, "{n} {answer:?}");
    }
    let stranger = auth.from_source("one more").unwrap();
    assert!(matches!(stranger.check_password("alice", PASSWORD).unwrap(), PasswordCheck::Delayed { .. }));
    assert!(home.verify_password("alice", PASSWORD).unwrap(), "a known source is not held up by strangers");
    clock.shift_ms(60_000);
    assert!(stranger.verify_password("alice", PASSWORD).unwrap(), "not even the account's delay lasts");

    // Unknown names are delayed in the same way.
    for _ in 0..5 {
        assert_eq!(away.check_password("nobody", OTHER).unwrap(), PasswordCheck::Refused);
    }
    assert!(matches!(away.check_password("nobody", OTHER).unwrap(), PasswordCheck::Delayed { .. }));

    // After a restart the persisted counters still hold.
    let fresh = auth.from_source("persistent").unwrap();
    for _ in 0..8 {
        clock.shift_ms(61_000);
        assert_eq!(fresh.check_password("alice", OTHER).unwrap(), PasswordCheck::Refused);
    }
    let restarted = service_on(Arc::clone(&engine), &clock).from_source("persistent").unwrap();
    assert!(matches!(restarted.check_password("alice", PASSWORD).unwrap(), PasswordCheck::Delayed { .. }));
}

#[test]
fn failed_logins_write_little() {
    let (engine, _, _) = service();
    let clock = support::clock();
    let options = AuthOptions { guess_policy: no_delays(), ..options(&clock) };
    let encryptor = Arc::new(hightower_auth::AesGcmEncryptor::new([7; 32]));
    let auth = AuthService::with_options(Arc::clone(&engine), cheap_hasher(), encryptor, options).unwrap();
    auth.create_user("alice", PASSWORD).unwrap();
    let before = engine.writes();
    for n in 0..600 {
        let source = auth.from_source(&format!("{}", n % 3)).unwrap();
        assert!(!source.verify_password(if n % 2 == 0 { "alice" } else { "nobody" }, OTHER).unwrap());
    }
    let writes = engine.writes() - before;
    assert!(writes <= 128, "{writes} writes for 600 failures");
}

fn view(
    auth: &Service,
    engine_user: &str,
    grants: &[Grant],
) -> AuthorizedEngine<Arc<MemEngine>, hightower_auth::Argon2SecretHasher, Arc<hightower_auth::AesGcmEncryptor>> {
    let user = auth.create_user(engine_user, PASSWORD).unwrap();
    auth.set_role(engine_user, grants).unwrap();
    auth.set_user_roles(&user.user_id, &[engine_user.to_owned()]).unwrap();
    let (_, token) = auth.create_api_key(&user.user_id, None).unwrap();
    AuthorizedEngine::new(auth, auth.authenticate(&token).unwrap().unwrap())
}

fn denied<T: std::fmt::Debug>(outcome: hightower_engine::Result<T>) {
    assert_eq!(outcome.unwrap_err().code(), "denied");
}

#[test]
fn the_authorized_engine_checks_every_operation() {
    let (engine, _, auth) = service();
    let jobs = view(&auth, "jobs", &[Grant::new([Action::Read, Action::Write], KeyRange::prefix("jobs/")).unwrap()]);
    jobs.put(b"jobs/1", b"x").unwrap();
    assert_eq!(jobs.get(b"jobs/1").unwrap().unwrap(), b"x");
    assert_eq!(jobs.get_prefix(b"jobs/").unwrap().len(), 1);
    denied(jobs.get_prefix(b"jobs"));
    denied(jobs.put(b"job", b""));
    denied(jobs.delete(b"other"));
    denied(jobs.get_versioned(b"other"));
    use std::ops::Bound::{Excluded, Included, Unbounded};
    assert_eq!(jobs.scan(Included(b"jobs/"), Excluded(b"jobs0"), 9).unwrap().len(), 1);
    denied(jobs.scan(Included(b"jobs/"), Included(b"jobs0"), 9));
    denied(jobs.scan(Included(b"jobs/"), Unbounded, 9));
    denied(jobs.submit(Command::Set { key: b"jobs/1".to_vec(), value: vec![], version: u64::MAX, timestamp: 0 }));
    denied(jobs.commit(Batch::new().put("jobs/2", "").put("other", "")));
    denied(jobs.commit(Batch::new().put("jobs/2", "").require("other", Expect::Absent)));
    denied(jobs.commit(Batch::new().put("jobs/2", "").require_range("jobs/".."k", 0)));
    denied(jobs.commit(Batch::new().put("jobs/2", "").require("other", Expect::UnchangedSince(0))));
    let dir = tempfile::tempdir().unwrap();
    let store = SingleNodeEngine::open(dir.path()).unwrap();
    let other = store.create_keyspace("other", KeyspaceOptions::default()).unwrap();
    denied(jobs.commit(Batch::new().put_in(&other, "jobs/2", "")));
    denied(jobs.commit(Batch::new().put("jobs/2", "").require_in(&other, "jobs/1", Expect::Absent)));
    assert!(jobs.commit(Batch::new().put("jobs/9", "").require_prefix("jobs/", 1 << 40)).unwrap().is_committed());
    jobs.delete(b"jobs/9").unwrap();
    assert!(jobs.get(b"jobs/2").unwrap().is_none(), "a batch is allowed whole or not at all");
    assert!(jobs.commit(Batch::new().put("jobs/2", "").require("jobs/1", Expect::Present)).unwrap().is_committed());
    assert!(!jobs.commit(Batch::new().put("jobs/3", "").require("jobs/9", Expect::Present)).unwrap().is_committed());

    let root = view(&auth, "root-like", &[Grant::new(Action::ALL, KeyRange::all()).unwrap()]);
    engine.put(b"\0", b"").unwrap();
    let all = root.scan(Unbounded, Unbounded, 100).unwrap();
    assert_eq!(all.iter().map(|(key, _)| key.as_slice()).collect::<Vec<_>>(), [&b"\0"[..], b"jobs/1", b"jobs/2"]);
    assert_eq!(root.scan(Unbounded, Unbounded, 2).unwrap().len(), 2);
    assert_eq!(root.get_prefix(b"").unwrap().len(), 3);
    intact(&auth);
}

#[test]
fn revoked_rights_end_at_once() {
    let (_, clock, auth) = service();
    let grant = [Grant::new([Action::Write], KeyRange::all()).unwrap()];
    let view = view(&auth, "writer", &grant);
    view.put(b"k", b"1").unwrap();
    auth.set_role("writer", &[]).unwrap();
    denied(view.put(b"k", b"2"));
    auth.set_role("writer", &grant).unwrap();
    view.put(b"k", b"3").unwrap();
    auth.disable_user(view.principal().user_id()).unwrap();
    denied(view.put(b"k", b"4"));
    auth.enable_user(view.principal().user_id()).unwrap();
    view.put(b"k", b"5").unwrap();

    let token = login(&auth, "writer", PASSWORD);
    let session = AuthorizedEngine::new(&auth, auth.authenticate(&token).unwrap().unwrap());
    session.put(b"k", b"6").unwrap();
    clock.shift_ms(13 * 3_600_000);
    denied(session.put(b"k", b"7"));
    auth.delete_user(view.principal().user_id()).unwrap();
    denied(view.put(b"k", b"8"));
    assert_eq!(auth.engine().get(b"k").unwrap().unwrap(), b"6");
}

#[test]
fn master_keys_rotate_while_everything_goes_on() {
    let (engine, clock, auth) = service();
    let user = auth.create_user_with_metadata("alice", PASSWORD, Some(b"data")).unwrap();
    let (key, token) = auth.create_api_key_with_metadata(&user.user_id, None, Some(b"key data")).unwrap();
    auth.encryptor().add_key(2, [9; 32]).unwrap();
    let rotation = auth.rotate_master_key().unwrap();
    assert_eq!(rotation.rewrapped, 3);
    assert_eq!(auth.rotate_master_key().unwrap().rewrapped, 0);
    auth.encryptor().remove_key(1).unwrap();
    let (user, key) = (auth.get_user(&user.user_id).unwrap().unwrap(), auth.get_api_key(&key.key_id).unwrap().unwrap());
    assert_eq!(auth.decrypt_user_metadata(&user).unwrap().unwrap(), b"data");
    assert_eq!(auth.decrypt_api_key_metadata(&key).unwrap().unwrap(), b"key data");
    assert!(auth.authenticate_api_key(&token).unwrap().is_some());
    assert!(auth.verify_password("alice", PASSWORD).unwrap());
    // A service with the old key alone is refused from now on.
    let old = service_on(engine, &clock);
    assert_eq!(old.prepare().unwrap_err().code(), "crypto");
}

#[test]
fn a_key_ring_that_missed_a_rotation_encrypts_nothing() {
    let (engine, clock, auth) = service();
    let behind = service_on(engine, &clock);
    let user = behind.create_user_with_metadata("alice", PASSWORD, Some(b"data")).unwrap();
    auth.encryptor().add_key(2, [9; 32]).unwrap();
    // A newer key may be used before the rotation.
    auth.set_user_metadata(&user.user_id, Some(b"newer")).unwrap();
    auth.rotate_master_key().unwrap();
    let refused = behind.set_user_metadata(&user.user_id, Some(b"under the old key")).unwrap_err();
    assert!(refused.to_string().contains("load it again"), "{refused}");
    assert_eq!(behind.create_api_key_with_metadata(&user.user_id, None, Some(b"x")).unwrap_err().code(), "crypto");
    behind.create_api_key(&user.user_id, None).unwrap();
    assert_eq!(auth.master_key_usage().unwrap().into_iter().collect::<Vec<_>>(), [(2, 2)]);
    behind.encryptor().add_key(2, [9; 32]).unwrap();
    behind.set_user_metadata(&user.user_id, Some(b"data")).unwrap();
}

#[test]
fn swapped_metadata_is_refused() {
    let (engine, _, auth) = service();
    let alice = auth.create_user_with_metadata("alice", PASSWORD, Some(b"hers")).unwrap();
    let bob = auth.create_user_with_metadata("robert", PASSWORD, Some(b"his")).unwrap();
    let at = |user: &UserRecord| [b"m/u", user.user_id.as_bytes().as_slice()].concat();
    let hers = engine.image().entries[&at(&alice)].0.clone();
    // A moved record is refused. So is a moved encrypted field, which is bound to its record.
    let blob = EncryptedBlob::from_bytes(&hers[1..hers.len() - 32]).unwrap();
    assert_eq!(auth.encryptor().decrypt(&blob).unwrap_err().code(), "crypto");
    engine.tamper(&at(&bob), Some(hers));
    assert_eq!(auth.decrypt_user_metadata(&bob).unwrap_err().code(), "crypto");
    assert_eq!(auth.decrypt_user_metadata(&alice).unwrap().unwrap(), b"hers");
}

#[test]
fn no_secret_is_stored_or_shown() {
    let (engine, _, auth) = service();
    let user = auth.create_user_with_metadata("alice", PASSWORD, Some(b"very private")).unwrap();
    let (record, key) = auth.create_api_key(&user.user_id, None).unwrap();
    let token = login(&auth, "alice", PASSWORD);
    let mut shown = format!("{auth:?} {user:?} {record:?} {key:?} {token:?} {:?}", auth.audit_entries(0, 100).unwrap());
    for (key, (value, _)) in &engine.image().entries {
        shown.push_str(&String::from_utf8_lossy(key));
        shown.push_str(&String::from_utf8_lossy(value));
    }
    for secret in [PASSWORD, "very private", &key[37..101], &token[4..68]] {
        assert!(!shown.contains(secret), "{secret}");
    }
}
