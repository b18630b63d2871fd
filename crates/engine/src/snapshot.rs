//! Snapshots: the store as of one moment.

use std::cell::RefCell;
use std::fmt;
use std::iter::FusedIterator;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use hightower_index::{Guard, pin};
use hightower_state::{EntryRecord, KvState, LeveledRange, LeveledSnapshot, Lookup, Versioned, Visited};

use crate::bounds::KeyBounds;
use crate::entry_key::EntryKey;
use crate::error::Result;
use crate::keyspace::{KeyspaceId, StoredBounds, StoredKey, is_stored_as_is, of_user, user_part};
use crate::place::Place;
use crate::read_path::ReadPath;
use crate::table::SequentialReads;
use crate::traits::{KvReader, Pairs};
use crate::value::Value;

/// Number of keys that a [`Snapshot::multi_get`] looks up before it reads the first value: enough
/// that the records have reached the cache, few enough that they are not evicted again.
const MULTI_GET_TOGETHER: usize = 16;

/// Number of items that an internal iteration visits under one guard: enough that the guard's cost
/// is negligible, few enough that the guard does not delay the freeing of memory.
const ITEMS_PER_GUARD: usize = 256;

/// A consistent view of the store: all commits up to one seq, none after.
///
/// Taking and dropping a snapshot costs less than a microsecond for any number of keys; a clone
/// costs less. While a snapshot exists, the store retains the old versions that it can see. A
/// snapshot may be sent to other threads, and may outlive its engine.
///
/// ```
/// # let dir = tempfile::tempdir().unwrap();
/// # let engine = hightower_engine::SingleNodeEngine::open(dir.path())?;
/// engine.put("a", "1")?;
/// let snapshot = engine.snapshot()?;
/// engine.put("a", "2")?;
/// assert_eq!(snapshot.get("a")?.unwrap(), b"1");
/// assert_eq!(engine.get("a")?.unwrap(), b"2");
/// # Ok::<(), hightower_engine::Error>(())
/// ```
#[derive(Clone)]
pub struct Snapshot {
    read: Arc<ReadPath>,
    state: LeveledSnapshot<Place>,
    /// The keyspace that reads are about.
    keyspace: KeyspaceId,
}

impl Snapshot {
    pub(crate) fn new(read: &Arc<ReadPath>) -> Result<Self> {
        let state = read.index.state(&pin())?.snapshot();
        Ok(Self { read: Arc::clone(read), state, keyspace: KeyspaceId::DEFAULT })
    }

    /// The same moment, with reads that are about another keyspace.
    pub(crate) fn of(mut self, keyspace: KeyspaceId) -> Self {
        self.keyspace = keyspace;
        self
    }

