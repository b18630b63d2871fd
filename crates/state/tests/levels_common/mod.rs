//! A store around a state with levels: a log of records in segments, and tables on a simulated
//! disk.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use hightower_log::Command;
use hightower_segment::sim::SimFs;
use hightower_segment::{Dir, Fs};
use hightower_state::{
    Change, CommandKind, FrozenMemtable, KvState, LeveledKvState, Location, LocationBits, Lookup, NewestCommand,
    OlderViews, SegmentSet, TableError, TableMark, pin,
};
use hightower_table::{
    EntryKind, LevelMerge, MergeSource, RecordPointer, ScanDirection, TableEntry, TableOptions, TableReader,
    TableWriter,
};

pub(crate) const RECORD_LEN_BYTES: u32 = 40;

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) offset: u32,
}

impl Location for Place {
    fn to_bits(self) -> LocationBits {
        LocationBits::new(u64::from(self.segment) << 32 | u64::from(self.offset)).unwrap()
    }

    fn from_bits(bits: LocationBits) -> Self {
        let bits = bits.get();
        Self { segment: u32::try_from(bits >> 32).unwrap(), offset: u32::try_from(bits & 0xffff_ffff).unwrap() }
    }
}

/// A record of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogRecord {
    pub(crate) key: Vec<u8>,
    pub(crate) version: u64,
    pub(crate) kind: CommandKind,
    pub(crate) value: u32,
    pub(crate) seq: u64,
}

/// What a lookup says: version and value, unless the key is absent.
pub(crate) type Answer = Option<(u64, u32)>;

/// A compaction that has begun.
pub(crate) struct Compaction {
    pub(crate) mark: TableMark,
    pub(crate) victims: Vec<u32>,
    moved: BTreeMap<Vec<u8>, TableEntry>,
    segment: u32,
}

pub(crate) struct World {
    pub(crate) state: LeveledKvState<Place>,
    pub(crate) fs: SimFs,
    pub(crate) dir: Arc<dyn Dir>,
    /// Every segment that was ever written, with its records by offset.
    pub(crate) log: BTreeMap<u32, BTreeMap<u32, LogRecord>>,
    /// Those that exist.
    pub(crate) segments: BTreeSet<u32>,
    pub(crate) active: u32,
    next_segment: u32,
    next_table: u64,
    pub(crate) frozen: Vec<FrozenMemtable<Place>>,
    /// The seq up to which tables have everything.
    pub(crate) covered: u64,
    /// Segments that were dropped, and the views that may still read them.
    pub(crate) dropped: Vec<(OlderViews, Vec<u32>)>,
    pub(crate) current: SegmentSet,
    pub(crate) max_version: u64,
}

impl World {
    pub(crate) fn new() -> Self {
        let fs = SimFs::new();
        fs.create_dir_all(Path::new("/db")).unwrap();
        let dir = fs.open_dir(Path::new("/db")).unwrap();
        Self {
            state: LeveledKvState::new(),
            fs,
            dir,
            log: BTreeMap::from([(1, BTreeMap::new())]),
            segments: BTreeSet::from([1]),
            active: 1,
            next_segment: 2,
            next_table: 1,
            frozen: Vec::new(),
            covered: 0,
            dropped: Vec::new(),
            current: SegmentSet::default(),
            max_version: 0,
        }
    }

    fn append(&mut self, segment: u32, record: LogRecord) -> Place {
        let records = self.log.entry(segment).or_default();
        let offset = 64 + RECORD_LEN_BYTES * u32::try_from(records.len()).unwrap();
        records.insert(offset, record);
        Place { segment, offset }
    }

    pub(crate) fn new_segment(&mut self) -> u32 {
        let segment = self.next_segment;
        self.next_segment += 1;
        self.log.insert(segment, BTreeMap::new());
        self.segments.insert(segment);
        segment
    }

    /// The next commits go to a new segment.
    pub(crate) fn roll(&mut self) {
        self.active = self.new_segment();
    }

