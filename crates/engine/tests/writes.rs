//! The write calls: returned versions, deletes that report their effect, updates without lost
//! steps, reusable batches, rejections as errors.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::thread;
use std::time::Duration;

use hightower_engine::{
    ApplyOutcome, Batch, BatchOutcome, Command, CompactionConfig, Durability, Error, Expect, Rejected,
    SingleNodeEngine, StoreConfig,
};
use tempfile::TempDir;

fn open(queue_depth: usize) -> (TempDir, SingleNodeEngine) {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::builder(dir.path()).commit_queue_depth(queue_depth).open().unwrap();
    (dir, engine)
}

#[test]
fn a_put_tells_the_version_that_a_read_finds() {
    for queue_depth in [0, 64] {
        let (_dir, engine) = open(queue_depth);
        let first = engine.put_versioned("a", "1").unwrap();
        let second = engine.put_versioned("a", "2").unwrap();
        assert!(second > first);
        assert_eq!(engine.get_versioned("a").unwrap(), Some(("2".into(), second)));
        assert!(matches!(engine.put_versioned("", "x"), Err(Error::Validation(_))));
    }
}

#[test]
fn a_remove_of_an_absent_key_says_so_and_writes_nothing() {
    let (_dir, engine) = open(0);
    engine.put("other", "").unwrap();
    let before = (engine.latest_seq(), engine.latest_version(), engine.stats().live_bytes);
    assert_eq!(engine.remove("job").unwrap(), None);
    assert_eq!((engine.latest_seq(), engine.latest_version(), engine.stats().live_bytes), before);

    engine.put("job", "queued").unwrap();
    let version = engine.remove("job").unwrap().unwrap();
    assert_eq!(version, engine.latest_version());
    assert_eq!(engine.remove("job").unwrap(), None, "there is a tombstone, and no value");
    assert_eq!(engine.latest_version(), version);
}

/// A repeated command is stale; its acknowledgement with `Sync` covers the first one.
#[test]
fn a_stale_write_at_sync_waits_for_what_made_it_stale() {
    let (_dir, engine) = open(0);
    let again = || Command::set("a", "1", 9);
    engine.submit_with(again(), Durability::Os).unwrap();
    assert_eq!(engine.submit_with(again(), Durability::Sync).unwrap(), ApplyOutcome::IgnoredStale);
    assert_eq!(engine.stats().durable_seq, engine.latest_seq());
}

/// The difference between `delete` and `remove`: a command with an older version that arrives
/// later.
#[test]
fn a_delete_keeps_late_commands_out_and_a_remove_that_wrote_nothing_does_not() {
    let (_dir, engine) = open(0);
    engine.put("other", "").unwrap();
    engine.put("other", "").unwrap();
    let late = |key| Command::set(key, "late", 1);
    assert_eq!(engine.delete("deleted").unwrap(), ApplyOutcome::Removed);
    assert_eq!(engine.submit(late("deleted")).unwrap(), ApplyOutcome::IgnoredStale);
    assert_eq!(engine.remove("removed").unwrap(), None);
    assert_eq!(engine.submit(late("removed")).unwrap(), ApplyOutcome::Applied);
    assert_eq!(engine.get("removed").unwrap().unwrap(), "late");
    // A remove of a present key leaves a tombstone, as a delete does.
    engine.put("both", "").unwrap();
    engine.remove("both").unwrap().unwrap();
    assert_eq!(engine.submit(late("both")).unwrap(), ApplyOutcome::IgnoredStale);
}

#[test]
fn one_of_several_takers_gets_the_value() {
    let (_dir, engine) = open(0);
    for round in 0..50 {
        engine.put("token", format!("{round}")).unwrap();
        let taken: Vec<_> = thread::scope(|scope| {
            let takers: Vec<_> = (0..4).map(|_| scope.spawn(|| engine.take("token").unwrap())).collect();
            takers.into_iter().filter_map(|taker| taker.join().unwrap()).collect()
        });
        assert_eq!(taken, [format!("{round}")]);
    }
    assert_eq!(engine.get("token").unwrap(), None);
}

#[test]
fn no_update_is_lost() {
    const THREADS: u64 = 4;
    const STEPS: u64 = 100;
    for queue_depth in [0, 64] {
        let (_dir, engine) = open(queue_depth);
        let step = |value: Option<&[u8]>| {
            let count = value.map_or(0, |value| u64::from_be_bytes(value.try_into().unwrap()));
            Some((count + 1).to_be_bytes())
        };
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..STEPS {
                        engine.fetch_update("count", step).unwrap();
                    }
                });
            }
        });
        assert_eq!(engine.get("count").unwrap().unwrap(), (THREADS * STEPS).to_be_bytes());
        let last = engine.fetch_update("count", |_| None::<&str>).unwrap().unwrap();
        assert_eq!(last, (THREADS * STEPS).to_be_bytes());
        let seq = engine.latest_seq();
        assert_eq!(engine.fetch_update("count", |value| value.map(|_| "never")).unwrap(), None);
        assert_eq!(engine.latest_seq(), seq, "an absent key that stays absent is not written");
    }
}

