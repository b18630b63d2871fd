//! What opening a store found and did.

use hightower_log::{DecodeError, SegmentKind};

use crate::error::SegmentError;

/// What opening a store found and did.
#[derive(Debug, Default)]
pub struct RecoveryReport {
    /// Whether the store was made by this open.
    pub created: bool,
    /// Whether the last writer ended without closing: by a crash, a kill, or a failure.
    pub unclean: bool,
    /// The manifest's generation that was found.
    pub generation: u64,
    /// The live segments, by ascending id, with those that were dropped.
    pub segments: Vec<SegmentReport>,
    /// Files that the manifest does not name. Removed, unless the store was opened read-only.
    pub garbage: Vec<String>,
    /// The checkpoint that the manifest names, if its file is there.
    pub checkpoint: Option<String>,
    /// The checkpoint that the manifest names and that is not there. It can be built anew from the
    /// log.
    pub missing_checkpoint: Option<String>,
    /// The highest version known from the manifest and from the segments that were not sealed.
    /// Sealed segments may hold no higher one.
    pub max_version: u64,
    /// A version above this was never handed out by counting, not even to a commit that the crash
    /// has undone. Equal to `max_version` after a clean close.
    pub version_floor: u64,
    /// Damage that a salvaging open has stepped over; empty in all other cases.
    pub damage: Vec<SegmentError>,
}

/// What was found of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its id.
    pub id: u32,
    /// How it came to be.
    pub kind: SegmentKind,
    /// What was done with it.
    pub outcome: SegmentOutcome,
    /// How many commands it holds.
    pub records: u64,
    /// How long its valid part is, header included.
    pub len_bytes: u32,
    /// How many bytes behind it looked like records and were dropped.
    pub dropped_bytes: u32,
    /// Why reading stopped, if bytes were dropped.
    pub reason: Option<DecodeError>,
}

/// What was done with a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentOutcome {
    /// It was sealed before, and is used as it is.
    Sealed,
    /// It was not sealed; its valid part counts, and is sealed now.
    Recovered,
    /// It was not sealed and nothing in it counts.
    Dropped,
}

impl RecoveryReport {
    /// What was found of the segment with this id.
    #[must_use]
    pub fn segment(&self, id: u32) -> Option<&SegmentReport> {
        let at = self.segments.binary_search_by_key(&id, |segment| segment.id).ok()?;
        self.segments.get(at)
    }

    /// How many commands the live segments hold.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.segments.iter().map(|segment| segment.records).sum()
    }

    /// How many bytes of records were dropped because they were not durable when the last writer
    /// ended.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| u64::from(segment.dropped_bytes)).sum()
    }
}
