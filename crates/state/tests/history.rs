//! The concurrent state against the plain one: after every step, the latest state and every live
//! snapshot must equal the model.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::HashSet;
use std::ops::Bound;

use hightower_log::Command;
use hightower_state::{
    ApplyOutcome, Change, CommandKind, ConcurrentKvState, KvState, Location, LocationBits, Relocated, StateSnapshot,
    pin,
};
use proptest::prelude::*;

/// A place in an imaginary log. Each place is used once; [`World::written`] has its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place(u32);

impl Location for Place {
    fn to_bits(self) -> LocationBits {
        self.0.into()
    }

    fn from_bits(bits: LocationBits) -> Self {
        Self(u32::from_bits(bits))
    }
}

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(u8, u64, CommandKind)>),
    Snapshot,
    Clone(usize),
    Drop(usize),
    Reclaim(usize),
    /// Removes one of the tombstones.
    RemoveTombstone(usize),
    /// Moves one written record, live or not.
    Relocate(usize),
    /// Scans a snapshot's range from both ends, and moves all records halfway.
    Walk {
        snapshot: usize,
        ends: Vec<bool>,
        churn: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = prop_oneof![3 => Just(CommandKind::Set), 1 => Just(CommandKind::Delete)];
    let change = (0_u8..24, 1_u64..60, kind);
    let step = prop_oneof![
        6 => prop::collection::vec(change, 0..5).prop_map(Step::Commit),
        2 => Just(Step::Snapshot),
        1 => any::<usize>().prop_map(Step::Clone),
        2 => any::<usize>().prop_map(Step::Drop),
        1 => (0_usize..4).prop_map(Step::Reclaim),
        2 => any::<usize>().prop_map(Step::RemoveTombstone),
        2 => any::<usize>().prop_map(Step::Relocate),
        1 => (any::<usize>(), prop::collection::vec(any::<bool>(), 30), any::<bool>())
            .prop_map(|(snapshot, ends, churn)| Step::Walk { snapshot, ends, churn }),
    ];
    prop::collection::vec(step, 1..60)
}

struct World {
    state: ConcurrentKvState<Place>,
    model: KvState,
    snapshots: Vec<(StateSnapshot<Place>, KvState)>,
    /// For each place the key of the record, and a number for its value.
    written: Vec<(Vec<u8>, u32)>,
    /// Freed places: no reader may get them again.
    gone: HashSet<Place>,
}

impl World {
    fn new() -> Self {
        let (state, model) = (ConcurrentKvState::new(), KvState::new());
        Self { state, model, snapshots: Vec::new(), written: Vec::new(), gone: HashSet::new() }
    }

