//! Batches that require ranges unchanged: one rule at a time, and random ones beside a model.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

use std::collections::BTreeMap;
use std::ops::{Bound, RangeBounds};
use std::time::Duration;

use hightower_engine::{
    Batch, BatchOutcome, Command, CompactionConfig, Error, Expect, SingleNodeEngine, Snapshot, StoreConfig, limits,
};
use tempfile::TempDir;

#[path = "linearizability/random.rs"]
mod random;

use random::Random;

type OwnedBounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn config(dir: &TempDir) -> StoreConfig {
    StoreConfig::at(dir.path())
        .with_max_segment_size(64 << 10)
        .with_compaction_interval(Duration::ZERO)
        .with_compaction(CompactionConfig::default().with_tombstone_grace(Duration::ZERO))
}

#[test]
fn a_batch_can_require_ranges_unchanged() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::with_config(config(&dir)).unwrap();
    for key in ["p/1", "p/2", "q"] {
        engine.put(key, "1").unwrap();
    }
    let read = engine.snapshot().unwrap();
    let batch = |since| {
        let mut batch = Batch::new();
        batch.put("r", "").require_prefix("p/", since).require_range("q"..="q", since);
        batch
    };
    assert!(engine.commit(&batch(read.seq())).unwrap().is_committed());
    engine.delete("p/2").unwrap();
    let rejected = engine.commit(&batch(read.seq())).unwrap().committed().unwrap_err();
    assert_eq!((rejected.key, rejected.found), (b"p/2".to_vec(), None));
    assert_eq!(rejected.range.as_deref(), Some(&(Bound::Included(b"p/".to_vec()), Bound::Excluded(b"p0".to_vec()))));
    assert!(engine.commit(&batch(engine.latest_seq())).unwrap().is_committed());
    // One key.
    let mut one = Batch::new();
    one.put("r", "").require("p/1", Expect::UnchangedSince(read.seq()));
    assert!(engine.commit(&one).unwrap().is_committed());
    engine.put("p/1", "2").unwrap();
    assert!(!engine.commit(&one).unwrap().is_committed());
    // A flush forgets the delete, but never silently.
    engine.run_compaction_now().unwrap();
    assert!(matches!(engine.commit(&batch(read.seq())), Ok(outcome) if !outcome.is_committed()));
    let since = read.seq();
    drop(read);
    engine.put("p/1", "3").unwrap();
    engine.delete("q").unwrap();
    engine.run_compaction_now().unwrap();
    let mut of_q = Batch::new();
    of_q.put("r", "").require_prefix("q", since);
    let forgotten = engine.commit(&of_q).unwrap().committed().unwrap_err();
    assert_eq!((&forgotten.key, forgotten.known_since), (&Vec::new(), Some(engine.latest_seq())));
    assert!(forgotten.range.is_some() && forgotten.to_string().contains("remembers only changes since"), "{forgotten}");
    // A reopened store knows no changes before its open.
    let before = engine.latest_seq();
    engine.close().unwrap();
    let engine = SingleNodeEngine::with_config(config(&dir)).unwrap();
    let forgotten = engine.commit(&batch(before - 1)).unwrap().committed().unwrap_err();
    assert_eq!(forgotten.known_since, Some(engine.latest_seq()));
    assert!(engine.commit(&batch(engine.latest_seq())).unwrap().is_committed());
}

/// With a seqno of another store, or by a mistake, each commit would pass.
#[test]
fn a_range_cannot_be_unchanged_since_the_future() {
    for queue_depth in [0, 16] {
        let dir = TempDir::new().unwrap();
        let engine = SingleNodeEngine::with_config(config(&dir).with_commit_queue_depth(queue_depth)).unwrap();
        engine.put("a", "").unwrap();
        let batch = |since| Batch::new().put("b", "").require_prefix("p/", since).clone();
        for ahead in [engine.latest_seq() + 1, u64::MAX] {
            let good = engine.commit_async(Batch::new().put("a", "")).unwrap();
            let refused = engine.commit_async(batch(ahead.saturating_add(1))).unwrap();
            assert!(matches!(refused.wait(), Err(Error::Validation(_))), "{ahead}");
            assert!(good.wait().unwrap().is_committed());
        }
        assert_eq!(engine.get("b").unwrap(), None);
        assert!(engine.commit(&batch(engine.latest_seq())).unwrap().is_committed());
    }
}

/// The content of the store.
#[derive(Default)]
struct Model {
    /// The seqno of each key's last change, and its version if it has a value.
    keys: BTreeMap<Vec<u8>, (u64, Option<u64>)>,
    /// The store may have forgotten earlier changes.
    flushed_seq: u64,
}

