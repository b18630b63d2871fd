#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! The common types are at the root and in the [`prelude`]. Each layer is a separate crate, and a
//! module here:
//!
//! | module | content |
//! | --- | --- |
//! | [`engine`] | the store: [`SingleNodeEngine`], [`StoreConfig`], [`Batch`], [`Transaction`], [`Snapshot`] |
//! | `auth` | users, sessions, API keys and permissions on the store; the feature `auth`, off by default |
//! | [`compactor`] | the choice of segments to rewrite and records to keep |
//! | [`state`] | the apply rules and [`KvState`], the plain model of the state |
//! | [`table`] | immutable sorted tables in mapped files |
//! | [`segment`] | segment files, the manifest, recovery, the file-system seam; `Wal` |
//! | [`index`] | the concurrent ordered map |
//! | [`log`] | [`Command`] and the codec of its records |
//! | [`seams`] | clocks and random bytes, also for tests |
//!
//! This crate adds only names.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "auth")]
pub use hightower_auth as auth;
pub use hightower_compactor as compactor;
pub use hightower_engine as engine;
pub use hightower_index as index;
pub use hightower_log as log;
pub use hightower_seams as seams;
pub use hightower_segment as segment;
pub use hightower_state as state;
pub use hightower_table as table;

pub use hightower_engine::{
    AppendMode, AppendPath, ApplyOutcome, Batch, BatchOutcome, ChangeFeed, ChangeKind, Command, CommandRef, Committed,
    CompactionConfig, CompactionReport, CompactionStats, Components, Conflict, Durability, Entry, Error, Expect,
    FeedChange, FeedCommit, FeedStats, FeedSubscription, Follower, FollowerConfig, FollowerStats, KeyBounds, Keyspace,
    KeyspaceEngine, KeyspaceId, KeyspaceInfo, KeyspaceOptions, KeyspaceUse, KvEngine, KvReader, KvState, KvWriter,
    MergeOperator, MergeOutcome, OpenPhase, OpenProgress, OpenReport, OwnedBounds, Pairs, Range, RangeDeletion,
    RecoveryMode, Rejected, Remedy, ReservedKeyspace, Result, Savepoint, SegmentStats, SharedKeyspace,
    SingleNodeEngine, Snapshot, SnapshotEngine, Stats, StoreBuilder, StoreConfig, TableStats, TablesUse, Ticket,
    Transaction, TransactionEntry, TransactionRange, TransactionStats, Value, limits, prefix_end,
};

/// Restore, import, check and salvage, which work on closed stores. [`SingleNodeEngine::backup_to`]
/// and [`SingleNodeEngine::export_snapshot`] copy an open one.
pub use hightower_engine::{
    BackupReport, CheckLevel, CheckReport, DamagedPlace, ExportReport, ImportReport, KeysBetween, RawRecord,
    RepairProgress, RestoreReport, SalvageReport, check, dump, import_snapshot, restore, restore_with_progress,
    salvage,
};

/// The common types of programs that use the store: `use hightower_kv::prelude::*;`.
///
/// ```
/// use hightower_kv::prelude::*;
///
/// # let dir = tempfile::tempdir().unwrap();
/// let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path()))?;
/// let outcome = engine.commit(Batch::new().put("a", "1").require("a", Expect::Absent))?;
/// assert!(outcome.is_committed());
/// # Ok::<(), Error>(())
/// ```
pub mod prelude {
    #[cfg(feature = "auth")]
    pub use crate::auth::{AuthService, IntoAuthService};
    pub use crate::{
        ApplyOutcome, Batch, BatchOutcome, Command, Durability, Error, Expect, Keyspace, KeyspaceOptions, KvEngine,
        KvReader, KvWriter, Remedy, SingleNodeEngine, Snapshot, SnapshotEngine, StoreBuilder, StoreConfig, Ticket,
        Transaction, Value,
    };
}

/// The code of the project's front page, compiled as a test.
#[cfg(doctest)]
#[doc = include_str!("front_page.md")]
struct FrontPage;
