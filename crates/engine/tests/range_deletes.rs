//! Deletes of ranges: all keys of the range and no other, in steps that others may come between.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use hightower_engine::{Error, SingleNodeEngine, StoreConfig};
use proptest::prelude::*;
use tempfile::TempDir;

const STEP: usize = 1024;

fn keys(engine: &SingleNodeEngine) -> BTreeSet<Vec<u8>> {
    engine.iter().unwrap().map(|entry| entry.key().to_vec()).collect()
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
