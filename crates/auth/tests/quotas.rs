//! Quotas of grants: a principal at its quota adds nothing more, and other principals are not
//! affected.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hightower_auth::{
    Action, AdminService, AesGcmEncryptor, ApiKeyAccess, ApiKeyOptions, Argon2SecretHasher, AuthorizedEngine, Grant,
    KeyRange, Quota,
};
use hightower_engine::{
    ApplyOutcome, Batch, BatchOutcome, Command, Error, Expect, KeyspaceEngine, KvEngine, SingleNodeEngine, StoreConfig,
};
use proptest::prelude::*;
use support::{MemEngine, PASSWORD, Service, service, service_on};

mod support;

const MINUTE_MS: i64 = 60_000;

type View<E> = AuthorizedEngine<E, Argon2SecretHasher, Arc<AesGcmEncryptor>>;

fn on(range: &str) -> Grant {
    Grant::new(Action::ALL, KeyRange::prefix(range)).unwrap()
}

fn at_most(grant: Grant, max_keys: impl Into<Option<u64>>, max_bytes: impl Into<Option<u64>>) -> Grant {
    grant.with_quota(Quota::new(max_keys.into(), max_bytes.into()).unwrap()).unwrap()
}

/// The view of a user with one role of the same name.
fn tenant<E: KeyspaceEngine>(auth: &Service<E>, name: &str, grants: &[Grant]) -> View<E> {
    limited(auth, name, grants, ApiKeyAccess::LikeOwner)
}

fn limited<E: KeyspaceEngine>(auth: &Service<E>, name: &str, grants: &[Grant], access: ApiKeyAccess) -> View<E> {
    auth.set_role(name, grants).unwrap();
    let user = match auth.find_user(name).unwrap() {
        Some(user) => user,
        None => auth.create_user(name, PASSWORD).unwrap(),
    };
    auth.set_user_roles(&user.user_id, &[name.to_owned()]).unwrap();
    let options = ApiKeyOptions { access, ..ApiKeyOptions::default() };
    let (_, token) = auth.create_api_key_with(&user.user_id, &options).unwrap();
    AuthorizedEngine::new(auth, auth.authenticate(&token).unwrap().unwrap())
}

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T, Error>) -> String {
    let error = outcome.unwrap_err();
    assert_eq!(error.code(), "full", "{error}");
    error.to_string()
}

fn keys<E: KeyspaceEngine>(auth: &Service<E>, prefix: &str) -> usize {
    auth.engine().get_prefix(prefix).unwrap().len()
}

#[test]
fn a_full_tenant_deletes_and_a_free_one_goes_on() {
    let (_, _, auth) = service();
    let full = tenant(&auth, "full", &[at_most(on("a/"), 3, None)]);
    let free = tenant(&auth, "free", &[on("b/")]);
    for number in 0..3 {
        full.put(format!("a/{number}"), "value").unwrap();
    }
    assert_eq!(
        refused(full.put("a/3", "")),
        "no room: the quota of the keys that start with a/ allows 3 keys: 3 are there, and the write adds 1; \
         delete some or raise the quota"
    );
    for number in 0..100 {
        free.put(format!("b/{number}"), "value").unwrap();
    }
    full.put("a/0", "another value, as long as it wants").unwrap();
    assert_eq!(full.delete("a/not there").unwrap(), ApplyOutcome::Removed);
    refused(full.put("a/3", ""));
    full.delete("a/1").unwrap();
    full.put("a/3", "").unwrap();
    refused(full.put("a/1", ""));
    assert_eq!(full.put("b/1", "").unwrap_err().code(), "denied");
    assert_eq!(auth.quota_use(&KeyRange::prefix("a/")).unwrap().keys, 3);
}

#[test]
fn bytes_of_keys_and_values_count() {
    let (_, _, auth) = service();
    let view = tenant(&auth, "tenant", &[at_most(on("a/"), None, 20)]);
    view.put("a/1", "1234567").unwrap();
    let told = refused(view.put("a/2", "12345678"));
    assert!(told.contains("allows 20 bytes: 10 are there, and the write adds 11"), "{told}");
    view.put("a/2", "1234567").unwrap();
    refused(view.put("a/3", ""));
    refused(view.put("a/1", "12345678"));
    view.put("a/1", "123456").unwrap();
    refused(view.put("a/1", "12345678"));
    view.put("a/1", "1234567").unwrap();
    assert_eq!(auth.quota_use(&KeyRange::prefix("a/")).unwrap().bytes, 20);
}

