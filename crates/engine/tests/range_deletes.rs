//! Deletes of ranges: all keys of the range and no other, in steps that others may come between.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hightower_engine::{CompactionConfig, Error, SingleNodeEngine, StoreConfig};
use proptest::prelude::*;
use tempfile::TempDir;

#[path = "linearizability/random.rs"]
mod random;

use random::Random;

const STEP: usize = 1024;

/// Ends the other threads of a test, also of one that fails.
struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn keys(engine: &SingleNodeEngine) -> BTreeSet<Vec<u8>> {
    engine.iter().unwrap().map(|entry| entry.unwrap().key().to_vec()).collect()
}

#[test]
fn each_key_of_the_range_goes_also_at_the_end_of_a_step() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    // Each second key continues the one before it, and one of the latter ends a step.
    engine.put("k", "").unwrap();
    for number in 0..2 * STEP {
        engine.put(format!("k{number:05}"), "").unwrap();
        engine.put(format!("k{number:05}\0"), "").unwrap();
    }
    engine.put("j", "before").unwrap();
    engine.put("l", "behind").unwrap();
    let mut steps = Vec::new();
    let deletion = engine.delete_range_with_progress("k".."l", |deleted| {
        steps.push(deleted);
        ControlFlow::Continue(())
    });
    let deletion = deletion.unwrap();
    let all = 4 * STEP as u64 + 1;
    assert_eq!((deletion.deleted_keys, deletion.is_complete), (all, true));
    assert_eq!(steps, [1, 2, 3, 4, 5].map(|step| all.min(step * STEP as u64)));
    assert_eq!(keys(&engine), BTreeSet::from([b"j".to_vec(), b"l".to_vec()]));
    engine.close().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    assert_eq!(engine.len(), 2);
    assert_eq!(engine.delete_prefix("").unwrap(), 2);
    assert_eq!(engine.delete_prefix("").unwrap(), 0);
}

#[test]
fn keys_of_any_length_fit_into_steps() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    let longest = hightower_engine::limits::MAX_KEY_LEN_BYTES;
    for number in 0..40_u8 {
        engine.put(vec![number; longest], "").unwrap();
    }
    assert_eq!(engine.delete_range(..).unwrap(), 40);
    assert!(keys(&engine).is_empty());
}

#[test]
fn the_watcher_may_end_it_and_call_the_store() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    let put_all = || {
        for number in 0..3 * STEP {
            engine.put(format!("{number:05}"), "").unwrap();
        }
    };
    put_all();
    let part = engine.delete_range_with_progress(.., |deleted| {
        engine.put("00000", "written behind the step").unwrap();
        if deleted < 2 * STEP as u64 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let part = part.unwrap();
    assert_eq!((part.deleted_keys, part.is_complete), (2 * STEP as u64, false));
    assert_eq!(engine.len(), STEP + 1);
    assert_eq!(engine.delete_range("00001"..).unwrap(), STEP as u64);
    assert_eq!(engine.get("00000").unwrap().unwrap(), "written behind the step");
    put_all();
    let closed = engine.delete_range_with_progress(.., |_| {
        engine.close().unwrap();
        ControlFlow::Continue(())
    });
    assert!(matches!(closed, Err(Error::Closed)));
}

/// Also if each step is followed by a put behind the last key.
#[test]
fn it_ends_beside_a_writer_that_appends() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    for number in 0..STEP + 10 {
        engine.put(format!("q/{number:06}"), "").unwrap();
    }
    let mut steps = 0;
    let deletion = engine.delete_range_with_progress("q/"..="r", |_| {
        steps += 1;
        engine.put(format!("q/000012.{steps}"), "behind the step").unwrap();
        engine.put(format!("q/001030.{steps}"), "ahead of the first step").unwrap();
        engine.put(format!("q/1{steps:05}"), "beyond the end").unwrap();
        if steps < 50 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let deletion = deletion.unwrap();
    assert_eq!((steps, deletion.deleted_keys, deletion.is_complete), (2, STEP as u64 + 11, true));
    let left = ["q/000012.1", "q/000012.2", "q/001030.2", "q/100001", "q/100002"];
    assert_eq!(keys(&engine), left.map(|key| key.as_bytes().to_vec()).into());
    assert_eq!(engine.delete_prefix("q/").unwrap(), 5, "the next call takes them");
}

/// A step does not keep the versions and tombstones that a snapshot would.
#[test]
fn no_snapshot_is_held_while_the_watcher_runs() {
    let dir = TempDir::new().unwrap();
    let compaction = CompactionConfig::default().with_tombstone_grace(Duration::ZERO);
    let config = StoreConfig::at(dir.path()).with_compaction_interval(Duration::ZERO).with_compaction(compaction);
    let engine = SingleNodeEngine::with_config(config).unwrap();
    for number in 0..10 {
        engine.put(format!("{number}"), "").unwrap();
    }
    let mut forgotten = 0;
    engine
        .delete_range_with_progress(.., |_| {
            forgotten = engine.run_compaction_now().unwrap().forgotten_tombstones;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(forgotten, 10);
}

#[test]
fn a_watcher_that_panics_leaves_the_store_in_use() {
    let dir = TempDir::new().unwrap();
    for queue_depth in [0, 16] {
        let config = StoreConfig::at(dir.path()).with_commit_queue_depth(queue_depth);
        let engine = SingleNodeEngine::with_config(config).unwrap();
        for number in 0..2 * STEP {
            engine.put(format!("{number:05}"), "").unwrap();
        }
        let panicking = || engine.delete_range_with_progress(.., |_| panic!("a bug of the caller"));
        assert!(std::panic::catch_unwind(AssertUnwindSafe(panicking)).is_err());
        assert_eq!(engine.len(), STEP, "the step counts");
        engine.put("and the store", "works").unwrap();
        // A watcher may delete a range too: the same one.
        let nested = engine.delete_range_with_progress(.., |_| {
            engine.delete_range(..).unwrap();
            ControlFlow::Continue(())
        });
        assert!(nested.unwrap().is_complete && engine.is_empty());
        engine.close().unwrap();
    }
}

#[test]
fn others_may_write_and_read_meanwhile() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    for number in 0..20 * STEP {
        engine.put(format!("d/{number:06}"), "").unwrap();
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut written = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                engine.put(format!("e/{written:08}"), "stays").unwrap();
                written += 1;
            }
            written
        });
        let snapshot = engine.snapshot().unwrap();
        assert_eq!(engine.delete_prefix("d/").unwrap(), 20 * STEP as u64);
        assert_eq!(snapshot.prefix("d/").count(), 20 * STEP, "a snapshot keeps what it shows");
        is_over.store(true, Ordering::Relaxed);
        let written = writer.join().unwrap();
        assert_eq!(engine.prefix("d/").unwrap().count(), 0);
        assert_eq!(engine.len() as u64, written);
    });
}

