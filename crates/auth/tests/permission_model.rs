//! `authorize` against a plain model: whether any single grant allows the operation.
//!
//! 5,000 cases by default; `HIGHTOWER_TEST_CASES=100000` for the long run.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use hightower_auth::{Action, ApiKeyAccess, ApiKeyOptions, Grant, KeyRange, PermissionSet, Principal};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{PASSWORD, Service, service};

mod support;

const ALPHABET: [u8; 4] = [0, b'a', b'b', 0xff];

fn cases(default: u32) -> u32 {
    std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn key(max_len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(ALPHABET.as_slice()), 0..=max_len)
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key(2).prop_map(KeyRange::prefix),
        (key(2), key(2)).prop_map(|(start, end)| KeyRange::new(start, Some(end))),
        key(2).prop_map(|start| KeyRange::new(start, None)),
    ]
}

fn grants() -> impl Strategy<Value = Vec<Grant>> {
    let actions = prop::sample::subsequence(Action::ALL.to_vec(), 1..=3);
    let grant = (actions, range()).prop_filter_map("empty", |(actions, range)| Grant::new(actions, range).ok());
    prop::collection::vec(grant, 0..5)
}

/// The letters and their successors, which the ends of prefixes contain.
const LETTERS: [u8; 6] = [0, 1, b'a', b'b', b'c', 0xff];

/// Every key of up to three letters. A range that is not covered has a gap that begins with one of
/// the bounds, and these have up to two letters: so one of these keys is in it.
fn all_keys() -> Vec<Vec<u8>> {
    let mut keys = vec![Vec::new()];
    for at in 0.. {
        if keys[at].len() == 3 {
            return keys;
        }
        for letter in LETTERS {
            keys.push([keys[at].as_slice(), &[letter]].concat());
        }
    }
    keys
}

fn model(grants: &[Grant], action: Action, key: &[u8]) -> bool {
    grants.iter().any(|grant| {
        grant.actions().any(|one| one == action)
            && key >= grant.range().start()
            && grant.range().end().is_none_or(|end| key < end)
    })
}

#[test]
fn permission_sets_agree_with_the_model() {
    let keys = all_keys();
    let mut runner = TestRunner::new(Config { cases: cases(5_000), failure_persistence: None, ..Config::default() });
    let input = (grants(), prop::sample::select(Action::ALL.to_vec()), key(4), range());
    runner
        .run(&input, |(grants, action, key, range)| {
            let set = PermissionSet::new(&grants);
            prop_assert_eq!(set.allows(action, &key), model(&grants, action, &key));
            let mut inside = keys.iter().filter(|key| range.contains(key));
            let all = inside.all(|key| model(&grants, action, key));
            prop_assert_eq!(set.allows_range(action, &range), all, "{:?}", range);
            Ok(())
        })
        .unwrap();
}

fn principal(auth: &Service, owner: &[Grant], limit: Option<&[Grant]>) -> Principal {
    auth.set_role("role", owner).unwrap();
    let user = match auth.find_user("someone").unwrap() {
        Some(user) => user,
        None => auth.create_user("someone", PASSWORD).unwrap(),
    };
    auth.set_user_roles(&user.user_id, &["role".into()]).unwrap();
    let access = match limit {
        Some(grants) => ApiKeyAccess::Limited { roles: Vec::new(), grants: grants.to_vec() },
        None => ApiKeyAccess::LikeOwner,
    };
    let options = ApiKeyOptions { access, ..ApiKeyOptions::default() };
    let (record, token) = auth.create_api_key_with(&user.user_id, &options).unwrap();
    let principal = auth.authenticate(&token).unwrap().unwrap();
    // Keys of one user must not accumulate, and a principal ends with its key: keep few.
    for old in auth.list_api_keys(&user.user_id).unwrap() {
        if old.key_id != record.key_id {
            auth.revoke_api_key(&old.key_id).unwrap();
        }
    }
    principal
}

#[test]
fn authorize_agrees_with_the_model_through_users_and_api_keys() {
    let (_, _, auth) = service();
    let keys = all_keys();
    let mut runner =
        TestRunner::new(Config { cases: cases(5_000) / 100, failure_persistence: None, ..Config::default() });
    runner
        .run(&(grants(), prop::option::of(grants())), |(owner, limit)| {
            let principal = principal(&auth, &owner, limit.as_deref());
            for key in keys.iter().step_by(3) {
                for action in Action::ALL {
                    let allowed =
                        model(&owner, action, key) && limit.as_ref().is_none_or(|limit| model(limit, action, key));
                    prop_assert_eq!(
                        auth.authorize(&principal, action, key).unwrap(),
                        allowed,
                        "{:?} {:?}",
                        action,
                        key
                    );
                }
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn nothing_is_allowed_by_default() {
    let (_, _, auth) = service();
    let user = auth.create_user("someone", PASSWORD).unwrap();
    let (_, token) = auth.create_api_key(&user.user_id, None).unwrap();
    let principal = auth.authenticate(&token).unwrap().unwrap();
    for key in all_keys() {
        for action in Action::ALL {
            assert!(!auth.authorize(&principal, action, &key).unwrap());
        }
    }
    assert!(!auth.authorize_range(&principal, Action::Read, &KeyRange::all()).unwrap());
}
