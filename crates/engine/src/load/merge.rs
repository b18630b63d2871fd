//! Merging tables with the records beyond the position they cover, one key range at a time.

use std::cell::Cell;
use std::ops::{Bound, Range};
use std::sync::Arc;

use hightower_index::prefetch_read;
use hightower_segment::Segment;
use hightower_state::{Change, CommandKind, LoadRun};
use hightower_table::{EntryKind, LevelMerge, MergeSource, ScanDirection, TableEntry, TableError};

use crate::error::Error;
use crate::load::deal::Dealt;
use crate::load::item::Item;
use crate::load::records::{Pending, record_cuts};
use crate::place::Place;
use crate::tables::OpenTables;

/// Prefetch distance of keys, in records.
const PREFETCH_AHEAD: usize = 12;

/// A key range, inclusive start and exclusive end; `None` for an open end.
type Between<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// Numbers of records and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) tombstone_bytes: u64,
}

impl Sums {
    fn count(&mut self, len_bytes: u32, is_tombstone: bool) {
        self.records += 1;
        self.bytes += u64::from(len_bytes);
        self.tombstone_bytes += if is_tombstone { u64::from(len_bytes) } else { 0 };
    }
}

/// The reason why the state was not built.
pub(crate) enum Unusable {
    /// A table is unusable: replay the whole log.
    Because(String),
    /// The log is damaged, or the caller has aborted the open.
    Failed(Error),
}

impl From<TableError> for Unusable {
    fn from(error: TableError) -> Self {
        Self::Because(error.to_string())
    }
}

/// The inputs of the merge, and the key ranges.
pub(crate) struct Plan<'a> {
    tables: &'a OpenTables,
    records: Dealt<'a>,
    /// Ids of all segments, ascending.
    pub(crate) segment_ids: Vec<u32>,
    /// The end of the covered records of each of them.
    covered_ends: Vec<u32>,
    /// The index of each replayed segment in `segment_ids`.
    part_at: Vec<usize>,
    /// The bounds of each range.
    pub(crate) ranges: Vec<Between<'a>>,
}

/// Adjacent key ranges, merged.
pub(crate) struct Merged {
    pub(crate) run: LoadRun<Place>,
    /// The sums of the winning records, for each segment that has some, with the segment's index.
    /// All ranges are kept until the last is merged, and dense sums would take memory for ranges
    /// times segments.
    pub(crate) live: Vec<(usize, Sums)>,
    /// The number of the tables' entries in existing segments.
    pub(crate) used_entries: u64,
}

/// Key ranges during the merge.
struct Merging {
    run: LoadRun<Place>,
    live: Vec<Sums>,
    used_entries: u64,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(
        tables: &'a OpenTables,
        segments: &[Arc<Segment>],
        pending: Pending<'a>,
        table_cuts: &'a [Vec<u8>],
    ) -> Self {
        let mut covered: Vec<(u32, u32)> = segments
            .iter()
            .map(|segment| (segment.id(), tables.covered.end_in(segment.id(), segment.kind()).min(segment.len_bytes())))
            .collect();
        covered.sort_unstable();
        let (segment_ids, covered_ends): (Vec<u32>, Vec<u32>) = covered.into_iter().unzip();
        let part_at = pending.segments.iter().map(|id| segment_ids.partition_point(|other| other < id)).collect();
        let mut cuts = record_cuts(&pending);
        cuts.extend(table_cuts.iter().map(Vec::as_slice));
        cuts.sort_unstable();
        cuts.dedup();
        let records = Dealt::of(pending.parts, pending.prefix, &cuts);
        let starts = std::iter::once(None).chain(cuts.iter().copied().map(Some));
        let ranges = starts.zip(cuts.iter().copied().map(Some).chain([None])).collect();
        Self { tables, records, segment_ids, covered_ends, part_at, ranges }
    }

