//! The 64 bytes at the start of every segment.

use crate::checksum::crc;
use crate::error::{DecodeError, Field};

/// The segment format version that this build writes, and the newest that it reads; it reads all before, too.
pub const FORMAT_VERSION: u16 = 2;

const MAGIC: [u8; 8] = *b"HTKVSEG\n";
const CHECK_AT: usize = 60;

/// How a segment came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SegmentKind {
    /// Written by commits, in commit order.
    Append,
    /// Written by compaction: surviving records in key order, with no commits.
    Compacted,
}

/// What a segment says about itself, and what its records are encoded against.
///
/// ```
/// use hightower_log::{SegmentHeader, SegmentKind};
///
/// let header = SegmentHeader {
///     version: hightower_log::FORMAT_VERSION,
///     id: 7,
///     kind: SegmentKind::Append,
///     features: 0,
///     salt: 1,
///     base_seq: 100,
///     base_version: 100,
///     base_timestamp: 1_700_000_000_000,
/// };
/// assert_eq!(SegmentHeader::decode(&header.encode()), Ok(header));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentHeader {
    /// The format version of the segment: [`FORMAT_VERSION`], or less in one that an earlier build has written.
    pub version: u16,
    /// The number of the segment in its store; the file is named by it.
    pub id: u32,
    /// How the segment came to be.
    pub kind: SegmentKind,
    /// Feature bits; the versions up to now know none, so this is 0.
    pub features: u32,
    /// A random number that makes this segment's checksums its own, drawn anew whenever a file is used again.
    pub salt: u64,
    /// The seq of the segment's first commit.
    pub base_seq: u64,
    /// What versions in the records are counted from.
    pub base_version: u64,
    /// What timestamps in the records are counted from: Unix time in milliseconds.
    pub base_timestamp: i64,
}

/// How the records of a segment are checked: what differs between the versions of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Checks {
    /// Format version 1.
    Crc32,
    /// Format version 2.
    Xxh3,
}

impl Checks {
    #[inline]
    fn of(version: u16) -> Self {
        if version == 1 { Self::Crc32 } else { Self::Xxh3 }
    }
}

/// What a record's bytes depend on besides its command and its offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RecordContext {
    pub(crate) salt: u64,
    pub(crate) base_version: u64,
    pub(crate) base_timestamp: i64,
    pub(crate) checks: Checks,
}

impl RecordContext {
    /// A context of these three numbers in the newest format version, for records that live outside a segment.
    #[must_use]
    pub fn new(salt: u64, base_version: u64, base_timestamp: i64) -> Self {
        Self { salt, base_version, base_timestamp, checks: Checks::of(FORMAT_VERSION) }
    }

    /// The same in an earlier format version, to read what earlier builds have written: records are only encoded in the newest.
    ///
    /// # Errors
    ///
    /// [`DecodeError::UnsupportedVersion`] if this build does not know the version.
    pub fn with_version(self, version: u16) -> Result<Self, DecodeError> {
        check_version(version)?;
        Ok(Self { checks: Checks::of(version), ..self })
    }
}

impl SegmentHeader {
    /// How many bytes a header takes; the first record starts there.
    pub const LEN: usize = 64;

    /// What this segment's records are encoded against.
    #[must_use]
    pub fn context(&self) -> RecordContext {
        RecordContext {
            salt: self.salt,
            base_version: self.base_version,
            base_timestamp: self.base_timestamp,
            checks: Checks::of(self.version),
        }
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
        bytes[8..10].copy_from_slice(&self.version.to_le_bytes());
        bytes[10..12].copy_from_slice(&64_u16.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.features.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.id.to_le_bytes());
        bytes[20..22].copy_from_slice(&kind.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.base_seq.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.base_version.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.base_timestamp.to_le_bytes());
        let check = crc(0, &bytes[..CHECK_AT]);
        bytes[CHECK_AT..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// The format version that the first bytes of a segment say, if this build knows it, whatever else is wrong with them: for salvaging.
    #[must_use]
    pub fn decode_version(bytes: &[u8]) -> Option<u16> {
        let version = u16::from_le_bytes(*bytes.get(8..)?.first_chunk()?);
        check_version(version).ok().map(|()| version)
    }

    /// Reads a header from the first bytes of a segment.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`], [`BadMagic`](DecodeError::BadMagic), [`UnsupportedVersion`](DecodeError::UnsupportedVersion),
    /// [`UnsupportedFeatures`](DecodeError::UnsupportedFeatures), [`Checksum`](DecodeError::Checksum), or
    /// [`Impossible`](DecodeError::Impossible) where the checksum fits but a field does not.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let available = bytes.len() as u64;
        let Some(bytes) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(DecodeError::Truncated { offset: 0, needed: Self::LEN as u64, available });
        };
        let magic = array::<8>(bytes, 0);
        if magic != MAGIC {
            return Err(DecodeError::BadMagic { found: magic });
        }
        // The place of the check is promised to all versions, so that damage is told from a newer format.
        let expected = crc(0, &bytes[..CHECK_AT]);
        let found = u32::from_le_bytes(array(bytes, CHECK_AT));
        if expected != found {
            return Err(DecodeError::Checksum { offset: 0, expected, found });
        }
        let version = u16::from_le_bytes(array(bytes, 8));
        check_version(version)?;
        let features = u32::from_le_bytes(array(bytes, 12));
        if features != 0 {
            return Err(DecodeError::UnsupportedFeatures { found: features });
        }
        let header_len = u16::from_le_bytes(array(bytes, 10));
        if usize::from(header_len) != Self::LEN {
            return Err(impossible(Field::HeaderLength, "64", header_len.into()));
        }
        let kind = match u16::from_le_bytes(array(bytes, 20)) {
            1 => SegmentKind::Append,
            2 => SegmentKind::Compacted,
            other => return Err(impossible(Field::SegmentKind, "1 or 2", other.into())),
        };
        let reserved =
            u64::from(u16::from_le_bytes(array(bytes, 22))) | u64::from(u32::from_le_bytes(array(bytes, 56)));
        if reserved != 0 {
            return Err(impossible(Field::Reserved, "0", reserved));
        }
        Ok(Self {
            version,
            id: u32::from_le_bytes(array(bytes, 16)),
            kind,
            features,
            salt: u64::from_le_bytes(array(bytes, 24)),
            base_seq: u64::from_le_bytes(array(bytes, 32)),
            base_version: u64::from_le_bytes(array(bytes, 40)),
            base_timestamp: i64::from_le_bytes(array(bytes, 48)),
        })
    }
}

/// Versions are counted from 1.
fn check_version(version: u16) -> Result<(), DecodeError> {
    if (1..=FORMAT_VERSION).contains(&version) {
        return Ok(());
    }
    Err(DecodeError::UnsupportedVersion { found: version, supported: FORMAT_VERSION })
}

/// The `N` bytes at `at`; only called with places inside the header.
fn array<const N: usize>(bytes: &[u8; SegmentHeader::LEN], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn impossible(field: Field, expected: &'static str, found: u64) -> DecodeError {
    DecodeError::Impossible { offset: 0, field, expected, found }
}
