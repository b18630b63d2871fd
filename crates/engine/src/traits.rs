//! The traits of engines and readers, for the layers above.

use std::ops::Bound;
use std::sync::Arc;

use hightower_log::Command;
use hightower_state::{ApplyOutcome, KvState};

use crate::batch::{Batch, BatchOutcome};
use crate::bounds::prefix_end;
use crate::config::Durability;
use crate::error::Result;
use crate::keyspace::Keyspace;
use crate::merge::counter;
use crate::value::Value;

/// A key-value engine. Services are written against this trait, so that they run on a store, a
/// checked view of one, or a test's engine.
///
/// References and `Arc`s of engines implement it too. It takes keys and values as
/// [`SingleNodeEngine`](crate::SingleNodeEngine) does, so that calls read the same on all of them.
/// Every method may be called from any thread.
pub trait KvEngine: Send + Sync {
    /// Commits one command with its own version, which is at most
    /// [`MAX_SUBMITTED_VERSION`](crate::limits::MAX_SUBMITTED_VERSION).
    ///
    /// # Errors
    ///
    /// If the command is over a limit, or the engine refuses writes.
    fn submit(&self, command: Command) -> Result<ApplyOutcome>;

    /// Commits several commands atomically: on error, none is applied.
    ///
    /// # Errors
    ///
    /// If a command or the batch is over a limit, or the engine refuses writes.
    fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
    where
        I: IntoIterator<Item = Command>;

    /// Commits a batch atomically, if its conditions hold. A rejection is an outcome, not an error.
    ///
    /// # Errors
    ///
    /// If a command or the batch is over a limit, or the engine refuses writes.
    fn commit(&self, batch: &Batch) -> Result<BatchOutcome>;

    /// As [`commit`](Self::commit), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome>;

    /// Sets the value of `key`, with a version above every version that the engine has seen.
    ///
    /// # Errors
    ///
    /// If the key or value is over a limit, or the engine refuses writes.
    fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome>;

    /// Deletes `key`, with a version above every version that the engine has seen.
    ///
    /// # Errors
    ///
    /// If the key is over a limit, or the engine refuses writes.
    fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome>;

    /// The latest value of `key`.
    ///
    /// # Errors
    ///
    /// If the value cannot be read or does not verify.
    fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>>;

    /// The latest value of `key`, and its version, for a later
    /// [`Expect::Version`](crate::Expect::Version).
    ///
    /// # Errors
    ///
    /// If the value cannot be read or does not verify.
    fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>>;

    /// All keys that start with `prefix`, with their values, in key order, as of one moment.
    ///
    /// # Errors
    ///
    /// If a value cannot be read or does not verify.
    fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>>;

    /// The first `limit` keys between two bounds, with their values, in key order, as of one
    /// moment.
    ///
    /// # Errors
    ///
    /// If a value cannot be read or does not verify.
    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>>;

    /// The keys between two bounds, with their values, in key order, as of one moment. An item is
    /// an error if its value cannot be read or does not verify. The default implementation is a
    /// [`scan`](Self::scan) of the whole range, held in memory.
    ///
    /// # Errors
    ///
    /// If the range cannot be read at all.
    fn pairs(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
        Ok(Box::new(self.scan(from, to, usize::MAX)?.into_iter().map(Ok)))
    }
}

/// An engine with keyspaces: its batches may name them, and it reads them. The calls of
/// [`KvEngine`] are about its own keys. A layer keeps its records in a
/// [reserved keyspace](crate::ReservedKeyspace), and can change them in one commit with keys of
/// users, who cannot reach them.
pub trait KeyspaceEngine: KvEngine {
    /// As [`get_versioned`](KvEngine::get_versioned), in a keyspace.
    ///
    /// # Errors
    ///
    /// As [`get_versioned`](KvEngine::get_versioned); if the keyspace is one of another store, or
    /// was dropped.
    fn get_versioned_in<K>(&self, keyspace: &Keyspace<K>, key: &[u8]) -> Result<Option<(Value, u64)>>;

    /// As [`scan`](KvEngine::scan), in a keyspace.
    ///
    /// # Errors
    ///
    /// As [`scan`](KvEngine::scan); if the keyspace is one of another store, or was dropped.
    fn scan_in<K>(
        &self,
        keyspace: &Keyspace<K>,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Value)>>;
}

