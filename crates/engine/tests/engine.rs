//! The engine through its public interface.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::ops::Bound;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use hightower_engine::{
    ApplyOutcome, Batch, BatchOutcome, Command, Committed, Durability, Expect, KvEngine, Rejected, SingleNodeEngine,
    SnapshotEngine, StoreConfig,
};
use tempfile::TempDir;

fn small(dir: &TempDir) -> StoreConfig {
    StoreConfig::at(dir.path()).with_max_segment_size(16 << 10)
}

fn open(dir: &TempDir) -> SingleNodeEngine {
    SingleNodeEngine::with_config(small(dir)).unwrap()
}

fn set(key: &str, value: &str, version: u64) -> Command {
    Command::Set { key: key.into(), value: value.into(), version, timestamp: 0 }
}

fn removal(key: &str, version: u64) -> Command {
    Command::Delete { key: key.into(), version, timestamp: 0 }
}

#[test]
fn what_was_put_is_there_after_close_and_after_drop() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    for number in 0..500 {
        engine.put(format!("key/{number:04}"), format!("value {number}").repeat(10)).unwrap();
    }
    assert_eq!(engine.delete("key/0007").unwrap(), ApplyOutcome::Removed);
    engine.close().unwrap();
    assert_eq!(engine.put("late", "").unwrap_err().code(), "closed");
    assert_eq!(engine.get("key/0001").unwrap_err().code(), "closed");
    engine.close().unwrap();

    let engine = open(&dir);
    assert!(!engine.open_report().was_unclean());
    assert_eq!(engine.len(), 499);
    assert_eq!(engine.get("key/0007").unwrap(), None);
    assert_eq!(engine.get("key/0499").unwrap().unwrap(), "value 499".repeat(10).as_bytes());
    engine.put("one more", "x").unwrap();
    drop(engine);
    assert_eq!(open(&dir).len(), 500);
}

#[test]
fn versions_decide_whatever_the_order() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    assert_eq!(engine.submit(set("a", "from 1000", 1000)).unwrap(), ApplyOutcome::Applied);
    engine.put("a", "after").unwrap();
    assert_eq!(engine.get("a").unwrap().unwrap(), b"after");
    assert_eq!(engine.get_versioned("a").unwrap().unwrap().1, 1001);

    assert_eq!(engine.submit(removal("b", 10)).unwrap(), ApplyOutcome::Removed);
    assert_eq!(engine.submit(set("b", "late", 7)).unwrap(), ApplyOutcome::IgnoredStale);
    assert_eq!(engine.submit(set("b", "same", 10)).unwrap(), ApplyOutcome::IgnoredStale);
    assert_eq!(engine.get("b").unwrap(), None);
    drop(engine);

    let engine = open(&dir);
    assert_eq!(engine.submit(set("b", "late", 9)).unwrap(), ApplyOutcome::IgnoredStale);
    assert_eq!(engine.submit(set("b", "new", 11)).unwrap(), ApplyOutcome::Applied);
    assert_eq!(engine.get("b").unwrap().unwrap(), b"new");
    assert_eq!(engine.get("a").unwrap().unwrap(), b"after");
    engine.put("c", "x").unwrap();
    assert_eq!(engine.get_versioned("c").unwrap().unwrap().1, 1002);
}

#[test]
fn a_batch_is_one_commit() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    engine.put("a", "0").unwrap();
    let before = engine.latest_seq();
    let mut batch = engine.batch();
    batch.put("a", "1").put("b", "2").delete("a").put("c", "");
    let BatchOutcome::Committed(Committed { seq, outcomes, versions, .. }) = engine.commit(&batch).unwrap() else {
        panic!()
    };
    assert_eq!(seq, before + 1);
    use ApplyOutcome::{Applied, IgnoredStale, Removed};
    assert_eq!(outcomes, [Applied, Applied, Removed, Applied]);
    assert!(versions.is_sorted_by(|one, next| one < next));
    assert_eq!(engine.get("a").unwrap(), None);
    assert_eq!(engine.get("c").unwrap().unwrap(), b"");

    let outcomes = engine
        .submit_batch([
            set("x", "10", 10),
            set("x", "5", 5),
            set("x", "10 again", 10),
            removal("x", 11),
            set("y", "1", 1),
        ])
        .unwrap();
    assert_eq!(outcomes, [Applied, IgnoredStale, IgnoredStale, Removed, Applied]);
    let all_stale = engine.submit_batch([set("x", "old", 1)]).unwrap();
    assert_eq!(all_stale, [IgnoredStale]);
    assert_eq!(engine.latest_seq(), seq + 1, "a batch that writes nothing takes no seq");
    assert_eq!(engine.submit_batch([]).unwrap(), []);
    drop(engine);
    let engine = open(&dir);
    assert_eq!(engine.get("x").unwrap(), None);
    assert_eq!(engine.get("y").unwrap().unwrap(), b"1");
}

