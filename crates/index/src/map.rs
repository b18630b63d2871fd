//! The reader's handle, and the data shared with the writer.

use core::cell::UnsafeCell;
use core::fmt;
use core::marker::PhantomData;
use core::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::arena::Arena;
use crate::deferred_free::{DeferredFrees, Garbage};
use crate::entry_ref::EntryRef;
use crate::epoch::Guard;
use crate::hash::{KeyHasher, SeededHasher};
use crate::leaf::Leaf;
use crate::panics::DropPanics;
use crate::pointee::Pointee;
use crate::range::{self, MapRange, prefix_end};
use crate::reserve::Reserve;
use crate::sync::{AtomicUsize, Ordering};
use crate::table::PointTable;
use crate::tagged_ptr::TaggedPtr;
use crate::tree::Tree;

/// Number of keys that [`Map::get_many`] looks up together: their cache lines fit the pending
/// prefetches of a processor (see the window of a range).
const GROUP_KEYS: usize = 8;

/// The memory being prefetched while [`Map::prefetch`] calls its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The slots of the hash table where the probes begin.
    Slots,
    /// The leaves of present keys, and the parent nodes of absent ones.
    Paths,
}

/// The next step of a prefetch.
#[derive(Clone, Copy, Debug)]
enum PrefetchStep {
    /// The first slots of the table's probe were prefetched.
    Probe {
        hash: u64,
    },
    /// The key is new; the node at the link was prefetched.
    Descend {
        link: TaggedPtr,
        depth: usize,
    },
    Done,
}

/// The memory of the writer.
pub(crate) struct WriterMemory {
    pub(crate) arena: Arena,
    pub(crate) deferred_frees: DeferredFrees,
}

pub(crate) struct MapInner<V, H> {
    pub(crate) tree: Tree<V>,
    pub(crate) table: PointTable,
    pub(crate) hasher: H,
    /// The hint of a value.
    pub(crate) hint_of: fn(&V) -> u32,
    pub(crate) len: AtomicUsize,
    pub(crate) memory_bytes: AtomicUsize,
    pub(crate) reserve: Arc<Reserve>,
    /// Used by the [`Writer`](crate::Writer) through `&mut self`, and by `drop`.
    pub(crate) own: UnsafeCell<WriterMemory>,
    /// A writer stores values and a reader returns them, so a handle must not convert to one of a
    /// `V` with a longer or shorter lifetime.
    invariant: PhantomData<fn(V) -> V>,
}

// SAFETY: readers touch tree, table and counters, which are atomic, and get `&V` on any thread (V:
// Sync). `own` is the writer's alone; it drops values on the writer's thread or on that of the last
// handle (V: Send).
unsafe impl<V: Send + Sync, H: Send + Sync> Send for MapInner<V, H> {}
// SAFETY: see above.
unsafe impl<V: Send + Sync, H: Send + Sync> Sync for MapInner<V, H> {}

impl<V, H> MapInner<V, H> {
    pub(crate) fn new(hasher: H, hint_of: fn(&V) -> u32) -> Self {
        let reserve = Arc::new(Reserve::new());
        let mut arena = Arena::with_reserve(Arc::clone(&reserve));
        let table = PointTable::new(&mut arena);
        let shared = Self {
            reserve,
            tree: Tree::new(),
            table,
            hasher,
            hint_of,
            len: AtomicUsize::new(0),
            memory_bytes: AtomicUsize::new(0),
            own: UnsafeCell::new(WriterMemory { arena, deferred_frees: DeferredFrees::new() }),
            invariant: PhantomData,
        };
        // SAFETY: nobody else has the map yet.
        unsafe { shared.account() };
        shared
    }

    /// Publishes the memory of the map, in bytes.
    ///
    /// # Safety
    ///
    /// The caller is the one writer and holds no reference into `own`.
    pub(crate) unsafe fn account(&self) {
        // SAFETY: the caller's promise.
        let held_bytes = unsafe { (*self.own.get()).arena.held_bytes() } + self.reserve.held_bytes();
        self.memory_bytes.store(held_bytes + size_of::<Self>(), Ordering::Relaxed);
    }
}