/// The pairs of a range of a [`KvReader`] or [`KvEngine`]: keys with values, in key order, from
/// either end.
pub type Pairs<'a> = Box<dyn DoubleEndedIterator<Item = Result<(Vec<u8>, Value)>> + Send + 'a>;

/// A readable map: a store, or a [`Snapshot`](crate::Snapshot) of one. Code that only reads takes a
/// `&dyn KvReader` or an `Arc<dyn KvReader>`, and works with either.
///
/// Unlike [`KvEngine`], this trait can be a trait object. The prelude does not contain it.
/// References and `Arc`s do not implement it, but dereference to types that do. So calls on a store
/// itself keep their meaning.
///
/// ```
/// use std::sync::Arc;
/// use hightower_engine::{KvReader, Result, SingleNodeEngine};
///
/// fn total_len(reader: &dyn KvReader, prefix: &[u8]) -> Result<usize> {
///     reader.prefix(prefix)?.try_fold(0, |sum, pair| Ok(sum + pair?.1.len()))
/// }
///
/// # let dir = tempfile::tempdir().unwrap();
/// let engine = SingleNodeEngine::open(dir.path())?;
/// engine.put("a/1", "four")?;
/// let moment: Arc<dyn KvReader> = Arc::new(engine.snapshot()?);
/// engine.put("a/2", "five!")?;
/// assert_eq!((total_len(&engine, b"a/")?, total_len(&*moment, b"a/")?), (9, 4));
/// # Ok::<(), hightower_engine::Error>(())
/// ```
pub trait KvReader: Send + Sync {
    /// The value of `key`. Costs a copy.
    ///
    /// # Errors
    ///
    /// If the value cannot be read or does not verify.
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        Ok(self.get_versioned(key)?.map(|(value, _)| value))
    }

    /// The value of `key`, and its version. Costs a copy.
    ///
    /// # Errors
    ///
    /// If the value cannot be read or does not verify.
    fn get_versioned(&self, key: &[u8]) -> Result<Option<(Value, u64)>>;

    /// Whether `key` has a value.
    ///
    /// # Errors
    ///
    /// If the index or the record cannot be read.
    fn contains_key(&self, key: &[u8]) -> Result<bool> {
        Ok(self.get_versioned(key)?.is_some())
    }

    /// The keys between two bounds, with their values, in key order, as of one moment. An item is
    /// an error if its value cannot be read or does not verify; later items follow. Costs an
    /// allocation, and for each item a copy of the key and the value.
    ///
    /// # Errors
    ///
    /// If the range cannot be read at all.
    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>>;

    /// The keys that begin with `prefix`, otherwise as [`range`](Self::range).
    ///
    /// # Errors
    ///
    /// As [`range`](Self::range).
    fn prefix(&self, prefix: &[u8]) -> Result<Pairs<'_>> {
        let end = prefix_end(prefix);
        self.range(Bound::Included(prefix), end.as_deref().map_or(Bound::Unbounded, Bound::Excluded))
    }
}

/// A readable and writable map: a service needs only an `Arc<dyn KvWriter>` of its store, which
/// converts to an `Arc<dyn KvReader>`.
///
/// ```
/// use std::sync::Arc;
/// use hightower_engine::{Batch, Expect, KvReader, KvWriter, SingleNodeEngine};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let store: Arc<dyn KvWriter> = Arc::new(SingleNodeEngine::open(dir.path())?);
/// store.put(b"a", b"1")?;
/// store.commit(Batch::new().delete("a").require("a", Expect::Present))?.committed()?;
/// let reader: Arc<dyn KvReader> = store;
/// assert_eq!(reader.get(b"a")?, None);
/// # Ok::<(), hightower_engine::Error>(())
/// ```
pub trait KvWriter: KvReader {
    /// Commits a batch atomically, if its conditions hold. A rejection is an outcome, not an error.
    ///
    /// # Errors
    ///
    /// If the batch is over a limit, or writes are refused.
    fn commit(&self, batch: &Batch) -> Result<BatchOutcome>;

    /// As [`commit`](Self::commit), with a durability for this call.
    ///
    /// # Errors
    ///
    /// As [`commit`](Self::commit).
    fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome>;

