//! Every multi-record change is one commit: at every commit boundary (every point where a crash can
//! leave the store), and under thousands of thread schedules, the records fit together.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hightower_auth::{AuthService, Error, FactorCheck, Login};
use parking_lot::{Condvar, Mutex};
use support::{
    Image, KEY_INDEX, KEYS, MemEngine, NAMES, OTHER, PASSWORD, SESSION_INDEX, SESSIONS, Service, USERS, check,
    check_by, encryptor, options, service_on, stronger_hasher, totp_code, with_totp,
};

mod support;

fn tolerate<T>(outcome: Result<T, Error>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(Error::Conflict(_) | Error::NotFound(_) | Error::Denied(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// A small random generator with a seed: xorshift64*.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }
}

fn random_change(auth: &Service, dice: &mut Dice) {
    let name = format!("user{}", dice.roll(3));
    let user = auth.find_user(&name).unwrap();
    let Some(user) = user else {
        tolerate(auth.create_user(&name, PASSWORD));
        return;
    };
    let id = &user.user_id;
    match dice.roll(17) {
        0 => drop(tolerate(auth.delete_user(id))),
        1 => drop(tolerate(auth.rename_user(id, &format!("user{}", dice.roll(3))))),
        2 | 3 => drop(tolerate(auth.create_api_key(id, None))),
        4 | 5 => drop(tolerate(auth.login(&name, PASSWORD))),
        6 => drop(tolerate(auth.change_password(&name, PASSWORD, OTHER))),
        7 => drop(tolerate(auth.reset_password(id, PASSWORD))),
        8 => drop(tolerate(auth.disable_user(id))),
        9 => drop(tolerate(auth.enable_user(id))),
        10 => {
            if let Some(key) = tolerate(auth.list_api_keys(id)).and_then(|keys| keys.first().cloned()) {
                tolerate(auth.revoke_api_key(&key.key_id));
            }
        }
        11 => drop(tolerate(auth.issue_password_reset(id))),
        12 => drop(tolerate(auth.enrol_totp(id))),
        13 => drop(tolerate(auth.disable_second_factor(id))),
        14 => drop(tolerate(auth.revoke_tokens(id))),
        15 => drop(tolerate(auth.issue_verification(id, "address"))),
        _ => drop(tolerate(auth.revoke_all_sessions(id))),
    }
}

#[test]
fn every_commit_boundary_is_consistent() {
    for seed in 1..=2 {
        let engine = MemEngine::new();
        *engine.history.lock() = Some(Vec::new());
        let auth = service_on(Arc::clone(&engine), &support::clock());
        let mut dice = Dice(seed);
        (0..60).for_each(|_| random_change(&auth, &mut dice));
        let history = engine.history.lock().take().unwrap();
        assert!(history.len() > 40);
        history.iter().for_each(check);
    }
}

#[test]
fn the_checker_sees_planted_faults() {
    let engine = MemEngine::new();
    let auth = service_on(Arc::clone(&engine), &support::clock());
    let user = auth.create_user("alice", PASSWORD).unwrap();
    auth.create_api_key(&user.user_id, None).unwrap();
    assert!(matches!(auth.login("alice", PASSWORD).unwrap(), Login::Accepted { .. }));
    check(&engine.image());
    for prefix in [USERS, NAMES, KEYS, KEY_INDEX, SESSIONS, SESSION_INDEX, b"a/"] {
        let mut image = engine.image();
        let victim = image.entries.keys().rfind(|key| key.starts_with(prefix)).unwrap().clone();
        image.entries.remove(&victim);
        let outcome = std::panic::catch_unwind(|| check(&image));
        assert!(outcome.is_err(), "{} removed unnoticed", victim.escape_ascii());
    }
}

/// Runs one engine step of one thread at a time, chosen by a seed.
struct Scheduler {
    state: Mutex<Turns>,
    moved: Condvar,
}

struct Turns {
    dice: Dice,
    alive: Vec<bool>,
    /// Threads that wait at a step. The next step runs when all live threads wait.
    waiting: Vec<bool>,
    turn: Option<usize>,
}

thread_local! {
    static THREAD: std::cell::Cell<Option<usize>> = const { std::cell::Cell::new(None) };
}

impl Scheduler {
    fn new(threads: usize, seed: u64) -> Arc<Self> {
        let turns = Turns { dice: Dice(seed), alive: vec![true; threads], waiting: vec![false; threads], turn: None };
        Arc::new(Self { state: Mutex::new(turns), moved: Condvar::new() })
    }

    fn deal(turns: &mut Turns) {
        let ready = turns.alive.iter().zip(&turns.waiting).all(|(alive, waiting)| !alive || *waiting);
        let living: Vec<usize> = (0..turns.alive.len()).filter(|&thread| turns.alive[thread]).collect();
        if ready && turns.turn.is_none() && !living.is_empty() {
            let chosen = turns.dice.roll(living.len() as u64);
            turns.turn = Some(living[usize::try_from(chosen).unwrap()]);
        }
    }

    fn step(&self) {
        let Some(thread) = THREAD.get() else { return };
        let mut turns = self.state.lock();
        turns.waiting[thread] = true;
        Self::deal(&mut turns);
        self.moved.notify_all();
        while turns.turn != Some(thread) {
            self.moved.wait(&mut turns);
        }
        turns.turn = None;
        turns.waiting[thread] = false;
    }

    fn finish(&self, thread: usize) {
        let mut turns = self.state.lock();
        turns.alive[thread] = false;
        Self::deal(&mut turns);
        self.moved.notify_all();
    }
}

/// Runs the jobs under one schedule, on a store that `prepare` has filled.
fn explore(seed: u64, prepare: impl Fn(&Service), jobs: &[&(dyn Fn(&Service) + Sync)]) -> (Service, Image) {
    let scheduler = Scheduler::new(jobs.len(), seed);
    let hook = Arc::clone(&scheduler);
    let engine = MemEngine::with_hook(Box::new(move || hook.step()));
    let auth = service_on(Arc::clone(&engine), &support::clock());
    auth.prepare().unwrap();
    prepare(&auth);
    std::thread::scope(|scope| {
        for (thread, job) in jobs.iter().enumerate() {
            let (auth, scheduler) = (auth.clone(), &scheduler);
            scope.spawn(move || {
                THREAD.set(Some(thread));
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(&auth)));
                THREAD.set(None);
                scheduler.finish(thread);
                outcome.unwrap();
            });
        }
    });
    let image = engine.image();
    (auth, image)
}