#[test]
fn merges_of_counted_values_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let auth = service_on(Arc::new(SingleNodeEngine::open(dir.path()).unwrap()), &support::clock());
    let view = tenant(&auth, "tenant", &[at_most(on("a/"), None, 4), on("b/")]);
    assert_eq!(view.commit(Batch::new().add("a/1", 1)).unwrap_err().code(), "denied");
    assert_eq!(view.commit(Batch::new().put("a/1", "1").add("a/1", 1)).unwrap_err().code(), "denied");
    assert_eq!(auth.engine().get("a/1").unwrap(), None);
    assert!(view.commit(Batch::new().put("a/1", "1").add("b/1", 1)).unwrap().is_committed());
}

#[test]
fn batches_fit_whole_or_not_at_all() {
    let (_, _, auth) = service();
    let view = tenant(&auth, "tenant", &[at_most(on("a/"), 2, None), on("b/")]);
    let batch = |count: u32| {
        let mut batch: Batch = (0..count).map(|n| (format!("a/{n}"), "")).collect();
        batch.put("b/1", "");
        batch
    };
    refused(view.commit(&batch(3)));
    assert_eq!((keys(&auth, "a/"), keys(&auth, "b/")), (0, 0));
    assert!(view.commit(&batch(2)).unwrap().is_committed());
    // Deletes of a batch make room for its puts, in any order; a key counts once.
    assert!(view.commit(Batch::new().put("a/7", "").delete("a/0")).unwrap().is_committed());
    assert!(
        view.commit(Batch::new().put("a/8", "").delete("a/8").put("a/7", "").put("a/7", "x")).unwrap().is_committed()
    );
    refused(view.commit(Batch::new().delete("a/8").put("a/8", "")));
    // A batch that is rejected for another reason does not count.
    view.delete("a/7").unwrap();
    for _ in 0..3 {
        assert!(!view.commit(Batch::new().put("a/7", "").require("b/9", Expect::Present)).unwrap().is_committed());
    }
    view.put("a/7", "").unwrap();
    refused(view.put("a/9", ""));
    assert_eq!(keys(&auth, "a/"), 2);
}

/// A command with an explicit version may be stale: such a delete makes no room.
#[test]
fn submitted_versions_do_not_bypass_quotas() {
    let directory = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(StoreConfig::at(directory.path())).unwrap();
    let auth = service_on(Arc::new(engine), &support::clock());
    let view = tenant(&auth, "tenant", &[at_most(on("a/"), 2, None)]);
    let set = |key: &str, version| Command::Set { key: key.into(), value: Vec::new(), version, timestamp: 0 };
    let delete = |key: &str, version| Command::Delete { key: key.into(), version, timestamp: 0 };
    view.submit_batch([set("a/1", 10), set("a/2", 10)]).unwrap();
    refused(view.submit(set("a/3", 10)));
    refused(view.submit_batch([set("a/4", 10), delete("a/4", 9), set("a/3", 10), delete("a/3", 5)]));
    refused(view.commit(Batch::new().put("a/3", "").submit(&delete("a/3", 5))));
    // Certainly stale: nothing to count.
    assert_eq!(view.submit(set("a/1", 9)).unwrap(), ApplyOutcome::IgnoredStale);
    assert_eq!(view.submit(delete("a/1", 9)).unwrap(), ApplyOutcome::IgnoredStale);
    refused(view.submit(set("a/3", 10)));
    assert_eq!(view.submit(delete("a/1", 11)).unwrap(), ApplyOutcome::Removed);
    // Older than the tombstone: the command is stale, and the room stays free.
    assert_eq!(view.submit(set("a/1", 10)).unwrap(), ApplyOutcome::IgnoredStale);
    view.put("a/3", "").unwrap();
    refused(view.put("a/4", ""));
    assert_eq!(keys(&auth, "a/"), 2);
}

