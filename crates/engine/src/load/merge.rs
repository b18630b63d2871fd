//! Runs of the index from the newest record of each key, one key range at a time.

use std::collections::BTreeMap;
use std::ops::Range;

use hightower_index::prefetch_read;
use hightower_state::{Change, CommandKind, LoadRun};
use hightower_table::SegmentCounts;

use crate::error::{Error, Result};
use crate::load::deal::Dealt;
use crate::load::records::{Pending, record_cuts};
use crate::place::Place;

/// Prefetch distance of keys, in records.
const PREFETCH_AHEAD: usize = 12;

/// The records in key ranges.
pub(crate) struct Plan<'a> {
    records: Dealt<'a>,
    /// The id of the segment of each part.
    segments: Vec<u32>,
    /// The number of ranges.
    pub(crate) ranges: usize,
}

/// Adjacent key ranges as a run of the index.
pub(crate) struct Merged {
    pub(crate) run: LoadRun<Place>,
    /// The counts of its entries.
    pub(crate) counts: Vec<SegmentCounts>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(pending: Pending<'a>) -> Self {
        let mut cuts = record_cuts(&pending);
        cuts.sort_unstable();
        cuts.dedup();
        let ranges = cuts.len() + 1;
        Self { segments: pending.segments, records: Dealt::of(pending.parts, pending.prefix, &cuts), ranges }
    }

    /// Adds adjacent ranges to `run`.
    pub(crate) fn build(&self, ranges: Range<usize>, mut run: LoadRun<Place>) -> Result<Merged> {
        let mut counts = BTreeMap::<u32, SegmentCounts>::new();
        for range in ranges {
            let items = self.records.range(range);
            for (at, item) in items.iter().enumerate() {
                // Long keys are read from the log, which has another order.
                if let Some(ahead) = items.get(at + PREFETCH_AHEAD) {
                    prefetch_read(ahead.key());
                }
                let segment = self.segments.get(item.part as usize).copied().unwrap_or_default();
                let kind = if item.is_tombstone() { CommandKind::Delete } else { CommandKind::Set };
                let location = Place { segment, offset: item.offset };
                let len_bytes = item.len_bytes();
                let change = Change { key: item.key(), version: item.version, kind, location, len_bytes };
                run.push(&change).map_err(|error| Error::Internal(error.to_string().into()))?;
                let counts = counts.entry(segment).or_insert(SegmentCounts { segment, ..SegmentCounts::default() });
                counts.entries += 1;
                counts.len_bytes += u64::from(len_bytes);
                counts.tombstones += u64::from(item.is_tombstone());
            }
        }
        Ok(Merged { run, counts: counts.into_values().collect() })
    }
}
