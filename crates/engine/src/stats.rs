//! What the store looks like from outside, in numbers.

use std::time::Duration;

use hightower_log::SegmentKind;
use hightower_segment::AppendMode;
use hightower_state::StateStats;

use crate::commit_log::CommitLock;
use crate::compaction::CompactionStats;
use crate::guarded::Panics;
use crate::maintenance::Maintenance;
use crate::observe::{CALLBACKS, INSTRUMENTS};
use crate::open_store::OpenStore;
use crate::read_path::ReadPath;
use crate::sync_path::SyncPath;
use crate::table::Tracked;

/// How records reach the active segment of an open store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppendPath {
    /// Through a writable map.
    Mapped,
    /// By positioned writes.
    Positioned,
    /// Not at all: the store is open for reading only.
    None,
}

/// A segment, in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentStats {
    /// The number of the segment; its file is named by it.
    pub id: u32,
    /// Whether compaction wrote it.
    pub is_compacted: bool,
    /// Whether it is complete, durable and immutable.
    pub is_sealed: bool,
    /// How long its header and records are.
    pub len_bytes: u64,
    /// How much of the disk its file takes, used or not.
    pub capacity_bytes: u64,
    /// Bytes of records that are the latest of their key, tombstones included.
    pub live_bytes: u64,
    /// Bytes of records that were overtaken, and of the header.
    pub dead_bytes: u64,
    /// How many records are the latest of their key, tombstones included.
    pub live_records: u64,
    /// How many records were overtaken.
    pub dead_records: u64,
    /// When it was started, Unix milliseconds; of one that compaction wrote, about when its oldest
    /// record was.
    pub created_ms: i64,
}

/// The store in numbers, from [`SingleNodeEngine::stats`](crate::SingleNodeEngine::stats). Cheap:
/// no file is read. Of a closed store they are the last ones; its index takes nothing any more, but
/// for what snapshots still hold of it, which is not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// How many keys have a value.
    pub keys: u64,
    /// How many tombstones are kept.
    pub tombstones: u64,
    /// Memory of the index, with its retained old versions.
    pub index_bytes: u64,
    /// Bytes of records that are the latest of their key, in all segments.
    pub live_bytes: u64,
    /// Bytes that compaction could free, in all segments.
    pub dead_bytes: u64,
    /// How much of the disk all segments take, used or not.
    pub disk_bytes: u64,
    /// The seq of the latest commit.
    pub latest_seq: u64,
    /// The highest version that was ever seen.
    pub latest_version: u64,
    /// All commits up to this seq are durable.
    pub durable_seq: u64,
    /// How many syncs have run since the store was opened.
    pub syncs: u64,
    /// How many snapshots are open.
    pub snapshots: u64,
    /// How far the oldest open snapshot lies back.
    pub oldest_snapshot_age: Option<Duration>,
    /// How many old versions are kept for open snapshots.
    pub retained_versions: u64,
    /// How records reach the active segment.
    pub append_path: AppendPath,
    /// What compaction has done.
    pub compaction: CompactionStats,
    /// How often code of the caller's has panicked in the store's work: the clock, the file system,
    /// the source of randomness, the compaction policy; and the recorder of metrics and the
    /// subscriber of spans, which are counted for all stores of the process. Each such call has
    /// failed, and nothing else.
    pub caught_panics: u64,
    /// Which code panicked last, and with which message.
    pub last_panic: Option<String>,
    /// Why writes are refused, if they are.
    pub poisoned: Option<String>,
    /// Each segment, by id.
    pub segments: Vec<SegmentStats>,
}

/// The parts of a store that its numbers come from.
pub(crate) struct StatsSource<'a> {
    pub(crate) panics: &'a Panics,
    pub(crate) read: &'a ReadPath,
    pub(crate) log: &'a CommitLock,
    pub(crate) store: &'a OpenStore,
    pub(crate) sync: &'a SyncPath,
    pub(crate) maintenance: &'a Maintenance,
}

impl StatsSource<'_> {
    pub(crate) fn stats(&self) -> Stats {
        let index = &self.read.index;
        let segments: Vec<_> = self.read.segments.all().iter().map(|tracked| segment_stats(tracked)).collect();
        let state = index.number(|state| Some(state.stats()), |last| Some(last.state.clone()));
        let of_state = |number: fn(&StateStats) -> u64| state.as_ref().map_or(0, number);
        let tail = self.store.in_use().ok().map(|store| store.tail_stats());
        let sum = |part: fn(&SegmentStats) -> u64| segments.iter().map(part).sum::<u64>();
        Stats {
            keys: of_state(|state| state.live_keys as u64),
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
            compaction: self.maintenance.stats(),
            caught_panics: self.panics.count() + INSTRUMENTS.count() + CALLBACKS.count(),
            last_panic: self.panics.last().or_else(|| INSTRUMENTS.last()).or_else(|| CALLBACKS.last()),
            poisoned: self.store.poison().reason().map(str::to_owned),
            segments,
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
        created_ms: segment.header().base_timestamp,
    }
}
