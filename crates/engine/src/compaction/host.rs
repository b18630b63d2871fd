//! A run's view of the store: the records of its inputs, the state, which knows whether a record is
//! needed, its outputs, and the table of the new places.

use std::sync::Arc;
use std::time::Duration;

use hightower_compactor::{Host, Need, RateLimiter, RecordPlace, SegmentUsage, Visit, Visitor};
use hightower_index::{Guard, pin};
use hightower_log::{
    CommandRef, EncodeError, Placement, RecordContext, SegmentKind, encode_head, encoded_len, payload_checksum,
};
use hightower_seams::Clock;
use hightower_segment::{
    CompactedSegment, CompactedWriter, InOrder, Purpose, Segment, SegmentRecord, SegmentStore, Stamp,
};
use hightower_state::LeveledKvState;
use hightower_table::{EntryKind, RecordPointer, TableEntry, TableWriter};

use crate::compaction::usage::age;
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::open_store::OpenStore;
use crate::place::Place;
use crate::read_path::ReadPath;
use crate::table::Tracked;
use crate::table_flusher::{FlushesBetween, TableFlusher, WrittenTable};

/// Number of records that are read before the first is looked up in the index: by then the
/// prefetched index entry is in the cache.
const ENTRIES_TOGETHER: usize = 16;

/// Number of bytes read or copied between two calls of the rate limiter, and between two looks
/// whether a flush is due.
const THROTTLE_STEP_BYTES: u64 = 128 << 10;

/// Preallocated bytes beyond the expected length, so that no run ends with a tiny segment. The
/// unused rest is cut off.
const OUTPUT_SLACK_BYTES: u64 = 64 << 10;

/// The parts of a store that a run uses, and the time of its start.
pub(crate) struct RunParts<'a> {
    pub(crate) config: &'a StoreConfig,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) read: &'a ReadPath,
    pub(crate) open: &'a OpenStore,
    pub(crate) store: &'a SegmentStore,
    pub(crate) stamp: Stamp,
    pub(crate) opened_ms: i64,
    pub(crate) flusher: &'a TableFlusher,
    /// No input has a commit above this seq.
    pub(crate) last_seq: u64,
    /// The segments that the run removes without reading them.
    pub(crate) dead: &'a [u32],
}

/// A run's view of the store.
pub(crate) struct RunHost<'a> {
    config: &'a StoreConfig,
    open: &'a OpenStore,
    state: LeveledKvState<Place>,
    store: &'a SegmentStore,
    flusher: &'a TableFlusher,
    last_seq: u64,
    /// If the new places go to a table; without one they go to the memtable.
    flushes: Option<FlushesBetween<'a>>,
    dead: &'a [u32],
    /// The table of the new places of the survivors, and its id.
    relocations: Option<(u32, TableWriter)>,
    /// By id.
    inputs: Vec<Arc<Tracked>>,
    /// Declares each input as read in order: once as a whole, and its survivors again.
    _in_order: Vec<InOrder<Arc<Segment>>>,
    /// The latest possible time of each input's last commit.
    ended_ms: Vec<i64>,
    /// Approximate number of bytes still to be written.
    expected_bytes: u64,
    base_seq: u64,
    bases: RecordBases,
    stamp: Stamp,
    output: Option<CompactedWriter>,
    finished: Vec<CompactedSegment>,
    limiter: RateLimiter,
    clock: &'a dyn Clock,
    unthrottled_bytes: u64,
}

