//! A view of an engine as a reader and a writer: trait objects, ranges, durabilities.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::ops::Bound;
use std::sync::Arc;

use hightower_auth::{Action, AesGcmEncryptor, Argon2SecretHasher, AuthorizedEngine, Grant, KeyRange, RESERVED_PREFIX};
use hightower_engine::{Batch, Durability, Error, KvEngine, KvReader, KvWriter, SingleNodeEngine};
use support::{MemEngine, PASSWORD, Service, service, service_on};

mod support;

type View<E> = AuthorizedEngine<E, Argon2SecretHasher, Arc<AesGcmEncryptor>>;

fn view<E: KvEngine>(auth: &Service<E>, grants: &[Grant]) -> View<E> {
    let user = auth.create_user("alice", PASSWORD).unwrap();
    auth.set_role("role", grants).unwrap();
    auth.set_user_roles(&user.user_id, &["role".into()]).unwrap();
    let (_, token) = auth.create_api_key(&user.user_id, None).unwrap();
    AuthorizedEngine::new(auth, auth.authenticate(&token).unwrap().unwrap())
}

fn grant(range: KeyRange) -> Grant {
    Grant::new([Action::Read, Action::Write], range).unwrap()
}

fn keys(pairs: hightower_engine::Pairs<'_>) -> Vec<Vec<u8>> {
    pairs.map(|pair| pair.unwrap().0).collect()
}

/// On an engine with its own iterator, and on one whose iterator is a scan.
#[test]
fn a_view_is_a_reader_and_a_writer() {
    fn on<E: KvEngine + 'static>(auth: &Service<E>) {
        auth.engine().put("other/a", "hidden").unwrap();
        let view: Arc<dyn KvWriter> = Arc::new(view(auth, &[grant(KeyRange::prefix("jobs/"))]));
        for key in [b"jobs/1", b"jobs/2", b"jobs/3"] {
            view.put(key, b"queued").unwrap();
        }
        view.delete(b"jobs/2").unwrap();
        assert!(view.contains_key(b"jobs/1").unwrap() && !view.contains_key(b"jobs/2").unwrap());
        let reader: Arc<dyn KvReader> = Arc::clone(&view) as Arc<_>;
        assert_eq!(reader.get(b"jobs/3").unwrap().unwrap(), "queued");
        assert_eq!(keys(reader.prefix(b"jobs/").unwrap()), [b"jobs/1", b"jobs/3"]);
        let back = reader.range(Bound::Included(b"jobs/"), Bound::Excluded(b"jobs/3")).unwrap().next_back();
        assert_eq!(back.unwrap().unwrap().0, b"jobs/1");

        let refused = [
            reader.get(b"other/a").map(drop),
            reader.contains_key(b"other/a").map(drop),
            reader.prefix(b"").map(drop),
            reader.range(Bound::Included(b"jobs/"), Bound::Unbounded).map(drop),
            view.put(b"other/a", b"mine").map(drop),
            view.delete(b"other/a").map(drop),
            view.commit_with(Batch::new().put("jobs/4", "").put("other/a", ""), Durability::Os).map(drop),
        ];
        for (at, outcome) in refused.into_iter().enumerate() {
            assert!(matches!(outcome, Err(Error::Denied(_))), "{at}: {outcome:?}");
        }
        assert_eq!(auth.engine().get("other/a").unwrap().unwrap(), "hidden");
    }

    on(&service().2);
    let dir = tempfile::tempdir().unwrap();
    on(&service_on(Arc::new(SingleNodeEngine::open(dir.path()).unwrap()), &support::clock()));
}

/// The service's own keys lie between those of the principal.
#[test]
fn a_range_around_the_services_keys_is_of_one_moment_and_without_them() {
    let (engine, _, auth) = service();
    let view = view(&auth, &[grant(KeyRange::all())]);
    let around = [b"\0a".to_vec(), b"z".to_vec()];
    assert!(*around[0] < *RESERVED_PREFIX && *RESERVED_PREFIX < *around[1]);
    for key in &around {
        view.put(key, "").unwrap();
    }
    let (all, limited) = (Bound::Unbounded, usize::MAX);
    let read: [&dyn Fn() -> Vec<Vec<u8>>; 3] = [
        &|| keys(view.range(..).unwrap()),
        &|| view.scan(all, all, limited).unwrap().into_iter().map(|(key, _)| key).collect(),
        &|| view.get_prefix("").unwrap().into_iter().map(|(key, _)| key).collect(),
    ];
    for read in read {
        *engine.trace.lock() = Some(Vec::new());
        assert_eq!(read(), around);
        let trace = engine.trace.lock().take().unwrap();
        assert_eq!(trace.iter().filter(|(what, _)| *what == "scan").count(), 1, "one scan is of one moment");
    }
    assert_eq!(view.scan(all, all, 1).unwrap()[0].0, around[0]);
    let reversed: Vec<_> = view.range(..).unwrap().rev().map(|pair| pair.unwrap().0).collect();
    assert!(reversed.iter().eq(around.iter().rev()));
}

#[test]
fn a_range_ends_with_a_revocation() {
    let dir = tempfile::tempdir().unwrap();
    let auth = service_on(Arc::new(SingleNodeEngine::open(dir.path()).unwrap()), &support::clock());
    let view = view(&auth, &[grant(KeyRange::prefix("jobs/"))]);
    for key in ["jobs/1", "jobs/2", "jobs/3", "jobs/4"] {
        view.put(key, "").unwrap();
    }
    let mut pairs = view.prefix("jobs/").unwrap();
    assert_eq!(pairs.next().unwrap().unwrap().0, b"jobs/1");
    assert_eq!(pairs.next_back().unwrap().unwrap().0, b"jobs/4");
    auth.set_role("role", &[grant(KeyRange::prefix("jobs/3"))]).unwrap();
    assert!(matches!(pairs.next(), Some(Err(Error::Denied(_)))), "the right to jobs/2 is gone");
    assert!(pairs.next().is_none() && pairs.next_back().is_none(), "and the range ends");
}

#[test]
fn a_commit_has_the_durability_that_the_call_names() {
    let (engine, _, auth) = service();
    let view = view(&auth, &[grant(KeyRange::all())]);
    view.put("a", "").unwrap();
    view.commit_with(Batch::new().put("a", "1"), Durability::Sync).unwrap().committed().unwrap();
    let limited = MemEngine::new();
    let limited_auth = service_on(Arc::clone(&limited), &support::clock());
    let quota = hightower_auth::Quota::new(Some(10), None).unwrap();
    let under_quota = self::view(&limited_auth, &[grant(KeyRange::all()).with_quota(quota).unwrap()]);
    under_quota.commit_with(Batch::new().put("a", "1"), Durability::Os).unwrap().committed().unwrap();
    assert_eq!(
        (&*engine.durabilities.lock(), &*limited.durabilities.lock()),
        (&vec![Durability::Sync], &vec![Durability::Os])
    );
}