    /// Commits commands that win, in one commit. Each has its version.
    pub(crate) fn commit(&mut self, commands: &[(Vec<u8>, u64, CommandKind, u32)]) {
        let seq = self.state.visible_seq() + 1;
        let mut changes = Vec::new();
        for (key, version, kind, value) in commands {
            let record = LogRecord { key: key.clone(), version: *version, kind: *kind, value: *value, seq };
            changes.push((key, *version, *kind, self.append(self.active, record)));
            self.max_version = self.max_version.max(*version);
        }
        let guard = pin();
        let mut writer = self.state.writer();
        let mut commit = writer.begin(seq, &guard).unwrap();
        for (key, version, kind, location) in changes {
            commit.apply(&Change { key, version, kind, location, len_bytes: RECORD_LEN_BYTES });
        }
        commit.publish();
    }

    pub(crate) fn put(&mut self, key: &[u8], value: u32) {
        let version = self.max_version + 1;
        self.commit(&[(key.to_vec(), version, CommandKind::Set, value)]);
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        let version = self.max_version + 1;
        self.commit(&[(key.to_vec(), version, CommandKind::Delete, 0)]);
    }

    /// A command with a version of the caller's; whether it won.
    pub(crate) fn submit(&mut self, key: &[u8], version: u64, kind: CommandKind, value: u32) -> bool {
        let below = self.look_below(key);
        let wins = self.state.writer().evaluate(key, version, kind, Some(&below)).unwrap().changed();
        if wins {
            self.commit(&[(key.to_vec(), version, kind, value)]);
        }
        wins
    }

    pub(crate) fn look_below(&self, key: &[u8]) -> hightower_state::LookedBelow {
        let newest = |record: &LogRecord| NewestCommand { version: record.version, kind: record.kind };
        let read = |place| Ok::<_, TableError>(self.record_of(key, place).map(newest));
        self.state.look_below(key, &pin(), read).unwrap()
    }

    /// The record at a place, which must be readable for every view that leads to it.
    pub(crate) fn record(&self, place: Place) -> &LogRecord {
        let is_readable = self.segments.contains(&place.segment)
            || self.dropped.iter().any(|(views, dropped)| views.are_in_use() && dropped.contains(&place.segment));
        assert!(is_readable, "sent to {place:?}, which no view has");
        &self.log[&place.segment][&place.offset]
    }

    /// The record at a place, if it is of this key.
    pub(crate) fn record_of(&self, key: &[u8], place: Place) -> Option<&LogRecord> {
        Some(self.record(place)).filter(|record| record.key == key)
    }

