//! The Hightower KV engine: an embedded, log-structured key-value store.
//!
//! The log is the truth; the state is a fold over the log; everything else is disposable.
//! [`SingleNodeEngine`] is the store for applications: [`put`](SingleNodeEngine::put),
//! [`get`](SingleNodeEngine::get), [`delete`](SingleNodeEngine::delete), ordered
//! [`range`](SingleNodeEngine::range)s and [`prefix`](SingleNodeEngine::prefix)es, atomic and
//! conditional [`Batch`]es, serializable [`Transaction`]s, consistent [`Snapshot`]s. Services use
//! the trait [`KvEngine`].
//!
//! Keys are in memory, values in the segments, which are read through memory maps. Reads take no
//! lock. A read-only or closed store, a full disk or a failed sync is an [`Error`] with a
//! [`Remedy`]; nothing panics on bad input or bad files.
//!
//! The durability of writes is a setting of the store and of each call: see [`Durability`]. The
//! project's `docs/DURABILITY.md` has the contract.
//!
//! # What it is not
//!
//! It is not a server, not a cache, and not a store for more keys than fit in memory. It has no
//! query language and no secondary indexes.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | keys of 1 to 65,520 bytes, values up to 1 GiB, batches up to 65,536 commands and below 4 GiB; one writing process with any number of followers, or any number of reading ones; 64-bit machines; one memory map per segment file, of which Linux allows a process 65,530 by default (`vm.max_map_count`): nearly 4 TiB with segments of 64 MiB |
//! | durability | `Os`, `Interval` (the default, 25 ms) or `Sync`, per store and per call: see `docs/DURABILITY.md` |
//! | memory | `index_memory_bytes` (256 MiB) for the keys of the latest commits, about 110 bytes per key of 16 bytes, independent of its value; the others are in tables on disk. A running flush, merge or compaction takes about 32 MiB more. Values are in the page cache |
//! | threads | share the engine in an `Arc`. It has 6 threads of its own (`flush`, `tail`, `pages`, `seal`, `feed`, `compact`) and, with a `commit_queue_depth`, one that commits; iterators and snapshots own their data |
//! | features | `metrics` and `tracing`: counters, histograms and spans for the facades of these names; `bytes` and `serde`: conversions of [`Value`]s for the crates of these names; `sim`: the simulated file system. None is on by default, and a feature that is off costs nothing |
//! | format | version 1, byte by byte in `docs/FORMAT.md`; later releases can read every released version, and refuse unknown ones |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod background_signal;
mod backup;
mod batch;
mod bounds;
mod builder;
mod commit;
mod commit_log;
mod compaction;
pub mod components;
mod config;
mod conflict;
mod engine;
mod entry_counts;
mod entry_key;
mod error;
mod expect;
mod feed;
mod files;
mod flusher;
mod follower;
mod group_commit;
mod guarded;
mod keyspace;
mod lifecycle;
pub mod limits;
mod load;
mod maintenance;
mod memory_budget;
mod merge;
mod merge_choice;
mod merger;
mod observe;
mod open;
mod open_index;
mod open_store;
mod own_methods;
mod pace;
mod parallel;
mod pipeline;
mod place;
mod poison;
mod quota;
mod read_path;
mod rebuild;
mod repair;
mod sizing;
mod snapshot;
mod stats;
mod sync;
mod sync_path;
mod table;
mod table_files;
mod table_flusher;
mod tables;
mod tail_upkeep;
mod ticket;
mod time;
mod traits;
mod transaction;
mod turn;
mod value;
mod watch;
mod worker_signal;

use hightower_seams::mutants;
pub use hightower_seams::{Clock, SystemClock};

pub use backup::{
    BackupReport, ExportReport, ImportReport, RestoreReport, import_snapshot, restore, restore_with_progress,
};
pub use batch::{Batch, BatchChange, BatchOutcome, BatchRequirement, Committed};
pub use bounds::{KeyBounds, OwnedBounds, prefix_end};
pub use builder::StoreBuilder;
pub use compaction::{CompactionReport, CompactionStats};
pub use components::{Background, Components};
pub use config::{AppendMode, Durability, MAX_SEGMENT_SIZE_BYTES, MIN_SEGMENT_SIZE_BYTES, RecoveryMode, StoreConfig};
pub use conflict::Conflict;
pub use engine::{RangeDeletion, SingleNodeEngine};
pub use error::{Error, Remedy, Result};
pub use expect::{Expect, Rejected};
pub use feed::{ChangeFeed, ChangeKind, FeedChange, FeedCommit, FeedStats, FeedSubscription};
pub use follower::{Follower, FollowerConfig, FollowerFeed, FollowerStats};
pub use hightower_compactor::{CompactionConfig, CompactionPolicy, CostBenefit, Goal, SegmentUsage, SizeTiered};
pub use hightower_log::{Command, CommandRef};
pub use hightower_segment::{RecoveryReport, SegmentOutcome, SegmentReport};
pub use hightower_state::{ApplyOutcome, KvState};
pub use keyspace::{
    Keyspace, KeyspaceId, KeyspaceInfo, KeyspaceOptions, KeyspaceUse, ReservedKeyspace, SharedKeyspace,
};
pub use load::{OpenPhase, OpenProgress, TablesUse};
pub use memory_budget::IndexMemoryStats;
pub use merge::{MergeOperator, MergeOutcome};
pub use open::OpenReport;
pub use repair::{
    CheckLevel, CheckReport, DamagedPlace, KeysBetween, RawRecord, RepairProgress, SalvageReport, check, dump, salvage,
};
pub use snapshot::{Entry, Range, Snapshot};
pub use stats::{AppendPath, SegmentStats, Stats};
pub use tables::TableStats;
pub use ticket::Ticket;
pub use traits::{KeyspaceEngine, KvEngine, KvReader, KvWriter, Pairs, SnapshotEngine};
pub use transaction::{Savepoint, Transaction, TransactionEntry, TransactionRange, TransactionStats};
pub use value::Value;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
