//! Random histories of a store whose tables are damaged, removed or replaced by others, beside the
//! plain model.
//!
//! A case is a history of 120 steps. `HIGHTOWER_TEST_CASES` is the number of cases,
//! `HIGHTOWER_TEST_SEED` the first seed. A failure prints its seed and step.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test fails by panicking, and its numbers are small"
)]

#[path = "linearizability/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hightower_engine::{
    Background, CheckLevel, Command, CompactionConfig, Components, Entry, Error, Range, SingleNodeEngine, Snapshot,
    StoreConfig, TablesUse, check, restore,
};
use hightower_seams::ManualClock;
use hightower_segment::{Fs, ReadOnlyStore, RealFs, Tolerance};
use random::Random;
use tempfile::TempDir;

const STEPS: u64 = 120;
const KEYS: u64 = 60;
/// The grace of tombstones. Histories reach its end, so that compaction also removes tombstones.
const GRACE: Duration = Duration::from_secs(60);

/// Versions and values by key.
type Model = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// Whether the next open can use the named tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Usable {
    Yes,
    Perhaps,
    No,
}

struct World {
    random: Random,
    clock: Arc<ManualClock>,
    place: TempDir,
    dir: PathBuf,
    engine: SingleNodeEngine,
    model: Model,
    snapshots: Vec<(Snapshot, Model)>,
    /// The content of earlier tables. They replace later ones.
    old_tables: Vec<Vec<u8>>,
    usable: Usable,
    index_memory_bytes: u64,
    kills: u64,
    loaded: u64,
    rebuilt: u64,
    mended: u64,
}

fn open(dir: &Path, clock: &Arc<ManualClock>, read_only: bool, index_memory_bytes: u64) -> SingleNodeEngine {
    let config = StoreConfig::at(dir)
        .with_index_memory_bytes(index_memory_bytes)
        .with_max_segment_size(4 << 10)
        .with_min_segment_size(4 << 10)
        .with_compaction_interval(Duration::ZERO)
        .with_read_only(read_only)
        .with_compaction(CompactionConfig::default().with_tombstone_grace(GRACE));
    // No thread changes files while a kill copies them.
    let components = Components::default().with_clock(Arc::clone(clock) as Arc<_>).with_background(Background::Caller);
    SingleNodeEngine::with_components(config, components).unwrap()
}

fn content(entries: Range) -> Model {
    let shown = |entry: Entry| (entry.key().to_vec(), (entry.version(), entry.value().unwrap().to_vec()));
    entries.map(|entry| shown(entry.unwrap())).collect()
}

fn table_files(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| path.is_file() && path.extension().is_some_and(|extension| extension == "tbl")).collect()
}

/// Keys of 3 to 41 bytes, and one that is longer than a segment and a block of a table.
fn key_of(number: u64) -> Vec<u8> {
    let len = if number == 7 { 65_000 } else { 3 + number * number % 39 };
    let mut key = format!("{number:02}").into_bytes();
    key.resize(len as usize, b'k');
    key
}

/// The result of a read, unless it has met a damaged table.
fn unless_damaged<T>(read: Result<T, Error>, met: &mut bool) -> Option<T> {
    match read {
        Ok(found) => Some(found),
        Err(Error::Corrupt { path, .. }) if path.extension().is_some_and(|extension| extension == "tbl") => {
            *met = true;
            None
        }
        Err(failure) => panic!("{failure}"),
    }
}

/// The files of the tables that the manifest names. Others wait for the end of their views.
fn named_tables(dir: &Path) -> Vec<PathBuf> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    let store = ReadOnlyStore::open(&fs, dir, Tolerance::Strict).unwrap();
    store.manifest().tables.newest_first.iter().map(|table| dir.join(table.file_name())).collect()
}

