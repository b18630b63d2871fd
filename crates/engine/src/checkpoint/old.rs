//! How entries stand in the blocks of earlier versions, which are read but not written any more.
//!
//! Version 1: all entries have one width, and their keys stand whole behind them. Version 2: each entry is written against the one before it, as bytes
//! and numbers one after the other.

use hightower_log::limits::MAX_KEY_LEN_BYTES;

use crate::checkpoint::block::{Cursor, EntryValue};
use crate::checkpoint::codec::{Covered, Reader, SEGMENT_LEN};
use crate::checkpoint::numbers::Numbers;

/// The width of an entry in version 1.
pub(crate) const WIDE_LEN: usize = 24;
/// In an entry's length in version 1: the record is a tombstone.
const WIDE_TOMBSTONE: u32 = 1 << 31;

/// In a tag: the record is a tombstone.
const TAG_TOMBSTONE: u64 = 1;
/// In a tag: the record lies right behind the one before, in the same segment. Otherwise the number of the segment stands in the bits above.
const TAG_ADJACENT: u64 = 2;
const TAG_BITS: u32 = 2;
/// A half of an entry's first byte that says: what is beyond this follows.
const NIBBLE_MAX: u8 = 15;

/// The key of the first entry of a block of version 1.
pub(crate) fn first_wide_key(block: &[u8], count: usize) -> Option<&[u8]> {
    let end = block.get(20..)?.first_chunk().map(|end| u32::from_le_bytes(*end))?;
    block.get(count * WIDE_LEN..)?.get(..end as usize)
}

/// The key of the first entry of a block of version 2.
pub(crate) fn first_tagged_key(block: &[u8]) -> Option<&[u8]> {
    let mut numbers = Numbers { bytes: block, at: 0 };
    let halves = numbers.byte().filter(|halves| halves >> 4 == 0)?;
    let len = nibble_number(&mut numbers, halves & NIBBLE_MAX)?;
    numbers.take(len)
}

fn nibble_number(numbers: &mut Numbers<'_>, nibble: u8) -> Option<usize> {
    if nibble < NIBBLE_MAX {
        return Some(nibble.into());
    }
    usize::try_from(numbers.number()?).ok()?.checked_add(usize::from(NIBBLE_MAX))
}

/// Small numbers of either sign stand as small numbers.
fn signed(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

impl Cursor<'_> {
    /// Reads the next entry of a block of version 1.
    pub(super) fn read_wide(&mut self) -> Option<()> {
        let rows = self.block.bytes.get(..self.block.count * WIDE_LEN)?.as_chunks::<WIDE_LEN>().0;
        let keys = self.block.bytes.get(self.block.count * WIDE_LEN..)?;
        let mut reader = Reader { bytes: rows.get(self.done)?, at: 0 };
        let (version, segment, offset, len) = (reader.u64(), reader.u32(), reader.u32(), reader.u32());
        let key_end = reader.u32() as usize;
        let key = keys.get(self.at..key_end).filter(|key| !key.is_empty() && key.len() <= MAX_KEY_LEN_BYTES)?;
        if self.done > 0 && key <= self.key.as_slice() {
            return None;
        }
        let covered = self.block.segments.as_chunks::<SEGMENT_LEN>().0;
        let covered = covered.binary_search_by_key(&segment, |bytes| Covered::decode(bytes).id).ok()?;
        let (len_bytes, is_tombstone) = (len & !WIDE_TOMBSTONE, len & WIDE_TOMBSTONE != 0);
        self.value = EntryValue { version, covered, offset, len_bytes, is_tombstone };
        self.key.clear();
        self.key.extend_from_slice(key);
        self.at = key_end;
        Some(())
    }

    /// Reads the next entry of a block of version 2.
    pub(super) fn read_tagged(&mut self) -> Option<()> {
        let mut numbers = Numbers { bytes: self.block.bytes, at: self.at };
        let halves = numbers.byte()?;
        let shared = nibble_number(&mut numbers, halves >> 4)?;
        let new_len = nibble_number(&mut numbers, halves & NIBBLE_MAX)?;
        let new = numbers.take(new_len)?;
        self.replace_key(shared, new)?;
        let tag = numbers.number()?;
        let last = self.value;
        let (covered, offset) = if tag & TAG_ADJACENT != 0 {
            (self.done > 0 && tag >> TAG_BITS == 0).then_some((last.covered, last.end()))?
        } else {
            (usize::try_from(tag >> TAG_BITS).ok()?, u32::try_from(numbers.number()?).ok()?)
        };
        let len_bytes = i64::from(last.len_bytes).checked_add(signed(numbers.number()?))?;
        let version = last.version.wrapping_add(signed(numbers.number()?).cast_unsigned());
        let is_tombstone = tag & TAG_TOMBSTONE != 0;
        self.value = EntryValue { version, covered, offset, len_bytes: u32::try_from(len_bytes).ok()?, is_tombstone };
        self.at = numbers.at;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::signed;

    #[test]
    fn small_numbers_of_either_sign_are_small() {
        assert_eq!([0, 1, 2, 3, u64::MAX - 1, u64::MAX].map(signed), [0, -1, 1, -2, i64::MAX, i64::MIN]);
    }
}
