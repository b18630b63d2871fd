//! Tests of reads, snapshots and commits of an engine whose keys are in several levels.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here, and says what it saw")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use hightower_index::pin;
use hightower_log::Command;
use hightower_state::{FrozenMemtable, SegmentSet};
use hightower_table::{TableOptions, TableReader, TableWriter};
use tempfile::TempDir;

use crate::batch::Batch;
use crate::config::StoreConfig;
use crate::engine::SingleNodeEngine;
use crate::error::Error;
use crate::expect::Expect;
use crate::place::Place;
use crate::snapshot::{Entry, Snapshot};

/// A key's version and value.
type Model = BTreeMap<String, (u64, String)>;

/// An engine, and the model of its content.
struct World {
    engine: SingleNodeEngine,
    model: Model,
    levels: Levels,
}

/// The levels below the active memtable.
struct Levels {
    /// Oldest first.
    frozen: Vec<FrozenMemtable<Place>>,
    tables: u64,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let config = StoreConfig {
            compaction_interval: Duration::ZERO,
            max_segment_size: 16 << 10,
            min_segment_size: 4 << 10,
            checkpoint_after_compaction: false,
            ..StoreConfig::at(dir.path().join("kv"))
        };
        let engine = SingleNodeEngine::with_config(config).unwrap();
        Self { engine, model: Model::new(), levels: Levels { frozen: Vec::new(), tables: 0, dir } }
    }

    fn put(&mut self, key: &str, value: &str) {
        let version = self.engine.put_versioned(key, value).unwrap();
        self.model.insert(key.to_owned(), (version, value.to_owned()));
    }

    fn delete(&mut self, key: &str) {
        self.engine.delete(key).unwrap();
        self.model.remove(key);
    }

    fn check(&self, keys: &[String]) {
        check_snapshot(&self.engine.snapshot().unwrap(), &self.model, keys);
        for key in keys {
            let expected = self.model.get(key).map(|(version, value)| (value.as_str(), *version));
            let found = self.engine.get_versioned(key).unwrap();
            assert_eq!(found.as_ref().map(|(value, version)| (value.as_str().unwrap(), *version)), expected, "{key}");
            assert_eq!(self.engine.contains_key(key).unwrap(), expected.is_some(), "{key}");
        }
    }
}

impl Levels {
    fn freeze(&mut self, engine: &SingleNodeEngine) {
        let guard = pin();
        let state = engine.read.index.state(&guard).unwrap();
        let spare = state.spare_memtable();
        let _log = engine.log.lock().unwrap();
        self.frozen.extend(state.writer().freeze(spare, &guard));
    }

    /// Writes the oldest frozen memtable to a table.
    fn flush(&mut self, engine: &SingleNodeEngine) {
        if self.frozen.is_empty() {
            return;
        }
        let frozen = self.frozen.remove(0);
        self.tables += 1;
        let name = format!("{}.tbl", self.tables);
        let dir = engine.components.fs.open_dir(self.dir.path()).unwrap();
        let mut table = TableWriter::create(&dir, &name, TableOptions::new(self.tables, 7, 9)).unwrap();
        table.push_all(&mut frozen.source(), &mut |_| ControlFlow::Continue(())).unwrap();
        table.finish().unwrap();
        let table = Arc::new(TableReader::open(dir.as_ref(), &name).unwrap());
        let segments = SegmentSet::new(engine.read.segments.all().iter().map(|tracked| tracked.segment.id()));
        let state = engine.read.index.handle().unwrap();
        state.writer().install_flushed(&frozen, Some(table), segments).unwrap();
        state.reclaim();
    }
}

