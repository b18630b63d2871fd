//! Leaves: blocks of up to 32 entries in key order, with front-coded keys and all other fields in
//! columns.
//!
//! A key is stored without the prefix that it shares with the previous key. An entry's offset is
//! omitted if its record directly follows the record of the previous entry in the block that points
//! into the same segment. After a compaction, which writes in key order, offsets therefore take no
//! room.

use std::fmt;

use crate::block::{self, FULL_BLOCK_BYTES, HEAD_LEN, LEAF_ENTRIES, common_prefix};
use crate::column::{PackedColumn, VarintReader, put_column};
use crate::entry::{EntryKind, RecordPointer, TableEntry};
use crate::error::{Damaged, damaged};
use crate::run::{EntryRun, ScanDirection};

/// The number of segments, counted from the block's least, whose entries may omit their offsets.
const FOLLOWED_SEGMENTS: usize = 64;

/// Collects the entries of a leaf.
#[derive(Debug, Default)]
pub(crate) struct LeafBuilder {
    entries: Vec<TableEntry>,
    shared: Vec<u16>,
    suffix_lens: Vec<u16>,
    suffixes: Vec<u8>,
    moved: Vec<bool>,
}

impl LeafBuilder {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= LEAF_ENTRIES || self.suffixes.len() >= FULL_BLOCK_BYTES
    }

    /// Adds the next key, of at most 65,535 bytes: `shared` is the length of the prefix that it
    /// shares with the previous key, `suffix` the rest. The first key of a leaf shares none.
    pub(crate) fn push(&mut self, shared: usize, suffix: &[u8], entry: TableEntry) {
        let short = |len| u16::try_from(len).unwrap_or(u16::MAX);
        self.shared.push(short(shared));
        self.suffix_lens.push(short(suffix.len()));
        self.suffixes.extend_from_slice(suffix);
        self.entries.push(entry);
    }

    /// Writes the body after the room for the head, and begins a new leaf.
    pub(crate) fn encode(&mut self, block: &mut Vec<u8>) {
        block::begin(block);
        let entries = &self.entries;
        put_column(block, entries.iter().map(|entry| entry.version));
        put_column(block, entries.iter().map(|entry| u64::from(entry.len_bytes)));
        put_column(block, entries.iter().map(|entry| u64::from(entry.is_tombstone())));
        put_column(block, entries.iter().map(|entry| u64::from(entry.pointer.segment)));
        let mut follow = Follow::new(entries.iter().map(|entry| entry.pointer.segment).min().unwrap_or(0));
        self.moved.clear();
        for entry in entries {
            let is_moved = follow.next(entry.pointer.segment) != Some(u64::from(entry.pointer.offset));
            self.moved.push(is_moved);
            follow.note(entry.pointer, entry.len_bytes);
        }
        put_column(block, self.moved.iter().map(|moved| u64::from(*moved)));
        let moved = entries.iter().zip(&self.moved).filter(|(_, moved)| **moved);
        put_column(block, moved.map(|(entry, _)| u64::from(entry.pointer.offset)));
        put_column(block, self.suffix_lens.iter().map(|len| u64::from(*len)));
        put_column(block, self.shared.iter().skip(1).map(|len| u64::from(*len)));
        block.extend_from_slice(&self.suffixes);
        self.entries.clear();
        self.shared.clear();
        self.suffix_lens.clear();
        self.suffixes.clear();
    }
}

/// The end of the last record of each segment, where a record without a stored offset begins.
#[derive(Clone, Debug)]
struct Follow {
    least: u32,
    /// `u64::MAX` for none.
    ends: [u64; FOLLOWED_SEGMENTS],
}

impl Follow {
    fn new(least: u32) -> Self {
        Self { least, ends: [u64::MAX; FOLLOWED_SEGMENTS] }
    }

    fn place(&self, segment: u32) -> Option<usize> {
        usize::try_from(segment.checked_sub(self.least)?).ok().filter(|place| *place < FOLLOWED_SEGMENTS)
    }

    /// `None` if the segment has no earlier record, or no record can begin at that offset.
    fn next(&self, segment: u32) -> Option<u64> {
        self.ends.get(self.place(segment)?).copied().filter(|end| *end <= u64::from(u32::MAX))
    }

    fn note(&mut self, pointer: RecordPointer, len_bytes: u32) {
        if let Some(end) = self.place(pointer.segment).and_then(|place| self.ends.get_mut(place)) {
            *end = u64::from(pointer.offset) + u64::from(len_bytes);
        }
    }
}

