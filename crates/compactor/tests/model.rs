//! The rules against a model: a log of segments in memory, an index over it, snapshots, and runs
//! over inputs chosen at random.
//!
//! After each step the index must equal a replay of all segments: no key lost, none revived.
//! Records for snapshots must stay readable, and removed records must not be needed.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of cases (default 250).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use hightower_compactor::{
    Budget, CompactionConfig, CompactionPolicy, CostBenefit, Goal, Host, Need, RecordPlace, SegmentUsage,
    TombstoneRule, Visit, Visitor, output_base_seq, rewrite,
};
use hightower_log::{CommandRef, SegmentKind};
use proptest::collection::vec;
use proptest::prelude::*;

const KEYS: u8 = 6;
const HEADER_BYTES: u64 = 64;
const RECORD_BYTES: u32 = 10;
const GRACE: i64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    key: [u8; 1],
    version: u64,
    timestamp: i64,
    is_set: bool,
}

impl Record {
    fn command(&self) -> CommandRef<'_> {
        let Self { key, version, timestamp, is_set } = self;
        if *is_set {
            return CommandRef::Set { key, value: b"", version: *version, timestamp: *timestamp };
        }
        CommandRef::Delete { key, version: *version, timestamp: *timestamp }
    }
}

#[derive(Clone, Debug)]
struct Segment {
    kind: SegmentKind,
    base_seq: u64,
    records: Vec<Record>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    record: Record,
    place: RecordPlace,
    seq: u64,
}

#[derive(Debug, Default)]
struct Store {
    segments: BTreeMap<u32, Segment>,
    next_id: u32,
    active: u32,
    seq: u64,
    now: i64,
    index: BTreeMap<[u8; 1], Entry>,
    /// The content of each snapshot, and its seq.
    snapshots: Vec<(u64, BTreeMap<[u8; 1], Entry>)>,
    output: Option<u32>,
    output_base_seq: u64,
}

impl Store {
    fn new() -> Self {
        let mut store = Self { next_id: 1, ..Self::default() };
        store.roll();
        store
    }

    fn add_segment(&mut self, kind: SegmentKind, base_seq: u64) -> u32 {
        let id = self.next_id;
        self.next_id += 1;
        self.segments.insert(id, Segment { kind, base_seq, records: Vec::new() });
        id
    }

    fn roll(&mut self) {
        self.active = self.add_segment(SegmentKind::Append, self.seq + 1);
    }

    fn push(&mut self, segment: u32, record: Record) -> RecordPlace {
        let records = &mut self.segments.get_mut(&segment).unwrap().records;
        records.push(record);
        RecordPlace { segment, offset: u32::try_from(records.len() - 1).unwrap() }
    }

    fn submit(&mut self, key: u8, version: Option<u64>, is_set: bool) {
        let max = self.segments.values().flat_map(|segment| &segment.records).map(|record| record.version).max();
        let version = version.unwrap_or(max.unwrap_or(0) + 1);
        if self.index.get(&[key]).is_some_and(|known| known.record.version >= version) {
            return;
        }
        self.seq += 1;
        let record = Record { key: [key], version, timestamp: self.now, is_set };
        let place = self.push(self.active, record);
        self.index.insert([key], Entry { record, place, seq: self.seq });
    }

    fn record(&self, place: RecordPlace) -> Record {
        self.segments[&place.segment].records[place.offset as usize]
    }

    fn is_retained(&self, place: RecordPlace) -> bool {
        self.snapshots.iter().any(|(_, entries)| entries.values().any(|entry| entry.place == place))
    }

    fn is_newest(&self, place: RecordPlace) -> bool {
        self.index.values().any(|entry| entry.place == place)
    }

    fn places(&self, id: u32) -> impl Iterator<Item = RecordPlace> + use<> {
        let len = u32::try_from(self.segments[&id].records.len()).unwrap();
        (0..len).map(move |offset| RecordPlace { segment: id, offset })
    }

    fn usage(&self) -> Vec<SegmentUsage> {
        let usage = |(id, segment): (&u32, &Segment)| {
            let live: Vec<_> = self.places(*id).filter(|place| self.is_newest(*place)).collect();
            let retained = self.places(*id).filter(|place| !self.is_newest(*place) && self.is_retained(*place)).count();
            let expired = live
                .iter()
                .filter(|place| self.need(**place, &self.record(**place).command()) == Ok(Need::Expired))
                .count();
            SegmentUsage {
                id: *id,
                kind: segment.kind,
                is_sealed: *id != self.active,
                base_seq: segment.base_seq,
                len_bytes: HEADER_BYTES + segment.records.len() as u64 * u64::from(RECORD_BYTES),
                records: segment.records.len() as u64,
                live_records: live.len() as u64,
                live_bytes: live.len() as u64 * u64::from(RECORD_BYTES),
                retained_records: retained as u64,
                expired_tombstone_bytes: expired as u64 * u64::from(RECORD_BYTES),
                age: Duration::from_secs(u64::from(self.next_id - id)),
            }
        };
        self.segments.iter().map(usage).collect()
    }

