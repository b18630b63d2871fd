//! The encoding of entries in a block of a checkpoint.
//!
//! A block is eight [columns](super::column), and behind them for each key the bytes after its
//! common prefix with the previous key. The offset of a record is stored only if the record is not
//! right behind the previous one in its segment; after a compaction, which writes in key order,
//! nearly all are. The first entry of a block is complete, so that every block is independent.

use hightower_log::limits::MAX_KEY_LEN_BYTES;

use crate::checkpoint::codec::{CheckpointError, damaged};
use crate::checkpoint::column::{Column, put_column};
use crate::checkpoint::numbers::Numbers;

/// A key, with the place of its newest record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockEntry<'k> {
    pub(crate) key: &'k [u8],
    pub(crate) value: EntryValue,
}

/// The entry of a key in a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryValue {
    pub(crate) version: u64,
    /// The index of the record's segment among the covered segments.
    pub(crate) covered: usize,
    pub(crate) offset: u32,
    pub(crate) len_bytes: u32,
    pub(crate) is_tombstone: bool,
}

impl EntryValue {
    pub(super) fn end(&self) -> u32 {
        self.offset.wrapping_add(self.len_bytes)
    }
}

/// The entries of a block under construction.
#[derive(Debug, Default)]
pub(crate) struct BlockWriter {
    values: Vec<EntryValue>,
    /// The length of each key, and of its common prefix with the previous one.
    lens: Vec<(usize, usize)>,
    new_bytes: Vec<u8>,
    last_key: Vec<u8>,
}

impl BlockWriter {
    pub(crate) fn count(&self) -> usize {
        self.values.len()
    }

    /// Adds an entry. Its key is above all previous ones.
    pub(crate) fn add(&mut self, entry: &BlockEntry<'_>) {
        let BlockEntry { key, value } = *entry;
        let shared = key.iter().zip(&self.last_key).take_while(|(left, right)| left == right).count();
        let new = key.get(shared..).unwrap_or_default();
        self.new_bytes.extend_from_slice(new);
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(new);
        self.lens.push((key.len(), shared));
        self.values.push(value);
    }

    /// Writes the block, and begins the next one.
    pub(crate) fn end_block(&mut self, bytes: &mut Vec<u8>) {
        let values = &self.values;
        let mut ends = Ends::above(values.iter().map(|value| value.covered).min().unwrap_or(0));
        let moved: Vec<bool> = values.iter().map(|value| !ends.extend(value)).collect();
        let offsets = values.iter().zip(&moved).filter(|(_, moved)| **moved).map(|(value, _)| value.offset.into());
        put_column(bytes, values.iter().map(|value| value.version));
        put_column(bytes, values.iter().map(|value| value.len_bytes.into()));
        put_column(bytes, values.iter().map(|value| value.is_tombstone.into()));
        put_column(bytes, values.iter().map(|value| value.covered as u64));
        put_column(bytes, moved.iter().map(|moved| (*moved).into()));
        put_column(bytes, offsets);
        put_column(bytes, self.lens.iter().map(|(key_len, _)| *key_len as u64));
        put_column(bytes, self.lens.iter().skip(1).map(|(_, shared)| *shared as u64));
        bytes.extend_from_slice(&self.new_bytes);
        self.values.clear();
        self.lens.clear();
        self.new_bytes.clear();
        self.last_key.clear();
    }
}

/// Number of segments, counted from the lowest of a block, that [`Ends`] tracks.
const NEAR_SEGMENTS: usize = 64;

/// The end of the last record of each segment, within a block.
#[derive(Debug)]
struct Ends {
    /// The lowest segment of the block.
    first: usize,
    ends: [u32; NEAR_SEGMENTS],
    /// A bit for each segment with a known end.
    known: u64,
}

impl Ends {
    fn above(first: usize) -> Self {
        Self { first, ends: [0; NEAR_SEGMENTS], known: 0 }
    }

    /// The end of the last record of this segment.
    #[inline]
    fn end_of(&self, covered: usize) -> Option<u32> {
        let at = covered.checked_sub(self.first).filter(|at| *at < NEAR_SEGMENTS)?;
        (self.known >> at & 1 != 0).then(|| self.ends[at])
    }

    /// Advances to a record; returns whether it is right behind the previous one of its segment.
    #[inline]
    fn extend(&mut self, value: &EntryValue) -> bool {
        let is_behind = self.end_of(value.covered) == Some(value.offset);
        if let Some(at) = value.covered.checked_sub(self.first).filter(|at| *at < NEAR_SEGMENTS) {
            self.ends[at] = value.end();
            self.known |= 1 << at;
        }
        is_behind
    }
}

/// The columns of a block, and their end.
#[derive(Clone, Copy, Debug, Default)]
struct Columns<'a> {
    version: Column<'a>,
    len: Column<'a>,
    is_tombstone: Column<'a>,
    covered: Column<'a>,
    is_moved: Column<'a>,
    offset: Column<'a>,
    key_len: Column<'a>,
    shared: Column<'a>,
    end: usize,
}