/// Many threads under one quota, on an engine with a delay between reads and writes.
#[test]
fn writers_at_the_same_time_never_exceed_it() {
    let hook = Box::new(|| std::thread::sleep(Duration::from_micros(20)));
    let auth = service_on(MemEngine::with_hook(hook), &support::clock());
    const MOST: u8 = 40;
    let views: Vec<_> = (0..8).map(|_| tenant(&auth, "tenant", &[at_most(on("a/"), u64::from(MOST), None)])).collect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = views
            .iter()
            .enumerate()
            .map(|(thread, view)| {
                scope.spawn(move || {
                    for round in 0..30 {
                        let put = view.commit(
                            Batch::new().put(format!("a/{thread}/{round}"), "").put(format!("a/{thread}/{round}b"), ""),
                        );
                        match put {
                            Ok(outcome) => assert!(outcome.is_committed()),
                            Err(error) => {
                                assert_eq!(error.code(), "full", "{error}");
                                view.delete(format!("a/{thread}/{}", round / 2)).unwrap();
                            }
                        }
                    }
                })
            })
            .collect();
        while writers.iter().any(|writer| !writer.is_finished()) {
            is_over.fetch_or(keys(&auth, "a/") > usize::from(MOST), Ordering::SeqCst);
        }
    });
    assert!(!is_over.into_inner(), "more keys than the quota allows");
    // The count is exact: writes up to the limit succeed.
    let left = usize::from(MOST) - keys(&auth, "a/");
    for number in 0..left {
        views[0].put(format!("a/left{number}"), "").unwrap();
    }
    refused(views[1].put("a/one more", ""));
}

#[test]
fn what_others_write_counts_from_the_next_count_on() {
    let (_, clock, auth) = service();
    let view = tenant(&auth, "tenant", &[at_most(on("a/"), 1000, None)]);
    view.put("a/mine", "").unwrap();
    for number in 0..2000 {
        auth.engine().put(format!("a/{number:04}"), "").unwrap();
    }
    view.put("a/not seen", "").unwrap();
    clock.shift_ms(MINUTE_MS);
    let writes = (0..40).find(|number| view.put(format!("a/more{number}"), "").is_err()).unwrap();
    // 128 keys at each write, except for the first page.
    assert!(writes <= 2000 / 128 + 3, "{writes} writes until the count was done");
    // No refusal relies on keys deleted long ago.
    for number in 0..2000 {
        auth.engine().delete(format!("a/{number:04}")).unwrap();
    }
    clock.shift_ms(1_000);
    view.put("a/after", "").unwrap();
}

#[test]
fn a_refusal_rests_on_a_count_that_is_fresh_and_counts_no_more_often() {
    let (_, clock, auth) = service();
    let view = tenant(&auth, "tenant", &[at_most(on("a/"), 1, None)]);
    auth.engine().put("a/1", "").unwrap();
    refused(view.put("a/2", ""));
    auth.engine().delete("a/1").unwrap();
    refused(view.put("a/2", ""));
    clock.shift_ms(1_000);
    view.put("a/2", "").unwrap();
    // If the clock goes back, no count is fresh.
    refused(view.put("a/3", ""));
    auth.engine().delete("a/2").unwrap();
    clock.shift_ms(-10 * MINUTE_MS);
    view.put("a/3", "").unwrap();
    // The principal's own deletes count at once.
    view.delete("a/3").unwrap();
    view.put("a/4", "").unwrap();
}

#[test]
fn it_holds_after_a_restart() {
    let (directory, clock) = (tempfile::tempdir().unwrap(), support::clock());
    let open = || {
        let engine = SingleNodeEngine::with_config(StoreConfig::at(directory.path())).unwrap();
        service_on(Arc::new(engine), &clock)
    };
    let auth = open();
    let grants = [at_most(on("a/"), 300, 10_000)];
    let view = tenant(&auth, "tenant", &grants);
    for number in 0..300 {
        view.put(format!("a/{number}"), "value").unwrap();
    }
    refused(view.put("a/x", ""));
    drop((view, auth));
    let auth = open();
    assert_eq!(auth.get_role("tenant").unwrap().unwrap().grants, grants);
    let user = auth.find_user("tenant").unwrap().unwrap();
    let (_, token) = auth.create_api_key(&user.user_id, None).unwrap();
    let view = AuthorizedEngine::new(&auth, auth.authenticate(&token).unwrap().unwrap());
    refused(view.put("a/x", ""));
    view.delete("a/7").unwrap();
    view.put("a/x", "").unwrap();
    refused(view.put("a/y", ""));
}

