//! Random histories beside the plain model, in which the test decides what is flushed, merged,
//! compacted and rebuilt, and when: also runs of compaction that no policy would choose, with
//! levels that no merge has settled, and flushes that fail in the middle.
//!
//! Besides the content, each step must leave true counts: no segment has fewer entries than the
//! visible ones, or more than records. At each reopening, the fold of all records of the log must
//! have the content too, because the tables can be rebuilt from it.
//!
//! `HIGHTOWER_TEST_CASES` is the number of histories, `HIGHTOWER_TEST_SEED` the first seed. A
//! failure prints its seed and step.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says what it did"
)]

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hightower_compactor::{CompactionConfig, Goal};
use hightower_log::Command;
use hightower_seams::ManualClock;
use hightower_segment::sim::{Fault, FaultKind, SeededEntropy, SimFs};
use hightower_segment::{Fs, ReadOnlyStore, Tolerance};
use hightower_state::KvState;

use crate::components::{Background, Components};
use crate::config::StoreConfig;
use crate::engine::SingleNodeEngine;
use crate::error::{Error, Result};
use crate::load::TablesUse;
use crate::repair::{CheckLevel, check};
use crate::snapshot::{Entry, Range, Snapshot};
use crate::traits::SnapshotEngine;

const DIR: &str = "/store";
const STEPS: u64 = 300;
/// In histories with few keys, most records are soon dead. In those with many, most segments have
/// no dead record, which would keep tombstones.
const FEW_AND_MANY_KEYS: [u64; 2] = [24, 400];
/// The grace of tombstones. Histories reach its end.
const GRACE: Duration = Duration::from_secs(10);

/// Versions and values by key.
type Content = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

struct History {
    random: u64,
    seed: u64,
    fs: SimFs,
    clock: Arc<ManualClock>,
    engine: SingleNodeEngine,
    model: Content,
    snapshots: Vec<(Snapshot, Content)>,
    /// Whether the device has a limited length.
    is_limited: bool,
    seen: Seen,
}

/// What the histories have reached.
#[derive(Debug, Default)]
struct Seen {
    moved: u64,
    failed_flushes: u64,
    full: u64,
    rebuilds: u64,
    tables_max: usize,
    unsettled_runs: u64,
}

fn open(fs: &SimFs, clock: &Arc<ManualClock>, seed: u64) -> SingleNodeEngine {
    // With a few KiB, memtables become tables all the time; with more, when the test says so.
    let index_memory_bytes = if seed.is_multiple_of(2) { 4 << 10 } else { 256 << 20 };
    let config = StoreConfig::at(DIR)
        .with_max_segment_size(4 << 10)
        .with_min_segment_size(4 << 10)
        .with_index_memory_bytes(index_memory_bytes)
        .with_compaction_interval(Duration::ZERO)
        .with_checkpoint_after_compaction(seed.is_multiple_of(3))
        .with_compaction(CompactionConfig::default().with_tombstone_grace(GRACE));
    let components = Components::default()
        .with_fs(Arc::new(fs.clone()))
        .with_clock(Arc::clone(clock) as Arc<_>)
        .with_entropy(Arc::new(SeededEntropy::new(seed)))
        .with_background(Background::Caller);
    SingleNodeEngine::with_components(config, components).unwrap()
}

fn content(entries: Range) -> Content {
    let shown = |entry: Entry| (entry.key().to_vec(), (entry.version(), entry.value().unwrap().to_vec()));
    entries.map(|entry| shown(entry.unwrap())).collect()
}

