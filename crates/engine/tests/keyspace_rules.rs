//! The rules of keyspaces, one by one.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hightower_engine::{
    Background, Batch, Command, Components, Durability, Error, Expect, Follower, Keyspace, KeyspaceId, KeyspaceOptions,
    KvReader, KvWriter, ReservedKeyspace, SingleNodeEngine, Snapshot, StoreConfig, import_snapshot, restore, salvage,
};

fn open() -> (tempfile::TempDir, SingleNodeEngine) {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    (dir, engine)
}

fn created<'e>(engine: &'e SingleNodeEngine, name: &str) -> Keyspace<&'e SingleNodeEngine> {
    engine.create_keyspace(name, KeyspaceOptions::default()).unwrap()
}

fn is_dropped<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(&result, Err(Error::KeyspaceDropped { .. })) || panic!("{result:?}")
}

#[test]
fn nothing_reads_or_writes_a_dropped_keyspace() {
    let dir = tempfile::tempdir().unwrap();
    for depth in [0, 16] {
        let config = StoreConfig::at(dir.path().join(depth.to_string())).with_commit_queue_depth(depth);
        let engine = SingleNodeEngine::with_config(config).unwrap();
        for is_cleared in [false, true] {
            let dropped = created(&engine, "a");
            dropped.put("key", "value").unwrap();
            let mut batch = Batch::new();
            batch.put("beside", "").put_in(&dropped, "key", "");
            let mut requires = Batch::new();
            requires.put("beside", "").require_in(&dropped, "key", Expect::Present);
            let mut writes = engine.transaction().unwrap();
            writes.put_in(&dropped, "key", "").unwrap();
            let mut reads = engine.transaction().unwrap();
            assert!(reads.contains_key_in(&dropped, "key").unwrap());
            reads.put("beside", "").unwrap();
            let snapshot = dropped.snapshot().unwrap();
            if is_cleared {
                engine.keyspace("a").unwrap().clear().unwrap();
            } else {
                engine.drop_keyspace("a").unwrap();
            }
            assert!(is_dropped(dropped.put("key", "")) && is_dropped(dropped.delete("key")));
            assert!(is_dropped(dropped.submit(Command::set("key", "", 1 << 40))));
            assert!(is_dropped(dropped.submit_batch([Command::set("key", "", 1 << 40)])));
            assert!(is_dropped(dropped.put_versioned("key", "")) && is_dropped(dropped.remove("key")));
            assert!(is_dropped(dropped.take("key")) && is_dropped(dropped.delete_range(..)));
            assert!(is_dropped(dropped.commit(Batch::new().put("key", ""))));
            assert!(is_dropped(engine.commit(&batch)) && is_dropped(engine.commit(&requires)));
            assert!(is_dropped(engine.commit_async(&batch).unwrap().wait()));
            assert!(is_dropped(writes.commit()) && is_dropped(reads.commit()));
            assert!(is_dropped(dropped.get("key")) && is_dropped(dropped.contains_key("key")));
            assert!(is_dropped(dropped.range(..)) && is_dropped(dropped.len()) && is_dropped(dropped.watch(.., 0)));
            assert!(is_dropped(dropped.clone().clear()));
            assert!(is_dropped(engine.update(|transaction| transaction.get_in(&dropped, "key"))));
            assert_eq!(engine.get("beside").unwrap(), None, "a batch is whole or absent");
            // A snapshot is of its moment.
            engine.run_compaction_now().unwrap();
            assert_eq!(snapshot.get("key").unwrap().unwrap(), "value");
            assert_eq!(engine.keyspace("a").is_ok(), is_cleared);
            assert!(!is_cleared || engine.keyspace("a").unwrap().is_empty().unwrap());
        }
    }
}

#[test]
fn a_keyspace_of_another_store_is_refused() {
    let ((_dir, engine), (_other_dir, other)) = (open(), open());
    let (keyspace, foreign) = (created(&engine, "a"), created(&other, "a"));
    assert_eq!(keyspace.id(), foreign.id());
    let is_refused = |refused: Error| matches!(refused, Error::Validation(_)) || panic!("{refused}");
    assert!(is_refused(engine.commit(Batch::new().put_in(&foreign, "key", "")).unwrap_err()));
    assert!(is_refused(engine.snapshot().unwrap().keyspace(&foreign).unwrap_err()));
    assert!(is_refused(engine.transaction().unwrap().get_in(&foreign, "key").unwrap_err()));
    assert_eq!((engine.stats().keys, keyspace.is_empty().unwrap()), (2, true), "the record and the counter");
}

