//! Histories with everything in motion: tiny memtables, freezes, flushes, merges, compactions,
//! snapshots. After every step the state and every live snapshot must equal the plain model.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests fail by panicking")]

mod levels_common;

use std::collections::BTreeMap;
use std::ops::Bound;

use hightower_state::{CommandKind, KvState, LeveledRange, LeveledSnapshot, StateError, pin};
use levels_common::{Answer, Compaction, Place, RECORD_LEN_BYTES, World, command, model_answer};
use proptest::prelude::*;

const KEYS: u8 = 20;

#[derive(Clone, Debug)]
enum Step {
    /// Blind puts and deletes, in one commit.
    Commit(Vec<(u8, bool)>),
    /// A version of the caller's, perhaps a stale one.
    Submit(u8, u64, bool),
    Roll,
    Freeze,
    Flush,
    Merge(usize, usize),
    BeginCompaction(u32),
    EndCompaction,
    CancelCompaction,
    Snapshot,
    Drop(usize),
    Reclaim,
    /// A range of a snapshot or of now, item by item from its two ends, with bounds.
    Walk(usize, u8, u8, Vec<bool>),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let is_set = prop::bool::weighted(0.7);
    let step = prop_oneof![
        8 => prop::collection::vec((0..KEYS, is_set), 1..6).prop_map(Step::Commit),
        3 => (0..KEYS, 0_u64..80, is_set).prop_map(|(key, version, is_set)| Step::Submit(key, version, is_set)),
        2 => Just(Step::Roll),
        4 => Just(Step::Freeze),
        4 => Just(Step::Flush),
        2 => (any::<usize>(), 2_usize..5).prop_map(|(first, count)| Step::Merge(first, count)),
        2 => any::<u32>().prop_map(Step::BeginCompaction),
        2 => Just(Step::EndCompaction),
        1 => Just(Step::CancelCompaction),
        2 => Just(Step::Snapshot),
        2 => any::<usize>().prop_map(Step::Drop),
        1 => Just(Step::Reclaim),
        3 => (any::<usize>(), 0..KEYS, 0..KEYS, prop::collection::vec(any::<bool>(), 24))
            .prop_map(|(at, from, to, ends)| Step::Walk(at, from, to, ends)),
    ];
    prop::collection::vec(step, 1..80)
}

#[derive(Default)]
struct Run {
    model: KvState,
    snapshots: Vec<(LeveledSnapshot<Place>, KvState)>,
    compaction: Option<(Compaction, Vec<u64>)>,
    values: u32,
}

fn name(key: u8) -> Vec<u8> {
    format!("key-{key:02}").into_bytes()
}

fn kind(is_set: bool) -> CommandKind {
    if is_set { CommandKind::Set } else { CommandKind::Delete }
}

impl Run {
    fn step(&mut self, world: &mut World, step: Step) {
        match step {
            Step::Commit(changes) => self.commit(world, &changes),
            Step::Submit(key, version, is_set) => {
                self.values += 1;
                let (key, kind) = (name(key), kind(is_set));
                let expected = self.model.apply(&command(&key, version, kind, self.values)).changed();
                assert_eq!(world.submit(&key, version, kind, self.values), expected);
            }
            Step::Roll => world.roll(),
            Step::Freeze => drop(world.freeze()),
            Step::Flush => drop(world.flush()),
            Step::Merge(first, count) => self.merge(world, first, count),
            Step::BeginCompaction(choice) if self.compaction.is_none() => {
                let below = world.state.tables().iter().map(|table| table.id()).collect();
                let begun = world.begin_compaction(|segment| choice.rotate_left(segment) & 1 == 0);
                self.compaction = begun.map(|begun| (begun, below));
            }
            Step::BeginCompaction(_) => {}
            Step::EndCompaction => {
                if let Some((compaction, _)) = self.compaction.take() {
                    world.end_compaction(compaction);
                }
            }
            Step::CancelCompaction => {
                if let Some((compaction, _)) = self.compaction.take() {
                    world.state.writer().remove_mark(&compaction.mark).unwrap();
                }
            }
            Step::Snapshot => self.snapshots.push((world.state.snapshot(), self.model.clone())),
            Step::Drop(at) => {
                if let Some(at) = at.checked_rem(self.snapshots.len()) {
                    self.snapshots.remove(at);
                }
            }
            Step::Reclaim => world.state.reclaim(),
            Step::Walk(at, from, to, ends) => self.walk(world, at, &name(from), &name(to), &ends),
        }
    }

