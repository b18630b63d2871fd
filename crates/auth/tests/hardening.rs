//! The service's promises against hostile users, clock changes, a full trail and operators' errors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Barrier};

use hightower_auth::{
    Action, AesGcmEncryptor, ApiKeyAccess, ApiKeyOptions, Argon2SecretHasher, AuditAction, AuditOutcome, AuthOptions,
    AuthService, AuthorizedEngine, Error as AuthError, Grant, GuessPolicy, KeyRange, Login, LookAlikes, PasswordCheck,
    Pepper, SecretHash, SecretHasher, Token,
};
use hightower_engine::KvEngine;
use parking_lot::Mutex;
use support::{MemEngine, OTHER, PASSWORD, Service, cheap_hasher, encryptor, options, service, service_on};

mod support;

const MINUTE_MS: i64 = 60_000;
const YEAR_MS: i64 = 365 * 24 * 60 * MINUTE_MS;

fn login(auth: &Service, username: &str, password: &str) -> Token {
    match auth.login(username, password).unwrap() {
        Login::Accepted { token, .. } => token,
        other => panic!("{other:?}"),
    }
}

/// A user with all rights on all keys.
fn mighty(auth: &Service, name: &str) -> String {
    let user = auth.create_user(name, PASSWORD).unwrap();
    auth.set_role("all", &[Grant::new(Action::ALL, KeyRange::all()).unwrap()]).unwrap();
    auth.set_user_roles(&user.user_id, &["all".into()]).unwrap();
    user.user_id.to_string()
}

fn view(auth: &Service, token: &str) -> AuthorizedEngine<Arc<MemEngine>, Argon2SecretHasher, Arc<AesGcmEncryptor>> {
    AuthorizedEngine::new(auth, auth.authenticate(token).unwrap().unwrap())
}

fn refusals(auth: &Service, action: AuditAction) -> usize {
    let entries = auth.audit_entries(0, 1000).unwrap();
    entries.iter().filter(|entry| entry.action == action && entry.outcome == AuditOutcome::Refused).count()
}

/// A new service per request, as with the command-line tool, continues the counters of the previous
/// one.
#[test]
fn a_service_for_each_guess_is_delayed_as_one_for_all() {
    let (engine, clock, auth) = service();
    auth.create_user("alice", PASSWORD).unwrap();
    for source in [None, Some("192.0.2.7")] {
        let checked = (0..100).filter(|_| {
            let fresh = service_on(Arc::clone(&engine), &clock);
            let fresh = source.map_or(fresh.clone(), |source| fresh.from_source(source).unwrap());
            fresh.check_password("alice", OTHER).unwrap() == PasswordCheck::Refused
        });
        assert_eq!(checked.count(), 5, "{source:?}");
        clock.shift_ms(24 * 60 * MINUTE_MS);
    }
}