#[test]
fn names_are_short_text_and_those_of_layers_are_kept_apart() {
    let (_dir, engine) = open();
    let options = KeyspaceOptions::default();
    for name in ["", "line\nfeed", "$layer", &"a".repeat(256)] {
        let refused = engine.create_keyspace(name, options).unwrap_err();
        assert!(matches!(refused, Error::Validation(_) | Error::LimitExceeded { .. }), "{refused}");
        created(&engine, "a");
        assert!(engine.rename_keyspace("a", name).is_err());
        engine.drop_keyspace("a").unwrap();
    }
    let mut reserved = engine.reserved_keyspace(ReservedKeyspace::Auth);
    reserved.put("a", "1").unwrap();
    engine
        .commit(Batch::new().put_in(&Keyspace::reserved(ReservedKeyspace::Auth), "b", "2"))
        .unwrap()
        .committed()
        .unwrap();
    assert!(matches!(reserved.clear(), Err(Error::Validation(_))));
    assert_eq!((reserved.len().unwrap(), engine.get("a").unwrap(), engine.get("b").unwrap()), (2, None, None));
    let name = reserved.name();
    assert!(engine.drop_keyspace(&name).is_err() && engine.rename_keyspace(&name, "a").is_err());
    assert_eq!((engine.keyspaces().unwrap().len(), engine.len(), engine.is_empty()), (0, 0, true));
    created(&engine, &"ä".repeat(127));
    assert!(matches!(engine.create_keyspace(&"ä".repeat(127), options), Err(Error::KeyspaceExists { .. })));
}

#[test]
fn a_refusal_names_the_keyspace() {
    let (_dir, engine) = open();
    let keyspace = created(&engine, "a");
    keyspace.put("key", "").unwrap();
    let seqno = engine.latest_seq();
    let rejected = |batch: &Batch| engine.commit(batch).unwrap().committed().unwrap_err();
    let of_key = rejected(Batch::new().require_in(&keyspace, "key", Expect::Absent).put("a", ""));
    assert_eq!((of_key.keyspace, of_key.key.as_slice()), (keyspace.id(), &b"key"[..]));
    let of_range = rejected(Batch::new().require_range_in(&keyspace, "a".., seqno - 1).put("a", ""));
    assert_eq!((of_range.keyspace, of_range.key.as_slice()), (keyspace.id(), &b"key"[..]));
    let bounds = (std::ops::Bound::Included(b"a".to_vec()), std::ops::Bound::Unbounded);
    assert_eq!(of_range.range.as_deref(), Some(&bounds));
    // Neighbouring ranges of two keyspaces are not taken for one.
    let next = created(&engine, "b");
    let mut transaction = engine.transaction().unwrap();
    assert_eq!(transaction.range_in(&keyspace, ..).unwrap().count(), 1);
    assert_eq!(transaction.range_in(&next, ..).unwrap().count(), 0);
    transaction.put("a", "").unwrap();
    next.put("key", "").unwrap();
    let Err(Error::TransactionConflict(conflict)) = transaction.commit() else { panic!("it has read a range") };
    assert_eq!((conflict.keyspace, conflict.key.as_slice()), (next.id(), &b"key"[..]));
    let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
    assert_eq!(conflict.range.as_deref(), Some(&all));
}

