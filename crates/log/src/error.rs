//! Errors of decoding bytes and of encoding commands.

use std::fmt;

use thiserror::Error;

/// The part of a record or header in an error.
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
    /// The durable offset of the segment at the write of the record.
    Durable,
    /// The flags of the record.
    Flags,
    /// The widths of the record's integers.
    Widths,
    /// The kind of the segment.
    SegmentKind,
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
            Self::SegmentKind => "segment kind",
        })
    }
}

/// The error of bytes that are not a record or a segment header, with the offset in the segment,
/// the expected and the found value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes end before the record or header does.
    #[error("offset {offset}: truncated: {needed} bytes expected, {available} found")]
    Truncated {
        /// The offset of the record in its segment.
        offset: u32,
        /// The length of the record, in bytes, as far as it is known.
        needed: u64,
        /// The number of available bytes.
        available: u64,
    },
    /// The kind of the record is 0: the place was never written.
    #[error("offset {offset}: no record: a record kind expected, 0 found")]
    NoRecord {
        /// The offset of the place.
        offset: u32,
    },
    /// A kind that this format version does not know.
    #[error("offset {offset}: unknown record kind: 1 to 3 expected, {found} found")]
    UnknownKind {
        /// The offset of the record in its segment.
        offset: u32,
        /// The found kind.
        found: u8,
    },
    /// A field is out of range, or longer than necessary.
    #[error("offset {offset}: impossible {field}: {expected} expected, {found} found")]
    Impossible {
        /// The offset of the record in its segment.
        offset: u32,
        /// The field.
        field: Field,
        /// The allowed values.
        expected: &'static str,
        /// The found value.
        found: u64,
    },
    /// The checksum does not fit the bytes, the offset or the segment.
    #[error("offset {offset}: wrong checksum: {expected:#010x} expected, {found:#010x} found")]
    Checksum {
        /// The offset of the record in its segment.
        offset: u32,
        /// The computed checksum of the bytes.
        expected: u32,
        /// The stored checksum.
        found: u32,
    },
    /// The bytes do not begin with the magic of a segment.
    #[error("not a segment: the magic bytes \"HTKVSEG\\n\" expected, {found:02x?} found")]
    BadMagic {
        /// The first eight bytes.
        found: [u8; 8],
    },
    /// The segment has an unknown format version, usually a later one.
    #[error("segment format version {found} is unknown: this build reads versions 1 to {supported}; use a newer build")]
    UnsupportedVersion {
        /// The version in the header.
        found: u16,
        /// The newest version that this build reads.
        supported: u16,
    },
    /// The segment uses features that this build does not know.
    #[error("segment needs features {found:#010x} that this build does not know: use a newer build")]
    UnsupportedFeatures {
        /// The unknown feature bits.
        found: u32,
    },
}

/// The error of a command that cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The key has no bytes.
    #[error("the key is empty: a key has 1 to 65,535 bytes")]
    EmptyKey,
    /// The key is longer than [`MAX_KEY_LEN_BYTES`](crate::limits::MAX_KEY_LEN_BYTES).
    #[error("the key has {len_bytes} bytes: a key has 1 to 65,535")]
    KeyTooLong {
        /// The length, in bytes.
        len_bytes: usize,
    },
    /// The value is longer than [`MAX_VALUE_LEN_BYTES`](crate::limits::MAX_VALUE_LEN_BYTES).
    #[error("the value has {len_bytes} bytes: a value has at most 1,073,741,824")]
    ValueTooLong {
        /// The length, in bytes.
        len_bytes: usize,
    },
    /// The record would reach beyond the last offset of a segment.
    #[error("a record of {len_bytes} bytes at offset {offset} reaches beyond the largest segment")]
    BeyondSegment {
        /// The offset of the record.
        offset: u32,
        /// The length of the record, in bytes.
        len_bytes: usize,
    },
    /// The durable offset of the record is behind the record's own offset.
    #[error("a record at offset {offset} cannot know {durable} bytes to be durable")]
    DurableBeyondRecord {
        /// The offset of the record.
        offset: u32,
        /// The durable offset.
        durable: u32,
    },
}
