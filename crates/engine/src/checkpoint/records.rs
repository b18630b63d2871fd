//! What the log has beyond a checkpoint, read and verified, and sorted by key so that it can be merged.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hightower_index::pin;
use hightower_segment::{Entry as LogEntry, Segment, SegmentError};
use hightower_state::{Change, CommandKind, ConcurrentKvState, StateWriter};

use crate::checkpoint::fold::{ABORTED, Meter};
use crate::error::{Error, Result};
use crate::parallel::in_pieces;
use crate::place::Place;
use crate::table::Segments;

/// So many records are held at once, about: 56 bytes each. What the log has beyond that is replayed one by one.
const PENDING_MAX: usize = 6 << 20;
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
}

/// A record that waits to be merged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) key: &'a [u8],
    /// Eight bytes of the key, behind what all keys begin with: they decide most comparisons without a look at the log.
    bytes: u64,
    pub(crate) version: u64,
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    len: u32,
}

impl<'a> Item<'a> {
    fn of(segment: u32, entry: &LogEntry<'a>, prefix_len: usize) -> Self {
        let tombstone = if entry.command.value().is_none() { TOMBSTONE } else { 0 };
        let (key, version) = (entry.command.key(), entry.command.version());
        let bytes = eight_bytes(key, prefix_len);
        Self { key, bytes, version, segment, offset: entry.offset, len: entry.len_bytes | tombstone }
    }

    pub(crate) fn len_bytes(&self) -> u32 {
        self.len & !TOMBSTONE
    }

    pub(crate) fn is_tombstone(&self) -> bool {
        self.len & TOMBSTONE != 0
    }
}

/// Records of several segments; those of one are in key order, each key once.
#[derive(Debug, Default)]
pub(crate) struct Pending<'a> {
    pub(crate) parts: Vec<Vec<Item<'a>>>,
    records: u64,
}

impl Pending<'_> {
    /// How many records were read, those that lost to another included.
    pub(crate) fn records(&self) -> u64 {
        self.records
    }
}

/// Reads and verifies the segments, by several threads, and sorts the records of each. Gives back the segments that were not read because there were too
/// many records.
pub(crate) fn read_sorted<'a>(rest: Vec<Rest<'a>>, meter: &mut Meter<'_>) -> Result<(Pending<'a>, Vec<Rest<'a>>)> {
    let (held, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    let prefix = likely_prefix(&rest);
    let read = |piece: usize| {
        let rest: Rest<'a> = rest[piece];
        if held.load(Ordering::Relaxed) >= PENDING_MAX {
            return Ok(None);
        }
        let read = read_segment(rest, prefix)?;
        held.fetch_add(read.newest.len(), Ordering::Relaxed);
        done.fetch_add(rest.len_bytes(), Ordering::Relaxed);
        Ok(Some(read))
    };
    let parts: Option<Vec<Result<_, SegmentError>>> =
        in_pieces(rest.len(), read, || meter.set(done.load(Ordering::Relaxed)));
    let mut pending = Pending::default();
    let mut left = Vec::new();
    let mut is_likely = true;
    for (rest, part) in rest.iter().zip(parts.ok_or(ABORTED)?) {
        match part? {
            Some(read) => {
                is_likely &= read.has_prefix;
                pending.parts.push(read.newest);
                pending.records += read.records;
            }
            None => left.push(*rest),
        }
    }
    if !is_likely {
        pending.parts.iter_mut().flatten().for_each(|item| item.bytes = eight_bytes(item.key, 0));
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
    /// The newest of each key, in key order.
    newest: Vec<Item<'a>>,
    records: u64,
    /// Whether all keys have the prefix that they were thought to have.
    has_prefix: bool,
}

fn read_segment<'a>(rest: Rest<'a>, prefix: &[u8]) -> Result<Read<'a>, SegmentError> {
    let id = rest.segment.id();
    let mut has_prefix = true;
    // No less than the shortest records would take is guessed; most are longer.
    let mut items: Vec<Item<'a>> = Vec::with_capacity(usize::try_from(rest.len_bytes() / 128).unwrap_or(0));
    for entry in rest.segment.entries_from(rest.from, 0) {
        let entry = entry?;
        has_prefix &= entry.command.key().starts_with(prefix);
        items.push(Item::of(id, &entry, prefix.len()));
    }
    if !has_prefix {
        items.iter_mut().for_each(|item| item.bytes = eight_bytes(item.key, 0));
    }
    Ok(Read { newest: newest_in_order(&items), records: items.len() as u64, has_prefix })
}

/// Sorts by key and keeps the newest of each; of two with the same version the first. The items' bytes begin at the same place of all keys, and what is
/// before that place is the same in all.
pub(crate) fn newest_in_order<'a>(items: &[Item<'a>]) -> Vec<Item<'a>> {
    // Small, so that sorting moves little and compares numbers.
    let mut order: Vec<(u64, u32)> = items.iter().zip(0..).map(|(item, at)| (item.bytes, at)).collect();
    order.sort_unstable();
    let mut newest: Vec<Item<'a>> = Vec::with_capacity(order.len());
    for alike in order.chunk_by_mut(|left, right| left.0 == right.0) {
        if alike.len() > 1 {
            let item = |at: u32| &items[at as usize];
            alike.sort_by(|(_, left), (_, right)| {
                let (left, right) = (item(*left), item(*right));
                left.key.cmp(right.key).then(right.version.cmp(&left.version))
            });
        }
        for (at, (_, item)) in alike.iter().enumerate() {
            let item = items[*item as usize];
            if at == 0 || newest.last().is_none_or(|last| last.key != item.key) {
                newest.push(item);
            }
        }
    }
    newest
}

/// Eight bytes of a key from here on, comparable as a number; zeros where it ends.
fn eight_bytes(key: &[u8], from: usize) -> u64 {
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
    use super::{Item, eight_bytes, newest_in_order};

    #[test]
    fn the_newest_of_each_key_in_key_order() {
        for prefix in [&b""[..], b"common/prefix/of/all/"] {
            let keys: Vec<Vec<u8>> =
                [&b"b"[..], b"", b"a", b"a\0", b"abcdefgh", b"abcdefghi", b"abcdefgh\0", b"b", b"a"]
                    .iter()
                    .map(|rest| [prefix, b"k", rest].concat())
                    .collect();
            let items: Vec<Item<'_>> = keys
                .iter()
                .zip(0..)
                .map(|(key, at)| Item {
                    key,
                    bytes: eight_bytes(key, prefix.len()),
                    version: u64::from(100 - at),
                    segment: 1,
                    offset: at,
                    len: 20,
                })
                .collect();
            let newest = newest_in_order(&items);
            let mut expected: Vec<_> = keys.clone();
            expected.sort();
            expected.dedup();
            assert_eq!(newest.iter().map(|item| item.key.to_vec()).collect::<Vec<_>>(), expected);
            assert!(newest.iter().all(|item| item.offset < 7), "of two the one with the higher version");
        }
    }
}
