//! Lengths that the files of a store have in common.

use hightower_log::{MAX_HEAD_LEN_BYTES, SegmentHeader};

/// The offset of the first record.
#[allow(clippy::cast_possible_truncation, reason = "64")]
pub(crate) const FIRST_RECORD_AT: u32 = SegmentHeader::LEN as u32;
/// Room for the record that ends a segment.
#[allow(clippy::cast_possible_truncation, reason = "34")]
pub(crate) const SEAL_LEN_BYTES: u32 = MAX_HEAD_LEN_BYTES as u32;
/// Bytes of a segment besides its commits.
pub(crate) const OVERHEAD_BYTES: u32 = FIRST_RECORD_AT + SEAL_LEN_BYTES;
/// The minimum length of a commit, so that seqs cannot run out within a segment. No record is
/// shorter: a head with the narrowest numbers, and one byte of key.
pub(crate) const SHORTEST_COMMIT_BYTES: u32 = 16;
/// The unit in which file systems allocate room.
pub(crate) const BLOCK_LEN_BYTES: u64 = 4096;
/// The minimum length of a segment, even on the smallest device.
pub(crate) const SHORT_LEN_BYTES: u32 = 16 << 10;

/// The maximum number of seqs that a segment of this size can assign.
pub(crate) fn seq_span(capacity_bytes: u32) -> u64 {
    u64::from(capacity_bytes / SHORTEST_COMMIT_BYTES) + 1
}

/// An offset in a mapping as `u32`: no mapping of a segment is longer than `u32::MAX`.
pub(crate) fn to_offset(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
