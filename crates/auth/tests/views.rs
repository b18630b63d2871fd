//! A view of an engine as a reader and a writer: trait objects, ranges, durabilities.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

use std::ops::Bound;
use std::sync::Arc;

use hightower_auth::{Action, AesGcmEncryptor, Argon2SecretHasher, AuthorizedEngine, Grant, KeyRange, records};
use hightower_engine::{
    Batch, Durability, Error, Expect, KeyspaceEngine, KeyspaceId, KvEngine, KvReader, KvWriter, SingleNodeEngine,
};
use support::{MemEngine, PASSWORD, Service, service, service_on};

mod support;

type View<E> = AuthorizedEngine<E, Argon2SecretHasher, Arc<AesGcmEncryptor>>;

fn view<E: KeyspaceEngine>(auth: &Service<E>, grants: &[Grant]) -> View<E> {
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
    fn on<E: KeyspaceEngine + 'static>(auth: &Service<E>) {
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

#[test]
fn merges_need_the_rights_to_read_and_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let auth = service_on(Arc::new(SingleNodeEngine::open(dir.path()).unwrap()), &support::clock());
    let only = |action, prefix| Grant::new([action], KeyRange::prefix(prefix)).unwrap();
    let grants = [only(Action::Read, "read/"), only(Action::Write, "written/"), grant(KeyRange::prefix("both/"))];
    let view = view(&auth, &grants);
    assert_eq!(view.add(b"both/n", 2).unwrap(), 2);
    for key in [&b"read/n"[..], b"written/n", b"other/n"] {
        assert_eq!(view.add(key, 1).unwrap_err().code(), "denied");
        assert_eq!(view.merge(key, "add", b"1").unwrap_err().code(), "denied");
        assert_eq!(auth.engine().get(key).unwrap(), None);
    }
}

#[test]
fn a_range_is_of_one_moment() {
    let (engine, _, auth) = service();
    let view = view(&auth, &[grant(KeyRange::all())]);
    let own = [b"\0a".to_vec(), b"z".to_vec()];
    for key in &own {
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
        assert_eq!(read(), own);
        let trace = engine.trace.lock().take().unwrap();
        assert_eq!(trace.iter().filter(|(what, _)| *what == "scan").count(), 1, "one scan is of one moment");
    }
    assert_eq!(view.scan(all, all, 1).unwrap()[0].0, own[0]);
    let reversed: Vec<_> = view.range(..).unwrap().rev().map(|pair| pair.unwrap().0).collect();
    assert!(reversed.iter().eq(own.iter().rev()));
}

/// Whatever bytes a user's key has, it is not a record of the service: writing, deleting and
/// requiring it do not touch the records, and no read, count or feed of users shows them.
#[test]
fn no_key_of_a_user_reaches_the_records() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Arc::new(SingleNodeEngine::open(dir.path()).unwrap());
    let auth = service_on(Arc::clone(&engine), &support::clock());
    let view = view(&auth, &[grant(KeyRange::all())]);
    let all = || engine.scan_in(&records(), Bound::Unbounded, Bound::Unbounded, usize::MAX).unwrap();
    let before = all();
    assert!(before.len() > 5 && before.iter().any(|(key, _)| key == b"gen"));
    assert_eq!((engine.len(), engine.is_empty(), engine.prefix("").unwrap().count()), (0, true, 0));
    assert_eq!((engine.keyspaces().unwrap().len(), auth.quota_use(&KeyRange::all()).unwrap().keys), (0, 0));
    assert!(engine.watch(.., 0).unwrap().try_next().unwrap().is_none(), "a feed of users has no record");

    // The names of the records, with each first byte, and with what could be a prefix of theirs.
    let names = before.iter().map(|(key, _)| key.clone());
    let of_bytes = (0..=u8::MAX).flat_map(|byte| [vec![byte], vec![byte, 1, 2], [&[byte, 1, 2][..], b"gen"].concat()]);
    let mut own: Vec<Vec<u8>> = names.chain(of_bytes).chain([b"\0auth/gen".to_vec()]).collect();
    own.sort();
    own.dedup();
    for key in &own {
        assert_eq!(view.get(key).unwrap(), None, "{key:?}");
        view.put(key, "of a user").unwrap();
        let mut batch = Batch::new();
        batch.put(key, "again").require(key, Expect::Absent);
        let rejected = view.commit(&batch).unwrap().committed().unwrap_err();
        assert_eq!((rejected.keyspace, &rejected.key), (KeyspaceId::DEFAULT, key));
    }
    assert_eq!(all(), before, "no record has changed");
    assert_eq!(keys(view.range(..).unwrap()), own);
    assert_eq!(engine.len(), own.len());
    for key in &own {
        view.delete(key).unwrap();
    }
    assert_eq!((all(), engine.len()), (before, 0));
    assert_eq!(auth.get_role("role").unwrap().unwrap().grants.len(), 1);
}

/// A store without the catalogue's records, or opened only for reading, still has the users.
#[test]
fn a_read_only_store_shows_its_users_and_a_new_one_gets_no_record() {
    let dir = tempfile::tempdir().unwrap();
    let read_only = || SingleNodeEngine::open_read_only(dir.path()).unwrap();
    drop(SingleNodeEngine::open(dir.path()).unwrap());
    let empty = service_on(read_only(), &support::clock());
    assert!(!empty.is_initialised().unwrap() && empty.find_user("alice").is_err());
    drop(empty);
    let auth = service_on(SingleNodeEngine::open(dir.path()).unwrap(), &support::clock());
    auth.create_user("alice", PASSWORD).unwrap();
    drop(auth);
    let auth = service_on(read_only(), &support::clock());
    assert!(auth.is_initialised().unwrap());
    assert_eq!(auth.find_user("alice").unwrap().unwrap().username, "alice");
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
