//! Errors of decoding bytes and of encoding commands.

use std::fmt;

use thiserror::Error;

/// The part of a record or header that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// The length of the key.
    KeyLength,
    /// The length of the value.
    ValueLength,
    /// The version of the command.
    Version,
    /// The timestamp of the command.
    Timestamp,
    /// How far the segment was durable when the record was written.
    Durable,
    /// The flags of the record.
    Flags,
    /// The widths of the record's integers.
    Widths,
    /// The length of the segment header.
    HeaderLength,
    /// The kind of the segment.
    SegmentKind,
    /// Bytes that must be zero.
    Reserved,
}

impl fmt::Display for Field {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::KeyLength => "key length",
            Self::ValueLength => "value length",
            Self::Version => "version",
            Self::Timestamp => "timestamp",
            Self::Durable => "durable offset",
            Self::Flags => "flags",
            Self::Widths => "widths",
            Self::HeaderLength => "header length",
            Self::SegmentKind => "segment kind",
            Self::Reserved => "reserved bytes",
        })
    }
}

/// Why bytes are not a record or a segment header: what, where (offset in the segment), expected
/// and found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the record or header does.
    #[error("offset {offset}: cut short: {needed} bytes expected, {available} found")]
    Truncated {
        /// Where the record starts in its segment.
        offset: u32,
        /// How many bytes it takes, as far as could be told.
        needed: u64,
        /// How many there are.
        available: u64,
    },
    /// A zero where the kind of a record stands: nothing was ever written here.
    #[error("offset {offset}: no record: a record kind expected, 0 found")]
    NoRecord {
        /// Where a record would start.
        offset: u32,
    },
    /// A kind that this format version does not know.
    #[error("offset {offset}: unknown record kind: 1 to 3 expected, {found} found")]
    UnknownKind {
        /// Where the record starts in its segment.
        offset: u32,
        /// The kind that stands there.
        found: u8,
    },
    /// A field is out of range, or longer than necessary.
    #[error("offset {offset}: impossible {field}: {expected} expected, {found} found")]
    Impossible {
        /// Where the record starts in its segment.
        offset: u32,
        /// Which field.
        field: Field,
        /// The values that it may hold.
        expected: &'static str,
        /// The value that it holds.
        found: u64,
    },
    /// The checksum does not fit the bytes, the offset or the segment.
    #[error("offset {offset}: wrong checksum: {expected:#010x} expected, {found:#010x} found")]
    Checksum {
        /// Where the record starts in its segment.
        offset: u32,
        /// The checksum of the bytes that are there.
        expected: u32,
        /// The checksum that stands in the record.
        found: u32,
    },
    /// The bytes do not begin as a segment does.
    #[error("not a segment: the magic bytes \"HTKVSEG\\n\" expected, {found:02x?} found")]
    BadMagic {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// The segment was written in a format version that this build does not know: a later one, as a
    /// rule.
    #[error("segment format version {found} is not among 1 to {supported}, which this build reads: use a newer build")]
    UnsupportedVersion {
        /// The version that stands in the header.
        found: u16,
        /// The newest version that this build reads.
        supported: u16,
    },
    /// The segment uses features that this build does not know.
    #[error("segment needs features {found:#010x} that this build does not know: use a newer build")]
    UnsupportedFeatures {
        /// The feature bits that are unknown.
        found: u32,
    },
}

/// Why a command cannot become a record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The key has no bytes.
    #[error("the key is empty: a key has 1 to 65,535 bytes")]
    EmptyKey,
    /// The key is longer than [`MAX_KEY_LEN_BYTES`](crate::limits::MAX_KEY_LEN_BYTES).
    #[error("the key has {len_bytes} bytes: a key has 1 to 65,535")]
    KeyTooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// The value is longer than [`MAX_VALUE_LEN_BYTES`](crate::limits::MAX_VALUE_LEN_BYTES).
    #[error("the value has {len_bytes} bytes: a value has at most 1,073,741,824")]
    ValueTooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// The record would reach beyond the last offset of a segment.
    #[error("a record of {len_bytes} bytes at offset {offset} reaches beyond the largest segment")]
    BeyondSegment {
        /// Where it would start.
        offset: u32,
        /// How long it is.
        len_bytes: usize,
    },
    /// The record claims that bytes behind its own start were durable before it was written.
    #[error("a record at offset {offset} cannot know {durable} bytes to be durable")]
    DurableBeyondRecord {
        /// Where it would start.
        offset: u32,
        /// The length that it claims.
        durable: u32,
    },
}
