//! Building a map from sorted input, by several threads at once.
//!
//! Each thread fills its own [`SortedRun`]: the leaves in key order, the tree above them, with each
//! node built once at its final size, and for each leaf the data for the point table.
//! [`Writer::join_runs`] then takes the memory over, joins the trees at their seams, and fills the
//! table's buckets, each by one thread. It needs no lock, because no other thread can reach the
//! memory; readers see an empty map until the result is published.

use core::fmt;
use std::sync::Arc;

use crate::arena::Arena;
use crate::bulk_builder::{BulkBuilder, join};
use crate::bytes::common_len;
use crate::hash::{KeyHasher, SeededHasher};
use crate::leaf::Leaf;
use crate::map::Map;
use crate::panics::DropPanics;
use crate::sync::Ordering;
use crate::table::{Parted, Tools};
use crate::writer::Writer;

/// The error of a bulk build. The map is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BulkError {
    /// A key is not above the previous key, or a run does not begin above the end of the previous
    /// run.
    OutOfOrder,
    /// The map is not empty.
    NotEmpty,
    /// A run belongs to another map, whose hashes differ.
    OtherMap,
}

impl fmt::Display for BulkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfOrder => "keys must ascend, within a run and from run to run",
            Self::NotEmpty => "the map is not empty: runs can only be joined into an empty map",
            Self::OtherMap => "the run belongs to another map",
        })
    }
}

impl core::error::Error for BulkError {}

/// Entries in ascending key order, for an empty map. [`Map::sorted_run`] creates it,
/// [`Writer::join_runs`] joins it.
///
/// A run is independent of the map and of other runs, so that several threads can each fill one.
///
/// ```
/// let (mut writer, map) = hightower_index::new::<u32>();
/// let (mut low, mut high) = (map.sorted_run(), map.sorted_run());
/// std::thread::scope(|scope| {
///     scope.spawn(|| low.push(b"a", 1).and_then(|()| low.push(b"b", 2)).unwrap());
///     scope.spawn(|| high.push(b"c", 3).unwrap());
/// });
/// assert_eq!(writer.join_runs([low, high], 2), Ok(3));
/// assert_eq!(map.iter(&hightower_index::pin()).map(|entry| *entry.value()).collect::<Vec<_>>(), [1, 2, 3]);
/// ```
pub struct SortedRun<V, H: KeyHasher = SeededHasher> {
    map: Map<V, H>,
    arena: Arena,
    builder: BulkBuilder<V>,
    parted: Parted,
    first_key: Box<[u8]>,
    len: usize,
}

// SAFETY: the run owns its leaves, and nobody else can reach them before they are joined; values go
// to another thread with it (V: Send).
unsafe impl<V: Send + Sync, H: KeyHasher> Send for SortedRun<V, H> {}
// SAFETY: `&SortedRun` gives access to no more than its length.
unsafe impl<V: Send + Sync, H: KeyHasher> Sync for SortedRun<V, H> {}

impl<V, H: KeyHasher> SortedRun<V, H> {
    /// Adds an entry. Its key must be above all previous keys.
    ///
    /// # Errors
    ///
    /// [`BulkError::OutOfOrder`] if it is not. The run is unchanged, and the value is dropped.
    ///
    /// # Panics
    ///
    /// If the key is longer than [`MAX_KEY_LEN_BYTES`](crate::MAX_KEY_LEN_BYTES).
    ///
    /// ```
    /// use hightower_index::BulkError;
    /// let (_writer, map) = hightower_index::new::<u32>();
    /// let mut run = map.sorted_run();
    /// assert_eq!(run.push(b"b", 2), Ok(()));
    /// assert_eq!(run.push(b"a", 1), Err(BulkError::OutOfOrder));
    /// assert_eq!(run.len(), 1);
    /// ```
    #[inline]
    pub fn push(&mut self, key: &[u8], value: V) -> Result<(), BulkError> {
        self.try_push(key, value).map_err(|_| BulkError::OutOfOrder)
    }

    /// As `push`, but returns the value on an error.
    #[inline]
    fn try_push(&mut self, key: &[u8], value: V) -> Result<(), V> {
        let Some(shared) = self.shared_with_last(key) else { return Err(value) };
        let shared_map = &self.map.shared;
        // All code that may panic comes before the leaf is created, because nothing would drop the
        // leaf.
        let (hash, hint) = (shared_map.hasher.hash(key), (shared_map.hint_of)(&value));
        let leaf: Leaf<'_, V> = Leaf::new(&mut self.arena, key, value);
        if self.len == 0 {
            self.first_key = key.into();
        }
        self.parted.push(hash, leaf, hint);
        self.builder.push(&mut self.arena, leaf, shared);
        self.len += 1;
        Ok(())
    }

