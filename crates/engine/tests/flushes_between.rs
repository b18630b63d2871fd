//! Flushes that become due during long work: compaction and merges do them between their steps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here, and says what it saw")]

mod common;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use common::config;
use hightower_engine::{
    AppendMode, Background, CompactionConfig, CompactionPolicy, Components, CostBenefit, Goal, SegmentUsage,
    SingleNodeEngine, StoreConfig, TablesUse,
};
use hightower_seams::ManualClock;
use hightower_segment::sim::{FsHook, HookedFs, SeededEntropy, SimFs};

const BUDGET_BYTES: u64 = 1 << 20;
const KEYS: u32 = 40_000;

/// A writer beside long work, on the same thread: while it is active, each write to a file is
/// preceded by puts of all keys in turn.
#[derive(Debug, Default)]
struct Writer {
    engine: OnceLock<Weak<SingleNodeEngine>>,
    is_active: AtomicBool,
    is_writing: AtomicBool,
    next: AtomicU32,
    fs: SimFs,
    /// What a kill before each of the last writes of the manifest would have left, and the number
    /// of new values.
    killed: Mutex<Vec<(SimFs, u32)>>,
}

impl FsHook for Writer {
    fn before_write(&self, name: &str) -> io::Result<()> {
        if !self.is_active.load(Ordering::SeqCst) {
            return Ok(());
        }
        // A commit must not wait for the manifest.
        if name.starts_with("MANIFEST") {
            let renewed = self.next.load(Ordering::SeqCst).min(KEYS);
            let mut killed = self.killed.lock().unwrap();
            killed.push((self.fs.after_kill(), renewed));
            if killed.len() > 4 {
                killed.remove(0);
            }
            return Ok(());
        }
        if self.is_writing.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        for _ in 0..1000 {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            if number < KEYS {
                self.engine.get().unwrap().upgrade().unwrap().put(key(number), "new").unwrap();
            }
        }
        self.is_writing.store(false, Ordering::SeqCst);
        Ok(())
    }
}

/// Starts the writer when the victims of the first run are chosen.
#[derive(Debug)]
struct Starter(Arc<Writer>);

impl CompactionPolicy for Starter {
    fn choose(&self, usage: &[SegmentUsage], goal: Goal, config: &CompactionConfig) -> Vec<u32> {
        self.0.is_active.store(true, Ordering::SeqCst);
        CostBenefit.choose(usage, goal, config)
    }
}

fn key(number: u32) -> String {
    format!("key/{:08}/{number:06}", number.wrapping_mul(2_654_435_761))
}

fn settings() -> StoreConfig {
    config(AppendMode::Positioned)
        .with_max_segment_size(16 << 20)
        .with_min_segment_size(16 << 20)
        .with_index_memory_bytes(BUDGET_BYTES)
}

fn open(fs: &SimFs, writer: &Arc<Writer>) -> SingleNodeEngine {
    let hooked = HookedFs::new(Arc::new(fs.clone()), Arc::clone(writer) as Arc<_>);
    let components = Components::default()
        .with_fs(Arc::new(hooked))
        .with_clock(Arc::new(ManualClock::at(1_700_000_000_000)))
        .with_entropy(Arc::new(SeededEntropy::new(1)))
        .with_policy(Arc::new(Starter(Arc::clone(writer))))
        .with_background(Background::Caller);
    SingleNodeEngine::with_components(settings(), components).unwrap()
}

/// Does long work beside the writer, and checks that all keys have their newest values, now and
/// after a kill.
fn check(work: impl FnOnce(&SingleNodeEngine, &Writer)) {
    let writer = Arc::new(Writer::default());
    let fs = writer.fs.clone();
    let engine = Arc::new(open(&fs, &writer));
    writer.engine.set(Arc::downgrade(&engine)).unwrap();
    for number in 0..KEYS {
        engine.put(key(number), [number.to_le_bytes(); 16].concat()).unwrap();
    }
    work(&engine, &writer);
    writer.is_active.store(false, Ordering::SeqCst);
    let renewed = writer.next.load(Ordering::SeqCst).min(KEYS);
    let check = |engine: &SingleNodeEngine, renewed| {
        for number in 0..KEYS {
            let value = engine.get(key(number)).unwrap().unwrap();
            if number < renewed {
                assert_eq!(value, *b"new", "{number}");
            } else {
                assert_eq!(value, [number.to_le_bytes(); 16].concat(), "{number}");
            }
        }
        assert_eq!(engine.len(), KEYS as usize);
    };
    check(&engine, renewed);
    let mut killed = std::mem::take(&mut *writer.killed.lock().unwrap());
    assert!(killed.len() > 1);
    killed.push((fs.after_kill(), renewed));
    for (fs, renewed) in killed {
        let opened = open(&fs, &Arc::default());
        // Not rebuilt, which would hide a wrong list.
        let tables = &opened.open_report().tables;
        assert!(matches!(tables, TablesUse::Loaded { .. }), "{tables:?}");
        check(&opened, renewed);
    }
}

#[test]
fn a_compaction_flushes_between_its_steps() {
    check(|engine, _| {
        let before = engine.stats().index_memory;
        assert!(engine.run_compaction_now().unwrap().runs > 0);
        let after = engine.stats().index_memory;
        assert!(after.flushes > before.flushes, "{before:?} {after:?}");
    });
}

#[test]
fn a_merge_flushes_between_its_steps() {
    check(|engine, writer| {
        loop {
            engine.put(key(KEYS - 1), [(KEYS - 1).to_le_bytes(); 16].concat()).unwrap();
            let before = engine.stats().index_memory;
            writer.is_active.store(true, Ordering::SeqCst);
            engine.checkpoint().unwrap();
            writer.is_active.store(false, Ordering::SeqCst);
            let after = engine.stats().index_memory;
            if after.merges > before.merges {
                assert!(after.flushes > before.flushes, "{before:?} {after:?}");
                break;
            }
        }
    });
}