fn schedules() -> u64 {
    std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|text| text.parse().ok()).map_or(30, |cases: u64| cases / 20)
}

#[test]
fn one_name_is_given_once() {
    for seed in 1..=schedules() {
        let made = AtomicU64::new(0);
        let create = |auth: &Service| {
            made.fetch_add(u64::from(tolerate(auth.create_user("Same", PASSWORD)).is_some()), Ordering::SeqCst);
        };
        let (_, image) = explore(seed, |_| {}, &[&create, &create, &create]);
        assert_eq!(made.load(Ordering::SeqCst), 1, "schedule {seed}");
        check(&image);
    }
}

#[test]
fn a_changed_password_is_never_reverted() {
    for seed in 1..=schedules() {
        let prepare = |auth: &Service| drop(auth.create_user("alice", PASSWORD).unwrap());
        let change = |auth: &Service| assert!(auth.change_password("alice", PASSWORD, OTHER).unwrap());
        let check_old =
            |auth: &Service| assert!(matches!(auth.verify_password("alice", PASSWORD).unwrap(), true | false));
        let login_old = |auth: &Service| drop(auth.login("alice", PASSWORD).unwrap());
        // Replaces the hash of the checked password, as logins do after the parameters were raised.
        let rehash = |auth: &Service| {
            let options = options(&support::clock());
            let engine = Arc::clone(auth.engine());
            let auth = AuthService::with_options(engine, stronger_hasher(), encryptor(), options).unwrap();
            assert!(matches!(auth.verify_password("alice", PASSWORD).unwrap(), true | false));
        };
        let (auth, image) = explore(seed, prepare, &[&change, &check_old, &login_old, &rehash]);
        let user = auth.find_user("alice").unwrap().unwrap();
        assert!(
            auth.list_sessions(&user.user_id).unwrap().is_empty(),
            "schedule {seed}: a session by the old password"
        );
        assert!(!auth.verify_password("alice", PASSWORD).unwrap(), "schedule {seed}");
        assert!(auth.verify_password("alice", OTHER).unwrap());
        check(&image);
    }
}