    fn commit(&mut self, world: &mut World, changes: &[(u8, bool)]) {
        let mut commands = Vec::new();
        for (version, (key, is_set)) in (world.max_version + 1..).zip(changes) {
            self.values += 1;
            let (key, kind) = (name(*key), kind(*is_set));
            assert!(self.model.apply(&command(&key, version, kind, self.values)).changed());
            commands.push((key, version, kind, self.values));
        }
        world.commit(&commands);
    }

    fn merge(&mut self, world: &mut World, first: usize, count: usize) {
        let tables = world.state.tables();
        if tables.len() < 2 {
            return;
        }
        let first = first % (tables.len() - 1);
        let (ids, merged) = world.merged(first, count);
        let is_below = |id: &u64| self.compaction.as_ref().is_none_or(|(_, below)| below.contains(id));
        let is_split = ids.iter().any(is_below) && !ids.iter().all(is_below);
        if let Some((_, below)) = self.compaction.as_mut().filter(|(_, below)| ids.iter().all(|id| below.contains(id)))
        {
            below.push(merged.id());
        }
        let replaced = world.state.writer().replace_tables(&ids, Some(merged));
        assert_eq!(replaced, if is_split { Err(StateError::AcrossMark) } else { Ok(()) });
    }

    fn walk(&self, world: &World, at: usize, from: &[u8], to: &[u8], ends: &[bool]) {
        let now = (world.state.snapshot(), self.model.clone());
        let (snapshot, model) =
            at.checked_rem(self.snapshots.len() + 1).and_then(|at| self.snapshots.get(at)).unwrap_or(&now);
        let bounds = (Bound::Excluded(from), Bound::Included(to));
        let mut expected: Vec<_> = model.range(bounds.0, bounds.1).map(|(key, _)| key.to_vec()).collect();
        let mut range = snapshot.range(bounds.0, bounds.1);
        for (place, is_front) in ends.iter().enumerate() {
            if place == 8 {
                // The keys up to one in the middle are passed over.
                if let Some(middle) = expected.get(expected.len() / 2).cloned() {
                    range.skip_to_after(&middle);
                    expected.retain(|key| *key > middle);
                }
            }
            let found = if *is_front { range.next() } else { range.next_back() };
            let found = found.transpose().unwrap().map(|(key, record)| {
                let read = world.record_of(&key, record.location).unwrap();
                assert_eq!(Some((read.version, read.value)), model_answer(model, &key));
                key
            });
            let wanted = match (expected.is_empty(), is_front) {
                (true, _) => None,
                (false, true) => Some(expected.remove(0)),
                (false, false) => expected.pop(),
            };
            assert_eq!(found, wanted);
        }
    }

    fn check(&self, world: &World) {
        let guard = pin();
        for key in (0..KEYS + 2).map(name) {
            assert_eq!(world.get(&key), model_answer(&self.model, &key));
            let entry = world.state.entry(&key, &guard).unwrap();
            assert_eq!(entry.map(|entry| entry.version), self.model.version_of(&key));
        }
        let keys: Vec<_> = (0..KEYS).map(name).collect();
        world.state.get_many(&keys, &guard, |at, lookup| {
            assert_eq!(world.answer(&keys[at], lookup).unwrap(), model_answer(&self.model, &keys[at]));
        });
        assert_eq!(world.state.len().unwrap(), self.model.len() as u64);
        assert_eq!(world.state.is_empty().unwrap(), self.model.is_empty());
        let bounds = world.state.level_stats().keys;
        assert!((bounds.at_least..=bounds.at_most).contains(&(self.model.len() as u64)), "{bounds:?}");
        assert_eq!(world.state.max_version(), world.max_version);
        check_counts(world);
        check_snapshot(world, &world.state.snapshot(), &self.model);
        for (snapshot, model) in &self.snapshots {
            check_snapshot(world, snapshot, model);
        }
    }
}