#[test]
fn every_quota_counts_unless_a_grant_has_none() {
    let (_, _, auth) = service();
    let (wide, narrow) = (at_most(on("a/"), 3, None), at_most(on("a/b/"), 2, None));
    let view = tenant(&auth, "both", &[wide.clone(), narrow.clone()]);
    view.put("a/b/1", "").unwrap();
    view.put("a/b/2", "").unwrap();
    assert!(refused(view.put("a/b/3", "")).contains("start with a/b/ allows 2"));
    view.put("a/1", "").unwrap();
    assert!(refused(view.put("a/2", "")).contains("start with a/ allows 3"));
    view.delete("a/b/1").unwrap();
    view.put("a/2", "").unwrap();
    assert!(refused(view.put("a/b/1", "")).contains("start with a/ allows 3"));

    // A grant without a quota exempts the writes that it allows, and no others.
    let free = Grant::new([Action::Write], KeyRange::prefix("a/b/")).unwrap();
    let view = tenant(&auth, "free", &[wide.clone(), narrow.clone(), free]);
    for number in 0..9 {
        view.put(format!("a/b/{number}"), "").unwrap();
    }
    refused(view.put("a/3", ""));
    let set = Command::Set { key: b"a/b/x".to_vec(), value: Vec::new(), version: 1 << 40, timestamp: 0 };
    refused(view.submit(set));

    // Two quotas on one range: the lower one holds.
    let view = tenant(&auth, "twice", &[at_most(on("c/"), 5, None), at_most(on("c/"), 1, 100)]);
    view.put("c/1", "").unwrap();
    refused(view.put("c/2", ""));
}

#[test]
fn an_api_key_has_its_owners_quota_and_its_own() {
    let (_, _, auth) = service();
    let owner = [at_most(on("a/"), 3, None)];
    let own = |grants: Vec<Grant>| ApiKeyAccess::Limited { roles: Vec::new(), grants };
    let small = limited(&auth, "owner", &owner, own(vec![at_most(on("a/b/"), 1, None)]));
    let free = limited(&auth, "owner", &owner, own(vec![on("a/")]));
    small.put("a/b/1", "").unwrap();
    assert!(refused(small.put("a/b/2", "")).contains("a/b/ allows 1"));
    free.put("a/1", "").unwrap();
    free.put("a/2", "").unwrap();
    assert!(refused(free.put("a/3", "")).contains("a/ allows 3"));
    small.delete("a/b/1").unwrap();
    free.put("a/3", "").unwrap();
    refused(small.put("a/b/1", ""));
}

#[test]
fn a_lower_limit_holds_at_once_and_deletes_lead_back() {
    let (_, _, auth) = service();
    let view = tenant(&auth, "tenant", &[at_most(on("a/"), 5, 100)]);
    for number in 0..5 {
        view.put(format!("a/{number}"), "12345").unwrap();
    }
    auth.set_role("tenant", &[at_most(on("a/"), 2, 16)]).unwrap();
    refused(view.put("a/9", ""));
    refused(view.put("a/1", "123456"));
    view.put("a/1", "1234").unwrap();
    view.commit(Batch::new().delete("a/3").delete("a/4").put("a/1", "12345")).map(drop).unwrap();
    view.delete("a/2").unwrap();
    refused(view.put("a/9", ""));
    view.delete("a/1").unwrap();
    view.put("a/9", "12345").unwrap();
    auth.set_role("tenant", &[on("a/")]).unwrap();
    for number in 0..50 {
        view.put(format!("a/{number}"), "12345").unwrap();
    }
}

/// The service's own keys are under no quota, for any range.
#[test]
fn the_services_own_keys_do_not_count() {
    let (_, _, auth) = service();
    let view = tenant(&auth, "tenant", &[at_most(on(""), 2, None)]);
    view.put("a", "").unwrap();
    view.put("\0aa", "").unwrap();
    assert!(refused(view.put("c", "")).contains("of all keys allows 2 keys: 2 are there"));
    assert_eq!(auth.quota_use(&KeyRange::all()).unwrap().keys, 2);
}

