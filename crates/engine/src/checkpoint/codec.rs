//! The bytes of an index checkpoint; `docs/FORMAT.md` describes them.
//!
//! ```text
//! header 128 | blocks | point table | segments | block index
//! ```
//!
//! Made to be used in place, through a map: a block holds the same number of entries as any other (the last may hold fewer), so that the
//! number of an entry gives its block and its place there; entries are of one width, and keys stand whole behind them, in order. A key
//! is found by two reads through the point table, or by halving over the first keys of the blocks.
//!
//! Reading checks every place against the bytes that are there, never panics, and allocates nothing.

use thiserror::Error;

use crate::checkpoint::siphash::siphash13;

pub(crate) const MAGIC: [u8; 8] = *b"HTKVCKP\n";
pub(crate) const VERSION: u16 = 1;
pub(crate) const HEADER_LEN: usize = 128;
/// Entries in a block.
pub(crate) const BLOCK_ENTRIES: usize = 128;
pub(crate) const ENTRY_LEN: usize = 24;
pub(crate) const SEGMENT_LEN: usize = 40;
pub(crate) const BLOCK_INDEX_LEN: usize = 16;
pub(crate) const POINT_LEN: usize = 4;
/// In an entry's length: the record is a tombstone.
const TOMBSTONE: u32 = 1 << 31;

/// Why bytes are not a checkpoint that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum CheckpointError {
    #[error("offset {offset}: {what}")]
    Damaged { offset: u64, what: &'static str },
    #[error("version {0} is not one that this build reads")]
    Version(u16),
    #[error("it needs features {0:#x} that this build does not know")]
    Features(u32),
}

fn damaged(offset: usize, what: &'static str) -> CheckpointError {
    CheckpointError::Damaged { offset: offset as u64, what }
}

/// What a checkpoint says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) store_id: [u8; 16],
    /// All commits up to this one are in it, none after.
    pub(crate) seq: u64,
    /// The highest version seen until then.
    pub(crate) max_version: u64,
    pub(crate) entries: u64,
    pub(crate) segments: u32,
    /// Slots of the point table: a power of two, or 0 if there is none.
    pub(crate) points: u64,
    pub(crate) points_at: u64,
    pub(crate) segments_at: u64,
    pub(crate) index_at: u64,
    pub(crate) file_len: u64,
    pub(crate) hash_key: u64,
    /// Checksum of the point table.
    pub(crate) points_check: u32,
    /// Checksum of the segments and the block index.
    pub(crate) index_check: u32,
}

/// A segment that a checkpoint covers, and what the checkpoint says is live in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) id: u32,
    /// Records up to here are in the checkpoint.
    pub(crate) len_bytes: u32,
    pub(crate) salt: u64,
    pub(crate) live_records: u64,
    pub(crate) live_bytes: u64,
    pub(crate) tombstone_bytes: u64,
}

/// A key, and where its newest record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) version: u64,
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) len_bytes: u32,
    pub(crate) is_tombstone: bool,
}