impl<V, H> Drop for MapInner<V, H> {
    fn drop(&mut self) {
        if !core::mem::needs_drop::<V>() {
            return;
        }
        let mut panics = DropPanics::default();
        // SAFETY: no handle is left, so nobody reads; every leaf is either in the table or in the
        // deferred frees.
        unsafe {
            self.table.for_each_leaf::<V>(|leaf| panics.run(|| leaf.drop_value()));
            for retired in self.own.get_mut().deferred_frees.take_all() {
                if let Garbage::TreePart(link) = retired
                    && let Pointee::Leaf(leaf) = link.follow::<V>()
                {
                    panics.run(|| leaf.drop_value());
                }
            }
        }
        panics.go_on();
    }
}

/// A reader's handle to a map from byte strings to `V`. Cloning is cheap; the map lives as long as
/// its last handle.
///
/// Readers take no lock and never wait, neither for the writer nor for each other. Their results
/// borrow from the map and a [`Guard`].
///
/// ```
/// let (mut writer, map) = hightower_index::new::<u32>();
/// writer.insert(b"key", 1);
/// let reader = std::thread::spawn(move || map.get(b"key", &hightower_index::pin()).copied());
/// assert_eq!(reader.join().unwrap(), Some(1));
/// ```
///
/// The lifetime of the values is part of the map's type: otherwise a reader could outlive the
/// values that a writer inserts.
///
/// ```compile_fail
/// fn shorten<'v>(map: hightower_index::Map<&'static str>) -> hightower_index::Map<&'v str> {
///     map
/// }
/// ```
///
/// ```compile_fail
/// fn lengthen<'v>(map: hightower_index::Map<&'v str>) -> hightower_index::Map<&'static str> {
///     map
/// }
/// ```
pub struct Map<V, H = SeededHasher> {
    pub(crate) shared: Arc<MapInner<V, H>>,
}

impl<V, H> Clone for Map<V, H> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<V, H: KeyHasher> Map<V, H> {
    /// The value of `key`.
    ///
    /// Cost in a large map: two cache misses for a present key, one for an absent one.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// let guard = hightower_index::pin();
    /// assert_eq!(map.get(b"a", &guard), Some(&1));
    /// assert_eq!(map.get(b"b", &guard), None);
    /// ```
    #[inline]
    pub fn get<'g>(&'g self, key: &[u8], guard: &'g Guard) -> Option<&'g V> {
        self.find(key, guard).map(Leaf::value)
    }

    /// The entry of `key`: the map's own copy of the key, and the value.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// let guard = hightower_index::pin();
    /// let entry = map.get_entry(b"a", &guard).unwrap();
    /// assert_eq!((entry.key(), entry.value()), (&b"a"[..], &1));
    /// ```
    #[inline]
    pub fn get_entry<'g>(&'g self, key: &[u8], guard: &'g Guard) -> Option<EntryRef<'g, V>> {
        self.find(key, guard).map(EntryRef::new)
    }

    /// As [`get`](Self::get); calls `hinted` with the value's [hint](crate::with_hints) before it
    /// waits for the value, so that the caller can prefetch the target of the value. A hint may be
    /// outdated, partly written, or that of another key: no result may depend on it.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::with_hints::<u32>(|value| value / 10);
    /// writer.insert(b"a", 70);
    /// let (guard, mut hints) = (hightower_index::pin(), Vec::new());
    /// assert_eq!(map.get_hinted(b"a", &guard, |hint| hints.push(hint)), Some(&70));
    /// assert_eq!(hints, [7]);
    /// ```
    #[inline]
    pub fn get_hinted<'g>(&'g self, key: &[u8], _guard: &'g Guard, hinted: impl FnMut(u32)) -> Option<&'g V> {
        // SAFETY: the guard lives for 'g, and the map too.
        unsafe { self.shared.table.get_hinted(self.shared.hasher.hash(key), key, hinted) }.map(Leaf::value)
    }

    #[inline(always)]
    fn find<'g>(&'g self, key: &[u8], _guard: &'g Guard) -> Option<Leaf<'g, V>> {
        // SAFETY: the guard lives for 'g, and the map too.
        unsafe { self.shared.table.get(self.shared.hasher.hash(key), key) }
    }

