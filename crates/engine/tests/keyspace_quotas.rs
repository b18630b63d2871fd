//! Quotas of keyspaces: random histories beside plain maps, crashes, and writers at the same time.
//! The use that the store counts is always that of a scan.
//!
//! `HIGHTOWER_TEST_STATES` sets the number of crash states (default 600), `HIGHTOWER_TEST_SEED` the
//! first history.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{config, open_with, setting};
use hightower_engine::{
    AppendMode, Background, Batch, Command, Error, Keyspace, KeyspaceOptions, KeyspaceUse, SingleNodeEngine,
    StoreConfig,
};
use hightower_segment::sim::{CrashPlan, SimFs};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(fs: &SimFs, seed: u64) -> SingleNodeEngine {
    // With a few KiB, memtables become tables all the time.
    let index_memory_bytes = if seed.is_multiple_of(2) { 4 << 10 } else { 256 << 20 };
    let config = config(AppendMode::Positioned).with_index_memory_bytes(index_memory_bytes);
    open_with(fs, config, seed, Background::Caller).unwrap()
}

fn totals(content: &Content) -> (u64, u64) {
    let bytes = content.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
    (content.len() as u64, bytes as u64)
}

fn numbers(used: KeyspaceUse) -> (u64, u64) {
    (used.keys, used.bytes)
}

fn scanned<E: Borrow<SingleNodeEngine>>(keyspace: &Keyspace<E>) -> (u64, u64) {
    totals(
        &keyspace
            .iter()
            .unwrap()
            .map(|entry| entry.unwrap().into_pair().unwrap())
            .map(|(key, value)| (key, value.to_vec()))
            .collect(),
    )
}

fn is_full<T: std::fmt::Debug>(outcome: Result<T, Error>) -> bool {
    match outcome {
        Ok(_) => false,
        Err(Error::KeyspaceFull { name, what, limit, next }) => {
            assert!((name == "a" || name == "b") && (what == "keys" || what == "bytes") && next > limit);
            true
        }
        Err(other) => panic!("{other}"),
    }
}

/// Two keyspaces with quotas, and what they hold.
struct History {
    random: u64,
    fs: SimFs,
    seed: u64,
    content: [Content; 2],
    quotas: [(u64, u64); 2],
}

const NAMES: [&str; 2] = ["a", "b"];

fn options((max_keys, max_bytes): (u64, u64)) -> KeyspaceOptions {
    KeyspaceOptions::default().with_max_keys(max_keys).with_max_bytes(max_bytes)
}

impl History {
    fn new(seed: u64) -> (Self, SingleNodeEngine) {
        let (fs, quotas) = (SimFs::new(), [(8, 120), (5, 1000)]);
        let engine = open(&fs, seed);
        for (name, quota) in NAMES.into_iter().zip(quotas) {
            engine.create_keyspace(name, options(quota)).unwrap();
        }
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (Self { random, fs, seed, content: Default::default(), quotas }, engine)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap() % bound
    }

    fn key(&mut self) -> Vec<u8> {
        vec![b'k'; 1 + self.below(12)]
    }

    fn value(&mut self) -> Vec<u8> {
        vec![7; [0, 1, 10, 30, 60][self.below(5)]]
    }

    /// Whether the quotas allow that `content` follows.
    fn allows(&self, content: &[Content; 2]) -> bool {
        (0..2).all(|at| {
            let (before, after, limits) = (totals(&self.content[at]), totals(&content[at]), self.quotas[at]);
            (after.0 <= before.0 || after.0 <= limits.0) && (after.1 <= before.1 || after.1 <= limits.1)
        })
    }

