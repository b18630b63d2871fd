//! Tombstones are dropped while snapshots begin and end.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use hightower_engine::{CompactionConfig, SingleNodeEngine, StoreConfig};

/// A dropped tombstone has no record any more, so no index entry may point to it: a checkpoint and
/// an export would fail.
#[test]
fn a_snapshot_on_its_way_leaves_no_tombstone_without_a_record() {
    const KEYS: u32 = 5_000;
    let dir = tempfile::tempdir().unwrap();
    let compaction = CompactionConfig::default().with_tombstone_grace(Duration::ZERO);
    let config = StoreConfig::at(dir.path()).with_compaction_interval(Duration::ZERO).with_compaction(compaction);
    let engine = SingleNodeEngine::with_config(config).unwrap();
    let over = AtomicBool::new(false);
    let forgotten: Result<Vec<u64>, _> = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    drop(engine.snapshot().unwrap());
                }
            });
        }
        let round = |round: u32| {
            (0..KEYS).try_for_each(|key| engine.put(format!("{round}/{key}"), "value").map(drop))?;
            (0..KEYS).try_for_each(|key| engine.delete(format!("{round}/{key}")).map(drop))?;
            Ok(engine.run_compaction_now()?.forgotten_tombstones)
        };
        // A thread that holds a snapshot while it waits for a processor prevents a round from
        // dropping anything.
        let is_idle = |forgotten: &Result<u64, hightower_engine::Error>| matches!(forgotten, Ok(0));
        let forgotten = (0..100).map(round).filter(|forgotten| !is_idle(forgotten)).take(4).collect();
        over.store(true, Ordering::Relaxed);
        forgotten
    });
    assert_eq!(forgotten.unwrap().len(), 4);
    engine.export_snapshot(&mut Vec::new()).unwrap();
    engine.close().unwrap();
}
