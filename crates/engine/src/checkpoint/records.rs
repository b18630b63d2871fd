//! What the log has beyond a checkpoint, read and verified, so that it can be merged.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hightower_index::{pin, prefetch_read};
use hightower_segment::{Advice, Entry as LogEntry, Segment, SegmentError};
use hightower_state::{Change, CommandKind, ConcurrentKvState, StateWriter};

use crate::checkpoint::fold::{ABORTED, Meter};
use crate::error::{Error, Result};
use crate::parallel::{in_pieces, threads};
use crate::place::Place;
use crate::table::Segments;

/// So many records are held at once, about: 80 bytes each. What the log has beyond that is replayed one by one.
const PENDING_MAX: usize = 5 << 20;
/// Records that are replayed one by one are read so many at a time.
const RECORDS_PER_BATCH: usize = 1024;
/// The index is asked for a key so many records before it is needed.
const PREFETCH_AHEAD: usize = 12;
/// In a length: the record is a tombstone. No record is that long.
const TOMBSTONE: u32 = 1 << 31;

/// A segment, and from where on it is to be read.
#[derive(Clone, Copy)]
pub(crate) struct Rest<'a> {
    pub(crate) segment: &'a Arc<Segment>,
    pub(crate) from: u32,
}

impl Rest<'_> {
    pub(crate) fn len_bytes(&self) -> u64 {
        u64::from(self.segment.len_bytes().saturating_sub(self.from))
    }

    /// Has the device read it while others are being worked on, if it is most of its segment.
    fn read_ahead(&self) {
        if self.len_bytes() > u64::from(self.segment.len_bytes()) / 2 {
            // Whoever reads it reads it anyway, at the latest then.
            let _begun = self.segment.advise(Advice::WillNeed);
        }
    }
}

/// A copy of so much of a key is held beside a record.
const NEAR_LEN_BYTES: usize = 20;

/// A record that waits to be merged: one line of the processor's cache.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Item<'a> {
    /// The key, in the log.
    pub(crate) far_key: &'a [u8],
    /// Eight bytes of the key, behind what all keys begin with: they decide most comparisons without a look at the log.
    pub(super) bytes: u64,
    pub(crate) version: u64,
    /// Of which of the parts it is.
    pub(crate) part: u32,
    pub(crate) offset: u32,
    len: u32,
    /// The key once more, if it fits: records are merged in another order than the log's, and each look at the log is one at far memory.
    near_key: [u8; NEAR_LEN_BYTES],
}

impl<'a> Item<'a> {
    fn of(part: u32, entry: &LogEntry<'a>, prefix_len: usize) -> Self {
        let tombstone = if entry.command.value().is_none() { TOMBSTONE } else { 0 };
        let (key, version) = (entry.command.key(), entry.command.version());
        Self { part, offset: entry.offset, len: entry.len_bytes | tombstone, ..Self::new(key, prefix_len, version) }
    }

    /// The record of a key; nowhere yet.
    pub(super) fn new(key: &'a [u8], prefix_len: usize, version: u64) -> Self {
        let mut near_key = [0; NEAR_LEN_BYTES];
        if let Some(near) = near_key.get_mut(..key.len()) {
            near.copy_from_slice(key);
        }
        let bytes = eight_bytes(key, prefix_len);
        Self { far_key: key, bytes, version, part: 0, offset: 0, len: 0, near_key }
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.near_key.get(..self.far_key.len()).unwrap_or(self.far_key)
    }

    /// Has the processor fetch it.
    pub(super) fn prefetch(&self) {
        prefetch_read(&self.near_key);
    }

    pub(crate) fn len_bytes(&self) -> u32 {
        self.len & !TOMBSTONE
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.len & TOMBSTONE != 0
    }
}

/// Records of several segments, each part in the order of its segment.
#[derive(Debug, Default)]
pub(crate) struct Pending<'a> {
    pub(crate) parts: Vec<Vec<Item<'a>>>,
    /// The ids of the parts' segments.
    pub(crate) segments: Vec<u32>,
    /// What all keys begin with.
    pub(crate) prefix: &'a [u8],
    /// How many records were read, those that were left out included.
    pub(crate) records: u64,
}