    fn is_expired(&self, place: RecordPlace) -> bool {
        let record = self.record(place);
        !record.is_set && self.now - record.timestamp >= GRACE
    }

    /// One run, as in the engine. `crash` stops it after this number of steps.
    fn compact(&mut self, inputs: &[u32], budget: Budget, crash: usize) {
        let usage = self.usage();
        let (dead, inputs): (Vec<u32>, Vec<u32>) =
            inputs.iter().partition(|id| usage.iter().any(|usage| usage.id == **id && usage.is_dead()));
        self.output_base_seq = output_base_seq(&usage, &inputs);
        self.output = None;
        let rule = |emptied: &[u32]| TombstoneRule::new(&usage, &[emptied, &dead].concat());
        let Ok(done) = rewrite(self, &inputs, budget, rule);
        let keys: Vec<_> = done.moved.iter().map(|moved| self.record(moved.to).key).collect();
        assert!(keys.is_sorted(), "survivors in key order");
        for moved in &done.moved {
            let record = self.record(moved.to);
            assert_eq!((done.key_of(moved), moved.is_tombstone), (record.command().key(), !record.is_set));
        }
        if crash == 0 {
            // The manifest was not replaced: outputs are garbage.
            if let Some(output) = self.output {
                self.segments.remove(&output);
            }
            return self.reopen();
        }
        for moved in &done.moved {
            let key = self.record(moved.from).key;
            let newest = self.index.values_mut().filter(|entry| entry.record.key == key);
            let kept = self.snapshots.iter_mut().flat_map(|(_, entries)| entries.values_mut());
            newest.chain(kept).filter(|entry| entry.place == moved.from).for_each(|entry| entry.place = moved.to);
        }
        for place in &done.forgotten {
            let record = self.record(*place);
            let entry = self.index.remove(&record.key).unwrap();
            assert_eq!(entry.place, *place, "only the newest command of a key is forgotten");
            assert!(!record.is_set && self.now - record.timestamp >= GRACE);
            // For a snapshot that saw the tombstone, an absent key is equal.
            for (_, entries) in &mut self.snapshots {
                entries.retain(|_, entry| entry.place != *place);
            }
        }
        for id in dead.iter().chain(&done.emptied) {
            for place in self.places(*id) {
                assert!(!self.is_newest(place) && !self.is_retained(place), "{place:?} is still needed");
            }
            self.segments.remove(id);
        }
        if crash == 1 {
            self.reopen();
        }
    }

    fn reopen(&mut self) {
        let before = self.live();
        self.snapshots.clear();
        self.index = self.replay();
        assert_eq!(self.live(), before, "after a replay");
        self.seq += 10;
        self.roll();
    }

    fn replay(&self) -> BTreeMap<[u8; 1], Entry> {
        let mut index: BTreeMap<[u8; 1], Entry> = BTreeMap::new();
        for (id, _) in self.segments.iter().rev() {
            for place in self.places(*id) {
                let record = self.record(place);
                let entry = Entry { record, place, seq: 0 };
                let known = index.entry(record.key).or_insert(entry);
                if known.record.version < record.version {
                    *known = entry;
                }
            }
        }
        index
    }

    fn live(&self) -> Vec<Record> {
        self.index.values().map(|entry| entry.record).filter(|record| record.is_set).collect()
    }

    fn check(&self) {
        for entry in self.index.values().chain(self.snapshots.iter().flat_map(|(_, entries)| entries.values())) {
            assert_eq!(self.record(entry.place), entry.record);
        }
        let replayed = self.replay();
        let live: Vec<_> = replayed.values().map(|entry| entry.record).filter(|record| record.is_set).collect();
        assert_eq!(live, self.live(), "a replay says something else");
    }
}

impl Host for Store {
    type Error = Infallible;

    fn for_each_record(&mut self, segment: u32, visit: Visitor<'_, Self, Infallible>) -> Result<(), Infallible> {
        for place in self.places(segment) {
            let record = self.record(place);
            if visit(self, place.offset, record.command(), RECORD_BYTES)? == Visit::Stop {
                break;
            }
        }
        Ok(())
    }

