//! Statistics of a store.

use std::time::Duration;

use hightower_log::SegmentKind;
use hightower_segment::AppendMode;
use hightower_state::StateStats;

use crate::commit_log::CommitLock;
use crate::compaction::CompactionStats;
use crate::feed::{FeedHub, FeedStats};
use crate::guarded::Panics;
use crate::maintenance::Maintenance;
use crate::memory_budget::{IndexMemoryStats, MemoryBudget};
use crate::observe::{CALLBACKS, INSTRUMENTS};
use crate::open_index::numbers;
use crate::open_store::OpenStore;
use crate::read_path::ReadPath;
use crate::sync_path::SyncPath;
use crate::table::Tracked;
use crate::tables::{TableStats, Tables};
use crate::transaction::counters::{TransactionCounters, TransactionStats};

/// How records reach the active segment of an open store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendPath {
    /// Through a writable map.
    Mapped,
    /// By positioned writes.
    Positioned,
    /// Never: the store is open for reading only.
    None,
}

/// Statistics of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentStats {
    /// The id of the segment, which names its file.
    pub id: u32,
    /// Whether compaction wrote it.
    pub is_compacted: bool,
    /// Whether the segment is complete, durable and immutable.
    pub is_sealed: bool,
    /// Length of its header and records.
    pub len_bytes: u64,
    /// Disk space of its file, used or not.
    pub capacity_bytes: u64,
    /// Bytes of records that are the latest of their key, tombstones included. An upper bound: a
    /// record whose key is in several levels counts as live until these are merged.
    pub live_bytes: u64,
    /// Bytes of overtaken records and of the header; a lower bound, as for
    /// [`live_bytes`](Self::live_bytes).
    pub dead_bytes: u64,
    /// Number of records that are the latest of their key, tombstones included; an upper bound.
    pub live_records: u64,
    /// Number of overtaken records; a lower bound.
    pub dead_records: u64,
    /// Time of the segment's creation, Unix milliseconds; for an output of compaction, about the
    /// time of its oldest record.
    pub created_ms: i64,
}

/// Statistics of a store, from [`SingleNodeEngine::stats`](crate::SingleNodeEngine::stats). Cheap:
/// no file is read. A closed store returns its last statistics, with 0 bytes of index; memory of
/// the index that snapshots still hold is not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Number of keys with a value, in all keyspaces. An upper bound if several levels have keys,
    /// because a key may be in more than one; [`keys_at_least`](Self::keys_at_least) is then the
    /// lower bound, and [`SingleNodeEngine::len`](crate::SingleNodeEngine::len) counts.
    pub keys: u64,
    /// A lower bound of the number of keys with a value; equal to [`keys`](Self::keys) if that is
    /// exact.
    pub keys_at_least: u64,
    /// Number of retained tombstones: an upper bound, like [`keys`](Self::keys).
    pub tombstones: u64,
    /// Memory of the memtables, with their retained old versions.
    pub index_bytes: u64,
    /// Bytes of records that are the latest of their key, in all segments; an upper bound, as for
    /// [`SegmentStats::live_bytes`].
    pub live_bytes: u64,
    /// Bytes that compaction could free, in all segments; a lower bound.
    pub dead_bytes: u64,
    /// Disk space of all segments, used or not, without the [tables](Self::tables).
    pub disk_bytes: u64,
    /// The seq of the latest commit.
    pub latest_seq: u64,
    /// The highest version that the store has ever seen.
    pub latest_version: u64,
    /// All commits up to this seq are durable.
    pub durable_seq: u64,
    /// Number of syncs since the store was opened.
    pub syncs: u64,
    /// Number of open snapshots.
    pub snapshots: u64,
    /// Age of the oldest open snapshot.
    pub oldest_snapshot_age: Option<Duration>,
    /// Number of old versions retained for open snapshots.
    pub retained_versions: u64,
    /// How records reach the active segment.
    pub append_path: AppendPath,
    /// Numbers of change feeds.
    pub feeds: FeedStats,
    /// Numbers of transactions.
    pub transactions: TransactionStats,
    /// The memory of the index: its budget, flushes, and delays of writers.
    pub index_memory: IndexMemoryStats,
    /// Statistics of compaction.
    pub compaction: CompactionStats,
    /// Number of panics in the caller's code that the store called: the clock, the file system, the
    /// source of randomness, the compaction policy. The recorder of metrics, the subscriber of
    /// spans, and callbacks and wakers of tickets and feeds are included, and counted for all
    /// stores of the process. A panic makes that call fail (a clock's returns the previous time)
    /// and affects nothing else.
    pub caught_panics: u64,
    /// The code that panicked last, and its message.
    pub last_panic: Option<String>,
    /// The reason why writes are refused, if they are.
    pub poisoned: Option<String>,
    /// Each segment, by id.
    pub segments: Vec<SegmentStats>,
    /// Each table that the manifest names, the newest first.
    pub tables: Vec<TableStats>,
    /// The damage of such a table, if a read or maintenance has met one. Reads of what it covers
    /// return [`Error::Corrupt`](crate::Error::Corrupt) until the next maintenance has rebuilt the
    /// tables from the log.
    pub table_damage: Option<String>,
}