/// Reads and verifies the segments, by several threads. Gives back those that were not read because there were too many records.
pub(crate) fn read<'a>(rest: Vec<Rest<'a>>, meter: &mut Meter<'_>) -> Result<(Pending<'a>, Vec<Rest<'a>>)> {
    let (held, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let prefix = likely_prefix(&rest);
    rest.iter().take(threads()).for_each(Rest::read_ahead);
    let read = |piece: usize| {
        if let Some(ahead) = rest.get(piece + threads()) {
            ahead.read_ahead();
        }
        let rest: Rest<'a> = rest[piece];
        let held_before = held.load(Ordering::Relaxed);
        if held_before >= PENDING_MAX {
            return Ok(None);
        }
        let mut read = read_segment(rest, u32::try_from(piece).unwrap_or(u32::MAX), prefix)?;
        if held_before >= PENDING_MAX / 2 {
            let order = read.items.iter().zip(0..).map(|(item, at)| (item.bytes, 0, at)).collect();
            read.items = newest_in_order(order, |_, at| &read.items[at as usize]);
        }
        held.fetch_add(read.items.len(), Ordering::Relaxed);
        done.fetch_add(rest.len_bytes(), Ordering::Relaxed);
        Ok(Some(read))
    };
    let parts: Option<Vec<Result<_, SegmentError>>> =
        in_pieces(rest.len(), read, || meter.set(done.load(Ordering::Relaxed)));
    let mut pending = Pending { prefix, ..Pending::default() };
    let mut left = Vec::new();
    for (rest, part) in rest.iter().zip(parts.ok_or(ABORTED)?) {
        let items = match part? {
            Some(read) => {
                if !read.has_prefix {
                    pending.prefix = &[];
                }
                pending.records += read.records;
                read.items
            }
            None => {
                left.push(*rest);
                Vec::new()
            }
        };
        pending.segments.push(rest.segment.id());
        pending.parts.push(items);
    }
    if pending.prefix.len() < prefix.len() {
        pending.parts.iter_mut().flatten().for_each(|item| item.bytes = eight_bytes(item.far_key, 0));
    }
    meter.done = done.into_inner();
    Ok((pending, left))
}

/// What the first keys of all segments begin with.
fn likely_prefix<'a>(rest: &[Rest<'a>]) -> &'a [u8] {
    const KEYS_PER_SEGMENT: usize = 4;
    let entries = rest.iter().flat_map(|rest| rest.segment.entries_from(rest.from, 0).take(KEYS_PER_SEGMENT));
    // Damage is met again, by whoever reads all of the segment.
    let keys = entries.filter_map(|entry| entry.ok().map(|entry| entry.command.key()));
    let prefix = keys.reduce(|prefix, key| {
        let shared = prefix.iter().zip(key).take_while(|(left, right)| left == right).count();
        &prefix[..shared]
    });
    prefix.unwrap_or_default()
}

/// The records of a segment.
struct Read<'a> {
    items: Vec<Item<'a>>,
    records: u64,
    /// Whether all keys have the prefix that they were thought to have.
    has_prefix: bool,
}

fn read_segment<'a>(rest: Rest<'a>, part: u32, prefix: &[u8]) -> Result<Read<'a>, SegmentError> {
    let mut has_prefix = true;
    // No less than the shortest records would take is guessed; most are longer.
    let mut items: Vec<Item<'a>> = Vec::with_capacity(usize::try_from(rest.len_bytes() / 128).unwrap_or(0));
    for entry in rest.segment.entries_from(rest.from, 0) {
        let entry = entry?;
        has_prefix &= entry.command.key().starts_with(prefix);
        items.push(Item::of(part, &entry, prefix.len()));
    }
    if !has_prefix {
        items.iter_mut().for_each(|item| item.bytes = eight_bytes(item.far_key, 0));
    }
    let records = items.len() as u64;
    Ok(Read { items, records, has_prefix })
}

/// Where an item is, and its bytes: small, so that sorting moves little and compares numbers.
pub(super) type Order = (u64, u32, u32);

/// Sorts by key and keeps the newest of each; of two with the same version the first. The items' bytes begin at the same place of all keys, and what is
/// before that place is the same in all. `find` finds an item by its part and its place there.
pub(super) fn newest_in_order<'i, 'a: 'i>(
    mut order: Vec<Order>,
    find: impl Fn(u32, u32) -> &'i Item<'a>,
) -> Vec<Item<'a>> {
    order.sort_unstable();
    let gathered = order.iter().enumerate().map(|(at, (_, part, place))| {
        if let Some((_, part, place)) = order.get(at + PREFETCH_AHEAD) {
            find(*part, *place).prefetch();
        }
        *find(*part, *place)
    });
    let mut items: Vec<Item<'a>> = gathered.collect();
    for alike in items.chunk_by_mut(|left, right| left.bytes == right.bytes).filter(|alike| alike.len() > 1) {
        alike.sort_by(|left, right| left.key().cmp(right.key()).then(right.version.cmp(&left.version)));
    }
    items.dedup_by(|next, newest| next.bytes == newest.bytes && next.key() == newest.key());
    items
}

