//! Settings of a store. The components (clock, file system, randomness) are in
//! [`components`](crate::components).

use std::convert::identity;
use std::path::PathBuf;
use std::time::Duration;

use hightower_compactor::CompactionConfig;

use crate::error::{Error, Result};

/// The smallest `max_segment_size` and `min_segment_size`, in bytes.
pub const MIN_SEGMENT_SIZE_BYTES: u64 = 4096;

/// The largest `max_segment_size` and `min_segment_size`, in bytes: 2 GiB, so that offsets fit 32
/// bits, with room for one oversized commit.
pub const MAX_SEGMENT_SIZE_BYTES: u64 = 1 << 31;

/// The smallest `max_disk_bytes`, in bytes.
const MIN_DISK_BYTES: u64 = 1 << 20;

/// The smallest `index_memory_bytes`, in bytes.
const MIN_INDEX_MEMORY_BYTES: u64 = 4096;

/// The smallest `max_transaction_bytes`, in bytes.
const MIN_TRANSACTION_BYTES: u64 = 4096;

/// The largest `commit_queue_depth`.
const MAX_COMMIT_QUEUE_DEPTH: usize = 1 << 20;

/// Queue depth for each of `worker_threads`.
const WRITES_PER_WORKER: usize = 1024;

/// The durability of returned writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// A returned write survives the death of the process at any instruction. It waits for no sync;
    /// the operating system decides when to write.
    Os,
    /// As `Os`, and power loss except for writes of the last interval: a background thread syncs at
    /// this interval while unsynced writes exist.
    Interval(Duration),
    /// A returned write survives power loss: a sync that covers it has returned. Concurrent writers
    /// share syncs.
    Sync,
}

/// The handling of an unfinished tail after a crash. Damage of durable data is an error in both
/// modes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryMode {
    /// Drop the unfinished tail and report it.
    #[default]
    DropTail,
    /// Refuse the open, without a change, if anything would be dropped.
    RefuseLoss,
}

pub use hightower_segment::AppendMode;