    /// The seq of the latest commit that the snapshot shows.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.state.seq()
    }

    /// The value that `key` had. Costs a copy of the value.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.get_with(key, |value| Value::from(value))
    }

    /// Calls `use_value` with the value that `key` had, without copying it.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify.
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, use_value: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        let (key, guard) = (self.keyspace.stored(key.as_ref()), pin());
        let key = key.as_bytes();
        self.read.read(key, &guard, |guard| self.find(key, guard), |value, _| use_value(value))
    }

    /// The value that `key` had, and its version.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify.
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        self.stored_value(&self.keyspace.stored(key.as_ref()))
    }

    pub(crate) fn store_number(&self) -> u64 {
        self.read.store_number
    }

    /// The value of a stored key, and its version.
    pub(crate) fn stored_value(&self, key: &StoredKey<'_>) -> Result<Option<(Value, u64)>> {
        let (key, guard) = (key.as_bytes(), pin());
        self.read.read(key, &guard, |guard| self.find(key, guard), |value, version| (Value::from(value), version))
    }

    /// The version of the value of a stored key. Reads no value.
    pub(crate) fn stored_version(&self, key: &StoredKey<'_>) -> Result<Option<u64>> {
        let (key, guard) = (key.as_bytes(), pin());
        self.read.version_of(key, &guard, self.state.get(key, &guard))
    }

    /// The keys of all keyspaces but the default one.
    pub(crate) fn others(&self) -> Range {
        self.stored_range(&StoredBounds::behind_default())
    }

    /// The existing keys between two bounds.
    pub(crate) fn stored_range(&self, bounds: &StoredBounds<'_>) -> Range {
        self.range_between(bounds.from(), bounds.to())
    }

    fn range_between(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Range {
        Range { snapshot: self.clone(), inner: self.state.range(from, to), order: SequentialReads::default() }
    }

    pub(crate) fn state(&self) -> &LeveledSnapshot<Place> {
        &self.state
    }

    fn find<'g>(&'g self, key: &'g [u8], guard: &'g Guard) -> Lookup<'g, Place> {
        self.state.get_hinted(key, guard, |hint| self.read.prefetch_hinted(hint, guard))
    }

    /// The values that many keys had, in the order of the keys. Faster than a [`get`](Self::get)
    /// per key, because cache misses overlap.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if a record does not verify.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Value>>> {
        let guard = pin();
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(MULTI_GET_TOGETHER) {
            if self.keyspace == KeyspaceId::DEFAULT && keys.iter().all(|key| is_stored_as_is(key.as_ref())) {
                self.get_together(keys, &guard, &mut values)?;
            } else {
                let stored: Vec<_> = keys.iter().map(|key| self.keyspace.stored(key.as_ref())).collect();
                self.get_together(&stored, &guard, &mut values)?;
            }
        }
        Ok(values)
    }

    /// Adds the values of at most [`MULTI_GET_TOGETHER`] stored keys.
    fn get_together<K: AsRef<[u8]>>(&self, keys: &[K], guard: &Guard, values: &mut Vec<Option<Value>>) -> Result<()> {
        let mut lookups = [const { Lookup::Absent }; MULTI_GET_TOGETHER];
        self.state.get_many(keys, guard, |at, lookup| {
            if let Lookup::Found(found) = &lookup {
                self.read.prefetch(found.location, guard);
            }
            if let Some(slot) = lookups.get_mut(at) {
                *slot = lookup;
            }
        });
        for (key, lookup) in keys.iter().zip(lookups) {
            values.push(self.read.read(key.as_ref(), guard, |_| lookup, |value, _| Value::from(value))?);
        }
        Ok(())
    }

    /// Whether `key` had a value. Reads no value.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if a table, or a record that it points to, is
    /// damaged.
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.stored_version(&self.keyspace.stored(key.as_ref()))?.is_some())
    }

    /// The keys in `bounds` that had a value, in key order, from either end. Values are read on
    /// request.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = hightower_engine::SingleNodeEngine::open(dir.path())?;
    /// for key in ["a", "b", "c"] {
    ///     engine.put(key, key.to_uppercase())?;
    /// }
    /// let snapshot = engine.snapshot()?;
    /// let mut keys = snapshot.range("b"..).rev();
    /// assert_eq!(keys.next().unwrap()?.key(), b"c");
    /// assert_eq!(snapshot.range(..).next().unwrap()?.value()?, b"A");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn range(&self, bounds: impl KeyBounds) -> Range {
        let (from, to) = bounds.key_bounds();
        self.keyspace.with_bounds(from, to, |from, to| self.range_between(from, to))
    }

    /// The keys that begin with `prefix` and had a value, in key order, from either end.
    #[must_use]
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Range {
        self.stored_range(&self.keyspace.stored_prefix(prefix.as_ref()))
    }

    /// All keys that had a value, in key order, from either end. Values are read on request.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// for entry in &engine.snapshot()? {
    ///     let entry = entry?;
    ///     assert_eq!((entry.key(), entry.value()?), (&b"a"[..], "1".into()));
    /// }
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn iter(&self) -> Range {
        self.range(..)
    }

    /// The first key that had a value, and its value. Costs a copy of both.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let snapshot = engine.snapshot()?;
    /// assert_eq!(snapshot.first_key_value()?, None);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify.
    pub fn first_key_value(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter().next().map(|entry| entry?.into_pair()).transpose()
    }

    /// The last key that had a value, and its value. Costs a copy of both.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify.
    pub fn last_key_value(&self) -> Result<Option<(Vec<u8>, Value)>> {
        self.iter().next_back().map(|entry| entry?.into_pair()).transpose()
    }

    /// A copy of all keys, values and tombstones of the keyspace in memory.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if a record does not verify.
    pub fn to_state(&self) -> Result<KvState> {
        let mut copy = KvState::new();
        let all = self.keyspace.stored_bounds(Bound::Unbounded, Bound::Unbounded);
        let mut entries = self.state.entries(all.from(), all.to());
        let mut order = SequentialReads::default();
        let order = RefCell::new(&mut order);
        loop {
            let guard = pin();
            let ahead = |place| self.read.prefetch_in_order(place, &order, &guard);
            let Some((_, entry)) = entries.next_pinned(&guard, ahead).map_err(|failure| self.read.noted(failure))?
            else {
                break;
            };
            self.read.read_record(entry.location, &guard, |command| copy.apply(of_user(command)))?;
        }
        Ok(copy)
    }
}