    /// Looks up many keys at once, and calls `found` with each key's place in `keys` and its entry,
    /// in order.
    ///
    /// Cost: the cache misses of eight lookups overlap, so that in a large map a key takes a
    /// fraction of a [`Map::get`].
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// writer.insert(b"b", 2);
    /// let guard = hightower_index::pin();
    /// let mut values = Vec::new();
    /// map.get_many(&[b"a", b"b"], &guard, |_, entry| values.push(entry.map(|entry| *entry.value())));
    /// assert_eq!(values, [None, Some(2)]);
    /// ```
    pub fn get_many<'g, K: AsRef<[u8]>>(
        &'g self,
        keys: &[K],
        _guard: &'g Guard,
        mut found: impl FnMut(usize, Option<EntryRef<'g, V>>),
    ) {
        let table = &self.shared.table;
        for (group, keys) in keys.chunks(GROUP_KEYS).enumerate() {
            let mut hashes = [0; GROUP_KEYS];
            for (hash, key) in hashes.iter_mut().zip(keys) {
                *hash = self.shared.hasher.hash(key.as_ref());
                // SAFETY: the guard lives for 'g, and the map too.
                unsafe { table.prefetch_slot(*hash) };
            }
            for hash in &hashes[..keys.len()] {
                // SAFETY: as above.
                unsafe { table.prefetch_leaf::<V>(*hash) };
            }
            for (at, (hash, key)) in hashes.iter().zip(keys).enumerate() {
                // SAFETY: as above.
                let leaf = unsafe { table.get::<V>(*hash, key.as_ref()) };
                found(group * GROUP_KEYS + at, leaf.map(EntryRef::new));
            }
        }
    }

    /// Prefetches the memory for lookups, insertions and updates of `keys`, so that later calls,
    /// for instance under a lock, find it in the cache. `key_of` returns the key of an item.
    ///
    /// Takes three steps for each key; the cache misses of eight keys overlap. `meanwhile` runs
    /// after the first and after the second step of each eight keys, during the prefetch: use it
    /// for other work of some tens of nanoseconds, or for none.
    ///
    /// ```
    /// use hightower_index::Awaited;
    ///
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// let mut sum = 0;
    /// map.prefetch(&["a", "b"], |key| key.as_bytes(), &hightower_index::pin(), |awaited| match awaited {
    ///     Awaited::Slots => sum += 1,
    ///     Awaited::Paths => sum *= 2,
    /// });
    /// writer.insert(b"a", sum);
    /// assert_eq!(sum, 2);
    /// ```
    #[inline]
    pub fn prefetch<'k, K>(
        &self,
        keys: &'k [K],
        key_of: impl Fn(&'k K) -> &'k [u8],
        _guard: &Guard,
        mut meanwhile: impl FnMut(Awaited),
    ) {
        for keys in keys.chunks(GROUP_KEYS) {
            let mut steps = [PrefetchStep::Done; GROUP_KEYS];
            for (step, key) in steps.iter_mut().zip(keys) {
                let hash = self.shared.hasher.hash(key_of(key));
                // SAFETY: the guard lives during the call, and the map too.
                unsafe { self.shared.table.prefetch_slot(hash) };
                *step = PrefetchStep::Probe { hash };
            }
            meanwhile(Awaited::Slots);
            for (step, key) in steps.iter_mut().zip(keys) {
                // SAFETY: the guard lives during the call, and the steps are of this map.
                *step = unsafe { self.prefetch_next(key_of(key), *step) };
            }
            meanwhile(Awaited::Paths);
            for (step, key) in steps.iter().zip(keys) {
                // SAFETY: as above.
                unsafe { self.prefetch_next(key_of(key), *step) };
            }
        }
    }

    /// Reads the memory prefetched by the previous step, and prefetches its targets.
    ///
    /// # Safety
    ///
    /// A guard has been alive since the first step of this key, which was made on this map.
    #[inline]
    unsafe fn prefetch_next(&self, key: &[u8], step: PrefetchStep) -> PrefetchStep {
        // SAFETY: the caller's.
        unsafe {
            match step {
                PrefetchStep::Probe { hash } if self.shared.table.prefetch_leaf::<V>(hash) => PrefetchStep::Done,
                PrefetchStep::Probe { .. } => {
                    let (link, depth) = self.shared.tree.prefetch_below_top(key);
                    PrefetchStep::Descend { link, depth }
                }
                PrefetchStep::Descend { link, depth } => {
                    self.shared.tree.prefetch_further(key, link, depth);
                    PrefetchStep::Done
                }
                PrefetchStep::Done => PrefetchStep::Done,
            }
        }
    }

    /// Prepares memory for the writer, so that no insert waits for the system to clear it; returns
    /// whether it did. Call it from a background thread about every 10,000 inserts. A map that is
    /// small or does not grow needs none. It takes up to some milliseconds, during which no other
    /// call waits.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// assert!(!map.prepare_memory(), "a small map has no use for it");
    /// ```
    pub fn prepare_memory(&self) -> bool {
        self.shared.reserve.prepare()
    }