impl Model {
    /// The keys that a commit after `since` has changed between two bounds.
    fn changed(&self, (from, to): &OwnedBounds, since: u64) -> impl Iterator<Item = &Vec<u8>> {
        let bounds = (from.as_ref(), to.as_ref());
        let is_changed = move |(key, (seqno, _)): &(&Vec<u8>, &(u64, Option<u64>))| {
            *seqno > since && RangeBounds::<Vec<u8>>::contains(&bounds, key)
        };
        self.keys.iter().filter(is_changed).map(|(key, _)| key)
    }
}

/// Few short keys, of the lowest and highest bytes too; a few of the greatest length.
fn a_key(random: &mut Random) -> Vec<u8> {
    let mut key: Vec<u8> = (0..=random.below(3)).map(|_| [0, b'a', b'b', u8::MAX][random.below(4) as usize]).collect();
    if random.below(20) == 0 {
        key.resize(limits::MAX_KEY_LEN_BYTES, u8::MAX);
    }
    key
}

/// Also bounds that are no keys: empty, or longer than a key can be.
fn a_bound(random: &mut Random) -> Bound<Vec<u8>> {
    let mut key = a_key(random);
    match random.below(20) {
        0 => key.clear(),
        1 => key.resize(limits::MAX_KEY_LEN_BYTES + 1, u8::MAX),
        _ => {}
    }
    match random.below(5) {
        0 => Bound::Unbounded,
        1 | 2 => Bound::Included(key),
        _ => Bound::Excluded(key),
    }
}

/// Commits a batch that requires up to three ranges unchanged since snapshots or any other seqno.
fn require_ranges(random: &mut Random, engine: &SingleNodeEngine, model: &mut Model, snapshots: &[Snapshot]) {
    let (mut batch, key) = (Batch::new(), a_key(random));
    batch.put(&key, "by the batch");
    let required: Vec<(OwnedBounds, u64)> = (0..=random.below(3))
        .map(|_| {
            let bounds = (a_bound(random), a_bound(random));
            let since = match snapshots.len() as u64 {
                0 => random.below(engine.latest_seq() + 1),
                held if random.below(2) == 0 => snapshots[random.below(held) as usize].seq(),
                _ => random.below(engine.latest_seq() + 1),
            };
            batch.require_range((bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice)), since);
            (bounds, since)
        })
        .collect();
    let is_changed = required.iter().any(|(bounds, since)| model.changed(bounds, *since).next().is_some());
    match engine.commit(&batch).unwrap() {
        BatchOutcome::Committed(committed) => {
            assert!(!is_changed, "{required:?}");
            model.keys.insert(key, (committed.seq, Some(committed.versions[0])));
        }
        BatchOutcome::Rejected(rejected) if rejected.known_since.is_some() => {
            let is_known = required.iter().all(|(_, since)| *since >= model.flushed_seq);
            assert!(!is_known, "forgotten since the last flush: {rejected}");
        }
        BatchOutcome::Rejected(rejected) => {
            let Expect::UnchangedSince(since) = rejected.expected else { panic!("{rejected}") };
            let range = *rejected.range.unwrap();
            assert!(required.contains(&(range.clone(), since)));
            assert!(model.changed(&range, since).any(|key| *key == rejected.key), "{:?}", rejected.key);
            assert_eq!(rejected.found, model.keys[&rejected.key].1);
        }
    }
}

/// Overlapping, empty and inverted ranges, since snapshots and earlier seqnos, beside compactions
/// that forget tombstones.
#[test]
fn a_batch_is_committed_if_and_only_if_its_ranges_are_unchanged() {
    for seed in 0..32 {
        let mut random = Random(seed);
        let (dir, mut model, mut snapshots) = (TempDir::new().unwrap(), Model::default(), Vec::new());
        let engine = SingleNodeEngine::with_config(config(&dir).with_commit_queue_depth(8 * (seed as usize % 2)));
        let engine = engine.unwrap();
        for _ in 0..80 {
            let key = a_key(&mut random);
            match random.below(9) {
                0 | 1 => {
                    let version = engine.put_versioned(&key, "").unwrap();
                    model.keys.insert(key, (engine.latest_seq(), Some(version)));
                }
                2 => {
                    engine.delete(&key).unwrap();
                    model.keys.insert(key, (engine.latest_seq(), None));
                }
                3 => {
                    let (version, before) = (random.below(200), engine.latest_seq());
                    if engine.submit(Command::set(key.clone(), "", version)).unwrap().changed() {
                        model.keys.insert(key, (engine.latest_seq(), Some(version)));
                    } else {
                        assert_eq!(engine.latest_seq(), before);
                    }
                }
                4 => {
                    engine.run_compaction_now().unwrap();
                    model.flushed_seq = engine.latest_seq();
                }
                5 => {
                    snapshots.push(engine.snapshot().unwrap());
                    if snapshots.len() > 3 {
                        snapshots.remove(0);
                    }
                }
                _ => require_ranges(&mut random, &engine, &mut model, &snapshots),
            }
        }
    }
}