impl<'a> Columns<'a> {
    fn of(block: &Block<'a>) -> Option<Self> {
        let mut numbers = Numbers { bytes: block.bytes, at: 0 };
        let (count, behind_first) = (block.count, block.count.checked_sub(1)?);
        let mut take = |count| Column::take(&mut numbers, count);
        let (version, len, is_tombstone) = (take(count)?, take(count)?, take(count)?);
        let (covered, is_moved) = (take(count)?, take(count)?);
        let offset = take(is_moved.count_ones(count)?)?;
        let (key_len, shared) = (take(count)?, take(behind_first)?);
        Some(Self { version, len, is_tombstone, covered, is_moved, offset, key_len, shared, end: numbers.at })
    }
}

/// A block with a verified checksum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) count: usize,
    /// Its offset in the file.
    pub(crate) at: usize,
}

impl<'a> Block<'a> {
    /// The key of its first entry.
    pub(crate) fn first_key(&self) -> Result<&'a [u8], CheckpointError> {
        let key = Columns::of(self).and_then(|columns| {
            let len = usize::try_from(columns.key_len.get(0)).ok()?;
            self.bytes.get(columns.end..)?.get(..len)
        });
        key.filter(|key| !key.is_empty()).ok_or_else(|| damaged(self.at, "a block without a first key"))
    }
}

/// Reads the entries of blocks in order. Used for many blocks, it allocates once.
#[derive(Debug)]
pub(crate) struct BlockCursor<'a> {
    block: Block<'a>,
    columns: Columns<'a>,
    /// The read position.
    at: usize,
    done: usize,
    /// The number of read offsets.
    offsets: usize,
    ends: Ends,
    key: Vec<u8>,
    value: EntryValue,
}

impl<'a> BlockCursor<'a> {
    /// A cursor without a block.
    pub(crate) fn new() -> Self {
        let block = Block { bytes: &[], count: 0, at: 0 };
        let (columns, ends) = (Columns::default(), Ends::above(0));
        Self { block, columns, at: 0, done: 0, offsets: 0, ends, key: Vec::new(), value: EntryValue::default() }
    }

    /// Positions the cursor before the first entry of a block.
    ///
    /// # Errors
    ///
    /// If its columns are invalid.
    pub(crate) fn begin(&mut self, block: Block<'a>) -> Result<(), CheckpointError> {
        (self.block, self.at, self.done, self.offsets) = (block, 0, 0, 0);
        self.key.clear();
        self.value = EntryValue::default();
        self.columns = Columns::of(&block).ok_or_else(|| damaged(block.at, "columns that cannot be a block's"))?;
        self.at = self.columns.end;
        (self.ends.first, self.ends.known) = (usize::try_from(self.columns.covered.least()).unwrap_or(usize::MAX), 0);
        Ok(())
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn entry(&self) -> BlockEntry<'_> {
        BlockEntry { key: &self.key, value: self.value }
    }

    /// Advances to the next entry; returns whether one exists.
    ///
    /// # Errors
    ///
    /// If the bytes are no entry, or the keys do not rise.
    #[inline]
    pub(crate) fn advance(&mut self) -> Result<bool, CheckpointError> {
        if self.done == self.block.count {
            let is_over = self.at == self.block.bytes.len();
            return if is_over { Ok(false) } else { Err(damaged(self.block.at, "a block that is too long")) };
        }
        if self.read().is_none() {
            return Err(damaged(self.block.at, "an entry that cannot be one"));
        }
        self.done += 1;
        Ok(true)
    }

    #[inline]
    fn read(&mut self) -> Option<()> {
        let (columns, done) = (&self.columns, self.done);
        let covered = usize::try_from(columns.covered.get(done)).ok()?;
        let offset = if columns.is_moved.get(done) == 0 {
            self.ends.end_of(covered)?
        } else {
            self.offsets += 1;
            u32::try_from(columns.offset.get(self.offsets - 1)).ok()?
        };
        let len_bytes = u32::try_from(columns.len.get(done)).ok()?;
        let is_tombstone = match columns.is_tombstone.get(done) {
            0 => false,
            1 => true,
            _ => return None,
        };
        self.value = EntryValue { version: columns.version.get(done), covered, offset, len_bytes, is_tombstone };
        self.ends.extend(&self.value);
        let shared = if done == 0 { 0 } else { usize::try_from(columns.shared.get(done - 1)).ok()? };
        let new_len = usize::try_from(columns.key_len.get(done)).ok()?.checked_sub(shared)?;
        let mut numbers = Numbers { bytes: self.block.bytes, at: self.at };
        let new = numbers.take(new_len)?;
        self.at = numbers.at;
        self.replace_key(shared, new)
    }