impl History {
    fn new(seed: u64) -> Self {
        let (fs, clock) = (SimFs::new(), Arc::new(ManualClock::stepping(1_700_000_000_000, 1)));
        let engine = open(&fs, &clock, seed);
        Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
            seed,
            fs,
            clock,
            engine,
            model: Content::new(),
            snapshots: Vec::new(),
            is_limited: false,
            seen: Seen::default(),
        }
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % bound
    }

    fn has_many_keys(&self) -> bool {
        self.seed / 2 % 2 == 1
    }

    fn keys(&self) -> u64 {
        FEW_AND_MANY_KEYS[usize::from(self.has_many_keys())]
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.below(self.keys());
        format!("key/{number:03}").into_bytes()
    }

    /// A key that probably has a value.
    fn present_key(&mut self) -> Vec<u8> {
        let key = self.key();
        self.model.range(key.clone()..).next().map_or(key, |(key, _)| key.clone())
    }

    fn value(&mut self) -> Vec<u8> {
        let (byte, len) = (self.below(256), if self.below(20) == 0 { 1500 } else { self.below(200) });
        vec![u8::try_from(byte).unwrap(); usize::try_from(len).unwrap()]
    }

    /// The result, unless the device is full. It may be only while its length is limited.
    fn unless_full<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(done) => Some(done),
            Err(Error::Full { .. }) if self.is_limited => {
                self.seen.full += 1;
                None
            }
            Err(failure) => panic!("{failure:?}"),
        }
    }

    fn step(&mut self) {
        match self.below(100) {
            0..30 => {
                let (key, value) = (self.key(), self.value());
                let put = self.engine.put_versioned(&key, &value);
                if let Some(version) = self.unless_full(put) {
                    self.model.insert(key, (version, value));
                }
            }
            30..42 => {
                let key = self.present_key();
                let deleted = self.engine.delete(&key);
                if self.unless_full(deleted).is_some() {
                    self.model.remove(&key);
                }
            }
            42..50 if !self.has_many_keys() => self.submit(),
            42..50 => {}
            50..57 => {
                let flushed = self.engine.flusher.flush(&mut self.engine.maintenance.turn.lock().unwrap());
                self.unless_full(flushed);
            }
            57..61 => self.fail_to_flush(),
            61..64 => self.settle(),
            64..78 => self.compact_some(),
            78..81 => {
                let compacted = self.engine.run_compaction_now();
                self.unless_full(compacted);
            }
            81..85 => {
                self.is_limited = !self.is_limited;
                let free = self.below(6000);
                self.fs.set_capacity_bytes(self.is_limited.then(|| self.fs.used_bytes() + free));
            }
            85..87 => self.rebuild(),
            87..90 => self.snapshots.push((self.engine.snapshot().unwrap(), self.model.clone())),
            90..93 => {
                if !self.snapshots.is_empty() {
                    let at = self.below(self.snapshots.len() as u64);
                    self.snapshots.swap_remove(usize::try_from(at).unwrap());
                }
            }
            93..96 => {
                let seconds = self.below(40);
                self.clock.advance(Duration::from_secs(seconds));
            }
            _ => self.reopen(),
        }
    }

    /// A command with a version of the caller's, near the highest one.
    fn submit(&mut self) {
        let (key, value) = (self.key(), self.value());
        let version = (self.engine.latest_version() + self.below(20)).saturating_sub(self.below(40));
        let is_set = self.below(2) == 0;
        let timestamp = 1_700_000_000_000;
        let command = if is_set {
            Command::Set { key: key.clone(), value: value.clone(), version, timestamp }
        } else {
            Command::Delete { key: key.clone(), version, timestamp }
        };
        let submitted = self.engine.submit(command);
        let Some(outcome) = self.unless_full(submitted) else { return };
        if let Some((present, _)) = self.model.get(&key) {
            assert_eq!(outcome.changed(), version > *present);
        }
        match (outcome.changed(), is_set) {
            (false, _) => {}
            (true, true) => drop(self.model.insert(key, (version, value))),
            (true, false) => drop(self.model.remove(&key)),
        }
    }

    /// A flush that fails at some call, perhaps after the memtable was frozen.
    fn fail_to_flush(&mut self) {
        let at_call = self.fs.call_count() + self.below(16);
        self.fs.inject(Fault { kind: FaultKind::NoDescriptors, at_call, lasting: true });
        let flushed = self.engine.flusher.flush(&mut self.engine.maintenance.turn.lock().unwrap());
        self.fs.heal();
        match flushed {
            Err(Error::Io { .. }) => self.seen.failed_flushes += 1,
            flushed => drop(self.unless_full(flushed)),
        }
    }

    /// Makes the counts of dead records exact.
    fn settle(&mut self) {
        let may_flush = self.below(2) == 0;
        let before = self.engine.tables.stats().len();
        let settled = self.engine.flusher.settle_counts(&mut self.engine.maintenance.turn.lock().unwrap(), may_flush);
        self.unless_full(settled);
        if let ([merged], true) = (&*self.engine.tables.stats(), before > 1) {
            let counts = self.engine.read.index.handle().unwrap().table_counts();
            let existing: u64 = counts.iter().map(|counts| counts.entries).sum();
            assert_eq!(merged.keys, existing, "a merge has kept entries of removed segments");
        }
    }

    /// One run of compaction, with any victims.
    fn compact_some(&mut self) {
        let usage = self.engine.compaction.usage();
        let share = 1 + self.below(4);
        let sealed: Vec<u32> = usage.iter().filter(|usage| usage.is_sealed).map(|usage| usage.id).collect();
        let victims: Vec<u32> = sealed.into_iter().filter(|_| self.below(4) < share).collect();
        let mut turn = self.engine.maintenance.turn.lock().unwrap();
        self.seen.unsettled_runs += u64::from(self.engine.tables.stats().len() + turn.frozen.len() > 1);
        let run = self.engine.compaction.run_once(&mut turn, &usage, &victims, Goal::Background);
        let merged = if run.is_ok() { self.engine.flusher.try_merge(&mut turn) } else { Ok(()) };
        drop(turn);
        merged.unwrap();
        if let Some(run) = self.unless_full(run) {
            self.seen.moved += run.moved_records;
        }
    }

    /// A table is called damaged, and all are rebuilt from the log.
    fn rebuild(&mut self) {
        let Some(table) = self.engine.tables.current().list.newest_first.first().copied() else { return };
        let path = Path::new(DIR).join(table.file_name());
        self.engine.tables.note_failure(&Error::Corrupt { path, offset: 0, detail: "so it is said".into() });
        let mended = self.engine.flusher.mend(&mut self.engine.maintenance.turn.lock().unwrap());
        self.seen.rebuilds += u64::from(self.unless_full(mended).is_some());
    }

    /// A close or a kill, perhaps the loss of a table, and an open.
    fn reopen(&mut self) {
        self.check();
        self.snapshots.clear();
        self.is_limited = false;
        self.fs.set_capacity_bytes(None);
        if self.below(2) == 0 {
            self.engine.close().unwrap();
        }
        self.fs = self.fs.after_kill();
        let (fs, mut is_lost) = (Arc::new(self.fs.clone()) as Arc<dyn Fs>, false);
        {
            let store = ReadOnlyStore::open(&fs, Path::new(DIR), Tolerance::Strict).unwrap();
            let mut fold = KvState::new();
            for record in store.segments().iter().flat_map(|segment| segment.entries()) {
                fold.apply(record.unwrap().command);
            }
            let expected = self.model.iter().map(|(key, (_, value))| (&key[..], &value[..]));
            assert!(fold.iter().eq(expected), "the fold of the log has other content");
            if let Some(table) = store.manifest().tables.newest_first.first().filter(|_| self.below(4) == 0) {
                self.fs.unplant(&Path::new(DIR).join(table.file_name()));
                is_lost = true;
            }
        }
        let components = Components::default().with_fs(fs);
        let report =
            check(&components, Path::new(DIR), CheckLevel::Tables, &mut |_| ControlFlow::Continue(())).unwrap();
        assert!(report.is_whole(), "{report:?}");
        self.engine = open(&self.fs, &self.clock, self.seed);
        let tables = &self.engine.open_report().tables;
        assert_eq!(matches!(tables, TablesUse::Rebuilt { .. }), is_lost, "{tables:?}");
        assert_eq!(self.engine.open_report().dropped_bytes(), 0);
        self.check();
    }

    fn check(&mut self) {
        let engine = &self.engine;
        assert!(content(engine.iter().unwrap()) == self.model, "not the content of the model");
        let back = engine.iter().unwrap().rev().map(|entry| entry.unwrap().key().to_vec());
        assert!(back.eq(self.model.keys().rev().cloned()));
        for number in 0..self.keys() {
            let key = format!("key/{number:03}").into_bytes();
            let found = engine.get_versioned(&key).unwrap().map(|(value, version)| (version, value.to_vec()));
            assert_eq!(found.as_ref(), self.model.get(&key), "{number}");
        }
        assert_eq!(engine.len(), self.model.len());
        // Also reads the records of tombstones.
        let state = engine.snapshot_state().unwrap();
        assert!(state.iter().eq(self.model.iter().map(|(key, (_, value))| (&key[..], &value[..]))));
        for (snapshot, model) in &self.snapshots {
            assert!(content(snapshot.iter()) == *model, "a snapshot has changed");
        }
        assert!(engine.stats().poisoned.is_none());
        self.seen.tables_max = self.seen.tables_max.max(engine.tables.stats().len());
        self.check_counts();
    }

    /// The number of entries that point into a segment.
    fn check_counts(&self) {
        let state = self.engine.read.index.handle().unwrap();
        let mut visible = BTreeMap::<u32, u64>::new();
        for entry in state.snapshot().entries(Bound::Unbounded, Bound::Unbounded) {
            *visible.entry(entry.unwrap().1.location.segment).or_default() += 1;
        }
        let levels = state.level_stats();
        let is_one_level = levels.frozen + levels.tables == 0;
        for tracked in self.engine.read.segments.all() {
            let id = tracked.segment.id();
            let (visible, live, records) =
                (visible.remove(&id).unwrap_or(0), tracked.live_records(), tracked.records());
            assert!(visible <= live && live <= records, "segment {id}: {visible}, {live}, {records}");
            assert!(!is_one_level || visible == live, "segment {id}: {visible}, {live}");
        }
        assert!(visible.is_empty(), "entries point into segments that are gone: {visible:?}");
    }
}

