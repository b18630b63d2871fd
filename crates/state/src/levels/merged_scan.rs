//! Scans of several levels, with one merge for each end of a range.

use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use hightower_index::{Guard, Map, pin};
use hightower_table::{
    EntryRun, LevelMerge, MergeSource, ScanDirection, SeekTo, TableCursor, TableEntry, TableError, TableReader,
};

use crate::change::EntryRecord;
use crate::entry::IndexEntry;
use crate::inner::SnapshotRegistration;
use crate::levels::pointer::{entry_of, record_of};
use crate::levels::segment_set::SegmentSet;
use crate::levels::view::Memtable;
use crate::location::Location;
use crate::range_scan::{
    MAX_BATCH_SCANNED, OneMemtable, RangeEnd, RangeScan, ScanBatch, ScanMiddle, ScanPart, ScanSource,
};
use crate::version::{Version, Word};

/// All levels of the snapshot's view.
pub(crate) struct AllLevels<L> {
    front: Option<Merge<L>>,
    back: Option<Merge<L>>,
}

/// Yields the topmost existing entry of each key.
pub(crate) type Merge<L> = LevelMerge<LevelSource<L>, fn(u32) -> bool>;

pub(crate) enum LevelSource<L> {
    Memtable(Box<MemtableSource<L>>),
    Table(TableSource),
}

/// The entries of a memtable in key order, tombstones included. It is a level of a merge, and the
/// source from which a [`FrozenMemtable`](crate::FrozenMemtable) is written to a table.
///
/// It reads some dozens of entries at a time, and holds no guard in between.
///
/// Example: [`FrozenMemtable`](crate::FrozenMemtable).
pub struct MemtableSource<L> {
    scan: RangeScan<L, OneMemtable>,
    end: RangeEnd,
    key: Vec<u8>,
    entry: TableEntry,
}

/// The entries of a table that exist, from one end of a middle on.
pub(crate) struct TableSource {
    cursor: TableCursor<Arc<TableReader>>,
    direction: ScanDirection,
    segments: SegmentSet,
    /// Whether the cursor is at the next entry already.
    is_at_next: bool,
}

impl<L> Default for AllLevels<L> {
    fn default() -> Self {
        Self { front: None, back: None }
    }
}

impl<L: Location> ScanSource for AllLevels<L> {
    type Error = TableError;

    fn map_in_place<'s>(&self, snapshot: &'s SnapshotRegistration) -> Option<&'s Map<IndexEntry>> {
        snapshot.view.lower.is_none().then_some(&snapshot.view.active.map)
    }

    fn fill(
        &mut self,
        batch: &mut ScanBatch,
        part: &ScanPart<'_>,
        guard: &Guard,
        last: &mut Vec<u8>,
    ) -> Result<bool, TableError> {
        if part.snapshot.view.lower.is_none() {
            let Ok(more) = OneMemtable::Active.fill(batch, part, guard, last);
            return Ok(more);
        }
        let merge = match part.end {
            RangeEnd::Front => &mut self.front,
            RangeEnd::Back => &mut self.back,
        };
        let merge = match merge {
            Some(merge) => merge,
            None => merge.insert(merge_of(part)?),
        };
        let version = |entry: &TableEntry| {
            let record = record_of::<L>(entry).filter(|_| !(part.live_only && entry.is_tombstone()));
            record.as_ref().map(version_of)
        };
        let mut scanned = 0;
        while batch.len() < part.items && scanned < MAX_BATCH_SCANNED {
            if !merge.advance()? || is_beyond(part, merge.key()) {
                return Ok(false);
            }
            let run = merge.run().map(|run| run.until(far_end(part)));
            if let Some(run) = run.filter(|run| run.len() > 1) {
                batch.push_run(run, version);
                scanned += run.len();
                merge.skip_in_run(run.len() - 1);
            } else {
                scanned += 1;
                if let Some(version) = version(&merge.entry()) {
                    batch.push(merge.key(), version);
                }
            }
        }
        last.extend_from_slice(merge.key());
        Ok(true)
    }

    fn start_again(&mut self) {
        *self = Self::default();
    }
}

/// A forward merge of all levels of a snapshot, without empty memtables.
pub(crate) fn whole_merge<L: Location>(snapshot: &Arc<SnapshotRegistration>) -> Result<Merge<L>, TableError> {
    let middle = ScanMiddle { from: Bound::Unbounded, to: Bound::Unbounded };
    merge_of(&ScanPart { snapshot, middle: &middle, end: RangeEnd::Front, live_only: false, items: 0 })
}

/// A merge of all levels over the middle, from one end. Tables know only the end where they begin.
fn merge_of<L: Location>(part: &ScanPart<'_>) -> Result<Merge<L>, TableError> {
    let view = &part.snapshot.view;
    let tables = view.tables();
    let mut sources = Vec::with_capacity(tables.len() + 1);
    for memtable in view.memtables().filter(|memtable| !memtable.map.is_empty()) {
        let source = OneMemtable::Other(memtable.clone());
        let (from, to) = (borrow(&part.middle.from), borrow(&part.middle.to));
        let scan = RangeScan::new(source, Arc::clone(part.snapshot), from, to);
        sources.push(LevelSource::Memtable(Box::new(MemtableSource::new(scan, part.end))));
    }
    if let Some(lower) = &view.lower {
        for table in tables {
            let source = TableSource::new(&table.reader, &lower.segments, part)?;
            sources.push(LevelSource::Table(source));
        }
    }
    Ok(LevelMerge::new(sources, direction_from(part.end), |_| true))
}

fn direction_from(end: RangeEnd) -> ScanDirection {
    match end {
        RangeEnd::Front => ScanDirection::Forward,
        RangeEnd::Back => ScanDirection::Backward,
    }
}