#[test]
fn requirements_hold_or_nothing_happens() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    engine.put("a", "1").unwrap();
    let version = engine.get_versioned("a").unwrap().unwrap().1;
    engine.put("gone", "1").unwrap();
    engine.delete("gone").unwrap();
    let seq = engine.latest_seq();

    let rejected = |key: &str, expect: Expect, found| {
        let outcome = engine.commit(Batch::new().put("b", "x").require(key, expect)).unwrap();
        assert_eq!(outcome, BatchOutcome::Rejected(Rejected::new(key.into(), expect, found)));
    };
    rejected("a", Expect::Absent, Some(version));
    rejected("a", Expect::Version(version + 1), Some(version));
    rejected("gone", Expect::Present, None);
    rejected("never", Expect::Present, None);
    rejected("never", Expect::Version(0), None);
    assert_eq!((engine.get("b").unwrap(), engine.latest_seq()), (None, seq));

    let mut batch = Batch::new();
    batch
        .put("b", "x")
        .require("a", Expect::Version(version))
        .require("a", Expect::Present)
        .require("gone", Expect::Absent)
        .require("b", Expect::Absent);
    assert!(engine.commit(&batch).unwrap().is_committed());
    assert_eq!(engine.get("b").unwrap().unwrap(), b"x");
}

#[test]
fn a_batch_that_is_longer_than_a_segment_gets_one_of_its_own() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    let wide = (0..200_u32).map(|number| (number.to_be_bytes(), vec![7; 1000])).collect();
    engine.put("a", "b").unwrap();
    assert!(engine.commit(&wide).unwrap().is_committed());
    engine.put("c", "d").unwrap();
    drop(engine);
    let engine = open(&dir);
    assert_eq!(engine.len(), 202);
    assert_eq!(engine.get(199_u32.to_be_bytes()).unwrap().unwrap(), vec![7; 1000]);
}

#[test]
fn limits_are_refused_and_leave_nothing_behind() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    assert_eq!(engine.put("", "x").unwrap_err().code(), "validation");
    assert_eq!(engine.put(vec![0; 65_536], "x").unwrap_err().code(), "limit_exceeded");
    assert_eq!(engine.delete(vec![0; 65_536]).unwrap_err().code(), "limit_exceeded");
    assert_eq!(engine.put("big", vec![0; (1 << 30) + 1]).unwrap_err().code(), "limit_exceeded");
    let many = (0..65_537_u32).map(|number| (number.to_be_bytes(), "")).collect();
    assert_eq!(engine.commit(&many).unwrap_err().code(), "limit_exceeded");
    assert_eq!(engine.commit(Batch::new().require("", Expect::Absent)).unwrap_err().code(), "validation");
    assert_eq!((engine.len(), engine.latest_seq()), (0, 0));

    // The longest key, and a value longer than a segment.
    engine.put(vec![255; 65_520], vec![7; 300_000]).unwrap();
    drop(engine);
    assert_eq!(open(&dir).get(vec![255; 65_520]).unwrap().unwrap(), vec![7; 300_000]);
}

