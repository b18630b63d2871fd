//! What compaction tells of itself.

use std::time::Duration;

use hightower_compactor::Rewritten;

/// What compaction did from a call of
/// [`run_compaction_now`](crate::SingleNodeEngine::run_compaction_now) to its return.
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
    /// Removed segments whose files are still held, by readers or by the index's deferred frees;
    /// they go with a later run.
    pub waiting_segments: u64,
    /// Why no index checkpoint was written in the end: there was no room for it. The next open
    /// takes longer.
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

/// What all runs did, one after the other.
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

    /// What was done since it was `before`.
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
