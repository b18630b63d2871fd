//! The engine for applications: one store, one process, any number of threads. The files below have
//! its methods, by purpose.

mod compose;
mod deleting;
#[cfg(all(test, not(shuttle)))]
mod histories;
mod keyspaces;
mod merging;
mod opening;
mod reading;
mod transacting;
mod upkeep;
mod watching;
mod writing;

use std::fmt;
use std::sync::Arc;

pub use deleting::RangeDeletion;

use hightower_state::{KvState, LeveledKvState};

use crate::batch::{Batch, BatchOutcome};
use crate::commit::WritePath;
use crate::commit_log::CommitLock;
use crate::compaction::Compaction;
use crate::components::Components;
use crate::config::{Durability, StoreConfig};
use crate::error::{Error, Result};
use crate::feed::{ChangeFeed, FeedCommit, FeedHub, FeedSubscription};
use crate::guarded::Panics;
use crate::keyspace::Catalogue;
use crate::lifecycle::Lifecycle;
use crate::maintenance::Maintenance;
use crate::memory_budget::MemoryBudget;
use crate::open::OpenReport;
use crate::open_store::OpenStore;
use crate::own_methods::by_own_methods;
use crate::place::Place;
use crate::read_path::ReadPath;
use crate::snapshot::{Entry, Range, Snapshot};
use crate::stats::{Stats, StatsSource};
use crate::sync_path::SyncPath;
use crate::table_flusher::TableFlusher;
use crate::tables::Tables;
use crate::ticket::Ticket;
use crate::time::StoreTime;
use crate::traits::{KvReader, KvWriter, SnapshotEngine};
use crate::transaction::counters::TransactionCounters;
use crate::value::Value;

/// An embedded key-value store: ordered, versioned, durable as configured.
///
/// Share it between threads in an `Arc`, or by reference. Reads take no lock. Writes commit one at
/// a time, in one order. Dropping it closes the store.
///
/// The methods are below under headings: opening and closing, writing, reading, watching, upkeep,
/// numbers.
///
/// ```
/// use hightower_engine::SingleNodeEngine;
///
/// # let dir = tempfile::tempdir().unwrap();
/// let engine = SingleNodeEngine::open(dir.path())?;
/// engine.put("pods/web-0", "running")?;
/// engine.put("pods/web-1", "pending")?;
/// assert_eq!(engine.get("pods/web-0")?.unwrap(), "running");
/// for entry in engine.prefix("pods/")? {
///     let entry = entry?;
///     println!("{} is {:?}", entry.key().escape_ascii(), entry.value()?);
/// }
/// engine.close()?;
/// # Ok::<(), hightower_engine::Error>(())
/// ```
pub struct SingleNodeEngine {
    config: Arc<StoreConfig>,
    components: Components,
    /// Panics of the caller's components.
    panics: Arc<Panics>,
    time: Arc<StoreTime>,
    pub(crate) read: Arc<ReadPath>,
    pub(crate) write: Arc<WritePath>,
    pub(crate) log: Arc<CommitLock>,
    pub(crate) store: Arc<OpenStore>,
    sync: Arc<SyncPath>,
    maintenance: Arc<Maintenance>,
    budget: Arc<MemoryBudget>,
    tables: Arc<Tables>,
    flusher: Arc<TableFlusher>,
    keyspaces: Catalogue,
    compaction: Arc<Compaction>,
    pub(crate) feeds: Arc<FeedHub>,
    life: Arc<Lifecycle>,
    durability: Durability,
    report: OpenReport,
    pub(crate) transactions: Arc<TransactionCounters>,
}

