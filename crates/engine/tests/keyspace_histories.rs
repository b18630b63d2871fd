//! Random histories of keyspaces beside plain maps: keyspaces are created, renamed, cleared and
//! dropped between commits that span them. At each step the store has what the maps have. After a
//! crash at each operation, with samples of the unsynced writes, it has what the maps had at one of
//! the steps, with all that was promised; ids are not used again, and the removal of dropped
//! keyspaces goes on to its end.
//!
//! `HIGHTOWER_TEST_STATES` sets the number of crash states (default 1,500),
//! `HIGHTOWER_TEST_SEED` the first history.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use common::{config, open_with, setting};
use hightower_engine::{
    AppendMode, Background, Batch, Components, Durability, Error, KeyspaceId, KeyspaceOptions, Range, SingleNodeEngine,
    Snapshot, dump, import_snapshot,
};
use hightower_segment::sim::{Choice, CrashPlan, CrashPoint, SimFs};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// The content of a store: of the default keyspace, and by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    default: Content,
    named: BTreeMap<String, (KeyspaceId, Content)>,
}

const NAMES: [&str; 5] = ["a", "b", "c", "ä", "a/b"];

fn content(range: Range) -> Content {
    range.map(|entry| entry.unwrap().into_pair().unwrap()).map(|(key, value)| (key, value.to_vec())).collect()
}

fn observed(engine: &SingleNodeEngine) -> Result<Model, Error> {
    let mut model = Model { default: content(engine.iter()?), named: BTreeMap::new() };
    for keyspace in engine.keyspaces()? {
        let opened = engine.keyspace(&keyspace.name)?;
        assert_eq!((opened.id(), opened.options()), (keyspace.id, keyspace.options));
        model.named.insert(keyspace.name, (keyspace.id, content(opened.iter()?)));
    }
    Ok(model)
}

/// The keyspaces of the store's values, tombstones left out.
fn keyspaces_with_values(engine: &SingleNodeEngine) -> BTreeSet<KeyspaceId> {
    let (fs, mut stream, mut found) = (SimFs::new(), Vec::new(), BTreeSet::new());
    engine.export_snapshot(&mut stream).unwrap();
    let components = Components::default().with_fs(Arc::new(fs));
    import_snapshot(&components, &mut &stream[..], "/copy").unwrap();
    let visit = &mut |record: hightower_engine::RawRecord<'_>| {
        if record.command.value().is_some() {
            found.insert(record.keyspace);
        }
        ControlFlow::Continue(())
    };
    dump(&components, "/copy", visit).unwrap();
    found
}

struct History {
    random: u64,
    seed: u64,
    fs: SimFs,
    engine: Option<SingleNodeEngine>,
    model: Model,
    ids: BTreeSet<KeyspaceId>,
    /// After each commit: the number of operations, the content, and the ids that were used.
    states: Vec<(usize, Model, BTreeSet<KeyspaceId>)>,
    /// The number of operations when a sync had returned, and of the states that it covers.
    synced: Vec<(usize, usize)>,
    snapshots: Vec<(Snapshot, Content)>,
}

fn open(fs: &SimFs, seed: u64) -> SingleNodeEngine {
    // With a few KiB, memtables become tables all the time.
    let index_memory_bytes = if seed.is_multiple_of(2) { 4 << 10 } else { 256 << 20 };
    let mode = if seed.is_multiple_of(4) { AppendMode::Mapped } else { AppendMode::Positioned };
    let config = config(mode).with_index_memory_bytes(index_memory_bytes);
    open_with(fs, config, seed, Background::Caller).unwrap()
}

