//! What compaction tells of itself.

use std::time::Duration;

use hightower_compactor::Rewritten;

/// What one call of [`run_compaction_now`](crate::SingleNodeEngine::run_compaction_now) did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionReport {
    /// How many runs it took; each makes its own outputs durable and frees its own inputs.
    pub runs: u64,
    /// How many segments are gone.
    pub removed_segments: u64,
    /// How many segments were written.
    pub written_segments: u64,
    /// How many records were copied.
    pub moved_records: u64,
    /// How many tombstones were forgotten.
    pub forgotten_tombstones: u64,
    /// Bytes of records read.
    pub read_bytes: u64,
    /// Bytes of records written.
    pub written_bytes: u64,
    /// Bytes of segments removed, less bytes of segments written.
    pub freed_bytes: u64,
    /// Removed segments whose files are still held, by readers or by the index's deferred frees; they go with a later run.
    pub waiting_segments: u64,
    /// Why no index checkpoint was written in the end: there was no room for it. The next open takes longer.
    pub checkpoint_failure: Option<String>,
    /// Why the last run in the background failed, if it did and no run since has succeeded.
    pub background_failure: Option<String>,
    /// How long it took.
    pub elapsed: Duration,
}

/// Compaction in numbers, since the store was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CompactionStats {
    /// How many runs there were, in the background and explicit.
    pub runs: u64,
    /// Bytes of records read.
    pub read_bytes: u64,
    /// Bytes of records written.
    pub written_bytes: u64,
    /// Removed segments whose files are still held.
    pub waiting_segments: u64,
    /// How many index checkpoints were written.
    pub checkpoints: u64,
    /// Why the last run in the background could not write one: there was no room for it.
    pub checkpoint_failure: Option<String>,
    /// How many runs in the background have failed in a row.
    pub failures: u32,
    /// Why the last of them failed.
    pub last_failure: Option<String>,
}

/// What one run did.
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
        self.read_bytes = rewritten.read_bytes;
        self.written_bytes = rewritten.written_bytes;
    }
}

impl CompactionReport {
    pub(crate) fn add(&mut self, run: &RunReport) {
        self.runs += 1;
        self.removed_segments += run.removed_segments;
        self.written_segments += run.written_segments;
        self.moved_records += run.moved_records;
        self.forgotten_tombstones += run.forgotten_tombstones;
        self.read_bytes += run.read_bytes;
        self.written_bytes += run.written_bytes;
        self.freed_bytes = (self.freed_bytes + run.removed_bytes).saturating_sub(run.written_file_bytes);
    }
}

impl CompactionStats {
    pub(crate) fn add(&mut self, run: &RunReport) {
        self.runs += 1;
        self.read_bytes += run.read_bytes;
        self.written_bytes += run.written_bytes;
    }
}