impl<'a> RunHost<'a> {
    pub(crate) fn new(
        parts: &RunParts<'a>,
        inputs: &[&SegmentUsage],
        base_seq: u64,
        limiter: RateLimiter,
        flushes: Option<FlushesBetween<'a>>,
    ) -> Result<Self> {
        let live_bytes: u64 = inputs.iter().map(|usage| usage.live_bytes).sum();
        let guard = pin();
        let mut inputs: Vec<_> =
            inputs.iter().filter_map(|usage| parts.read.segments.find(usage.id, &guard)).map(Arc::clone).collect();
        inputs.sort_unstable_by_key(|tracked| tracked.segment.id());
        drop(guard);
        let bases = RecordBases::of_outputs(&inputs, parts.stamp);
        let ended_ms = inputs.iter().map(|input| input.segment.sealed_at().unwrap_or(parts.opened_ms)).collect();
        Ok(Self {
            config: parts.config,
            open: parts.open,
            state: parts.read.index.handle()?,
            store: parts.store,
            flusher: parts.flusher,
            last_seq: parts.last_seq,
            flushes,
            dead: parts.dead,
            relocations: None,
            _in_order: inputs.iter().map(|input| input.segment.hold_in_order()).collect(),
            inputs,
            ended_ms,
            expected_bytes: live_bytes,
            base_seq,
            bases,
            stamp: parts.stamp,
            output: None,
            finished: Vec::new(),
            limiter,
            clock: parts.clock,
            unthrottled_bytes: 0,
        })
    }

    fn position(&self, id: u32) -> Option<usize> {
        self.inputs.binary_search_by_key(&id, |tracked| tracked.segment.id()).ok()
    }

    fn input(&self, id: u32) -> Result<&Arc<Tracked>> {
        let found = self.position(id).and_then(|at| self.inputs.get(at));
        found.ok_or_else(|| Error::Validation(format!("compaction policy: segment {id} is not there").into()))
    }

    /// Whether the grace of a tombstone has passed since the store learned of it.
    fn is_expired(&self, segment: u32, timestamp: i64) -> bool {
        let grace = self.config.compaction.tombstone_grace;
        let now_ms = self.stamp.timestamp;
        let Some(at) = self.position(segment) else { return false };
        let header = self.inputs[at].segment.header();
        let learned_ms = match header.kind {
            SegmentKind::Append => learned_by_commit(timestamp, header.created_ms, self.ended_ms[at]),
            SegmentKind::Compacted => learned_by_compaction(timestamp, header.created_ms, grace),
        };
        (now_ms >= learned_ms && age(now_ms, learned_ms) >= grace) || planted("grace_ignored")
    }

    /// Whether the entry of a tombstone can go with its record. One of a table goes with its
    /// segment, in the new view only. One of a frozen memtable would stay. One of the active
    /// memtable would also be missing from older views, which may have older entries of the key in
    /// lower levels.
    fn can_go(&self, key: &[u8], guard: &Guard) -> bool {
        self.state.is_one_level(guard) || !self.state.is_in_memtable(key, guard)
    }

    /// An output with room for one more record of `len_bytes`.
    fn output_for(&mut self, len_bytes: usize) -> Result<&mut CompactedWriter> {
        let has_room = self.output.as_ref().is_some_and(|output| output.remaining_bytes() as usize >= len_bytes);
        if !has_room {
            self.finish_output()?;
            let needed = u32::try_from(len_bytes).unwrap_or(u32::MAX);
            let wanted = (self.expected_bytes + OUTPUT_SLACK_BYTES).min(self.config.segment_len_bytes().into());
            let capacity = u32::try_from(wanted).unwrap_or(u32::MAX);
            let output = self.store.create_compacted(capacity, needed, Purpose::Reclaim, self.stamp)?;
            let RecordBases { version, timestamp } = self.bases;
            self.output = Some(output.with_base_seq(self.base_seq).with_record_bases(version, timestamp));
        }
        self.output.as_mut().ok_or(Error::Closed)
    }

    /// Adds the new place of a record to the table of relocations.
    fn relocate(&mut self, key: &[u8], entry: TableEntry) -> Result<()> {
        if self.flushes.is_none() {
            return Ok(());
        }
        let (_, table) = match &mut self.relocations {
            Some(begun) => begun,
            None => self.relocations.insert(self.flusher.begin_table(self.store)?),
        };
        Ok(table.push(key, entry)?)
    }

    fn finish_output(&mut self) -> Result<()> {
        if let Some(output) = self.output.take() {
            self.finished.push(output.finish()?);
        }
        Ok(())
    }