impl History {
    fn new(seed: u64) -> Self {
        let fs = SimFs::new();
        let engine = Some(open(&fs, seed));
        let states = vec![(fs.op_count(), Model::default(), BTreeSet::new())];
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (model, ids) = (Model::default(), BTreeSet::new());
        Self { random, seed, fs, engine, model, ids, states, synced: Vec::new(), snapshots: Vec::new() }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.random >> 33).unwrap() % bound
    }

    fn key(&mut self) -> Vec<u8> {
        (0..1 + self.below(2)).map(|_| [0, b'a', 0xfe, 0xff][self.below(4)]).collect()
    }

    /// The name of a keyspace; mostly one that exists.
    fn name(&mut self) -> String {
        let existing: Vec<_> = self.model.named.keys().cloned().collect();
        match self.below(8) {
            0 => NAMES[self.below(NAMES.len())].to_owned(),
            _ if existing.is_empty() => NAMES[self.below(NAMES.len())].to_owned(),
            at => existing[at % existing.len()].clone(),
        }
    }

    fn step(&mut self, number: u32) {
        let engine = self.engine.take().unwrap();
        let before = (engine.latest_seq(), self.model.clone());
        let engine = self.step_of(engine, number);
        assert!(self.model == before.1 || engine.latest_seq() > before.0);
        self.engine = Some(engine);
        self.states.push((self.fs.op_count(), self.model.clone(), self.ids.clone()));
        if self.below(3) == 0 {
            self.engine.as_ref().unwrap().flush().unwrap();
            self.synced.push((self.fs.op_count(), self.states.len()));
        }
    }

    fn step_of(&mut self, engine: SingleNodeEngine, number: u32) -> SingleNodeEngine {
        let (name, key, value) = (self.name(), self.key(), number.to_le_bytes().repeat(1 + self.below(20)));
        match (self.below(16), self.model.named.contains_key(&name)) {
            (0..4, true) => {
                engine.keyspace(&name).unwrap().put(&key, &value).unwrap();
                self.model.named.get_mut(&name).unwrap().1.insert(key, value);
            }
            (4, true) => {
                engine.keyspace(&name).unwrap().delete(&key).unwrap();
                self.model.named.get_mut(&name).unwrap().1.remove(&key);
            }
            (5, true) => {
                // Only if it is as the model has it.
                let (id, content) = self.model.named.get_mut(&name).unwrap();
                let keyspace = engine.keyspace(&name).unwrap();
                assert_eq!(keyspace.id(), *id);
                let old = keyspace.fetch_update(&key, |_| Some(&value)).unwrap();
                assert_eq!(old.as_deref().map(<[u8]>::to_vec), content.insert(key, value));
            }
            (6 | 7, true) => {
                let keyspace = engine.keyspace(&name).unwrap();
                let mut batch = Batch::new();
                batch.put(&key, &value).put_in(&keyspace, &key, &value);
                for (other, (_, content)) in &mut self.model.named {
                    batch.delete_in(&engine.keyspace(other).unwrap(), &key);
                    content.remove(&key);
                }
                batch.put_in(&keyspace, &key, &value).require_range_in(&keyspace, .., engine.latest_seq());
                assert!(engine.commit(&batch).unwrap().is_committed());
                self.model.default.insert(key.clone(), value.clone());
                self.model.named.get_mut(&name).unwrap().1.insert(key, value);
            }
            (8, true) => {
                let keyspace = engine.keyspace(&name).unwrap();
                let model = &mut self.model;
                engine
                    .update(|transaction| {
                        transaction.put_in(&keyspace, &key, &value)?;
                        let content = &mut model.named.get_mut(&name).unwrap().1;
                        content.insert(key.clone(), value.clone());
                        let found = transaction.range_in(&keyspace, ..)?.map(|entry| entry?.into_pair());
                        let found: Vec<_> = found.map(|pair| pair.unwrap().0).collect();
                        assert!(found.iter().eq(content.keys()), "{found:?} {content:?}");
                        transaction.delete(&key)?;
                        model.default.remove(&key);
                        assert_eq!(transaction.get_in(&keyspace, &key)?.unwrap(), *value);
                        Ok(())
                    })
                    .unwrap();
            }
            (9, true) => {
                let bounds = (Bound::Included(key.clone()), Bound::Unbounded);
                engine.keyspace(&name).unwrap().delete_range(bounds).unwrap();
                self.model.named.get_mut(&name).unwrap().1.retain(|kept, _| *kept < key);
            }
            (10, true) => {
                let mut keyspace = engine.keyspace(&name).unwrap();
                keyspace.clear().unwrap();
                assert!(self.ids.insert(keyspace.id()), "an id is used again");
                self.model.named.insert(name, (keyspace.id(), Content::new()));
            }
            (11, true) => {
                engine.drop_keyspace(&name).unwrap();
                self.model.named.remove(&name);
            }
            (12, true) => {
                let other = NAMES[self.below(NAMES.len())];
                match engine.rename_keyspace(&name, other) {
                    Ok(()) => {
                        let renamed = self.model.named.remove(&name).unwrap();
                        assert_eq!(self.model.named.insert(other.to_owned(), renamed), None);
                    }
                    Err(Error::KeyspaceExists { .. }) => assert!(self.model.named.contains_key(other)),
                    Err(failure) => panic!("{failure}"),
                }
            }
            (13, _) => return self.maintain(engine),
            (_, false) => {
                assert!(matches!(engine.drop_keyspace(&name), Err(Error::KeyspaceNotFound { .. })));
                let durability = (self.below(2) == 0).then_some(Durability::Sync);
                let options = durability.map_or(KeyspaceOptions::default(), |durability| {
                    KeyspaceOptions::default().with_durability(durability)
                });
                let id = engine.create_keyspace(&name, options).unwrap().id();
                assert!(self.ids.insert(id), "an id is used again");
                self.model.named.insert(name, (id, Content::new()));
            }
            (_, true) => {
                engine.put(&key, &value).unwrap();
                self.model.default.insert(key, value);
            }
        }
        engine
    }

    fn maintain(&mut self, engine: SingleNodeEngine) -> SingleNodeEngine {
        match self.below(5) {
            0 | 1 => {
                engine.run_compaction_now().unwrap();
                let living = self.model.named.values().map(|(id, _)| *id);
                let living: BTreeSet<_> = living.chain([KeyspaceId::DEFAULT, KeyspaceId::SYSTEM]).collect();
                assert!(keyspaces_with_values(&engine).is_subset(&living), "keys of dropped keyspaces stay");
                engine
            }
            2 => {
                engine.close().unwrap();
                drop(engine);
                self.snapshots.clear();
                open(&self.fs, self.seed + self.states.len() as u64)
            }
            _ => {
                if let Some((name, (_, content))) = self.model.named.iter().next() {
                    let snapshot = engine.snapshot().unwrap();
                    let snapshot = snapshot.keyspace(&engine.keyspace(name).unwrap()).unwrap();
                    self.snapshots.push((snapshot, content.clone()));
                }
                engine
            }
        }
    }

    fn check(&self) {
        let engine = self.engine.as_ref().unwrap();
        assert_eq!(observed(engine).unwrap(), self.model);
        assert_eq!(engine.len(), self.model.default.len());
        for (name, (_, content)) in &self.model.named {
            assert_eq!(engine.keyspace(name).unwrap().len().unwrap(), content.len() as u64);
        }
        for (snapshot, content_then) in &self.snapshots {
            assert_eq!(content(snapshot.iter()), *content_then, "in a snapshot");
        }
    }
}

