//! The progress of an open, and its abort.

use std::ops::ControlFlow;

use crate::error::Error;

/// A phase of an open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenPhase {
    /// Building the index from the tables and the replayed records.
    Index,
    /// Reading the log up to the position that damaged tables cover, to rebuild them.
    Rebuild,
    /// Reading the log beyond the position that the tables cover.
    Replay,
}

/// The progress of an open, for
/// [`SingleNodeEngine::open_with_progress`](crate::SingleNodeEngine::open_with_progress).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenProgress {
    /// The phase.
    pub phase: OpenPhase,
    /// The completed work of this phase: key ranges, or bytes of the log.
    pub done: u64,
    /// The total work of this phase.
    pub total: u64,
}

/// A callback for the progress of an open, which may abort it.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(OpenProgress) -> ControlFlow<()>;

pub(crate) const ABORTED: Error = Error::Aborted("the open");

/// Counts bytes of the log for the progress callback.
pub(crate) struct ReplayMeter<'a> {
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) watch: Watch<'a>,
}

impl ReplayMeter<'_> {
    /// Sets the total number of completed bytes.
    pub(crate) fn set(&mut self, done: u64) -> ControlFlow<()> {
        self.done = done;
        (self.watch)(OpenProgress { phase: OpenPhase::Replay, done, total: self.total })
    }
}