    /// Sets the value of `key`, with a version above every version that the store has seen.
    ///
    /// # Errors
    ///
    /// If the key or value is over a limit, or writes are refused.
    fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
        self.commit(Batch::new().put(key, value))?.committed()?;
        Ok(())
    }

    /// Deletes `key`, with a version above every version that the store has seen.
    ///
    /// # Errors
    ///
    /// If the key is over a limit, or writes are refused.
    fn delete(&self, key: &[u8]) -> Result<()> {
        self.commit(Batch::new().delete(key))?.committed()?;
        Ok(())
    }

    /// Adds `delta` to the counter `key`, and returns the sum, as
    /// [`SingleNodeEngine::add`](crate::SingleNodeEngine::add).
    ///
    /// # Errors
    ///
    /// If the value is no counter, the sum does not fit, or writes are refused.
    fn add(&self, key: &[u8], delta: i64) -> Result<i64> {
        counter(key, self.commit(Batch::new().add(key, delta))?.merged()?.as_deref().unwrap_or_default())
    }

    /// Merges `operand` into the value of `key`, and returns the new value, as
    /// [`SingleNodeEngine::merge`](crate::SingleNodeEngine::merge).
    ///
    /// # Errors
    ///
    /// If the operator is not known or refuses, a limit is exceeded, or writes are refused.
    fn merge(&self, key: &[u8], operator: &str, operand: &[u8]) -> Result<Option<Value>> {
        self.commit(Batch::new().merge(key, operator, operand))?.merged()
    }
}

/// An engine that can copy its whole state as of one moment.
pub trait SnapshotEngine {
    /// A copy of the whole state, tombstones included. It takes the memory of all keys and values.
    ///
    /// # Errors
    ///
    /// If a value cannot be read or does not verify.
    fn snapshot_state(&self) -> Result<KvState>;

    /// The highest version that the engine has seen.
    fn latest_version(&self) -> u64;

    /// The seq of the latest commit.
    fn latest_seq(&self) -> u64;
}

macro_rules! delegate {
    ($($target:ty),*) => {$(
        impl<E: KvEngine + ?Sized> KvEngine for $target {
            fn submit(&self, command: Command) -> Result<ApplyOutcome> {
                (**self).submit(command)
            }

            fn submit_batch<I>(&self, commands: I) -> Result<Vec<ApplyOutcome>>
            where
                I: IntoIterator<Item = Command>,
            {
                (**self).submit_batch(commands)
            }

            fn commit(&self, batch: &Batch) -> Result<BatchOutcome> {
                (**self).commit(batch)
            }

            fn commit_with(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
                (**self).commit_with(batch, durability)
            }

            fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
                (**self).put(key, value)
            }

            fn delete(&self, key: impl AsRef<[u8]>) -> Result<ApplyOutcome> {
                (**self).delete(key)
            }

            fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
                (**self).get(key)
            }

            fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
                (**self).get_versioned(key)
            }

            fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
                (**self).get_prefix(prefix)
            }

            fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Value)>> {
                (**self).scan(from, to, limit)
            }

            fn pairs(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
                (**self).pairs(from, to)
            }
        }

        impl<E: KeyspaceEngine + ?Sized> KeyspaceEngine for $target {
            fn get_versioned_in<K>(&self, keyspace: &Keyspace<K>, key: &[u8]) -> Result<Option<(Value, u64)>> {
                (**self).get_versioned_in(keyspace, key)
            }

            fn scan_in<K>(
                &self,
                keyspace: &Keyspace<K>,
                from: Bound<&[u8]>,
                to: Bound<&[u8]>,
                limit: usize,
            ) -> Result<Vec<(Vec<u8>, Value)>> {
                (**self).scan_in(keyspace, from, to, limit)
            }
        }

        impl<E: SnapshotEngine + ?Sized> SnapshotEngine for $target {
            fn snapshot_state(&self) -> Result<KvState> {
                (**self).snapshot_state()
            }

            fn latest_version(&self) -> u64 {
                (**self).latest_version()
            }

            fn latest_seq(&self) -> u64 {
                (**self).latest_seq()
            }
        }
    )*};
}

delegate!(&E, Arc<E>, Box<E>);
