//! Runs threads on the engine and records the outcome and the time of each call.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use hightower_engine::{Background, Batch, BatchOutcome, Durability, Expect, Result, SingleNodeEngine};
use hightower_segment::sim::{Fault, FaultKind, SimFs};

use super::checker::Call;
use super::common::{config, open_with};
use super::random::Random;
use super::store::{KEYS, Operation, Outcome, Required, Store, Value};
use hightower_engine::AppendMode;

const THREADS: u32 = 4;
const CALLS_PER_THREAD: u32 = 12;

/// The setup of a history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) mode: AppendMode,
    /// Whether the writes go through the commit thread.
    pub(crate) is_pipelined: bool,
    /// Whether the file system fails once.
    pub(crate) has_fault: bool,
}

impl Setup {
    pub(crate) fn of(seed: u64) -> Self {
        let mode = if seed.is_multiple_of(2) { AppendMode::Mapped } else { AppendMode::Positioned };
        Self { seed, mode, is_pipelined: seed / 2 % 2 == 1, has_fault: seed / 4 % 4 == 3 }
    }
}

pub(crate) fn record(setup: Setup) -> Vec<Call<Store>> {
    let fs = SimFs::new();
    let config = config(setup.mode).with_commit_queue_depth(1024 * (usize::from(setup.is_pipelined)));
    let engine = open_with(&fs, config, setup.seed, Background::Threads).unwrap();
    if setup.has_fault {
        let mut random = Random(setup.seed);
        let kind = if random.below(2) == 0 { FaultKind::Io } else { FaultKind::NoSpace };
        fs.inject(Fault { kind, at_call: fs.call_count() + random.below(120), lasting: random.below(2) == 0 });
    }
    let clock = AtomicU64::new(0);
    let (start, is_over) = (Barrier::new(THREADS as usize + 1), AtomicBool::new(false));
    thread::scope(|scope| {
        let callers: Vec<_> = (0..THREADS)
            .map(|number| {
                let caller = Caller::new(&engine, &clock, number, setup.seed);
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    caller.run(CALLS_PER_THREAD)
                })
            })
            .collect();
        let upkeep = scope.spawn(|| {
            start.wait();
            while !is_over.load(Ordering::Acquire) {
                // The fault may affect these calls; only the callers' outcomes are checked.
                let _ = engine.run_compaction_now();
                let _ = engine.checkpoint();
                thread::yield_now();
            }
        });
        let calls = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        is_over.store(true, Ordering::Release);
        upkeep.join().unwrap();
        calls
    })
}

/// One thread's calls.
pub(crate) struct Caller<'a> {
    engine: &'a SingleNodeEngine,
    clock: &'a AtomicU64,
    number: u32,
    random: Random,
    /// Whether a write has failed, so that the store refuses writes.
    is_over: bool,
}

/// The key of the counter.
const COUNTER: &str = "counter";

fn key(number: usize) -> Vec<u8> {
    // Each key is a prefix of the next one.
    b"key"[..=number].to_vec()
}

/// Sometimes so long that segments rotate.
fn bytes_of(value: Value) -> Vec<u8> {
    let len = if value.is_multiple_of(7) { 900 } else { 4 + value as usize % 90 };
    let mut bytes = vec![0xa5; len];
    bytes[..4].copy_from_slice(&value.to_le_bytes());
    bytes
}

fn value_of(bytes: &[u8]) -> Value {
    let value = Value::from_le_bytes(*bytes.first_chunk().unwrap());
    assert_eq!(bytes, bytes_of(value), "a value that nobody wrote");
    value
}