/// The places of the columns and keys of a leaf; each call gets the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LeafColumns {
    count: usize,
    version: PackedColumn,
    length: PackedColumn,
    kind: PackedColumn,
    segment: PackedColumn,
    moved: PackedColumn,
    offset: PackedColumn,
    suffix: PackedColumn,
    shared: PackedColumn,
    keys_at: usize,
}

impl LeafColumns {
    /// Reads the columns of a verified block that begins at `offset` of the file.
    pub(crate) fn parse(block: &[u8], count: usize, offset: u64) -> Result<Self, Damaged> {
        Self::columns(block, count).ok_or_else(|| damaged(offset, "a block without the columns of a leaf"))
    }

    fn columns(block: &[u8], count: usize) -> Option<Self> {
        let mut reader = VarintReader::new(block, HEAD_LEN);
        let version = reader.column(count)?;
        let length = reader.column(count)?;
        let kind = reader.column(count)?;
        let segment = reader.column(count)?;
        let moved = reader.column(count)?;
        let moved_count = if moved.is_all(1) { count } else { moved.count_ones(block, count)? };
        let offset = reader.column(moved_count)?;
        let suffix = reader.column(count)?;
        let shared = reader.column(count.checked_sub(1)?)?;
        let keys_at = reader.position();
        let is_whole = suffix.sum(block, count)?.checked_add(keys_at as u64)? == block.len() as u64;
        is_whole.then_some(Self { count, version, length, kind, segment, moved, offset, suffix, shared, keys_at })
    }

    /// The number of bytes of all full keys; `None` if it is too large.
    fn key_bytes(&self, block: &[u8]) -> Option<usize> {
        let shared = usize::try_from(self.shared.sum(block, self.count.checked_sub(1)?)?).ok()?;
        let suffixes = block.len().checked_sub(self.keys_at)?;
        shared.checked_add(suffixes).filter(|bytes| *bytes <= self.count * crate::MAX_KEY_LEN_BYTES)
    }

    /// The length of the prefix that the key at `place` shares with the previous key.
    fn shared(&self, block: &[u8], place: usize) -> usize {
        let shared = place.checked_sub(1).map_or(0, |before| self.shared.get(block, before));
        usize::try_from(shared).unwrap_or(usize::MAX)
    }

    fn suffix<'a>(&self, block: &'a [u8], place: usize, at: usize) -> &'a [u8] {
        // The sum of all lengths was checked.
        let len = usize::try_from(self.suffix.get(block, place)).unwrap_or(0);
        block.get(at..at.saturating_add(len)).unwrap_or_default()
    }

    /// The place of the first key at or above `target`, and whether it equals `target`. Builds no
    /// full key: the common prefix of the previous key and `target` decides most comparisons.
    pub(crate) fn lower_bound(&self, block: &[u8], target: &[u8]) -> (usize, bool) {
        let mut at = self.keys_at;
        // The previous key is below the target; `matched` is the length of their common prefix.
        let mut matched = 0;
        for place in 0..self.count {
            let shared = self.shared(block, place);
            let suffix = self.suffix(block, place, at);
            at += suffix.len();
            if shared > matched {
                continue;
            }
            if shared < matched {
                return (place, false);
            }
            let rest = target.get(matched..).unwrap_or_default();
            let common = common_prefix(suffix, rest);
            matched += common;
            match (suffix.get(common), rest.get(common)) {
                (None, None) => return (place, true),
                (Some(_), None) => return (place, false),
                (Some(key), Some(target)) if key > target => return (place, false),
                _ => {}
            }
        }
        (self.count, false)
    }

    /// The entry of this place, with `offset` as the offset of its record.
    fn entry_at(&self, block: &[u8], place: usize, offset: u64) -> Option<TableEntry> {
        let kind = match self.kind.get(block, place) {
            0 => EntryKind::Set,
            1 => EntryKind::Tombstone,
            _ => return None,
        };
        let segment = u32::try_from(self.segment.get(block, place)).ok()?;
        let pointer = RecordPointer { segment, offset: u32::try_from(offset).ok()? };
        let len_bytes = u32::try_from(self.length.get(block, place)).ok()?;
        Some(TableEntry { version: self.version.get(block, place), kind, pointer, len_bytes })
    }

    /// The entry of this place; `offset` is that of the block.
    pub(crate) fn entry(&self, block: &[u8], place: usize, offset: u64) -> Result<TableEntry, Damaged> {
        let mut walk = EntryWalk::new(self);
        let mut found = walk.advance(self, block);
        while walk.place <= place {
            found = walk.advance(self, block);
        }
        found.ok_or_else(|| damaged(offset, "an entry with numbers that are too large"))
    }
}

