//! Transactions: reads at a snapshot, buffered writes, and a commit that validates the reads.
//!
//! A transaction builds a [`Batch`] with requirements while it runs. Each key that it reads becomes
//! a requirement on the key's version. Each range that it reads becomes a requirement that nothing
//! in the range has changed since the snapshot. Its commit is therefore the commit of a batch, and
//! it takes no lock before that.

pub(crate) mod counters;
mod local;
mod merging;
mod range;
mod reads;
mod retry;
mod writes;

use std::fmt;
use std::ops::Bound;

use crate::batch::Committed;
use crate::bounds::KeyBounds;
use crate::config::Durability;
use crate::engine::SingleNodeEngine;
use crate::error::Result;
use crate::keyspace::{Keyspace, KeyspaceId};
use crate::ticket::Ticket;
use crate::traits::{KvReader, Pairs};
use crate::value::Value;
use counters::committed;
use local::LocalState;

pub use counters::TransactionStats;
pub use range::{TransactionEntry, TransactionRange};
pub(crate) use retry::Retries;
pub use writes::Savepoint;

/// Reads and writes that take effect together, at the moment of the commit.
///
/// Reads see the store as of the transaction's beginning, and the transaction's own writes. Writes
/// are buffered until [`commit`](Self::commit). The commit validates that no read has become
/// outdated: of keys, of absent keys, and of ranges as far as the transaction has read them.
/// Otherwise it commits nothing and returns
/// [`Error::TransactionConflict`](crate::Error::TransactionConflict). Committed transactions and
/// batches are therefore serializable: the result is that of running them one after another in the
/// order of their seqs. A transaction without writes always commits.
///
/// No lock is held before the commit. Dropping a transaction discards it.
/// [`SingleNodeEngine::update`] repeats a transaction until it has no conflict.
///
/// A transaction keeps its read set and its writes in memory, up to
/// [`max_transaction_bytes`](crate::StoreConfig::max_transaction_bytes). While it lives, the store
/// keeps the old versions that it can see. Reading a key again takes no more memory.
///
/// ```
/// use hightower_engine::{Error, SingleNodeEngine};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let engine = SingleNodeEngine::open(dir.path())?;
/// engine.put("stock/apples", "3")?;
/// let mut order = engine.transaction()?;
/// let apples: u32 = order.get("stock/apples")?.unwrap().as_str().unwrap().parse().unwrap();
/// order.put("stock/apples", (apples - 1).to_string())?;
/// order.put("orders/17", "an apple")?;
/// assert_eq!(order.get("stock/apples")?.unwrap(), "2");
/// assert_eq!(engine.get("stock/apples")?.unwrap(), "3");
///
/// engine.put("stock/apples", "0")?;
/// let Err(Error::TransactionConflict(conflict)) = order.commit() else { panic!() };
/// assert_eq!(conflict.key, b"stock/apples");
/// assert_eq!(engine.get("orders/17")?, None);
/// # Ok::<(), Error>(())
/// ```
#[must_use = "dropping a transaction discards it: commit it"]
pub struct Transaction<'e> {
    engine: &'e SingleNodeEngine,
    local: LocalState<'e>,
}

impl<'e> Transaction<'e> {
    pub(crate) fn begin(engine: &'e SingleNodeEngine, limit_bytes: usize) -> Result<Self> {
        let local = LocalState::new(engine.snapshot()?, limit_bytes, &engine.transactions);
        Ok(Self { engine, local })
    }