impl World {
    fn new(seed: u64) -> Self {
        let place = TempDir::new().unwrap();
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        let dir = place.path().join("kv");
        // With a few KiB, memtables become tables all the time.
        let index_memory_bytes = if seed.is_multiple_of(2) { 256 << 20 } else { 4 << 10 };
        let engine = open(&dir, &clock, false, index_memory_bytes);
        Self {
            random: Random(seed),
            clock,
            place,
            dir,
            engine,
            model: Model::new(),
            snapshots: Vec::new(),
            old_tables: Vec::new(),
            usable: Usable::Yes,
            index_memory_bytes,
            kills: 0,
            loaded: 0,
            rebuilt: 0,
            mended: 0,
        }
    }

    fn key(&mut self) -> Vec<u8> {
        key_of(self.random.below(KEYS))
    }

    fn value(&mut self) -> Vec<u8> {
        let byte = self.random.below(256) as u8;
        vec![byte; self.random.below(150) as usize]
    }

    fn step(&mut self) {
        match self.random.below(100) {
            0..35 => {
                let (key, value) = (self.key(), self.value());
                let version = self.engine.put_versioned(&key, &value).unwrap();
                self.model.insert(key, (version, value));
            }
            35..55 => {
                let key = self.key();
                let removed = self.engine.remove(&key).unwrap();
                assert_eq!(removed.is_some(), self.model.remove(&key).is_some());
            }
            55..70 => self.submit(),
            70..75 => {
                self.engine.run_compaction_now().unwrap();
                // A table follows a compaction that has changed something.
                self.usable = self.usable.min(Usable::Perhaps);
            }
            75..80 => {
                self.engine.checkpoint().unwrap();
                self.usable = Usable::Yes;
                self.collect_tables();
            }
            80..83 => self.snapshots.push((self.engine.snapshot().unwrap(), self.model.clone())),
            83..86 => {
                self.check_snapshots();
                let count = self.snapshots.len();
                if count > 0 {
                    self.snapshots.swap_remove(self.random.below(count as u64) as usize);
                }
            }
            86..89 => self.clock.advance(Duration::from_secs(self.random.below(50))),
            89 => {
                self.engine.delete_range(..).unwrap();
                self.model.clear();
            }
            90 => self.copy(),
            91 => self.open_for_reading(),
            _ => self.reopen(),
        }
    }

    /// A command with a version of the caller's, near the highest one, and any timestamp.
    fn submit(&mut self) {
        let (key, value) = (self.key(), self.value());
        let highest = self.engine.stats().latest_version;
        let version = (highest + self.random.below(20)).saturating_sub(self.random.below(40));
        let timestamp = self.random.below(1 << 40).cast_signed();
        let is_set = self.random.below(2) == 0;
        let command = if is_set {
            Command::Set { key: key.clone(), value: value.clone(), version, timestamp }
        } else {
            Command::Delete { key: key.clone(), version, timestamp }
        };
        let changed = self.engine.submit(command).unwrap().changed();
        if let Some((present, _)) = self.model.get(&key) {
            assert_eq!(changed, version > *present);
        }
        match (changed, is_set) {
            (false, _) => {}
            (true, true) => drop(self.model.insert(key, (version, value))),
            (true, false) => drop(self.model.remove(&key)),
        }
    }

    fn check_snapshots(&self) {
        for (snapshot, model) in &self.snapshots {
            assert!(content(snapshot.iter()) == *model, "a snapshot has changed");
        }
    }

    fn collect_tables(&mut self) {
        for path in table_files(&self.dir) {
            self.old_tables.push(fs::read(path).unwrap());
        }
        while self.old_tables.len() > 12 {
            self.old_tables.swap_remove(0);
        }
    }

