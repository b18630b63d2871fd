//! The figures of a segment that compaction uses before it reads the segment.

use std::time::Duration;

use hightower_log::SegmentKind;

/// The figures of a segment. The engine keeps them exact, and rebuilds them at open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentUsage {
    /// The number of the segment. Segments of commits have ascending numbers in commit order.
    pub id: u32,
    /// Its kind of writer.
    pub kind: SegmentKind,
    /// Whether the segment is complete and durable. Compaction never touches other segments.
    pub is_sealed: bool,
    /// For a segment of commits: the seq of its first commit, or any number between that and the
    /// last seq before it. For an output of compaction: a seq above those of the commits of all its
    /// records.
    pub base_seq: u64,
    /// Length of its header and records, in bytes.
    pub len_bytes: u64,
    /// Number of its records. For an unsealed segment an upper bound is enough.
    pub records: u64,
    /// Number of records that are the newest command of their key, tombstones included.
    pub live_records: u64,
    /// Total length of those records, in bytes.
    pub live_bytes: u64,
    /// Number of other records that a snapshot still needs.
    pub retained_records: u64,
    /// Total length of live tombstones whose grace is over and that no snapshot needs, in bytes.
    /// Too high a value causes useless rewrites.
    pub expired_tombstone_bytes: u64,
    /// Time since its creation.
    pub age: Duration,
}

impl SegmentUsage {
    /// Records that are not the newest command of their key.
    #[must_use]
    pub fn dead_records(&self) -> u64 {
        self.records.saturating_sub(self.live_records)
    }

    /// Bytes of records that neither the state nor a snapshot needs. Records for snapshots are
    /// subtracted in proportion.
    #[must_use]
    pub fn dead_bytes(&self) -> u64 {
        let dead_records = self.dead_records();
        let free = dead_records.saturating_sub(self.retained_records);
        if free == 0 {
            return 0;
        }
        let dead_bytes = self.len_bytes.saturating_sub(self.live_bytes);
        let share = u128::from(dead_bytes) * u128::from(free) / u128::from(dead_records);
        u64::try_from(share).unwrap_or(dead_bytes)
    }

    /// Whether no record is needed, so that the segment can be removed without a read.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.is_sealed && self.live_records == 0 && self.retained_records == 0
    }
}

/// The goal of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Goal {
    /// Keep the log's garbage within bounds at low cost.
    Background,
    /// Free all that can be freed.
    Full,
}