    fn step(&mut self, engine: SingleNodeEngine) -> SingleNodeEngine {
        let mut next = self.content.clone();
        let at = self.below(2);
        let (key, value) = (self.key(), self.value());
        let keyspace = engine.keyspace(NAMES[at]).unwrap();
        let outcome = match self.below(15) {
            0..=3 => {
                next[at].insert(key.clone(), value.clone());
                keyspace.put(&key, &value).map(drop)
            }
            4 => {
                next[at].remove(&key);
                keyspace.delete(&key).map(drop)
            }
            5..=7 => {
                let mut batch = Batch::new();
                batch.put("of the default one", "");
                let keyspaces = NAMES.map(|name| engine.keyspace(name).unwrap());
                for _ in 0..1 + self.below(6) {
                    let (at, key, value) = (self.below(2), self.key(), self.value());
                    if self.below(3) == 0 {
                        next[at].remove(&key);
                        batch.delete_in(&keyspaces[at], &key);
                    } else {
                        next[at].insert(key.clone(), value.clone());
                        batch.put_in(&keyspaces[at], &key, &value);
                    }
                }
                engine.commit(&batch).map(drop)
            }
            8 => {
                let held = keyspace.get_versioned(&key).unwrap().map_or(0, |(_, version)| version);
                // A stale command changes nothing.
                let is_new = held == 0 || self.below(2) == 0;
                let version = if is_new { engine.latest_version() + 1 } else { held.saturating_sub(1) };
                let outcome =
                    keyspace.submit(Command::Set { key: key.clone(), value: value.clone(), version, timestamp: 0 });
                if is_new {
                    next[at].insert(key, value);
                }
                outcome.map(drop)
            }
            9 => {
                let longer = |held: Option<&[u8]>| Some([held.unwrap_or_default(), b"more"].concat());
                let entry = next[at].entry(key.clone()).or_default();
                *entry = longer(Some(entry)).unwrap();
                keyspace.fetch_update(&key, longer).map(drop)
            }
            10 => {
                next[at].retain(|held, _| !held.starts_with(&key));
                keyspace.delete_prefix(&key).map(drop)
            }
            11 => {
                engine.checkpoint().unwrap();
                engine.run_compaction_now().map(drop)
            }
            12 => {
                self.quotas[at] = (self.below(12) as u64, [60, 120, 1000][self.below(3)]);
                engine.alter_keyspace(NAMES[at], options(self.quotas[at])).map(drop)
            }
            13 => {
                let sum = next[at].get(&b"counter"[..]).map_or(0, |sum| str::from_utf8(sum).unwrap().parse().unwrap());
                next[at].insert(b"counter".to_vec(), (sum + 9_u64).to_string().into_bytes());
                keyspace.add("counter", 9).map(drop)
            }
            _ if self.below(4) == 0 => {
                next[at].clear();
                engine.keyspace(NAMES[at]).unwrap().clear()
            }
            _ => {
                engine.close().unwrap();
                return open(&self.fs, self.seed);
            }
        };
        assert_eq!(is_full(outcome), !self.allows(&next), "history {}", self.seed);
        if self.allows(&next) {
            self.content = next;
        }
        for (name, content) in NAMES.into_iter().zip(&self.content) {
            let keyspace = engine.keyspace(name).unwrap();
            assert_eq!((numbers(keyspace.usage().unwrap()), scanned(&keyspace)), (totals(content), totals(content)));
        }
        engine
    }
}

#[test]
fn quotas_hold_as_in_plain_maps() {
    let first = setting("HIGHTOWER_TEST_SEED", 0);
    for seed in first..first + 12 {
        let (mut history, mut engine) = History::new(seed);
        for _ in 0..300 {
            engine = history.step(engine);
        }
    }
}

#[test]
fn after_a_crash_the_use_is_that_of_the_keys_that_are_left() {
    let wanted = setting("HIGHTOWER_TEST_STATES", 600);
    let first = setting("HIGHTOWER_TEST_SEED", 0);
    let mut visited = 0;
    for seed in first.. {
        let (mut history, mut engine) = History::new(seed);
        for _ in 0..40 {
            engine = history.step(engine);
        }
        drop(engine);
        for state in history.fs.crash_states(CrashPlan { exhaustive_limit: 4, samples: 2, seed }) {
            let engine = open(&state.fs, seed);
            for keyspace in engine.keyspaces().unwrap() {
                let keyspace = engine.keyspace(&keyspace.name).unwrap();
                let (before, limits) = (scanned(&keyspace), keyspace.options());
                // The first write counts.
                let refused = is_full(keyspace.put("a new key", "value"));
                let next = (before.0 + 1, before.1 + 14);
                assert_eq!(refused, next.0 > limits.max_keys.unwrap() || next.1 > limits.max_bytes.unwrap());
                assert_eq!(numbers(keyspace.usage().unwrap()), scanned(&keyspace), "history {seed}, {}", state.point);
            }
            visited += 1;
        }
        if visited >= wanted {
            break;
        }
    }
    println!("quotas: {visited} crash states from history {first}, 0 violations");
}