/// Eight bytes of a key from here on, comparable as a number; zeros where it ends.
pub(super) fn eight_bytes(key: &[u8], from: usize) -> u64 {
    let rest = key.get(from..).unwrap_or_default();
    if let Some(bytes) = rest.first_chunk() {
        return u64::from_be_bytes(*bytes);
    }
    rest.iter().zip((0..64).step_by(8).rev()).fold(0, |number, (byte, shift)| number | u64::from(*byte) << shift)
}

/// Replays segments record by record into a state that may hold newer ones; gives how many records there were.
pub(crate) fn replay_all(
    state: &ConcurrentKvState<Place>,
    segments: &Segments,
    rest: &[Rest<'_>],
    meter: &mut Meter<'_>,
) -> Result<u64> {
    let mut records = 0;
    for rest in rest {
        let mut entries = rest.segment.entries_from(rest.from, 0);
        loop {
            let batch: Vec<_> = entries.by_ref().take(RECORDS_PER_BATCH).collect::<Result<_, _>>()?;
            let Some(last) = batch.last() else { break };
            let done = u64::from(last.offset + last.len_bytes - batch[0].offset);
            let mut writer = state.writer();
            for (at, entry) in batch.iter().enumerate() {
                if let Some(ahead) = batch.get(at + PREFETCH_AHEAD) {
                    state.prefetch(ahead.command.key());
                }
                replay(&mut writer, segments, rest.segment.id(), entry);
            }
            drop(writer);
            records += batch.len() as u64;
            if meter.set(meter.done + done) == ControlFlow::Break(()) {
                return Err(ABORTED);
            }
        }
    }
    Ok(records)
}

fn replay(writer: &mut StateWriter<'_, Place>, segments: &Segments, segment: u32, entry: &LogEntry<'_>) {
    let command = entry.command;
    let kind = if command.value().is_some() { CommandKind::Set } else { CommandKind::Delete };
    let location = Place { segment, offset: entry.offset };
    let change = Change { key: command.key(), version: command.version(), kind, location, len_bytes: entry.len_bytes };
    let applied = writer.replay(&change);
    if !applied.outcome.changed() {
        return;
    }
    let guard = pin();
    if let Some(tracked) = segments.find(segment, &guard) {
        tracked.add_live(entry.len_bytes, kind == CommandKind::Delete);
    }
    if let Some(replaced) = applied.replaced
        && let Some(tracked) = segments.find(replaced.location.segment, &guard)
    {
        tracked.remove_live(replaced.len_bytes, replaced.was_tombstone);
    }
}

impl From<Error> for crate::checkpoint::fold::Unusable {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

#[cfg(test)]
mod tests {
    use super::{Item, newest_in_order};

    #[test]
    fn the_newest_of_each_key_in_key_order() {
        for prefix in [&b""[..], b"common/prefix/of/all/"] {
            let keys: Vec<Vec<u8>> = [
                &b"b"[..],
                b"",
                b"a",
                b"a\0",
                b"abcdefgh",
                b"abcdefghi",
                b"abcdefgh\0",
                b"b",
                b"a",
                b"a key that is not near",
            ]
            .iter()
            .map(|rest| [prefix, b"k", rest].concat())
            .collect();
            let mut items: Vec<Item<'_>> = Vec::new();
            for (key, at) in keys.iter().zip(0..) {
                items.push(Item { offset: at, ..Item::new(key, prefix.len(), u64::from(100 - at)) });
            }
            let order = items.iter().zip(0..).map(|(item, at)| (item.bytes, 0, at)).collect();
            let newest = newest_in_order(order, |_, at| &items[at as usize]);
            let mut expected: Vec<_> = keys.clone();
            expected.sort();
            expected.dedup();
            assert_eq!(newest.iter().map(|item| item.key().to_vec()).collect::<Vec<_>>(), expected);
            assert!(newest.iter().all(|item| ![7, 8].contains(&item.offset)), "of two the one with the higher version");
        }
    }
}
