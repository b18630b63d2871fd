//! The calls of a keyspace.

use std::borrow::Borrow;
use std::ops::ControlFlow;
use std::sync::Arc;

use hightower_index::pin;
use hightower_log::Command;
use hightower_state::ApplyOutcome;

use crate::batch::{Batch, BatchOutcome};
use crate::bounds::KeyBounds;
use crate::commit::Write;
use crate::config::Durability;
use crate::engine::{RangeDeletion, SingleNodeEngine};
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::expect::Expect;
use crate::feed::{ChangeFeed, FeedReach, WatchedRange};
use crate::keyspace::record::CatalogueRecord;
use crate::keyspace::{Keyspace, KeyspaceId, KeyspaceOptions, KeyspaceUse};
use crate::merge::Operator;
use crate::own_methods::by_own_methods;
use crate::snapshot::{Range, Snapshot};
use crate::value::Value;

/// A keyspace that shares its store, to be stored and sent to other threads. From [`Keyspace::of`].
pub type SharedKeyspace = Keyspace<Arc<SingleNodeEngine>>;

/// What the catalogue has about a keyspace. From [`SingleNodeEngine::keyspaces`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceInfo {
    /// The name.
    pub name: String,
    /// The id.
    pub id: KeyspaceId,
    /// The options.
    pub options: KeyspaceOptions,
}

impl KeyspaceInfo {
    pub(crate) fn new((name, record): (String, CatalogueRecord)) -> Self {
        Self { name, id: record.id, options: record.options }
    }
}

