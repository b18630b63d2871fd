//! The statistics of a follower.

use crate::tables::TableStats;

/// The statistics of a [`Follower`](crate::Follower).
///
/// Example: [`Follower::stats`](crate::Follower::stats).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerStats {
    /// The seqno of the last commit that it shows.
    pub seqno: u64,
    /// When it has last caught up, in Unix milliseconds of its clock: it shows every commit that
    /// the writer had returned by then.
    pub caught_up_ms: i64,
    /// Number of keys with a value: an upper bound.
    pub keys_at_most: u64,
    /// Number of keys with a value: a lower bound.
    pub keys_at_least: u64,
    /// Memory of its memtables in bytes, also of those that only snapshots hold.
    pub index_memory_bytes: u64,
    /// The tables, newest first.
    pub tables: Vec<TableStats>,
    /// Number of segments that the store has.
    pub segments: u64,
    /// Number of segments that the store has removed, and that the follower still keeps: for its
    /// snapshots, or until the writer's next flush.
    pub held_segments: u64,
    /// How often it had to start anew from the tables, because the log between them and its place
    /// was gone, or because its place was lost.
    pub restarts: u64,
    /// How often the store had lost commits that it had shown.
    pub divergences: u64,
}
