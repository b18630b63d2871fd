//! How entries stand in a block of a checkpoint.
//!
//! Each entry is written against the one before it: of the key only what is new, of the place nothing if the record lies right behind the one before
//! (as they do after a compaction, which writes in key order), of length and version the difference. The first entry of a block is written against
//! nothing, so that every block stands for itself. Blocks of version 1 are read as well: there all entries have one width, and their keys stand whole
//! behind them.

use hightower_log::limits::MAX_KEY_LEN_BYTES;

use crate::checkpoint::codec::{CheckpointError, Covered, Reader, SEGMENT_LEN, damaged};

/// In a tag: the record is a tombstone.
const TAG_TOMBSTONE: u64 = 1;
/// In a tag: the record lies right behind the one before, in the same segment. Otherwise the number of the segment stands in the bits above.
const TAG_ADJACENT: u64 = 2;
const TAG_BITS: u32 = 2;
/// A half of the first byte that says: what is beyond this follows.
const NIBBLE_MAX: u8 = 15;

/// The width of an entry in version 1.
const WIDE_LEN: usize = 24;
/// In an entry's length in version 1: the record is a tombstone.
const WIDE_TOMBSTONE: u32 = 1 << 31;

/// A key, and where its newest record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'k> {
    pub(crate) key: &'k [u8],
    pub(crate) value: EntryValue,
}

/// What a checkpoint says of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryValue {
    pub(crate) version: u64,
    /// Which of the covered segments holds the record: its place in their row.
    pub(crate) covered: usize,
    pub(crate) offset: u32,
    pub(crate) len_bytes: u32,
    pub(crate) is_tombstone: bool,
}

impl EntryValue {
    fn end(&self) -> u32 {
        self.offset.wrapping_add(self.len_bytes)
    }
}

/// Entries on their way into a block.
#[derive(Debug, Default)]
pub(crate) struct BlockWriter {
    bytes: Vec<u8>,
    last_key: Vec<u8>,
    last: EntryValue,
    count: usize,
}

impl BlockWriter {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Begins the next block.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.last_key.clear();
        (self.last, self.count) = (EntryValue::default(), 0);
    }

    /// Adds an entry; its key is above all keys before it.
    pub(crate) fn add(&mut self, entry: &Entry<'_>) {
        let Entry { key, value } = *entry;
        let shared = key.iter().zip(&self.last_key).take_while(|(left, right)| left == right).count();
        let rest = key.get(shared..).unwrap_or_default();
        let (shared_nibble, rest_nibble) = (nibble(shared), nibble(rest.len()));
        self.bytes.push(shared_nibble << 4 | rest_nibble);
        if shared_nibble == NIBBLE_MAX {
            put_number(&mut self.bytes, (shared - usize::from(NIBBLE_MAX)) as u64);
        }
        if rest_nibble == NIBBLE_MAX {
            put_number(&mut self.bytes, (rest.len() - usize::from(NIBBLE_MAX)) as u64);
        }
        self.bytes.extend_from_slice(rest);
        let tombstone = if value.is_tombstone { TAG_TOMBSTONE } else { 0 };
        let is_adjacent = self.count > 0 && value.covered == self.last.covered && value.offset == self.last.end();
        if is_adjacent {
            put_number(&mut self.bytes, tombstone | TAG_ADJACENT);
        } else {
            put_number(&mut self.bytes, tombstone | (value.covered as u64) << TAG_BITS);
            put_number(&mut self.bytes, value.offset.into());
        }
        put_number(&mut self.bytes, zigzag(i64::from(value.len_bytes) - i64::from(self.last.len_bytes)));
        put_number(&mut self.bytes, zigzag(value.version.wrapping_sub(self.last.version).cast_signed()));
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(rest);
        self.last = value;
        self.count += 1;
    }
}

fn nibble(number: usize) -> u8 {
    u8::try_from(number).unwrap_or(NIBBLE_MAX).min(NIBBLE_MAX)
}