#[test]
fn a_feed_tells_the_keyspace() {
    let (_dir, engine) = open();
    let (one, other) = (created(&engine, "a"), created(&engine, "b"));
    let start = engine.latest_seq();
    let (mut of_one, mut of_all) = (one.watch_prefix("k", start).unwrap(), engine.watch_all(start).unwrap());
    let mut of_default = engine.watch(.., start).unwrap();
    let mut batch = Batch::new();
    batch.put("k", "0").put_in(&one, "k", "1").put_in(&other, "k", "2");
    assert!(engine.commit(&batch).unwrap().is_committed());
    let told = |feed: &mut hightower_engine::ChangeFeed| -> Vec<(KeyspaceId, Vec<u8>)> {
        let commit = feed.try_next().unwrap().unwrap();
        commit.changes().map(|change| (change.keyspace(), change.value().unwrap().unwrap().to_vec())).collect()
    };
    assert_eq!(told(&mut of_one), [(one.id(), b"1".to_vec())]);
    assert_eq!(told(&mut of_default), [(KeyspaceId::DEFAULT, b"0".to_vec())]);
    let all = [(KeyspaceId::DEFAULT, b"0".to_vec()), (one.id(), b"1".to_vec()), (other.id(), b"2".to_vec())];
    assert_eq!(told(&mut of_all), all);
    engine.drop_keyspace("a").unwrap();
    assert_eq!(of_all.try_next().unwrap().unwrap().changes().next().unwrap().keyspace(), KeyspaceId::SYSTEM);
    engine.run_compaction_now().unwrap();
    let removed = of_one.next_timeout(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!(removed.changes().next().unwrap().kind(), hightower_engine::ChangeKind::Delete);
}

/// Far more keys than one step deletes.
const MANY: u32 = 5000;

fn fill(engine: &SingleNodeEngine, name: &str) {
    let keyspace = created(engine, name);
    for first in (0..MANY).step_by(1000) {
        let mut batch = Batch::new();
        (first..first + 1000).for_each(|number| {
            batch.put_in(&keyspace, number.to_be_bytes(), [7; 10]);
        });
        assert!(engine.commit(&batch).unwrap().is_committed());
    }
}

#[test]
fn the_background_removes_a_dropped_keyspace() {
    let (_dir, engine) = open();
    fill(&engine, "a");
    fill(&engine, "b");
    let seqno = engine.latest_seq();
    engine.drop_keyspace("a").unwrap();
    assert!(engine.latest_seq() < seqno + u64::from(MANY), "the caller pays for one commit");
    let start = Instant::now();
    // The keys of b, its record, the counter.
    while engine.stats().keys > u64::from(MANY) + 2 {
        assert!(start.elapsed() < Duration::from_secs(60), "{} keys", engine.stats().keys);
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(engine.keyspace("b").unwrap().len().unwrap(), u64::from(MANY));
}

#[test]
fn a_removal_goes_on_after_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let without_threads = || {
        let components = Components::default().with_background(Background::Caller);
        SingleNodeEngine::with_components(StoreConfig::at(dir.path()), components).unwrap()
    };
    let engine = without_threads();
    fill(&engine, "a");
    engine.drop_keyspace("a").unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = without_threads();
    assert!(engine.stats().keys > u64::from(MANY), "nothing has removed the keys");
    let seqno = engine.latest_seq();
    engine.run_compaction_now().unwrap();
    assert_eq!(engine.stats().keys, 1, "the counter of ids");
    let steps = engine.latest_seq() - seqno;
    assert!((5..20).contains(&steps), "{steps} steps");
    let id = created(&engine, "a").id();
    assert!(id.get() > 16, "{id}");
}

#[test]
fn a_keyspace_is_dropped_on_a_full_device() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(dir.path())
        .with_max_disk_bytes(4 << 20)
        .with_max_segment_size(64 << 10)
        .with_min_segment_size(64 << 10);
    let components = Components::default().with_background(Background::Caller);
    let engine = SingleNodeEngine::with_components(config, components).unwrap();
    let keyspace = created(&engine, "a");
    let full = (0_u32..).find_map(|number| keyspace.put(number.to_be_bytes(), [7; 10_000]).err()).unwrap();
    assert!(matches!(full, Error::Full { .. }), "{full}");
    engine.drop_keyspace("a").unwrap();
    engine.run_compaction_now().unwrap();
    assert_eq!(engine.stats().keys, 1);
    engine.put("key", [7; 10_000]).unwrap();
}

#[test]
fn options_are_kept_and_have_their_effect() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(dir.path()).with_durability(Durability::Os);
    let engine = SingleNodeEngine::with_config(config.clone()).unwrap();
    let options = KeyspaceOptions::default().with_durability(Durability::Sync);
    let synced = engine.create_keyspace("a", options).unwrap();
    engine.put("a", "").unwrap();
    synced.put("a", "").unwrap();
    assert_eq!(engine.stats().durable_seq, engine.latest_seq(), "the put has waited for a sync");
    engine.close().unwrap();
    drop(engine);
    let engine = SingleNodeEngine::with_config(config).unwrap();
    let mut synced = engine.keyspace("a").unwrap();
    assert_eq!((synced.options(), synced.durability()), (options, Durability::Sync));
    synced.clear().unwrap();
    assert_eq!(engine.keyspace("a").unwrap().options(), options);
}