#[test]
fn delays_end_in_time_whatever_the_clock_does_and_at_once_after_a_reset() {
    let (engine, clock, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    let fail = |auth: &Service| (0..9).for_each(|_| assert!(!auth.verify_password("alice", OTHER).unwrap()));
    let away = auth.from_source("away").unwrap();
    let delayed = |auth: &Service| match auth.check_password("alice", OTHER).unwrap() {
        PasswordCheck::Delayed { retry_after_ms } => retry_after_ms,
        _ => 0,
    };
    // Guesses while the clock was a year ahead, also after a restart.
    fail(&away);
    clock.shift_ms(-YEAR_MS);
    let restarted = service_on(Arc::clone(&engine), &clock).from_source("away").unwrap();
    for service in [&away, &restarted] {
        let wait_ms = delayed(service);
        assert!(wait_ms > 0 && wait_ms <= 15 * MINUTE_MS, "{wait_ms}");
    }
    clock.shift_ms(15 * MINUTE_MS);
    assert!(away.verify_password("alice", PASSWORD).unwrap() && restarted.verify_password("alice", PASSWORD).unwrap());

    // An operator's reset, and the verb that only clears delays.
    fail(&away);
    assert!(delayed(&away) > 0);
    auth.reset_password(&user.user_id, PASSWORD).unwrap();
    assert!(away.verify_password("alice", PASSWORD).unwrap());
    fail(&away);
    assert!(delayed(&away) > 0);
    auth.clear_delays(&user.user_id).unwrap();
    assert!(away.verify_password("alice", PASSWORD).unwrap());
    assert_eq!(auth.clear_delays("usr_x").unwrap_err().code(), "not_found");

    // A source that has tried many users.
    let spray = auth.from_source("spray").unwrap();
    (0..25).for_each(|n| assert!(!spray.verify_password(&format!("user{n}"), OTHER).unwrap()));
    assert!(delayed(&spray) > 0);
    auth.clear_source_delays("spray").unwrap();
    assert!(spray.verify_password("alice", PASSWORD).unwrap());
    assert!(service_on(engine, &clock).from_source("spray").unwrap().verify_password("alice", PASSWORD).unwrap());
}

/// Use through a view keeps its session alive. The view ends with the session.
#[test]
fn idle_expiry_holds_for_views_and_use_through_them_counts() {
    let (engine, clock, auth) = service();
    mighty(&auth, "alice");
    let token = login(&auth, "alice", PASSWORD);
    let (used, idle) = (view(&auth, &token), view(&auth, &login(&auth, "alice", PASSWORD)));
    let writes = engine.writes();
    used.get(b"k").unwrap();
    assert_eq!(engine.writes(), writes, "no write within the interval");
    for _ in 0..20 {
        clock.shift_ms(29 * MINUTE_MS);
        used.get(b"k").unwrap();
    }
    assert!(auth.authenticate_session(&token).unwrap().is_some(), "use through the view kept it alive");
    assert_eq!(idle.put(b"k", b"late").unwrap_err().code(), "denied", "idle for hours");
    clock.shift_ms(31 * MINUTE_MS);
    assert_eq!(used.put(b"k", b"late").unwrap_err().code(), "denied", "idle");
    assert!(auth.engine().get(b"k").unwrap().is_none());

    // A session kept alive elsewhere is alive for the view. A purged session stays purged, even if
    // the clock goes back.
    let token = login(&auth, "alice", PASSWORD);
    let view = view(&auth, &token);
    for _ in 0..3 {
        clock.shift_ms(20 * MINUTE_MS);
        assert!(auth.authenticate_session(&token).unwrap().is_some());
    }
    view.put(b"k", b"in time").unwrap();
    clock.shift_ms(31 * MINUTE_MS);
    assert!(auth.purge_expired().unwrap().sessions > 0);
    clock.shift_ms(-31 * MINUTE_MS);
    assert_eq!(view.put(b"k", b"late").unwrap_err().code(), "denied", "purged");
}

#[test]
fn a_clock_that_was_set_back_freezes_no_last_use() {
    let (_, clock, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    let (session, (_, key)) = (login(&auth, "alice", PASSWORD), auth.create_api_key(&user.user_id, None).unwrap());
    auth.authenticate_api_key(&key).unwrap().unwrap();
    clock.shift_ms(-YEAR_MS);
    auth.authenticate_api_key(&key).unwrap().unwrap();
    auth.authenticate_session(&session).unwrap().unwrap();
    let now_ms = 1_800_000_000_000 - YEAR_MS;
    assert_eq!(auth.list_api_keys(&user.user_id).unwrap()[0].last_used_ms, Some(now_ms));
    assert_eq!(auth.list_sessions(&user.user_id).unwrap()[0].idle_expires_at_ms, now_ms + 30 * MINUTE_MS);
}

#[test]
fn every_kind_of_refusal_leaves_an_entry_and_noise_hides_no_other() {
    let (_, clock, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    assert_eq!(auth.audit_entries(0, 1).unwrap()[0].action, AuditAction::StoreInitialised);
    assert!(auth.change_password("alice", PASSWORD, "short").is_err());
    assert_eq!(refusals(&auth, AuditAction::PasswordChanged), 1);

    let (record, key) = auth.create_api_key(&user.user_id, None).unwrap();
    let session = login(&auth, "alice", PASSWORD);
    auth.revoke_api_key(&record.key_id).unwrap();
    auth.logout(&session).unwrap();
    for _ in 0..200 {
        assert!(auth.authenticate_api_key(&key).unwrap().is_none());
        assert!(auth.authenticate_session(&session).unwrap().is_none());
    }
    for action in [AuditAction::ApiKeyRefused, AuditAction::SessionRefused] {
        assert_eq!(refusals(&auth, action), 16, "{action:?}");
    }
    let before = auth.stats().refusals_suppressed;
    assert_eq!(before, 2 * (200 - 16));
    clock.shift_ms(10_000);
    assert!(auth.authenticate_api_key(&key).unwrap().is_none());
    let entries = auth.audit_entries(0, 1000).unwrap();
    assert_eq!((entries.last().unwrap().suppressed, entries.last().unwrap().target.as_str()), (184, &*record.key_id));

    // Noise about unknown users, and delays; then the entry that matters.
    let noise = auth.from_source("noise").unwrap();
    (0..1000).for_each(|_| assert!(!noise.verify_password("nobody", OTHER).unwrap()));
    assert!(refusals(&auth, AuditAction::LoginDelayed) > 0);
    let one = auth.from_source("one").unwrap();
    assert!(!one.verify_password("alice", OTHER).unwrap());
    let last = auth.audit_entries(0, 1000).unwrap().pop().unwrap();
    assert_eq!((last.action, last.target.as_str()), (AuditAction::PasswordVerified, &*user.user_id));
}

#[test]
fn without_the_pepper_known_users_are_refused_as_unknown_ones_are() {
    let (engine, clock, _) = service();
    let peppered = cheap_hasher().pepper(Pepper::new(1, vec![1; 16]).unwrap());
    let with = AuthService::with_options(Arc::clone(&engine), peppered, encryptor(), options(&clock)).unwrap();
    with.create_user("alice", PASSWORD).unwrap();
    let without = service_on(engine, &clock);
    for _ in 0..5 {
        assert_eq!(without.check_password("nobody", PASSWORD).unwrap(), PasswordCheck::Refused);
        assert_eq!(without.check_password("alice", PASSWORD).unwrap(), PasswordCheck::Refused);
    }
    for name in ["alice", "nobody"] {
        assert!(matches!(without.check_password(name, PASSWORD).unwrap(), PasswordCheck::Delayed { .. }), "{name}");
    }
    assert_eq!(without.stats().passwords_uncheckable, 5);
    assert_eq!(refusals(&without, AuditAction::PasswordUncheckable), 5);
    clock.shift_ms(24 * 60 * MINUTE_MS);
    assert!(with.verify_password("alice", PASSWORD).unwrap());
}

/// After a reset, the known source of an attacker is unknown again.
#[test]
fn a_reset_forgets_the_sources_that_were_trusted() {
    let (_, _, auth) = service();
    let user = auth.create_user("alice", PASSWORD).unwrap();
    let thief = auth.from_source("thief").unwrap();
    assert!(thief.verify_password("alice", PASSWORD).unwrap());
    auth.reset_password(&user.user_id, OTHER).unwrap();
    for n in 0..20 {
        let stranger = auth.from_source(&format!("stranger {n}")).unwrap();
        assert!(!stranger.verify_password("alice", PASSWORD).unwrap());
    }
    let answer = thief.check_password("alice", PASSWORD).unwrap();
    assert!(matches!(answer, PasswordCheck::Delayed { .. }), "{answer:?}");
}

#[test]
fn invalid_options_are_refused() {
    let clock = support::clock();
    let good = options(&clock);
    for bad in [
        AuthOptions { last_used_interval_ms: good.session_idle_ms, ..good.clone() },
        AuthOptions { last_used_interval_ms: -1, ..good.clone() },
        AuthOptions { guess_policy: GuessPolicy { half_life_ms: 0, ..good.guess_policy }, ..good.clone() },
        AuthOptions { guess_policy: GuessPolicy { max_source_delay_ms: i64::MAX, ..good.guess_policy }, ..good },
    ] {
        let refused = AuthService::with_options(MemEngine::new(), cheap_hasher(), encryptor(), bad).unwrap_err();
        assert_eq!(refused.code(), "validation");
    }
}

/// An attacker with a copy of the store and of its master key, and later with write access.
mod thief {
    use super::*;
    use hightower_auth::{AuditVerdict, KeyRing};
    use support::Image;

    const ADMIN: &str = "violet orbit teapot 7";

    fn ring(ids: std::ops::RangeInclusive<u32>) -> Arc<AesGcmEncryptor> {
        let mut ring = KeyRing::with_id(*ids.start(), [u8::try_from(*ids.start()).unwrap(); 32]);
        ids.skip(1).for_each(|id| ring.insert(id, [u8::try_from(id).unwrap(); 32]).unwrap());
        Arc::new(AesGcmEncryptor::with_ring(ring))
    }

    fn on(image: &Image, ids: std::ops::RangeInclusive<u32>) -> (Arc<MemEngine>, Service) {
        let (engine, clock) = (MemEngine::with_image(image.clone()), support::clock());
        let auth = AuthService::with_options(Arc::clone(&engine), cheap_hasher(), ring(ids), options(&clock)).unwrap();
        (engine, auth)
    }

    /// Overwrites records of the store by those of a copy that has a forged administrator, with or
    /// without the copy's key record.
    fn forged(copy: &Image, now: &Image, with_meta: bool) -> Image {
        let (engine, auth) = on(copy, 1..=1);
        let user = auth.create_user("mallory", ADMIN).unwrap();
        auth.set_role("all", &[Grant::new(Action::ALL, KeyRange::all()).unwrap()]).unwrap();
        auth.set_user_roles(&user.user_id, &["all".into()]).unwrap();
        let mut image = now.clone();
        for (key, (value, version)) in engine.image().entries {
            if with_meta || key != b"meta" {
                image.entries.insert(key, (value, version + now.version));
            }
        }
        image.version = 2 * image.version + 100;
        image
    }

    fn store() -> (Image, Token) {
        let (engine, auth) = on(&Image::default(), 1..=1);
        let user = auth.create_user_with_metadata("alice", PASSWORD, Some(b"hers")).unwrap();
        let (_, token) = auth.create_api_key_with_metadata(&user.user_id, None, Some(b"the key's")).unwrap();
        (engine.image(), token)
    }

    #[test]
    fn forges_an_administrator_after_a_rotation_of_the_master_key_but_not_of_the_root() {
        let (copy, token) = store();
        let (engine, auth) = on(&copy, 1..=2);
        auth.rotate_master_key().unwrap();
        let (_, fooled) = on(&forged(&copy, &engine.image(), false), 2..=2);
        assert!(fooled.verify_password("mallory", ADMIN).unwrap(), "what docs/SECURITY.md says of it");

        let (engine, auth) = on(&copy, 1..=2);
        let anchor = auth.audit_anchor().unwrap();
        let principal = auth.authenticate(&token).unwrap().unwrap();
        assert!(auth.rotate_root().unwrap().rewrapped > 5);
        auth.encryptor().remove_key(1).unwrap();
        // Tokens, passwords, metadata, principals and anchors stay valid, and a second service
        // loads the new keys.
        for auth in [auth.clone(), on(&engine.image(), 2..=2).1] {
            assert!(auth.authenticate_api_key(&token).unwrap().is_some());
            assert!(auth.verify_password("alice", PASSWORD).unwrap());
            let user = auth.find_user("alice").unwrap().unwrap();
            assert_eq!(auth.decrypt_user_metadata(&user).unwrap().unwrap(), b"hers");
            assert!(!auth.authorize(&principal, Action::Read, b"k").unwrap());
            assert!(matches!(auth.verify_audit(Some(&anchor)).unwrap(), AuditVerdict::Intact { .. }));
            assert_eq!(auth.master_key_usage().unwrap().into_keys().collect::<Vec<_>>(), [2]);
        }
        for with_meta in [false, true] {
            let (_, auth) = on(&forged(&copy, &engine.image(), with_meta), 2..=2);
            let refused = auth.verify_password("mallory", ADMIN).unwrap_err();
            assert_eq!(refused.code(), "crypto", "{refused}");
        }
        // The old key opens no record of the new store.
        assert_eq!(on(&engine.image(), 1..=1).1.prepare().unwrap_err().code(), "crypto");
        // The new root is never wrapped by a master key that wrapped the old one.
        assert_eq!(auth.rotate_root().unwrap_err().code(), "conflict");
    }

    /// A copy taken at any moment of the rotation, and restored afterwards, forges nothing either.
    #[test]
    fn moments_of_the_rotation_put_back_later_open_nothing() {
        let (copy, _) = store();
        let (engine, auth) = on(&copy, 1..=2);
        *engine.history.lock() = Some(Vec::new());
        auth.rotate_root().unwrap();
        let moments = engine.history.lock().take().unwrap();
        assert!(moments.len() >= 4, "{}", moments.len());
        for moment in &moments[..moments.len() - 1] {
            let mut image = forged(&copy, &engine.image(), false);
            let meta = moment.entries.iter().find(|(key, _)| **key == *b"meta").unwrap();
            image.entries.insert(meta.0.clone(), meta.1.clone());
            let (_, fooled) = on(&image, 2..=2);
            assert!(fooled.verify_password("mallory", ADMIN).is_err());
            // With the old key, an interrupted rotation can continue from each moment.
            let (_, resumed) = on(moment, 1..=2);
            resumed.create_user("bob", PASSWORD).unwrap();
            assert!(resumed.rotate_root().is_ok());
            resumed.encryptor().remove_key(1).unwrap();
            assert!(resumed.verify_password("alice", PASSWORD).unwrap());
            assert!(resumed.verify_password("bob", PASSWORD).unwrap());
        }
    }

    /// Another service on the same store, which has not noticed the rotation, neither fails nor
    /// writes under the old root.
    #[test]
    fn services_on_the_same_store_take_the_new_root() {
        let (copy, token) = store();
        let (engine, auth) = on(&copy, 1..=2);
        let other =
            AuthService::with_options(Arc::clone(&engine), cheap_hasher(), ring(1..=2), options(&support::clock()))
                .unwrap();
        assert!(other.authenticate_api_key(&token).unwrap().is_some());
        auth.rotate_root().unwrap();
        other.create_user("bob", PASSWORD).unwrap();
        assert!(other.authenticate_api_key(&token).unwrap().is_some());
        assert!(other.verify_password("alice", PASSWORD).unwrap());
        assert_eq!(other.list_users(None, 9).unwrap().len(), 2);
        assert!(!other.verify_password("bob", OTHER).unwrap());
        let (_, fresh) = on(&engine.image(), 2..=2);
        assert!(fresh.verify_password("bob", PASSWORD).unwrap());
        assert!(matches!(fresh.verify_audit(None).unwrap(), AuditVerdict::Intact { .. }));
    }
}

/// A login neither reads nor writes metadata.
#[test]
fn a_login_neither_reads_nor_writes_metadata() {
    let (engine, _, auth) = service();
    let user = auth.create_user_with_metadata("alice", PASSWORD, Some(&[7; 64 * 1024])).unwrap();
    let record = [b"u/", user.user_id.as_bytes().as_slice()].concat();
    assert!(engine.image().entries[&record].0.len() < 1024);
    assert!(user.has_metadata && auth.verify_password("alice", PASSWORD).unwrap());
    let user = auth.set_user_metadata(&user.user_id, None).unwrap();
    assert!(!user.has_metadata && auth.decrypt_user_metadata(&user).unwrap().is_none());
    auth.set_user_metadata(&user.user_id, Some(b"again")).unwrap();
    let (key, _) = auth.create_api_key_with_metadata(&user.user_id, None, Some(b"the key's")).unwrap();
    let (other, _) = auth.create_api_key_with_metadata(&user.user_id, None, Some(b"the other's")).unwrap();
    assert!(auth.revoke_api_key(&key.key_id).unwrap());
    assert!(auth.decrypt_api_key_metadata(&key).unwrap().is_none() && other.has_metadata);
    auth.delete_user(&user.user_id).unwrap();
    let left = engine.image().entries.keys().filter(|key| key.starts_with(b"m/")).count();
    assert_eq!(left, 0, "metadata goes with its owner");
}

#[test]
fn names_that_look_like_anothers_are_refused_unless_allowed() {
    let (engine, clock, auth) = service();
    let alice = auth.create_user("alice", PASSWORD).unwrap();
    for name in ["аlice", "a1ice", "ALΙCE"] {
        let refused = auth.create_user(name, PASSWORD).unwrap_err();
        assert_eq!(refused.code(), "conflict", "{name}");
    }
    let bob = auth.create_user("bob", PASSWORD).unwrap();
    assert_eq!(auth.rename_user(&bob.user_id, "a1ice").unwrap_err().code(), "conflict");
    // The user's own names do not conflict, and a name is free after a rename.
    auth.rename_user(&alice.user_id, "a1ice").unwrap();
    auth.rename_user(&alice.user_id, "carol").unwrap();
    auth.rename_user(&bob.user_id, "a1ice").unwrap();
    auth.delete_user(&bob.user_id).unwrap();
    let eve = auth.create_user("alice", PASSWORD).unwrap();

    let lax = AuthOptions { look_alikes: LookAlikes::Allow, ..options(&clock) };
    let lax = AuthService::with_options(Arc::clone(&engine), cheap_hasher(), encryptor(), lax).unwrap();
    lax.create_user("a1ice", PASSWORD).unwrap();
    lax.delete_user(&eve.user_id).unwrap();
    assert_eq!(auth.create_user("аlice", PASSWORD).unwrap_err().code(), "conflict", "the other is still there");
    // Upper-case letters look like other letters than lower-case ones, so the given form counts
    // too.
    for (taken, like) in [("MARIA", "MARlA"), ("Ivan", "lvan"), ("Paul", "PauI")] {
        let taken = auth.create_user(taken, PASSWORD).unwrap();
        assert_eq!(auth.create_user(like, PASSWORD).unwrap_err().code(), "conflict", "{like}");
        assert_eq!(auth.rename_user(&alice.user_id, like).unwrap_err().code(), "conflict", "{like}");
        // After a rename to other capitals, the old given form is free.
        auth.rename_user(&taken.user_id, &taken.username.to_lowercase()).unwrap();
        if like == "MARlA" {
            let other = auth.create_user(like, PASSWORD).unwrap();
            let back = auth.rename_user(&taken.user_id, &taken.username).unwrap_err();
            assert_eq!(back.code(), "conflict");
            auth.delete_user(&other.user_id).unwrap();
        }
        auth.delete_user(&taken.user_id).unwrap();
        let like = auth.create_user(like, PASSWORD).unwrap();
        auth.delete_user(&like.user_id).unwrap();
    }
    for bad in ["ci\u{202e}", "a\u{2066}b", "line\u{2028}"] {
        assert!(auth.create_api_key(&alice.user_id, Some(bad)).is_err() && auth.from_source(bad).is_err(), "{bad:?}");
    }
}

/// A role that is created again is a new role.
#[test]
fn a_role_that_is_made_again_has_no_old_holders() {
    let (_, _, auth) = service();
    let user_id = mighty(&auth, "alice");
    let limited = |roles: &[&str]| ApiKeyOptions {
        access: ApiKeyAccess::Limited { roles: roles.iter().map(ToString::to_string).collect(), grants: Vec::new() },
        ..ApiKeyOptions::default()
    };
    let missing = auth.create_api_key_with(&user_id, &limited(&["nosuch"])).unwrap_err();
    assert_eq!(missing.code(), "not_found");
    assert_eq!(auth.set_user_roles(&user_id, &["nosuch".into()]).unwrap_err().code(), "not_found");
    assert_eq!(auth.change_user_roles(&user_id, &["nosuch".into()], &[]).unwrap_err().code(), "not_found");
    let (_, key) = auth.create_api_key_with(&user_id, &limited(&["all"])).unwrap();
    let (by_key, by_session) = (view(&auth, &key), view(&auth, &login(&auth, "alice", PASSWORD)));
    by_key.put(b"k", b"1").unwrap();
    auth.delete_role("all").unwrap();
    auth.set_role("all", &[Grant::new(Action::ALL, KeyRange::all()).unwrap()]).unwrap();
    for view in [&by_key, &by_session] {
        assert_eq!(view.put(b"k", b"2").unwrap_err().code(), "denied");
    }
    assert!(auth.get_user(&user_id).unwrap().unwrap().roles.is_empty());
    auth.set_user_roles(&user_id, &["all".into()]).unwrap();
    by_session.put(b"k", b"3").unwrap();
    assert_eq!(by_key.put(b"k", b"4").unwrap_err().code(), "denied", "the key is limited to what is gone");
}

/// If a role is deleted at any moment of its creation, users of the old role do not have the new
/// one.
#[test]
fn a_role_that_is_deleted_while_it_is_set_has_no_old_holders() {
    type Rival = fn(&Service, &str);
    let everything = || Grant::new(Action::ALL, KeyRange::all()).unwrap();
    // Deletes the existing role; or creates, gives and deletes it while another call is creating
    // it.
    let rivals: [(bool, Rival); 2] = [
        (true, |auth, _| assert!(auth.delete_role("all").unwrap())),
        (false, |auth, id| {
            auth.set_role("all", &[Grant::new(Action::ALL, KeyRange::all()).unwrap()]).unwrap();
            auth.set_user_roles(id, &["all".into()]).unwrap();
            auth.delete_role("all").unwrap();
        }),
    ];
    for (is_there, rival) in rivals {
        for at in 0.. {
            let (steps, armed) = (Arc::new(AtomicI64::new(-1)), Arc::new(Mutex::new(None::<(Service, String)>)));
            let (left, other) = (Arc::clone(&steps), Arc::clone(&armed));
            let engine = MemEngine::with_hook(Box::new(move || {
                if left.load(Ordering::SeqCst) >= 0
                    && left.fetch_sub(1, Ordering::SeqCst) == 0
                    && let Some((auth, id)) = other.lock().take()
                {
                    rival(&auth, &id);
                }
            }));
            let auth = service_on(engine, &support::clock());
            let id = mighty(&auth, "alice");
            if !is_there {
                auth.delete_role("all").unwrap();
            }
            *armed.lock() = Some((auth.clone(), id.clone()));
            steps.store(at, Ordering::SeqCst);
            auth.set_role("all", &[everything()]).unwrap();
            steps.store(-1, Ordering::SeqCst);
            if armed.lock().is_some() {
                assert!(at >= 3, "setting a role has {at} operations");
                break;
            }
            let trail = auth.audit_entries(0, 1000).unwrap();
            let last = |action| trail.iter().rposition(|entry| entry.action == action).unwrap();
            let made_again = last(AuditAction::RoleSet) > last(AuditAction::RoleDeleted);
            let holds = auth.get_user(&id).unwrap().unwrap().roles.contains(&"all".to_owned());
            let revived = made_again && holds;
            assert!(!revived, "deleted before operation {at}: the new role has an old holder ({is_there})");
        }
    }
}

/// A hasher that checks passwords of several threads at the same time.
#[derive(Debug)]
struct Together(Argon2SecretHasher, Arc<Barrier>);

impl SecretHasher for Together {
    fn hash_secret(&self, secret: &[u8]) -> Result<SecretHash, AuthError> {
        self.0.hash_secret(secret)
    }

    fn verify_secret(&self, secret: &[u8], hash: &SecretHash) -> Result<bool, AuthError> {
        self.1.wait();
        self.0.verify_secret(secret, hash)
    }

    fn needs_rehash(&self, hash: &SecretHash) -> bool {
        self.0.needs_rehash(hash)
    }
}

/// Concurrent guesses, each with its own service: all guesses count.
#[test]
fn guesses_at_the_same_time_through_services_of_their_own_all_count() {
    const THREADS: usize = 8;
    let (engine, clock, auth) = service();
    auth.create_user("alice", PASSWORD).unwrap();
    let (together, checked) = (Arc::new(Barrier::new(THREADS)), AtomicI64::new(0));
    let guess = || {
        for _ in 0..12 {
            let hasher = Together(cheap_hasher(), Arc::clone(&together));
            let fresh = AuthService::with_options(Arc::clone(&engine), hasher, encryptor(), options(&clock)).unwrap();
            let is_checked = fresh.check_password("alice", OTHER).unwrap() == PasswordCheck::Refused;
            checked.fetch_add(is_checked.into(), Ordering::SeqCst);
            together.wait();
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(guess))));
    // Attempts that begin together with the first are checked; there are more than the free
    // failures.
    assert_eq!(checked.into_inner(), THREADS as i64);
}
