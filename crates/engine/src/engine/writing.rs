//! Writes: single keys, commands with versions, batches, and asynchronous writes.

use std::borrow::Cow;

use hightower_log::Command;
use hightower_state::ApplyOutcome;

use crate::batch::{Batch, BatchOutcome};
use crate::commit::Write;
use crate::config::Durability;
use crate::engine::SingleNodeEngine;
use crate::error::{Error, Result};
use crate::expect::Expect;
use crate::keyspace::{Scope, StoredKey, id_of, with_default_key};
use crate::mutants::planted;
use crate::observe::{HandedIn, Operation, observe};
use crate::pipeline::{Pipeline, single_outcome};
use crate::ticket::Ticket;
use crate::transaction::Retries;
use crate::value::Value;

/// # Writing single keys
///
/// Each call is one commit, with a version above every version that the store has seen. It returns
/// when the write has the durability of the store; calls with the suffix `_with` have a
/// [`Durability`] argument.
impl SingleNodeEngine {
    /// Sets the value of `key`. It takes a few hundred nanoseconds, unless it waits for a sync.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("pods/web-0", "running")?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`] or [`Error::Validation`] for the key or value, [`Error::Full`],
    /// [`Error::ReadOnly`], [`Error::Closed`], [`Error::Poisoned`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.put_with(key, value, self.durability)
    }

    /// As [`put`](Self::put), with a durability for this call.
    ///
    /// ```
    /// # use hightower_engine::{Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put_with("orders/17", "paid", Durability::Sync)?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
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
        let value = Some(value.as_ref());
        with_default_key(key.as_ref(), |key| self.write(Write { key, value, given: None, keyspace: None }, durability))
    }

    /// As [`put`](Self::put), but returns the version of the value, for a later
    /// [`Expect::Version`]. It costs some additional allocations.
    ///
    /// ```
    /// # use hightower_engine::{Batch, Expect, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let version = engine.put_versioned("lease", "node-1")?;
    /// let mut renewal = Batch::new();
    /// renewal.require("lease", Expect::Version(version)).put("lease", "node-1 again");
    /// assert!(engine.commit(&renewal)?.is_committed());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn put_versioned(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<u64> {
        self.put_versioned_in(None, key.as_ref(), value.as_ref(), self.durability)
    }

    pub(crate) fn put_versioned_in(
        &self,
        scope: Scope<'_>,
        key: &[u8],
        value: &[u8],
        durability: Durability,
    ) -> Result<u64> {
        let mut batch = Batch::new();
        batch.push_in(scope, key, Some(value), None);
        let committed = self.commit_owned(batch, durability)?.committed()?;
        committed.versions.first().copied().ok_or(Error::Internal("a commit has no version".into()))
    }

    /// Deletes `key`. It writes a tombstone also for an absent key, so that a command with an older
    /// version that is [submitted](Self::submit) later has no effect. [`remove`](Self::remove)
    /// returns whether the key had a value, and writes nothing if not.
    ///
    /// ```
    /// # use hightower_engine::{Command, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("other", "")?;
    /// engine.delete("job")?;
    /// let late = Command::set("job", "from long ago", 1);
    /// assert!(!engine.submit(late)?.changed());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.delete_with(key, self.durability)
    }

    /// As [`delete`](Self::delete), with a durability for this call.
    ///
    /// ```
    /// # use hightower_engine::{Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.delete_with("orders/17", Durability::Sync)?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn delete_with(&self, key: impl AsRef<[u8]>, durability: Durability) -> Result<ApplyOutcome> {
        with_default_key(key.as_ref(), |key| {
            self.write(Write { key, value: None, given: None, keyspace: None }, durability)
        })
    }

    /// Deletes `key` and returns the version of the delete; `None`, without a write, if the key has
    /// no value.
    ///
    /// Without a write there is no tombstone of this call: an older command that is
    /// [submitted](Self::submit) later takes effect as if `remove` had not been called. If versions
    /// are submitted, use [`delete`](Self::delete).
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("job", "queued")?;
    /// assert!(engine.remove("job")?.is_some());
    /// let written = engine.latest_seq();
    /// assert_eq!(engine.remove("job")?, None);
    /// assert_eq!(engine.latest_seq(), written);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<Option<u64>> {
        let key = key.as_ref();
        match self.commit(Batch::new().require(key, Expect::Present).delete(key))? {
            BatchOutcome::Committed(committed) => Ok(committed.versions.first().copied()),
            BatchOutcome::Rejected(_) => Ok(None),
        }
    }

    /// Deletes `key` and returns its value; `None`, without a write, if the key has no value. Of
    /// several concurrent callers one gets the value. It is a
    /// [`fetch_update`](Self::fetch_update), with its cost.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("token", "17")?;
    /// assert_eq!(engine.take("token")?.unwrap(), "17");
    /// assert_eq!(engine.take("token")?, None);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`fetch_update`](Self::fetch_update).
    pub fn take(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.fetch_update(key, |_| None::<&[u8]>)
    }

    /// Replaces the value of `key` by the result of `update`, or deletes it if `update` returns
    /// `None`; returns the old value. The update is atomic: after a conflicting write, `update` is
    /// called again with the new value, as often and with the pauses of
    /// [`SingleNodeEngine::update`], which reads and writes several keys.
    ///
    /// It costs a snapshot, a read and a write for each call of `update`. With many threads on one
    /// key, most calls are repeated.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let count = |value: Option<&[u8]>| {
    ///     let count = value.and_then(|value| value.try_into().ok()).map_or(0, u64::from_le_bytes);
    ///     Some((count + 1).to_le_bytes())
    /// };
    /// assert_eq!(engine.fetch_update("visits", count)?, None);
    /// assert_eq!(engine.fetch_update("visits", count)?.unwrap(), 1_u64.to_le_bytes());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put) and [`get`](Self::get); [`Error::TransactionConflict`] after 1,000
    /// calls of `update` that each met a conflict.
    pub fn fetch_update<V: AsRef<[u8]>>(
        &self,
        key: impl AsRef<[u8]>,
        update: impl FnMut(Option<&[u8]>) -> Option<V>,
    ) -> Result<Option<Value>> {
        self.fetch_update_in(None, key.as_ref(), self.durability, update)
    }

    pub(crate) fn fetch_update_in<V: AsRef<[u8]>>(
        &self,
        scope: Scope<'_>,
        key: &[u8],
        durability: Durability,
        mut update: impl FnMut(Option<&[u8]>) -> Option<V>,
    ) -> Result<Option<Value>> {
        let (mut batch, mut retries) = (Batch::new(), Retries::default());
        loop {
            let snapshot = self.snapshot()?.of(id_of(scope));
            scope.map_or(Ok(()), |keyspace| keyspace.check())?;
            let (value, version) = snapshot.get_versioned(key)?.unzip();
            // Until the commit, the snapshot keeps the tombstone of a delete that others commit.
            let snapshot = (!planted("tombstone_not_kept_for_an_update")).then_some(snapshot);
            batch.clear();
            batch.require_key(scope, key, version.map_or(Expect::Absent, Expect::Version));
            match update(value.as_deref()) {
                Some(new) => batch.push_in(scope, key, Some(new.as_ref()), None),
                None if value.is_none() => return Ok(None),
                None => batch.push_in(scope, key, None, None),
            };
            if planted("update_without_look") {
                batch.requirements.clear();
            }
            let outcome = self.commit_with(&batch, durability)?;
            drop(snapshot);
            match outcome {
                BatchOutcome::Committed(_) => return Ok(value),
                BatchOutcome::Rejected(met) => {
                    retries.after(Error::TransactionConflict(met.into()), &self.components)?;
                }
            }
        }
    }
}

