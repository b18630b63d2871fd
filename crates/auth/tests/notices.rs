//! The listener receives each audit entry, and the trail has the same entries.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::{Arc, OnceLock};

use hightower_auth::{
    AuditAction, AuditEntry, AuditFilter, AuditListener, AuditOutcome, AuthOptions, AuthService, Login, UserId,
};
use parking_lot::Mutex;
use support::{MemEngine, OTHER, PASSWORD, Service, cheap_hasher, encryptor, options, service};

mod support;

/// Records the received entries, calls the service, and panics on request.
#[derive(Debug, Default)]
struct Ear {
    heard: Mutex<Vec<AuditEntry>>,
    auth: OnceLock<Service>,
    panics_at: Option<AuditAction>,
}

impl AuditListener for Ear {
    fn committed(&self, entry: &AuditEntry) {
        self.heard.lock().push(entry.clone());
        if let Some(auth) = self.auth.get() {
            let found = auth.audit_entries(entry.seq, 1).unwrap();
            assert_eq!(found.first(), Some(entry), "it is committed when it is heard of");
        }
        assert_ne!(self.panics_at, Some(entry.action), "a panic of the listener");
    }
}

fn listened(panics_at: Option<AuditAction>) -> (Arc<Ear>, Service) {
    let ear = Arc::new(Ear { panics_at, ..Ear::default() });
    let options =
        AuthOptions { listener: Some(Arc::clone(&ear) as Arc<dyn AuditListener>), ..options(&support::clock()) };
    let auth = AuthService::with_options(MemEngine::new(), cheap_hasher(), encryptor(), options).unwrap();
    ear.auth.set(auth.clone()).unwrap();
    (ear, auth)
}

fn log_in(auth: &Service, source: &str) {
    let login = auth.from_source(source).unwrap().login("alice", PASSWORD).unwrap();
    assert!(matches!(login, Login::Accepted { .. }));
}

#[test]
fn the_listener_receives_committed_entries() {
    let (ear, auth) = listened(None);
    let alice = auth.create_user("alice", PASSWORD).unwrap();
    log_in(&auth, "192.0.2.7");
    log_in(&auth, "192.0.2.7");
    log_in(&auth, "192.0.2.8");
    assert!(!auth.verify_password("alice", OTHER).unwrap());
    auth.reset_password(&alice.user_id, OTHER).unwrap();
    let (key, _) = auth.create_api_key(&alice.user_id, None).unwrap();
    auth.revoke_api_key(&key.key_id).unwrap();
    let heard = ear.heard.lock().clone();
    assert_eq!(heard, auth.audit_entries(0, 1000).unwrap(), "neither more nor less than the trail");
    let sources: Vec<_> = heard.iter().filter(|entry| entry.action == AuditAction::NewSource).collect();
    assert_eq!(
        sources.iter().filter_map(|entry| entry.source.as_deref()).collect::<Vec<_>>(),
        ["192.0.2.7", "192.0.2.8"]
    );
    for action in [AuditAction::PasswordReset, AuditAction::ApiKeyRevoked, AuditAction::SessionStarted] {
        let entry = heard.iter().find(|entry| entry.action == action).unwrap();
        assert_eq!(entry.user_id.as_ref(), Some(&alice.user_id), "{action}");
    }
    assert!(heard.iter().any(|entry| entry.outcome == AuditOutcome::Refused));
}

#[test]
fn a_panic_of_the_listener_is_contained() {
    let (ear, auth) = listened(Some(AuditAction::UserDisabled));
    let alice = auth.create_user("alice", PASSWORD).unwrap();
    assert!(auth.disable_user(&alice.user_id).unwrap().disabled);
    assert!(auth.get_user(&alice.user_id).unwrap().unwrap().disabled);
    assert_eq!(auth.stats().listener_panics, 1);
    auth.enable_user(&alice.user_id).unwrap();
    assert_eq!(ear.heard.lock().last().unwrap().action, AuditAction::UserEnabled);
}

#[test]
fn the_trail_is_found_by_user_action_time_and_outcome() {
    let (_, clock, auth) = service();
    let alice = auth.create_user("alice", PASSWORD).unwrap();
    let bob = auth.create_user("bob", PASSWORD).unwrap();
    let (key, _) = auth.create_api_key(&alice.user_id, None).unwrap();
    clock.shift_ms(1000);
    auth.rotate_api_key(&key.key_id, 0).unwrap();
    auth.disable_user(&bob.user_id).unwrap();
    assert!(!auth.verify_password("bob", OTHER).unwrap());
    let found = |filter: AuditFilter| -> Vec<AuditAction> {
        let page = auth.find_audit(&filter, 0, 100).unwrap();
        assert_eq!(page.next_seq, None);
        page.entries.iter().map(|entry| entry.action).collect()
    };
    let of = |user: &UserId| AuditFilter { user: Some(user.clone()), ..AuditFilter::default() };
    let all = found(AuditFilter::default());
    assert_eq!(
        found(of(&alice.user_id)),
        [AuditAction::UserCreated, AuditAction::ApiKeyCreated, AuditAction::ApiKeyRotated]
    );
    let begun = auth.audit_entries(0, 1).unwrap()[0].at_ms;
    let late = AuditFilter { from_ms: Some(begun + 1000), ..AuditFilter::default() };
    let early = AuditFilter { until_ms: Some(begun + 1000), ..AuditFilter::default() };
    assert_eq!([found(early), found(late)].concat(), all);
    let actions = AuditFilter { actions: vec![AuditAction::UserCreated], ..AuditFilter::default() };
    assert_eq!(found(actions).len(), 2);
    let refused = AuditFilter { outcome: Some(AuditOutcome::Refused), ..of(&bob.user_id) };
    assert_eq!(found(refused), [AuditAction::PasswordVerified]);
    let as_alice = auth.acting_as(hightower_auth::Actor::User(alice.user_id.clone()));
    as_alice.enable_user(&bob.user_id).unwrap();
    assert_eq!(found(of(&alice.user_id)).last(), Some(&AuditAction::UserEnabled), "what she did is hers too");
}

#[test]
fn pages_meet_and_an_export_is_json_lines() {
    let (_, _, auth) = service();
    let alice = auth.create_user("alice", PASSWORD).unwrap();
    for n in 0..1500 {
        let label = auth.from_source(&format!("host \"{n}\"")).unwrap();
        label.set_user_metadata(&alice.user_id, None).unwrap();
    }
    let filter = AuditFilter { actions: vec![AuditAction::UserMetadataSet], ..AuditFilter::default() };
    let (mut seq, mut pages) = (0, Vec::new());
    loop {
        let page = auth.find_audit(&filter, seq, 400).unwrap();
        pages.extend(page.entries);
        let Some(next) = page.next_seq else { break };
        seq = next;
    }
    assert_eq!(pages.len(), 1500);
    assert!(pages.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
    let mut out = Vec::new();
    assert_eq!(auth.export_audit(&filter, &mut out).unwrap(), 1500);
    let text = String::from_utf8(out).unwrap();
    for (n, line) in text.lines().enumerate() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["source"], format!("host \"{n}\""));
        assert_eq!((&object["action"], &object["outcome"]), (&"user_metadata_set".into(), &"done".into()));
        assert_eq!((&object["user_id"], &object["actor"]), (&alice.user_id.as_str().into(), &"system".into()));
    }
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert_eq!(auth.export_audit(&filter, &mut Full).unwrap_err().code(), "io");
}