    /// Merges adjacent ranges into `run`.
    pub(crate) fn build(&self, ranges: Range<usize>, run: LoadRun<Place>) -> Result<Merged, Unusable> {
        let mut merging = Merging { run, live: vec![Sums::default(); self.segment_ids.len()], used_entries: 0 };
        for range in ranges {
            self.merge(range, &mut merging)?;
        }
        let Merging { run, live, used_entries } = merging;
        let live = live.into_iter().enumerate().filter(|(_, sums)| *sums != Sums::default()).collect();
        Ok(Merged { run, live, used_entries })
    }

    fn merge(&self, range: usize, merged: &mut Merging) -> Result<(), Unusable> {
        let (from, to) = self.ranges[range];
        let items = self.records.range(range);
        let mut left = items.iter().peekable();
        self.for_each_entry(from, to, |key, entry, at| {
            while let Some(item) = left.next_if(|item| item.key() < key) {
                self.push_item(merged, item)?;
            }
            merged.used_entries += 1;
            let rival = left.next_if(|item| item.key() == key);
            match rival.filter(|item| item.version > entry.version) {
                Some(item) => self.push_item(merged, item),
                None => self.push_entry(merged, key, entry, at),
            }
        })?;
        let rest = items.get(items.len() - left.len()..).unwrap_or_default();
        for (at, item) in rest.iter().enumerate() {
            // Long keys are read from the log, which has another order.
            if let Some(ahead) = rest.get(at + PREFETCH_AHEAD) {
                prefetch_read(ahead.key());
            }
            self.push_item(merged, item)?;
        }
        Ok(())
    }

    /// Calls `each` with the newest entry of each key of a range whose segment exists, in order,
    /// and with the index of that segment.
    fn for_each_entry(
        &self,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
        mut each: impl FnMut(&[u8], &TableEntry, usize) -> Result<(), Unusable>,
    ) -> Result<(), Unusable> {
        let bounds = (from.map_or(Bound::Unbounded, Bound::Included), to.map_or(Bound::Unbounded, Bound::Excluded));
        let ranges =
            self.tables.newest_first.iter().map(|table| table.range::<&[u8]>(bounds, ScanDirection::Forward)).collect();
        // Entries of one segment often follow each other.
        let latest = Cell::new(0);
        let exists = |segment: u32| {
            if self.segment_ids.get(latest.get()) == Some(&segment) {
                return true;
            }
            let found = self.segment_ids.binary_search(&segment);
            found.map(|at| latest.set(at)).is_ok()
        };
        let mut levels = LevelMerge::new(ranges, ScanDirection::Forward, exists);
        while levels.advance()? {
            let (entry, at) = (levels.entry(), latest.get());
            let end = entry.pointer.offset.checked_add(entry.len_bytes);
            if end.is_none_or(|end| self.covered_ends.get(at).is_none_or(|covered| end > *covered)) {
                return Err(Unusable::Because("a table with an entry beyond the position it covers".into()));
            }
            each(levels.key(), &entry, at)?;
        }
        Ok(())
    }

    fn push_entry(&self, merged: &mut Merging, key: &[u8], entry: &TableEntry, at: usize) -> Result<(), Unusable> {
        let location = Place { segment: entry.pointer.segment, offset: entry.pointer.offset };
        let is_tombstone = entry.kind == EntryKind::Tombstone;
        self.push(merged, key, entry.version, (at, location), entry.len_bytes, is_tombstone)
    }

    fn push_item(&self, merged: &mut Merging, item: &Item<'_>) -> Result<(), Unusable> {
        let at = self.part_at[item.part as usize];
        let location = Place { segment: self.segment_ids[at], offset: item.offset };
        self.push(merged, item.key(), item.version, (at, location), item.len_bytes(), item.is_tombstone())
    }

    fn push(
        &self,
        merged: &mut Merging,
        key: &[u8],
        version: u64,
        (at, location): (usize, Place),
        len_bytes: u32,
        is_tombstone: bool,
    ) -> Result<(), Unusable> {
        let kind = if is_tombstone { CommandKind::Delete } else { CommandKind::Set };
        let pushed = merged.run.push(&Change { key, version, kind, location, len_bytes });
        pushed.map_err(|error| Unusable::Because(error.to_string()))?;
        merged.live[at].count(len_bytes, is_tombstone);
        Ok(())
    }
}