    fn write(&mut self, key: &[u8], value: u32) -> Place {
        self.written.push((key.to_vec(), value));
        Place(u32::try_from(self.written.len() - 1).unwrap())
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Commit(changes) => self.commit(&changes),
            Step::Snapshot => self.snapshots.push((self.state.snapshot(), self.model.clone())),
            Step::Clone(at) => self.snapshots.extend(self.pick(at).cloned()),
            Step::Drop(at) if !self.snapshots.is_empty() => drop(self.snapshots.remove(at % self.snapshots.len())),
            Step::Drop(_) => {}
            Step::Reclaim(budget) => {
                self.state.writer().reclaim(budget);
            }
            Step::RemoveTombstone(at) => self.remove_tombstone(at),
            Step::Relocate(at) if !self.written.is_empty() => self.relocate(at % self.written.len()),
            Step::Relocate(_) => {}
            Step::Walk { snapshot, ends, churn } => self.walk(snapshot, &ends, churn),
        }
    }

    fn pick(&self, at: usize) -> Option<&(StateSnapshot<Place>, KvState)> {
        self.snapshots.get(at.checked_rem(self.snapshots.len())?)
    }

    fn commit(&mut self, changes: &[(u8, u64, CommandKind)]) {
        let state = self.state.clone();
        let guard = pin();
        let mut writer = state.writer();
        let seq = state.visible_seq() + 1 + changes.len() as u64 % 2;
        let mut commit = writer.begin(seq, &guard).unwrap();
        let (before, before_len) = (self.model.clone(), state.len());
        for &(key, version, kind) in changes {
            let key = name(key);
            let value = u32::try_from(self.written.len()).unwrap();
            let location = self.write(&key, value);
            let expected = self.model.apply(&command(&key, version, kind, value));
            let old = self.model_place(&before, &key);
            let applied = commit.apply(&Change { key: &key, version, kind, location, len_bytes: value });
            assert_eq!(applied.outcome, expected);
            if let Some(replaced) = applied.replaced {
                assert_eq!(self.value_at(replaced.location), replaced.len_bytes);
                assert!(applied.outcome.changed());
            }
            // Nothing is visible yet.
            assert_eq!(state.get(&key).map(|found| self.value_at(found.location)), old);
        }
        assert_eq!(state.len(), before_len);
        commit.publish();
        assert_eq!(state.visible_seq(), seq);
    }

    fn model_place(&self, model: &KvState, key: &[u8]) -> Option<u32> {
        model.get(key).map(|value| u32::from_le_bytes(value.try_into().unwrap()))
    }

    fn value_at(&self, place: Place) -> u32 {
        assert!(!self.gone.contains(&place), "sent to a place that was given up");
        self.written[place.0 as usize].1
    }

    fn remove_tombstone(&mut self, at: usize) {
        let tombstones: Vec<_> = self.model.tombstones().map(|(key, version)| (key.to_vec(), version)).collect();
        let Some((key, version)) = at.checked_rem(tombstones.len()).map(|at| &tombstones[at]) else { return };
        let is_read = self.snapshots.iter().any(|(_, model)| model.get(key).is_some());
        let removed = self.state.writer().remove_tombstone(key, *version);
        assert!(!removed || !is_read, "a snapshot still reads the value before the tombstone");
        assert!(removed || !self.snapshots.is_empty(), "no snapshot keeps this tombstone");
        if removed {
            self.model = without(&self.model, key);
            self.snapshots.iter_mut().for_each(|(_, model)| *model = without(model, key));
        }
    }

    fn relocate(&mut self, at: usize) {
        let (key, value) = self.written[at].clone();
        let old = Place(u32::try_from(at).unwrap());
        let new = self.write(&key, value);
        let mut writer = self.state.writer();
        let held = writer.holds(&key, old);
        let newest = writer.entry(&key).filter(|entry| entry.location == old);
        // The copy has the length of the original, as the models expect; another test covers a
        // changed length.
        let relocated = writer.relocate(&key, old, new, newest.map_or(value, |entry| entry.len_bytes));
        let expected =
            Relocated { newest_len_bytes: newest.map(|entry| entry.len_bytes), retained: held && newest.is_none() };
        assert_eq!(relocated, expected);
        assert!(!writer.holds(&key, old) && writer.holds(&key, new) == held);
        drop(writer);
        self.state.retire_locations();
        self.gone.insert(old);
    }

    fn walk(&mut self, at: usize, ends: &[bool], churn: bool) {
        let Some((snapshot, model)) = self.pick(at).cloned() else { return };
        let mut expected: Vec<_> = model.range(Bound::Excluded(b"key-02"), Bound::Unbounded).collect();
        let mut range = snapshot.range(Bound::Excluded(b"key-02"), Bound::Unbounded);
        let (half, guard) = (expected.len() / 2, pin());
        for (done, &front) in ends.iter().enumerate() {
            if churn && done == half {
                (0..self.written.len()).for_each(|at| self.relocate(at));
            }
            let found = if front { range.next_pinned(&guard) } else { range.next_back_pinned(&guard) };
            let found = found.map(|(key, found)| (key.to_vec(), self.value_at(found.location)));
            let wanted = if expected.is_empty() {
                None
            } else if front {
                Some(expected.remove(0))
            } else {
                expected.pop()
            };
            let wanted = wanted.map(|(key, value)| (key.to_vec(), u32::from_le_bytes(value.try_into().unwrap())));
            assert_eq!(found, wanted);
        }
    }

    fn check(&self) {
        self.check_one(&self.state.snapshot(), &self.model);
        assert_eq!(self.state.len(), self.model.len());
        assert_eq!(self.state.stats().tombstones, self.model.tombstones().count());
        for (snapshot, model) in &self.snapshots {
            self.check_one(snapshot, model);
        }
    }

    fn check_one(&self, snapshot: &StateSnapshot<Place>, model: &KvState) {
        let guard = pin();
        let keys: Vec<_> = (0..24).map(name).collect();
        let expected: Vec<_> = keys.iter().map(|key| self.model_place(model, key)).collect();
        let got: Vec<_> = keys
            .iter()
            .map(|key| snapshot.get_pinned(key, &guard).map(|found| self.value_at(found.location)))
            .collect();
        assert_eq!(got, expected);
        snapshot.get_many(&keys, &guard, |at, found| {
            assert_eq!(found.map(|found| self.value_at(found.location)), expected[at]);
        });
        let entries = snapshot.entries(Bound::Unbounded, Bound::Unbounded);
        let mut rebuilt = KvState::new();
        for (key, record) in entries {
            let value = self.value_at(record.location);
            assert_eq!(record.len_bytes, self.original(value));
            rebuilt.apply(&command(&key, record.version, record.kind, value));
        }
        assert_eq!(rebuilt.digest(), model.digest());
        let backwards: Vec<_> = snapshot.prefix(b"key-1").rev().map(|(key, _)| key).collect();
        assert_eq!(backwards, model.prefix(b"key-1").rev().map(|(key, _)| key.to_vec()).collect::<Vec<_>>());
    }

    /// The length of the record is its value's number.
    fn original(&self, value: u32) -> u32 {
        value
    }
}