/// No segment counts more entries than it has records, nor fewer than those that are live.
fn check_counts(world: &World) {
    let counts: BTreeMap<_, _> = world.state.segment_counts().into_iter().map(|each| (each.segment, each)).collect();
    assert!(counts.keys().all(|segment| world.segments.contains(segment)), "{counts:?}");
    for segment in &world.segments {
        let records = &world.log[segment];
        let is_live = |(offset, record): (&u32, &levels_common::LogRecord)| {
            let place = Place { segment: *segment, offset: *offset };
            let guard = pin();
            let entry = world.state.entry(&record.key, &guard).unwrap();
            let is_live = entry.is_some_and(|entry| entry.location == place);
            assert_eq!(world.state.is_newest(&record.key, place, &guard).unwrap(), is_live);
            is_live
        };
        let live = records.iter().filter(|record| is_live(*record)).count() as u64;
        let counted = counts.get(segment).copied().unwrap_or_default();
        assert!((live..=records.len() as u64).contains(&counted.entries), "{segment}: {live}, {counted:?}");
        assert_eq!(counted.len_bytes, counted.entries * u64::from(RECORD_LEN_BYTES));
    }
    let stats = world.state.level_stats();
    if stats.tables + stats.frozen == 0 {
        let entries: u64 = counts.values().map(|each| each.entries).sum();
        let tombstones: u64 = counts.values().map(|each| each.tombstones).sum();
        assert_eq!(entries - tombstones, world.state.len().unwrap());
    }
}

fn check_snapshot(world: &World, snapshot: &LeveledSnapshot<Place>, model: &KvState) {
    let guard = pin();
    let answer = |key: &[u8]| -> Answer { world.answer(key, snapshot.get(key, &guard)).unwrap() };
    for key in (0..KEYS).map(name) {
        assert_eq!(answer(&key), model_answer(model, &key));
        let entry = snapshot.entry(&key, &guard).unwrap();
        assert_eq!(entry.map(|entry| entry.version), model.version_of(&key));
    }
    assert_eq!(snapshot.count().unwrap(), model.len() as u64);
    let rebuilt = |range: LeveledRange<Place>| {
        let mut rebuilt = KvState::new();
        for found in range {
            let (key, record) = found.unwrap();
            let read = world.record_of(&key, record.location).unwrap();
            assert_eq!((read.version, read.kind), (record.version, record.kind));
            rebuilt.apply(&command(&key, read.version, read.kind, read.value));
        }
        rebuilt.digest()
    };
    assert_eq!(rebuilt(snapshot.entries(Bound::Unbounded, Bound::Unbounded)), model.digest());
    let backwards: Vec<_> = snapshot.prefix(b"key-1").rev().map(|found| found.unwrap().0).collect();
    assert_eq!(backwards, model.prefix(b"key-1").rev().map(|(key, _)| key.to_vec()).collect::<Vec<_>>());
}

fn cases() -> u32 {
    std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn state_and_snapshots_equal_the_model_while_levels_move(steps in steps()) {
        let (mut world, mut run) = (World::new(), Run::default());
        for step in steps {
            run.step(&mut world, step);
            run.check(&world);
        }
        run.snapshots.clear();
        // Readers of old views end with their guards; then nothing holds the flushed memtables.
        for _ in 0..1000 {
            pin().flush();
            world.state.reclaim();
            if world.state.level_stats().held_bytes == 0 {
                break;
            }
        }
        prop_assert_eq!(world.state.level_stats().held_bytes, 0);
        run.check(&world);
    }
}