/// The far end of the middle. The scan's other end moves it.
fn far_end<'a>(part: &ScanPart<'a>) -> Bound<&'a [u8]> {
    match part.end {
        RangeEnd::Front => borrow(&part.middle.to),
        RangeEnd::Back => borrow(&part.middle.from),
    }
}

/// Whether a key lies beyond the far end of the middle.
fn is_beyond(part: &ScanPart<'_>, key: &[u8]) -> bool {
    match (part.end, far_end(part)) {
        (RangeEnd::Front, Bound::Included(to)) => key > to,
        (RangeEnd::Front, Bound::Excluded(to)) => key >= to,
        (RangeEnd::Back, Bound::Included(from)) => key < from,
        (RangeEnd::Back, Bound::Excluded(from)) => key <= from,
        (_, Bound::Unbounded) => false,
    }
}

/// The version of a batch's item; its seq is not used.
fn version_of<L: Location>(record: &EntryRecord<L>) -> Version {
    let word = Word::new(record.location.to_bits(), record.kind);
    Version { word, seq: 0, version: record.version, len_bytes: record.len_bytes }
}

fn borrow(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

impl<L: Location> MemtableSource<L> {
    fn new(scan: RangeScan<L, OneMemtable>, end: RangeEnd) -> Self {
        Self { scan, end, key: Vec::new(), entry: TableEntry::default() }
    }

    /// All entries of a memtable as of a snapshot, in ascending order.
    pub(crate) fn whole(memtable: Memtable, snapshot: Arc<SnapshotRegistration>) -> Self {
        let scan = RangeScan::new(OneMemtable::Other(memtable), snapshot, Bound::Unbounded, Bound::Unbounded);
        Self::new(scan, RangeEnd::Front)
    }
}

impl<L: Location> MergeSource for MemtableSource<L> {
    type Error = Infallible;

    fn advance(&mut self) -> Result<bool, Infallible> {
        let Some((key, record)) = self.scan.next(self.end, &pin(), |_| {})? else { return Ok(false) };
        self.key.clear();
        self.key.extend_from_slice(key);
        self.entry = entry_of(&record);
        Ok(true)
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn entry(&self) -> TableEntry {
        self.entry
    }
}

impl TableSource {
    /// The keys of the middle from one end on, and those behind its far end.
    fn new(table: &Arc<TableReader>, segments: &SegmentSet, part: &ScanPart<'_>) -> Result<Self, TableError> {
        let mut cursor = TableCursor::new(Arc::clone(table));
        let direction = direction_from(part.end);
        let is_there = match (part.end, &part.middle.from, &part.middle.to) {
            (RangeEnd::Front, Bound::Unbounded, _) => cursor.seek_first()?,
            (RangeEnd::Front, Bound::Included(from), _) => cursor.seek(from, SeekTo::AtOrAfter)?,
            (RangeEnd::Front, Bound::Excluded(from), _) => cursor.seek(from, SeekTo::After)?,
            (RangeEnd::Back, _, Bound::Unbounded) => cursor.seek_last()?,
            (RangeEnd::Back, _, Bound::Included(to)) => cursor.seek(to, SeekTo::AtOrBefore)?,
            (RangeEnd::Back, _, Bound::Excluded(to)) => cursor.seek(to, SeekTo::Before)?,
        };
        Ok(Self { cursor, direction, segments: segments.clone(), is_at_next: is_there })
    }

    /// Moves to the next entry, whether it exists or not.
    #[inline]
    fn step(&mut self) -> Result<bool, TableError> {
        if std::mem::take(&mut self.is_at_next) {
            return Ok(true);
        }
        match self.direction {
            ScanDirection::Forward => self.cursor.advance(),
            ScanDirection::Backward => self.cursor.retreat(),
        }
    }
}

impl MergeSource for TableSource {
    type Error = TableError;

    #[inline]
    fn advance(&mut self) -> Result<bool, TableError> {
        while self.step()? {
            if self.segments.contains(self.entry().pointer.segment) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.cursor.key().unwrap_or_default()
    }

    #[inline]
    fn entry(&self) -> TableEntry {
        self.cursor.entry().unwrap_or_default()
    }

    #[inline]
    fn run(&self) -> Option<EntryRun<'_>> {
        Some(self.cursor.run(self.direction)?.existing(|segment| self.segments.contains(segment)))
    }

    #[inline]
    fn skip_in_run(&mut self, count: usize) {
        self.cursor.skip_in_run(count, self.direction);
    }
}

impl<L: Location> MergeSource for LevelSource<L> {
    type Error = TableError;

    #[inline]
    fn advance(&mut self) -> Result<bool, TableError> {
        match self {
            Self::Memtable(memtable) => Ok(memtable.advance()?),
            Self::Table(table) => table.advance(),
        }
    }

    #[inline]
    fn key(&self) -> &[u8] {
        match self {
            Self::Memtable(memtable) => memtable.key(),
            Self::Table(table) => table.key(),
        }
    }

    #[inline]
    fn entry(&self) -> TableEntry {
        match self {
            Self::Memtable(memtable) => memtable.entry(),
            Self::Table(table) => table.entry(),
        }
    }

    #[inline]
    fn run(&self) -> Option<EntryRun<'_>> {
        match self {
            Self::Memtable(memtable) => memtable.run(),
            Self::Table(table) => table.run(),
        }
    }

    #[inline]
    fn skip_in_run(&mut self, count: usize) {
        match self {
            Self::Memtable(memtable) => memtable.skip_in_run(count),
            Self::Table(table) => table.skip_in_run(count),
        }
    }
}

impl<L> std::fmt::Debug for MemtableSource<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemtableSource").field("entry", &self.entry).finish_non_exhaustive()
    }
}