/// k with version 10 is read and deleted, the grace of its tombstone is over, and version 10 is
/// submitted again with another value: the snapshot of the update keeps the tombstone.
#[test]
fn an_update_is_not_fooled_by_a_version_that_comes_back() {
    for queue_depth in [0, 64] {
        let dir = TempDir::new().unwrap();
        let config = StoreConfig::at(dir.path())
            .with_compaction_interval(Duration::ZERO)
            .with_compaction(CompactionConfig::default().with_tombstone_grace(Duration::ZERO))
            .with_commit_queue_depth(queue_depth);
        let engine = SingleNodeEngine::with_config(config).unwrap();
        assert!(engine.submit(Command::set("k", "first", 10)).unwrap().changed());
        let mut seen = Vec::new();
        let old = engine.fetch_update("k", |value| {
            seen.push(value.map(<[u8]>::to_vec));
            if seen.len() == 1 {
                engine.delete("k").unwrap();
                engine.run_compaction_now().unwrap();
                assert!(!engine.submit(Command::set("k", "second", 10)).unwrap().changed());
            }
            Some("updated")
        });
        assert_eq!(old.unwrap(), None);
        assert_eq!(seen, [Some(b"first".to_vec()), None]);
    }
}

#[test]
fn an_update_that_never_gets_through_ends() {
    let (_dir, engine) = open(0);
    let mut calls = 0;
    let never = engine.fetch_update("k", |_| {
        calls += 1;
        engine.put("k", "").unwrap();
        Some("")
    });
    assert!(matches!(never, Err(Error::TransactionConflict(met)) if met.key == b"k"));
    assert_eq!(calls, 1000);
}

#[test]
fn a_batch_can_be_used_again() {
    for queue_depth in [0, 64] {
        let (_dir, engine) = open(queue_depth);
        let mut batch = engine.batch();
        batch.put("a", "1").put("b", "2");
        for _ in 0..3 {
            engine.commit(&batch).unwrap().committed().unwrap();
        }
        engine.commit_with(&batch, Durability::Sync).unwrap().committed().unwrap();
        engine.commit_async(&batch).unwrap().wait().unwrap().committed().unwrap();
        let outcomes = engine.commit_async(batch).unwrap().wait().unwrap().committed().unwrap().outcomes;
        assert_eq!(outcomes, [ApplyOutcome::Applied; 2]);
        assert_eq!(engine.latest_seq(), 6);
        // Built and committed in one expression.
        engine.commit(Batch::new().delete("a").delete("b")).unwrap().committed().unwrap();
        engine.commit_async(Batch::new().put("c", "")).unwrap().wait().unwrap().committed().unwrap();
        assert_eq!(engine.len(), 1);
    }
}

#[test]
fn pairs_collect_into_a_batch() {
    let (_dir, engine) = open(0);
    let mut batch: Batch = (0..10).map(|number| (format!("{number}"), "")).collect();
    batch.extend([("x", "y")]);
    assert_eq!(batch.len(), 11);
    engine.commit(&batch).unwrap().committed().unwrap();
    assert_eq!(engine.get("x").unwrap().unwrap(), "y");
}

#[test]
fn a_rejection_is_an_error_where_it_is_wanted() {
    let (_dir, engine) = open(0);
    engine.put("lock", "node-1").unwrap();
    let claim = || -> Result<u64, Error> {
        let committed =
            engine.commit(Batch::new().put("lock", "node-2").require("lock", Expect::Absent))?.committed()?;
        Ok(committed.seq)
    };
    let error = claim().unwrap_err();
    let expected = Rejected::new(b"lock".to_vec(), Expect::Absent, Some(1));
    assert!(matches!(&error, Error::Rejected(rejected) if *rejected == expected));
    assert_eq!(error.to_string(), "the batch was rejected: lock must have no value, but has one of version 1");
    assert!(matches!(engine.commit(&Batch::new()).unwrap(), BatchOutcome::Committed(_)));
    engine.delete("lock").unwrap();
    assert!(claim().is_ok());
}

#[test]
fn a_submitted_command_has_the_durability_that_its_call_asks_for() {
    let dir = TempDir::new().unwrap();
    for queue_depth in [0, 64] {
        let builder = SingleNodeEngine::builder(dir.path()).durability(Durability::Os);
        let engine = builder.commit_queue_depth(queue_depth).open().unwrap();
        let syncs = engine.stats().syncs;
        engine.submit_with(Command::set("a", "1", 1), Durability::Sync).unwrap();
        engine.submit_async_with(Command::set("b", "1", 2), Durability::Sync).unwrap().wait().unwrap();
        let batch = Batch::from_iter([("c", "1")]);
        engine.commit_async_with(batch, Durability::Sync).unwrap().wait().unwrap().committed().unwrap();
        if queue_depth == 0 {
            // The first two are the same as in the second round, so they are stale.
            assert_eq!(engine.stats().syncs, syncs + 3);
        } else {
            assert_eq!(engine.stats().syncs, syncs + 1);
        }
        engine.close().unwrap();
    }
}