#[test]
fn ranges_and_prefixes_in_both_directions() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    for key in ["a", "a/1", "a/2", "a/3", "b", "b/1"] {
        engine.put(key, key.to_uppercase()).unwrap();
    }
    engine.delete("a/2").unwrap();
    let keys = |range: hightower_engine::Range| -> Vec<String> {
        range.map(|entry| String::from_utf8(entry.unwrap().key().to_vec()).unwrap()).collect()
    };
    assert_eq!(keys(engine.prefix("a/").unwrap()), ["a/1", "a/3"]);
    assert_eq!(keys(engine.range("a/3"..).unwrap()), ["a/3", "b", "b/1"]);
    assert_eq!(keys(engine.range(.."a/1").unwrap()), ["a"]);
    assert_eq!(keys(engine.range("a/1"..="b").unwrap()), ["a/1", "a/3", "b"]);
    assert_eq!(keys(engine.range(..).unwrap()).len(), 5);
    assert_eq!(keys(engine.prefix("zz").unwrap()), Vec::<String>::new());
    let mut both = engine.range(..).unwrap();
    let ends = (both.next().unwrap().unwrap(), both.next_back().unwrap().unwrap());
    assert_eq!((ends.0.key(), ends.1.key()), (&b"a"[..], &b"b/1"[..]));
    assert_eq!(ends.1.value().unwrap(), b"B/1");
    assert_eq!(both.rev().count(), 3);

    let pairs = engine.get_prefix("b").unwrap();
    assert_eq!(pairs, [(b"b".to_vec(), b"B"[..].into()), (b"b/1".to_vec(), b"B/1"[..].into())]);
    let page = KvEngine::scan(&engine, Bound::Excluded(b"a"), Bound::Unbounded, 2).unwrap();
    assert_eq!(page.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [&b"a/1"[..], b"a/3"]);
    let values = engine.multi_get(&["b", "nothing", "a/2", "a"]).unwrap();
    assert_eq!(values, [Some(b"B"[..].into()), None, None, Some(b"A"[..].into())]);
}

#[test]
fn a_snapshot_keeps_its_moment() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    for number in 0..200 {
        engine.put(format!("{number:03}"), "old").unwrap();
    }
    let snapshot = engine.snapshot().unwrap();
    let mut range = engine.range(..).unwrap();
    for number in (0..200).step_by(2) {
        engine.put(format!("{number:03}"), "new").unwrap();
        engine.delete(format!("{:03}", number + 1)).unwrap();
    }
    engine.put("zzz", "later").unwrap();
    assert_eq!(engine.len(), 101);
    assert_eq!(range.by_ref().take(50).count(), 50);
    let reader = thread::spawn(move || {
        assert_eq!(range.rev().filter(|entry| entry.as_ref().unwrap().value().unwrap() == b"old").count(), 150);
        assert_eq!(snapshot.get("001").unwrap().unwrap(), b"old");
        assert!(!snapshot.contains_key("zzz").unwrap());
        snapshot.to_state().unwrap()
    });
    let state = reader.join().unwrap();
    assert_eq!(state.len(), 200);
    assert!(state.iter().all(|(_, value)| value == b"old"));
    assert_eq!(engine.stats().snapshots, 0);
    assert_eq!(engine.snapshot_state().unwrap().len(), 101);
}

#[test]
fn a_snapshot_outlives_the_engine_and_does_not_lock_the_store() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    engine.put("a", "1").unwrap();
    let snapshot = engine.snapshot().unwrap();
    drop(engine);
    let engine = open(&dir);
    engine.put("a", "2").unwrap();
    assert_eq!(snapshot.get("a").unwrap().unwrap(), b"1");
}

#[test]
fn a_store_is_open_once() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    assert_eq!(SingleNodeEngine::with_config(small(&dir)).unwrap_err().code(), "locked");
    drop(engine);
    open(&dir);
}

#[test]
fn a_read_only_store_reads_and_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let missing = SingleNodeEngine::open_read_only(dir.path().join("none")).unwrap_err();
    assert_eq!(missing.code(), "not_found", "{missing}");
    let engine = open(&dir);
    engine.put("a", "1").unwrap();
    drop(engine);
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name(), entry.metadata().unwrap().len(), entry.metadata().unwrap().modified().unwrap())
            })
            .collect();
        files.sort();
        files
    };
    let before = files();
    let reader = SingleNodeEngine::open_read_only(dir.path()).unwrap();
    let second = SingleNodeEngine::open_read_only(dir.path()).unwrap();
    assert_eq!(reader.get("a").unwrap().unwrap(), b"1");
    assert_eq!(second.prefix("").unwrap().count(), 1);
    assert_eq!(reader.put("b", "").unwrap_err().code(), "read_only");
    assert_eq!(reader.commit(Batch::new().put("b", "")).unwrap_err().code(), "read_only");
    assert_eq!(reader.flush().unwrap_err().code(), "read_only");
    drop((reader, second));
    assert_eq!(files(), before);
}

