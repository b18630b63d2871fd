//! The same service on the real engine: through a close and a reopen, and from many threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::Arc;

use hightower_auth::{
    Action, AdminService, AuditVerdict, AuthorizedEngine, Error, Grant, KeyRange, Login, Proof, StepUp,
};
use hightower_engine::{
    ApplyOutcome, Batch, Command, Error as EngineError, KvEngine, SingleNodeEngine, StoreConfig, limits,
};
use hightower_seams::ManualClock;
use support::{OTHER, PASSWORD, Service, service_on, with_totp};

mod support;

fn open(directory: &std::path::Path, clock: &Arc<ManualClock>) -> Service<Arc<SingleNodeEngine>> {
    let engine = SingleNodeEngine::with_config(StoreConfig::at(directory)).unwrap();
    service_on(Arc::new(engine), clock)
}

#[test]
fn everything_is_there_after_a_reopen() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), support::clock());
    let auth = open(directory.path(), &clock);
    let user = auth.create_user_with_metadata("Alice", PASSWORD, Some(b"data")).unwrap();
    let (key, api_token) = auth.create_api_key(&user.user_id, Some("ci")).unwrap();
    let (revoked, revoked_token) = auth.create_api_key(&user.user_id, None).unwrap();
    assert!(auth.revoke_api_key(&revoked.key_id).unwrap());
    let Login::Accepted { token, .. } = auth.login("alice", PASSWORD).unwrap() else { panic!() };
    let anchor = auth.audit_anchor().unwrap();
    drop(auth);

    let auth = open(directory.path(), &clock);
    let again = auth.find_user("ALICE").unwrap().unwrap();
    assert_eq!(auth.decrypt_user_metadata(&again).unwrap().unwrap(), b"data");
    assert_eq!(auth.authenticate_api_key(&api_token).unwrap().unwrap().key_id, key.key_id);
    assert!(auth.authenticate_api_key(&revoked_token).unwrap().is_none());
    assert!(auth.authenticate_session(&token).unwrap().is_some());
    assert!(auth.change_password("alice", PASSWORD, OTHER).unwrap());
    assert!(auth.authenticate_session(&token).unwrap().is_none());
    assert!(matches!(auth.verify_audit(Some(&anchor)).unwrap(), AuditVerdict::Intact { .. }));
}

