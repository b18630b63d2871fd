//! How much a state holds, and what snapshots make it keep.

use std::time::Duration;

/// Counts of a [`ConcurrentKvState`](crate::ConcurrentKvState) at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateStats {
    /// Keys that are there.
    pub live_keys: usize,
    /// Keys whose newest command is a delete.
    pub tombstones: usize,
    /// The bytes of keys, entries and index.
    pub index_bytes: usize,
    /// Old versions that are kept for snapshots, or that wait to be dropped.
    pub retained_versions: usize,
    /// The bytes that old versions and the lists of them take.
    pub retained_bytes: usize,
    /// Snapshots that are alive. A reader that meets a commit in flight counts for the moment that
    /// it takes.
    pub snapshots: usize,
    /// The oldest of them.
    pub oldest_snapshot: Option<SnapshotAge>,
    /// The seq of the newest published commit.
    pub visible_seq: u64,
    /// The highest version that was ever applied.
    pub max_version: u64,
}

/// How old a snapshot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotAge {
    /// The seq that it reads at.
    pub seq: u64,
    /// The time since it was taken, by the state's clock, to the millisecond.
    pub age: Duration,
}
