//! How large a table may be.

/// Into how many segments a table's entries may point, 2^24.
///
/// ```
/// assert_eq!(hightower_table::MAX_TABLE_SEGMENTS, 1 << 24);
/// ```
pub const MAX_TABLE_SEGMENTS: usize = 1 << 24;

/// How long a table may be, in bytes: 2^48.
///
/// ```
/// assert_eq!(hightower_table::MAX_TABLE_LEN_BYTES, 1 << 48);
/// ```
pub const MAX_TABLE_LEN_BYTES: u64 = 1 << 48;

/// What one writer keeps to: smaller limits let tests reach them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableLimits {
    pub(crate) segments: usize,
    pub(crate) len_bytes: u64,
}

impl TableLimits {
    pub(crate) const FORMAT: Self = Self { segments: MAX_TABLE_SEGMENTS, len_bytes: MAX_TABLE_LEN_BYTES };
}
