//! A record that was changed, moved or removed without the service is refused with `Crypto`, or has
//! no effect on any answer. It never causes a wrong answer.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::collections::BTreeMap;
use std::sync::Arc;

use hightower_auth::{AuditVerdict, FactorPolicy, Result, Token};
use support::{Image, MemEngine, NAMES, PASSWORD, Service, USERS, service_on, with_totp};

mod support;

struct World {
    image: Image,
    user_id: String,
    api_key: Token,
    session: Token,
    robert: String,
    recovery: Token,
    single_use: Token,
}

fn world() -> World {
    let engine = MemEngine::new();
    let auth = service_on(Arc::clone(&engine), &support::clock());
    let user = auth.create_user_with_metadata("alice", PASSWORD, Some(b"data")).unwrap();
    let robert = auth.create_user("robert", PASSWORD).unwrap().user_id.to_string();
    let recovery = with_totp(&auth, &support::clock(), &robert).recovery_codes.remove(0);
    auth.set_factor_policy(&FactorPolicy { roles: vec!["other".into()], ..FactorPolicy::default() }).unwrap();
    let (_, single_use) = auth.issue_verification(&robert, "subject").unwrap();
    auth.set_role("role", &[]).unwrap();
    auth.set_user_roles(&user.user_id, &["role".into()]).unwrap();
    let (_, api_key) = auth.create_api_key_with_metadata(&user.user_id, Some("label"), Some(b"data")).unwrap();
    let hightower_auth::Login::Accepted { token: session, .. } = auth.login("alice", PASSWORD).unwrap() else {
        panic!()
    };
    auth.authenticate_api_key(&api_key).unwrap().unwrap();
    World { image: engine.image(), user_id: user.user_id.to_string(), api_key, session, robert, recovery, single_use }
}

/// Everything that a caller can read, as text.
fn answers(world: &World, auth: &Service) -> Result<String> {
    let user = auth.get_user(&world.user_id)?;
    let metadata = user.as_ref().map(|user| auth.decrypt_user_metadata(user)).transpose()?;
    let key = auth.authenticate_api_key(&world.api_key)?;
    let key_metadata = key.as_ref().map(|key| auth.decrypt_api_key_metadata(key)).transpose()?;
    let session = auth.authenticate_session(&world.session)?;
    let principal = auth.authenticate(&world.api_key)?;
    let keys = user.as_ref().map(|user| auth.list_api_keys(&user.user_id)).transpose()?;
    let sessions = user.as_ref().map(|user| auth.list_sessions(&user.user_id)).transpose()?;
    let roles = auth.list_roles(None, 9)?;
    let users = auth.list_users(None, 9)?;
    let trail = auth.audit_entries(0, 99)?;
    let factors = (auth.factor_policy()?, auth.factor_status(&world.robert)?, auth.list_tokens(&world.robert)?);
    let code = auth.verify_second_factor(&world.robert, &world.recovery)?;
    let verified = auth.verify_with(&world.single_use, "subject")?;
    let found = auth.find_user("robert")?;
    let right = auth.verify_password("alice", PASSWORD)?;
    let unknown = auth.verify_password("carol", PASSWORD)?;
    for look_alike in ["a1ice", "rοbert"] {
        match auth.create_user(look_alike, PASSWORD) {
            Err(error) if error.code() == "conflict" => {}
            other => return other.map(|user| format!("{user:?}")),
        }
    }
    Ok(format!(
        "{factors:?} {code:?} {verified:?} {unknown} {user:?} {metadata:?} {key:?} {key_metadata:?} {session:?} {principal:?} {keys:?} {sessions:?} {roles:?} {users:?} {trail:?} {found:?} {right}"
    ))
}

fn judge(world: &World, image: Image) -> Result<String> {
    answers(world, &service_on(MemEngine::with_image(image), &support::clock()))
}

fn flips_per_record() -> usize {
    if std::env::var_os("HIGHTOWER_TEST_CASES").is_some() { usize::MAX } else { 16 }
}

/// Only the version of the generation record matters, and the two records of the user nobody matter
/// only in a store without users.
fn says_nothing(key: &[u8]) -> bool {
    key.ends_with(b"gen")
        || [[USERS, &[0; 16]].concat(), [NAMES, &[0xff; 32]].concat()].iter().any(|nobody| key == nobody)
}