/// Reads a snapshot in every way.
fn check_snapshot(snapshot: &Snapshot, model: &Model, keys: &[String]) {
    let values = snapshot.multi_get(keys).unwrap();
    for (key, value) in keys.iter().zip(values) {
        let expected = model.get(key).map(|(_, value)| value.as_str());
        assert_eq!(value.as_ref().map(|value| value.as_str().unwrap()), expected, "{key}");
        assert_eq!(snapshot.get(key).unwrap(), value, "{key}");
        assert_eq!(snapshot.contains_key(key).unwrap(), expected.is_some(), "{key}");
    }
    let shown = |entry: Entry| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (text(entry.key()), (entry.version(), text(&entry.value().unwrap())))
    };
    let forwards: Vec<_> = snapshot.iter().map(|entry| shown(entry.unwrap())).collect();
    assert!(forwards.iter().eq(&model.clone().into_iter().collect::<Vec<_>>()), "{forwards:?} and {model:?}");
    let backwards: Vec<_> = snapshot.range("k03"..).rev().map(|entry| shown(entry.unwrap())).collect();
    let expected: Vec<_> = model.range("k03".to_owned()..).rev().map(|(key, it)| (key.clone(), it.clone())).collect();
    assert_eq!(backwards, expected);
    let mut visited = Vec::new();
    snapshot
        .prefix("k0")
        .for_each_pair(|key, value| {
            visited.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    let pairs = model.iter().filter(|(key, _)| key.starts_with("k0"));
    assert!(
        visited.into_iter().eq(pairs.map(|(key, (_, value))| (key.clone().into_bytes(), value.clone().into_bytes())))
    );
    let state = snapshot.to_state().unwrap();
    assert!(state.iter().eq(model.iter().map(|(key, (_, value))| (key.as_bytes(), value.as_bytes()))));
}

/// Random writes of every kind, freezes and flushes, beside the model. Old snapshots keep what they
/// show.
#[test]
fn every_read_and_every_commit_equals_the_model_while_levels_move() {
    let cases = std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(6_u64);
    for seed in 1..=cases {
        let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |below: u64| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (number >> 33) % below
        };
        let mut world = World::new();
        let keys: Vec<String> = (0..20).map(|key| format!("k{key:02}")).collect();
        let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
        for step in 0..300_u64 {
            let key = keys[usize::try_from(draw(20)).unwrap()].clone();
            let value = format!("value {step}");
            match draw(16) {
                0..=3 => world.put(&key, &value),
                4 => world.delete(&key),
                5 | 6 => {
                    // Only the engine knows the versions of deletes: a version below every other
                    // loses, and one above every other wins.
                    let latest = world.engine.latest_version();
                    let known = world.model.get(&key).map(|(version, _)| *version);
                    let version = if draw(2) == 0 { latest + 1 } else { known.unwrap_or(1) };
                    let before = world.engine.get_versioned(&key).unwrap();
                    let outcome = world.engine.submit(Command::set(key.clone(), value.clone(), version)).unwrap();
                    if version > latest {
                        assert!(outcome.changed());
                        world.model.insert(key, (version, value));
                    } else if known.is_some() {
                        assert!(!outcome.changed(), "seed {seed}: {version} won against {before:?}");
                    } else if outcome.changed() {
                        world.model.insert(key, (version, value));
                    }
                }
                7 | 8 => {
                    let found = world.model.get(&key).map(|(version, _)| *version);
                    let expect = match draw(4) {
                        0 => Expect::Absent,
                        1 => Expect::Present,
                        _ => found.map_or(Expect::Absent, Expect::Version),
                    };
                    let outcome = world.engine.commit(Batch::new().require(&key, expect).put(&key, &value)).unwrap();
                    assert_eq!(outcome.is_committed(), expect.holds(found), "seed {seed}: {key} {expect:?}");
                    if let Ok(committed) = outcome.committed() {
                        world.model.insert(key, (committed.versions[0], value));
                    }
                }
                9 => {
                    world.engine.fetch_update(&key, |_| Some(&value)).unwrap();
                    let (_, version) = world.engine.get_versioned(&key).unwrap().unwrap();
                    world.model.insert(key, (version, value));
                }
                10 | 11 => {
                    // The range ends before or after the key that another commit changes.
                    let mut transaction = world.engine.transaction().unwrap();
                    let seen = transaction.range(key.as_str()..).unwrap().count();
                    assert_eq!(seen, world.model.range(key.clone()..).count());
                    transaction.put("a", &value).unwrap();
                    let changed = keys[usize::try_from(draw(20)).unwrap()].clone();
                    let version = world.engine.put_versioned(&changed, &value).unwrap();
                    world.model.insert(changed.clone(), (version, value.clone()));
                    for _ in 0..draw(3) {
                        world.levels.freeze(&world.engine);
                        if draw(2) == 0 {
                            world.levels.flush(&world.engine);
                        }
                    }
                    match transaction.commit() {
                        Ok(committed) => {
                            assert!(changed < key, "seed {seed}: {changed} from {key}");
                            world.model.insert("a".to_owned(), (committed.versions[0], value));
                        }
                        Err(Error::TransactionConflict(conflict)) => {
                            assert!(changed >= key, "seed {seed}: {changed} from {key}");
                            assert_eq!(conflict.key, changed.as_bytes());
                        }
                        Err(other) => panic!("seed {seed}: {other}"),
                    }
                }
                12 => world.levels.freeze(&world.engine),
                13 => world.levels.flush(&world.engine),
                14 => snapshots.push((world.engine.snapshot().unwrap(), world.model.clone())),
                _ if snapshots.len() > 3 => drop(snapshots.remove(0)),
                _ => {}
            }
            if step % 10 == 0 {
                world.check(&keys);
                snapshots.iter().for_each(|(snapshot, model)| check_snapshot(snapshot, model, &keys));
            }
        }
        world.engine.close().unwrap();
        snapshots.iter().for_each(|(snapshot, model)| check_snapshot(snapshot, model, &keys));
    }
}

/// A table's hashes lead some absent keys to records of others.
#[test]
fn an_absent_key_is_absent_whatever_its_hash_meets() {
    let mut world = World::new();
    for number in 0..3000 {
        world.engine.put(format!("there/{number}"), "value").unwrap();
    }
    world.levels.freeze(&world.engine);
    world.levels.flush(&world.engine);
    assert!((0..3000).all(|number| world.engine.contains_key(format!("there/{number}")).unwrap()));
    for number in 0..100_000 {
        let key = format!("absent/{number}");
        assert_eq!(world.engine.get(&key).unwrap(), None, "{key}");
    }
    assert!(world.engine.submit(Command::set("absent/0", "value", 1)).unwrap().changed());
}
