//! The budget of the index's memory: flushes in time, and writers that are slowed when flushes are
//! slower than they are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here, and says what it saw")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use common::{config, open_with};
use hightower_engine::{
    AppendMode, Background, CompactionConfig, CompactionPolicy, Components, Goal, IndexMemoryStats, SegmentUsage,
    SingleNodeEngine, StoreConfig,
};
use hightower_seams::ManualClock;
use hightower_segment::sim::{Fault, FaultKind, SeededEntropy, SimFs};

const BUDGET_BYTES: u64 = 1 << 20;

fn tight() -> StoreConfig {
    config(AppendMode::Positioned)
        .with_max_segment_size(1 << 20)
        .with_min_segment_size(256 << 10)
        .with_index_memory_bytes(BUDGET_BYTES)
}

fn key(number: u32) -> String {
    format!("key/{:08}/{number:06}", number.wrapping_mul(2_654_435_761))
}

fn memory(engine: &SingleNodeEngine) -> IndexMemoryStats {
    engine.stats().index_memory
}

fn used_bytes(memory: &IndexMemoryStats) -> u64 {
    memory.active_bytes + memory.frozen_bytes
}

/// Waits for the background, for 20 s at most: its own pauses may take 10 s.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    assert!(
        (0..4000).any(|_| {
            thread::sleep(Duration::from_millis(5));
            is_so()
        }),
        "{what}"
    );
}

/// Keys of many times the budget: written, read, and opened again after a kill.
#[test]
fn the_memory_of_the_index_does_not_depend_on_the_number_of_keys() {
    const KEYS: u32 = 60_000;
    for background in [Background::Caller, Background::Threads] {
        let fs = SimFs::new();
        // With the system's clock: a manual one would not delay anybody.
        let open = |fs: &SimFs| {
            let components = Components::default().with_fs(Arc::new(fs.clone())).with_background(background);
            SingleNodeEngine::with_components(tight(), components).unwrap()
        };
        let engine = open(&fs);
        // Without threads the memtable is flushed at its half; with them, the longest excess is the
        // one at which a commit waits 10 ms, and what a slow machine adds. All keys take six
        // budgets.
        let limit = if background == Background::Caller { BUDGET_BYTES * 3 / 4 } else { BUDGET_BYTES * 5 / 2 };
        for number in 0..KEYS {
            engine.put(key(number), number.to_le_bytes()).unwrap();
            if number % 100 == 0 {
                let used_bytes = used_bytes(&memory(&engine));
                assert!(used_bytes <= limit, "{background:?}: {used_bytes}");
            }
        }
        let check = |engine: &SingleNodeEngine| {
            for number in 0..KEYS {
                assert_eq!(engine.get(key(number)).unwrap().unwrap(), number.to_le_bytes(), "{number}");
            }
            assert_eq!(engine.get(key(KEYS)).unwrap(), None);
            assert_eq!(engine.len(), KEYS as usize);
        };
        check(&engine);
        let stats = memory(&engine);
        assert!(stats.flushes >= 10 && stats.merges > 0 && stats.flush_failure.is_none(), "{stats:?}");
        assert_eq!(stats.budget_bytes, BUDGET_BYTES);
        assert!(background == Background::Threads || stats.delays == 0, "{stats:?}");
        if background == Background::Threads {
            until("an idle store gives its memory back", || {
                let stats = memory(&engine);
                stats.held_bytes + stats.frozen_bytes == 0 && stats.active_bytes < BUDGET_BYTES / 2
            });
        }
        let killed = open(&fs.after_kill());
        // Half of the budget each in the active memtable and in one that was not written yet.
        assert!(killed.open_report().replayed_records < 20_000, "{:?}", killed.open_report());
        check(&killed);
        assert!(used_bytes(&memory(&killed)) <= limit);
        engine.close().unwrap();
        let closed = memory(&engine);
        assert_eq!((used_bytes(&closed), closed.held_bytes), (0, 0));
        let again = open(&fs);
        assert_eq!(again.open_report().replayed_records, 0);
        check(&again);
    }
}

