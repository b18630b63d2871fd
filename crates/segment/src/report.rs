//! The report of an open.

use hightower_log::{DecodeError, SegmentKind};

use crate::error::SegmentError;

/// The findings and actions of an open.
#[derive(Debug, Default)]
pub struct RecoveryReport {
    /// Whether this open created the store.
    pub created: bool,
    /// Whether the last writer ended without a close: by a crash, a kill, or a failure.
    pub unclean: bool,
    /// The found generation of the manifest.
    pub generation: u64,
    /// The live and the dropped segments, by ascending id.
    pub segments: Vec<SegmentReport>,
    /// Files that the manifest does not name. Removed, unless the store was opened read-only.
    pub garbage: Vec<String>,
    /// The highest version in the manifest and in unsealed segments. Sealed segments have no higher
    /// one.
    pub max_version: u64,
    /// The store never assigned a version above this one, not even to a commit lost in the crash.
    /// Equal to `max_version` after a clean close.
    pub version_floor: u64,
    /// The damage of a retained segment, if there is any. The history begins behind that segment.
    pub history_damage: Option<SegmentError>,
    /// Damage that a salvaging open skipped; otherwise empty.
    pub damage: Vec<SegmentError>,
}

/// The report on one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its id.
    pub id: u32,
    /// Its kind of writer.
    pub kind: SegmentKind,
    /// The action on it.
    pub outcome: SegmentOutcome,
    /// Number of its commands.
    pub records: u64,
    /// Length of its valid part, header included, in bytes.
    pub len_bytes: u32,
    /// Number of dropped bytes behind it that looked like records.
    pub dropped_bytes: u32,
    /// The reason for the end of the valid part, if bytes were dropped.
    pub reason: Option<DecodeError>,
}

/// The action on a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentOutcome {
    /// It was sealed, and is used unchanged.
    Sealed,
    /// It was not sealed; its valid part is sealed now.
    Recovered,
    /// It was not sealed and has no valid part.
    Dropped,
}

impl RecoveryReport {
    /// The report on the segment with this id.
    #[must_use]
    pub fn segment(&self, id: u32) -> Option<&SegmentReport> {
        let at = self.segments.binary_search_by_key(&id, |segment| segment.id).ok()?;
        self.segments.get(at)
    }

    /// Number of commands in the live segments.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }

    /// Number of dropped bytes of records, which were not durable when the last writer ended.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.dropped_bytes)).sum()
    }
}
