//! The encoding of an index checkpoint, described in `docs/FORMAT.md`.
//!
//! ```text
//! header 128 | blocks | segments | block index
//! ```
//!
//! Blocks have the same number of entries each (the last may have fewer), in key order, and are
//! independent: several threads can read them at once, and a key can be looked up in place by
//! binary search over the first keys of the blocks. [`block`](super::block) has the encoding of a
//! block.
//!
//! Reading checks every offset against the length, and never panics.

use thiserror::Error;

use crate::checkpoint::block::{Block, BlockCursor};
use crate::mutants::planted;

pub(crate) const MAGIC: [u8; 8] = *b"HTKVCKP\n";
pub(crate) const VERSION: u16 = 1;
pub(crate) const HEADER_LEN: usize = 128;
/// Number of entries in a block.
pub(crate) const BLOCK_ENTRIES: usize = 128;
pub(crate) const SEGMENT_LEN: usize = 40;
pub(crate) const BLOCK_INDEX_LEN: usize = 16;

/// The error of bytes that are not a usable checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum CheckpointError {
    #[error("offset {offset}: {what}")]
    Damaged { offset: u64, what: &'static str },
    #[error("version {0} is not one that this build reads")]
    Version(u16),
    #[error("it needs features {0:#x} that this build does not know")]
    Features(u32),
}

pub(crate) fn damaged(offset: usize, what: &'static str) -> CheckpointError {
    CheckpointError::Damaged { offset: offset as u64, what }
}

/// The header of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CheckpointHeader {
    pub(crate) store_id: [u8; 16],
    /// The last commit in the checkpoint; all earlier ones are in it.
    pub(crate) seq: u64,
    /// The highest version seen up to this commit.
    pub(crate) max_version: u64,
    pub(crate) entries: u64,
    pub(crate) segments: u32,
    pub(crate) segments_at: u64,
    pub(crate) index_at: u64,
    pub(crate) file_len: u64,
    /// Checksum of the segments and the block index.
    pub(crate) index_check: u32,
}

/// A covered segment, with its live records according to the checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Covered {
    pub(crate) id: u32,
    /// The offset up to which records are in the checkpoint.
    pub(crate) len_bytes: u32,
    pub(crate) salt: u64,
    pub(crate) live_records: u64,
    pub(crate) live_bytes: u64,
    pub(crate) tombstone_bytes: u64,
}

impl CheckpointHeader {
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
        put(&[0; 16]);
        put(&self.segments_at.to_le_bytes());
        put(&self.index_at.to_le_bytes());
        put(&self.file_len.to_le_bytes());
        put(&[0; 12]);
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
        let reserved_before: [u8; 16] = reader.array();
        let (segments_at, index_at, file_len) = (reader.u64(), reader.u64(), reader.u64());
        let reserved_behind: [u8; 12] = reader.array();
        let index_check = reader.u32();
        if (reserved_before, reserved_behind) != ([0; 16], [0; 12]) {
            return Err(damaged(64, "reserved bytes that are not zero"));
        }
        let header =
            Self { store_id, seq, max_version, entries, segments, segments_at, index_at, file_len, index_check };
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

    pub(crate) fn decode(bytes: &[u8; SEGMENT_LEN]) -> Self {
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

/// Reads numbers from bytes of checked length; missing bytes are zero.
pub(crate) struct Reader<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let found = self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()).copied();
        self.at += N;
        found.unwrap_or([0; N])
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
}

/// A checkpoint, read in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checkpoint<'a> {
    pub(crate) header: CheckpointHeader,
    bytes: &'a [u8],
    segments: &'a [u8],
    index: &'a [u8],
}

impl<'a> Checkpoint<'a> {
    /// Checks everything but the blocks.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, CheckpointError> {
        let header = CheckpointHeader::decode(bytes)?;
        if header.file_len != bytes.len() as u64 {
            return Err(damaged(bytes.len(), "its length is not the one it gives"));
        }
        let segments = section(bytes, header.segments_at, header.segments.into(), SEGMENT_LEN)?;
        let index = section(bytes, header.index_at, header.blocks(), BLOCK_INDEX_LEN)?;
        let mut check = crc32fast::Hasher::new();
        check.update(segments);
        check.update(index);
        if check.finalize() != header.index_check {
            return Err(damaged(to_usize(header.index_at), "wrong checksum of the segments and the block index"));
        }
        Ok(Self { header, bytes, segments, index })
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
        if crc32fast::hash(bytes) != check && !planted("checkpoint_unverified") {
            return Err(damaged(at, "wrong checksum of a block"));
        }
        let first = number * BLOCK_ENTRIES as u64;
        let count = to_usize(self.header.entries.saturating_sub(first)).min(BLOCK_ENTRIES);
        Ok(Block { bytes, count, at })
    }

    /// The number of the only block that may have `key`: the last one that does not begin above it.
    pub(crate) fn block_of(&self, key: &[u8]) -> Result<u64, CheckpointError> {
        let (mut low, mut high) = (0, self.header.blocks());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.block(middle)?.first_key()? <= key { low = middle + 1 } else { high = middle }
        }
        Ok(low.saturating_sub(1))
    }

    /// Looks a key up in place; if it exists, the cursor is at its entry.
    pub(crate) fn find(&self, key: &[u8], cursor: &mut BlockCursor<'a>) -> Result<bool, CheckpointError> {
        if self.header.entries == 0 {
            return Ok(false);
        }
        let number = self.block_of(key)?;
        cursor.begin(self.block(number)?)?;
        while cursor.advance()? {
            if cursor.key() == key {
                return Ok(true);
            }
        }
        Ok(false)
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