#[test]
fn what_exceeds_is_refused_whole_and_what_shrinks_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    let a = engine.create_keyspace("a", options((2, 20))).unwrap();
    a.put("1", "123456789").unwrap();
    a.put("2", "123456789").unwrap();
    let mut batch = Batch::new();
    batch.put("default", "").put_in(&a, "3", "");
    let refused = engine.commit(&batch).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the quota of the keyspace a allows 2 keys, and the commit would make it 3: delete some or raise the quota"
    );
    assert_eq!((refused.code(), engine.get("default").unwrap(), a.len().unwrap()), ("keyspace_full", None, 2));
    assert!(matches!(a.put("1", "1234567890"), Err(Error::KeyspaceFull { what: "bytes", limit: 20, next: 21, .. })));
    let mut transaction = engine.transaction().unwrap();
    transaction.put_in(&a, "3", "").unwrap();
    assert_eq!(transaction.commit().unwrap_err().code(), "keyspace_full");
    engine.commit(Batch::new().delete_in(&a, "1").put_in(&a, "3", "")).unwrap().committed().unwrap();

    // Above a lowered quota, what shrinks is allowed, and what grows one number only is not.
    engine.alter_keyspace("a", options((1, 5))).unwrap();
    a.put("2", "12345678").unwrap();
    assert!(is_full(a.put("2", "123456789")));
    a.delete("3").unwrap();
    a.put("2", "1").unwrap();
    assert!(is_full(a.put("3", "")));
    // Without a quota nothing is refused, and a new one counts what is there.
    engine.alter_keyspace("a", KeyspaceOptions::default()).unwrap();
    for number in 0..10_u8 {
        a.put([number], "x").unwrap();
    }
    engine.alter_keyspace("a", options((11, 1000))).unwrap();
    assert!(is_full(a.put("one more", "")));
    assert_eq!(numbers(a.usage().unwrap()), (11, 22));
    engine.close().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    assert_eq!(engine.keyspaces().unwrap()[0].options, options((11, 1000)));
    assert!(is_full(engine.keyspace("a").unwrap().put("one more", "")));
}

/// Writers at the same time, with and without a queue of commits: of the last places each is taken
/// once, and the count is exact, also if it begins beside deletes.
#[test]
fn of_racing_writers_none_exceeds_a_quota() {
    for round in 0..30_u64 {
        let dir = tempfile::tempdir().unwrap();
        let queue = if round % 2 == 0 { 0 } else { 64 };
        let config = || StoreConfig::at(dir.path()).with_commit_queue_depth(queue);
        let engine = Arc::new(SingleNodeEngine::with_config(config()).unwrap());
        let a = engine.create_keyspace("a", options((50, 1 << 20))).unwrap();
        let placed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let (a, placed) = (&a, &placed);
                scope.spawn(move || {
                    for number in 0_u8.. {
                        if is_full(a.put([thread, number], [0; 9])) {
                            break;
                        }
                        placed.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(
            (placed.load(Ordering::Relaxed), scanned(&a), numbers(a.usage().unwrap())),
            (50, (50, 550), (50, 550))
        );
        engine.close().unwrap();

        // The same few keys; the first put counts while others delete.
        let engine = SingleNodeEngine::with_config(config()).unwrap();
        let a = engine.keyspace("a").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let a = &a;
                scope.spawn(move || {
                    for number in 0..60_u8 {
                        let key = [thread % 2, number % 8];
                        if thread < 2 {
                            a.delete([thread, number]).unwrap();
                        }
                        if thread >= 2 || number > 30 {
                            // It may be full.
                            let _is_full = is_full(a.put(key, vec![0; usize::from(number) + usize::from(thread)]));
                        }
                    }
                });
            }
        });
        assert_eq!(numbers(a.usage().unwrap()), scanned(&a), "round {round}");
    }
}

#[test]
fn a_damaged_value_under_a_quota_can_be_deleted() {
    for seed in 0..2 {
        let fs = SimFs::new();
        let engine = open(&fs, seed);
        let options = KeyspaceOptions::default().with_max_keys(3);
        let keyspace = engine.create_keyspace("a", options).unwrap();
        keyspace.put("damaged", "a value of some length").unwrap();
        keyspace.put("sound", "1").unwrap();
        engine.checkpoint().unwrap();
        engine.close().unwrap();
        let dir = std::path::Path::new("/store");
        for name in fs.names_in(dir).unwrap().into_iter().filter(|name| name.ends_with(".seg")) {
            let mut bytes = fs.read_file(&dir.join(&name)).unwrap();
            if let Some(at) = bytes.windows(7).position(|part| part == b"a value") {
                bytes[at] ^= 1;
                fs.plant(&dir.join(&name), &bytes);
            }
        }
        let engine = open(&fs, seed);
        let keyspace = engine.keyspace("a").unwrap();
        assert!(matches!(keyspace.get("damaged"), Err(Error::Corrupt { .. })));
        // What the keyspace holds cannot be counted.
        assert!(matches!(keyspace.put("other", "1"), Err(Error::Corrupt { .. })));
        keyspace.delete("damaged").unwrap();
        keyspace.put("other", "1").unwrap();
        keyspace.put("third", "1").unwrap();
        assert!(is_full(keyspace.put("fourth", "1")));
        assert_eq!(numbers(keyspace.usage().unwrap()), scanned(&keyspace));
    }
}
