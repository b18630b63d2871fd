//! Hashers that collide, lie and panic, and values whose drop panics: keys may be lost, but memory
//! stays valid and each value is dropped once.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use hightower_index::{KeyHasher, Map, Published, SeededHasher, Writer, pin, with_hasher};

const WHOLE: u64 = 0x5ee0_d1ce_0f0f_1234;
const DROPPED: u64 = 0xdead_dead_dead_dead;

/// A counted value that detects a use after its drop.
struct Witness {
    mark: u64,
    alive: Arc<AtomicI64>,
    panics: bool,
}

impl Witness {
    fn new(alive: &Arc<AtomicI64>) -> Self {
        alive.fetch_add(1, Ordering::SeqCst);
        Self { mark: WHOLE, alive: Arc::clone(alive), panics: false }
    }

    fn that_panics(alive: &Arc<AtomicI64>) -> Self {
        let mut witness = Self::new(alive);
        witness.panics = true;
        witness
    }

    fn check(&self) {
        assert_eq!(self.mark, WHOLE, "a value was dropped while it could be reached");
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.check();
        self.mark = DROPPED;
        self.alive.fetch_sub(1, Ordering::SeqCst);
        assert!(!self.panics, "as asked for");
    }
}

/// The misbehaviour of a hasher.
#[derive(Clone, Copy)]
enum Manner {
    /// The same hash for all keys.
    Collide,
    /// Two hashes for each key, at random.
    Lie,
    /// Only some bits of the hash, and sometimes another hash.
    LieCoarsely,
}

struct Hostile {
    manner: Manner,
    honest: SeededHasher,
    calls: AtomicU64,
    /// The number of the call that panics.
    panics_at: AtomicU64,
}

impl Hostile {
    fn new(manner: Manner) -> Arc<Self> {
        let (calls, panics_at) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        Arc::new(Self { manner, honest: SeededHasher::new(7), calls, panics_at })
    }

    fn panic_after(&self, calls: u64) {
        self.panics_at.store(self.calls.load(Ordering::SeqCst) + calls, Ordering::SeqCst);
    }
}

struct Shared(Arc<Hostile>);

impl KeyHasher for Shared {
    fn hash(&self, key: &[u8]) -> u64 {
        let call = self.0.calls.fetch_add(1, Ordering::SeqCst);
        assert_ne!(call, self.0.panics_at.load(Ordering::SeqCst), "as asked for");
        let hash = self.0.honest.hash(key);
        let lies = self.0.honest.hash(&call.to_le_bytes()).is_multiple_of(3);
        match self.0.manner {
            Manner::Collide => 0,
            Manner::Lie => hash ^ u64::from(lies),
            Manner::LieCoarsely => hash & 0xc000_0000_0000_0003 ^ u64::from(lies) << 62,
        }
    }
}

const MANNERS: [Manner; 3] = [Manner::Collide, Manner::Lie, Manner::LieCoarsely];

fn key(number: u64) -> Vec<u8> {
    // Keys that are prefixes of others, and keys that share most of their bytes.
    let text = format!("{:03}", number % 700);
    text.bytes().flat_map(|byte| [byte, b'-']).take(1 + (number % 6) as usize).collect()
}

fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

type Handles = (Writer<Witness, Shared>, Map<Witness, Shared>);

/// One call, with any outcome; then all reachable values are checked.
fn step(handles: &mut Handles, alive: &Arc<AtomicI64>, seed: &mut u64) {
    let (writer, map) = handles;
    let (choice, number) = (random(seed) % 16, random(seed));
    let call = || match choice {
        0..=6 => drop(writer.insert(&key(number), Witness::new(alive))),
        7..=11 => drop(writer.remove(&key(number))),
        12 => writer.get_or_insert_with(&key(number), || Witness::new(alive)).0.check(),
        13 => drop(writer.update(&key(number), Witness::check)),
        14 => writer.upsert(&key(number), map, &pin(), || Witness::new(alive), |entry, _| entry.value().check()),
        _ => drop(writer.reclaim()),
    };
    let _panicked = catch_unwind(AssertUnwindSafe(call));
    let look = || {
        let guard = pin();
        map.get(&key(number), &guard).into_iter().for_each(Witness::check);
    };
    let _panicked = catch_unwind(AssertUnwindSafe(look));
}

