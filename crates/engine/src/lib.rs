//! The Hightower KV engine: an embedded, log-structured key-value store.
//!
//! The log is the truth; the state is a fold over the log; everything else is disposable. [`SingleNodeEngine`] is the store as an application
//! holds it: [`put`](SingleNodeEngine::put), [`get`](SingleNodeEngine::get), [`delete`](SingleNodeEngine::delete), ordered
//! [`range`](SingleNodeEngine::range)s and [`prefix`](SingleNodeEngine::prefix)es, atomic and conditional [`Batch`]es,
//! consistent [`Snapshot`]s. Services are written against [`KvEngine`].
//!
//! Keys live in memory, values in the segments, where they are read through memory maps. Reads take no lock. A read-only or closed store, a full
//! disk or a failed sync is an [`Error`] with a [`kind`](Error::kind); nothing panics on bad input or bad files.
//!
//! What a returned write survives is a setting of the store, and of each call: see [`Durability`]. The contract, and what tries to
//! break it, is in the project's `docs/DURABILITY.md`.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod backup;
mod batch;
mod checkpoint;
mod commit;
mod compaction;
pub mod components;
mod config;
mod core;
mod engine;
mod error;
mod files;
mod flusher;
mod group_commit;
pub mod limits;
mod maintenance;
mod mutants;
mod observe;
mod open;
mod parallel;
mod pipeline;
mod place;
mod read;
mod repair;
mod sizing;
mod snapshot;
mod stats;
mod sync;
mod table;
mod traits;
mod value;

pub use backup::{
    BackupReport, ExportReport, ImportReport, RestoreReport, import_snapshot, restore, restore_with_progress,
};
pub use batch::{Batch, BatchChange, BatchOutcome, Expect};
pub use checkpoint::{CheckpointUse, OpenPhase, OpenProgress};
pub use compaction::{CompactionReport, CompactionStats};
pub use components::{Background, Clock, Components, SystemClock};
pub use config::{AppendMode, Durability, MAX_SEGMENT_SIZE_BYTES, MIN_SEGMENT_SIZE_BYTES, RecoveryMode, StoreConfig};
pub use engine::SingleNodeEngine;
pub use error::{Error, ErrorKind, Result};
pub use hightower_compactor::{CompactionConfig, CompactionPolicy, CostBenefit, Goal, SegmentUsage, SizeTiered};
pub use hightower_log::{Command, CommandRef};
pub use hightower_segment::{RecoveryReport, SegmentOutcome, SegmentReport};
pub use hightower_state::{ApplyOutcome, KvState};
pub use open::OpenReport;
pub use pipeline::Ticket;
pub use repair::{
    CheckLevel, CheckReport, DamagedPlace, KeysBetween, RawRecord, RepairProgress, SalvageReport, check, dump, salvage,
};
pub use snapshot::{Entry, Range, Snapshot};
pub use stats::{AppendPath, SegmentStats, Stats};
pub use traits::{KvEngine, SnapshotEngine};
pub use value::Value;
