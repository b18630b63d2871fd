//! The entry of a key in a table.

/// The place of a record.
///
/// ```
/// use hightower_table::RecordPointer;
///
/// let pointer = RecordPointer { segment: 7, offset: 64 };
/// assert!(pointer < RecordPointer { segment: 8, offset: 0 });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPointer {
    /// The number of the segment.
    pub segment: u32,
    /// The offset of the record in the segment, in bytes.
    pub offset: u32,
}

/// Whether a key has a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EntryKind {
    /// The record holds a value.
    #[default]
    Set,
    /// The record says that the key was deleted.
    Tombstone,
}

/// The entry of a key: its newest command, and the place of that command's record.
///
/// ```
/// use hightower_table::{EntryKind, RecordPointer, TableEntry};
///
/// let entry = TableEntry {
///     version: 3,
///     kind: EntryKind::Set,
///     pointer: RecordPointer { segment: 1, offset: 64 },
///     len_bytes: 130,
/// };
/// assert!(!entry.is_tombstone());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TableEntry {
    /// The version of the command.
    pub version: u64,
    /// Whether the command set or deleted the key.
    pub kind: EntryKind,
    /// The place of the record.
    pub pointer: RecordPointer,
    /// The length of the record in bytes.
    pub len_bytes: u32,
}

impl TableEntry {
    /// Whether the key was deleted.
    ///
    /// ```
    /// use hightower_table::{EntryKind, TableEntry};
    /// assert!(TableEntry { kind: EntryKind::Tombstone, ..TableEntry::default() }.is_tombstone());
    /// ```
    #[must_use]
    pub fn is_tombstone(&self) -> bool {
        self.kind == EntryKind::Tombstone
    }
}

/// The counts of a table's entries that point into one segment. The engine derives from them the
/// dead records and bytes.
///
/// ```
/// use hightower_table::SegmentCounts;
///
/// let counts = SegmentCounts { segment: 1, entries: 2, len_bytes: 260, tombstones: 1 };
/// assert!(counts.tombstones <= counts.entries);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SegmentCounts {
    /// The number of the segment.
    pub segment: u32,
    /// The number of entries that point into it, including tombstones.
    pub entries: u64,
    /// The sum of the lengths of their records, in bytes.
    pub len_bytes: u64,
    /// The number of these entries that are tombstones.
    pub tombstones: u64,
}

impl SegmentCounts {
    pub(crate) fn add(&mut self, entry: &TableEntry) {
        self.entries += 1;
        self.len_bytes += u64::from(entry.len_bytes);
        self.tombstones += u64::from(entry.is_tombstone());
    }
}