/// # Writing commands with versions
///
/// For replicated and replayed writes: the command with the highest version wins for its key, in
/// any order of arrival.
impl SingleNodeEngine {
    /// Commits a command with its explicit version. It wins if the version is above the key's,
    /// otherwise the outcome is [`IgnoredStale`](ApplyOutcome::IgnoredStale). Later versions of
    /// [`put`](Self::put) are above it. The timestamp is stored with the record and decides
    /// nothing.
    ///
    /// ```
    /// # use hightower_engine::{Command, SingleNodeEngine, StoreConfig, limits};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path()))?;
    /// let delete = |version| Command::delete("job", version);
    /// assert!(engine.submit(delete(limits::MAX_SUBMITTED_VERSION))?.changed());
    /// assert_eq!(engine.submit(delete(1 << 63)).unwrap_err().code(), "limit_exceeded");
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
        self.submit_with(command, self.durability)
    }

    /// As [`submit`](Self::submit), with a durability for this call.
    ///
    /// ```
    /// # use hightower_engine::{Command, Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.submit_with(Command::set("job", "done", 9), Durability::Sync)?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub fn submit_with(&self, command: Command, durability: Durability) -> Result<ApplyOutcome> {
        let given = Some((command.version(), command.timestamp()));
        with_default_key(command.key(), |key| {
            self.write(Write { key, value: command.value(), given, keyspace: None }, durability)
        })
    }

    /// Commits several commands atomically. Stale ones are skipped, and have the outcome
    /// [`IgnoredStale`](ApplyOutcome::IgnoredStale).
    ///
    /// ```
    /// # use hightower_engine::{ApplyOutcome, Command, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let outcomes = engine.submit_batch([
    ///     Command::set("job", "done", 9),
    ///     Command::set("job", "queued", 7),
    /// ])?;
    /// assert_eq!(outcomes, [ApplyOutcome::Applied, ApplyOutcome::IgnoredStale]);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put), and [`Error::LimitExceeded`] for more than 65,536 commands or 4 GiB.
    /// A batch longer than a segment gets a separate segment.
    pub fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
    where
        I: IntoIterator<Item = Command>,
    {
        let mut batch = Batch::new();
        for command in commands {
            batch.submit(&command);
        }
        Ok(self.commit(&batch)?.committed()?.outcomes)
    }
}