/// The parts of a store that provide its statistics.
pub(crate) struct StatsSource<'a> {
    pub(crate) panics: &'a Panics,
    pub(crate) read: &'a ReadPath,
    pub(crate) log: &'a CommitLock,
    pub(crate) store: &'a OpenStore,
    pub(crate) sync: &'a SyncPath,
    pub(crate) maintenance: &'a Maintenance,
    pub(crate) budget: &'a MemoryBudget,
    pub(crate) tables: &'a Tables,
    pub(crate) transactions: &'a TransactionCounters,
    pub(crate) feeds: &'a FeedHub,
}

impl StatsSource<'_> {
    pub(crate) fn stats(&self) -> Stats {
        let index = &self.read.index;
        let segments: Vec<_> = self.read.segments.all().iter().map(|tracked| segment_stats(tracked)).collect();
        let state = index.number(|state| Some(numbers(state)), |last| Some(last.state.clone()));
        let of_state = |number: fn(&StateStats) -> u64| state.as_ref().map_or(0, number);
        let tail = self.store.in_use().ok().map(|store| store.tail_stats());
        let sum = |part: fn(&SegmentStats) -> u64| segments.iter().map(part).sum::<u64>();
        Stats {
            keys: of_state(|state| state.live_keys as u64),
            keys_at_least: index.number(|state| state.key_bounds().at_least, |last| last.keys_at_least),
            tombstones: of_state(|state| state.tombstones as u64),
            index_bytes: of_state(|state| (state.index_bytes + state.retained_bytes) as u64),
            live_bytes: sum(|segment| segment.live_bytes),
            dead_bytes: sum(|segment| segment.dead_bytes),
            disk_bytes: sum(|segment| segment.len_bytes) + tail.map_or(0, |tail| tail.reserved_bytes),
            latest_seq: of_state(|state| state.visible_seq),
            latest_version: self.log.max_version().max(index.max_version()),
            durable_seq: self.sync.durable_seq(),
            syncs: self.sync.syncs(),
            snapshots: of_state(|state| state.snapshots as u64),
            oldest_snapshot_age: state.as_ref().and_then(|state| state.oldest_snapshot).map(|oldest| oldest.age),
            retained_versions: of_state(|state| state.retained_versions as u64),
            append_path: match tail.map(|tail| tail.appends) {
                None => AppendPath::None,
                Some(AppendMode::Positioned) => AppendPath::Positioned,
                Some(AppendMode::Mapped | AppendMode::Auto) => AppendPath::Mapped,
            },
            feeds: self.feeds.stats(),
            transactions: self.transactions.stats(),
            index_memory: self.budget.stats(),
            compaction: self.maintenance.stats(),
            caught_panics: self.panics.count() + INSTRUMENTS.count() + CALLBACKS.count(),
            last_panic: self.panics.last().or_else(|| INSTRUMENTS.last()).or_else(|| CALLBACKS.last()),
            poisoned: self.store.poison_reason(),
            segments,
            tables: self.tables.stats(),
            table_damage: self.tables.damage(),
        }
    }
}

fn segment_stats(tracked: &Tracked) -> SegmentStats {
    let segment = &tracked.segment;
    let (len_bytes, live_bytes) = (u64::from(segment.len_bytes()), tracked.live_bytes());
    let live_records = tracked.live_records();
    SegmentStats {
        id: segment.id(),
        is_compacted: segment.kind() == SegmentKind::Compacted,
        is_sealed: segment.is_sealed(),
        len_bytes,
        capacity_bytes: segment.capacity_bytes().into(),
        live_bytes,
        dead_bytes: len_bytes.saturating_sub(live_bytes),
        live_records,
        dead_records: tracked.records().saturating_sub(live_records),
        created_ms: segment.header().created_ms,
    }
}