    /// Completes the outputs and makes them durable. Reads each of their records back, because the
    /// only other copy is about to be removed.
    pub(crate) fn finish(mut self) -> Result<(Vec<CompactedSegment>, Option<WrittenTable>)> {
        self.finish_output()?;
        for output in self.finished.iter().filter(|_| !planted("outputs_not_read_back")) {
            output.segment.entries().try_for_each(|entry| entry.map(|_| ()))?;
            if let Some(flushes) = &mut self.flushes {
                flushes.step();
            }
            if self.open.is_closing() {
                return Err(Error::Closed);
            }
        }
        let relocations = match self.relocations.take() {
            Some((id, writer)) => Some(self.flusher.finish_table(self.store, id, writer)?),
            None => None,
        };
        Ok((std::mem::take(&mut self.finished), relocations))
    }
}

impl Drop for RunHost<'_> {
    fn drop(&mut self) {
        for output in self.finished.drain(..) {
            // No manifest names this file. If it cannot be removed now, the next open removes it.
            let _given_up = self.store.abandon(output);
        }
    }
}

impl Host for RunHost<'_> {
    type Error = Error;

    fn for_each_record(&mut self, segment: u32, visit: Visitor<'_, Self, Error>) -> Result<()> {
        let tracked = Arc::clone(self.input(segment)?);
        let mut entries = tracked.segment.entries();
        let mut some = Vec::with_capacity(ENTRIES_TOGETHER);
        loop {
            let mut damage = None;
            let sound = entries.by_ref().map_while(|entry| entry.map_err(|error| damage = Some(error)).ok());
            some.extend(sound.take(ENTRIES_TOGETHER));
            if !some.is_empty() {
                let guard = pin();
                some.iter().for_each(|entry| self.state.prefetch_in_tables(entry.command.key(), &guard));
                self.state.prefetch(&some, |entry: &SegmentRecord<'_>| entry.command.key(), &guard, |_| ());
            }
            let is_end = some.len() < ENTRIES_TOGETHER;
            for SegmentRecord { offset, command, len_bytes, .. } in some.drain(..) {
                if visit(self, offset, command, len_bytes)? == Visit::Stop {
                    return Ok(());
                }
            }
            match damage {
                Some(damage) => return Err(damage.into()),
                None if is_end => return Ok(()),
                None => {}
            }
        }
    }

    fn need(&self, place: RecordPlace, command: &CommandRef<'_>) -> Result<Need> {
        let guard = pin();
        if !self.state.is_newest(command.key(), place_of(place), &guard)? && !planted("overtaken_records_move") {
            return Ok(Need::None);
        }
        let is_expired = command.value().is_none()
            && self.is_expired(place.segment, command.timestamp())
            && (!self.state.has_snapshot_below(self.last_seq) || planted("tombstone_below_a_snapshot_goes"))
            && (self.can_go(command.key(), &guard) || planted("memtable_tombstones_go"));
        Ok(if is_expired { Need::Expired } else { Need::Keep })
    }

    fn hides_older(&self, place: RecordPlace, key: &[u8], removed: &[u32]) -> Result<bool> {
        let mut hides = false;
        self.state.entries_below(key, &pin(), |entry| {
            let segment = entry.location.segment;
            hides |= entry.location != place_of(place) && !removed.contains(&segment) && !self.dead.contains(&segment);
        })?;
        Ok(hides && !planted("tombstone_above_an_older_put_goes"))
    }

    fn copy(&mut self, place: RecordPlace) -> Result<(RecordPlace, u32)> {
        let tracked = Arc::clone(self.input(place.segment)?);
        let record = tracked.segment.record_at(place.offset)?;
        let command = record.command().ok_or(Error::Internal("compaction: a record is no command".into()))?;
        let (key, value) = (command.key(), command.value().unwrap_or_default());
        let unencodable = |error: EncodeError| Error::Internal(error.to_string().into());
        let len_bytes = encoded_len(&self.bases.context(), &command, Placement::Relocated).map_err(unencodable)?;
        let output = self.output_for(len_bytes)?;
        let offset = output.position();
        let checksum = payload_checksum(key, value);
        let head =
            encode_head(output.context(), offset, &command, Placement::Relocated, checksum).map_err(unencodable)?;
        output.append(&[head.as_ref(), key, value])?;
        let to = RecordPlace { segment: output.id(), offset };
        let len_bytes = output.position() - offset;
        let kind = if command.value().is_some() { EntryKind::Set } else { EntryKind::Tombstone };
        let pointer = RecordPointer { segment: to.segment, offset };
        self.relocate(key, TableEntry { version: command.version(), kind, pointer, len_bytes })?;
        self.expected_bytes = self.expected_bytes.saturating_sub(len_bytes.into());
        Ok((to, len_bytes))
    }

    fn throttle(&mut self, bytes: u64) -> Result<()> {
        self.unthrottled_bytes += bytes;
        if self.unthrottled_bytes < THROTTLE_STEP_BYTES {
            return Ok(());
        }
        if let Some(flushes) = &mut self.flushes {
            flushes.step();
        }
        self.limiter.consume(std::mem::take(&mut self.unthrottled_bytes));
        // A close waits for this run, so `wait` checks for a close even if the rate limit needs no
        // pause.
        let open = self.open;
        if self.limiter.wait(self.clock, &mut || !open.is_closing()) { Ok(()) } else { Err(Error::Closed) }
    }
}

