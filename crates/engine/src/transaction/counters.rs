//! The numbers of transactions, and the bound of their memory.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::batch::{BatchOutcome, Committed};
use crate::error::{Error, Result};

/// The memory of a transaction is accounted in steps of this length, so that short ones do not
/// touch the shared number.
pub(super) const ACCOUNTED_STEP_BYTES: usize = 16 << 10;

/// Numbers of transactions, in [`Stats`](crate::Stats).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransactionStats {
    /// Number of transactions that have begun and not ended.
    pub live: u64,
    /// Their memory for what they have read and written, in bytes; below 16 KiB each it is not
    /// counted. The old versions that their snapshots hold are among
    /// [`Stats::retained_versions`](crate::Stats::retained_versions).
    pub len_bytes: u64,
    /// Number of commits refused by a conflict since the store was opened.
    pub conflicts: u64,
}

/// The numbers of the transactions of a store.
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
