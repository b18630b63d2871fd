//! Scans of several levels, with one merge for each end of a range.

use std::convert::Infallible;
use std::ops::Bound;
use std::sync::Arc;

use hightower_index::{Guard, Map, pin};
use hightower_table::{LevelMerge, MergeSource, ScanDirection, TableEntry, TableError, TableRange, TableReader};

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
    Table(Box<TableSource>),
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

/// The entries of a table that exist.
pub(crate) struct TableSource {
    range: TableRange<Arc<TableReader>>,
    segments: SegmentSet,
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
    ) -> Result<Option<Vec<u8>>, TableError> {
        if part.snapshot.view.lower.is_none() {
            let Ok(last) = OneMemtable::Active.fill(batch, part, guard);
            return Ok(last);
        }
        let merge = match part.end {
            RangeEnd::Front => &mut self.front,
            RangeEnd::Back => &mut self.back,
        };
        let merge = merge.get_or_insert_with(|| merge_of(part));
        for scanned in 1.. {
            if !merge.advance()? || is_beyond(part, merge.key()) {
                break;
            }
            let entry = merge.entry();
            if let Some(record) = record_of::<L>(&entry).filter(|_| !(part.live_only && entry.is_tombstone())) {
                batch.push(merge.key(), version_of(&record));
            }
            if batch.len() == part.items || scanned == MAX_BATCH_SCANNED {
                return Ok(Some(merge.key().to_vec()));
            }
        }
        Ok(None)
    }

    fn start_again(&mut self) {
        *self = Self::default();
    }
}

/// A forward merge of all levels of a snapshot, without empty memtables.
pub(crate) fn whole_merge<L: Location>(snapshot: &Arc<SnapshotRegistration>) -> Merge<L> {
    let middle = ScanMiddle { from: Bound::Unbounded, to: Bound::Unbounded };
    merge_of(&ScanPart { snapshot, middle: &middle, end: RangeEnd::Front, live_only: false, items: 0 })
}

/// A merge of all levels over the middle, from one end.
fn merge_of<L: Location>(part: &ScanPart<'_>) -> Merge<L> {
    let view = &part.snapshot.view;
    let memtables = view.memtables().filter(|memtable| !memtable.map.is_empty());
    let memtables = memtables.map(|memtable| {
        let source = OneMemtable::Other(memtable.clone());
        let (from, to) = (borrow(&part.middle.from), borrow(&part.middle.to));
        let scan = RangeScan::new(source, Arc::clone(part.snapshot), from, to);
        LevelSource::Memtable(Box::new(MemtableSource::new(scan, part.end)))
    });
    let direction = match part.end {
        RangeEnd::Front => ScanDirection::Forward,
        RangeEnd::Back => ScanDirection::Backward,
    };
    let tables = view.lower.iter().flat_map(|lower| {
        lower.tables.iter().map(|table| {
            let ScanMiddle { from, to } = part.middle;
            let bounds = (from.as_ref(), to.as_ref());
            let range = TableRange::new::<Vec<u8>>(Arc::clone(&table.reader), bounds, direction);
            LevelSource::Table(Box::new(TableSource { range, segments: lower.segments.clone() }))
        })
    });
    LevelMerge::new(memtables.chain(tables).collect(), direction, |_| true)
}

/// Whether a key lies beyond the far end of the middle. The scan's other end moves that end.
fn is_beyond(part: &ScanPart<'_>, key: &[u8]) -> bool {
    match (part.end, &part.middle.to, &part.middle.from) {
        (RangeEnd::Front, Bound::Included(to), _) => key > to.as_slice(),
        (RangeEnd::Front, Bound::Excluded(to), _) => key >= to.as_slice(),
        (RangeEnd::Back, _, Bound::Included(from)) => key < from.as_slice(),
        (RangeEnd::Back, _, Bound::Excluded(from)) => key <= from.as_slice(),
        _ => false,
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

impl MergeSource for TableSource {
    type Error = TableError;

    fn advance(&mut self) -> Result<bool, TableError> {
        while self.range.advance()? {
            if self.segments.contains(self.range.entry().pointer.segment) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn key(&self) -> &[u8] {
        self.range.key()
    }

    fn entry(&self) -> TableEntry {
        self.range.entry()
    }
}

impl<L: Location> MergeSource for LevelSource<L> {
    type Error = TableError;

    fn advance(&mut self) -> Result<bool, TableError> {
        match self {
            Self::Memtable(memtable) => Ok(memtable.advance()?),
            Self::Table(table) => table.advance(),
        }
    }

    fn key(&self) -> &[u8] {
        match self {
            Self::Memtable(memtable) => memtable.key(),
            Self::Table(table) => table.key(),
        }
    }

    fn entry(&self) -> TableEntry {
        match self {
            Self::Memtable(memtable) => memtable.entry(),
            Self::Table(table) => table.entry(),
        }
    }
}

impl<L> std::fmt::Debug for MemtableSource<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemtableSource").field("entry", &self.entry).finish_non_exhaustive()
    }
}
