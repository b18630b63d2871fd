//! A login does the same work for unknown names as for users. This test counts operations;
//! `timing.rs` measures the time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hightower_auth::{AuditAction, AuditVerdict, AuthOptions, AuthService, PasswordCheck, SecretHash, SecretHasher};
use hightower_seams::SeededEntropy;
use support::{MemEngine, OTHER, PASSWORD, cheap_hasher, encryptor, options, service, stronger_hasher};

mod support;

/// An unknown name causes the same operations of the engine as a user, with the same lengths of
/// keys and values.
#[test]
fn an_unknown_name_costs_the_same_work_as_a_user() {
    const LONG: &str = "a-name-of-all-the-sixty-four-characters-that-a-username-may-have";
    // Fixed keys: with random ones, two of the names' counters share a slot of the store now and
    // then.
    let (engine, clock) = (MemEngine::new(), support::clock());
    let options = AuthOptions { entropy: Arc::new(SeededEntropy::new(1)), ..options(&clock) };
    let auth = AuthService::with_options(Arc::clone(&engine), cheap_hasher(), encryptor(), options).unwrap();
    auth.create_user("alice", PASSWORD).unwrap();
    auth.create_user("bob", PASSWORD).unwrap();
    auth.create_user_with_metadata("metad", PASSWORD, Some(&[7; 64 << 10])).unwrap();
    let off = auth.create_user("disab", PASSWORD).unwrap();
    auth.disable_user(&off.user_id).unwrap();
    let mut traces = Vec::new();
    let names = ["alice", "nobdy", "bob", "eve", LONG, "metad", "disab", "!"];
    for (n, name) in names.into_iter().enumerate() {
        let auth = auth.from_source(&format!("10.0.0.{n}")).unwrap();
        *engine.trace.lock() = Some(Vec::new());
        let (mut refused, mut delayed) = (0, 0);
        for _ in 0..24 {
            match auth.check_password(name, OTHER).unwrap() {
                PasswordCheck::Refused => refused += 1,
                PasswordCheck::Delayed { .. } => delayed += 1,
                PasswordCheck::Accepted(_) => panic!("a wrong password was accepted"),
            }
        }
        assert_eq!((refused, delayed), (5, 19), "{name}");
        traces.push((name, engine.trace.lock().take().unwrap()));
    }
    let (_, first) = &traces[0];
    assert!(first.iter().filter(|(what, _)| *what == "commit").count() > 5 + 5, "{first:?}");
    for (name, trace) in &traces {
        for (n, (here, there)) in trace.iter().zip(first).enumerate() {
            assert_eq!(here, there, "operation {n} of {name}");
        }
        assert_eq!(trace.len(), first.len(), "{name}");
    }
    assert!(matches!(auth.verify_audit(None).unwrap(), AuditVerdict::Intact { .. }));
    let unknown = auth.audit_entries(0, 1000).unwrap();
    let unknown = unknown.iter().filter(|entry| entry.target == "unknown user" && entry.user_id.is_none());
    assert!(unknown.count() > 3);
}

/// Attempts of one source at many unknown names do not suppress the audit entries of others.
#[test]
fn noise_of_one_source_at_many_names_hides_no_other_refusal() {
    let (_engine, _clock, auth) = service();
    auth.create_user("alice", PASSWORD).unwrap();
    let noisy = auth.from_source("10.6.6.6").unwrap();
    for n in 0..1000 {
        let _refused = noisy.check_password(&format!("name{n}"), OTHER).unwrap();
    }
    let other = auth.from_source("10.0.0.1").unwrap();
    assert_eq!(other.check_password("alice", OTHER).unwrap(), PasswordCheck::Refused);
    let last = auth.audit_entries(0, 1000).unwrap().pop().unwrap();
    assert_eq!((last.source.as_deref(), last.action), (Some("10.0.0.1"), AuditAction::PasswordVerified));
    assert!(last.user_id.is_some());
}

/// The check of an unknown name uses another user's record, but does not accept that user's
/// password.
#[test]
fn an_unknown_name_opens_with_no_password() {
    let (_engine, _clock, auth) = service();
    auth.create_user("alice", PASSWORD).unwrap();
    for name in ["nobdy", "eve", "!"] {
        assert_eq!(auth.check_password(name, PASSWORD).unwrap(), PasswordCheck::Refused, "{name}");
    }
    assert!(matches!(auth.check_password("alice", PASSWORD).unwrap(), PasswordCheck::Accepted(_)));
}

/// Noise from a source does not hide its attempts at an account: the account's next entry counts
/// them.
#[test]
fn noise_of_a_source_does_not_hide_its_own_guesses_at_an_account() {
    let (_engine, _clock, auth) = service();
    auth.create_user("alice", PASSWORD).unwrap();
    let noisy = auth.from_source("10.6.6.6").unwrap();
    for n in 0..100 {
        let _refused = noisy.check_password(&format!("name{n}"), OTHER).unwrap();
    }
    // The source is delayed by now, which is another kind of entry.
    let is_delayed = |check| matches!(check, PasswordCheck::Delayed { .. });
    (0..3).for_each(|_| assert!(is_delayed(noisy.check_password("alice", OTHER).unwrap())));
    let other = auth.from_source("10.0.0.1").unwrap();
    while !is_delayed(other.check_password("alice", OTHER).unwrap()) {}
    let last = auth.audit_entries(0, 1000).unwrap().pop().unwrap();
    assert_eq!((last.source.as_deref(), last.action), (Some("10.0.0.1"), AuditAction::LoginDelayed));
    assert_eq!(last.suppressed, 3);
}

/// Counts the computed hashes of [`stronger_hasher`].
#[derive(Debug)]
struct CountsDear(Arc<AtomicU64>);

impl SecretHasher for CountsDear {
    fn hash_secret(&self, secret: &[u8]) -> hightower_auth::Result<SecretHash> {
        cheap_hasher().hash_secret(secret)
    }

    fn verify_secret(&self, secret: &[u8], hash: &SecretHash) -> hightower_auth::Result<bool> {
        self.0.fetch_add(u64::from(hash.as_str().contains("m=16,")), Ordering::SeqCst);
        cheap_hasher().verify_secret(secret, hash)
    }

    fn needs_rehash(&self, _hash: &SecretHash) -> bool {
        false
    }
}

/// Delayed attempts at an account with an expensive hash cost no more than at other accounts. The
/// same holds for unknown names that use its record.
#[test]
fn a_delayed_attempt_computes_no_expensive_hash() {
    let (engine, clock) = (MemEngine::new(), support::clock());
    let strong =
        AuthService::with_options(Arc::clone(&engine), stronger_hasher(), encryptor(), options(&clock)).unwrap();
    strong.create_user("alice", PASSWORD).unwrap();
    let computed = Arc::new(AtomicU64::new(0));
    let hasher = CountsDear(Arc::clone(&computed));
    let auth = AuthService::with_options(Arc::clone(&engine), hasher, encryptor(), options(&clock)).unwrap();
    for (n, name) in ["alice", "nobdy"].into_iter().enumerate() {
        let auth = auth.from_source(&format!("10.0.0.{n}")).unwrap();
        (0..24).for_each(|_| drop(auth.check_password(name, OTHER).unwrap()));
        assert_eq!(computed.swap(0, Ordering::SeqCst), 5, "{name}");
    }
}