fn check_all(map: &Map<Witness, Shared>) {
    let guard = pin();
    map.iter(&guard).for_each(|entry| entry.value().check());
}

#[test]
fn whatever_a_hasher_says_every_value_is_dropped_once() {
    for manner in MANNERS {
        for seed in 0..4 {
            let (alive, mut seed) = (Arc::default(), seed);
            let hasher = Hostile::new(manner);
            let mut handles = with_hasher(Shared(Arc::clone(&hasher)));
            for number in 0..6000 {
                if random(&mut seed).is_multiple_of(50) {
                    hasher.panic_after(random(&mut seed) % 40);
                }
                step(&mut handles, &alive, &mut seed);
                if number % 64 == 0 {
                    check_all(&handles.1);
                }
            }
            check_all(&handles.1);
            drop(handles);
            assert_eq!(alive.load(Ordering::SeqCst), 0);
        }
    }
}

/// The hasher panics at each call of a bulk build in turn: the map has all entries or none.
#[test]
fn a_bulk_build_is_there_or_not() {
    const KEYS: u64 = 2000;
    for manner in [Manner::Collide, Manner::LieCoarsely] {
        for at in (0..KEYS + 400).chain((KEYS + 400..40_000).step_by(997)) {
            let alive = Arc::default();
            let hasher = Hostile::new(manner);
            let (mut writer, map) = with_hasher(Shared(Arc::clone(&hasher)));
            hasher.panic_after(at);
            let entries = (0..KEYS).map(|number| (number.to_be_bytes(), Witness::new(&alive)));
            let built = catch_unwind(AssertUnwindSafe(|| writer.bulk_build(entries)));
            hasher.panic_after(u64::MAX / 2);
            let expected = built.as_ref().map_or(0, |_| usize::try_from(KEYS).unwrap());
            assert_eq!((map.len(), map.iter(&pin()).count()), (expected, expected), "a panic at call {at}");
            if built.is_err() {
                assert_eq!(alive.load(Ordering::SeqCst), 0, "a panic at call {at}");
                let is_there = |number: u64| map.get(&number.to_be_bytes(), &pin()).is_some();
                assert!(
                    !(0..KEYS).step_by(61).any(is_there),
                    "after a panic at call {at}, dropped values can be reached"
                );
            }
            // The map is usable, and can be built again.
            assert_eq!(writer.bulk_build([("a", Witness::new(&alive))]), 1);
            map.iter(&pin()).for_each(|entry| entry.value().check());
            let has_ended = built.is_ok();
            drop((writer, map));
            assert_eq!(alive.load(Ordering::SeqCst), 0);
            if has_ended && at > KEYS {
                break;
            }
        }
    }
}

/// A key with two hashes is in the table twice. After the removal of its first leaf, the tree still
/// leads to the second.
#[test]
fn a_leaf_is_taken_for_no_other() {
    struct Switched(AtomicU64);
    impl KeyHasher for Switched {
        fn hash(&self, key: &[u8]) -> u64 {
            u64::from(key[0]).wrapping_mul(0x0101_0101) ^ self.0.load(Ordering::SeqCst)
        }
    }
    struct Handle(Arc<Switched>);
    impl KeyHasher for Handle {
        fn hash(&self, key: &[u8]) -> u64 {
            self.0.hash(key)
        }
    }
    let (alive, hasher) = (Arc::default(), Arc::new(Switched(AtomicU64::new(0))));
    let (mut writer, map) = with_hasher(Handle(Arc::clone(&hasher)));
    writer.insert(b"a1", Witness::new(&alive));
    hasher.0.store(u64::MAX, Ordering::SeqCst);
    writer.insert(b"a1", Witness::new(&alive));
    hasher.0.store(0, Ordering::SeqCst);
    assert!(writer.remove(b"a1"), "the first one");
    assert_eq!(map.iter(&pin()).count(), 1, "the second one is still there");
    hasher.0.store(u64::MAX, Ordering::SeqCst);
    writer.insert(b"a2", Witness::new(&alive));
    assert!(writer.insert(b"a1", Witness::new(&alive)), "the second one is replaced");
    // A leaf whose key bytes lead to another place replaces nothing there.
    hasher.0.store(0, Ordering::SeqCst);
    writer.insert(b"a3", Witness::new(&alive));
    hasher.0.store(u64::MAX, Ordering::SeqCst);
    writer.insert(b"a3", Witness::new(&alive));
    hasher.0.store(0, Ordering::SeqCst);
    writer.insert(b"a3", Witness::new(&alive));
    while writer.reclaim() > 0 {
        std::thread::yield_now();
    }
    map.iter(&pin()).for_each(|entry| entry.value().check());
    drop((writer, map));
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

fn panics(call: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(call)).is_err(), "the panic went missing");
}