/// A key that is overwritten needs no memory, but it makes the log long.
#[test]
fn a_key_that_is_overwritten_is_flushed_so_that_a_replay_stays_short() {
    let fs = SimFs::new();
    let engine = open_with(&fs, tight(), 1, Background::Caller).unwrap();
    for number in 0..10_000_u32 {
        engine.put("counter", [number.to_le_bytes(); 200].concat()).unwrap();
        assert!(memory(&engine).log_bytes <= 2 * BUDGET_BYTES + (64 << 10));
    }
    let stats = memory(&engine);
    assert!(stats.active_bytes < BUDGET_BYTES / 2, "the log is what asks for flushes: {stats:?}");
    assert!((3..=5).contains(&stats.flushes), "{stats:?}");
    let killed = open_with(&fs.after_kill(), tight(), 2, Background::Caller).unwrap();
    assert!(killed.open_report().replayed_records < 3000, "{:?}", killed.open_report());
    assert_eq!(killed.get("counter").unwrap().unwrap()[..4], 9999_u32.to_le_bytes());
    let replayed = memory(&killed).log_bytes;
    assert!((1..=2 * BUDGET_BYTES).contains(&replayed), "the replayed log counts: {replayed}");
}

/// A policy that keeps the background busy while its gate is closed.
#[derive(Debug, Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
    is_waiting: AtomicBool,
    was_asked: AtomicBool,
}

/// Opens the gate at the end, so that a failed test does not wait for the background.
struct OpenAtEnd(Arc<Gate>);

impl Drop for OpenAtEnd {
    fn drop(&mut self) {
        self.0.set_closed(false);
    }
}

impl Gate {
    fn set_closed(&self, is_closed: bool) {
        *self.is_closed.lock().unwrap() = is_closed;
        self.opened.notify_all();
    }
}

impl CompactionPolicy for Gate {
    fn choose(&self, _: &[SegmentUsage], _: Goal, _: &CompactionConfig) -> Vec<u32> {
        self.was_asked.store(true, Ordering::SeqCst);
        let mut is_closed = self.is_closed.lock().unwrap();
        while *is_closed {
            self.is_waiting.store(true, Ordering::SeqCst);
            is_closed = self.opened.wait(is_closed).unwrap();
        }
        self.is_waiting.store(false, Ordering::SeqCst);
        Vec::new()
    }
}

/// A flush that does not come slows writers, gently and only while memory is above the budget.
#[test]
fn writers_are_slowed_when_all_memtables_take_more_than_the_budget() {
    assert!((0..20).any(|_| are_writers_slowed()), "the background repeats each failed flush at once");
}

/// Returns `false` if the background repeated the failed flush before its gate was closed.
fn are_writers_slowed() -> bool {
    let (fs, gate) = (SimFs::new(), Arc::new(Gate::default()));
    let components = Components::default()
        .with_fs(Arc::new(fs.clone()))
        .with_clock(Arc::new(ManualClock::at(1_700_000_000_000)))
        .with_entropy(Arc::new(SeededEntropy::new(1)))
        .with_policy(Arc::clone(&gate) as Arc<_>);
    let config = tight().with_compaction_interval(Duration::from_millis(5));
    let engine = SingleNodeEngine::with_components(config, components).unwrap();
    let _open_at_end = OpenAtEnd(Arc::clone(&gate));
    until("the background has begun", || gate.was_asked.load(Ordering::SeqCst));
    let mut numbers = 0..;
    let mut put_until = |is_enough: &dyn Fn(&IndexMemoryStats) -> bool| {
        for number in numbers.by_ref() {
            engine.put(key(number), "value").unwrap();
            let stats = memory(&engine);
            if is_enough(&stats) {
                return stats;
            }
        }
        unreachable!()
    };
    put_until(&|stats| stats.active_bytes >= BUDGET_BYTES * 2 / 5);
    // A flush that fails leaves a frozen memtable.
    fs.inject(Fault { kind: FaultKind::NoDescriptors, at_call: fs.call_count(), lasting: true });
    assert_eq!(engine.checkpoint().unwrap_err().code(), "io");
    fs.heal();
    gate.set_closed(true);
    until("the policy is asked", || gate.is_waiting.load(Ordering::SeqCst));
    if memory(&engine).frozen_bytes == 0 {
        return false;
    }
    let stats = put_until(&|stats| used_bytes(stats) >= BUDGET_BYTES);
    assert!(stats.frozen_bytes > BUDGET_BYTES / 3, "{stats:?}");
    assert_eq!((stats.delays, stats.flushes), (0, 0), "within the budget: {stats:?}");
    let stats = put_until(&|stats| stats.delays > 0 || stats.active_bytes > BUDGET_BYTES);
    assert!(stats.delays > 0, "the frozen memtable counts: {stats:?}");
    assert!(stats.delayed < Duration::from_millis(2), "it begins gently: {stats:?}");
    let before = put_until(&|stats| used_bytes(stats) >= BUDGET_BYTES * 3 / 2);
    let stats = put_until(&|stats| stats.delays >= before.delays + 100);
    assert_eq!(stats.delayed - before.delayed, Duration::from_millis(10) * 100, "never more than 10 ms");
    gate.set_closed(false);
    until("the flush comes", || memory(&engine).flushes > 0);
    let stats = memory(&engine);
    assert!(stats.frozen_bytes == 0 && stats.flush_failure.is_none(), "{stats:?}");
    put_until(&|now| now.active_bytes > 200 << 10);
    assert!(memory(&engine).delays <= stats.delays + 1, "the delay ends");
    true
}

