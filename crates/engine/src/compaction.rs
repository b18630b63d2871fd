//! The engine's side of compaction: its schedule, its work and its statistics.
//!
//! Compactions, flushes and backups run one at a time, under the lock *turn*. A background
//! thread takes it at each `compaction_interval`, when the log has rotated, and for a due flush;
//! [`run_compaction_now`](crate::SingleNodeEngine::run_compaction_now) takes it while it can free
//! space. A failure of compaction never fails a write: the statistics and the next explicit call
//! report it. The background thread tries again after a delay, which doubles each time.
//!
//! [`run`] has the steps of a run, with the reasons for their order.

mod background;
mod host;
mod moves;
mod run;
pub(crate) mod stats;
mod usage;

pub(crate) use background::{Compaction, CompactionParts};
pub(crate) use run::{CompactionRunner, RunnerParts};
pub use stats::{CompactionReport, CompactionStats};