/// Two writers of random keys give each the number of the round, which the main thread raises
/// before a deletion.
#[test]
fn what_was_written_before_the_call_goes_beside_writers_and_other_deletions() {
    const KEYS: u64 = 3 * STEP as u64;
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    let (round, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let seen = [AtomicU64::new(0), AtomicU64::new(0)];
    std::thread::scope(|scope| {
        for (number, seen) in seen.iter().enumerate() {
            let (engine, round, is_over) = (&engine, &round, &is_over);
            scope.spawn(move || {
                let mut random = Random(number as u64);
                while !is_over.load(Ordering::Relaxed) {
                    let now = round.load(Ordering::SeqCst);
                    engine.put(random.below(KEYS).to_be_bytes(), now.to_be_bytes()).unwrap();
                    seen.store(now, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                engine.delete_range((KEYS / 2).to_be_bytes()..).unwrap();
            }
        });
        let _ends_with_this = SetWhenDropped(&is_over);
        for now in 1..20_u64 {
            round.store(now, Ordering::SeqCst);
            while seen.iter().any(|seen| seen.load(Ordering::SeqCst) < now) {
                std::thread::yield_now();
            }
            engine.delete_range(..).unwrap();
            for entry in engine.iter().unwrap() {
                let written = u64::from_be_bytes(entry.unwrap().value().unwrap().as_ref().try_into().unwrap());
                assert!(written >= now, "a key of round {written} is left in round {now}");
            }
        }
    });
}

#[test]
fn a_read_only_store_refuses() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    engine.put("a", "1").unwrap();
    engine.close().unwrap();
    let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path()).with_read_only(true)).unwrap();
    assert!(matches!(engine.delete_prefix("a"), Err(Error::ReadOnly)));
    assert_eq!(engine.delete_prefix("b").unwrap(), 0, "there is nothing to write");
}

fn a_bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    let key = prop::collection::vec(0_u8..3, 0..3);
    prop_oneof![Just(Unbounded), key.clone().prop_map(Included), key.prop_map(Excluded)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_range_goes_as_in_a_sorted_map(
        from in a_bound(),
        to in a_bound(),
        all in prop::collection::btree_set(prop::collection::vec(0_u8..3, 1..4), 0..20),
    ) {
        let dir = TempDir::new().unwrap();
        let engine = SingleNodeEngine::open(dir.path()).unwrap();
        for key in &all {
            engine.put(key, "").unwrap();
        }
        let is_in = |key: &Vec<u8>| {
            let from = match &from { Unbounded => true, Included(from) => key >= from, Excluded(from) => key > from };
            from && match &to { Unbounded => true, Included(to) => key <= to, Excluded(to) => key < to }
        };
        let deleted = engine.delete_range((from.clone(), to.clone())).unwrap();
        prop_assert_eq!(deleted, all.iter().filter(|key| is_in(key)).count() as u64);
        prop_assert_eq!(keys(&engine), all.iter().filter(|key| !is_in(key)).cloned().collect());
    }
}