    /// The length of the common prefix with the last key, if the key is above it.
    #[inline]
    fn shared_with_last(&self, key: &[u8]) -> Option<usize> {
        let Some(last) = self.builder.last() else { return Some(0) };
        let shared = common_len(last.key(), key);
        // The end of a key comes before any byte.
        (key.get(shared) > last.key().get(shared)).then_some(shared)
    }

    /// The number of entries in the run.
    ///
    /// ```
    /// let (_writer, map) = hightower_index::new::<u32>();
    /// assert_eq!(map.sorted_run().len(), 0);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the run is empty.
    ///
    /// ```
    /// let (_writer, map) = hightower_index::new::<u32>();
    /// assert!(map.sorted_run().is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn last_key(&self) -> &[u8] {
        self.builder.last().map_or(&[], Leaf::key)
    }
}

impl<V, H: KeyHasher> Drop for SortedRun<V, H> {
    fn drop(&mut self) {
        if core::mem::needs_drop::<V>() {
            let mut panics = DropPanics::default();
            for leaf in self.parted.leaves() {
                // SAFETY: leaves that were not taken over are the run's alone.
                panics.run(|| unsafe { Leaf::<V>::from_raw(leaf).drop_value() });
            }
            panics.go_on();
        }
    }
}

impl<V, H: KeyHasher> fmt::Debug for SortedRun<V, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SortedRun").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<V, H: KeyHasher> Map<V, H> {
    /// An empty run of entries for this map: see [`SortedRun`].
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// let mut run = map.sorted_run();
    /// run.push(b"a", 1).unwrap();
    /// assert_eq!(writer.join_runs([run], 1), Ok(1));
    /// ```
    #[must_use]
    pub fn sorted_run(&self) -> SortedRun<V, H> {
        SortedRun {
            map: self.clone(),
            arena: Arena::bulk(),
            builder: BulkBuilder::new(),
            parted: Parted::new(),
            first_key: Box::default(),
            len: 0,
        }
    }
}

impl<V, H: KeyHasher> Writer<V, H> {
    /// Joins runs of ascending keys, each above the previous one, into an empty map. Returns the
    /// number of keys.
    ///
    /// The keys appear atomically to lookups, and soon afterwards atomically to scans. Up to
    /// `threads` threads fill the point table, including the caller's; 0 and 1 mean only the
    /// caller's.
    ///
    /// Cost: per key about that of copying it; joining costs one path per run.
    ///
    /// # Errors
    ///
    /// [`BulkError`] if the map is not empty, the keys of the runs are not ascending, or a run
    /// belongs to another map. The map is unchanged, and the runs are dropped.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// let (mut low, mut high) = (map.sorted_run(), map.sorted_run());
    /// low.push(b"a", 1).unwrap();
    /// high.push(b"b", 2).unwrap();
    /// assert_eq!(writer.join_runs([low, high], 1), Ok(2));
    /// assert_eq!(map.get(b"b", &hightower_index::pin()), Some(&2));
    /// ```
    pub fn join_runs(
        &mut self,
        runs: impl IntoIterator<Item = SortedRun<V, H>>,
        threads: usize,
    ) -> Result<usize, BulkError> {
        let runs: Vec<_> = runs.into_iter().filter(|run| !run.is_empty()).collect();
        if runs.iter().any(|run| !Arc::ptr_eq(&run.map.shared, &self.shared)) {
            return Err(BulkError::OtherMap);
        }
        if !self.is_empty() {
            return Err(BulkError::NotEmpty);
        }
        if !runs.is_sorted_by(|left, right| left.last_key() < &*right.first_key) {
            return Err(BulkError::OutOfOrder);
        }
        Ok(self.adopt(runs, threads))
    }

