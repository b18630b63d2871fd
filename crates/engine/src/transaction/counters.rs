//! Statistics of transactions, and the limit of their memory.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::{BatchOutcome, Committed};
use crate::error::{Error, Result};

/// The memory of a transaction is accounted in steps of this length, so that short transactions do
/// not touch the shared counter.
pub(super) const ACCOUNTED_STEP_BYTES: usize = 16 << 10;

/// Statistics of transactions, in [`Stats`](crate::Stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionStats {
    /// Number of transactions that are running.
    pub live: u64,
    /// Memory of their read sets and writes, in bytes, each rounded down to a multiple of 16 KiB.
    /// [`Stats::retained_versions`](crate::Stats::retained_versions) includes the old versions that
    /// their snapshots hold.
    pub len_bytes: u64,
    /// Number of commits refused by a conflict since the store was opened.
    pub conflicts: u64,
}

/// The counters of a store's transactions.
#[derive(Debug, Default)]
pub(crate) struct TransactionCounters {
    live: AtomicU64,
    len_bytes: AtomicU64,
    conflicts: AtomicU64,
}

impl TransactionCounters {
    pub(super) fn begin(&self) {
        self.live.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.live.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn resize(&self, before: usize, now: usize) {
        self.len_bytes.fetch_add(now as u64, Ordering::Relaxed);
        self.len_bytes.fetch_sub(before as u64, Ordering::Relaxed);
    }

    /// Counts a conflict.
    pub(crate) fn count(&self, outcome: Result<Committed>) -> Result<Committed> {
        if let Err(Error::TransactionConflict(_)) = &outcome {
            self.conflicts.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    pub(crate) fn stats(&self) -> TransactionStats {
        TransactionStats {
            live: self.live.load(Ordering::Relaxed),
            len_bytes: self.len_bytes.load(Ordering::Relaxed),
            conflicts: self.conflicts.load(Ordering::Relaxed),
        }
    }
}

pub(super) fn over_limit(len_bytes: usize, limit_bytes: usize) -> Error {
    Error::LimitExceeded { what: "transaction (bytes)", found: len_bytes as u64, limit: limit_bytes as u64 }
}

/// The outcome of a transaction's batch.
pub(crate) fn committed(outcome: BatchOutcome) -> Result<Committed> {
    outcome.committed().map_err(|rejected| Error::TransactionConflict(rejected.into()))
}