impl SharedKeyspace {
    /// As [`SingleNodeEngine::keyspace`], but shares the store.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use hightower_engine::{Keyspace, KeyspaceOptions, SharedKeyspace, SingleNodeEngine};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// let engine = Arc::new(SingleNodeEngine::open(dir.path())?);
    /// engine.create_keyspace("sessions", KeyspaceOptions::default())?;
    /// let sessions: SharedKeyspace = Keyspace::of(&engine, "sessions")?;
    /// std::thread::spawn(move || sessions.put("17", "Ada")).join().unwrap()?;
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::keyspace`].
    pub fn of(engine: &Arc<SingleNodeEngine>, name: &str) -> Result<Self> {
        Ok(Self::new(Arc::clone(engine), engine.catalogue()?.find(name)?))
    }
}

/// Writing, as with the methods of the store that have these names.
impl<E: Borrow<SingleNodeEngine>> Keyspace<E> {
    /// The store.
    pub fn engine(&self) -> &SingleNodeEngine {
        self.engine.borrow()
    }

    /// The durability of calls that have none of their own.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.living().durability().unwrap_or(self.engine().durability())
    }

    fn write(
        &self,
        key: &[u8],
        value: Option<&[u8]>,
        given: Option<(u64, i64)>,
        with: Durability,
    ) -> Result<ApplyOutcome> {
        let key = self.id().stored(key);
        self.engine().write(Write { key: key.as_bytes(), value, given, keyspace: Some(self.living()) }, with)
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::put`], and [`Error::KeyspaceDropped`].
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.put_with(key, value, self.durability())
    }

    /// As [`put`](Self::put), with a durability for this call.
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
        self.write(key.as_ref(), Some(value.as_ref()), None, durability)
    }

    /// Deletes `key`.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
        self.delete_with(key, self.durability())
    }

    /// As [`delete`](Self::delete), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn delete_with(&self, key: impl AsRef<[u8]>, durability: Durability) -> Result<ApplyOutcome> {
        self.write(key.as_ref(), None, None, durability)
    }

    /// Commits a command with its explicit version.
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::submit`], and [`Error::KeyspaceDropped`].
    pub fn submit(&self, command: Command) -> Result<ApplyOutcome> {
        self.submit_with(command, self.durability())
    }

    /// As [`submit`](Self::submit), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`submit`](Self::submit).
    pub fn submit_with(&self, command: Command, durability: Durability) -> Result<ApplyOutcome> {
        let given = Some((command.version(), command.timestamp()));
        self.write(command.key(), command.value(), given, durability)
    }

    /// Commits a batch, as [`SingleNodeEngine::commit`] does. What the batch changes or requires
    /// without naming a keyspace is in this one: the batch is copied for that. A batch that names
    /// the keyspace (such as by [`Batch::put_in`]) and is committed by the store is not copied.
    ///
    /// ```
    /// # use hightower_engine::{Batch, Expect, KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let jobs = engine.create_keyspace("jobs", KeyspaceOptions::default())?;
    /// let mut batch = Batch::new();
    /// batch.require("1", Expect::Absent).put("1", "queued");
    /// assert!(jobs.commit(&batch)?.is_committed());
    /// assert_eq!((jobs.get("1")?.unwrap(), engine.get("1")?), ("queued".into(), None));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::commit`], and [`Error::KeyspaceDropped`].
    pub fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
        self.commit_with(batch, self.durability())
    }

    /// As [`commit`](Self::commit), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        self.engine().commit_owned(batch.within(self.living()), durability)
    }

    /// Commits several commands atomically: on error, none is applied.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
    where
        I: IntoIterator<Item = Command>,
    {
        let mut batch = Batch::new();
        for command in commands {
            batch.submit_in(self, &command);
        }
        Ok(self.engine().commit_owned(batch, self.durability())?.committed()?.outcomes)
    }

    /// As [`put`](Self::put), but returns the version of the value.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn put_versioned(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<u64> {
        self.engine().put_versioned_in(Some(self.living()), key.as_ref(), value.as_ref(), self.durability())
    }

    /// Deletes `key` and returns the version of the delete; `None`, without a write, if the key has
    /// no value.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn remove(&self, key: impl AsRef<[u8]>) -> Result<Option<u64>> {
        let key = key.as_ref();
        let mut batch = Batch::new();
        batch.require_in(self, key, Expect::Present).delete_in(self, key);
        match self.engine().commit_owned(batch, self.durability())? {
            BatchOutcome::Committed(committed) => Ok(committed.versions.first().copied()),
            BatchOutcome::Rejected(_) => Ok(None),
        }
    }

    /// Deletes `key` and returns its value; `None`, without a write, if the key has no value.
    ///
    /// # Errors
    ///
    /// As [`fetch_update`](Self::fetch_update).
    pub fn take(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.fetch_update(key, |_| None::<&[u8]>)
    }

    /// Replaces the value of `key` by the result of `update`, or deletes it if `update` returns
    /// `None`; returns the old value.
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::fetch_update`], and [`Error::KeyspaceDropped`].
    pub fn fetch_update<V: AsRef<[u8]>>(
        &self,
        key: impl AsRef<[u8]>,
        update: impl FnMut(Option<&[u8]>) -> Option<V>,
    ) -> Result<Option<Value>> {
        self.engine().fetch_update_in(Some(self.living()), key.as_ref(), self.durability(), update)
    }

    /// Adds `delta` to the counter `key`, and returns the sum.
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::add`], and [`Error::KeyspaceDropped`].
    pub fn add(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64> {
        self.add_with(key, delta, self.durability())
    }

    /// As [`add`](Self::add), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`add`](Self::add).
    pub fn add_with(&self, key: impl AsRef<[u8]>, delta: i64, durability: Durability) -> Result<i64> {
        self.engine().add_in(Some(self.living()), key.as_ref(), delta, durability)
    }

    /// Merges `operand` into the value of `key` by a registered operator, and returns the new
    /// value; `None` if the key has none.
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::merge`], and [`Error::KeyspaceDropped`].
    pub fn merge(&self, key: impl AsRef<[u8]>, operator: &str, operand: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.merge_with(key, operator, operand, self.durability())
    }

    /// As [`merge`](Self::merge), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`merge`](Self::merge).
    pub fn merge_with(
        &self,
        key: impl AsRef<[u8]>,
        operator: &str,
        operand: impl AsRef<[u8]>,
        durability: Durability,
    ) -> Result<Option<Value>> {
        let (key, operand) = (key.as_ref(), operand.as_ref());
        self.engine().merge_in(Some(self.living()), key, Operator::named(operator), operand, durability)
    }

    /// Deletes all keys with the prefix `prefix`, and returns their number.
    ///
    /// # Errors
    ///
    /// As [`delete_range_with_progress`](Self::delete_range_with_progress).
    pub fn delete_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<u64> {
        self.engine().delete_prefix_in(Some(self.living()), prefix.as_ref(), self.durability())
    }

    /// Deletes all keys in `bounds`, and returns their number. To delete all keys,
    /// [`clear`](Self::clear) is faster.
    ///
    /// # Errors
    ///
    /// As [`delete_range_with_progress`](Self::delete_range_with_progress).
    pub fn delete_range(&self, bounds: impl KeyBounds) -> Result<u64> {
        Ok(self.delete_range_with_progress(bounds, |_| ControlFlow::Continue(()))?.deleted_keys)
    }

    /// As [`SingleNodeEngine::delete_range_with_progress`].
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::delete_range_with_progress`], and [`Error::KeyspaceDropped`].
    pub fn delete_range_with_progress(
        &self,
        bounds: impl KeyBounds,
        watch: impl FnMut(u64) -> ControlFlow<()>,
    ) -> Result<RangeDeletion> {
        let (from, to) = bounds.key_bounds();
        self.engine().delete_range_in(Some(self.living()), (from, to), self.durability(), watch)
    }

    /// Deletes all keys in one commit, however many there are: the keyspace gets a new id under its
    /// name, and the background deletes the keys of the old id. This handle has the new id from
    /// then on. Other handles, and batches and transactions with the old id, return
    /// [`Error::KeyspaceDropped`].
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut cache = engine.create_keyspace("cache", KeyspaceOptions::default())?;
    /// cache.put("a", "1")?;
    /// let id = cache.id();
    /// cache.clear()?;
    /// assert!(cache.is_empty()? && cache.id() > id);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::drop_keyspace`].
    pub fn clear(&mut self) -> Result<()> {
        let cleared = self.engine().catalogue()?.clear(self.living())?;
        self.set_living(cleared);
        Ok(())
    }
}

