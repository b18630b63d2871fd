//! Counts of a state's keys, bytes and snapshots.

use std::time::Duration;

/// Counts of a [`ConcurrentKvState`](crate::ConcurrentKvState) at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateStats {
    /// Number of existing keys.
    pub live_keys: usize,
    /// Number of keys whose newest command is a delete.
    pub tombstones: usize,
    /// The bytes of keys, entries and index.
    pub index_bytes: usize,
    /// Number of old versions that are kept for snapshots or wait to be dropped.
    pub retained_versions: usize,
    /// The bytes of old versions and of the lists of them.
    pub retained_bytes: usize,
    /// Number of live snapshots, including short ones that reads take when they meet a commit in
    /// flight.
    pub snapshots: usize,
    /// The oldest live snapshot.
    pub oldest_snapshot: Option<SnapshotAge>,
    /// The seq of the newest published commit.
    pub visible_seq: u64,
    /// The highest version that was ever applied.
    pub max_version: u64,
}

/// The age of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotAge {
    /// The seq at which it reads.
    pub seq: u64,
    /// The time since it was taken, by the state's clock, to the millisecond.
    pub age: Duration,
}