impl<'a> Caller<'a> {
    pub(crate) fn new(engine: &'a SingleNodeEngine, clock: &'a AtomicU64, number: u32, seed: u64) -> Self {
        Self { engine, clock, number, random: Random(seed ^ u64::from(number) << 40), is_over: false }
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn run(mut self, count: u32) -> Vec<Call<Store>> {
        let mut calls = Vec::new();
        // The versions of earlier reads, for requirements.
        let mut seen: Vec<(usize, u64, Value)> = Vec::new();
        for nth in 0..count {
            let value = self.number << 8 | nth;
            let at = self.pick();
            let call = match self.random.below(12) {
                0..=2 => self.put(at, value),
                3 => self.delete(at),
                4..=5 => self.get(at, &mut seen),
                6 => self.scan(),
                7..=8 => self.add(),
                _ => self.batch(at, value, &seen),
            };
            calls.extend(call);
            if self.random.below(3) == 0 {
                thread::yield_now();
            }
        }
        calls
    }

    fn pick(&mut self) -> usize {
        usize::try_from(self.random.below(KEYS as u64)).unwrap()
    }

    fn durability(&mut self) -> Durability {
        if self.random.below(4) == 0 { Durability::Sync } else { Durability::Os }
    }

    /// A failed read is ignored. A failed write may have taken effect only if the store then
    /// refuses writes, so it is the caller's last one. Otherwise, as for lack of room or where a
    /// file cannot be created, it has not taken effect.
    fn call(&mut self, operation: Operation, run: impl FnOnce() -> Result<Outcome>) -> Option<Call<Store>> {
        let began = self.now();
        let result = run();
        let ended = self.now();
        let is_read = matches!(operation, Operation::Get(_) | Operation::Scan);
        match result {
            Ok(outcome) => Some(Call { operation, began, ended: Some((ended, outcome)) }),
            Err(error) if is_read || error.code() == "full" => None,
            Err(_) if self.is_over || self.engine.stats().poisoned.is_none() => None,
            Err(_) => {
                self.is_over = true;
                Some(Call { operation, began, ended: None })
            }
        }
    }

    fn put(&mut self, at: usize, value: Value) -> Option<Call<Store>> {
        let durability = self.durability();
        let engine = self.engine;
        self.call(Operation::Put(at, value), || {
            engine.put_with(key(at), bytes_of(value), durability).map(|_| Outcome::Done)
        })
    }

    fn delete(&mut self, at: usize) -> Option<Call<Store>> {
        let durability = self.durability();
        let engine = self.engine;
        self.call(Operation::Delete(at), || engine.delete_with(key(at), durability).map(|_| Outcome::Done))
    }

    fn get(&mut self, at: usize, seen: &mut Vec<(usize, u64, Value)>) -> Option<Call<Store>> {
        let engine = self.engine;
        self.call(Operation::Get(at), || {
            let found = engine.get_versioned(key(at))?;
            let found = found.map(|(bytes, version)| (version, value_of(&bytes)));
            seen.extend(found.map(|(version, value)| (at, version, value)));
            Ok(Outcome::Got(found.map(|(_, value)| value)))
        })
    }

    fn add(&mut self) -> Option<Call<Store>> {
        let (durability, added) = (self.durability(), 1 + i64::try_from(self.random.below(9)).unwrap());
        let engine = self.engine;
        self.call(Operation::Add(added), || engine.add_with(COUNTER, added, durability).map(Outcome::Counted))
    }

    /// Everything as of one moment.
    pub(crate) fn scan(&mut self) -> Option<Call<Store>> {
        let engine = self.engine;
        self.call(Operation::Scan, || {
            let mut all = Store::default();
            for (found, bytes) in engine.get_prefix("")? {
                if found == COUNTER.as_bytes() {
                    all.counter = bytes.as_str().unwrap().parse().unwrap();
                } else {
                    all.values[found.len() - 1] = Some(value_of(&bytes));
                }
            }
            Ok(Outcome::Saw(all))
        })
    }

    fn batch(&mut self, at: usize, value: Value, seen: &[(usize, u64, Value)]) -> Option<Call<Store>> {
        let other = (at + 1) % KEYS;
        let other_value = (self.random.below(3) > 0).then_some(value | 0x80_0000);
        let mut batch = Batch::new();
        batch.put(key(at), bytes_of(value));
        match other_value {
            Some(value) => batch.put(key(other), bytes_of(value)),
            None => batch.delete(key(other)),
        };
        let (required_at, expect, required) = match (self.random.below(4), seen.last()) {
            (0, _) => (at, Expect::Absent, Required::Absent),
            (1, _) => (other, Expect::Present, Required::Present),
            (_, Some((at, version, value))) => (*at, Expect::Version(*version), Required::Is(*value)),
            _ => (at, Expect::Absent, Required::Absent),
        };
        // Merges of a batch see each other.
        let added = i64::try_from(self.random.below(3)).unwrap();
        for _ in 0..added {
            batch.add(COUNTER, 1);
        }
        let batch = batch.require(key(required_at), expect);
        let operation = Operation::Batch {
            require: vec![(required_at, required)],
            changes: vec![(at, Some(value)), (other, other_value)],
            added,
        };
        let durability = self.durability();
        let engine = self.engine;
        self.call(operation, || {
            Ok(match engine.commit_with(batch, durability)? {
                BatchOutcome::Committed(_) => Outcome::Committed,
                BatchOutcome::Rejected(_) => Outcome::Rejected,
            })
        })
    }
}