    /// The entries between two bounds, in key order, from both ends. Empty if the bounds cross.
    ///
    /// Cost: one descent at the first step of each end, then well under a cache miss per entry.
    ///
    /// ```
    /// use std::ops::Bound;
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// for key in ["a", "b", "c"] {
    ///     writer.insert(key.as_bytes(), 0);
    /// }
    /// let guard = hightower_index::pin();
    /// let mut range = map.range(Bound::Excluded(b"a"), Bound::Unbounded, &guard);
    /// assert_eq!(range.next().unwrap().key(), b"b");
    /// assert_eq!(range.next_back().unwrap().key(), b"c");
    /// assert!(range.next().is_none());
    /// ```
    pub fn range<'g>(&'g self, lower: Bound<&[u8]>, upper: Bound<&[u8]>, _guard: &'g Guard) -> MapRange<'g, V> {
        // SAFETY: the guard lives for 'g, and the map too.
        unsafe { MapRange::new(self.shared.tree.root(), lower, upper) }
    }

    /// Calls `visit` with the entries between two bounds, in key order, until it breaks; returns
    /// whether it did. `ahead` is called with each value some entries earlier, and possibly with
    /// some values beyond the end, so that it can prefetch the target of the value.
    ///
    /// Unlike [`range`](Self::range), which can be stored and has two directions, it copies no
    /// bounds and allocates nothing, so its start is cheaper.
    ///
    /// ```
    /// use std::ops::{Bound, ControlFlow};
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// for (key, value) in [("a", 1), ("b", 2), ("c", 3)] {
    ///     writer.insert(key.as_bytes(), value);
    /// }
    /// let (guard, mut sum) = (hightower_index::pin(), 0);
    /// let flow = map.visit(Bound::Excluded(b"a"), Bound::Unbounded, &guard, |_| {}, |entry| {
    ///     sum += entry.value();
    ///     ControlFlow::Continue(())
    /// });
    /// assert_eq!((flow, sum), (ControlFlow::Continue(()), 5));
    /// ```
    pub fn visit<'g>(
        &'g self,
        lower: Bound<&[u8]>,
        upper: Bound<&[u8]>,
        _guard: &'g Guard,
        ahead: impl Fn(&V),
        visit: impl FnMut(EntryRef<'g, V>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // SAFETY: the guard lives for 'g, and the map too.
        unsafe { range::visit(self.shared.tree.root(), lower, upper, ahead, visit) }
    }

    /// All entries, in key order, from both ends.
    ///
    /// ```
    /// let (_writer, map) = hightower_index::new::<u32>();
    /// assert_eq!(map.iter(&hightower_index::pin()).count(), 0);
    /// ```
    pub fn iter<'g>(&'g self, guard: &'g Guard) -> MapRange<'g, V> {
        self.range(Bound::Unbounded, Bound::Unbounded, guard)
    }

    /// The entries whose keys start with `prefix`, in key order, from both ends.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// for key in ["a", "a/1", "a/2", "b"] {
    ///     writer.insert(key.as_bytes(), 0);
    /// }
    /// assert_eq!(map.prefix(b"a/", &hightower_index::pin()).count(), 2);
    /// ```
    pub fn prefix<'g>(&'g self, prefix: &[u8], guard: &'g Guard) -> MapRange<'g, V> {
        self.range(Bound::Included(prefix), prefix_end(prefix).as_ref().map(Vec::as_slice), guard)
    }

    /// The number of keys.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// assert_eq!(map.len(), 1);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len.load(Ordering::Relaxed)
    }

    /// Whether the map is empty.
    ///
    /// ```
    /// let (_writer, map) = hightower_index::new::<u32>();
    /// assert!(map.is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that the map has from the global allocator: leaves, tree and table, including free
    /// memory in its slabs and garbage that waits for readers. It excludes memory that values own
    /// elsewhere.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// let empty_bytes = map.memory_bytes();
    /// writer.insert(&[0; 10_000], 1);
    /// assert!(map.memory_bytes() >= empty_bytes + 10_000);
    /// ```
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.shared.memory_bytes.load(Ordering::Relaxed)
    }
}

impl<V, H: KeyHasher> fmt::Debug for Map<V, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Map")
            .field("len", &self.len())
            .field("memory_bytes", &self.memory_bytes())
            .finish_non_exhaustive()
    }
}
