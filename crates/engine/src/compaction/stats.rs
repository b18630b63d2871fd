//! Reports and statistics of compaction.

use std::sync::Arc;
use std::time::Duration;

use hightower_compactor::Rewritten;
use hightower_log::SegmentKind;
use hightower_segment::{Edit, Segment};

use crate::table::Tracked;

/// The work of compaction from a call of
/// [`run_compaction_now`](crate::SingleNodeEngine::run_compaction_now) to its return.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// Number of runs; each makes its outputs durable and frees its inputs.
    pub runs: u64,
    /// Number of removed segments.
    pub removed_segments: u64,
    /// Number of written segments.
    pub written_segments: u64,
    /// Number of copied records.
    pub moved_records: u64,
    /// Number of dropped tombstones.
    pub forgotten_tombstones: u64,
    /// Bytes of records read.
    pub read_bytes: u64,
    /// Bytes of records written.
    pub written_bytes: u64,
    /// Bytes of segments removed, less bytes of segments written.
    pub freed_bytes: u64,
    /// Removed segments whose files are still in use by reads, ranges, snapshots or feeds; later
    /// maintenance removes them.
    pub waiting_segments: u64,
    /// The reason why the flush at the end did not take place: lack of room. The next open replays
    /// more.
    pub checkpoint_failure: Option<String>,
    /// The error of the last background run, if it failed and no later run has succeeded.
    pub background_failure: Option<String>,
    /// The duration.
    pub elapsed: Duration,
}

/// Statistics of compaction since the open of the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionStats {
    /// Number of background and explicit runs.
    pub runs: u64,
    /// Bytes of records read.
    pub read_bytes: u64,
    /// Bytes of records written.
    pub written_bytes: u64,
    /// Removed segments whose files are still in use.
    pub waiting_segments: u64,
    /// Number of memtables that flushes have made tables, for whatever reason.
    pub checkpoints: u64,
    /// Number of rebuilds of damaged tables.
    pub rebuilds: u64,
    /// The reason why the flush after the last background run did not take place: lack of room.
    pub checkpoint_failure: Option<String>,
    /// Number of consecutive failed background runs.
    pub failures: u32,
    /// The error of the last one.
    pub last_failure: Option<String>,
}

/// The work of one run.
#[derive(Clone, Debug, Default)]
pub(crate) struct RunReport {
    pub(crate) removed_segments: u64,
    pub(crate) removed_bytes: u64,
    pub(crate) written_segments: u64,
    pub(crate) written_file_bytes: u64,
    pub(crate) moved_records: u64,
    pub(crate) forgotten_tombstones: u64,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
}

impl RunReport {
    pub(crate) fn note(&mut self, rewritten: &Rewritten) {
        self.moved_records = rewritten.moved.len() as u64;
        self.forgotten_tombstones = rewritten.forgotten.len() as u64;
        self.read_bytes = rewritten.read_bytes;
        self.written_bytes = rewritten.written_bytes;
    }

    /// Notes the files of a run.
    pub(crate) fn note_files(&mut self, removed: &[Arc<Tracked>], edit: &Edit) {
        let len_bytes = |segment: &Segment| u64::from(segment.len_bytes());
        let is_retained = |segment: &Segment| edit.retain && segment.kind() == SegmentKind::Append;
        let freed = removed.iter().map(|tracked| &*tracked.segment).filter(|segment| !is_retained(segment));
        let written = &edit.add;
        self.removed_segments = removed.len() as u64;
        self.removed_bytes = freed.map(len_bytes).sum();
        self.written_segments = written.len() as u64;
        self.written_file_bytes = written.iter().map(|output| len_bytes(&output.segment)).sum();
    }
}

/// The sum of all runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Total {
    runs: u64,
    sum: RunReport,
}

impl Total {
    pub(crate) fn add(&mut self, run: &RunReport) {
        self.runs += 1;
        self.sum.removed_segments += run.removed_segments;
        self.sum.removed_bytes += run.removed_bytes;
        self.sum.written_segments += run.written_segments;
        self.sum.written_file_bytes += run.written_file_bytes;
        self.sum.moved_records += run.moved_records;
        self.sum.forgotten_tombstones += run.forgotten_tombstones;
        self.sum.read_bytes += run.read_bytes;
        self.sum.written_bytes += run.written_bytes;
    }

    /// The difference to an earlier state.
    pub(crate) fn since(&self, before: &Self) -> CompactionReport {
        let since = |number: fn(&RunReport) -> u64| number(&self.sum).saturating_sub(number(&before.sum));
        CompactionReport {
            runs: self.runs.saturating_sub(before.runs),
            removed_segments: since(|sum| sum.removed_segments),
            written_segments: since(|sum| sum.written_segments),
            moved_records: since(|sum| sum.moved_records),
            forgotten_tombstones: since(|sum| sum.forgotten_tombstones),
            read_bytes: since(|sum| sum.read_bytes),
            written_bytes: since(|sum| sum.written_bytes),
            freed_bytes: since(|sum| sum.removed_bytes).saturating_sub(since(|sum| sum.written_file_bytes)),
            ..CompactionReport::default()
        }
    }
}

impl CompactionStats {
    pub(crate) fn add(&mut self, run: &RunReport) {
        self.runs += 1;
        self.read_bytes += run.read_bytes;
        self.written_bytes += run.written_bytes;
    }
}