/// While flushes fail, writers go on at full speed, and the numbers say why memory grows.
#[test]
fn a_flush_that_fails_is_reported_and_repeated_and_delays_nobody() {
    let fs = SimFs::new();
    // In one segment, so that only tables need room.
    let config = tight().with_max_segment_size(4 << 20).with_min_segment_size(4 << 20);
    let engine = open_with(&fs, config, 1, Background::Caller).unwrap();
    let mut numbers = 0..;
    let mut put = |count: usize| {
        for number in numbers.by_ref().take(count) {
            engine.put(key(number), "value").unwrap();
        }
        memory(&engine)
    };
    let flushes = put(1000).flushes;
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    let stats = put(8000);
    assert!(used_bytes(&stats) > BUDGET_BYTES, "{stats:?}");
    assert_eq!((stats.delays, stats.flushes), (0, flushes), "{stats:?}");
    assert!(stats.flush_failure.unwrap().contains("room"));
    assert_eq!(engine.stats().poisoned, None);
    fs.set_capacity_bytes(None);
    let stats = put(1000);
    assert!(stats.flush_failure.is_none() && stats.flushes > flushes && used_bytes(&stats) < BUDGET_BYTES, "{stats:?}");
    assert_eq!(engine.len(), 10_000);
}

/// The background waits between two attempts at a flush, also if a caller's flush failed first.
#[test]
fn a_flush_that_fails_is_not_repeated_all_the_time() {
    let fs = SimFs::new();
    let config = tight().with_max_segment_size(4 << 20).with_min_segment_size(4 << 20);
    let components = Components::default().with_fs(Arc::new(fs.clone()));
    let engine = SingleNodeEngine::with_components(config, components).unwrap();
    let mut numbers = 0..;
    let mut put = |count| {
        for number in numbers.by_ref().take(count) {
            engine.put(key(number), "value").unwrap();
        }
    };
    put(100);
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    until("a flush fails", || {
        put(500);
        memory(&engine).flush_failure.is_some()
    });
    // The next attempt comes after a second. A put makes one call.
    thread::sleep(Duration::from_millis(100));
    let before = fs.call_count();
    thread::sleep(Duration::from_millis(300));
    put(3000);
    let calls = fs.call_count() - before - 3000;
    assert!(calls < 200, "{calls} calls of the file system");
    fs.set_capacity_bytes(None);
    engine.checkpoint().unwrap();
    until("the call has made up for it", || memory(&engine).flush_failure.is_none());
    let flushes = memory(&engine).flushes;
    until("flushes go on", || {
        put(500);
        memory(&engine).flushes > flushes
    });
}

/// A flush that has failed after the freeze is repeated, however little memory is used.
#[test]
fn a_memtable_that_a_failed_flush_has_frozen_does_not_wait_for_the_budget() {
    let fs = SimFs::new();
    let engine = open_with(&fs, tight(), 1, Background::Caller).unwrap();
    engine.put("first", "value").unwrap();
    fs.inject(Fault { kind: FaultKind::NoDescriptors, at_call: fs.call_count(), lasting: true });
    assert_eq!(engine.checkpoint().unwrap_err().code(), "io");
    fs.heal();
    let mut before = memory(&engine);
    for number in 0.. {
        engine.put(key(number), [0; 100]).unwrap();
        let stats = memory(&engine);
        if stats.frozen_bytes == 0 {
            assert_eq!(stats.flushes, 1, "{stats:?}");
            break;
        }
        assert!(stats.active_bytes < BUDGET_BYTES / 2, "{stats:?}");
        before = stats;
    }
    assert!(before.frozen_bytes > 0 && before.flushes == 0, "{before:?}");
}

#[test]
fn the_budget_has_a_range() {
    assert_eq!(StoreConfig::at("kv").index_memory_bytes, 256 << 20);
    let error = StoreConfig::at("kv").with_index_memory_bytes(4095).validate().unwrap_err();
    assert!(error.to_string().contains("index_memory_bytes"), "{error}");
    assert!(StoreConfig::at("kv").with_index_memory_bytes(4096).validate().is_ok());
}
