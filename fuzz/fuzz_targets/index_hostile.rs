//! The index with hashers that collide, lie and panic, and with values that count their drops and
//! may panic in them: keys may be lost, but memory stays valid and each value is dropped once.
#![no_main]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use hightower_index::{KeyHasher, Map, SeededHasher, Writer, pin, with_hasher};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Insert(Key, bool),
    Remove(Key),
    GetOrInsert(Key),
    Update(Key),
    Get(Key),
    Walk,
    Reclaim,
    /// Ascending keys, into an empty map.
    Build(Vec<u8>),
    /// From now on every hash is changed by these bits, or by none.
    Lie(u64),
    /// The hasher panics after this number of calls.
    Panic(u8),
}

/// Short keys of few different bytes, many of them prefixes of others.
#[derive(Arbitrary, Debug)]
struct Key(u16);

impl Key {
    fn bytes(&self) -> Vec<u8> {
        let len = usize::from(self.0 >> 13) + 1;
        (0..len).map(|at| (self.0 >> (2 * at) & 3) as u8).collect()
    }
}

/// The payload of requested panics; any other panic is a finding.
struct Asked;

/// The number of calls left while no panic is requested.
const NO_PANIC: u32 = u32::MAX;

/// The current behaviour of the hasher. The fuzzer has one thread.
struct Manner {
    mask: u64,
    lie: AtomicU64,
    calls_left: AtomicU32,
    honest: SeededHasher,
}

struct Hostile(Arc<Manner>);

impl KeyHasher for Hostile {
    fn hash(&self, key: &[u8]) -> u64 {
        match self.0.calls_left.load(Relaxed) {
            NO_PANIC => {}
            0 => {
                self.0.calls_left.store(NO_PANIC, Relaxed);
                resume_unwind(Box::new(Asked));
            }
            left => self.0.calls_left.store(left - 1, Relaxed),
        }
        self.0.honest.hash(key) & self.0.mask ^ self.0.lie.load(Relaxed)
    }
}

thread_local! {
    static ALIVE: Cell<i64> = const { Cell::new(0) };
}

/// A value in a separate allocation, so that the sanitizer detects a use after its drop and a
/// second drop.
struct Counted(Box<u64>, bool);

impl Counted {
    fn new(panics: bool) -> Self {
        ALIVE.set(ALIVE.get() + 1);
        Self(Box::new(7), panics)
    }

    fn check(&self) {
        assert_eq!(*self.0, 7);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.check();
        ALIVE.set(ALIVE.get() - 1);
        if self.1 && !std::thread::panicking() {
            resume_unwind(Box::new(Asked));
        }
    }
}

fn run(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call))
        && !panic.is::<Asked>()
    {
        resume_unwind(panic);
    }
}

fn step(step: &Step, manner: &Manner, writer: &mut Writer<Counted, Hostile>, map: &Map<Counted, Hostile>) {
    match step {
        Step::Insert(key, panics) => drop(writer.insert(&key.bytes(), Counted::new(*panics))),
        Step::Remove(key) => drop(writer.remove(&key.bytes())),
        Step::GetOrInsert(key) => writer.get_or_insert_with(&key.bytes(), || Counted::new(false)).0.check(),
        Step::Update(key) => drop(writer.update(&key.bytes(), Counted::check)),
        Step::Get(key) => map.get(&key.bytes(), &pin()).into_iter().for_each(Counted::check),
        Step::Walk => map.iter(&pin()).for_each(|entry| entry.value().check()),
        Step::Reclaim => drop(writer.reclaim()),
        Step::Build(steps) => {
            let numbers = steps.iter().scan(0_u32, |at, step| {
                *at += u32::from(*step) + 1;
                Some(*at)
            });
            let entries: Vec<_> = numbers.map(|number| (number.to_be_bytes(), Counted::new(false))).collect();
            writer.bulk_build(entries);
        }
        Step::Lie(bits) => manner.lie.store(*bits, Relaxed),
        Step::Panic(calls) => manner.calls_left.store(u32::from(*calls), Relaxed),
    }
}

fuzz_target!(|input: (u64, Vec<Step>)| {
    let (mask, steps) = input;
    let (lie, calls_left) = (AtomicU64::new(0), AtomicU32::new(NO_PANIC));
    let manner = Arc::new(Manner { mask, lie, calls_left, honest: SeededHasher::new(3) });
    let (mut writer, map) = with_hasher(Hostile(Arc::clone(&manner)));
    for each in &steps {
        run(|| step(each, &manner, &mut writer, &map));
    }
    run(|| map.iter(&pin()).for_each(|entry| entry.value().check()));
    run(|| drop((writer, map)));
    assert_eq!(ALIVE.get(), 0);
});