#[test]
fn every_flipped_bit_is_refused() {
    let world = world();
    let expected = judge(&world, world.image.clone()).unwrap();
    let mut refused = 0;
    for (key, (value, _)) in &world.image.entries {
        let bits = value.len() * 8;
        for bit in (0..bits).step_by((bits / flips_per_record().min(bits)).max(1)) {
            let mut image = world.image.clone();
            image.entries.get_mut(key).unwrap().0[bit / 8] ^= 1 << (bit % 8);
            match judge(&world, image) {
                Err(error) => {
                    let in_meta_version = key.ends_with(b"meta") && [0, 21, 150].contains(&(bit / 8));
                    let fine = error.code() == "crypto" || (in_meta_version && error.code() == "version_unsupported");
                    assert!(fine, "{} bit {bit}: {error}", key.escape_ascii());
                    refused += 1;
                }
                Ok(answers) => {
                    assert_eq!(answers, expected, "{} bit {bit}", key.escape_ascii());
                    assert!(says_nothing(key), "{} bit {bit} went unnoticed", key.escape_ascii());
                }
            }
        }
    }
    assert!(refused > 300, "{refused}");
}

#[test]
fn every_record_copied_under_another_key_is_refused() {
    let world = world();
    let expected = judge(&world, world.image.clone()).unwrap();
    let entries: &BTreeMap<_, _> = &world.image.entries;
    for (from, (value, _)) in entries {
        for to in entries.keys().filter(|to| *to != from) {
            let mut image = world.image.clone();
            image.entries.get_mut(to).unwrap().0.clone_from(value);
            match judge(&world, image) {
                Err(error) => {
                    let meta = to.ends_with(b"meta");
                    assert!(
                        error.code() == "crypto" || meta,
                        "{} to {}: {error}",
                        from.escape_ascii(),
                        to.escape_ascii()
                    );
                }
                Ok(answers) => {
                    assert_eq!(answers, expected);
                    assert!(says_nothing(to), "{} to {} went unnoticed", from.escape_ascii(), to.escape_ascii());
                }
            }
        }
    }
}

#[test]
fn the_verifier_finds_every_edit_removal_and_insertion() {
    let world = world();
    let verdict = |image: &Image, since| {
        service_on(MemEngine::with_image(image.clone()), &support::clock()).verify_audit(since).unwrap()
    };
    let AuditVerdict::Intact { entries, anchor } = verdict(&world.image, None) else { panic!() };
    let trail: Vec<Vec<u8>> = world.image.entries.keys().filter(|key| key.starts_with(b"a/")).cloned().collect();
    assert_eq!(trail.len() as u64, entries);
    assert!(matches!(verdict(&world.image, Some(&anchor)), AuditVerdict::Intact { .. }));
    for (at, key) in trail.iter().enumerate() {
        let mut image = world.image.clone();
        image.entries.remove(key);
        assert_eq!(broken_at(verdict(&image, None)), at as u64);
        let mut image = world.image.clone();
        image.entries.get_mut(key).unwrap().0[20] ^= 1;
        assert_eq!(broken_at(verdict(&image, None)), at as u64);
        for other in trail.iter().filter(|other| *other != key) {
            let mut image = world.image.clone();
            let value = image.entries[other].clone();
            image.entries.insert(key.clone(), value);
            assert_eq!(broken_at(verdict(&image, None)), at as u64);
        }
        let mut image = world.image.clone();
        let value = image.entries[key].clone();
        image.entries.insert([b"a/".as_slice(), &(entries + 7).to_be_bytes()].concat(), value);
        broken_at(verdict(&image, None));
    }
    // A removed tail with the old head: only the anchor detects it.
    let engine = MemEngine::with_image(world.image.clone());
    let auth = service_on(Arc::clone(&engine), &support::clock());
    auth.create_user("carol", PASSWORD).unwrap();
    let later = auth.audit_anchor().unwrap();
    assert!(matches!(verdict(&world.image, None), AuditVerdict::Intact { .. }));
    broken_at(verdict(&world.image, Some(&later)));
    assert!(matches!(verdict(&engine.image(), Some(&anchor)), AuditVerdict::Intact { .. }));
    // After pruning, the rest still verifies, also against the anchor.
    assert_eq!(auth.prune_audit(3).unwrap(), 3);
    assert!(matches!(auth.verify_audit(Some(&later)).unwrap(), AuditVerdict::Intact { .. }));
    assert_eq!(auth.audit_entries(0, 1).unwrap()[0].seq, 3);

    // An anchor before the pruned entries proves nothing.
    let early = hightower_auth::AuditAnchor { next_seq: 2, hash: [9; 32], ..later };
    assert_eq!(auth.verify_audit(Some(&early)).unwrap(), AuditVerdict::PrunedPast { first_seq: 3 });
    // All records erased and started again: only the anchor detects it. Verification creates no
    // records.
    let wiped = MemEngine::new();
    let anew = service_on(Arc::clone(&wiped), &support::clock());
    broken_at(anew.verify_audit(Some(&later)).unwrap());
    assert!(wiped.image().entries.is_empty());
    anew.create_user("carol", PASSWORD).unwrap();
    broken_at(anew.verify_audit(Some(&anchor)).unwrap());
}

fn broken_at(verdict: AuditVerdict) -> u64 {
    match verdict {
        AuditVerdict::Broken { seq, .. } => seq,
        intact => panic!("{intact:?}"),
    }
}
