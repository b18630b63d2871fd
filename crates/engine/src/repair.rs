//! Detection of damage, and salvage of intact records. Neither changes the examined store.

mod check;
mod salvage;

pub use check::{CheckLevel, CheckReport, DamagedPlace, KeysBetween, RawRecord, check, dump};
pub use salvage::{SalvageReport, salvage};

use std::ops::ControlFlow;

use crate::error::{Error, Result};

/// The progress of a check, a salvage, a backup or a restore.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RepairProgress {
    /// Processed bytes of segments.
    pub done_bytes: u64,
    /// Total bytes of segments.
    pub total_bytes: u64,
}

/// Counts progress, and calls the callback from time to time.
pub(crate) struct Meter<'a> {
    progress: RepairProgress,
    unreported: u64,
    watch: &'a mut dyn FnMut(RepairProgress) -> ControlFlow<()>,
}

/// Number of bytes between two callbacks.
const REPORT_STEP_BYTES: u64 = 1 << 20;

impl<'a> Meter<'a> {
    pub(crate) fn new(total_bytes: u64, watch: &'a mut dyn FnMut(RepairProgress) -> ControlFlow<()>) -> Self {
        Self { progress: RepairProgress { done_bytes: 0, total_bytes }, unreported: 0, watch }
    }

    pub(crate) fn add(&mut self, bytes: u64) -> Result<()> {
        self.progress.done_bytes += bytes;
        self.unreported += bytes;
        if self.unreported < REPORT_STEP_BYTES {
            return Ok(());
        }
        self.unreported = 0;
        match (self.watch)(self.progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Aborted("the operation")),
        }
    }
}
