//! Histories of an engine whose keys are in several levels, beside a model: flushes, merges,
//! compactions and reopenings between all kinds of writes and reads.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use hightower_engine::{
    Batch, Command, Components, Entry, Error, Expect, SingleNodeEngine, Snapshot, StoreConfig, TablesUse,
};
use hightower_segment::sim::SimFs;

/// A key's version and value.
type Model = BTreeMap<String, (u64, String)>;

/// An engine, and the model of its content.
struct World {
    engine: SingleNodeEngine,
    model: Model,
    fs: SimFs,
    index_memory_bytes: u64,
}

fn open(fs: &SimFs, index_memory_bytes: u64) -> SingleNodeEngine {
    let mut config = StoreConfig::at("/store")
        .with_compaction_interval(Duration::ZERO)
        .with_index_memory_bytes(index_memory_bytes)
        .with_max_segment_size(4 << 10)
        .with_min_segment_size(4 << 10);
    config.compaction.tombstone_grace = Duration::ZERO;
    SingleNodeEngine::with_components(config, Components::default().with_fs(Arc::new(fs.clone()))).unwrap()
}

impl World {
    fn new(index_memory_bytes: u64) -> Self {
        let fs = SimFs::new();
        Self { engine: open(&fs, index_memory_bytes), model: Model::new(), fs, index_memory_bytes }
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
    let cases = std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(12_u64);
    for seed in 1..=cases {
        let mut number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |below: u64| {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (number >> 33) % below
        };
        // With a few KiB, memtables become tables all the time.
        let mut world = World::new(if seed % 2 == 0 { 4 << 10 } else { 256 << 20 });
        let keys: Vec<String> = (0..20).map(|key| format!("k{key:02}")).collect();
        let mut snapshots: Vec<(Snapshot, Model)> = Vec::new();
        for step in 0..300_u64 {
            let key = keys[usize::try_from(draw(20)).unwrap()].clone();
            let value = format!("value {step}");
            match draw(16) {
                0..=3 => world.put(&key, &value),
                4 => world.delete(&key),
                5 | 6 => {
                    // Version 0 loses against a tombstone, and wins if the key has none.
                    let latest = world.engine.latest_version();
                    let known = world.model.get(&key).map(|(version, _)| *version);
                    let version = if draw(2) == 0 { latest + 1 } else { known.unwrap_or(0) };
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
                    match draw(4) {
                        0 => world.engine.checkpoint().unwrap(),
                        1 => drop(world.engine.run_compaction_now().unwrap()),
                        _ => {}
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
                12 => world.engine.checkpoint().unwrap(),
                13 if draw(3) == 0 => {
                    let World { engine, model, fs, index_memory_bytes } = world;
                    engine.close().unwrap();
                    let engine = open(&fs, index_memory_bytes);
                    assert!(!matches!(engine.open_report().tables, TablesUse::Rebuilt { .. }), "seed {seed}");
                    world = World { engine, model, fs, index_memory_bytes };
                }
                13 => drop(world.engine.run_compaction_now().unwrap()),
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
    let world = World::new(256 << 20);
    for number in 0..3000 {
        world.engine.put(format!("there/{number}"), "value").unwrap();
    }
    world.engine.checkpoint().unwrap();
    assert_eq!(world.engine.stats().tables.len(), 1);
    assert!((0..3000).all(|number| world.engine.contains_key(format!("there/{number}")).unwrap()));
    for number in 0..100_000 {
        let key = format!("absent/{number}");
        assert_eq!(world.engine.get(&key).unwrap(), None, "{key}");
    }
    assert!(world.engine.submit(Command::set("absent/0", "value", 1)).unwrap().changed());
}

#[test]
fn after_an_explicit_compaction_one_table_has_all_keys() {
    let config = StoreConfig::at("/store").with_compaction_interval(Duration::ZERO);
    let components = Components::default().with_fs(Arc::new(SimFs::new()));
    let engine = SingleNodeEngine::with_components(config, components).unwrap();
    // Each run takes at most 4 MiB of keys, so these take two, and each leaves a table.
    let keys: Vec<String> = (0..3000).map(|number| format!("{:01800}", number * 37 % 3000)).collect();
    for round in ["first", "second"] {
        for key in &keys {
            engine.put(key, round).unwrap();
        }
    }
    let report = engine.run_compaction_now().unwrap();
    assert!(report.runs >= 2, "{report:?}");
    let tables = engine.stats().tables;
    assert_eq!(tables.iter().map(|table| table.keys).collect::<Vec<_>>(), [3000]);
    assert!(keys.iter().all(|key| engine.get(key).unwrap().unwrap() == b"second"));
    engine.close().unwrap();
}