/// Seven bits a byte, the low ones first; the highest bit says that more follow.
fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

/// Small numbers of either sign as small numbers.
fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

/// One block, whose checksum was right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) count: usize,
    /// Where it begins in the file.
    pub(crate) at: usize,
    /// Whether it is one of version 1.
    pub(crate) is_wide: bool,
    /// The covered segments, as they stand in the file.
    pub(crate) segments: &'a [u8],
}

impl<'a> Block<'a> {
    /// The key of its first entry.
    pub(crate) fn first_key(&self) -> Result<&'a [u8], CheckpointError> {
        let key = if self.is_wide {
            let end = self.bytes.get(20..).and_then(|rest| rest.first_chunk()).map(|end| u32::from_le_bytes(*end));
            let start = self.count * WIDE_LEN;
            end.and_then(|end| self.bytes.get(start..start + end as usize))
        } else {
            let mut numbers = Numbers { bytes: self.bytes, at: 0 };
            numbers.byte().filter(|halves| halves >> 4 == 0).and_then(|halves| {
                let len = numbers.nibble_number(halves & NIBBLE_MAX)?;
                numbers.take(len)
            })
        };
        key.filter(|key| !key.is_empty()).ok_or_else(|| damaged(self.at, "a block without a first key"))
    }
}

/// Reads the entries of blocks one after the other. Kept for many blocks, it allocates once.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    block: Block<'a>,
    at: usize,
    done: usize,
    key: Vec<u8>,
    value: EntryValue,
}

impl<'a> Cursor<'a> {
    /// A cursor that stands nowhere.
    pub(crate) fn new() -> Self {
        let block = Block { bytes: &[], count: 0, at: 0, is_wide: false, segments: &[] };
        Self { block, at: 0, done: 0, key: Vec::new(), value: EntryValue::default() }
    }

    /// Stands before the first entry of a block.
    pub(crate) fn begin(&mut self, block: Block<'a>) {
        (self.block, self.at, self.done) = (block, 0, 0);
        self.key.clear();
        self.value = EntryValue::default();
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry { key: &self.key, value: self.value }
    }

    /// Goes to the next entry; says whether there is one.
    ///
    /// # Errors
    ///
    /// If the bytes are no entry, or the keys do not rise.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<bool, CheckpointError> {
        if self.done == self.block.count {
            let is_over = self.block.is_wide || self.at == self.block.bytes.len();
            return if is_over { Ok(false) } else { Err(damaged(self.block.at, "a block that is too long")) };
        }
        let read = if self.block.is_wide { self.read_wide() } else { self.read_packed() };
        if read.is_none() {
            return Err(damaged(self.block.at, "an entry that cannot be one"));
        }
        self.done += 1;
        Ok(true)
    }

    #[inline]
    fn read_packed(&mut self) -> Option<()> {
        let mut numbers = Numbers { bytes: self.block.bytes, at: self.at };
        let halves = numbers.byte()?;
        let shared = numbers.nibble_number(halves >> 4)?;
        let rest_len = numbers.nibble_number(halves & NIBBLE_MAX)?;
        let rest = numbers.take(rest_len)?;
        // Keys rise: what is new is above what it replaces.
        let replaced = self.key.get(shared..)?;
        if shared + rest_len > MAX_KEY_LEN_BYTES || rest.is_empty() || rest.first() <= replaced.first() {
            return None;
        }
        let tag = numbers.number()?;
        let last = self.value;
        let (covered, offset) = if tag & TAG_ADJACENT != 0 {
            (self.done > 0 && tag >> TAG_BITS == 0).then_some((last.covered, last.end()))?
        } else {
            (usize::try_from(tag >> TAG_BITS).ok()?, u32::try_from(numbers.number()?).ok()?)
        };
        let len_bytes = i64::from(last.len_bytes).checked_add(unzigzag(numbers.number()?))?;
        let version = last.version.wrapping_add(unzigzag(numbers.number()?).cast_unsigned());
        let is_tombstone = tag & TAG_TOMBSTONE != 0;
        self.value = EntryValue { version, covered, offset, len_bytes: u32::try_from(len_bytes).ok()?, is_tombstone };
        self.key.truncate(shared);
        self.key.extend_from_slice(rest);
        self.at = numbers.at;
        Some(())
    }

    fn read_wide(&mut self) -> Option<()> {
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
}