    /// What a lookup comes to.
    pub(crate) fn answer(&self, key: &[u8], lookup: Lookup<'_, Place>) -> Result<Answer, TableError> {
        match lookup {
            Lookup::Found(found) => {
                let record = self.record_of(key, found.location).expect("a memtable is exact");
                assert_eq!((record.kind, record.version), (CommandKind::Set, found.version));
                Ok(Some((record.version, record.value)))
            }
            Lookup::Absent => Ok(None),
            Lookup::Below(search) => {
                let found = search.find(|place| Ok::<_, TableError>(self.record_of(key, place)))?;
                let live = found.filter(|record| record.kind == CommandKind::Set);
                Ok(live.map(|record| (record.version, record.value)))
            }
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Answer {
        let guard = pin();
        self.answer(key, self.state.get(key, &guard)).unwrap()
    }

    pub(crate) fn freeze(&mut self) -> bool {
        let frozen = self.state.writer().freeze(self.state.spare_memtable(), &pin());
        let is_frozen = frozen.is_some();
        self.frozen.extend(frozen);
        is_frozen
    }

    /// Writes a table, and opens it.
    pub(crate) fn table<S: MergeSource>(&mut self, source: &mut S) -> Arc<TableReader>
    where
        TableError: From<S::Error>,
    {
        let id = self.next_table;
        self.next_table += 1;
        let name = format!("{id:010}.tbl");
        // Tables of two seeds, so that a lookup hashes twice now and then.
        let options = TableOptions::new(id, id * 31, 7 + id % 5 / 4);
        let mut writer = TableWriter::create(&self.dir, &name, options).unwrap();
        writer.push_all(source, &mut |_| ControlFlow::Continue(())).unwrap();
        writer.finish().unwrap();
        Arc::new(TableReader::open(self.dir.as_ref(), &name).unwrap())
    }

    /// The set of the segments that exist now, for the views from now on.
    pub(crate) fn set(&mut self) -> SegmentSet {
        self.current = SegmentSet::new(self.segments.iter().copied());
        self.current.clone()
    }

    /// Makes a table of the oldest frozen memtable.
    pub(crate) fn flush(&mut self) -> bool {
        if self.frozen.is_empty() {
            return false;
        }
        let frozen = self.frozen.remove(0);
        let table = self.table(&mut frozen.source());
        let set = self.set();
        self.state.writer().install_flushed(&frozen, Some(table), set).unwrap();
        self.covered = frozen.last_seq();
        true
    }

    pub(crate) fn freeze_and_flush(&mut self) {
        self.freeze();
        while self.flush() {}
    }

    /// Merges these tables, by their places, newest first.
    pub(crate) fn merged(&mut self, first: usize, count: usize) -> (Vec<u64>, Arc<TableReader>) {
        let tables: Vec<_> = self.state.tables().into_iter().skip(first).take(count).collect();
        let ranges = tables.iter().map(|table| table.range::<Vec<u8>>(.., ScanDirection::Forward)).collect();
        let set = self.current.clone();
        let mut merge = LevelMerge::new(ranges, ScanDirection::Forward, move |segment| set.contains(segment));
        let merged = self.table(&mut merge);
        (tables.iter().map(|table| table.id()).collect(), merged)
    }

    /// Begins a compaction of segments that lie wholly behind the covered position: copies what is
    /// live.
    pub(crate) fn begin_compaction(&mut self, wanted: impl Fn(u32) -> bool) -> Option<Compaction> {
        let covered = self.covered;
        let is_victim = |segment: &u32| {
            let is_covered = self.log[segment].values().all(|record| record.seq <= covered);
            *segment != self.active && is_covered && self.current.contains(*segment) && wanted(*segment)
        };
        let victims: Vec<_> = self.segments.iter().copied().filter(is_victim).collect();
        if victims.is_empty() {
            return None;
        }
        let mark = self.state.writer().mark();
        let mut live = Vec::new();
        for segment in &victims {
            for (offset, record) in &self.log[segment] {
                let newest = self.state.entry(&record.key, &pin()).unwrap();
                if newest.is_some_and(|newest| newest.location == Place { segment: *segment, offset: *offset }) {
                    live.push(record.clone());
                }
            }
        }
        let segment = self.new_segment();
        // No view has it before the compaction ends.
        self.segments.remove(&segment);
        let mut moved = BTreeMap::new();
        for record in live {
            let (key, version) = (record.key.clone(), record.version);
            let kind = if record.kind == CommandKind::Set { EntryKind::Set } else { EntryKind::Tombstone };
            let place = self.append(segment, record);
            let pointer = RecordPointer { segment, offset: place.offset };
            moved.insert(key, TableEntry { version, kind, pointer, len_bytes: RECORD_LEN_BYTES });
        }
        Some(Compaction { mark, victims, moved, segment })
    }

    pub(crate) fn end_compaction(&mut self, compaction: Compaction) {
        let Compaction { mark, victims, moved, segment } = compaction;
        let table = (!moved.is_empty()).then(|| self.table(&mut Moved(moved.into_iter().collect(), 0)));
        self.segments.insert(segment);
        victims.iter().for_each(|victim| {
            self.segments.remove(victim);
        });
        let set = self.set();
        let mut writer = self.state.writer();
        writer.install_relocations(&mark, table, set).unwrap();
        self.dropped.push((writer.older_views(), victims));
    }
}

/// Entries in key order, and the number of those that were read.
struct Moved(Vec<(Vec<u8>, TableEntry)>, usize);

impl MergeSource for Moved {
    type Error = TableError;

    fn advance(&mut self) -> Result<bool, TableError> {
        self.1 += 1;
        Ok(self.1 <= self.0.len())
    }

    fn key(&self) -> &[u8] {
        &self.0[self.1 - 1].0
    }

    fn entry(&self) -> TableEntry {
        self.0[self.1 - 1].1
    }
}

pub(crate) fn command(key: &[u8], version: u64, kind: CommandKind, value: u32) -> Command {
    let key = key.to_vec();
    match kind {
        CommandKind::Set => Command::Set { key, value: value.to_le_bytes().to_vec(), version, timestamp: 0 },
        CommandKind::Delete => Command::Delete { key, version, timestamp: 0 },
    }
}

/// What the plain model says of a key.
pub(crate) fn model_answer(model: &KvState, key: &[u8]) -> Answer {
    let value = model.get(key)?;
    Some((model.version_of(key).unwrap(), u32::from_le_bytes(value.try_into().unwrap())))
}