fn name(key: u8) -> Vec<u8> {
    format!("key-{key:02}").into_bytes()
}

fn command(key: &[u8], version: u64, kind: CommandKind, value: u32) -> Command {
    let key = key.to_vec();
    match kind {
        CommandKind::Set => Command::Set { key, value: value.to_le_bytes().to_vec(), version, timestamp: 0 },
        CommandKind::Delete => Command::Delete { key, version, timestamp: 0 },
    }
}

/// The model without a key.
fn without(model: &KvState, key: &[u8]) -> KvState {
    let live = model.iter().map(|(found, value)| (found, value.to_vec()));
    let sets = live.map(|(found, value)| {
        let version = model.version_of(found).unwrap();
        Command::Set { key: found.to_vec(), value, version, timestamp: 0 }
    });
    let deletes =
        model.tombstones().map(|(found, version)| Command::Delete { key: found.to_vec(), version, timestamp: 0 });
    sets.chain(deletes).filter(|command| command.key() != key).collect()
}

fn cases() -> u32 {
    std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_snapshot_reads_as_of_its_seq(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            world.check();
        }
        world.snapshots.clear();
        world.state.reclaim();
        let stats = world.state.stats();
        prop_assert_eq!((stats.retained_versions, stats.retained_bytes, stats.snapshots), (0, 0, 0));
        world.check();
    }

    #[test]
    fn replay_in_any_order_gives_the_same_state(
        changes in prop::collection::vec((0_u8..12, 1_u64..40, any::<bool>()), 0..80),
        again in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let kind = |set| if set { CommandKind::Set } else { CommandKind::Delete };
        let place = |key: u8, version: u64| Place(u32::from(key) << 8 | u32::try_from(version).unwrap());
        let model: KvState = changes.iter()
            .map(|&(key, version, _)| command(&name(key), version, kind(version % 3 > 0), place(key, version).0))
            .collect();
        let state = ConcurrentKvState::<Place>::new();
        let repeated = again.iter().filter_map(|at| changes.get(at.checked_rem(changes.len())?));
        let mut won = 0;
        for &(key, version, _) in changes.iter().rev().chain(repeated) {
            let (key, location) = (name(key), place(key, version));
            let change = Change { key: &key, version, kind: kind(version % 3 > 0), location, len_bytes: 0 };
            let mut writer = state.writer();
            let expected = writer.evaluate(&key, version, change.kind);
            let applied = writer.replay(&change);
            prop_assert_eq!(applied.outcome, expected);
            won += usize::from(applied.outcome != ApplyOutcome::IgnoredStale && applied.replaced.is_none());
        }
        let stats = state.stats();
        prop_assert_eq!(stats.live_keys + stats.tombstones, won);
        prop_assert_eq!(state.len(), model.len());
        let rebuilt: KvState = state.snapshot().entries(Bound::Unbounded, Bound::Unbounded)
            .map(|(key, record)| command(&key, record.version, record.kind, record.location.0))
            .collect();
        prop_assert_eq!(rebuilt.digest(), model.digest());
        prop_assert_eq!(state.max_version(), changes.iter().map(|&(_, version, _)| version).max().unwrap_or(0));
    }
}