/// # Numbers
///
/// Counters of the store. They read no file, and after the store is closed they return the last
/// numbers.
impl SingleNodeEngine {
    /// The number of keys with a value, in the default keyspace; for a closed store the last
    /// [`Stats::keys_at_least`].
    ///
    /// Costs a pass over the keys of the other keyspaces, which is nothing while they have none, if
    /// all keys are in one level: so after a [`checkpoint`](Self::checkpoint) that has merged all
    /// tables. Otherwise it costs a pass over all keys.
    /// If a table is damaged, it returns the lower bound of [`Stats::keys_at_least`]; reads report
    /// the damage.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// assert_eq!(engine.len(), 1);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        let at_least = |state: &LeveledKvState<Place>| state.key_bounds().at_least;
        let counted = self.count_keys().unwrap_or_else(|_| self.read.index.number(at_least, |last| last.keys_at_least));
        usize::try_from(counted).unwrap_or(usize::MAX)
    }

    fn count_keys(&self) -> Result<u64> {
        let snapshot = self.snapshot()?;
        let total = self.read.index.handle()?.len().map_err(|failure| self.read.noted(failure))?;
        // Once another keyspace has had a key, the counter of ids stays there.
        if self.snapshot()?.others().next().transpose()?.is_none() {
            return Ok(total);
        }
        let others = snapshot.others().count_keys()?;
        if self.latest_seq() == snapshot.seq() {
            Ok(total.saturating_sub(others))
        } else {
            snapshot.iter().count_keys()
        }
    }

    /// Whether no key of the default keyspace has a value; for a closed store the last state. It
    /// looks for the first key only.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// assert!(engine.is_empty());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self.iter().and_then(|mut all| all.next().transpose()) {
            Ok(first) => first.is_none(),
            Err(_) => {
                self.read.index.number(|state| state.key_bounds().at_least == 0, |last| last.state.live_keys == 0)
            }
        }
    }

    /// The highest version that the store has seen, also after it is closed.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let version = engine.put_versioned("a", "1")?;
    /// assert_eq!(engine.latest_version(), version);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn latest_version(&self) -> u64 {
        self.log.max_version().max(self.read.index.max_version())
    }

    /// The seq of the latest commit, also after the store is closed.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let before = engine.latest_seq();
    /// engine.put("a", "1")?;
    /// assert_eq!(engine.latest_seq(), before + 1);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn latest_seq(&self) -> u64 {
        self.read.index.visible_seq()
    }

    /// The statistics of the store. It reads no file.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// assert_eq!(engine.stats().keys, 1);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> Stats {
        let source = StatsSource {
            panics: &self.panics,
            read: &self.read,
            log: &self.log,
            store: &self.store,
            sync: &self.sync,
            maintenance: &self.maintenance,
            budget: &self.budget,
            tables: &self.tables,
            transactions: &self.transactions,
            feeds: &self.feeds,
        };
        source.stats()
    }

    /// The report of the open.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// println!("opened in {:?}", engine.open_report());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.report
    }

    /// The settings of the open.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// assert_eq!(engine.config().data_dir, dir.path());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.config
    }
}

impl fmt::Debug for SingleNodeEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SingleNodeEngine")
            .field("data_dir", &self.config.data_dir)
            .field("keys", &self.len())
            .field("latest_seq", &self.latest_seq())
            .finish_non_exhaustive()
    }
}

impl SnapshotEngine for SingleNodeEngine {
    fn snapshot_state(&self) -> Result<KvState> {
        self.snapshot()?.to_state()
    }

    fn latest_version(&self) -> u64 {
        Self::latest_version(self)
    }

    fn latest_seq(&self) -> u64 {
        Self::latest_seq(self)
    }
}

by_own_methods!({} SingleNodeEngine);

/// Every type that callers hold may be sent to other threads and shared between them.
const _: () = {
    const fn is_shared<T: Send + Sync + ?Sized>() {}
    is_shared::<SingleNodeEngine>();
    is_shared::<Snapshot>();
    is_shared::<Range>();
    is_shared::<Entry>();
    is_shared::<ChangeFeed>();
    is_shared::<FeedCommit>();
    is_shared::<FeedSubscription>();
    is_shared::<Value>();
    is_shared::<Batch>();
    is_shared::<BatchOutcome>();
    is_shared::<Ticket<BatchOutcome>>();
    is_shared::<Error>();
    is_shared::<dyn KvReader>();
    is_shared::<dyn KvWriter>();
};