    /// Ends the store by a close or a kill, damages its files, and opens it.
    fn reopen(&mut self) {
        self.check_snapshots();
        self.snapshots.clear();
        if self.random.below(3) == 0 {
            self.kill();
        } else {
            self.engine.close().unwrap();
            self.usable = Usable::Yes;
        }
        self.collect_tables();
        let named = named_tables(&self.dir);
        let is_any_named = !named.is_empty();
        for path in named {
            // A second damage could undo the first one.
            if self.usable == Usable::Yes {
                self.usable = self.damage(&path);
            }
        }
        if self.random.below(8) == 0 {
            self.tear_manifest();
        }
        let mut watch = |_| ControlFlow::Continue(());
        let report = check(&Components::default(), &self.dir, CheckLevel::Tables, &mut watch).unwrap();
        assert!(report.is_whole(), "damaged tables lose nothing: {report:?}");
        let is_rebuilt = matches!(report.tables, Some(TablesUse::Rebuilt { .. }));
        assert!(is_rebuilt || self.usable != Usable::No, "a check sees each damage: {report:?}");
        self.engine = open(&self.dir, &self.clock, false, self.index_memory_bytes);
        match &self.engine.open_report().tables {
            TablesUse::Loaded { .. } => {
                assert_ne!(self.usable, Usable::No);
                self.loaded += 1;
            }
            TablesUse::Rebuilt { reason } => {
                assert_ne!(self.usable, Usable::Yes, "{reason}");
                self.rebuilt += 1;
                self.usable = Usable::Yes;
            }
            _ => assert!(!is_any_named, "a named table was not used"),
        }
        self.check_until_sound();
        let stats = self.engine.stats();
        let live: u64 = stats.segments.iter().map(|segment| segment.live_records).sum();
        assert_eq!(live, stats.keys + stats.tombstones);
    }

    /// Each read gives what the model has, or says that a table is damaged. Then a checkpoint
    /// rebuilds it.
    fn check_until_sound(&mut self) {
        let (engine, model, mut met) = (&self.engine, &self.model, false);
        let pair = |entry: Entry| entry.value().map(|value| (entry.key().to_vec(), (entry.version(), value.to_vec())));
        for number in 0..KEYS {
            let key = key_of(number);
            let expected = model.get(&key);
            if let Some(found) = unless_damaged(engine.get_versioned(&key), &mut met) {
                assert_eq!(found.map(|(value, version)| (version, value.to_vec())).as_ref(), expected);
            }
            if let Some(found) = unless_damaged(engine.contains_key(&key), &mut met) {
                assert_eq!(found, expected.is_some());
            }
            let ends = [
                (engine.range(key.as_slice()..).unwrap().next(), model.range(key.clone()..).next()),
                (engine.range(..key.as_slice()).unwrap().next_back(), model.range(..key.clone()).next_back()),
            ];
            for (found, expected) in ends {
                if let Some(found) =
                    unless_damaged(found.transpose().and_then(|found| found.map(pair).transpose()), &mut met)
                {
                    assert_eq!(found.as_ref().map(|(key, value)| (key, value)), expected);
                }
            }
        }
        let mut expected = model.iter();
        for found in engine.iter().unwrap() {
            let Some(found) = unless_damaged(found.and_then(pair), &mut met) else { break };
            assert_eq!(Some((&found.0, &found.1)), expected.next());
        }
        assert_eq!(engine.stats().table_damage.is_some(), met);
        if met {
            assert_eq!(self.usable, Usable::Perhaps, "an undamaged table is called damaged");
            engine.checkpoint().unwrap();
            assert_eq!((engine.stats().compaction.rebuilds, engine.stats().table_damage), (1, None));
            self.usable = Usable::Yes;
            self.mended += 1;
        }
        self.check_content(&self.engine);
    }

    fn check_content(&self, engine: &SingleNodeEngine) {
        assert!(content(engine.iter().unwrap()) == self.model, "not the content of the model");
        assert_eq!(engine.len(), self.model.len());
    }

    /// Continues with a copy of the files of the open store.
    fn kill(&mut self) {
        self.kills += 1;
        let killed = self.place.path().join(self.kills.to_string());
        fs::create_dir(&killed).unwrap();
        for file in fs::read_dir(&self.dir).unwrap() {
            let path = file.unwrap().path();
            let copy = killed.join(path.file_name().unwrap());
            if path.is_file() {
                fs::copy(&path, copy).unwrap();
            } else {
                fs::create_dir(copy).unwrap();
            }
        }
        self.dir = killed;
    }