impl Header {
    pub(crate) fn blocks(&self) -> u64 {
        self.entries.div_ceil(BLOCK_ENTRIES as u64)
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut at = 0;
        let mut put = |part: &[u8]| {
            bytes[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        };
        put(&MAGIC);
        put(&VERSION.to_le_bytes());
        // The header's length, and below the number of entries in a block.
        put(&128_u16.to_le_bytes());
        put(&0_u32.to_le_bytes());
        put(&self.store_id);
        put(&self.seq.to_le_bytes());
        put(&self.max_version.to_le_bytes());
        put(&self.entries.to_le_bytes());
        put(&self.segments.to_le_bytes());
        put(&128_u32.to_le_bytes());
        put(&self.points.to_le_bytes());
        put(&self.points_at.to_le_bytes());
        put(&self.segments_at.to_le_bytes());
        put(&self.index_at.to_le_bytes());
        put(&self.file_len.to_le_bytes());
        put(&self.hash_key.to_le_bytes());
        put(&self.points_check.to_le_bytes());
        put(&self.index_check.to_le_bytes());
        let check = crc32fast::hash(&bytes[..HEADER_LEN - 4]);
        bytes[HEADER_LEN - 4..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, CheckpointError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_LEN>() else { return Err(damaged(0, "it is cut short")) };
        if bytes.first_chunk() != Some(&MAGIC) {
            return Err(damaged(0, "it does not begin as a checkpoint does"));
        }
        let mut reader = Reader { bytes, at: HEADER_LEN - 4 };
        if crc32fast::hash(&bytes[..HEADER_LEN - 4]) != reader.u32() {
            return Err(damaged(HEADER_LEN - 4, "wrong checksum of the header"));
        }
        reader.at = 8;
        let version = u16::from_le_bytes(reader.array());
        if version != VERSION {
            return Err(CheckpointError::Version(version));
        }
        let header_len = u16::from_le_bytes(reader.array());
        let features = reader.u32();
        if features != 0 {
            return Err(CheckpointError::Features(features));
        }
        let store_id = reader.array();
        let (seq, max_version, entries, segments) = (reader.u64(), reader.u64(), reader.u64(), reader.u32());
        let block_entries = reader.u32();
        let header = Self {
            store_id,
            seq,
            max_version,
            entries,
            segments,
            points: reader.u64(),
            points_at: reader.u64(),
            segments_at: reader.u64(),
            index_at: reader.u64(),
            file_len: reader.u64(),
            hash_key: reader.u64(),
            points_check: reader.u32(),
            index_check: reader.u32(),
        };
        if usize::from(header_len) != HEADER_LEN || block_entries as usize != BLOCK_ENTRIES {
            return Err(damaged(10, "sizes that this version does not have"));
        }
        Ok(header)
    }
}

impl Covered {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_LEN] {
        let mut bytes = [0; SEGMENT_LEN];
        bytes[0..4].copy_from_slice(&self.id.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.len_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.salt.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.live_records.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.live_bytes.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.tombstone_bytes.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8; SEGMENT_LEN]) -> Self {
        let mut reader = Reader { bytes, at: 0 };
        Self {
            id: reader.u32(),
            len_bytes: reader.u32(),
            salt: reader.u64(),
            live_records: reader.u64(),
            live_bytes: reader.u64(),
            tombstone_bytes: reader.u64(),
        }
    }
}

impl Entry<'_> {
    /// The entry's bytes, in a block in which its key ends at `key_end`, counted from the first key.
    pub(crate) fn encode(&self, key_end: u32) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        let len = self.len_bytes | if self.is_tombstone { TOMBSTONE } else { 0 };
        bytes[0..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.segment.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&len.to_le_bytes());
        bytes[20..24].copy_from_slice(&key_end.to_le_bytes());
        bytes
    }
}

/// Takes numbers out of bytes whose length was checked; what is not there is zero.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).copied();
        self.at += N;
        found.unwrap_or([0; N])
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

/// A checkpoint in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checkpoint<'a> {
    pub(crate) header: Header,
    bytes: &'a [u8],
    points: &'a [u8],
    segments: &'a [u8],
    index: &'a [u8],
}

/// One block, whose checksum was right.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block<'a> {
    entries: &'a [u8],
    keys: &'a [u8],
    at: usize,
}