#[test]
fn nobody_gives_away_more_than_their_quota() {
    let (_, _, auth) = service();
    let held = at_most(on("a/"), 3, 100);
    let roles = Grant::new([Action::ManageRoles], KeyRange::prefix("team")).unwrap();
    let manage = Grant::new([Action::ManageUsers], KeyRange::prefix("team")).unwrap();
    auth.set_role("lead", &[held.clone(), on("free/"), roles, manage]).unwrap();
    let lead = auth.create_user("lead", PASSWORD).unwrap();
    auth.set_user_roles(&lead.user_id, &["lead".into()]).unwrap();
    let (_, token) = auth.create_api_key(&lead.user_id, None).unwrap();
    let admin = AdminService::new(&auth, auth.authenticate(&token).unwrap().unwrap());
    for fine in [
        at_most(on("a/"), 3, 100),
        at_most(on("a/"), 1, 7),
        at_most(on("free/"), 1, None),
        on("free/"),
        Grant::new([Action::Read], KeyRange::prefix("a/")).unwrap(),
    ] {
        admin.set_role("team", &[fine]).unwrap();
    }
    for more in [
        on("a/"),
        on("a/b/"),
        at_most(on("a/"), 4, 100),
        at_most(on("a/"), 3, None),
        at_most(on("a/b/"), 3, 100),
        at_most(Grant::new([Action::Write], KeyRange::key(b"a/1")).unwrap(), 1, 1),
    ] {
        let refused = admin.set_role("team", std::slice::from_ref(&more)).unwrap_err();
        assert_eq!(refused.code(), "denied", "{more:?}");
        auth.set_role("team2", &[more]).unwrap();
        let member = auth
            .find_user("team.member")
            .unwrap()
            .unwrap_or_else(|| auth.create_user("team.member", PASSWORD).unwrap());
        let refused = admin.change_user_roles(member.user_id.as_str(), &["team2".into()], &[]).unwrap_err();
        assert_eq!(refused.code(), "denied");
    }
    admin.set_role("team", &[held, at_most(on("a/b/"), 1, None)]).unwrap();
}

#[test]
fn invalid_quotas_are_refused() {
    assert!(Quota::new(None, None).is_err());
    let quota = Quota::new(Some(0), None).unwrap();
    let read = Grant::new([Action::Read], KeyRange::all()).unwrap();
    assert_eq!(read.with_quota(quota.clone()).unwrap_err().code(), "validation");
    let manage = Grant::new([Action::ManageUsers], KeyRange::all()).unwrap();
    assert!(manage.with_quota(quota.clone()).is_err());
    let (_, _, auth) = service();
    let view = tenant(&auth, "tenant", &[on("a/").with_quota(quota).unwrap()]);
    refused(view.put("a/1", ""));
    view.delete("a/1").unwrap();
}

type Write = (u8, Option<usize>);

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    /// Batches are accepted or refused as in a plain model.
    #[test]
    fn batches_agree_with_the_model(
        max_keys in prop::option::of(0_u64..6),
        max_bytes in prop::option::of(0_u64..60),
        batches in prop::collection::vec(prop::collection::vec((0_u8..8, prop::option::of(0_usize..16)), 1..6), 1..12),
    ) {
        prop_assume!(max_keys.is_some() || max_bytes.is_some());
        let (_, _, auth) = service();
        let view = tenant(&auth, "tenant", &[at_most(on("a/"), max_keys, max_bytes)]);
        let mut model: BTreeMap<u8, usize> = BTreeMap::new();
        let sizes = |model: &BTreeMap<u8, usize>| {
            (model.len() as u64, model.values().map(|len| len + 3).sum::<usize>() as u64)
        };
        for writes in &batches {
            let (mut after, mut batch) = (model.clone(), Batch::new());
            for (key, len) in writes as &Vec<Write> {
                let name = format!("a/{key}");
                match len {
                    Some(len) => { after.insert(*key, *len); batch.put(name, vec![7; *len]); }
                    None => { after.remove(key); batch.delete(name); }
                }
            }
            let (had, has) = (sizes(&model), sizes(&after));
            let fits = |had: u64, has: u64, most: Option<u64>| has <= had || most.is_none_or(|most| has <= most);
            let expected = fits(had.0, has.0, max_keys) && fits(had.1, has.1, max_bytes);
            match view.commit(&batch) {
                Ok(BatchOutcome::Committed(_)) => { prop_assert!(expected); model = after; }
                Ok(rejected) => panic!("{rejected:?}"),
                Err(error) => { prop_assert_eq!(error.code(), "full"); prop_assert!(!expected, "{}", error); }
            }
        }
        let used = auth.quota_use(&KeyRange::prefix("a/")).unwrap();
        prop_assert_eq!((used.keys, used.bytes), sizes(&model));
    }
}