/// Takes numbers out of bytes; `None` where the bytes end.
struct Numbers<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Numbers<'a> {
    #[inline]
    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..)?.get(..len)?;
        self.at += len;
        Some(taken)
    }

    #[inline]
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    #[inline]
    fn nibble_number(&mut self, nibble: u8) -> Option<usize> {
        if nibble < NIBBLE_MAX {
            return Some(nibble.into());
        }
        usize::try_from(self.number()?).ok()?.checked_add(usize::from(NIBBLE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::{Block, BlockWriter, Cursor, Entry, EntryValue, unzigzag, zigzag};

    fn entry(key: &[u8], version: u64, covered: usize, offset: u32, len_bytes: u32) -> Entry<'_> {
        Entry { key, value: EntryValue { version, covered, offset, len_bytes, is_tombstone: version % 2 == 1 } }
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let long = [b'z'; 700];
        let longer = [&long[..], b"!"].concat();
        let entries = [
            entry(b"a", u64::MAX, 3, 64, 20),
            entry(b"ab", 0, 3, 84, u32::MAX - 84),
            entry(b"abcdefghijklmnopqrstuvw", 1 << 63, 0, u32::MAX, 1),
            entry(b"abcdefghijklmnopqrstuvwx", 5, 70_000, 1 << 30, 0),
            entry(&long, 4, 1, 7, 7),
            entry(&longer, 4, 1, 14, 9),
        ];
        let mut writer = BlockWriter::default();
        entries.iter().for_each(|entry| writer.add(entry));
        let block = Block { bytes: writer.bytes(), count: entries.len(), at: 128, is_wide: false, segments: &[] };
        assert_eq!(block.first_key(), Ok(&b"a"[..]));
        let mut cursor = Cursor::new();
        cursor.begin(block);
        for entry in entries {
            assert_eq!(cursor.advance(), Ok(true));
            assert_eq!(cursor.entry(), entry);
        }
        assert_eq!(cursor.advance(), Ok(false));
        // Cut anywhere, it is no whole block; with any other number of entries neither.
        for (len, count) in (0..writer.bytes().len()).map(|len| (len, entries.len())).chain([(writer.bytes().len(), 5)])
        {
            cursor.begin(Block { bytes: &writer.bytes()[..len], count, ..block });
            assert!(std::iter::repeat_with(|| cursor.advance()).take(10).any(|step| step.is_err()), "{len} {count}");
        }
    }

    #[test]
    fn an_entry_right_behind_the_one_before_takes_few_bytes() {
        let mut writer = BlockWriter::default();
        writer.add(&entry(b"pods/default/web-0001", 70_000, 0, 64, 130));
        let before = writer.bytes().len();
        writer.add(&entry(b"pods/default/web-0002", 70_002, 0, 194, 130));
        assert_eq!(writer.bytes().len() - before, 6);
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_pass_for_rising_keys() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..40)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    u8::try_from(state >> 56).unwrap() >> (state >> 40 & 7)
                })
                .collect();
            let mut cursor = Cursor::new();
            cursor.begin(Block { bytes: &bytes, count: 6, at: 0, is_wide: false, segments: &[] });
            let mut last = Vec::new();
            while let Ok(true) = cursor.advance() {
                assert!(cursor.key() > last.as_slice());
                last = cursor.key().to_vec();
            }
        }
        for number in [0, 1, -1, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(number)), number);
        }
    }
}