/// The length of a copy replaces that of the newest version, and the next overwrite returns it;
/// kept versions keep theirs.
#[test]
fn a_relocated_record_has_the_length_of_its_copy() {
    let state = ConcurrentKvState::<u32>::new();
    let change =
        |version, location, len_bytes| Change { key: b"k", version, kind: CommandKind::Set, location, len_bytes };
    state.apply(&change(1, 10, 100)).unwrap();
    let before = state.snapshot();
    state.apply(&change(2, 20, 200)).unwrap();

    let mut writer = state.writer();
    let newest = Relocated { newest_len_bytes: Some(200), retained: false };
    assert_eq!(writer.relocate(b"k", 20, 21, 190), newest);
    assert_eq!(writer.relocate(b"k", 10, 11, 90), Relocated { newest_len_bytes: None, retained: true });
    assert_eq!(writer.relocate(b"k", 10, 12, 90), Relocated::default(), "it has moved already");
    assert_eq!(writer.relocate(b"other", 20, 22, 1), Relocated::default());
    assert_eq!(writer.entry(b"k").map(|entry| (entry.location, entry.len_bytes)), Some((21, 190)));
    drop(writer);

    assert_eq!(state.get(b"k").map(|found| found.location), Some(21));
    assert_eq!(before.get(b"k").map(|found| found.location), Some(11));
    let replaced = state.apply(&change(3, 30, 300)).unwrap().replaced.unwrap();
    assert_eq!((replaced.location, replaced.len_bytes), (21, 190));
}

#[test]
fn a_tombstone_stays_while_a_snapshot_reads_what_was_before_it() {
    let state = ConcurrentKvState::<u32>::new();
    let change = |version, kind| Change { key: b"k", version, kind, location: 10, len_bytes: 0 };
    state.apply(&change(1, CommandKind::Set)).unwrap();
    let before = state.snapshot();
    state.apply(&change(2, CommandKind::Delete)).unwrap();
    let after = state.snapshot();

    assert!(!state.writer().remove_tombstone(b"k", 2));
    assert_eq!(before.get(b"k").map(|found| found.version), Some(1));
    drop(before);
    assert!(!state.writer().remove_tombstone(b"k", 1), "not the newest");
    assert!(state.writer().remove_tombstone(b"k", 2));
    assert!(after.get(b"k").is_none());
    assert_eq!(state.stats().retained_versions, 0);
}

/// A batch larger than the undo slots: invisible before it is published, complete afterwards, and
/// an earlier snapshot does not change.
#[test]
fn a_long_batch_of_overwrites_is_seen_whole_or_not_at_all() {
    let count = 3_000_u32;
    let keys: Vec<[u8; 4]> = (0..count).map(u32::to_be_bytes).collect();
    let state = ConcurrentKvState::<u32>::new();
    let write = |version: u64, check: &dyn Fn()| {
        let guard = pin();
        let mut writer = state.writer();
        let mut commit = writer.begin(version, &guard).unwrap();
        for (key, location) in keys.iter().zip(0_u32..) {
            let location = location + 10_000 * u32::try_from(version).unwrap();
            commit.apply(&Change { key, version, kind: CommandKind::Set, location, len_bytes: 0 });
        }
        check();
        commit.publish();
    };
    let expect = |version: u32| {
        let wanted = |at: u32| Some(at + 10_000 * version);
        assert!((0..count).zip(&keys).all(|(at, key)| state.get(key).map(|found| found.location) == wanted(at)));
        assert!(state.prefix(b"").map(|(_, found)| Some(found.location)).eq((0..count).map(wanted)));
    };
    write(1, &|| assert!(state.get(&keys[0]).is_none()));
    write(2, &|| expect(1));
    expect(2);
    assert_eq!(state.stats().retained_versions, 0);
    let before = state.snapshot();
    write(3, &|| expect(2));
    expect(3);
    assert!((0..count).zip(&keys).all(|(at, key)| before.get(key).map(|found| found.location) == Some(at + 20_000)));
    assert_eq!(state.stats().retained_versions, keys.len());
    drop(before);
    state.reclaim();
    assert_eq!(state.stats().retained_versions, 0);
}