/// Settings of a store. Start from [`at`](Self::at) and change settings by the `with_` methods or
/// by assignment:
///
/// ```
/// use hightower_engine::{Durability, StoreConfig};
///
/// let mut config = StoreConfig::at("/var/lib/node/kv").with_durability(Durability::Sync);
/// config.max_disk_bytes = Some(1 << 30);
/// assert!(config.validate().is_ok());
/// ```
///
/// Three fields of hightower-kv 0.1 have new names, and work beside them: `fsync_interval`
/// ([`durability`](Self::durability)), `worker_threads`
/// ([`commit_queue_depth`](Self::commit_queue_depth)) and `emit_snapshot_after_compaction`
/// ([`checkpoint_after_compaction`](Self::checkpoint_after_compaction)).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreConfig {
    /// The directory of the store; created if missing. Default: `.hightower`.
    pub data_dir: PathBuf,
    /// Maximum length of a segment, in bytes: 4 KiB to 2 GiB. A larger commit gets a separate
    /// segment of its length. Default: 64 MiB.
    pub max_segment_size: u64,
    /// Minimum length of a segment, in bytes: 4 KiB to 2 GiB. With few writes, the length of a new
    /// segment is a 512th of the store's live bytes; with many writes, it is the number of bytes
    /// written in some seconds; it is at least this setting and at most
    /// [`max_segment_size`](Self::max_segment_size). A segment takes its disk space at its
    /// creation. Set it equal to `max_segment_size` for segments of one length. Default: 256 KiB.
    pub min_segment_size: u64,
    /// Interval of background compaction's search for work; zero disables compaction, but not the
    /// flushes that [`index_memory_bytes`](Self::index_memory_bytes) needs. Default: 60 s.
    pub compaction_interval: Duration,
    /// The spelling of 0.1 for a [`durability`](Self::durability) of [`Durability::Interval`]. It
    /// is used only if `durability` is `None`. Zero means [`Durability::Os`]. Default: 25 ms.
    pub fsync_interval: Duration,
    /// Settings of compaction: the tolerated garbage, the rate, and the lifetime of tombstones.
    pub compaction: CompactionConfig,
    /// Whether compaction ends with a flush, like a
    /// [`checkpoint`](crate::SingleNodeEngine::checkpoint), so that an open after a crash has
    /// little log to replay; an explicit compaction then also begins with one. Compaction flushes
    /// in any case if no table covers the segments that it rewrites. Default: true.
    pub checkpoint_after_compaction: bool,
    /// The spelling of 0.1 for [`checkpoint_after_compaction`](Self::checkpoint_after_compaction):
    /// if either is false, compaction does not end with a flush. Default: true.
    pub emit_snapshot_after_compaction: bool,
    /// Maximum number of writes in the queue of the commit thread, 0 to 1,048,576. With 0 the store
    /// has no such thread: a write runs on its caller's thread, which is faster for callers that
    /// wait. With a queue, callers may queue writes and continue, and synced writes share syncs.
    /// Default: 0.
    pub commit_queue_depth: usize,
    /// The spelling of 0.1 for [`commit_queue_depth`](Self::commit_queue_depth), in units of 1,024
    /// writes, 0 to 1,024. The larger of both is used. The store always has one commit thread.
    /// Default: 0.
    pub worker_threads: usize,
    /// The default durability of writes. `None` means [`Durability::Interval`] with
    /// [`fsync_interval`](Self::fsync_interval), so 25 ms by default. Default: `None`.
    pub durability: Option<Durability>,
    /// The budget of the index's memory, in bytes, at least 4 KiB: of the memtables, which have the
    /// keys of the latest commits. When the active memtable has half of it, or the log since the
    /// last flush has twice its bytes, the background thread flushes the memtable to a table, and
    /// writers go on meanwhile. While flushes are slower than the writers, so that all memtables
    /// take more than the budget, each commit is delayed, by up to 10 ms at an excess of a quarter.
    /// If flushes fail, such as on a full device, writers are not delayed, and memory may grow up
    /// to [`max_index_memory_bytes`](Self::max_index_memory_bytes):
    /// [`Stats::index_memory`](crate::Stats::index_memory) has the reason. An empty memtable takes
    /// some 100 KiB, so a budget below 1 MiB makes many small tables. Default: 256 MiB.
    pub index_memory_bytes: u64,
    /// Maximum memory of the memtables, in bytes: for callers who prefer an error to memory beyond
    /// the [budget](Self::index_memory_bytes) while flushes fail. Above it, puts of keys that the
    /// active memtable does not have are refused; other overwrites and deletes still work, and so
    /// do batches that [may use the reserve](crate::Batch::use_reserve), which may add a 16th of
    /// the cap, at least 64 KiB. With a cap below half of the budget, writes are refused before a
    /// flush is due. Default: no cap.
    pub max_index_memory_bytes: Option<u64>,
    /// Maximum memory of a [transaction](crate::Transaction), in bytes: of the keys and ranges that
    /// it has read, and the keys and values that it writes. At least 4 KiB. Default: 64 MiB.
    pub max_transaction_bytes: u64,
    /// Maximum number of bytes of the log by which a change feed may lag behind compaction: what an
    /// open feed has not read is kept up to there, and a slower one ends with
    /// [`Error::HistoryLost`]. Zero keeps nothing. Default: 256 MiB.
    pub max_feed_lag_bytes: u64,
    /// The history, in bytes: a change feed can begin at any commit in this many bytes at the end
    /// of the log, also after the store was closed. Segments that compaction removes stay on disk
    /// as long as they are needed for that. On a full device, and when less than an 8th of
    /// [`max_disk_bytes`](Self::max_disk_bytes) is left, compaction gives the history up. A process
    /// that opens the store with a smaller setting gives the rest up. Default: 0, which keeps
    /// nothing.
    pub history_bytes: u64,
    /// The maximum age of the segments of that history. Maintenance gives older ones up when it
    /// runs. Default: no maximum.
    pub history_age: Option<Duration>,
    /// Maximum disk space of the store's files, in bytes. Above it, writes other than deletes are
    /// refused; batches that [may use the reserve](crate::Batch::use_reserve) may exceed it by an
    /// 8th. Default: no cap.
    pub max_disk_bytes: Option<u64>,
    /// The handling of an unfinished tail. Default: drop it and report it.
    pub recovery_mode: RecoveryMode,
    /// Whether to open for reading only, without creating or changing a file. Other readers may
    /// have the store open, a writer may not. Default: false.
    pub read_only: bool,
    /// The method of appends. Default: the best one for the file system.
    pub append_mode: AppendMode,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from(".hightower"),
            max_segment_size: 64 * 1024 * 1024,
            min_segment_size: 256 * 1024,
            compaction_interval: Duration::from_secs(60),
            fsync_interval: Duration::from_millis(25),
            compaction: CompactionConfig::default(),
            checkpoint_after_compaction: true,
            emit_snapshot_after_compaction: true,
            commit_queue_depth: 0,
            worker_threads: 0,
            durability: None,
            index_memory_bytes: 256 << 20,
            max_index_memory_bytes: None,
            max_transaction_bytes: 64 << 20,
            max_feed_lag_bytes: 256 << 20,
            history_bytes: 0,
            history_age: None,
            max_disk_bytes: None,
            recovery_mode: RecoveryMode::default(),
            read_only: false,
            append_mode: AppendMode::default(),
        }
    }
}

