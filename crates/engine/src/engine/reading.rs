//! Reads: single keys, ranges, snapshots.

use hightower_index::pin;

use crate::bounds::KeyBounds;
use crate::engine::SingleNodeEngine;
#[cfg(doc)]
use crate::error::Error;
use crate::error::Result;
use crate::keyspace::with_default_key;
use crate::snapshot::{Range, Snapshot};
use crate::value::Value;

/// # Reading
///
/// No read takes a lock or waits for a writer. A read of several keys sees one consistent state.
impl SingleNodeEngine {
    /// The latest value of `key`. It takes no lock, and costs two or three cache misses, a checksum
    /// and a copy.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// assert_eq!(engine.get("a")?.unwrap(), "1");
    /// assert_eq!(engine.get("b")?, None);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the record is damaged, [`Error::Closed`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        with_default_key(key.as_ref(), |key| self.read.read_latest(key, |value, _| Value::from(value)))
    }

    /// Calls `use_value` with the latest value of `key`, without copying it.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "12345")?;
    /// assert_eq!(engine.get_with("a", |value| value.len())?, Some(5));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, use_value: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        with_default_key(key.as_ref(), |key| self.read.read_latest(key, |value, _| use_value(value)))
    }

    /// The latest value of `key`, and its version.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let version = engine.put_versioned("a", "1")?;
    /// assert_eq!(engine.get_versioned("a")?, Some(("1".into(), version)));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        with_default_key(key.as_ref(), |key| self.read.read_latest(key, |value, version| (Value::from(value), version)))
    }

    /// The values of many keys in one consistent state, in the order of the keys. It is faster than
    /// a sequence of [`get`](Self::get)s, because cache misses overlap.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// assert_eq!(engine.multi_get(&["b", "a"])?, [None, Some("1".into())]);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        self.snapshot()?.multi_get(keys)
    }

    /// All keys with the prefix `prefix`, with their values, in key order, in one consistent state.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("jobs/1", "queued")?;
    /// assert_eq!(engine.get_prefix("jobs/")?, [(b"jobs/1".to_vec(), "queued".into())]);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Vec<(Vec<u8>, Value)>> {
        self.prefix(prefix)?.collect_pairs(usize::MAX)
    }

    /// The current keys in `bounds`, in key order, from either end. The range stays usable after
    /// the store is closed. An item is an error if a table is damaged; it ends the range.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// engine.put("b", "2")?;
    /// let mut backwards = engine.range("a"..="b")?.rev();
    /// assert_eq!(backwards.next().unwrap()?.key(), b"b");
    /// assert_eq!(backwards.next().unwrap()?.into_pair()?, (b"a".to_vec(), "1".into()));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn range(&self, bounds: impl KeyBounds) -> Result<Range> {
        Ok(self.snapshot()?.range(bounds))
    }

    /// The current keys with the prefix `prefix`, in key order, from either end. The range stays
    /// usable after the store is closed.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("jobs/1", "queued")?;
    /// for entry in engine.prefix("jobs/")? {
    ///     let entry = entry?;
    ///     println!("{} is {:?}", entry.key().escape_ascii(), entry.value()?.as_str());
    /// }
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Range> {
        Ok(self.snapshot()?.prefix(prefix))
    }

    /// All current keys, in key order, from either end. A value is read on access.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// for entry in engine.iter()? {
    ///     let entry = entry?;
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

    /// The first key and its value. It costs a copy of both.
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

    /// The last key and its value. It costs a copy of both.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// assert_eq!(engine.last_key_value()?, Some((b"a".to_vec(), "1".into())));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn last_key_value(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.snapshot()?.last_key_value()
    }

    /// Whether `key` has a value. It reads no value.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// assert!(engine.contains_key("a")? && !engine.contains_key("b")?);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a table or a record that it reads is damaged, [`Error::Closed`].
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        with_default_key(key.as_ref(), |key| {
            let guard = pin();
            let found = self.read.index.state(&guard)?.get(key, &guard);
            Ok(self.read.version_of(key, &guard, found)?.is_some())
        })
    }

    /// Calls `reader` with a current snapshot.
    ///
    /// ```
    /// # use hightower_engine::{Error, SingleNodeEngine, StoreConfig};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path()))?;
    /// engine.put("a", "1")?;
    /// let found = engine.read_with(|now| Ok::<_, Error>((now.get("a")?, now.contains_key("b")?)))??;
    /// assert_eq!(found, (Some("1".into()), false));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn read_with<R>(&self, reader: impl FnOnce(&Snapshot) -> R) -> Result<R> {
        Ok(reader(&self.snapshot()?))
    }

    /// A snapshot of the current state. It takes less than 1 µs for any number of keys, and stays
    /// readable after the store is closed.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// let before = engine.snapshot()?;
    /// engine.delete("a")?;
    /// assert_eq!(before.get("a")?.unwrap(), "1");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::new(&self.read)
    }
}