#[test]
fn readers_share_and_keep_a_writer_out() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    engine.put("a", "1").unwrap();
    assert_eq!(SingleNodeEngine::open_read_only(dir.path()).unwrap_err().code(), "locked");
    drop(engine);
    let write = || SingleNodeEngine::with_config(StoreConfig::at(dir.path()));
    let reader = SingleNodeEngine::open_read_only(dir.path()).unwrap();
    let second = SingleNodeEngine::open_read_only(dir.path()).unwrap();
    drop(reader);
    assert_eq!(write().unwrap_err().code(), "locked");
    let snapshot = second.snapshot().unwrap();
    drop(second);
    assert_eq!(write().unwrap_err().code(), "locked", "its files might be used again");
    assert_eq!(snapshot.get("a").unwrap().unwrap(), b"1");
    drop(snapshot);
    write().unwrap();
}

/// A commit beside a close is durable or refused with `Closed`; it never fails otherwise.
#[test]
fn commits_beside_a_close_are_durable_or_refused() {
    for round in 0..40_u64 {
        let dir = TempDir::new().unwrap();
        let engine = open(&dir);
        let write = |writer: u64| {
            let mut count = 0;
            loop {
                match engine.put_with(format!("{writer}/{count}"), "value", Durability::Sync) {
                    Ok(_) => count += 1,
                    Err(error) => break (writer, count, error),
                }
            }
        };
        let ends = thread::scope(|scope| {
            let writers: Vec<_> = (0..3).map(|writer| scope.spawn(move || write(writer))).collect();
            thread::sleep(Duration::from_micros(500 + 100 * (round % 8)));
            engine.close().unwrap();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
        });
        drop(engine);
        let again = open(&dir);
        for (writer, count, error) in ends {
            assert_eq!(error.code(), "closed", "round {round}: {error}");
            assert!((0..count).all(|number| again.get(format!("{writer}/{number}")).unwrap().is_some()));
        }
    }
}

#[test]
fn synced_writers_share_syncs() {
    let dir = TempDir::new().unwrap();
    let engine = Arc::new(open(&dir));
    let before = engine.stats().syncs;
    thread::scope(|scope| {
        for writer in 0..8 {
            let engine = &engine;
            scope.spawn(move || {
                for number in 0..25 {
                    engine.put_with(format!("{writer}/{number}"), "x", Durability::Sync).unwrap();
                    assert!(engine.stats().durable_seq > 0);
                }
            });
        }
    });
    let stats = engine.stats();
    assert_eq!(stats.keys, 200);
    assert!(stats.syncs - before <= 200, "{stats:?}");
    assert!(stats.durable_seq >= stats.latest_seq, "the last writer has waited for its own commit");
}

#[test]
fn the_interval_syncs_by_itself() {
    let dir = TempDir::new().unwrap();
    let engine = open(&dir);
    engine.put("a", "1").unwrap();
    // Many short waits instead of a deadline, so that a suspended machine does not end the wait.
    let has_synced = (0..10_000).any(|_| {
        thread::sleep(Duration::from_millis(2));
        engine.stats().durable_seq >= engine.latest_seq()
    });
    assert!(has_synced, "nobody synced");
}

#[test]
fn the_pipeline_keeps_order_and_outcomes() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::with_config(small(&dir).with_commit_queue_depth(2048)).unwrap();
    let tickets: Vec<_> = (0..2000_u64)
        .map(|number| engine.submit_async(set("counter", &number.to_string(), number + 1)).unwrap())
        .collect();
    for ticket in tickets {
        assert_eq!(ticket.wait().unwrap(), ApplyOutcome::Applied, "commands of one caller commit in their order");
    }
    assert_eq!(engine.get("counter").unwrap().unwrap(), b"1999");
    assert_eq!(engine.submit(set("counter", "stale", 3)).unwrap(), ApplyOutcome::IgnoredStale);
    assert_eq!(engine.put("k", "v").unwrap(), ApplyOutcome::Applied);
    assert_eq!(engine.delete("k").unwrap(), ApplyOutcome::Removed);
    assert_eq!(engine.put("", "v").unwrap_err().code(), "validation");
    engine.put_with("synced", "v", Durability::Sync).unwrap();
    let ticket = engine.commit_async(Batch::new().put("last", "one")).unwrap();
    engine.close().unwrap();
    assert!(ticket.wait().unwrap().is_committed(), "a close commits the queued writes");
    assert_eq!(engine.submit_async(set("k", "v", 1)).unwrap_err().code(), "closed");
}

