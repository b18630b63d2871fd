//! The engine that applications hold: one store, one process, any number of threads.

mod life;

pub(crate) use life::Life;

use std::fmt;
use std::ops::{Bound, ControlFlow};
use std::path::Path;
use std::sync::Arc;

use hightower_index::pin;
use hightower_log::Command;
use hightower_state::{ApplyOutcome, ConcurrentKvState, KvState};

use crate::backup::{BackupReport, ExportReport};
use crate::batch::{Batch, BatchOutcome};
use crate::bounds::KeyBounds;
use crate::commit::Write;
use crate::compaction::CompactionReport;
use crate::config::{Durability, StoreConfig};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::observe::{Operation, observe};
use crate::open::OpenReport;
use crate::pipeline::{Ticket, single_outcome};
use crate::repair::RepairProgress;
use crate::snapshot::{Range, Snapshot};
use crate::stats::Stats;
use crate::traits::{KvEngine, SnapshotEngine};
use crate::value::Value;

/// An embedded key-value store: ordered, versioned, durable as configured.
///
/// Share it between threads as an `Arc`, or by reference. Reads take no lock. Writes commit one at a time, in one order. Dropping it closes it.
///
/// ```
/// use hightower_engine::{SingleNodeEngine, StoreConfig};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path()))?;
/// engine.put("pods/web-0", "running")?;
/// engine.put("pods/web-1", "pending")?;
/// assert_eq!(engine.get("pods/web-0")?.unwrap(), b"running");
/// for entry in engine.prefix("pods/")? {
///     println!("{} is {:?}", entry.key().escape_ascii(), entry.value()?);
/// }
/// engine.close()?;
/// # Ok::<(), hightower_engine::Error>(())
/// ```
pub struct SingleNodeEngine {
    pub(crate) core: Arc<Core>,
    durability: Durability,
    report: OpenReport,
}