/// Iterates over the entries of a leaf in order.
struct EntryWalk {
    place: usize,
    moved: usize,
    /// `None` if all offsets are stored.
    follow: Option<Follow>,
}

impl EntryWalk {
    fn new(columns: &LeafColumns) -> Self {
        let least = u32::try_from(columns.segment.least()).unwrap_or(u32::MAX);
        let follow = (!columns.moved.is_all(1)).then(|| Follow::new(least));
        Self { place: 0, moved: 0, follow }
    }

    #[inline]
    fn advance(&mut self, columns: &LeafColumns, block: &[u8]) -> Option<TableEntry> {
        let place = self.place;
        self.place += 1;
        let Some(follow) = &mut self.follow else {
            return columns.entry_at(block, place, columns.offset.get(block, place));
        };
        let offset = if columns.moved.get(block, place) == 0 {
            follow.next(u32::try_from(columns.segment.get(block, place)).ok()?)?
        } else {
            self.moved += 1;
            columns.offset.get(block, self.moved - 1)
        };
        let entry = columns.entry_at(block, place, offset)?;
        follow.note(entry.pointer, entry.len_bytes);
        Some(entry)
    }
}

/// All keys and entries of a verified leaf.
#[derive(Clone)]
pub(crate) struct DecodedLeaf {
    /// The offset of the block in the file.
    pub(crate) offset: u64,
    pub(crate) len_bytes: u64,
    pub(crate) previous_len: u32,
    /// The keys, one after the other, and spare room.
    keys: Vec<u8>,
    /// The start of each key, and the end of the last one.
    starts: Vec<u32>,
    entries: Vec<TableEntry>,
}

impl Default for DecodedLeaf {
    fn default() -> Self {
        let (keys, starts, entries) = (Vec::new(), vec![0], Vec::new());
        Self { offset: 0, len_bytes: 0, previous_len: 0, keys, starts, entries }
    }
}

impl fmt::Debug for DecodedLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodedLeaf").field("offset", &self.offset).field("len", &self.len()).finish_non_exhaustive()
    }
}

impl DecodedLeaf {
    /// Decodes a verified block, which begins at `offset` of the file. After an error it has no
    /// keys.
    pub(crate) fn load(&mut self, block: &[u8], head: block::BlockHead, offset: u64) -> Result<(), Damaged> {
        self.entries.clear();
        self.starts.clear();
        let columns = LeafColumns::parse(block, head.count, offset)?;
        (self.offset, self.len_bytes, self.previous_len) = (offset, block.len() as u64, head.previous_len);
        self.decode_keys(&columns, block)
            .ok_or_else(|| damaged(offset, "keys of a block that are not in ascending order"))?;
        let decoded = self.decode_entries(&columns, block);
        decoded.ok_or_else(|| {
            self.entries.clear();
            damaged(offset, "an entry with numbers that are too large")
        })
    }

    /// One column after the other. `None` if a number is too large for its field.
    fn decode_entries(&mut self, columns: &LeafColumns, block: &[u8]) -> Option<()> {
        self.entries.resize(columns.count, TableEntry::default());
        let entries = self.entries.as_mut_slice();
        let mut is_in_range = true;
        columns.version.unpack(block, entries, |entry, version| entry.version = version);
        columns.length.unpack(block, entries, |entry, len_bytes| {
            entry.len_bytes = low_half(len_bytes, &mut is_in_range);
        });
        columns.kind.unpack(block, entries, |entry, kind| {
            is_in_range &= kind <= 1;
            entry.kind = if kind == 0 { EntryKind::Set } else { EntryKind::Tombstone };
        });
        columns.segment.unpack(block, entries, |entry, segment| {
            entry.pointer.segment = low_half(segment, &mut is_in_range);
        });
        if columns.moved.is_all(1) {
            columns.offset.unpack(block, entries, |entry, offset| {
                entry.pointer.offset = low_half(offset, &mut is_in_range);
            });
            return is_in_range.then_some(());
        }
        let mut follow = Follow::new(u32::try_from(columns.segment.least()).ok()?);
        let (mut stored, mut follows) = (0, true);
        columns.moved.unpack(block, entries, |entry, moved| {
            let offset = if moved == 0 {
                follow.next(entry.pointer.segment)
            } else {
                stored += 1;
                Some(columns.offset.get(block, stored - 1))
            };
            follows &= offset.is_some();
            entry.pointer.offset = low_half(offset.unwrap_or(0), &mut is_in_range);
            follow.note(entry.pointer, entry.len_bytes);
        });
        (is_in_range && follows).then_some(())
    }