#[test]
fn threads_agree_on_names_and_lose_no_audit_entry() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), support::clock());
    let auth = open(directory.path(), &clock);
    let created: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let auth = auth.clone();
                scope.spawn(move || {
                    let outcomes = (0..10).map(|n| auth.create_user(&format!("User{n}"), PASSWORD));
                    outcomes
                        .filter(|outcome| match outcome {
                            Ok(_) => true,
                            Err(Error::Conflict(_)) => false,
                            Err(error) => panic!("{error}"),
                        })
                        .count()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(created, 10);
    assert_eq!(auth.list_users(None, 100).unwrap().len(), 10);
    match auth.verify_audit(None).unwrap() {
        AuditVerdict::Intact { entries, .. } => assert_eq!(entries, 11, "with the one of the store"),
        broken => panic!("{broken:?}"),
    }
    let missing = auth.disable_user("usr_ffffffffffffffffffffffffffffffff").unwrap_err();
    assert_eq!(missing.code(), "not_found");
}

/// A store that a tenant has filled up to the limits of `config`, with a user who has everything
/// that can be revoked.
fn taking_access_away_from_a_full_store(config: impl FnOnce(&std::path::Path) -> StoreConfig) {
    let (directory, clock) = (tempfile::tempdir().unwrap(), support::clock());
    let engine = Arc::new(SingleNodeEngine::with_config(config(directory.path())).unwrap());
    let auth = service_on(Arc::clone(&engine), &clock);
    let tenant = auth.create_user("tenant", PASSWORD).unwrap();
    let grants = [Grant::new([Action::Write], KeyRange::prefix("data/")).unwrap()];
    auth.set_role("writer", &grants).unwrap();
    auth.set_user_roles(&tenant.user_id, &["writer".to_owned()]).unwrap();
    let other = auth.create_user("other", PASSWORD).unwrap();
    let (key, api_token) = auth.create_api_key(&tenant.user_id, None).unwrap();
    let Login::Accepted { token, .. } = auth.login("tenant", PASSWORD).unwrap() else { panic!() };
    with_totp(&auth, &clock, &other.user_id);
    let (_, reset) = auth.issue_password_reset(&other.user_id).unwrap();
    auth.issue_invitation(&other.user_id).unwrap();

    let principal = auth.authenticate(&api_token).unwrap().unwrap();
    let view = AuthorizedEngine::new(&auth, principal);
    for value in [&[7; 200][..], &[7]] {
        let fill = |number: u32| {
            view.commit(Batch::new().put(format!("data/{number:08}/{}", value.len()), value).use_reserve(true))
        };
        let refused = (0..1_000_000).find_map(|number| fill(number).err()).unwrap();
        assert_eq!(refused.code(), "full", "{refused}");
    }
    let refused = auth.create_user("one.more", PASSWORD).unwrap_err();
    assert!(matches!(&refused, Error::Engine(error) if error.code() == "full"), "{refused}");

    assert!(auth.logout(&token).unwrap());
    assert!(auth.authenticate_session(&token).unwrap().is_none());
    assert!(auth.revoke_api_key(&key.key_id).unwrap());
    auth.revoke_all_sessions(&tenant.user_id).unwrap();
    auth.set_user_roles(&tenant.user_id, &[]).unwrap();
    auth.set_role("writer", &[]).unwrap();
    assert!(auth.disable_user(&tenant.user_id).unwrap().disabled);
    auth.require_second_factor(&other.user_id, true).unwrap();
    assert!(auth.reset_password_with(&reset, OTHER).unwrap().is_some());
    assert!(auth.revoke_tokens(&other.user_id).unwrap() == 1);
    assert!(auth.disable_second_factor(&other.user_id).unwrap());
    assert!(auth.delete_user(&tenant.user_id).unwrap());
    assert!(auth.delete_user(&other.user_id).unwrap());
    assert!(auth.authenticate(&api_token).unwrap().is_none());
    assert!(view.put("data/1", "x").is_err());
    assert!(matches!(auth.verify_audit(None).unwrap(), AuditVerdict::Intact { .. }));
}

#[test]
fn access_is_taken_away_when_the_index_is_full() {
    taking_access_away_from_a_full_store(|dir| StoreConfig::at(dir).with_max_index_memory_bytes(1 << 20));
}

#[test]
fn access_is_taken_away_when_the_quota_is_used_up() {
    taking_access_away_from_a_full_store(|dir| StoreConfig::at(dir).with_max_disk_bytes(2 << 20));
}

/// A user who has filled the store cannot exhaust the reserve for revocations by revoking its own
/// access repeatedly.
#[test]
fn the_reserve_is_not_used_up_by_a_users_own_calls() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), support::clock());
    let config = StoreConfig::at(directory.path()).with_max_index_memory_bytes(1 << 20);
    let auth = service_on(Arc::new(SingleNodeEngine::with_config(config).unwrap()), &clock);
    let tenant = auth.create_user("tenant", PASSWORD).unwrap();
    auth.set_role("writer", &[Grant::new([Action::Write], KeyRange::prefix("data/")).unwrap()]).unwrap();
    auth.set_user_roles(&tenant.user_id, &["writer".to_owned()]).unwrap();
    let (key, api_token) = auth.create_api_key(&tenant.user_id, None).unwrap();
    let Login::Accepted { token, .. } = auth.login("tenant", PASSWORD).unwrap() else { panic!() };
    let lead = auth.create_user("lead", PASSWORD).unwrap().user_id;
    auth.set_role("lead", &[Grant::new([Action::ManageUsers], KeyRange::all()).unwrap()]).unwrap();
    auth.set_user_roles(&lead, &["lead".to_owned()]).unwrap();
    let (_, lead_token) = auth.create_api_key(&lead, None).unwrap();
    let view = AuthorizedEngine::new(&auth, auth.authenticate(&api_token).unwrap().unwrap());
    let full = (0..1_000_000).find_map(|number: u32| view.put(format!("data/{number:08}"), [7]).err()).unwrap();
    assert_eq!(full.code(), "full", "{full}");

    let is_full = |error: &Error| matches!(error, Error::Engine(error) if error.code() == "full");
    let mut session = token;
    let stepped_up = (0..5000).take_while(|_| match auth.step_up(&session, Proof::Password(PASSWORD)) {
        Ok(StepUp::Accepted { token, .. }) => {
            session = token;
            true
        }
        Ok(other) => panic!("{other:?}"),
        Err(error) => {
            assert!(is_full(&error), "{error}");
            false
        }
    });
    assert!((1..100).contains(&stepped_up.count()));
    clock.shift_ms(60_000);
    let changed = (0..5000).take_while(|number| {
        let (old, new) = if number % 2 == 0 { (PASSWORD, OTHER) } else { (OTHER, PASSWORD) };
        match auth.change_password("tenant", old, new) {
            Ok(is_changed) => is_changed,
            Err(error) => {
                assert!(is_full(&error), "{error}");
                false
            }
        }
    });
    let changed = changed.count();
    assert!((1..100).contains(&changed), "a user can change the password of a full store, not without end: {changed}");

    // Neither can a manager of users.
    let lead = auth.find_user("lead").unwrap().unwrap().user_id;
    let manager = AdminService::new(&auth, auth.authenticate(&lead_token).unwrap().unwrap());
    let disabled = (0..5000).take_while(|_| match manager.revoke_all_sessions(&lead) {
        Ok(()) => true,
        Err(error) => {
            assert!(is_full(&error), "{error}");
            false
        }
    });
    let disabled = disabled.count();
    assert!((1..100).contains(&disabled), "{disabled}");

    // A leaked secret is replaced, expired records are removed, and the tenant loses access.
    let (_, replaced) = auth.rotate_api_key(&key.key_id, 0).unwrap();
    assert!(auth.authenticate(&api_token).unwrap().is_none() && auth.authenticate(&replaced).unwrap().is_some());
    clock.shift_ms(24 * 60 * 60_000);
    auth.purge_expired().unwrap();
    assert!(auth.disable_user(&tenant.user_id).unwrap().disabled);
    assert!(auth.delete_user(&tenant.user_id).unwrap());
    assert!(view.put("data/00000000", "x").is_err());
}

