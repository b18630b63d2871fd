//! The facts that compaction knows of a segment before it reads it.

use std::time::Duration;

use hightower_log::SegmentKind;

/// A segment in numbers. The engine keeps them exactly, and rebuilds them at open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentUsage {
    /// The number of the segment. Segments that commits write get ascending ones in commit order.
    pub id: u32,
    /// Its kind of writer.
    pub kind: SegmentKind,
    /// Whether it is complete and durable; others are never touched.
    pub is_sealed: bool,
    /// For one that commits wrote: the seq of its first commit, or any number between that and the
    /// last seq before it. For one that compaction wrote: a seq above those of all commits that its
    /// records come from.
    pub base_seq: u64,
    /// How long its header and records are.
    pub len_bytes: u64,
    /// How many records it holds. Of one that is not sealed, no more is asked than that it is not
    /// below the truth.
    pub records: u64,
    /// How many of these are the newest command of their key, tombstones included.
    pub live_records: u64,
    /// How long those are together.
    pub live_bytes: u64,
    /// How many of the other records some snapshot still reads.
    pub retained_records: u64,
    /// How long those of the live records are together that are tombstones whose grace has passed
    /// and that no snapshot needs. Told too high, segments are rewritten in vain.
    pub expired_tombstone_bytes: u64,
    /// How long ago it was begun.
    pub age: Duration,
}

impl SegmentUsage {
    /// Records that are not the newest command of their key.
    #[must_use]
    pub fn dead_records(&self) -> u64 {
        self.records.saturating_sub(self.live_records)
    }

    /// Bytes of records that neither the state nor a snapshot needs. Those that snapshots need are
    /// taken out in proportion.
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

    /// Whether nothing in it is needed by anybody: it may go without being read.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.is_sealed && self.live_records == 0 && self.retained_records == 0
    }
}

/// The goal of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Goal {
    /// Keep the log's garbage within bounds at little cost.
    Background,
    /// Free all that can be freed.
    Full,
}