impl KvReader for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        Self::get(self, key)
    }

    fn get_versioned(&self, key: &[u8]) -> Result<Option<(Value, u64)>> {
        Self::get_versioned(self, key)
    }

    fn contains_key(&self, key: &[u8]) -> Result<bool> {
        Self::contains_key(self, key)
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Result<Pairs<'_>> {
        Ok(Box::new(Self::range(self, (from, to)).map(|entry| entry?.into_pair())))
    }
}

impl IntoIterator for &Snapshot {
    type Item = Result<Entry>;
    type IntoIter = Range;

    fn into_iter(self) -> Range {
        self.iter()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Snapshot").field("seq", &self.seq()).finish_non_exhaustive()
    }
}

/// Keys in order, from either end, as of one moment: an iterator of [`Entry`]s. An item is an error
/// if a table is damaged; the iterator then ends.
///
/// The iterator owns its snapshot, so it can be stored and sent to other threads. An [`Entry`]
/// costs one allocation if its key is longer than 22 bytes; [`for_each_pair`](Self::for_each_pair)
/// lends keys and values in place.
pub struct Range {
    snapshot: Snapshot,
    inner: LeveledRange<Place>,
    /// Order of the records read from the front.
    order: SequentialReads,
}

impl Range {
    /// The keys of this range after `cursor`. With the last key of a page as the cursor, this is
    /// the next page. The cursor need not have a value, and may lie outside the range. Costs a copy
    /// of the cursor.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// for number in 0..5 {
    ///     engine.put(format!("jobs/{number}"), "")?;
    /// }
    /// let first = engine.prefix("jobs/")?.collect_pairs(2)?;
    /// let cursor = &first.last().unwrap().0;
    /// let second = engine.prefix("jobs/")?.after(cursor).collect_pairs(2)?;
    /// assert_eq!(second[0].0, b"jobs/2");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn after(mut self, cursor: impl AsRef<[u8]>) -> Self {
        self.inner.skip_to_after(self.snapshot.keyspace.stored(cursor.as_ref()).as_bytes());
        self
    }

    /// The keys of this range before `cursor`. With the first key of a page as the cursor, reading
    /// from the back gives the previous page. Otherwise like [`after`](Self::after).
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// for number in 0..5 {
    ///     engine.put(format!("jobs/{number}"), "")?;
    /// }
    /// let before = engine.prefix("jobs/")?.before("jobs/3").next_back().unwrap()?;
    /// assert_eq!(before.key(), b"jobs/2");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn before(mut self, cursor: impl AsRef<[u8]>) -> Self {
        self.inner.stop_before(self.snapshot.keyspace.stored(cursor.as_ref()).as_bytes());
        self
    }

    /// Calls `visit` with each key and value, in order, until `visit` breaks; neither is copied.
    /// Records are prefetched some items ahead, which makes this the fastest iteration over many
    /// keys. The rest can be iterated afterwards.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = hightower_engine::SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// engine.put("b", "22")?;
    /// let mut len = 0;
    /// engine.range(..)?.for_each_pair(|_key, value| {
    ///     len += value.len();
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert_eq!(len, 3);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if a record or a table does not verify; the
    /// iteration ends there.
    pub fn for_each_pair(&mut self, mut visit: impl FnMut(&[u8], &[u8]) -> ControlFlow<()>) -> Result<()> {
        let Self { snapshot: Snapshot { read, state, .. }, inner, order } = self;
        let order = RefCell::new(order);
        loop {
            let guard = pin();
            // One look at the segment table serves all items: the snapshot's view keeps its
            // segments there.
            let Some(table) = read.segments.table(&guard) else { return Ok(()) };
            let mut failed = None;
            let visited = inner.visit_pinned(
                ITEMS_PER_GUARD,
                &guard,
                |place| table.prefetch_in_order(place, &order),
                |key, entry| {
                    let visit = |value: &[u8], _version| visit(user_part(key), value);
                    let flow = match table.find(entry.location.segment) {
                        Some(tracked) => read.value_in(tracked, entry.location, visit).map(Some),
                        None => read.read(key, &guard, |guard| state.get(key, guard), visit),
                    };
                    match flow {
                        Ok(flow) => flow.unwrap_or(ControlFlow::Continue(())),
                        Err(error) => {
                            failed = Some(error);
                            ControlFlow::Break(())
                        }
                    }
                },
            );
            match (failed, visited.map_err(|failure| read.noted(failure))?) {
                (Some(error), _) => return Err(error),
                (None, Visited::Some) => {}
                (None, Visited::All | Visited::Stopped) => return Ok(()),
            }
        }
    }

    /// The number of the remaining keys.
    pub(crate) fn count_keys(mut self) -> Result<u64> {
        let mut count = 0;
        loop {
            let guard = pin();
            let visited = self.inner.visit_pinned(
                ITEMS_PER_GUARD,
                &guard,
                |_| (),
                |_, _| {
                    count += 1;
                    ControlFlow::Continue(())
                },
            );
            match visited.map_err(|failure| self.snapshot.read.noted(failure))? {
                Visited::Some => {}
                Visited::All | Visited::Stopped => return Ok(count),
            }
        }
    }

    /// The next `limit` keys with their values.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if a record does not verify.
    pub fn collect_pairs(&mut self, limit: usize) -> Result<Vec<(Vec<u8>, Value)>> {
        let mut pairs = Vec::new();
        if limit == 0 {
            return Ok(pairs);
        }
        self.for_each_pair(|key, value| {
            pairs.push((key.to_vec(), Value::from(value)));
            if pairs.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(pairs)
    }

    /// The snapshot that the range reads.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    fn entry(&self, key: EntryKey, record: EntryRecord<Place>) -> Entry {
        let found = Versioned { location: record.location, version: record.version };
        Entry { snapshot: self.snapshot.clone(), key, found }
    }
}

