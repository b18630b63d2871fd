//! Only callers that request a sync wait for one: readers and other writers continue while a sync
//! hangs, in a commit or in a compaction.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use common::config;
use hightower_engine::{AppendMode, Components, Durability, SingleNodeEngine};
use hightower_segment::sim::{FsHook, HookedFs, SimFs};

/// A gate: syncs wait while it is shut.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    is_shut: bool,
    waiting: usize,
}

impl Gate {
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.waiting += 1;
        self.changed.notify_all();
        state = self.changed.wait_while(state, |state| state.is_shut).unwrap();
        state.waiting -= 1;
    }

    /// Shuts the gate until the guard is dropped, also by a panic; otherwise waiting threads would
    /// wait forever.
    fn shut(&self) -> Shut<'_> {
        self.state.lock().unwrap().is_shut = true;
        Shut(self)
    }

    fn wait_for(&self, waiting: usize) {
        drop(self.changed.wait_while(self.state.lock().unwrap(), |state| state.waiting < waiting).unwrap());
    }
}

struct Shut<'a>(&'a Gate);

impl Drop for Shut<'_> {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().is_shut = false;
        self.0.changed.notify_all();
    }
}

impl FsHook for Gate {
    fn before_file(&self) -> io::Result<()> {
        self.pass();
        Ok(())
    }
}

/// A store with positioned writes, so that each sync is a sync of a file.
fn open() -> (SingleNodeEngine, Arc<Gate>) {
    let gate = Arc::<Gate>::default();
    let fs = Arc::new(HookedFs::new(Arc::new(SimFs::new()), Arc::<Gate>::clone(&gate)));
    let engine = SingleNodeEngine::with_components(
        config(AppendMode::Positioned).with_max_segment_size(1 << 20),
        Components::default().with_fs(fs),
    );
    (engine.unwrap(), gate)
}

/// All calls that should not wait.
fn read_and_write(engine: &SingleNodeEngine) {
    let snapshot = engine.snapshot().unwrap();
    let before = snapshot.get("a").unwrap();
    assert_eq!(engine.get("a").unwrap(), before);
    let pairs: Vec<_> = engine.range(..).unwrap().map(|entry| entry.unwrap().into_pair().unwrap()).collect();
    assert_eq!(pairs.len(), engine.len());
    engine.put_with("beside", "it", Durability::Os).unwrap();
    engine.put_with("beside", "it", Durability::Interval(Duration::from_secs(3600))).unwrap();
    assert_eq!(engine.get("beside").unwrap().unwrap(), b"it");
    engine.delete_with("beside", Durability::Os).unwrap();
    assert!(!engine.contains_key("beside").unwrap());
    assert_eq!(snapshot.get("a").unwrap(), before);
}

/// Runs `stuck` into the shut gate until the given number of syncs wait there, and then makes other
/// calls.
fn nobody_waits_for(
    engine: &SingleNodeEngine,
    gate: &Gate,
    waiting: usize,
    stuck: impl FnOnce(&SingleNodeEngine) + Send,
) {
    thread::scope(|scope| {
        let shut = gate.shut();
        let stuck = scope.spawn(|| stuck(engine));
        gate.wait_for(waiting);
        let others = scope.spawn(|| read_and_write(engine));
        // Many short waits instead of a deadline, so that a suspended machine does not end the
        // wait.
        let have_ended = (0..20_000).any(|_| {
            thread::sleep(Duration::from_millis(1));
            others.is_finished()
        });
        assert!(have_ended, "they wait for a sync that none of them asked for");
        assert!(!stuck.is_finished(), "it did not wait for its sync");
        drop(shut);
        others.join().unwrap();
        stuck.join().unwrap();
    });
}

#[test]
fn readers_and_other_writers_wait_for_no_commit_that_waits_for_its_sync() {
    let (engine, gate) = open();
    engine.put("a", "1").unwrap();
    nobody_waits_for(&engine, &gate, 1, |engine| {
        engine.put_with("a", "2", Durability::Sync).unwrap();
    });
    assert_eq!(engine.get("a").unwrap().unwrap(), b"2");
}

#[test]
fn readers_and_other_writers_wait_for_no_batch_that_waits_for_its_sync() {
    let (engine, gate) = open();
    engine.put("a", "1").unwrap();
    nobody_waits_for(&engine, &gate, 1, |engine| {
        let batch = (0..200).map(|number| (format!("{number}"), [1; 100])).collect();
        assert!(engine.commit_with(&batch, Durability::Sync).unwrap().is_committed());
    });
}

#[test]
fn readers_and_writers_wait_for_no_compaction() {
    let (engine, gate) = open();
    for number in 0..2_000 {
        engine.put(format!("{}", number % 300), [1; 1000]).unwrap();
    }
    engine.put("a", "1").unwrap();
    nobody_waits_for(&engine, &gate, 1, |engine| {
        assert!(engine.run_compaction_now().unwrap().moved_records > 0);
    });
}