/// Reading and watching, as with the methods of the store that have these names.
impl<E: Borrow<SingleNodeEngine>> Keyspace<E> {
    /// The latest value of `key`. Costs a copy of the value.
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::get`], and [`Error::KeyspaceDropped`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.read(key.as_ref(), |value, _| Value::from(value))
    }

    /// Calls `use_value` with the latest value of `key`, without copying it.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, use_value: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        self.read(key.as_ref(), |value, _| use_value(value))
    }

    /// The latest value of `key`, and its version.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        self.read(key.as_ref(), |value, version| (Value::from(value), version))
    }

    /// Whether `key` has a value. Reads no value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let (key, guard, read) = (self.id().stored(key.as_ref()), pin(), &self.engine().read);
        let found = read.index.state(&guard)?.get(key.as_bytes(), &guard);
        let version = read.version_of(key.as_bytes(), &guard, found)?;
        self.living().check()?;
        Ok(version.is_some())
    }

    /// A snapshot whose reads are about this keyspace. [`Snapshot::keyspace`] reads others as of
    /// the same moment.
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::snapshot`], and [`Error::KeyspaceDropped`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        let snapshot = self.engine().snapshot()?.of(self.id());
        // After the snapshot: what it shows was there while the keyspace was.
        self.living().check()?;
        Ok(snapshot)
    }

    /// The latest values of many keys, as of one moment, in the order of the keys.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        self.snapshot()?.multi_get(keys)
    }

    /// The keys in `bounds`, in key order, from either end, as of now.
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot).
    pub fn range(&self, bounds: impl KeyBounds) -> Result<Range> {
        Ok(self.snapshot()?.range(bounds))
    }

    /// The keys that begin with `prefix`, in key order, from either end, as of now.
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot).
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Range> {
        Ok(self.snapshot()?.prefix(prefix))
    }

    /// All keys, in key order, from either end, as of now.
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot).
    pub fn iter(&self) -> Result<Range> {
        self.range(..)
    }

    /// All keys that begin with `prefix`, with their values, in key order.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
        self.prefix(prefix)?.collect_pairs(usize::MAX)
    }

    /// The first key and its value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn first_key_value(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.snapshot()?.first_key_value()
    }

    /// The last key and its value.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn last_key_value(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.snapshot()?.last_key_value()
    }

    /// The number of keys, and the bytes of keys and values, as
    /// [quotas](KeyspaceOptions::max_bytes) count them. Costs a pass over them, unless the keyspace
    /// has a quota and was written to since the open.
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let jobs = engine.create_keyspace("jobs", KeyspaceOptions::default())?;
    /// jobs.put("1", "queued")?;
    /// assert_eq!((jobs.usage()?.keys, jobs.usage()?.bytes), (1, 7));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn usage(&self) -> Result<KeyspaceUse> {
        let used = self.engine().write.use_of(self.id())?;
        self.living().check()?;
        Ok(used)
    }

    /// The number of keys. Costs a pass over them.
    ///
    /// # Errors
    ///
    /// As [`snapshot`](Self::snapshot); [`Error::Corrupt`] if a table is damaged.
    pub fn len(&self) -> Result<u64> {
        self.iter()?.count_keys()
    }

    /// Whether there is no key. Looks for the first key only.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.iter()?.next().transpose()?.is_none())
    }

    /// The commits after `after_seqno` that change keys in `bounds` of this keyspace, and all later
    /// ones. If the keyspace is dropped, the background deletes its keys: the feed shows that.
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let jobs = engine.create_keyspace("jobs", KeyspaceOptions::default())?;
    /// let mut feed = jobs.watch(.., engine.latest_seq())?;
    /// engine.put("1", "not in this keyspace")?;
    /// jobs.put("1", "queued")?;
    /// let commit = feed.next().unwrap()?;
    /// let change = commit.changes().next().unwrap();
    /// assert_eq!((change.keyspace(), change.key()), (jobs.id(), &b"1"[..]));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`SingleNodeEngine::watch`], and [`Error::KeyspaceDropped`].
    pub fn watch(&self, bounds: impl KeyBounds, after_seqno: u64) -> Result<ChangeFeed> {
        let (from, to) = bounds.key_bounds();
        self.feed(WatchedRange::of(&self.id().stored_bounds(from, to)), after_seqno, FeedReach::Visible)
    }

    /// As [`watch`](Self::watch), for the keys with a prefix.
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub fn watch_prefix(&self, prefix: impl AsRef<[u8]>, after_seqno: u64) -> Result<ChangeFeed> {
        self.feed(WatchedRange::of(&self.id().stored_prefix(prefix.as_ref())), after_seqno, FeedReach::Visible)
    }

    /// As [`watch`](Self::watch), but returns a commit only once no power loss can take it.
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub fn watch_durable(&self, bounds: impl KeyBounds, after_seqno: u64) -> Result<ChangeFeed> {
        let (from, to) = bounds.key_bounds();
        self.feed(WatchedRange::of(&self.id().stored_bounds(from, to)), after_seqno, FeedReach::Durable)
    }

    fn feed(&self, range: WatchedRange, after_seqno: u64, reach: FeedReach) -> Result<ChangeFeed> {
        self.living().check()?;
        self.engine().feed(range, after_seqno, reach)
    }
}

by_own_methods!({ E: Borrow<SingleNodeEngine> + Send + Sync } Keyspace<E>);

const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<SharedKeyspace>();
};