    fn need(&self, place: RecordPlace, _: &CommandRef<'_>) -> Result<Need, Infallible> {
        let (newest, retained) = (self.is_newest(place), self.is_retained(place));
        let entry = self.index.values().find(|entry| entry.place == place);
        let no_snapshot_before = entry.is_some_and(|entry| self.snapshots.iter().all(|(seq, _)| *seq >= entry.seq));
        Ok(match (newest, retained) {
            (true, _) if self.is_expired(place) && no_snapshot_before => Need::Expired,
            (false, false) => Need::None,
            _ => Need::Keep,
        })
    }

    /// The model's index has one entry for each key.
    fn hides_older(&self, _: RecordPlace, _: &[u8], _: &[u32]) -> Result<bool, Infallible> {
        Ok(false)
    }

    fn copy(&mut self, place: RecordPlace) -> Result<(RecordPlace, u32), Infallible> {
        let record = self.record(place);
        let base_seq = self.output_base_seq;
        let output = self.output.unwrap_or_else(|| self.add_segment(SegmentKind::Compacted, base_seq));
        self.output = Some(output);
        Ok((self.push(output, record), RECORD_BYTES))
    }

    fn throttle(&mut self, _: u64) -> Result<(), Infallible> {
        Ok(())
    }
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8),
    Delete(u8),
    Submit(u8, u64, bool),
    Roll,
    Wait,
    Snapshot,
    EndSnapshot(usize),
    Compact { chosen: u32, survivors: usize, crash: usize },
    Full,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..KEYS).prop_map(Step::Put),
        4 => (0..KEYS).prop_map(Step::Delete),
        3 => (0..KEYS, 0_u64..40, any::<bool>()).prop_map(|(key, version, is_set)| Step::Submit(key, version, is_set)),
        4 => Just(Step::Roll),
        3 => Just(Step::Wait),
        1 => Just(Step::Snapshot),
        1 => (0_usize..4).prop_map(Step::EndSnapshot),
        5 => (any::<u32>(), 1_usize..12, 0_usize..5).prop_map(|(chosen, survivors, crash)| Step::Compact { chosen, survivors, crash }),
        1 => Just(Step::Full),
        1 => Just(Step::Reopen),
    ]
}

fn run(store: &mut Store, step: &Step) {
    let sealed: Vec<u32> = store.segments.keys().copied().filter(|id| *id != store.active).collect();
    match step {
        Step::Put(key) => store.submit(*key, None, true),
        Step::Delete(key) => store.submit(*key, None, false),
        Step::Submit(key, version, is_set) => store.submit(*key, Some(*version), *is_set),
        Step::Roll => store.roll(),
        Step::Wait => store.now += 2,
        Step::Snapshot => store.snapshots.push((store.seq, store.index.clone())),
        Step::EndSnapshot(at) if *at < store.snapshots.len() => drop(store.snapshots.remove(*at)),
        Step::EndSnapshot(_) => {}
        Step::Compact { chosen, survivors, crash } => {
            let inputs = sealed.iter().copied().enumerate().filter(|(at, _)| chosen >> (at % 32) & 1 == 1);
            let inputs: Vec<u32> = inputs.map(|(_, id)| id).collect();
            store.compact(&inputs, Budget { survivors: *survivors, key_bytes: 1000, ..Budget::default() }, *crash);
        }
        Step::Full => {
            for _ in 0..100 {
                let inputs = CostBenefit.choose(&store.usage(), Goal::Full, &CompactionConfig::default());
                if inputs.is_empty() {
                    return;
                }
                store.compact(&inputs, Budget::default(), 9);
            }
            panic!("a full compaction does not come to an end");
        }
        Step::Reopen => store.reopen(),
    }
}

fn cases() -> u32 {
    std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(250)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_key_is_lost_and_none_revived(steps in vec(step(), 1..120)) {
        let mut store = Store::new();
        for step in &steps {
            run(&mut store, step);
            store.check();
        }
        store.snapshots.clear();
        store.now += GRACE;
        store.roll();
        run(&mut store, &Step::Full);
        store.check();
        let dead: u64 = store.usage().iter().map(SegmentUsage::dead_records).sum();
        prop_assert_eq!(dead, 0, "a full compaction leaves nothing dead");
        prop_assert!(store.index.values().all(|entry| entry.record.is_set), "nor any tombstone whose time has come");
    }
}
