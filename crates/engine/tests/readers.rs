//! The traits for trait objects, the builder, and the two spellings of settings.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use hightower_engine::{
    Batch, Durability, Error, Expect, KvReader, KvWriter, Pairs, Result, SingleNodeEngine, StoreConfig,
};
use tempfile::TempDir;

fn keys(pairs: Pairs<'_>) -> Vec<Vec<u8>> {
    pairs.map(|pair| pair.unwrap().0).collect()
}

/// All calls of a reader, with the same results for each reader.
fn reads(reader: &dyn KvReader) {
    assert_eq!(reader.get(b"a/1").unwrap().unwrap(), "one");
    assert_eq!(reader.get(b"z").unwrap(), None);
    let (value, version) = reader.get_versioned(b"a/2").unwrap().unwrap();
    assert_eq!((&value[..], version), (&b"two"[..], 2));
    assert!(reader.contains_key(b"b").unwrap() && !reader.contains_key(b"c").unwrap());
    assert_eq!(keys(reader.prefix(b"a/").unwrap()), [b"a/1", b"a/2"]);
    assert_eq!(keys(Box::new(reader.prefix(b"").unwrap().rev())), [&b"b"[..], b"a/2", b"a/1"]);
    let range = reader.range(Bound::Excluded(b"a/1"), Bound::Unbounded).unwrap();
    assert_eq!(keys(range), [&b"a/2"[..], b"b"]);
}

/// A reader that implements only the required methods.
struct Least(SingleNodeEngine);

impl KvReader for Least {
    fn get_versioned(&self, key: &[u8]) -> Result<Option<(hightower_engine::Value, u64)>> {
        self.0.get_versioned(key)
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
        KvReader::range(&self.0, from, to)
    }
}

impl KvWriter for Least {
    fn commit(&self, batch: &Batch) -> Result<hightower_engine::BatchOutcome> {
        self.0.commit(batch)
    }

    fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<hightower_engine::BatchOutcome> {
        self.0.commit_with(batch, durability)
    }
}

#[test]
fn stores_and_snapshots_are_read_through_one_trait() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    for (key, value) in [("a/1", "one"), ("a/2", "two"), ("b", "")] {
        engine.put(key, value).unwrap();
    }
    let snapshot = engine.snapshot().unwrap();
    reads(&engine);
    reads(&snapshot);
    let least = Arc::new(Least(engine));
    reads(&*least);
    let writer: Arc<dyn KvWriter> = least;
    writer.put(b"c", b"3").unwrap();
    writer.delete(b"b").unwrap();
    let refused = writer.commit(Batch::new().require("b", Expect::Present)).unwrap();
    assert!(matches!(refused.committed().map_err(Error::from), Err(Error::Rejected(_))));
    writer.commit_with(Batch::new().put("d", ""), Durability::Sync).unwrap().committed().unwrap();
    let reader: Arc<dyn KvReader> = writer;
    assert_eq!(keys(reader.range(Bound::Unbounded, Bound::Unbounded).unwrap()), [&b"a/1"[..], b"a/2", b"c", b"d"]);
    // The snapshot is unchanged, also on another thread.
    let old: Arc<dyn KvReader> = Arc::new(snapshot);
    std::thread::spawn(move || reads(&*old)).join().unwrap();
}

#[test]
fn a_closed_store_gives_no_range_through_the_trait() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    engine.close().unwrap();
    let reader: &dyn KvReader = &engine;
    assert!(matches!(reader.range(Bound::Unbounded, Bound::Unbounded), Err(Error::Closed)));
    assert!(matches!(reader.contains_key(b"a"), Err(Error::Closed)));
}

#[test]
fn a_builder_opens_with_what_it_was_given() {
    let dir = TempDir::new().unwrap();
    let builder = SingleNodeEngine::builder(dir.path())
        .max_segment_size(1 << 20)
        .min_segment_size(64 << 10)
        .durability(Durability::Sync)
        .commit_queue_depth(16)
        .max_disk_bytes(1 << 30)
        .compaction_interval(Duration::ZERO);
    assert_eq!(builder.config().data_dir, dir.path());
    let mut phases = 0;
    let (sender, receiver) = std::sync::mpsc::channel();
    let engine = builder
        .on_progress(move |progress| {
            sender.send(progress.total).unwrap();
            std::ops::ControlFlow::Continue(())
        })
        .open()
        .unwrap();
    phases += receiver.iter().count();
    assert!(phases > 0);
    assert_eq!(engine.config().max_disk_bytes, Some(1 << 30));
    engine.put("a", "1").unwrap();
    engine.close().unwrap();
    let reader = SingleNodeEngine::builder(dir.path()).read_only(true).open().unwrap();
    assert!(matches!(reader.put("a", "2"), Err(Error::ReadOnly)));
    drop(reader);
    let aborted = SingleNodeEngine::builder(dir.path()).on_progress(|_| std::ops::ControlFlow::Break(())).open();
    assert!(matches!(aborted, Err(Error::Aborted(_))));
    let bad = SingleNodeEngine::builder(dir.path()).commit_queue_depth((1 << 20) + 1).open().unwrap_err();
    assert!(bad.to_string().contains("commit_queue_depth"), "{bad}");
}

/// The predecessor's spelling of a setting and the new one have the same effect.
#[test]
fn either_spelling_of_a_setting_counts() {
    let threads = |engine: &SingleNodeEngine| {
        let ticket = engine.commit_async(Batch::new().put("a", "1")).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        ticket.on_outcome(move |_| sender.send(std::thread::current().id()).unwrap());
        receiver.recv().unwrap()
    };
    let dir = TempDir::new().unwrap();
    let mut old = StoreConfig::at(dir.path().join("old"));
    old.worker_threads = 2;
    old.fsync_interval = Duration::from_millis(7);
    assert_eq!(old.effective_durability(), Durability::Interval(Duration::from_millis(7)));
    let new = old.clone().with_durability(Durability::Os);
    assert_eq!(new.effective_durability(), Durability::Os);
    let engine = SingleNodeEngine::with_config(old).unwrap();
    let _id = threads(&engine);
    drop(engine);

    for (queue_depth, is_checkpointed) in [(16, true), (0, false)] {
        let path = dir.path().join(format!("new-{queue_depth}"));
        let config = StoreConfig::at(path)
            .with_commit_queue_depth(queue_depth)
            .with_checkpoint_after_compaction(is_checkpointed)
            .with_compaction_interval(Duration::ZERO);
        let engine = SingleNodeEngine::with_config(config).unwrap();
        if queue_depth == 0 {
            assert_eq!(threads(&engine), std::thread::current().id());
        }
        for round in 0..100 {
            engine.put("a", format!("{round}")).unwrap();
        }
        engine.checkpoint().unwrap();
        engine.run_compaction_now().unwrap();
        let flushes = engine.stats().compaction.checkpoints;
        engine.put("b", "with nothing to compact").unwrap();
        engine.run_compaction_now().unwrap();
        assert_eq!(engine.stats().compaction.checkpoints > flushes, is_checkpointed);
    }
}
