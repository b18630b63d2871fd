//! Merging a checkpoint with the records beyond it, one key range at a time.

use std::ops::Range;

use hightower_index::prefetch_read;
use hightower_state::{Change, CommandKind, LoadRun};

use crate::checkpoint::block::{BlockCursor, EntryValue};
use crate::checkpoint::codec::Checkpoint;
use crate::checkpoint::deal::Dealt;
use crate::checkpoint::fold::Unusable;
use crate::checkpoint::load::{Account, Sums};
use crate::checkpoint::records::{Item, Pending, record_cuts};
use crate::place::Place;

/// Approximate number of checkpoint blocks in a range.
const BLOCKS_PER_RANGE: u64 = 192;
/// Prefetch distance of keys, in records.
const PREFETCH_AHEAD: usize = 12;

/// A key range, inclusive start and exclusive end; `None` for an open end.
type Between<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// The inputs of the merge, and the key ranges.
pub(crate) struct Plan<'a> {
    checkpoint: Option<Checkpoint<'a>>,
    accounts: &'a [Account],
    records: Dealt<'a>,
    /// Ids of all segments with records, ascending.
    pub(crate) segment_ids: Vec<u32>,
    /// The index of each covered segment in `segment_ids`; `None` if the segment was removed.
    covered_at: Vec<Option<usize>>,
    /// The index of each replayed segment in `segment_ids`.
    part_at: Vec<usize>,
    /// The bounds of each range.
    pub(crate) ranges: Vec<Between<'a>>,
}

/// Adjacent key ranges, merged.
pub(crate) struct Merged {
    pub(crate) run: LoadRun<Place>,
    /// The sums of the checkpoint's entries, for each covered segment that has some.
    pub(crate) booked: SparseSums,
    /// The sums of the winning records, for each segment that has some.
    pub(crate) live: SparseSums,
    /// The number of checkpoint entries in existing segments.
    pub(crate) counted: u64,
}

/// Sparse sums per segment, each with the segment's index. All ranges are kept until the last is
/// merged, and dense sums would take memory for ranges times segments.
pub(crate) type SparseSums = Vec<(usize, Sums)>;

fn sparse(sums: Vec<Sums>) -> SparseSums {
    sums.into_iter().enumerate().filter(|(_, sums)| *sums != Sums::default()).collect()
}

/// Key ranges during the merge.
struct Merging {
    run: LoadRun<Place>,
    booked: Vec<Sums>,
    live: Vec<Sums>,
    counted: u64,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(
        checkpoint: Option<Checkpoint<'a>>,
        accounts: &'a [Account],
        pending: Pending<'a>,
    ) -> Result<Self, Unusable> {
        let there = accounts.iter().filter(|account| account.is_there).map(|account| account.covered.id);
        let mut segment_ids: Vec<u32> = there.chain(pending.segments.iter().copied()).collect();
        segment_ids.sort_unstable();
        segment_ids.dedup();
        let at = |id: u32| segment_ids.partition_point(|other| *other < id);
        let covered_at = accounts.iter().map(|account| account.is_there.then(|| at(account.covered.id))).collect();
        let part_at = pending.segments.iter().map(|id| at(*id)).collect();
        let cuts = cuts(checkpoint.as_ref(), &pending)?;
        let records = Dealt::of(pending.parts, pending.prefix, &cuts);
        let starts = std::iter::once(None).chain(cuts.iter().copied().map(Some));
        let ranges = starts.zip(cuts.iter().copied().map(Some).chain([None])).collect();
        Ok(Self { checkpoint, accounts, records, segment_ids, covered_at, part_at, ranges })
    }

    /// Merges adjacent ranges into `run`.
    pub(crate) fn build(&self, ranges: Range<usize>, run: LoadRun<Place>) -> Result<Merged, Unusable> {
        let booked = vec![Sums::default(); self.accounts.len()];
        let live = vec![Sums::default(); self.segment_ids.len()];
        let mut merging = Merging { run, booked, live, counted: 0 };
        for range in ranges {
            self.merge(range, &mut merging)?;
        }
        let Merging { run, booked, live, counted } = merging;
        Ok(Merged { run, booked: sparse(booked), live: sparse(live), counted })
    }

    fn merge(&self, range: usize, merged: &mut Merging) -> Result<(), Unusable> {
        let (from, to) = self.ranges[range];
        let items = self.records.range(range);
        let mut left = items.iter().peekable();
        self.for_each_entry(from, to, |key, value| {
            while let Some(item) = left.next_if(|item| item.key() < key) {
                self.push_item(merged, item)?;
            }
            let Some(at) = self.book(merged, value)? else { return Ok(()) };
            let rival = left.next_if(|item| item.key() == key);
            match rival.filter(|item| item.version > value.version) {
                Some(item) => self.push_item(merged, item),
                None => self.push_entry(merged, key, value, at),
            }
        })?;
        let rest = items.get(items.len() - left.len()..).unwrap_or_default();
        for (at, item) in rest.iter().enumerate() {
            // Long keys are in the log, in another order.
            if let Some(ahead) = rest.get(at + PREFETCH_AHEAD) {
                prefetch_read(ahead.key());
            }
            self.push_item(merged, item)?;
        }
        Ok(())
    }