impl StoreConfig {
    /// The default settings for the store in `data_dir`.
    #[must_use]
    pub fn at(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), ..Self::default() }
    }

    /// The depth of the commit thread's queue, from both spellings; 0 for no queue.
    pub(crate) fn effective_queue_depth(&self) -> usize {
        self.commit_queue_depth.max(self.worker_threads.saturating_mul(WRITES_PER_WORKER))
    }

    /// Whether compaction ends with a flush, from both spellings.
    pub(crate) fn writes_checkpoint_after_compaction(&self) -> bool {
        self.checkpoint_after_compaction && self.emit_snapshot_after_compaction
    }

    /// The default durability of writes, from both spellings.
    ///
    /// ```
    /// use std::time::Duration;
    /// use hightower_engine::{Durability, StoreConfig};
    ///
    /// let config = StoreConfig::at("kv");
    /// assert_eq!(config.effective_durability(), Durability::Interval(Duration::from_millis(25)));
    /// ```
    #[must_use]
    pub fn effective_durability(&self) -> Durability {
        match self.durability {
            Some(Durability::Interval(interval)) if interval.is_zero() => Durability::Os,
            Some(durability) => durability,
            None if self.fsync_interval.is_zero() => Durability::Os,
            None => Durability::Interval(self.fsync_interval),
        }
    }

    /// Checks the range of every setting.
    ///
    /// # Errors
    ///
    /// [`Error::Validation`] names the setting and its range.
    pub fn validate(&self) -> Result<()> {
        if self.data_dir.as_os_str().is_empty() {
            return Err(Error::Validation("data_dir is empty: name the directory of the store".into()));
        }
        if !(MIN_SEGMENT_SIZE_BYTES..=MAX_SEGMENT_SIZE_BYTES).contains(&self.max_segment_size) {
            let text = format!("max_segment_size is {}: it must be 4 KiB to 2 GiB", self.max_segment_size);
            return Err(Error::Validation(text.into()));
        }
        if !(MIN_SEGMENT_SIZE_BYTES..=MAX_SEGMENT_SIZE_BYTES).contains(&self.min_segment_size) {
            let text = format!("min_segment_size is {}: it must be 4 KiB to 2 GiB", self.min_segment_size);
            return Err(Error::Validation(text.into()));
        }
        if self.commit_queue_depth > MAX_COMMIT_QUEUE_DEPTH {
            let text = format!("commit_queue_depth is {}: it must be 0 to 1,048,576", self.commit_queue_depth);
            return Err(Error::Validation(text.into()));
        }
        if self.worker_threads > MAX_COMMIT_QUEUE_DEPTH / WRITES_PER_WORKER {
            let text = format!("worker_threads is {}: it must be 0 to 1024", self.worker_threads);
            return Err(Error::Validation(text.into()));
        }
        if self.max_disk_bytes.is_some_and(|max| max < MIN_DISK_BYTES) {
            let text = format!("max_disk_bytes is {:?}: it must be at least 1 MiB", self.max_disk_bytes);
            return Err(Error::Validation(text.into()));
        }
        if self.index_memory_bytes < MIN_INDEX_MEMORY_BYTES {
            let text = format!("index_memory_bytes is {}: it must be at least 4 KiB", self.index_memory_bytes);
            return Err(Error::Validation(text.into()));
        }
        if self.max_transaction_bytes < MIN_TRANSACTION_BYTES {
            let text = format!("max_transaction_bytes is {}: it must be at least 4 KiB", self.max_transaction_bytes);
            return Err(Error::Validation(text.into()));
        }
        self.compaction.validate().map_err(|error| Error::Validation(error.to_string().into()))
    }
}

/// Passes the settings that have methods to a macro that makes them: the name, the name with
/// `with_`, the type of the argument, and what makes a field of it.
macro_rules! settings {
    ($methods:ident) => {
        $methods! {
            max_segment_size, with_max_segment_size, u64, identity;
            min_segment_size, with_min_segment_size, u64, identity;
            compaction_interval, with_compaction_interval, Duration, identity;
            compaction, with_compaction, CompactionConfig, identity;
            checkpoint_after_compaction, with_checkpoint_after_compaction, bool, identity;
            commit_queue_depth, with_commit_queue_depth, usize, identity;
            durability, with_durability, Durability, Some;
            index_memory_bytes, with_index_memory_bytes, u64, identity;
            max_index_memory_bytes, with_max_index_memory_bytes, u64, Some;
            max_transaction_bytes, with_max_transaction_bytes, u64, identity;
            max_feed_lag_bytes, with_max_feed_lag_bytes, u64, identity;
            history_bytes, with_history_bytes, u64, identity;
            history_age, with_history_age, Duration, Some;
            max_disk_bytes, with_max_disk_bytes, u64, Some;
            recovery_mode, with_recovery_mode, RecoveryMode, identity;
            read_only, with_read_only, bool, identity;
            append_mode, with_append_mode, AppendMode, identity;
        }
    };
}
pub(crate) use settings;

macro_rules! with_methods {
    ($($setting:ident, $with:ident, $value:ty, $into:expr;)*) => {
        impl StoreConfig {
            $(
                #[doc = concat!("The same with [`", stringify!($setting), "`](Self::", stringify!($setting), ").")]
                #[must_use]
                pub fn $with(mut self, value: $value) -> Self {
                    self.$setting = $into(value);
                    self
                }
            )*
        }
    };
}

settings!(with_methods);
