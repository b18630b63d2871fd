//! What a table knows of a key.

/// Where a record lies.
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
    /// Where in the segment the record begins, in bytes.
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

/// What a table knows of a key: its newest command, and where the record of that is.
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
    /// What the command did.
    pub kind: EntryKind,
    /// Where the record is.
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

/// What points into one segment: from these the engine derives dead records and bytes.
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
    /// How many entries point into it, tombstones among them.
    pub entries: u64,
    /// The length of their records in bytes, in all.
    pub len_bytes: u64,
    /// How many of the entries are tombstones.
    pub tombstones: u64,
}

impl SegmentCounts {
    pub(crate) fn add(&mut self, entry: &TableEntry) {
        self.entries += 1;
        self.len_bytes += u64::from(entry.len_bytes);
        self.tombstones += u64::from(entry.is_tombstone());
    }
}
