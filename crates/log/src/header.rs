//! The 64 bytes at the start of every segment.

use crate::error::{DecodeError, Field};

/// The version of the segment format.
pub const FORMAT_VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"HTKVSEG\n";
const CHECK_AT: usize = 60;

/// The kind of writer of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// Written by commits, in commit order.
    Append,
    /// Written by compaction: surviving records in key order, without commits.
    Compacted,
}

/// The header of a segment: its identity, and the base values of its records.
///
/// ```
/// use hightower_log::{SegmentHeader, SegmentKind};
///
/// let header = SegmentHeader {
///     id: 7,
///     kind: SegmentKind::Append,
///     features: 0,
///     salt: 1,
///     base_seq: 100,
///     base_version: 100,
///     base_timestamp: 1_700_000_000_000,
///     created_ms: 1_700_000_000_000,
/// };
/// assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentHeader {
    /// The number of the segment in its store, which is also its file name.
    pub id: u32,
    /// The kind of writer.
    pub kind: SegmentKind,
    /// Feature bits. This version has none, so this is 0.
    pub features: u32,
    /// A random number that every checksum of this segment includes; a new one for each use of a
    /// file.
    pub salt: u64,
    /// The seq of the segment's first commit.
    pub base_seq: u64,
    /// The base of the versions in the records.
    pub base_version: u64,
    /// The base of the timestamps in the records: Unix time in milliseconds.
    pub base_timestamp: i64,
    /// When the segment was created, by the store's clock: Unix time in milliseconds. A segment of
    /// commits has it as its base timestamp too.
    pub created_ms: i64,
}

/// The values of a segment that the bytes of its records depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordContext {
    pub(crate) salt: u64,
    pub(crate) base_version: u64,
    pub(crate) base_timestamp: i64,
}

impl RecordContext {
    /// A context with these three values, for records outside a segment.
    #[must_use]
    pub fn new(salt: u64, base_version: u64, base_timestamp: i64) -> Self {
        Self { salt, base_version, base_timestamp }
    }
}

impl SegmentHeader {
    /// Length of a header, in bytes; the offset of the first record.
    pub const LEN: usize = 64;

    /// The context of this segment's records.
    #[must_use]
    pub fn context(&self) -> RecordContext {
        RecordContext::new(self.salt, self.base_version, self.base_timestamp)
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let kind: u16 = match self.kind {
            SegmentKind::Append => 1,
            SegmentKind::Compacted => 2,
        };
        let mut bytes = [0; Self::LEN];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&kind.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.features.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.salt.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.base_seq.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.base_version.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.base_timestamp.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.created_ms.to_le_bytes());
        bytes[56..60].copy_from_slice(&self.id.to_le_bytes());
        let check = crc32fast::hash(&bytes[..CHECK_AT]);
        bytes[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// Reads a header from the first bytes of a segment.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], [`BadMagic`](DecodeError::BadMagic),
    /// [`UnsupportedVersion`](DecodeError::UnsupportedVersion),
    /// [`UnsupportedFeatures`](DecodeError::UnsupportedFeatures),
    /// [`Checksum`](DecodeError::Checksum), or [`Impossible`](DecodeError::Impossible) for an
    /// invalid field under a valid checksum.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let available = bytes.len() as u64;
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(DecodeError::Truncated { offset: 0, needed: Self::LEN as u64, available });
        };
        let magic = array::<8>(bytes, 0);
        if magic != MAGIC {
            return Err(DecodeError::BadMagic { found: magic });
        }
        // The place of the check is the same in all versions, so that damage and a newer format can
        // be distinguished.
        let expected = crc32fast::hash(&bytes[..CHECK_AT]);
        let found = u32::from_le_bytes(array(bytes, CHECK_AT));
        if expected != found {
            return Err(DecodeError::Checksum { offset: 0, expected, found });
        }
        let version = u16::from_le_bytes(array(bytes, 8));
        if version != FORMAT_VERSION {
            return Err(DecodeError::UnsupportedVersion { found: version, supported: FORMAT_VERSION });
        }
        let features = u32::from_le_bytes(array(bytes, 12));
        if features != 0 {
            return Err(DecodeError::UnsupportedFeatures { found: features });
        }
        let kind = match u16::from_le_bytes(array(bytes, 10)) {
            1 => SegmentKind::Append,
            2 => SegmentKind::Compacted,
            other => return Err(impossible(Field::SegmentKind, "1 or 2", other.into())),
        };
        Ok(Self {
            id: u32::from_le_bytes(array(bytes, 56)),
            kind,
            features,
            salt: u64::from_le_bytes(array(bytes, 16)),
            base_seq: u64::from_le_bytes(array(bytes, 24)),
            base_version: u64::from_le_bytes(array(bytes, 32)),
            base_timestamp: i64::from_le_bytes(array(bytes, 40)),
            created_ms: i64::from_le_bytes(array(bytes, 48)),
        })
    }
}

/// The `N` bytes at `at`, which must be inside the header.
fn array<const N: usize>(bytes: &[u8; SegmentHeader::LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn impossible(field: Field, expected: &'static str, found: u64) -> DecodeError {
    DecodeError::Impossible { offset: 0, field, expected, found }
}
