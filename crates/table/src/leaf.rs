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
        let keys = (0..count).try_fold(keys_at as u64, |at, place| at.checked_add(suffix.get(block, place)))?;
        let is_whole = keys == block.len() as u64;
        is_whole.then_some(Self { count, version, length, kind, segment, moved, offset, suffix, shared, keys_at })
    }

    pub(crate) fn len(&self) -> usize {
        self.count
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
#[derive(Clone, Debug)]
struct EntryWalk {
    place: usize,
    moved: usize,
    /// `None` if all offsets are stored.
    follow: Option<Box<Follow>>,
}

impl EntryWalk {
    fn new(columns: &LeafColumns) -> Self {
        let least = u32::try_from(columns.segment.least()).unwrap_or(u32::MAX);
        let follow = (!columns.moved.is_all(1)).then(|| Box::new(Follow::new(least)));
        Self { place: 0, moved: 0, follow }
    }

    fn advance(&mut self, columns: &LeafColumns, block: &[u8]) -> Option<TableEntry> {
        let place = self.place;
        self.place += 1;
        let Some(follow) = &mut self.follow else {
            return columns.entry_at(block, place, columns.offset.get(block, place));
        };
        let segment = u32::try_from(columns.segment.get(block, place)).ok()?;
        let offset = if columns.moved.get(block, place) == 0 {
            follow.next(segment)?
        } else {
            self.moved += 1;
            columns.offset.get(block, self.moved - 1)
        };
        let entry = columns.entry_at(block, place, offset)?;
        follow.note(entry.pointer, entry.len_bytes);
        Some(entry)
    }
}

/// A verified copy of a leaf, whose full keys are built on demand.
#[derive(Clone, Default)]
pub(crate) struct DecodedLeaf {
    block: Vec<u8>,
    /// The offset of the block in the file.
    pub(crate) offset: u64,
    pub(crate) previous_len: u32,
    columns: LeafColumns,
    /// The keys built so far, one after the other.
    keys: Vec<u8>,
    ends: Vec<usize>,
    entries: Vec<TableEntry>,
    /// The offset of the next key's suffix in the block.
    suffix_at: usize,
    walk: Option<EntryWalk>,
}

impl fmt::Debug for DecodedLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodedLeaf").field("offset", &self.offset).field("len", &self.len()).finish_non_exhaustive()
    }
}

impl DecodedLeaf {
    /// Copies a verified block, which begins at `offset` of the file.
    pub(crate) fn load(&mut self, block: &[u8], head: block::BlockHead, offset: u64) -> Result<(), Damaged> {
        let columns = LeafColumns::parse(block, head.count, offset)?;
        self.block.clear();
        self.block.extend_from_slice(block);
        self.offset = offset;
        self.previous_len = head.previous_len;
        self.keys.clear();
        self.ends.clear();
        self.entries.clear();
        self.suffix_at = columns.keys_at;
        self.walk = Some(EntryWalk::new(&columns));
        self.columns = columns;
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.columns.len()
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.block.len() as u64
    }

    pub(crate) fn lower_bound(&self, target: &[u8]) -> (usize, bool) {
        self.columns.lower_bound(&self.block, target)
    }

    /// Builds the full keys up to this place.
    pub(crate) fn decode_to(&mut self, place: usize) -> Result<(), Damaged> {
        let last = place.min(self.len().saturating_sub(1));
        while self.ends.len() <= last {
            self.decode_next()
                .ok_or_else(|| damaged(self.offset, "keys of a block that are not in ascending order"))??;
        }
        Ok(())
    }

    fn decode_next(&mut self) -> Option<Result<(), Damaged>> {
        let place = self.ends.len();
        let shared = self.columns.shared(&self.block, place);
        let suffix = self.columns.suffix(&self.block, place, self.suffix_at);
        let start = place.checked_sub(2).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let before = self.keys.get(start..).unwrap_or_default();
        if place > 0 {
            let (new, old) = (suffix.first()?, before.get(shared));
            if shared > before.len() || old.is_some_and(|old| old >= new) {
                return None;
            }
        }
        if shared + suffix.len() > crate::MAX_KEY_LEN_BYTES {
            return None;
        }
        self.keys.extend_from_within(start..start + shared);
        self.keys.extend_from_slice(suffix);
        self.suffix_at += suffix.len();
        self.ends.push(self.keys.len());
        let entry = self.walk.as_mut().and_then(|walk| walk.advance(&self.columns, &self.block));
        let Some(entry) = entry else {
            return Some(Err(damaged(self.offset, "an entry with numbers that are too large")));
        };
        self.entries.push(entry);
        Some(Ok(()))
    }

    /// The key of a decoded place.
    #[inline]
    pub(crate) fn key(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        let end = self.ends.get(place).copied().unwrap_or(start);
        self.keys.get(start..end).unwrap_or_default()
    }

    /// The entry of a decoded place.
    #[inline]
    pub(crate) fn entry(&self, place: usize) -> TableEntry {
        self.entries.get(place).copied().unwrap_or_default()
    }
}