#[test]
fn whatever_is_flushed_merged_and_compacted_the_content_and_the_counts_are_true() {
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (cases, first) = (number("HIGHTOWER_TEST_CASES", 24), number("HIGHTOWER_TEST_SEED", 0));
    let mut all = Vec::new();
    for seed in first..first + cases {
        let mut history = History::new(seed);
        for step in 0..STEPS {
            let stepped = catch_unwind(AssertUnwindSafe(|| {
                history.step();
                if step % 4 == 0 {
                    history.check();
                }
            }));
            if let Err(failure) = stepped {
                eprintln!("seed {seed}, step {step}: HIGHTOWER_TEST_SEED={seed} HIGHTOWER_TEST_CASES=1 finds it again");
                resume_unwind(failure);
            }
        }
        history.reopen();
        all.push(history.seen);
    }
    let total = |of: fn(&Seen) -> u64| all.iter().map(of).sum::<u64>();
    let seen = [
        total(|seen| seen.moved),
        total(|seen| seen.failed_flushes),
        total(|seen| seen.full),
        total(|seen| seen.rebuilds),
        total(|seen| seen.unsettled_runs),
    ];
    let tables_max = all.iter().map(|seen| seen.tables_max).max();
    println!("{cases} histories from seed {first}: {seen:?}, at most {tables_max:?} tables");
    assert!(cases < 20 || seen.iter().all(|seen| *seen > cases), "too few of each kind: {seen:?}");
}