impl Iterator for Range {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        let (guard, read) = (pin(), &self.snapshot.read);
        let order = RefCell::new(&mut self.order);
        let ahead = |place| read.prefetch_in_order(place, &order, &guard);
        match self.inner.next_pinned(&guard, ahead) {
            Ok(next) => {
                let (key, record) = next?;
                let key = EntryKey::from(key);
                Some(Ok(self.entry(key, record)))
            }
            Err(error) => Some(Err(read.noted(error))),
        }
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Self::Item> {
        let (guard, read) = (pin(), &self.snapshot.read);
        match self.inner.next_back_pinned(&guard, |place| read.prefetch(place, &guard)) {
            Ok(next) => {
                let (key, record) = next?;
                let key = EntryKey::from(key);
                Some(Ok(self.entry(key, record)))
            }
            Err(error) => Some(Err(read.noted(error))),
        }
    }
}

impl FusedIterator for Range {}

impl fmt::Debug for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Range").field("seq", &self.snapshot.seq()).finish_non_exhaustive()
    }
}

/// A key found by a [`Range`]. Its value is read on request.
#[derive(Clone)]
pub struct Entry {
    snapshot: Snapshot,
    /// As it is stored.
    key: EntryKey,
    found: Versioned<Place>,
}

impl Entry {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        user_part(self.stored_key())
    }

    pub(crate) fn stored_key(&self) -> &[u8] {
        self.key.as_bytes()
    }

    /// The version of the value.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.found.version
    }

    /// The value, as of the snapshot. Costs a copy.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify.
    pub fn value(&self) -> Result<Value> {
        let (guard, read) = (pin(), &self.snapshot.read);
        read.value_at(self.found.location, &guard, |value, _| Value::from(value))
    }

    /// The key and the value.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`](crate::Error::Corrupt) if the record does not verify.
    pub fn into_pair(self) -> Result<(Vec<u8>, Value)> {
        let value = self.value()?;
        let key = if is_stored_as_is(self.stored_key()) { self.key.into_vec() } else { self.key().to_vec() };
        Ok((key, value))
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key().escape_ascii().to_string();
        formatter.debug_struct("Entry").field("key", &key).field("version", &self.version()).finish_non_exhaustive()
    }
}