/// Other tests may delay the end of an epoch.
fn reclaim_all(writer: &mut Writer<Witness>) -> bool {
    let mut panicked = false;
    loop {
        match catch_unwind(AssertUnwindSafe(|| writer.reclaim())) {
            Ok(0) => return panicked,
            Ok(_) => std::thread::yield_now(),
            Err(_) => panicked = true,
        }
    }
}

#[test]
fn a_drop_that_panics_keeps_no_other_value_alive() {
    let alive = Arc::default();
    let (mut writer, map) = hightower_index::new();
    let fill = |writer: &mut Writer<Witness>| {
        for number in 0..40_u64 {
            let value = if number % 10 == 3 { Witness::that_panics(&alive) } else { Witness::new(&alive) };
            writer.insert(&number.to_be_bytes(), value);
        }
    };
    fill(&mut writer);
    for number in 0..40_u64 {
        writer.remove(&number.to_be_bytes());
    }
    assert!(reclaim_all(&mut writer), "the panic went missing");
    assert_eq!((alive.load(Ordering::SeqCst), writer.len()), (0, 0), "after removal");

    fill(&mut writer);
    panics(|| drop((map, writer)));
    assert_eq!(alive.load(Ordering::SeqCst), 0, "after the map is gone");

    let (writer, map) = hightower_index::new();
    let mut run = map.sorted_run();
    for number in 0..40_u64 {
        let value = if number == 3 { Witness::that_panics(&alive) } else { Witness::new(&alive) };
        run.push(&number.to_be_bytes(), value).unwrap();
    }
    panics(|| drop(run));
    assert_eq!(alive.load(Ordering::SeqCst), 0, "after a run is gone");
    drop((writer, map));

    let cell = Published::empty();
    for number in 0..40 {
        let value = if number == 3 { Witness::that_panics(&alive) } else { Witness::new(&alive) };
        cell.store(Some(Box::new(value)), &pin());
    }
    cell.store(None, &pin());
    let mut tries = 0;
    while alive.load(Ordering::SeqCst) > 0 {
        let _panicked = catch_unwind(|| pin().flush());
        std::thread::yield_now();
        tries += 1;
        assert!(tries < 10_000_000, "{} values leaked", alive.load(Ordering::SeqCst));
    }
}

/// No thread can be started, because each would need a stack of an exbibyte.
#[test]
fn a_bulk_build_needs_no_other_thread() {
    const NAME: &str = "a_bulk_build_needs_no_other_thread";
    if std::env::var_os("HIGHTOWER_TEST_NO_THREADS").is_none() {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([NAME, "--exact", "--test-threads=1"])
            .env("HIGHTOWER_TEST_NO_THREADS", "1")
            .env("RUST_MIN_STACK", (1_u64 << 60).to_string())
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    assert!(std::thread::Builder::new().spawn(|| {}).is_err(), "this test shows nothing here");
    let (mut writer, map) = hightower_index::new();
    let mut run = map.sorted_run();
    for number in 0..50_000_u64 {
        run.push(&number.to_be_bytes(), number).unwrap();
    }
    assert_eq!(writer.join_runs([run], 4), Ok(50_000));
    assert!((0..50_000_u64).all(|number| map.get(&number.to_be_bytes(), &pin()) == Some(&number)));
}