#[test]
fn the_memory_cap_refuses_new_keys_only() {
    let dir = TempDir::new().unwrap();
    let config = small(&dir).with_max_index_memory_bytes(2 << 20);
    let engine = SingleNodeEngine::with_config(config).unwrap();
    let refused = (0..100_000).find(|number| engine.put(format!("key {number}"), "v").is_err()).unwrap();
    assert!(refused > 500, "{refused}");
    let error = engine.put("a new key", "v").unwrap_err();
    assert_eq!(error.code(), "full", "{error}");
    engine.put("key 0", "other").unwrap();
    engine.delete("key 1").unwrap();
    assert_eq!(engine.commit(Batch::new().put("key 2", "x").put("another", "y")).unwrap_err().code(), "full");
    assert_eq!(engine.get("key 2").unwrap().unwrap(), b"v", "a refused batch leaves nothing behind");
    assert_eq!(engine.len(), refused - 1);
    let by_reserve =
        |number: &usize| engine.commit(Batch::new().put(format!("reserve {number}"), "v").use_reserve(true));
    let refused = (0..100_000).find(|number| by_reserve(number).is_err()).unwrap();
    assert!((500..5000).contains(&refused), "the reserve has a bound: {refused}");
}

#[test]
fn live_and_dead_bytes_are_exact_across_reopen() {
    let dir = TempDir::new().unwrap();
    // Without compaction, which would remove the dead records.
    let config = small(&dir).with_compaction_interval(Duration::ZERO);
    let engine = SingleNodeEngine::with_config(config).unwrap();
    for round in 0..5 {
        for number in 0..300 {
            engine.put(format!("{number}"), format!("{round}").repeat(number % 40)).unwrap();
        }
    }
    for number in (0..300).step_by(3) {
        engine.delete(format!("{number}")).unwrap();
    }
    let live = |engine: &SingleNodeEngine| {
        let stats = engine.stats();
        (stats.live_bytes, stats.keys, stats.tombstones, stats.segments.iter().map(|s| s.live_records).sum::<u64>())
    };
    let before = live(&engine);
    assert_eq!((before.1, before.2, before.3), (200, 100, 300));
    assert!(engine.stats().dead_bytes > before.0, "{:?}", engine.stats());
    drop(engine);
    assert_eq!(live(&open(&dir)), before);
}

/// A hint of the index distinguishes 128 segments. With more segments most hints are wrong, and no
/// read may be affected.
#[test]
fn reads_are_right_where_hints_are_wrong() {
    let dir = TempDir::new().unwrap();
    let config = || small(&dir).with_max_segment_size(4 << 10).with_compaction_interval(Duration::ZERO);
    let engine = SingleNodeEngine::with_config(config()).unwrap();
    let key = |number: u32| format!("key/{number:05}");
    let value = |number: u32, round: u32| format!("{number} in round {round} ").repeat(40);
    for round in 0..3 {
        for number in 0..900 {
            engine.put(key(number), value(number, round)).unwrap();
        }
    }
    assert!(engine.stats().segments.len() > 3 * 128, "{} segments", engine.stats().segments.len());
    let check = |engine: &SingleNodeEngine| {
        let snapshot = engine.snapshot().unwrap();
        for number in 0..900 {
            assert_eq!(engine.get(key(number)).unwrap().unwrap(), value(number, 2).as_bytes());
            assert_eq!(snapshot.get(key(number)).unwrap().unwrap(), value(number, 2).as_bytes());
        }
        assert_eq!(engine.get("key/absent").unwrap(), None);
    };
    check(&engine);
    engine.run_compaction_now().unwrap();
    check(&engine);
    engine.close().unwrap();
    check(&SingleNodeEngine::with_config(config()).unwrap());
}
