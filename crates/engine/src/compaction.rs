//! The engine's side of compaction: when it runs, what it works on, and what it tells.
//!
//! One thing at a time takes the *turn*: a compaction, a checkpoint, a backup. A background thread
//! takes it each `compaction_interval`, and whenever the log has rolled to a new segment;
//! [`run_compaction_now`](crate::SingleNodeEngine::run_compaction_now) takes it for as long as
//! there is something to free. A failure never fails a write: it is kept for the statistics and the
//! next explicit call, and the background tries again later, each time twice as late.
//!
//! The steps of a run, and why they stand in this order, are in [`run`].

mod background;
mod host;
mod run;
pub(crate) mod stats;
mod usage;

pub(crate) use background::{Compaction, CompactionParts};
pub(crate) use run::{CompactionRunner, RunnerParts};
pub use stats::{CompactionReport, CompactionStats};
