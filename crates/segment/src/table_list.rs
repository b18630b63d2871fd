//! The tables that a manifest names, and the position up to which they cover the log.

use hightower_log::SegmentKind;

use crate::manifest_reader::{ManifestError, ManifestReader};
use crate::names::table_name;

/// The length of the covered position in the manifest.
pub(crate) const COVERED_LEN_BYTES: usize = 24;
/// The length of a table's row in the manifest.
pub(crate) const ROW_LEN_BYTES: usize = 24;

/// The tables of a store, and the position up to which they cover the log.
///
/// ```
/// use hightower_segment::{NamedTable, NamedTables};
///
/// let tables = NamedTables::default();
/// assert_eq!(tables.newest_first, [] as [NamedTable; 0]);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamedTables {
    /// The tables, newest first. The first table that has a key has its newest command.
    pub newest_first: Vec<NamedTable>,
    /// The position up to which they cover the log together; all zeros without tables.
    pub covered: CoveredPosition,
}

/// A table that the manifest names: id, salt and length together identify its file.
///
/// ```
/// use hightower_segment::NamedTable;
///
/// assert_eq!(NamedTable { id: 7, salt: 1, len_bytes: 1024 }.file_name(), "0000000007.tbl");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedTable {
    /// Its id, which is also the file name. Ids are never used again.
    pub id: u32,
    /// Its salt, as in its header.
    pub salt: u64,
    /// The length of its file.
    pub len_bytes: u64,
}

impl NamedTable {
    /// The name of its file.
    ///
    /// Example: [`NamedTable`].
    #[must_use]
    pub fn file_name(&self) -> String {
        table_name(self.id)
    }
}

/// The position up to which tables cover the log. Each record before it is in a table or older than
/// a table's entry for its key, and is durable.
///
/// ```
/// use hightower_log::SegmentKind;
/// use hightower_segment::CoveredPosition;
///
/// let covered = CoveredPosition { segment: 3, offset: 500, next_seq: 9, compacted_below: 5 };
/// assert_eq!(covered.end_in(2, SegmentKind::Append), u32::MAX);
/// assert_eq!(covered.end_in(3, SegmentKind::Append), 500);
/// assert_eq!(covered.end_in(4, SegmentKind::Append), 0);
/// assert_eq!(covered.end_in(4, SegmentKind::Compacted), u32::MAX);
/// assert_eq!(covered.end_in(5, SegmentKind::Compacted), 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoveredPosition {
    /// The segment that was active. Commit segments with lower ids are covered completely.
    pub segment: u32,
    /// The offset in that segment up to which it is covered, in bytes.
    pub offset: u32,
    /// Commits before this one are covered.
    pub next_seq: u64,
    /// Compacted segments with ids below this one are covered completely, later ones not at all.
    pub compacted_below: u32,
}

impl CoveredPosition {
    /// The offset in this segment up to which all records are covered: 0 if none are, `u32::MAX` if
    /// all are.
    ///
    /// Example: [`CoveredPosition`].
    #[must_use]
    pub fn end_in(&self, id: u32, kind: SegmentKind) -> u32 {
        let is_whole = match kind {
            SegmentKind::Append => id < self.segment,
            SegmentKind::Compacted => id < self.compacted_below,
        };
        match (is_whole, kind) {
            (true, _) => u32::MAX,
            (false, SegmentKind::Append) if id == self.segment => self.offset,
            (false, _) => 0,
        }
    }
}

impl NamedTables {
    /// The length of the tables' rows in the manifest.
    pub(crate) fn rows_len(&self) -> usize {
        self.newest_first.len() * ROW_LEN_BYTES
    }

    /// An id above the ids of all tables.
    pub(crate) fn next_id(&self) -> u32 {
        self.newest_first.iter().map(|table| table.id).max().map_or(1, |id| id.saturating_add(1))
    }

    pub(crate) fn encode(&self, bytes: &mut Vec<u8>) {
        let CoveredPosition { segment, offset, next_seq, compacted_below } = self.covered;
        bytes.extend_from_slice(&segment.to_le_bytes());
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&next_seq.to_le_bytes());
        bytes.extend_from_slice(&compacted_below.to_le_bytes());
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        for NamedTable { id, salt, len_bytes } in &self.newest_first {
            bytes.extend_from_slice(&id.to_le_bytes());
            bytes.extend_from_slice(&0_u32.to_le_bytes());
            bytes.extend_from_slice(&salt.to_le_bytes());
            bytes.extend_from_slice(&len_bytes.to_le_bytes());
        }
    }

    /// Reads the covered position and the rows of `count` tables. Allocates no more than the length
    /// of the rows.
    pub(crate) fn decode(reader: &mut ManifestReader<'_>, count: usize) -> Result<Self, ManifestError> {
        let (segment, offset, next_seq) = (reader.u32()?, reader.u32()?, reader.u64()?);
        let (compacted_below, mut reserved) = (reader.u32()?, reader.u32()?);
        let mut newest_first = Vec::new();
        for _ in 0..count {
            let id = reader.u32()?;
            reserved |= reader.u32()?;
            newest_first.push(NamedTable { id, salt: reader.u64()?, len_bytes: reader.u64()? });
        }
        if reserved != 0 {
            return Err(reader.damaged("reserved bytes that are not zero"));
        }
        Ok(Self { newest_first, covered: CoveredPosition { segment, offset, next_seq, compacted_below } })
    }
}