/// The run flushes first, and that merges tables: two older puts of the key, which were hidden, are
/// now records without an entry. They are in segments that stay.
#[test]
fn a_tombstone_stays_when_a_merge_of_its_run_finds_older_records_dead() {
    let mut history = History::new(1);
    let mut filler = 0;
    let mut fill_segment = |history: &mut History| {
        let segments = history.engine.read.segments.count();
        while history.engine.read.segments.count() == segments {
            filler += 1;
            let (key, value) = (format!("filler/{filler}").into_bytes(), vec![0; 200]);
            let version = history.engine.put_versioned(&key, &value).unwrap();
            history.model.insert(key, (version, value));
        }
    };
    for value in ["first", "second"] {
        history.engine.put("k", value).unwrap();
        fill_segment(&mut history);
        history.engine.checkpoint().unwrap();
    }
    fill_segment(&mut history);
    history.engine.checkpoint().unwrap();
    let with_tombstone = history.engine.read.segments.all().last().unwrap().segment.id();
    history.engine.delete("k").unwrap();
    fill_segment(&mut history);
    history.engine.flush().unwrap();
    history.clock.advance(GRACE * 2);
    assert_eq!(history.engine.tables.stats().len(), 3, "nothing is merged yet");
    let usage = history.engine.compaction.usage();
    let mut turn = history.engine.maintenance.turn.lock().unwrap();
    let run = history.engine.compaction.run_once(&mut turn, &usage, &[with_tombstone], Goal::Background).unwrap();
    drop(turn);
    assert!(run.removed_segments == 1 && history.engine.stats().tombstones == 1, "{run:?}");
    history.reopen();
}