/// # Writing batches
///
/// Several changes in one atomic commit, with requirements.
impl SingleNodeEngine {
    /// An empty batch, as [`Batch::new`], for chains that begin with the engine.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.commit(engine.batch().put("a", "1").delete("b"))?.committed()?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new()
    }

    /// Commits a batch atomically, if its requirements hold. The batch can be used again.
    ///
    /// ```
    /// # use hightower_engine::{Batch, BatchOutcome, Expect, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut take = Batch::new();
    /// take.put("lock", "node-1").require("lock", Expect::Absent);
    /// assert!(engine.commit(&take)?.is_committed());
    /// let BatchOutcome::Rejected(rejected) = engine.commit(&take)? else { panic!() };
    /// assert_eq!(rejected.found, Some(1));
    /// // Where a rejection is an error, and where nothing is required:
    /// assert!(engine.commit(&take)?.committed().is_err());
    /// engine.commit(Batch::new().put("a", "1").put("b", "2"))?.committed()?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`submit_batch`](Self::submit_batch). A rejection is an outcome, not an error.
    pub fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
        self.commit_with(batch, self.durability)
    }

    /// As [`commit`](Self::commit), with a durability for this call.
    ///
    /// ```
    /// # use hightower_engine::{Batch, Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let batch = Batch::from_iter([("a", "1"), ("b", "2")]);
    /// engine.commit_with(&batch, Durability::Sync)?.committed()?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        observe(Operation::Batch, || match self.pipeline()? {
            Some(pipeline) => pipeline.commit(batch.clone(), durability),
            None => self.write.commit_batch(batch, durability),
        })
    }
}

/// # Writing without waiting
///
/// These calls queue a write and return a [`Ticket`]: a `Future` of the outcome. They wait only
/// while the queue is full. In a store without a queue (see
/// [`StoreConfig::commit_queue_depth`](crate::StoreConfig::commit_queue_depth)) the write is
/// committed before they return.
impl SingleNodeEngine {
    /// Queues a command with an explicit version.
    ///
    /// ```
    /// # use hightower_engine::{Command, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let ticket = engine.submit_async(Command::set("job", "done", 9))?;
    /// assert!(ticket.wait()?.changed());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::ReadOnly`], [`Error::Forked`] or [`Error::Poisoned`] for the
    /// state of the store; [`Error::Validation`] on the commit thread if the queue is full. The
    /// error of the write itself comes with the ticket.
    pub fn submit_async(&self, command: Command) -> Result<Ticket<ApplyOutcome>> {
        self.submit_async_with(command, self.durability)
    }