    /// Damages a table's file in one of several ways, or not.
    fn damage(&mut self, path: &Path) -> Usable {
        let mut bytes = fs::read(path).unwrap();
        let at = self.random.below(bytes.len() as u64) as usize;
        match self.random.below(12) {
            0 => {
                fs::remove_file(path).unwrap();
                return Usable::No;
            }
            1 => {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
                return Usable::No;
            }
            2 => bytes.truncate(at),
            3 => bytes.extend_from_slice(&[0; 64]),
            4 => {
                let old = self.random.below(self.old_tables.len() as u64) as usize;
                fs::write(path, &self.old_tables[old]).unwrap();
                // It may be this table, from before a damage or with another one.
                return if self.old_tables[old].len() == bytes.len() { Usable::Perhaps } else { Usable::No };
            }
            5 => {
                bytes[at] ^= 1 << self.random.below(8);
                fs::write(path, bytes).unwrap();
                // An open does not read every block.
                return Usable::Perhaps;
            }
            _ => return Usable::Yes,
        }
        fs::write(path, bytes).unwrap();
        Usable::No
    }

    fn tear_manifest(&self) {
        let path = self.dir.join("MANIFEST");
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend_from_slice(b"HTKVEDT\n torn");
        fs::write(&path, bytes).unwrap();
    }

    /// A restored backup has no table; its first close writes one, unless it has no key.
    fn copy(&mut self) {
        let (backup, restored) = (self.place.path().join("backup"), self.place.path().join("restored"));
        let _previous = fs::remove_dir_all(&restored);
        self.engine.backup_to(&backup).unwrap();
        restore(&Components::default(), &backup, &restored).unwrap();
        for _ in 0..2 {
            let copy = open(&restored, &self.clock, false, self.index_memory_bytes);
            self.check_content(&copy);
            copy.close().unwrap();
        }
        let copy = open(&restored, &self.clock, true, self.index_memory_bytes);
        self.check_content(&copy);
        let report = copy.open_report();
        let has_none = matches!(report.tables, TablesUse::None) && self.model.is_empty();
        assert!(matches!(report.tables, TablesUse::Loaded { .. }) || has_none, "{report:?}");
        assert_eq!(report.replayed_records, 0);
    }

    /// A close leaves nothing to replay, whatever tables it found.
    fn open_for_reading(&mut self) {
        self.snapshots.clear();
        self.engine.close().unwrap();
        self.usable = Usable::Yes;
        let readers = [0, 1].map(|_| open(&self.dir, &self.clock, true, self.index_memory_bytes));
        for reader in &readers {
            self.check_content(reader);
            assert_eq!(reader.open_report().replayed_records, 0);
        }
        drop(readers);
        self.engine = open(&self.dir, &self.clock, false, self.index_memory_bytes);
    }
}

#[test]
fn histories_with_damaged_tables_are_those_of_the_model() {
    let number = |name, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (cases, first) = (number("HIGHTOWER_TEST_CASES", 6), number("HIGHTOWER_TEST_SEED", 0));
    let (mut loaded, mut rebuilt, mut mended) = (0, 0, 0);
    for seed in first..first + cases {
        let mut world = World::new(seed);
        for step in 0..STEPS {
            if let Err(failure) = catch_unwind(AssertUnwindSafe(|| world.step())) {
                eprintln!("seed {seed}, step {step}: HIGHTOWER_TEST_SEED={seed} HIGHTOWER_TEST_CASES=1 finds it again");
                resume_unwind(failure);
            }
        }
        loaded += world.loaded;
        rebuilt += world.rebuilt;
        mended += world.mended;
    }
    println!(
        "{cases} histories from seed {first}: {loaded} opens used tables, {rebuilt} rebuilt them, {mended} checkpoints did"
    );
    let are_enough = loaded > cases && rebuilt > cases && mended > cases / 2;
    assert!(cases < 20 || are_enough, "{loaded} {rebuilt} {mended}: too few of each kind");
}