#[test]
fn services_take_a_keyspace_for_a_store() {
    let (_dir, engine) = open();
    let engine = Arc::new(engine);
    created(&engine, "a");
    let writer: Arc<dyn KvWriter> = Arc::new(Keyspace::of(&engine, "a").unwrap());
    writer.put(b"key", b"value").unwrap();
    let mut batch = Batch::new();
    batch.require("key", Expect::Present).require_prefix("other", engine.latest_seq()).put("other", "").delete("key");
    assert!(writer.commit(&batch).unwrap().is_committed());
    let reader: Arc<dyn KvReader> = writer;
    assert_eq!(reader.range(std::ops::Bound::Unbounded, std::ops::Bound::Unbounded).unwrap().count(), 1);
    assert!(reader.contains_key(b"other").unwrap());
    assert_eq!(engine.len(), 0);
}

/// Each write of threads beside a drop is either in the log before it, or refused; so nothing is
/// left when the removal has ended.
#[test]
fn writers_beside_a_drop_leave_nothing() {
    let (_dir, engine) = open();
    for round in 0..50_u32 {
        let keyspace = created(&engine, "a");
        thread::scope(|scope| {
            for writer in 0..2_u32 {
                let keyspace = keyspace.clone();
                scope.spawn(move || {
                    let refused = (0_u32..)
                        .find_map(|number| keyspace.put([writer, number].map(u32::to_be_bytes).concat(), "").err());
                    assert!(is_dropped(Err::<(), _>(refused.unwrap())));
                });
            }
            thread::sleep(Duration::from_micros(u64::from(round * 20)));
            engine.drop_keyspace("a").unwrap();
        });
        // The background may be in the middle of the removal.
        engine.run_compaction_now().unwrap();
        assert_eq!(engine.stats().keys, 1, "the counter of ids");
    }
}

/// Copies of every kind, and readers of every kind.
#[test]
fn every_copy_and_every_reader_has_the_keyspaces() {
    let (dir, engine) = open();
    let (jobs, gone) = (created(&engine, "jobs"), created(&engine, "gone"));
    let reserved = engine.reserved_keyspace(ReservedKeyspace::Auth);
    for number in 0..100_u32 {
        engine.put(number.to_be_bytes(), "of the default one").unwrap();
        jobs.put(number.to_be_bytes(), format!("job {number}")).unwrap();
        reserved.put(number.to_be_bytes(), "of a layer").unwrap();
        gone.put(number.to_be_bytes(), "dropped").unwrap();
    }
    engine.checkpoint().unwrap();
    jobs.delete(7_u32.to_be_bytes()).unwrap();
    engine.drop_keyspace("gone").unwrap();
    let [backup, restored, imported, saved] =
        ["backup", "restored", "imported", "saved"].map(|name| dir.path().with_extension(name));
    let components = Components::default();
    let check = |reader: Snapshot, what: &str| {
        assert_eq!(
            (reader.iter().count(), reader.get(7_u32.to_be_bytes()).unwrap().unwrap().len()),
            (100, 18),
            "{what}"
        );
        let jobs = reader.keyspace_named("jobs").unwrap();
        assert_eq!(jobs.iter().count(), 99, "{what}");
        assert_eq!(jobs.get(8_u32.to_be_bytes()).unwrap().unwrap(), "job 8", "{what}");
        assert!(jobs.get(7_u32.to_be_bytes()).unwrap().is_none(), "{what}");
        let reserved = reader.keyspace(&Keyspace::reserved(ReservedKeyspace::Auth)).unwrap();
        assert_eq!(reserved.iter().count(), 100, "{what}");
        assert!(matches!(reader.keyspace_named("gone"), Err(Error::KeyspaceNotFound { .. })), "{what}");
    };
    check(engine.snapshot().unwrap(), "the store");
    check(Follower::open(dir.path()).unwrap().snapshot().unwrap(), "a follower");
    engine.backup_to(&backup).unwrap();
    let mut stream = Vec::new();
    engine.export_snapshot(&mut stream).unwrap();
    engine.close().unwrap();
    check(SingleNodeEngine::open_read_only(dir.path()).unwrap().snapshot().unwrap(), "a read-only open");
    restore(&components, &backup, &restored).unwrap();
    import_snapshot(&components, &mut &stream[..], &imported).unwrap();
    salvage(&components, dir.path(), &saved, &mut |_| ControlFlow::Continue(())).unwrap();
    for copy in [&restored, &imported, &saved] {
        let copied = SingleNodeEngine::open(copy).unwrap();
        check(copied.snapshot().unwrap(), &copy.display().to_string());
        let new = created(&copied, "new");
        assert!(new.id() > gone.id() && new.is_empty().unwrap(), "no id is used again");
        copied.close().unwrap();
        std::fs::remove_dir_all(copy).unwrap();
    }
    std::fs::remove_dir_all(&backup).unwrap();
}