#[test]
fn a_revoked_key_is_never_revived() {
    for seed in 1..=schedules() {
        let token = Mutex::new(None);
        let prepare = |auth: &Service| {
            let user = auth.create_user("alice", PASSWORD).unwrap();
            let made = auth.create_api_key(&user.user_id, None).unwrap();
            *token.lock() = Some(made);
        };
        let use_it = |auth: &Service| {
            let (_, token) = token.lock().clone().unwrap();
            let before = auth.authenticate_api_key(&token).unwrap().is_some();
            let after = auth.authenticate_api_key(&token).unwrap().is_some();
            assert!(before || !after, "revived");
        };
        let revoke = |auth: &Service| {
            let (record, token) = token.lock().clone().unwrap();
            assert!(auth.revoke_api_key(&record.key_id).unwrap());
            assert!(auth.authenticate_api_key(&token).unwrap().is_none());
        };
        let rotate = |auth: &Service| {
            let (record, _) = token.lock().clone().unwrap();
            drop(tolerate(auth.rotate_api_key(&record.key_id, 5)));
        };
        let (auth, image) = explore(seed, prepare, &[&use_it, &revoke, &rotate, &use_it]);
        let (record, _) = token.lock().clone().unwrap();
        assert!(auth.get_api_key(&record.key_id).unwrap().is_none(), "schedule {seed}");
        check(&image);
    }
}

#[test]
fn a_deleted_user_leaves_nothing() {
    for seed in 1..=schedules() {
        let prepare = |auth: &Service| drop(auth.create_user("alice", PASSWORD).unwrap());
        let user = |auth: &Service| auth.find_user("alice").unwrap();
        let delete = |auth: &Service| assert!(user(auth).is_none_or(|user| auth.delete_user(&user.user_id).unwrap()));
        let key = |auth: &Service| drop(user(auth).map(|user| tolerate(auth.create_api_key(&user.user_id, None))));
        let login = |auth: &Service| {
            if let Login::Accepted { token, .. } = auth.login("alice", PASSWORD).unwrap() {
                tolerate(auth.authenticate_session(&token));
            }
        };
        let rename = |auth: &Service| drop(user(auth).map(|user| tolerate(auth.rename_user(&user.user_id, "bob"))));
        let token = |auth: &Service| drop(user(auth).map(|user| tolerate(auth.issue_password_reset(&user.user_id))));
        let enrol = |auth: &Service| drop(user(auth).map(|user| tolerate(auth.enrol_totp(&user.user_id))));
        let (_, image) = explore(seed, prepare, &[&delete, &key, &login, &rename]);
        check(&image);
        let (_, image) = explore(seed, prepare, &[&delete, &token, &enrol]);
        check(&image);
    }
}

type Job<'a> = &'a (dyn Fn(&Service) + Sync);

