//! The limits of a table's size.

/// The largest number of segments that a table's entries may point into, 2^24.
///
/// ```
/// assert_eq!(hightower_table::MAX_TABLE_SEGMENTS, 1 << 24);
/// ```
pub const MAX_TABLE_SEGMENTS: usize = 1 << 24;

/// The largest length of a table in bytes, 2^48.
///
/// ```
/// assert_eq!(hightower_table::MAX_TABLE_LEN_BYTES, 1 << 48);
/// ```
pub const MAX_TABLE_LEN_BYTES: u64 = 1 << 48;

/// The limits of one writer; tests set smaller ones to reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableLimits {
    pub(crate) segments: usize,
    pub(crate) len_bytes: u64,
}

impl TableLimits {
    pub(crate) const FORMAT: Self = Self { segments: MAX_TABLE_SEGMENTS, len_bytes: MAX_TABLE_LEN_BYTES };
}