    /// As [`submit_async`](Self::submit_async), with a durability for this call: the ticket is
    /// ready when the write has it.
    ///
    /// ```
    /// # use hightower_engine::{Command, Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let command = Command::set("job", "done", 9);
    /// assert!(engine.submit_async_with(command, Durability::Sync)?.wait()?.changed());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`submit_async`](Self::submit_async).
    pub fn submit_async_with(&self, command: Command, durability: Durability) -> Result<Ticket<ApplyOutcome>> {
        self.hand_in(Operation::Submit, |handed_in| match self.pipeline()? {
            Some(pipeline) => {
                let mut batch = Batch::new();
                batch.submit(&command);
                pipeline.submit_one(batch, durability, handed_in)
            }
            None => Ok(Ticket::ready(self.submit_with(command, durability))),
        })
    }

    /// Queues a batch, by value or as a copy of a reference.
    ///
    /// ```
    /// # use hightower_engine::{Batch, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let engine = SingleNodeEngine::builder(dir.path()).commit_queue_depth(1024).open()?;
    /// let mut tickets = Vec::new();
    /// for job in 0..100 {
    ///     let batch = Batch::from_iter([(format!("jobs/{job:03}"), "queued")]);
    ///     tickets.push(engine.commit_async(batch)?);
    /// }
    /// for ticket in tickets {
    ///     ticket.wait()?.committed()?;
    /// }
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::ReadOnly`], [`Error::Forked`] or [`Error::Poisoned`] for the
    /// state of the store; [`Error::Validation`] on the commit thread if the queue is full. The
    /// error of the write itself comes with the ticket.
    pub fn commit_async<'a>(&self, batch: impl Into<Cow<'a, Batch>>) -> Result<Ticket<BatchOutcome>> {
        self.commit_async_with(batch, self.durability)
    }

    /// As [`commit_async`](Self::commit_async), with a durability for this call: the ticket is
    /// ready when the batch has it.
    ///
    /// ```
    /// # use hightower_engine::{Batch, Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let batch = Batch::from_iter([("a", "1"), ("b", "2")]);
    /// let ticket = engine.commit_async_with(batch, Durability::Sync)?;
    /// assert!(ticket.wait()?.is_committed());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`commit_async`](Self::commit_async).
    pub fn commit_async_with<'a>(
        &self,
        batch: impl Into<Cow<'a, Batch>>,
        durability: Durability,
    ) -> Result<Ticket<BatchOutcome>> {
        let batch = batch.into();
        self.hand_in(Operation::Batch, |handed_in| match self.pipeline()? {
            Some(pipeline) => pipeline.submit_batch(batch.into_owned(), durability, Some(handed_in)),
            None => Ok(Ticket::ready(self.commit_with(&batch, durability))),
        })
    }

    /// Queues a write, whose time counts from now; a write that is refused here counts as a
    /// failure.
    pub(super) fn hand_in<T>(
        &self,
        operation: Operation,
        submit: impl FnOnce(HandedIn) -> Result<Ticket<T>>,
    ) -> Result<Ticket<T>> {
        let handed_in = HandedIn::now(operation);
        let ticket = self.store.check_writable().and_then(|()| submit(handed_in));
        if let Err(refusal) = &ticket {
            handed_in.record(Some(refusal));
        }
        ticket
    }
}

impl SingleNodeEngine {
    /// The queue in front of the commit, if the store has one.
    #[inline]
    pub(super) fn pipeline(&self) -> Result<Option<&Pipeline>> {
        self.store.check_not_forked()?;
        Ok(self.life.pipeline())
    }

    pub(crate) fn write(&self, write: Write<'_>, durability: Durability) -> Result<ApplyOutcome> {
        let operation = match (write.given, write.value) {
            (Some(_), _) => Operation::Submit,
            (None, Some(_)) => Operation::Put,
            (None, None) => Operation::Delete,
        };
        observe(operation, || self.write_unobserved(write, durability))
    }

    fn write_unobserved(&self, write: Write<'_>, durability: Durability) -> Result<ApplyOutcome> {
        let Some(pipeline) = self.pipeline()? else {
            return self.write.commit_one(write, durability);
        };
        let batch = Batch::of_one(write.keyspace, &StoredKey::AsIs(write.key), write.value, write.given);
        pipeline.commit(batch, durability).and_then(single_outcome)
    }
}