impl<'a> Checkpoint<'a> {
    /// Checks everything but the blocks and the point table.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        let header = Header::decode(bytes)?;
        if header.file_len != bytes.len() as u64 {
            return Err(damaged(bytes.len(), "its length is not the one it gives"));
        }
        let points = section(bytes, header.points_at, header.points, POINT_LEN)?;
        let segments = section(bytes, header.segments_at, header.segments.into(), SEGMENT_LEN)?;
        let index = section(bytes, header.index_at, header.blocks(), BLOCK_INDEX_LEN)?;
        let mut check = crc32fast::Hasher::new();
        check.update(segments);
        check.update(index);
        if check.finalize() != header.index_check {
            return Err(damaged(to_usize(header.index_at), "wrong checksum of the segments and the block index"));
        }
        if !(header.points == 0 || header.points.is_power_of_two() && header.points > header.entries) {
            return Err(damaged(to_usize(header.points_at), "an impossible size of the point table"));
        }
        Ok(Self { header, bytes, points, segments, index })
    }

    pub(crate) fn segments(&self) -> impl Iterator<Item = Covered> + use<'a> {
        self.segments.as_chunks().0.iter().map(Covered::decode)
    }

    /// The block of this number, verified.
    pub(crate) fn block(&self, number: u64) -> Result<Block<'a>, CheckpointError> {
        let row = self.index.as_chunks::<BLOCK_INDEX_LEN>().0.get(to_usize(number));
        let row = row.ok_or_else(|| damaged(to_usize(self.header.index_at), "a block that is not there"))?;
        let mut reader = Reader { bytes: row, at: 0 };
        let (at, len, check) = (to_usize(reader.u64()), reader.u32() as usize, reader.u32());
        let end = at.checked_add(len).filter(|_| at >= HEADER_LEN);
        let bytes = end.and_then(|end| self.bytes.get(at..end)).ok_or_else(|| damaged(at, "a block beyond the end"))?;
        if crc32fast::hash(bytes) != check {
            return Err(damaged(at, "wrong checksum of a block"));
        }
        let first = number * BLOCK_ENTRIES as u64;
        let count = to_usize(self.header.entries.saturating_sub(first)).min(BLOCK_ENTRIES);
        let split = bytes.split_at_checked(count * ENTRY_LEN);
        let (entries, keys) = split.ok_or_else(|| damaged(at, "a block that is too short"))?;
        Ok(Block { entries, keys, at })
    }

    /// Looks a key up in place. Without a point table: over the blocks.
    pub(crate) fn find(&self, key: &[u8]) -> Result<Option<Entry<'a>>, CheckpointError> {
        if self.header.points == 0 {
            return self.find_in_order(key);
        }
        let mask = self.header.points - 1;
        let mut slot = siphash13((self.header.hash_key, 0), key) & mask;
        for _ in 0..self.header.points {
            let number =
                self.points.as_chunks::<POINT_LEN>().0.get(to_usize(slot)).map_or(0, |it| u32::from_le_bytes(*it));
            let Some(number) = u64::from(number).checked_sub(1) else { return Ok(None) };
            let block = self.block(number / BLOCK_ENTRIES as u64)?;
            let entry = block.entry(to_usize(number % BLOCK_ENTRIES as u64))?;
            if entry.key == key {
                return Ok(Some(entry));
            }
            slot = (slot + 1) & mask;
        }
        Ok(None)
    }

    fn find_in_order(&self, key: &[u8]) -> Result<Option<Entry<'a>>, CheckpointError> {
        let (mut low, mut high) = (0, self.header.blocks());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.block(middle)?.entry(0)?.key <= key { low = middle + 1 } else { high = middle }
        }
        let Some(number) = low.checked_sub(1) else { return Ok(None) };
        let block = self.block(number)?;
        for at in 0..block.len() {
            let entry = block.entry(at)?;
            if entry.key == key {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Checks the point table's checksum.
    pub(crate) fn verify_points(&self) -> Result<(), CheckpointError> {
        if crc32fast::hash(self.points) == self.header.points_check {
            return Ok(());
        }
        Err(damaged(to_usize(self.header.points_at), "wrong checksum of the point table"))
    }
}

impl<'a> Block<'a> {
    pub(crate) fn len(&self) -> usize {
        self.entries.len() / ENTRY_LEN
    }

    /// The entry at this place of the block.
    pub(crate) fn entry(&self, place: usize) -> Result<Entry<'a>, CheckpointError> {
        let rows = self.entries.as_chunks::<ENTRY_LEN>().0;
        let broken = || damaged(self.at, "an entry whose key is not there");
        let row = rows.get(place).ok_or_else(broken)?;
        let key_end = |row: &[u8; ENTRY_LEN]| Reader { bytes: row, at: 20 }.u32() as usize;
        let start = place.checked_sub(1).and_then(|before| rows.get(before)).map_or(0, key_end);
        let key = self.keys.get(start..key_end(row)).filter(|key| !key.is_empty()).ok_or_else(broken)?;
        let mut reader = Reader { bytes: row, at: 0 };
        let (version, segment, offset, len) = (reader.u64(), reader.u32(), reader.u32(), reader.u32());
        Ok(Entry { key, version, segment, offset, len_bytes: len & !TOMBSTONE, is_tombstone: len & TOMBSTONE != 0 })
    }
}

fn section(bytes: &[u8], at: u64, count: u64, width: usize) -> Result<&[u8], CheckpointError> {
    let start = to_usize(at);
    let end = to_usize(count).checked_mul(width).and_then(|len| start.checked_add(len));
    let found = end.and_then(|end| bytes.get(start..end));
    found.ok_or_else(|| damaged(start, "a part that reaches beyond the end"))
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