    /// Calls `each` with the checkpoint's entries of a range, in order.
    fn for_each_entry(
        &self,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
        mut each: impl FnMut(&[u8], &EntryValue) -> Result<(), Unusable>,
    ) -> Result<(), Unusable> {
        let Some(checkpoint) = &self.checkpoint else { return Ok(()) };
        let first = from.map_or(Ok(0), |from| checkpoint.block_of(from))?;
        let block_from = |number: u64| {
            let block = (number < checkpoint.header.blocks()).then(|| checkpoint.block(number)).transpose()?;
            block.map(|block| Ok::<_, Unusable>((block, block.first_key()?))).transpose()
        };
        let mut cursor = BlockCursor::new();
        let mut next = block_from(first)?;
        let mut number = first;
        while let Some((block, first_key)) = next.filter(|(_, key)| to.is_none_or(|to| *key < to)) {
            number += 1;
            next = block_from(number)?;
            // Only the first and the last block may reach beyond the range.
            let is_whole = from.is_none_or(|from| first_key >= from)
                && to.is_none_or(|to| next.is_some_and(|(_, next_key)| next_key <= to));
            let is_inside =
                |key: &[u8]| is_whole || (from.is_none_or(|from| key >= from) && to.is_none_or(|to| key < to));
            cursor.begin(block)?;
            while cursor.advance()? {
                let entry = cursor.entry();
                if is_inside(entry.key) {
                    each(entry.key, &entry.value)?;
                }
            }
        }
        Ok(())
    }

    /// Counts an entry of the checkpoint; returns the index of its segment in `segment_ids`, if it
    /// exists.
    fn book(&self, merged: &mut Merging, value: &EntryValue) -> Result<Option<usize>, Unusable> {
        let found = self.accounts.get(value.covered).zip(merged.booked.get_mut(value.covered));
        let Some((account, booked)) = found else {
            return Err(Unusable::Because("an entry in a segment that it does not cover".into()));
        };
        if !account.can_hold(value) {
            return Err(Unusable::Because("an entry beyond what it covers".into()));
        }
        booked.count(value.len_bytes, value.is_tombstone);
        let at = self.covered_at.get(value.covered).copied().flatten();
        merged.counted += u64::from(at.is_some());
        Ok(at)
    }

    fn push_entry(&self, merged: &mut Merging, key: &[u8], value: &EntryValue, at: usize) -> Result<(), Unusable> {
        let location = Place { segment: self.segment_ids[at], offset: value.offset };
        push(merged, key, value.version, location, value.len_bytes, value.is_tombstone)?;
        merged.live[at].count(value.len_bytes, value.is_tombstone);
        Ok(())
    }

    fn push_item(&self, merged: &mut Merging, item: &Item<'_>) -> Result<(), Unusable> {
        let at = self.part_at[item.part as usize];
        let location = Place { segment: self.segment_ids[at], offset: item.offset };
        push(merged, item.key(), item.version, location, item.len_bytes(), item.is_tombstone())?;
        merged.live[at].count(item.len_bytes(), item.is_tombstone());
        Ok(())
    }
}

fn push(
    merged: &mut Merging,
    key: &[u8],
    version: u64,
    location: Place,
    len_bytes: u32,
    is_tombstone: bool,
) -> Result<(), Unusable> {
    let kind = if is_tombstone { CommandKind::Delete } else { CommandKind::Set };
    let pushed = merged.run.push(&Change { key, version, kind, location, len_bytes });
    pushed.map_err(|error| Unusable::Because(error.to_string()))
}

/// Keys that divide all keys into ranges of about equal work.
fn cuts<'a>(checkpoint: Option<&Checkpoint<'a>>, pending: &Pending<'a>) -> Result<Vec<&'a [u8]>, Unusable> {
    let mut cuts = Vec::new();
    if let Some(checkpoint) = checkpoint {
        let mut number = BLOCKS_PER_RANGE;
        while number < checkpoint.header.blocks() {
            cuts.push(checkpoint.block(number)?.first_key()?);
            number += BLOCKS_PER_RANGE;
        }
    }
    cuts.extend(record_cuts(pending));
    cuts.sort_unstable();
    cuts.dedup();
    Ok(cuts)
}