    fn decode_keys(&mut self, columns: &LeafColumns, block: &[u8]) -> Option<()> {
        let room = columns.key_bytes(block)? + KEY_COPY_LEN;
        if self.keys.len() < room {
            // Each byte is written before it is read.
            self.keys.resize(room, 0);
        }
        self.starts.resize(columns.count + 1, 0);
        let (keys, (end, starts)) = (self.keys.as_mut_slice(), self.starts.split_last_mut()?);
        // The key before lies between these two places.
        let (mut before, mut at) = (0, 0);
        let mut suffix_at = columns.keys_at;
        for (place, start) in starts.iter_mut().enumerate() {
            let shared = columns.shared(block, place);
            let len = usize::try_from(columns.suffix.get(block, place)).ok()?;
            if place > 0 {
                let new = *block.get(suffix_at).filter(|_| len > 0)?;
                let last_len = at - before;
                if shared > last_len || shared < last_len && *keys.get(before + shared)? >= new {
                    return None;
                }
            }
            if shared + len > crate::MAX_KEY_LEN_BYTES {
                return None;
            }
            *start = u32::try_from(at).ok()?;
            copy_within(keys, before, at, shared)?;
            copy_suffix(keys.get_mut(at + shared..)?, block, suffix_at, len)?;
            suffix_at += len;
            (before, at) = (at, at + shared + len);
        }
        *end = u32::try_from(at).ok()?;
        Some(())
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The place of the first key at or above `target`, and whether it equals `target`.
    pub(crate) fn lower_bound(&self, target: &[u8]) -> (usize, bool) {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < target { low = middle + 1 } else { high = middle }
        }
        (low, low < self.len() && self.key(low) == target)
    }

    #[inline]
    pub(crate) fn key(&self, place: usize) -> &[u8] {
        let Some([start, end, ..]) = self.starts.get(place..) else { return &[] };
        self.keys.get(*start as usize..*end as usize).unwrap_or_default()
    }

    #[inline]
    pub(crate) fn entry(&self, place: usize) -> TableEntry {
        self.entries.get(place).copied().unwrap_or_default()
    }

    /// The keys from `place` to the end of the leaf, or to its beginning.
    #[inline]
    pub(crate) fn run(&self, place: usize, direction: ScanDirection) -> EntryRun<'_> {
        let places = match direction {
            ScanDirection::Forward => place..self.len(),
            ScanDirection::Backward => 0..(place + 1).min(self.len()),
        };
        EntryRun::new(&self.keys, &self.starts, &self.entries, places, direction)
    }
}

/// The lower half of a number that has to fit it.
#[inline(always)]
fn low_half(number: u64, is_in_range: &mut bool) -> u32 {
    *is_in_range &= number >> 32 == 0;
    #[allow(clippy::cast_possible_truncation, reason = "checked above")]
    (number as u32)
}

/// The number of bytes that are copied at once, without a call, for a short part of a key.
const KEY_COPY_LEN: usize = 16;

/// Copies `len` bytes of `keys` from `from` to `to`, which lies behind them. Up to 16 bytes behind
/// the copy get any content.
#[inline(always)]
fn copy_within(keys: &mut [u8], from: usize, to: usize, len: usize) -> Option<()> {
    if len <= KEY_COPY_LEN {
        let chunk: [u8; KEY_COPY_LEN] = *keys.get(from..)?.first_chunk()?;
        *keys.get_mut(to..)?.first_chunk_mut()? = chunk;
        return Some(());
    }
    let (done, rest) = keys.split_at_mut_checked(to)?;
    rest.get_mut(..len)?.copy_from_slice(done.get(from..from + len)?);
    Some(())
}

/// The same from `block`, which may end behind these bytes.
#[inline(always)]
fn copy_suffix(keys: &mut [u8], block: &[u8], from: usize, len: usize) -> Option<()> {
    if len <= KEY_COPY_LEN
        && let Some(chunk) = block.get(from..)?.first_chunk::<KEY_COPY_LEN>()
    {
        *keys.first_chunk_mut()? = *chunk;
        return Some(());
    }
    keys.get_mut(..len)?.copy_from_slice(block.get(from..from + len)?);
    Some(())
}