impl SingleNodeEngine {
    /// Gives `key` a value, with a version above every version that the store has seen. A few hundred nanoseconds, unless it waits for a sync.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] or [`Error::Validation`] for the key or value, [`Error::Full`], [`Error::ReadOnly`],
    /// [`Error::Closed`], [`Error::Poisoned`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.put_with(key, value, self.durability)
    }

    /// As [`put`](Self::put), at a durability of this call's own.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        durability: Durability,
    ) -> Result<ApplyOutcome> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.write(Write { key, value: Some(value), given: None }, durability)
    }

    /// Takes `key`'s value away, with a version above every version that the store has seen.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.delete_with(key, self.durability)
    }

    /// As [`delete`](Self::delete), at a durability of this call's own.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn delete_with(&self, key: impl AsRef<[u8]>, durability: Durability) -> Result<ApplyOutcome> {
        self.write(Write { key: key.as_ref(), value: None, given: None }, durability)
    }

    /// Commits a command with the version it carries: it counts if that is above the key's, else it is
    /// [`IgnoredStale`](ApplyOutcome::IgnoredStale). Versions given by [`put`](Self::put) are above it from then on. The timestamp is kept with the
    /// record and decides nothing.
    ///
    /// ```
    /// # use hightower_engine::{Command, ErrorKind, SingleNodeEngine, StoreConfig, limits};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path()))?;
    /// let delete = |version| Command::Delete { key: b"job".to_vec(), version, timestamp: 0 };
    /// assert!(engine.submit(delete(limits::MAX_SUBMITTED_VERSION))?.changed());
    /// assert_eq!(engine.submit(delete(1 << 63)).unwrap_err().kind(), ErrorKind::LimitExceeded);
    /// // A put wins whatever was submitted.
    /// assert!(engine.put("job", "queued")?.changed());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put), and [`Error::LimitExceeded`] for a version above
    /// [`MAX_SUBMITTED_VERSION`](crate::limits::MAX_SUBMITTED_VERSION), 2^63 − 1.
    pub fn submit(&self, command: Command) -> Result<ApplyOutcome> {
        let given = Some((command.version(), command.timestamp()));
        self.write(Write { key: command.key(), value: command.value(), given }, self.durability)
    }

    /// Hands a command in and returns at once; the ticket gives its outcome. Waits only while the queue is full. Without
    /// [`worker_threads`](StoreConfig::worker_threads) it commits before it returns.
    ///
    /// ```
    /// # use hightower_engine::{Batch, SingleNodeEngine, StoreConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let config = StoreConfig { worker_threads: 1, ..StoreConfig::at(dir.path()) };
    /// let engine = SingleNodeEngine::with_config(config)?;
    /// let tickets: Vec<_> = (0..100)
    ///     .map(|job| engine.commit_async(Batch::new().put(format!("jobs/{job:03}"), "queued")))
    ///     .collect::<Result<_, _>>()?;
    /// for ticket in tickets {
    ///     assert!(ticket.wait()?.is_committed());
    /// }
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] if the engine is closed; all else comes with the ticket.
    pub fn submit_async(&self, command: Command) -> Result<Ticket<ApplyOutcome>> {
        self.core.check_writable()?;
        match self.core.pipeline()? {
            Some(pipeline) => pipeline.submit_one(Batch::new().submit(&command), self.durability),
            None => Ok(Ticket::ready(self.submit(command))),
        }
    }

    /// Commits several commands as one: all of them or, on error, none. Stale ones are left out, and say so.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put), and [`Error::LimitExceeded`] for more than 65,536 commands or 4 GiB. A batch that is longer
    /// than a segment gets one of its own.
    pub fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
    where
        I: IntoIterator<Item = Command>,
    {
        let mut batch = Batch::new();
        commands.into_iter().for_each(|command| batch.push_command(&command));
        match self.commit(batch)? {
            BatchOutcome::Committed { outcomes, .. } => Ok(outcomes),
            BatchOutcome::Rejected { key, .. } => Err(Error::Conflict(
                format!("a batch without requirements was rejected at {}", key.escape_ascii()).into(),
            )),
        }
    }

    /// An empty batch, to be filled and given to [`commit`](Self::commit).
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new()
    }

    /// Commits a batch as one, if everything holds that it requires.
    ///
    /// ```
    /// # use hightower_engine::{BatchOutcome, Expect, SingleNodeEngine, StoreConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path()))?;
    /// let take = || engine.batch().put("lock", "node-1").require("lock", Expect::Absent);
    /// assert!(engine.commit(take())?.is_committed());
    /// assert!(matches!(engine.commit(take())?, BatchOutcome::Rejected { found: Some(1), .. }));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`submit_batch`](Self::submit_batch). A rejection is an outcome, not an error.
    pub fn commit(&self, batch: Batch) -> Result<BatchOutcome> {
        self.commit_with(batch, self.durability)
    }

    /// As [`commit`](Self::commit), at a durability of this call's own.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_with(&self, batch: Batch, durability: Durability) -> Result<BatchOutcome> {
        observe(Operation::Batch, || match self.core.pipeline()? {
            Some(pipeline) => pipeline.submit_batch(batch, durability)?.wait(),
            None => self.core.commit_batch(&batch, durability),
        })
    }

    /// As [`submit_async`](Self::submit_async), for a batch.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] if the engine is closed; all else comes with the ticket.
    pub fn commit_async(&self, batch: Batch) -> Result<Ticket<BatchOutcome>> {
        self.core.check_writable()?;
        match self.core.pipeline()? {
            Some(pipeline) => pipeline.submit_batch(batch, self.durability),
            None => Ok(Ticket::ready(self.core.commit_batch(&batch, self.durability))),
        }
    }

    fn write(&self, write: Write<'_>, durability: Durability) -> Result<ApplyOutcome> {
        let operation = match (write.given, write.value) {
            (Some(_), _) => Operation::Submit,
            (None, Some(_)) => Operation::Put,
            (None, None) => Operation::Delete,
        };
        observe(operation, || self.write_unobserved(write, durability))
    }

    fn write_unobserved(&self, write: Write<'_>, durability: Durability) -> Result<ApplyOutcome> {
        let Some(pipeline) = self.core.pipeline()? else {
            return self.core.commit_one(write, durability).map(|(outcome, _)| outcome);
        };
        let batch = match (write.given, write.value) {
            (None, Some(value)) => Batch::new().put(write.key, value),
            (None, None) => Batch::new().delete(write.key),
            (Some(given), value) => Batch::given(write.key, value, given),
        };
        pipeline.submit_batch(batch, durability)?.wait().and_then(single_outcome)
    }

    /// The latest value of `key`. Takes no lock; costs two or three cache misses, a checksum and a copy.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the record does not verify, [`Error::Closed`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.core.read_latest(key.as_ref(), |value, _| Value::from(value))
    }

    /// Calls `use_value` with the latest value of `key`, without copying it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, use_value: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        self.core.read_latest(key.as_ref(), |value, _| use_value(value))
    }

    /// The latest value of `key`, and the version that gave it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        self.core.read_latest(key.as_ref(), |value, version| (Value::from(value), version))
    }

    /// The values of many keys as of one moment, in their order. Faster than one [`get`](Self::get) after the other, because cache misses overlap.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        self.snapshot()?.multi_get(keys)
    }

    /// All keys that start with `prefix`, with their values, in key order, as of one moment.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
        self.prefix(prefix)?.collect_pairs(usize::MAX)
    }

    /// The keys in `bounds`, in key order, from either end, as of this moment. What was begun before the store is closed goes on after it.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn range(&self, bounds: impl KeyBounds) -> Result<Range> {
        Ok(self.snapshot()?.range(bounds))
    }

    /// The keys that begin with `prefix`, in key order, from either end, as of this moment. What was begun before the store is closed goes on
    /// after it.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Range> {
        Ok(self.snapshot()?.prefix(prefix))
    }

    /// All keys, in key order, from either end, as of this moment; their values are read when asked for.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// for entry in engine.iter()? {
    ///     println!("{} has {} bytes", entry.key().escape_ascii(), entry.value()?.len());
    /// }
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn iter(&self) -> Result<Range> {
        self.range(..)
    }

    /// The first key, and its value. Costs a copy of both.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// engine.put("b", "2")?;
    /// assert_eq!(engine.first_key_value()?, Some((b"a".to_vec(), "1".into())));
    /// assert_eq!(engine.last_key_value()?, Some((b"b".to_vec(), "2".into())));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn first_key_value(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.snapshot()?.first_key_value()
    }

    /// The last key, and its value. Costs a copy of both.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn last_key_value(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.snapshot()?.last_key_value()
    }

    /// Whether `key` has a value. Reads the index only.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.core.state(&pin())?.contains_key(key.as_ref()))
    }

    /// How many keys have a value; of a closed store, how many had one in the end.
    #[must_use]
    pub fn len(&self) -> usize {
        self.core.number(ConcurrentKvState::len, |last| last.state.live_keys)
    }

    /// Whether no key has a value; of a closed store, whether none had one in the end.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `reader` with a snapshot of this moment.
    ///
    /// ```
    /// # use hightower_engine::{SingleNodeEngine, StoreConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path()))?;
    /// engine.put("a", "1")?;
    /// let both = engine.read_with(|snapshot| (snapshot.contains_key("a"), snapshot.contains_key("b")))?;
    /// assert_eq!(both, (true, false));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn read_with<R>(&self, reader: impl FnOnce(&Snapshot) -> R) -> Result<R> {
        Ok(reader(&self.snapshot()?))
    }

    /// The store as of this moment. Under a microsecond, whatever the number of keys. It stays readable after the store is closed.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::new(&self.core)
    }

    /// Waits until everything that was committed before is durable.
    ///
    /// # Errors
    ///
    /// [`Error::Poisoned`] if a sync failed, [`Error::Closed`], [`Error::ReadOnly`].
    pub fn flush(&self) -> Result<()> {
        self.core.check_writable()?;
        self.core.sync_to(self.core.visible_seq())
    }

    /// Frees what can be freed: rewrites every segment that holds anything overtaken, and drops those that hold nothing else. Then puts in key
    /// order what is still in the order of its commits, unless [`order_when_explicit`](hightower_compactor::CompactionConfig::order_when_explicit)
    /// says otherwise. Writes and reads go on meanwhile. Looks at no more than what was there when it began. The report counts all that
    /// compaction has done since the call, also what the background did while the call waited for it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = hightower_engine::SingleNodeEngine::with_config(hightower_engine::StoreConfig::at(dir.path()))?;
    /// for round in 0..10 {
    ///     engine.put("key", format!("value {round}"))?;
    /// }
    /// let report = engine.run_compaction_now()?;
    /// println!("{} runs have freed {} bytes", report.runs, report.freed_bytes);
    /// assert_eq!(engine.get("key")?.unwrap(), b"value 9");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a record does not verify, [`Error::Full`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`],
    /// [`Error::Poisoned`], [`Error::Validation`] if it is called from a compaction policy. What was freed until then stays so.
    pub fn run_compaction_now(&self) -> Result<CompactionReport> {
        observe(Operation::Compaction, || {
            self.core.check_not_forked()?;
            self.core.compact_fully()
        })
    }

    /// Writes an index checkpoint, so that the next open is fast even after a crash. Writes go on meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Full`], [`Error::Io`], [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn checkpoint(&self) -> Result<()> {
        self.core.check_writable()?;
        let mut turn = self.core.upkeep.turn.lock()?;
        self.core.write_checkpoint(&mut turn)
    }

    /// Copies the store, as of one moment, into a directory from which it can be opened or [`restore`](crate::restore)d. Writes go on
    /// meanwhile. Complete segments are hard-linked where the file system can, and a backup that is there already gets only what is new; it stays
    /// whole until the new one is. A backup that has begun goes on to its end also when the store is closed meanwhile, which waits for no
    /// copy; until then compaction does not free what it copies.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = hightower_engine::SingleNodeEngine::with_config(hightower_engine::StoreConfig::at(dir.path().join("kv")))?;
    /// engine.put("key", "value")?;
    /// let backup = dir.path().join("backup");
    /// engine.backup_to(&backup)?;
    /// let copy = hightower_engine::SingleNodeEngine::open_read_only(&backup)?;
    /// assert_eq!(copy.get("key")?.unwrap(), b"value");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if the directory holds something else, [`Error::Locked`] if it is in use, [`Error::Full`], [`Error::Io`],
    /// [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn backup_to(&self, dir: impl AsRef<Path>) -> Result<BackupReport> {
        self.backup_with_progress(dir, |_| ControlFlow::Continue(()))
    }

    /// As [`backup_to`](Self::backup_to); `watch` hears of the progress and may end it. It may call the store, and close it. What was in the directory before stays whole then, and the next
    /// backup into it goes on with what was copied.
    ///
    /// # Errors
    ///
    /// As [`backup_to`](Self::backup_to), and [`Error::Aborted`].
    pub fn backup_with_progress(
        &self,
        dir: impl AsRef<Path>,
        mut watch: impl FnMut(RepairProgress) -> ControlFlow<()>,
    ) -> Result<BackupReport> {
        observe(Operation::Backup, || self.core.backup_to(dir.as_ref(), &mut watch))
    }

    /// Writes all keys as of one moment to a stream, tombstones included, in key order: for another machine, or another version. Memory does not
    /// depend on the number of keys. [`import_snapshot`](crate::import_snapshot) takes it back.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the stream refuses, [`Error::Corrupt`] if a record does not verify, [`Error::Closed`].
    pub fn export_snapshot(&self, stream: &mut dyn std::io::Write) -> Result<ExportReport> {
        self.core.check_open()?;
        let state = self.core.state_handle()?;
        self.core.export(&state.snapshot(), stream)
    }

    /// The highest version that the store has seen, also once it is closed.
    #[must_use]
    pub fn latest_version(&self) -> u64 {
        self.core.latest_version()
    }

    /// The seq of the latest commit, also once the store is closed.
    #[must_use]
    pub fn latest_seq(&self) -> u64 {
        self.core.visible_seq()
    }

    /// The store in numbers. Cheap: reads no file.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.core.stats()
    }

    /// What opening the store found and did.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.report
    }

    /// The settings that the store was opened with.
    #[must_use]
    pub fn config(&self) -> &StoreConfig {
        &self.core.config
    }
}

impl fmt::Debug for SingleNodeEngine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SingleNodeEngine")
            .field("data_dir", &self.core.config.data_dir)
            .field("keys", &self.len())
            .field("latest_seq", &self.latest_seq())
            .finish_non_exhaustive()
    }
}

impl KvEngine for SingleNodeEngine {
    fn submit(&self, command: Command) -> Result<ApplyOutcome> {
        Self::submit(self, command)
    }

    fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
    where
        I: IntoIterator<Item = Command>,
    {
        Self::submit_batch(self, commands)
    }

    fn commit(&self, batch: Batch) -> Result<BatchOutcome> {
        Self::commit(self, batch)
    }

    fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        Self::put(self, key, value)
    }

    fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        Self::delete(self, key)
    }

    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        Self::get(self, key)
    }

    fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        Self::get_versioned(self, key)
    }

    fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
        Self::get_prefix(self, prefix)
    }

    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>> {
        self.range((from, to))?.collect_pairs(limit)
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