    /// The seq of the latest commit that its reads show.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.local.snapshot.seq()
    }

    /// The memory of its read set and its writes, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.local.len_bytes()
    }

    /// The number of keys that it writes.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.local.writes.len()
    }

    /// The value of `key`, as of the beginning or as written by the transaction. Costs a copy of
    /// the value, and on the first read a copy of the key.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify,
    /// [`Error::LimitExceeded`](crate::Error::LimitExceeded) over the memory limit of a transaction
    /// with writes.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        Ok(self.local.read(&KeyspaceId::DEFAULT.stored(key.as_ref()))?.map(|(value, _)| value))
    }

    /// Whether `key` has a value. Reads no value.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`](crate::Error::LimitExceeded) over the memory limit of a transaction
    /// with writes.
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        self.local.contains_key(&KeyspaceId::DEFAULT.stored(key.as_ref()))
    }

    /// Iterates, from either end, over the keys in `bounds` that have a value, in the store or
    /// written by the transaction, in key order. Values are read on request.
    ///
    /// The commit conflicts if the part of the range that was read, from either end, has changed by
    /// then.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("b", "2")?;
    /// engine.put("c", "3")?;
    /// let mut transaction = engine.transaction()?;
    /// transaction.put("a", "1")?;
    /// transaction.delete("b")?;
    /// let keys: Vec<_> = transaction.range(..)?.rev().map(|entry| entry.unwrap().key().to_vec()).collect();
    /// assert_eq!(keys, [b"c", b"a"]);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`](crate::Error::LimitExceeded) over the memory limit of a transaction
    /// with writes. Items can have the same error.
    pub fn range(&self, bounds: impl KeyBounds) -> Result<TransactionRange<'_>> {
        let (from, to) = bounds.key_bounds();
        TransactionRange::new(&self.local, &KeyspaceId::DEFAULT.stored_bounds(from, to))
    }

    /// The keys that begin with `prefix` and have a value, otherwise as [`range`](Self::range).
    ///
    /// # Errors
    ///
    /// As [`range`](Self::range).
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<TransactionRange<'_>> {
        TransactionRange::new(&self.local, &KeyspaceId::DEFAULT.stored_prefix(prefix.as_ref()))
    }

    /// Sets `key` to `value` at the commit. Costs a copy of both.
    ///
    /// # Errors
    ///
    /// [`Error::LimitExceeded`](crate::Error::LimitExceeded) or
    /// [`Error::Validation`](crate::Error::Validation) for an invalid key or value, for more than
    /// 65,536 written keys, or over the memory limit. An error leaves the transaction unchanged.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.local.write(&KeyspaceId::DEFAULT.stored(key.as_ref()), Some(value.as_ref()))
    }

    /// Deletes `key` at the commit. The commit writes a tombstone even if the key is absent.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put).
    pub fn delete(&mut self, key: impl AsRef<[u8]>) -> Result<()> {
        self.local.write(&KeyspaceId::DEFAULT.stored(key.as_ref()), None)
    }

    /// As [`get`](Self::get), in a keyspace.
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let users = engine.create_keyspace("users", KeyspaceOptions::default())?;
    /// let names = engine.create_keyspace("names", KeyspaceOptions::default())?;
    /// engine.update(|transaction| {
    ///     if transaction.get_in(&names, "Ada")?.is_none() {
    ///         transaction.put_in(&users, "17", "Ada")?;
    ///         transaction.put_in(&names, "Ada", "17")?;
    ///     }
    ///     Ok(())
    /// })?;
    /// assert_eq!(users.get("17")?.unwrap(), "Ada");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get); [`Error::KeyspaceDropped`](crate::Error::KeyspaceDropped), which the
    /// commit returns, too, if any keyspace that was read or written is dropped by then.
    pub fn get_in<E>(&self, keyspace: &Keyspace<E>, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.local.enter(keyspace.living())?;
        Ok(self.local.read(&keyspace.id().stored(key.as_ref()))?.map(|(value, _)| value))
    }

    /// As [`contains_key`](Self::contains_key), in a keyspace.
    ///
    /// # Errors
    ///
    /// As [`get_in`](Self::get_in).
    pub fn contains_key_in<E>(&self, keyspace: &Keyspace<E>, key: impl AsRef<[u8]>) -> Result<bool> {
        self.local.enter(keyspace.living())?;
        self.local.contains_key(&keyspace.id().stored(key.as_ref()))
    }

    /// As [`range`](Self::range), in a keyspace.
    ///
    /// # Errors
    ///
    /// As [`range`](Self::range) and [`get_in`](Self::get_in).
    pub fn range_in<E>(&self, keyspace: &Keyspace<E>, bounds: impl KeyBounds) -> Result<TransactionRange<'_>> {
        self.local.enter(keyspace.living())?;
        let (from, to) = bounds.key_bounds();
        TransactionRange::new(&self.local, &keyspace.id().stored_bounds(from, to))
    }

    /// As [`prefix`](Self::prefix), in a keyspace.
    ///
    /// # Errors
    ///
    /// As [`range_in`](Self::range_in).
    pub fn prefix_in<E>(&self, keyspace: &Keyspace<E>, prefix: impl AsRef<[u8]>) -> Result<TransactionRange<'_>> {
        self.local.enter(keyspace.living())?;
        TransactionRange::new(&self.local, &keyspace.id().stored_prefix(prefix.as_ref()))
    }

    /// As [`put`](Self::put), in a keyspace.
    ///
    /// # Errors
    ///
    /// As [`put`](Self::put) and [`get_in`](Self::get_in).
    pub fn put_in<E>(&mut self, keyspace: &Keyspace<E>, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.local.enter(keyspace.living())?;
        self.local.write(&keyspace.id().stored(key.as_ref()), Some(value.as_ref()))
    }

    /// As [`delete`](Self::delete), in a keyspace.
    ///
    /// # Errors
    ///
    /// As [`put_in`](Self::put_in).
    pub fn delete_in<E>(&mut self, keyspace: &Keyspace<E>, key: impl AsRef<[u8]>) -> Result<()> {
        self.local.enter(keyspace.living())?;
        self.local.write(&keyspace.id().stored(key.as_ref()), None)
    }

    /// A point to which the transaction can be [rolled back](Self::rollback_to).
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut transaction = engine.transaction()?;
    /// transaction.put("a", "1")?;
    /// let before = transaction.savepoint();
    /// transaction.put("a", "2")?;
    /// transaction.delete("b")?;
    /// transaction.rollback_to(&before)?;
    /// assert_eq!((transaction.get("a")?.unwrap().to_vec(), transaction.writes()), (b"1".to_vec(), 1));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    pub fn savepoint(&mut self) -> Savepoint {
        self.local.writes.savepoint()
    }

    /// Discards the writes since a savepoint. Reads since then stay in the read set, because the
    /// transaction may have acted on them. The savepoint can be used again; later ones end.
    ///
    /// # Errors
    ///
    /// [`Error::Validation`](crate::Error::Validation) if the savepoint belongs to another
    /// transaction or has ended.
    pub fn rollback_to(&mut self, savepoint: &Savepoint) -> Result<()> {
        self.local.rollback_to(savepoint)
    }

    /// Validates the reads and commits the writes together, with the durability of the store. The
    /// outcomes and versions are in key order. A transaction without writes commits nothing and
    /// returns the seq of its snapshot.
    ///
    /// # Errors
    ///
    /// [`Error::TransactionConflict`](crate::Error::TransactionConflict) if another commit has
    /// changed a key or range that was read; then nothing is committed. Other errors as for a
    /// batch: [`SingleNodeEngine::commit`].
    pub fn commit(self) -> Result<Committed> {
        let durability = self.engine.durability();
        self.commit_with(durability)
    }

    /// As [`commit`](Self::commit), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    pub fn commit_with(mut self, durability: Durability) -> Result<Committed> {
        match self.local.take_batch()? {
            None => Ok(self.nothing_committed()),
            Some(batch) => {
                let outcome = self.engine.commit_owned(batch, durability).and_then(committed);
                self.engine.transactions.count(outcome)
            }
        }
    }

    /// Queues the commit, as [`SingleNodeEngine::commit_async`] does.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// let engine = SingleNodeEngine::builder(dir.path()).commit_queue_depth(1024).open()?;
    /// let mut transaction = engine.transaction()?;
    /// transaction.put("a", "1")?;
    /// let ticket = transaction.commit_async()?;
    /// assert_eq!(ticket.wait()?.versions.len(), 1);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`](crate::Error::Closed) if the engine is closed; other errors come with the
    /// ticket.
    pub fn commit_async(self) -> Result<Ticket<Committed>> {
        let durability = self.engine.durability();
        self.commit_async_with(durability)
    }

    /// As [`commit_async`](Self::commit_async), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`commit_async`](Self::commit_async).
    pub fn commit_async_with(mut self, durability: Durability) -> Result<Ticket<Committed>> {
        match self.local.take_batch()? {
            None => Ok(Ticket::ready(Ok(self.nothing_committed()))),
            Some(batch) => self.engine.commit_transaction_async(batch, durability),
        }
    }

    fn nothing_committed(&self) -> Committed {
        Committed::new(self.seq(), Vec::new(), Vec::new())
    }
}

impl KvReader for Transaction<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        Self::get(self, key)
    }

    /// The version is 0 for a value that the transaction has written itself.
    fn get_versioned(&self, key: &[u8]) -> Result<Option<(Value, u64)>> {
        self.local.read(&KeyspaceId::DEFAULT.stored(key))
    }

    fn contains_key(&self, key: &[u8]) -> Result<bool> {
        Self::contains_key(self, key)
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
        Ok(Box::new(Self::range(self, (from, to))?.map(|entry| entry?.into_pair())))
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Transaction")
            .field("seq", &self.seq())
            .field("writes", &self.writes())
            .finish_non_exhaustive()
    }
}

/// Threads can send and share these types, like all types that callers hold.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Transaction<'_>>();
    is_shared::<TransactionRange<'_>>();
};