/// Of concurrent uses of one code or one token, exactly one succeeds.
#[test]
fn a_code_and_a_token_are_used_by_one() {
    for seed in 1..=schedules() {
        let accepted = AtomicU64::new(0);
        let count = |is_accepted: bool| {
            accepted.fetch_add(is_accepted.into(), Ordering::SeqCst);
        };
        let known: Mutex<Option<(String, String, String, String)>> = Mutex::new(None);
        let prepare = |auth: &Service| {
            let id = auth.create_user("alice", PASSWORD).unwrap().user_id.to_string();
            let clock = support::clock();
            let mut enrolment = with_totp(auth, &clock, &id);
            // The device's clock is one step ahead, which the window allows.
            let code = totp_code(&enrolment.secret, &clock);
            let recovery = enrolment.recovery_codes.remove(0).to_string();
            let (_, verification) = auth.issue_verification(&id, "address").unwrap();
            *known.lock() = Some((id, code, recovery, verification.to_string()));
        };
        let known = || known.lock().clone().unwrap();
        let totp = |auth: &Service| {
            count(matches!(auth.verify_second_factor(&known().0, &known().1).unwrap(), FactorCheck::Accepted(_)));
        };
        let login = |auth: &Service| {
            let Login::FactorRequired { token, .. } = auth.login("alice", PASSWORD).unwrap() else { panic!() };
            count(matches!(auth.complete_login(&token, &known().1).unwrap(), Login::Accepted { .. }));
        };
        let recovery = |auth: &Service| {
            count(matches!(auth.verify_second_factor(&known().0, &known().2).unwrap(), FactorCheck::Accepted(_)));
        };
        let token = |auth: &Service| count(auth.verify_with(&known().3, "address").unwrap().is_some());
        let jobs: [[Job<'_>; 3]; 3] =
            [[&totp, &login, &login], [&recovery, &recovery, &totp], [&token, &token, &token]];
        for (jobs, expected) in jobs.iter().zip([1, 2, 1]) {
            accepted.store(0, Ordering::SeqCst);
            let (_, image) = explore(seed, prepare, jobs);
            assert_eq!(accepted.load(Ordering::SeqCst), expected, "schedule {seed}");
            check(&image);
        }
    }
}

/// Of two password resets by one token, one succeeds. A concurrent login by the old password does
/// not leave a session.
#[test]
fn a_reset_token_sets_one_password() {
    for seed in 1..=schedules() {
        let token = Mutex::new(String::new());
        let prepare = |auth: &Service| {
            let user = auth.create_user("alice", PASSWORD).unwrap();
            *token.lock() = auth.issue_password_reset(&user.user_id).unwrap().1.to_string();
        };
        let set = Mutex::new(Vec::new());
        let reset = |auth: &Service, password: &'static str| {
            let presented = token.lock().clone();
            if auth.reset_password_with(&presented, password).unwrap().is_some() {
                set.lock().push(password);
            }
        };
        let (one, other) = (|auth: &Service| reset(auth, OTHER), |auth: &Service| reset(auth, "a third long password"));
        let login = |auth: &Service| drop(auth.login("alice", PASSWORD).unwrap());
        let (auth, image) = explore(seed, prepare, &[&one, &other, &login]);
        let set = set.lock().clone();
        assert_eq!(set.len(), 1, "schedule {seed}");
        assert!(auth.verify_password("alice", set[0]).unwrap());
        let user = auth.find_user("alice").unwrap().unwrap();
        assert!(auth.list_sessions(&user.user_id).unwrap().is_empty(), "schedule {seed}");
        check(&image);
    }
}

/// The id of the last added master key.
const NEWEST: u32 = 2;

/// Adds a master key and rotates to it before the engine operation number `at` of `job`; `None` if
/// the job has fewer operations.
fn rotated_before(at: u64, job: impl Fn(&Service)) -> Option<Service> {
    let (countdown, whole): (Arc<Mutex<Option<u64>>>, Arc<OnceLock<Service>>) = Default::default();
    let (left, service) = (Arc::clone(&countdown), Arc::clone(&whole));
    let engine = MemEngine::with_hook(Box::new(move || {
        let before = left.lock().take();
        *left.lock() = before.and_then(|steps| steps.checked_sub(1));
        if let (Some(0), Some(auth)) = (before, service.get()) {
            auth.encryptor().add_key(NEWEST, [9; 32]).unwrap();
            auth.rotate_master_key().unwrap();
        }
    }));
    let auth = service_on(engine, &support::clock());
    auth.create_user("alice", PASSWORD).unwrap();
    whole.get_or_init(|| auth.clone());
    *countdown.lock() = Some(at);
    job(&auth);
    let is_rotated = countdown.lock().is_none();
    is_rotated.then_some(auth)
}

#[test]
fn nothing_stays_under_a_master_key_that_was_rotated_out() {
    let alice = |auth: &Service| auth.find_user("alice").unwrap().unwrap().user_id;
    let create = |auth: &Service| drop(auth.create_user_with_metadata("bob", PASSWORD, Some(b"his")).unwrap());
    let edit = |auth: &Service| drop(auth.set_user_metadata(&alice(auth), Some(b"hers")).unwrap());
    let key = |auth: &Service| drop(auth.create_api_key_with_metadata(&alice(auth), None, Some(b"its")).unwrap());
    let enrol = |auth: &Service| drop(auth.enrol_totp(&alice(auth)).unwrap());
    for (name, job) in [("create", &create as &dyn Fn(&Service)), ("edit", &edit), ("key", &key), ("enrol", &enrol)] {
        let mut moments = 0;
        while let Some(auth) = rotated_before(moments, job) {
            let usage: Vec<_> = auth.master_key_usage().unwrap().into_iter().collect();
            assert_eq!(usage, [(NEWEST, 2)], "{name}, rotated before its operation {moments}");
            auth.encryptor().remove_key(1).unwrap();
            check_by(&auth, &auth.engine().image());
            moments += 1;
        }
        assert!(moments >= 4, "{name} has {moments} operations");
    }
}