/// The bases of the versions and timestamps in a run's outputs: the minimum over its inputs. So the
/// records of a single input never grow, with any versions and timestamps of callers, and on a full
/// device the output fits into the room of the input.
#[derive(Clone, Copy, Debug)]
struct RecordBases {
    version: u64,
    timestamp: i64,
}

impl RecordBases {
    fn of_outputs(inputs: &[Arc<Tracked>], now: Stamp) -> Self {
        let headers = || inputs.iter().map(|input| input.segment.header());
        let of_now = Self { version: now.max_version, timestamp: now.timestamp };
        if planted("outputs_count_from_now") {
            return of_now;
        }
        Self {
            version: headers().map(|header| header.base_version).min().unwrap_or(of_now.version),
            timestamp: headers().map(|header| header.base_timestamp).min().unwrap_or(of_now.timestamp),
        }
    }

    /// The context of records in an output, except for its salt, which changes no length.
    fn context(self) -> RecordContext {
        RecordContext::new(0, self.version, self.timestamp)
    }
}

/// The time at which the store learned of a command by its commit. The command's own timestamp
/// counts only if it lies within the segment's time, because the caller who submits a command
/// chooses it.
fn learned_by_commit(timestamp: i64, began_ms: i64, ended_ms: i64) -> i64 {
    if (began_ms..=ended_ms).contains(&timestamp) { timestamp } else { ended_ms }
}

/// The time at which the store learned of a tombstone that compaction has moved. It was before the
/// move; only the tombstone's timestamp says how long before. If its grace had passed by then,
/// compaction should have dropped the tombstone: it did not trust the timestamp, or had to keep
/// the tombstone. So the grace starts with the move.
fn learned_by_compaction(timestamp: i64, moved_ms: i64, grace: Duration) -> i64 {
    if timestamp > moved_ms || age(moved_ms, timestamp) >= grace { moved_ms } else { timestamp }
}

pub(crate) fn place_of(place: RecordPlace) -> Place {
    Place { segment: place.segment, offset: place.offset }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{learned_by_commit, learned_by_compaction};

    #[test]
    fn a_timestamp_is_believed_where_it_can_be_true() {
        assert_eq!([10, 15, 20].map(|time| learned_by_commit(time, 10, 20)), [10, 15, 20]);
        assert_eq!([i64::MIN, 9, 21, i64::MAX].map(|time| learned_by_commit(time, 10, 20)), [20; 4]);
        let grace = Duration::from_millis(100);
        assert_eq!([901, 950, 1000].map(|time| learned_by_compaction(time, 1000, grace)), [901, 950, 1000]);
        assert_eq!([i64::MIN, 900, 1001, i64::MAX].map(|time| learned_by_compaction(time, 1000, grace)), [1000; 4]);
    }
}