/// The right to submit versions for one key affects that key only.
#[test]
fn versions_of_a_principal_reach_no_key_but_its_own() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), support::clock());
    let auth = open(directory.path(), &clock);
    let view_of = |name: &str, key: &str| {
        let user = auth.create_user(name, PASSWORD).unwrap();
        auth.set_role(name, &[Grant::new(Action::ALL, KeyRange::prefix(key)).unwrap()]).unwrap();
        auth.set_user_roles(&user.user_id, &[name.to_owned()]).unwrap();
        let (_, token) = auth.create_api_key(&user.user_id, None).unwrap();
        AuthorizedEngine::new(&auth, auth.authenticate(&token).unwrap().unwrap())
    };
    let (mallory, bob) = (view_of("mallory", "m/"), view_of("bob", "b/"));
    let set = |version| Command::Set { key: b"m/1".to_vec(), value: b"m".to_vec(), version, timestamp: i64::MAX };
    for version in [limits::MAX_SUBMITTED_VERSION + 1, u64::MAX] {
        let outcomes = [
            mallory.submit(set(version)).map(drop),
            mallory.submit_batch([set(1), set(version)]).map(drop),
            mallory.commit(Batch::new().submit(&set(version))).map(drop),
        ];
        for outcome in outcomes {
            assert!(
                matches!(outcome, Err(EngineError::LimitExceeded { found, .. }) if found == version),
                "{outcome:?}"
            );
        }
    }
    assert_eq!(mallory.get("m/1").unwrap(), None);
    assert_eq!(mallory.submit(set(limits::MAX_SUBMITTED_VERSION)).unwrap(), ApplyOutcome::Applied);
    // All users and the service write as before.
    assert_eq!(bob.put("b/1", "b").unwrap(), ApplyOutcome::Applied);
    assert_eq!(bob.delete("b/1").unwrap(), ApplyOutcome::Removed);
    assert_eq!(mallory.put("m/1", "again").unwrap(), ApplyOutcome::Applied);
    let carol = auth.create_user("carol", PASSWORD).unwrap();
    auth.disable_user(&carol.user_id).unwrap();
    drop((mallory, bob, auth));

    let auth = open(directory.path(), &clock);
    assert!(auth.get_user(&carol.user_id).unwrap().unwrap().disabled);
    assert_eq!(auth.engine().get("m/1").unwrap().unwrap(), b"again");
    assert_eq!(auth.engine().put("b/1", "after").unwrap(), ApplyOutcome::Applied);
    auth.create_user("dave", PASSWORD).unwrap();
    assert!(matches!(auth.verify_audit(None).unwrap(), AuditVerdict::Intact { .. }));
}