#[test]
fn keyspaces_have_what_their_maps_have() {
    let first = setting("HIGHTOWER_TEST_SEED", 0);
    for seed in first..first + 12 {
        let mut history = History::new(seed);
        for number in 0..250 {
            history.step(number);
            if number % 10 == 0 {
                history.check();
            }
        }
        history.check();
    }
}

fn check_crash(history: &History, fs: &SimFs, point: CrashPoint) -> Result<(), String> {
    let engine = open(fs, 99);
    let found = observed(&engine).map_err(|error| format!("cannot be read: {error}"))?;
    let promised = history.synced.iter().filter(|(op, _)| *op <= point.op).map(|(_, states)| *states - 1).max();
    let returned = history.states.iter().filter(|(op, ..)| *op <= point.op).count();
    let promised = match point.choice {
        // A death of the process alone loses no returned commit.
        Choice::Everything => returned.saturating_sub(1),
        _ => promised.unwrap_or(0),
    };
    // The step in progress may have several commits: those of a compaction change nothing here, but
    // the deletes of a range are several steps at most for many keys, which these histories lack.
    let known = &history.states[..history.states.len().min(returned + 1)];
    let at = known.iter().rposition(|(_, model, _)| *model == found);
    let at = at.ok_or_else(|| format!("holds {found:?}, which it never held"))?;
    if at < promised {
        return Err(format!("holds step {at} of {promised} promised"));
    }
    let used = &known[at].2;
    let fresh = engine.create_keyspace("fresh", KeyspaceOptions::default()).map_err(|error| error.to_string())?;
    let id = fresh.id();
    if used.contains(&id) || !fresh.is_empty().unwrap() {
        return Err(format!("uses the id {id} again"));
    }
    engine.run_compaction_now().map_err(|error| format!("does not compact: {error}"))?;
    let living = found.named.values().map(|(id, _)| *id).chain([id, KeyspaceId::DEFAULT, KeyspaceId::SYSTEM]);
    if !keyspaces_with_values(&engine).is_subset(&living.collect()) {
        return Err("has keys of dropped keyspaces after their removal".into());
    }
    let mut again = observed(&engine).map_err(|error| error.to_string())?;
    again.named.remove("fresh");
    if again != found {
        return Err("holds something else after a compaction".into());
    }
    Ok(())
}

#[test]
fn after_a_crash_each_keyspace_is_there_with_all_of_a_step_or_not_at_all() {
    let wanted = setting("HIGHTOWER_TEST_STATES", 1500);
    let first = setting("HIGHTOWER_TEST_SEED", 0);
    let mut visited = 0;
    for seed in first.. {
        let mut history = History::new(seed);
        (0..40).for_each(|number| history.step(number));
        history.engine.take().unwrap().close().unwrap();
        let plan = CrashPlan { exhaustive_limit: 8, samples: 4, seed };
        for state in history.fs.crash_states(plan) {
            if let Err(error) = check_crash(&history, &state.fs, state.point) {
                panic!("history {seed}, crash {}: the store {error}", state.point);
            }
            visited += 1;
        }
        if visited >= wanted {
            break;
        }
    }
    println!("keyspaces: {visited} crash states from history {first}, 0 violations");
}