    /// The next key is as the last one up to there, and goes on with new bytes. `None` if it would
    /// not be above the last one.
    #[inline]
    fn replace_key(&mut self, shared: usize, new: &[u8]) -> Option<()> {
        let replaced = self.key.get(shared..)?;
        if shared + new.len() > MAX_KEY_LEN_BYTES || new.is_empty() || new.first() <= replaced.first() {
            return None;
        }
        self.key.truncate(shared);
        self.key.extend_from_slice(new);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Block, BlockCursor, BlockEntry, BlockWriter, EntryValue};

    fn entry(key: &[u8], version: u64, covered: usize, offset: u32, len_bytes: u32) -> BlockEntry<'_> {
        BlockEntry { key, value: EntryValue { version, covered, offset, len_bytes, is_tombstone: version % 2 == 1 } }
    }

    fn block(entries: &[BlockEntry<'_>]) -> Vec<u8> {
        let mut writer = BlockWriter::default();
        // What was written before leaves nothing behind.
        writer.add(&entry(b"before", 3, 2, 1, 4));
        writer.end_block(&mut Vec::new());
        entries.iter().for_each(|entry| writer.add(entry));
        let mut bytes = Vec::new();
        writer.end_block(&mut bytes);
        bytes
    }

    /// Whether reading ends with an error.
    fn is_refused<'a>(cursor: &mut BlockCursor<'a>, block: Block<'a>) -> bool {
        cursor.begin(block).is_err() || std::iter::repeat_with(|| cursor.advance()).take(10).any(|step| step.is_err())
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
        let bytes = block(&entries);
        let block = Block { bytes: &bytes, count: entries.len(), at: 128 };
        assert_eq!(block.first_key(), Ok(&b"a"[..]));
        let mut cursor = BlockCursor::new();
        cursor.begin(block).unwrap();
        for entry in entries {
            assert_eq!(cursor.advance(), Ok(true));
            assert_eq!(cursor.entry(), entry);
        }
        assert_eq!(cursor.advance(), Ok(false));
        // Cut anywhere, it is no whole block; with any other number of entries neither.
        for (len, count) in (0..bytes.len()).map(|len| (len, entries.len())).chain([(bytes.len(), 5), (bytes.len(), 0)])
        {
            assert!(is_refused(&mut cursor, Block { bytes: &bytes[..len], count, ..block }), "{len} {count}");
        }
    }

    #[test]
    fn entries_right_behind_each_other_take_few_bytes() {
        let keys: Vec<Vec<u8>> = (1000..1128).map(|n| format!("pods/default/web-{n}").into_bytes()).collect();
        let entries = |count: usize| {
            let entries = keys.iter().zip(0..).take(count);
            entries
                .map(|(key, n)| entry(key, 70_000 + 2 * u64::from(n * 37 % 128), 0, 64 + n * 130, 130))
                .collect::<Vec<_>>()
        };
        // A byte of the key and one of its version, a quarter for what it shares, now and then a
        // second byte of the key.
        let more = block(&entries(128)).len() - block(&entries(64)).len();
        assert!(more <= 64 * 3, "{more}");
    }

    #[test]
    fn records_of_several_segments_in_turn_take_few_bytes_too() {
        let keys: Vec<Vec<u8>> = (1000..1128).map(|n| format!("pods/default/web-{n}").into_bytes()).collect();
        for segments in [3, 64, 65] {
            let mut ends = vec![64_000_000; segments];
            let entries: Vec<_> = keys
                .iter()
                .enumerate()
                .map(|(n, key)| {
                    let segment = n * n % segments;
                    ends[segment] += 130;
                    entry(key, 70_000, 7 + segment, ends[segment] - 130, 130)
                })
                .chain([
                    entry(b"z", 70_000, 7 + segments - 1, 5, 130),
                    entry(b"zz", 70_000, 7 + segments - 1, 135, 130),
                ])
                .collect();
            let bytes = block(&entries);
            let mut cursor = BlockCursor::new();
            cursor.begin(Block { bytes: &bytes, count: entries.len(), at: 0 }).unwrap();
            for entry in &entries {
                assert_eq!(cursor.advance(), Ok(true));
                assert_eq!(cursor.entry(), *entry);
            }
            assert_eq!(cursor.advance(), Ok(false));
            // The first record of each segment needs its offset; one for each record would take
            // twice that.
            assert!(bytes.len() < 128 * 4 + segments * 4, "{segments}: {}", bytes.len());
        }
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_pass_for_rising_keys() {
        let mut state = 1_u64;
        {
            for _ in 0..20_000 {
                let bytes: Vec<u8> = (0..64)
                    .map(|_| {
                        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        u8::try_from(state >> 56).unwrap() >> (state >> 40 & 7)
                    })
                    .collect();
                let mut cursor = BlockCursor::new();
                let block = Block { bytes: &bytes, count: 6, at: 0 };
                let _first = block.first_key();
                if cursor.begin(block).is_err() {
                    continue;
                }
                let mut last = Vec::new();
                while let Ok(true) = cursor.advance() {
                    assert!(cursor.key() > last.as_slice());
                    last = cursor.key().to_vec();
                }
            }
        }
    }
}
