//! Merging a checkpoint with the records beyond it, one range of keys at a time.

use hightower_index::prefetch_read;
use hightower_state::{Change, CommandKind, LoadRun};

use crate::checkpoint::block::{Cursor, EntryValue};
use crate::checkpoint::codec::Checkpoint;
use crate::checkpoint::fold::Unusable;
use crate::checkpoint::load::{Account, Sums};
use crate::checkpoint::records::{Item, Pending, newest_in_order};
use crate::place::Place;

/// About so many blocks of a checkpoint make a range.
const BLOCKS_PER_RANGE: u64 = 192;
/// And about so many records.
const RECORDS_PER_RANGE: usize = 24 << 10;
/// The processor is asked for a key so many records before it is needed.
const PREFETCH_AHEAD: usize = 12;

/// From this key on, up to but without that one; `None`: from the first, to the last.
type Between<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// What is to be merged, and how the keys are cut into ranges.
pub(crate) struct Plan<'a> {
    checkpoint: Option<Checkpoint<'a>>,
    accounts: &'a [Account],
    pub(crate) pending: Pending<'a>,
    /// Ids of all segments that records may be in, ascending.
    pub(crate) segment_ids: Vec<u32>,
    /// Where each covered segment stands in `segment_ids`; `None` if it is not there any more.
    covered_at: Vec<Option<usize>>,
    /// From where to where each range goes.
    pub(crate) ranges: Vec<Between<'a>>,
}

/// A range of keys, merged.
pub(crate) struct Range {
    pub(crate) run: LoadRun<Place>,
    /// What the checkpoint's entries add up to, for each covered segment.
    pub(crate) booked: Vec<Sums>,
    /// What won, for each segment.
    pub(crate) live: Vec<Sums>,
    /// How many entries of the checkpoint are in segments that are there.
    pub(crate) counted: u64,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(
        checkpoint: Option<Checkpoint<'a>>,
        accounts: &'a [Account],
        pending: Pending<'a>,
    ) -> Result<Self, Unusable> {
        let there = accounts.iter().filter(|account| account.is_there).map(|account| account.covered.id);
        let read = pending.parts.iter().filter_map(|part| part.first().map(|item| item.segment));
        let mut segment_ids: Vec<u32> = there.chain(read).collect();
        segment_ids.sort_unstable();
        segment_ids.dedup();
        let at =
            |account: &Account| account.is_there.then(|| segment_ids.binary_search(&account.covered.id).ok()).flatten();
        let covered_at = accounts.iter().map(at).collect();
        let ranges = ranges(checkpoint.as_ref(), &pending)?;
        Ok(Self { checkpoint, accounts, pending, segment_ids, covered_at, ranges })
    }

    /// Merges a range into `run`.
    pub(crate) fn build(&self, range: usize, run: LoadRun<Place>) -> Result<Range, Unusable> {
        let (from, to) = self.ranges[range];
        let items = self.items_between(from, to);
        let booked = vec![Sums::default(); self.accounts.len()];
        let live = vec![Sums::default(); self.segment_ids.len()];
        let mut merged = Range { run, booked, live, counted: 0 };
        let mut left = items.iter().peekable();
        self.for_each_entry(from, to, |key, value| {
            while let Some(item) = left.next_if(|item| item.key < key) {
                self.push_item(&mut merged, item)?;
            }
            let Some(at) = self.book(&mut merged, value)? else { return Ok(()) };
            let rival = left.next_if(|item| item.key == key);
            match rival.filter(|item| item.version > value.version) {
                Some(item) => self.push_item(&mut merged, item),
                None => self.push_entry(&mut merged, key, value, at),
            }
        })?;
        let rest = items.get(items.len() - left.len()..).unwrap_or_default();
        for (at, item) in rest.iter().enumerate() {
            // Their keys lie in the log, in another order.
            if let Some(ahead) = rest.get(at + PREFETCH_AHEAD) {
                prefetch_read(ahead.key);
            }
            self.push_item(&mut merged, item)?;
        }
        Ok(merged)
    }

    /// The newest records of the keys of a range, in order.
    fn items_between(&self, from: Option<&[u8]>, to: Option<&[u8]>) -> Vec<Item<'a>> {
        let mut items = Vec::new();
        for part in &self.pending.parts {
            let start = from.map_or(0, |from| part.partition_point(|item| item.key < from));
            let end = to.map_or(part.len(), |to| part.partition_point(|item| item.key < to));
            items.extend_from_slice(part.get(start..end).unwrap_or_default());
        }
        // Those of one part are sorted already.
        if self.pending.parts.len() > 1 { newest_in_order(&items) } else { items }
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
        let mut cursor = Cursor::new();
        for number in first..checkpoint.header.blocks() {
            let block = checkpoint.block(number)?;
            if to.is_some_and(|to| block.first_key().is_ok_and(|key| key >= to)) {
                break;
            }
            cursor.begin(block);
            while cursor.advance()? {
                let entry = cursor.entry();
                let is_inside = from.is_none_or(|from| entry.key >= from) && to.is_none_or(|to| entry.key < to);
                if is_inside {
                    each(entry.key, &entry.value)?;
                }
            }
        }
        Ok(())
    }

    /// Books an entry of the checkpoint; gives where its segment stands in `segment_ids`, if it is there.
    fn book(&self, merged: &mut Range, value: &EntryValue) -> Result<Option<usize>, Unusable> {
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

    fn push_entry(&self, merged: &mut Range, key: &[u8], value: &EntryValue, at: usize) -> Result<(), Unusable> {
        let location = Place { segment: self.segment_ids[at], offset: value.offset };
        push(merged, key, value.version, location, value.len_bytes, value.is_tombstone)?;
        merged.live[at].count(value.len_bytes, value.is_tombstone);
        Ok(())
    }

    fn push_item(&self, merged: &mut Range, item: &Item<'_>) -> Result<(), Unusable> {
        let location = Place { segment: item.segment, offset: item.offset };
        push(merged, item.key, item.version, location, item.len_bytes(), item.is_tombstone())?;
        if let Ok(at) = self.segment_ids.binary_search(&item.segment) {
            merged.live[at].count(item.len_bytes(), item.is_tombstone());
        }
        Ok(())
    }
}

fn push(
    merged: &mut Range,
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

/// Cuts the keys into ranges of about the same work.
fn ranges<'a>(checkpoint: Option<&Checkpoint<'a>>, pending: &Pending<'a>) -> Result<Vec<Between<'a>>, Unusable> {
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
    let starts = std::iter::once(None).chain(cuts.iter().copied().map(Some));
    let ends = cuts.iter().copied().map(Some).chain([None]);
    Ok(starts.zip(ends).collect())
}

/// Keys with about [`RECORDS_PER_RANGE`] records between two of them.
fn record_cuts<'a>(pending: &Pending<'a>) -> Vec<&'a [u8]> {
    /// So many samples are taken for each cut, so that the ranges become about the same.
    const SAMPLES_PER_CUT: usize = 16;
    let step = RECORDS_PER_RANGE / SAMPLES_PER_CUT;
    let samples = pending.parts.iter().flat_map(|part| part.iter().skip(step / 2).step_by(step));
    let mut samples: Vec<&[u8]> = samples.map(|item| item.key).collect();
    samples.sort_unstable();
    samples.into_iter().skip(SAMPLES_PER_CUT).step_by(SAMPLES_PER_CUT).collect()
}
