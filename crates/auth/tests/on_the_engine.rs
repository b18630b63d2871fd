//! The same service on the real engine: through a close and a reopen, and from many threads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::Arc;

use hightower_auth::{AuditVerdict, Error, ErrorKind, Login};
use hightower_engine::{SingleNodeEngine, StoreConfig};
use support::{HandClock, OTHER, PASSWORD, Service, service_on};

mod support;

fn open(directory: &std::path::Path, clock: &Arc<HandClock>) -> Service<Arc<SingleNodeEngine>> {
    let engine = SingleNodeEngine::with_config(StoreConfig::at(directory)).unwrap();
    service_on(Arc::new(engine), clock)
}

#[test]
fn everything_is_there_after_a_reopen() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), HandClock::new());
    let auth = open(directory.path(), &clock);
    let user = auth.create_user_with_metadata("Alice", PASSWORD, Some(b"data")).unwrap();
    let (key, api_token) = auth.create_api_key(&user.user_id, Some("ci")).unwrap();
    let (revoked, revoked_token) = auth.create_api_key(&user.user_id, None).unwrap();
    assert!(auth.revoke_api_key(&revoked.key_id).unwrap());
    let Login::Accepted { token, .. } = auth.login("alice", PASSWORD).unwrap() else { panic!() };
    let checkpoint = auth.audit_checkpoint().unwrap();
    drop(auth);

    let auth = open(directory.path(), &clock);
    let again = auth.find_user("ALICE").unwrap().unwrap();
    assert_eq!(auth.decrypt_user_metadata(&again).unwrap().unwrap(), b"data");
    assert_eq!(auth.authenticate_api_key(&api_token).unwrap().unwrap().key_id, key.key_id);
    assert!(auth.authenticate_api_key(&revoked_token).unwrap().is_none());
    assert!(auth.authenticate_session(&token).unwrap().is_some());
    assert!(auth.change_password("alice", PASSWORD, OTHER).unwrap());
    assert!(auth.authenticate_session(&token).unwrap().is_none());
    assert!(matches!(auth.verify_audit(Some(&checkpoint)).unwrap(), AuditVerdict::Intact { .. }));
}

#[test]
fn threads_agree_on_names_and_lose_no_audit_entry() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), HandClock::new());
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
        AuditVerdict::Intact { entries, .. } => assert_eq!(entries, 10),
        broken => panic!("{broken:?}"),
    }
    let missing = auth.disable_user("usr_ffffffffffffffffffffffffffffffff").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}