    /// Joins runs of this map with ascending keys. The map is empty.
    fn adopt(&mut self, mut runs: Vec<SortedRun<V, H>>, threads: usize) -> usize {
        let len = runs.iter().map(SortedRun::len).sum();
        if len == 0 {
            return 0;
        }
        let (shared, own) = self.parts();
        let mut root = crate::tagged_ptr::TaggedPtr::NOTHING;
        for run in &mut runs {
            own.arena.absorb(core::mem::replace(&mut run.arena, Arena::new()));
            let builder = core::mem::replace(&mut run.builder, BulkBuilder::new());
            let right = builder.finish(&mut own.arena);
            // SAFETY: both trees are in the arena, nobody else can reach them, and the runs' keys
            // rise.
            root = unsafe { join::<V>(&mut own.arena, root, right) };
        }
        // The runs own the leaves until the table is complete: if the hasher panics, they drop the
        // values, and the map stays empty.
        let parted: Vec<_> = runs.iter().map(|run| &run.parted).collect();
        let mut tools =
            Tools { arena: &mut own.arena, deferred_frees: &mut own.deferred_frees, hasher: &shared.hasher };
        // SAFETY: this is the one writer; the map is empty, so the table holds no leaf.
        unsafe { shared.table.fill::<V, H>(&parted, len, threads, &mut tools) };
        shared.tree.set_root(root);
        shared.len.store(len, Ordering::Relaxed);
        for run in &mut runs {
            run.parted = Parted::new();
        }
        self.tidy();
        len
    }

    /// Inserts many entries; the later of two with one key wins. Returns the number of new keys.
    ///
    /// An empty map is built in bulk from entries in ascending key order: about ten times as fast
    /// as [`Writer::insert`], and atomically for readers. From the first entry out of order, or if
    /// the map is not empty, it inserts one by one. For several threads see [`Writer::join_runs`].
    ///
    /// # Panics
    ///
    /// If a key is longer than [`MAX_KEY_LEN_BYTES`](crate::MAX_KEY_LEN_BYTES).
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// assert_eq!(writer.bulk_build([("a", 1), ("b", 2)]), 2);
    /// assert_eq!(map.len(), 2);
    /// ```
    pub fn bulk_build<K: AsRef<[u8]>>(&mut self, entries: impl IntoIterator<Item = (K, V)>) -> usize {
        let mut entries = entries.into_iter();
        let (built, next) = self.build_rising(&mut entries);
        let rest = next.into_iter().chain(entries);
        built + rest.filter_map(|(key, value)| (!self.insert(key.as_ref(), value)).then_some(())).count()
    }

    /// Builds an empty map from `entries` while their keys ascend. Returns the number of keys, and
    /// the first entry that was not used; if the map is not empty, this is the first entry.
    ///
    /// # Panics
    ///
    /// If a key is longer than [`MAX_KEY_LEN_BYTES`](crate::MAX_KEY_LEN_BYTES).
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// let mut entries = [("a", 1), ("c", 2), ("b", 3), ("d", 4)].into_iter();
    /// assert_eq!(writer.build_rising(&mut entries), (2, Some(("b", 3))));
    /// assert_eq!(entries.next(), Some(("d", 4)));
    /// ```
    pub fn build_rising<K: AsRef<[u8]>>(
        &mut self,
        entries: &mut impl Iterator<Item = (K, V)>,
    ) -> (usize, Option<(K, V)>) {
        if !self.is_empty() {
            return (0, entries.next());
        }
        let mut run = self.map().sorted_run();
        let rejected = entries.find_map(|(key, value)| {
            let value = run.try_push(key.as_ref(), value).err()?;
            Some((key, value))
        });
        (self.adopt(vec![run], 1), rejected)
    }
}

#[cfg(test)]
mod tests {
    /// Memory in single chunks has small pages: gets of an opened store were slower than those of
    /// the same store after its writes.
    #[test]
    #[cfg_attr(miri, ignore = "takes minutes")]
    fn a_bulk_build_takes_its_memory_in_regions() {
        const KEYS_PER_RUN: u64 = 40_000;
        let (mut writer, map) = crate::new::<u64>();
        let filled = |first: u64| {
            let mut run = map.sorted_run();
            (first..first + KEYS_PER_RUN).for_each(|key| run.push(&key.to_be_bytes(), key).unwrap());
            run
        };
        writer.join_runs([0, KEYS_PER_RUN, 2 * KEYS_PER_RUN].map(filled), 2).unwrap();
        let arena = &writer.parts().1.arena;
        assert!(arena.lone_bytes() * 3 < arena.held_bytes(), "{} of {}", arena.lone_bytes(), arena.held_bytes());
    }
}
