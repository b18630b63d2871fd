//! The writer's handle. The type ensures one writer per map.

use core::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use crate::deferred_free::Garbage;
use crate::entry_ref::EntryRef;
use crate::epoch::Guard;
use crate::hash::{KeyHasher, SeededHasher};
use crate::leaf::Leaf;
use crate::map::{Map, MapInner, WriterMemory};
use crate::panics::DropPanics;
use crate::pointee::Pointee;
use crate::sync::Ordering;
use crate::table::{TableSlot, Tools};
use crate::tagged_ptr::TaggedPtr;

/// The only writer of a map. It is not `Clone`, and every change needs `&mut self`.
///
/// Readers see each change atomically: a key with its value exists or not. During a call, a scan in
/// key order may see a change before a lookup does.
///
/// ```
/// let (mut writer, map) = hightower_index::new::<u32>();
/// assert!(!writer.insert(b"a", 1));
/// assert!(writer.insert(b"a", 2));
/// assert_eq!(map.get(b"a", &hightower_index::pin()), Some(&2));
/// assert!(writer.remove(b"a"));
/// assert!(map.is_empty());
/// ```
///
/// A writer of long-lived values does not convert to a writer of shorter-lived ones, which a reader
/// could outlive:
///
/// ```compile_fail
/// fn shorten<'v>(writer: hightower_index::Writer<&'static str>) -> hightower_index::Writer<&'v str> {
///     writer
/// }
/// ```
pub struct Writer<V, H = SeededHasher> {
    pub(crate) shared: Arc<MapInner<V, H>>,
}

/// Creates a map with a random hash seed, and returns its writer and a first reader.
///
/// ```
/// let (mut writer, map) = hightower_index::new::<u32>();
/// writer.insert(b"a", 1);
/// assert_eq!(map.len(), 1);
/// ```
#[must_use]
pub fn new<V>() -> (Writer<V>, Map<V>) {
    with_hasher(SeededHasher::random())
}

/// Creates a map with a given hash seed, for reproducible runs. A caller who knows the seed can
/// choose colliding keys.
///
/// ```
/// let (writer, map) = hightower_index::with_hasher_seed::<u32>(42);
/// ```
#[must_use]
pub fn with_hasher_seed<V>(seed: u64) -> (Writer<V>, Map<V>) {
    with_hasher(SeededHasher::new(seed))
}

/// Creates a map that hashes keys with `hasher`.
///
/// ```
/// use hightower_index::{SeededHasher, with_hasher};
/// let (writer, map) = with_hasher::<u32, _>(SeededHasher::new(1));
/// ```
#[must_use]
pub fn with_hasher<V, H: KeyHasher>(hasher: H) -> (Writer<V, H>, Map<V, H>) {
    with_hasher_and_hints(hasher, |_| 0)
}

/// Creates a map like [`new`], which stores the lowest [`HINT_BITS`](crate::HINT_BITS) bits of each
/// value's `hint_of` in its hash table. A lookup reads the hint before it waits for the value: see
/// [`Map::get_hinted`]. A value that points to other memory can hint at its place, so that both
/// cache misses overlap. Hints cost no memory.
///
/// Hints are stored when a value is inserted, and when [`Writer::upsert`] or [`Writer::update`] is
/// called for its key.
///
/// ```
/// let (mut writer, map) = hightower_index::with_hints::<u32>(|value| *value);
/// writer.insert(b"a", 7);
/// let mut hints = Vec::new();
/// map.get_hinted(b"a", &hightower_index::pin(), |hint| hints.push(hint));
/// assert_eq!(hints, [7]);
/// ```
#[must_use]
pub fn with_hints<V>(hint_of: fn(&V) -> u32) -> (Writer<V>, Map<V>) {
    with_hasher_and_hints(SeededHasher::random(), hint_of)
}

/// As [`with_hints`], and hashes keys with `hasher`, as [`with_hasher`].
///
/// ```
/// use hightower_index::{SeededHasher, with_hasher_and_hints};
/// let (writer, map) = with_hasher_and_hints::<u32, _>(SeededHasher::new(1), |value| *value);
/// ```
#[must_use]
pub fn with_hasher_and_hints<V, H: KeyHasher>(hasher: H, hint_of: fn(&V) -> u32) -> (Writer<V, H>, Map<V, H>) {
    let shared = Arc::new(MapInner::new(hasher, hint_of));
    (Writer { shared: Arc::clone(&shared) }, Map { shared })
}

impl<V, H: KeyHasher> Writer<V, H> {
    /// Splits the shared data for the writer's methods.
    pub(crate) fn parts(&mut self) -> (&MapInner<V, H>, &mut WriterMemory) {
        let shared = &*self.shared;
        // SAFETY: there is one writer, it is borrowed mutably, and nothing else touches `own` while
        // it lives.
        (shared, unsafe { &mut *shared.own.get() })
    }

    /// The value of `key`. It needs no guard, because nothing is freed while the writer is
    /// borrowed.
    ///
    /// ```
    /// let (mut writer, _map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// assert_eq!(writer.get(b"a"), Some(&1));
    /// ```
    #[inline]
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&V> {
        // SAFETY: nobody writes while the writer is borrowed.
        unsafe { self.shared.table.get(self.shared.hasher.hash(key), key) }.map(Leaf::value)
    }

    /// The value of `key`, created by `make()` if the key is absent; and whether it was created.
    ///
    /// If `make` panics, nothing has changed.
    ///
    /// # Panics
    ///
    /// If the key is longer than [`MAX_KEY_LEN_BYTES`](crate::MAX_KEY_LEN_BYTES).
    ///
    /// ```
    /// let (mut writer, _map) = hightower_index::new::<u32>();
    /// assert_eq!(writer.get_or_insert_with(b"a", || 1), (&1, true));
    /// assert_eq!(writer.get_or_insert_with(b"a", || 2), (&1, false));
    /// ```
    pub fn get_or_insert_with(&mut self, key: &[u8], make: impl FnOnce() -> V) -> (&V, bool) {
        let hash = self.shared.hasher.hash(key);
        // SAFETY: the writer is borrowed mutably, so nobody writes.
        if let Some(place) = unsafe { find_or_approach(&self.shared, hash, key) } {
            return (place.leaf.value(), false);
        }
        (self.add(hash, key, make()).value(), true)
    }

    /// Calls `change` with the entry of `key`, which is created if the key is absent, and whether
    /// it was created. The entry outlives the borrow of the writer, like the result of a reader.
    /// The hint of the value is stored again after `change`.
    ///
    /// If `make` panics, nothing has changed.
    ///
    /// # Panics
    ///
    /// If `map` is not a handle to this writer's map, and as
    /// [`get_or_insert_with`](Self::get_or_insert_with).
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// let guard = hightower_index::pin();
    /// let first = writer.upsert(b"a", &map, &guard, || 1, |entry, _| entry);
    /// let (second, made) = writer.upsert(b"b", &map, &guard, || 2, |entry, made| (entry, made));
    /// assert_eq!((first.value(), second.value(), made), (&1, &2, true));
    /// ```
    #[inline]
    pub fn upsert<'g, R>(
        &mut self,
        key: &[u8],
        map: &'g Map<V, H>,
        _guard: &'g Guard,
        make: impl FnOnce() -> V,
        change: impl FnOnce(EntryRef<'g, V>, bool) -> R,
    ) -> R {
        assert!(Arc::ptr_eq(&self.shared, &map.shared), "the handle belongs to another map");
        let hash = self.shared.hasher.hash(key);
        // SAFETY: the writer is borrowed mutably, so nobody writes; the leaf is in the map, which
        // lives for 'g as the assertion says, and whenever it is taken out, the guard keeps it.
        let Some(place) = (unsafe { map.shared.table.place(hash, key) }) else {
            let raw = self.add(hash, key, make()).as_raw();
            // SAFETY: as above.
            return change(EntryRef::new(unsafe { Leaf::from_raw(raw) }), true);
        };
        let changed = change(EntryRef::new(place.leaf), false);
        place.hint_anew((map.shared.hint_of)(place.leaf.value()));
        changed
    }

    /// Calls `change` with the value of `key`, and stores its hint again. Returns the result of
    /// `change`, or `None` if the key is absent.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// let (mut writer, map) = hightower_index::with_hints::<AtomicU32>(|value| value.load(Ordering::Relaxed));
    /// writer.insert(b"a", AtomicU32::new(1));
    /// assert_eq!(writer.update(b"a", |value| value.swap(2, Ordering::Relaxed)), Some(1));
    /// let mut hints = Vec::new();
    /// map.get_hinted(b"a", &hightower_index::pin(), |hint| hints.push(hint));
    /// assert_eq!(hints, [2]);
    /// ```
    pub fn update<R>(&mut self, key: &[u8], change: impl FnOnce(&V) -> R) -> Option<R> {
        let shared = self.parts().0;
        // SAFETY: this is the one writer.
        let place = unsafe { shared.table.place(shared.hasher.hash(key), key) }?;
        let changed = change(place.leaf.value());
        place.hint_anew((shared.hint_of)(place.leaf.value()));
        Some(changed)
    }

    /// Sets the value of `key`. `true` if it replaced a value, which is dropped when no reader can
    /// see it.
    ///
    /// # Panics
    ///
    /// If the key is longer than [`MAX_KEY_LEN_BYTES`](crate::MAX_KEY_LEN_BYTES).
    ///
    /// ```
    /// let (mut writer, _map) = hightower_index::new::<u32>();
    /// assert!(!writer.insert(b"a", 1));
    /// assert!(writer.insert(b"a", 2));
    /// ```
    pub fn insert(&mut self, key: &[u8], value: V) -> bool {
        let hash = self.shared.hasher.hash(key);
        // SAFETY: the writer is borrowed mutably, so nobody writes.
        let Some(place) = (unsafe { find_or_approach(&self.shared, hash, key) }) else {
            self.add(hash, key, value);
            return false;
        };
        let (shared, own) = self.parts();
        let hint = (shared.hint_of)(&value);
        let leaf = Leaf::new(&mut own.arena, key, value);
        place.replace(leaf, hint);
        // SAFETY: this is the one writer.
        unsafe { shared.tree.replace(place.leaf, leaf) };
        own.deferred_frees.push(Garbage::TreePart(TaggedPtr::leaf(place.leaf)));
        self.tidy();
        true
    }

    /// Adds an absent key.
    fn add(&mut self, hash: u64, key: &[u8], value: V) -> Leaf<'_, V> {
        let (shared, own) = self.parts();
        // SAFETY: this is the one writer.
        unsafe { shared.table.prefetch_insert(hash) };
        let hint = (shared.hint_of)(&value);
        let leaf: Leaf<'_, V> = Leaf::new(&mut own.arena, key, value);
        let len = shared.len.load(Ordering::Relaxed);
        // SAFETY: this is the one writer.
        let is_there = unsafe {
            shared.tree.insert(leaf, &mut own.arena, &mut own.deferred_frees);
            shared.table.try_insert(hash, leaf, hint)
        };
        if !is_there {
            self.make_room_for(hash, leaf.as_raw(), hint);
        }
        self.shared.len.store(len + 1, Ordering::Relaxed);
        let raw = leaf.as_raw();
        self.tidy();
        // SAFETY: the leaf is in the map and the writer is borrowed for its lifetime.
        unsafe { Leaf::from_raw(raw) }
    }

    /// Puts a leaf of the tree into the table, whose bucket needs a rebuild. If the hasher panics,
    /// the leaf is removed from the tree.
    #[cold]
    fn make_room_for(&mut self, hash: u64, raw: *mut u8, hint: u32) {
        let (shared, own) = self.parts();
        // SAFETY: the caller's leaf, which is alive as long as the tree or deferred_frees has it.
        let leaf: Leaf<'_, V> = unsafe { Leaf::from_raw(raw) };
        let mut tools =
            Tools { arena: &mut own.arena, deferred_frees: &mut own.deferred_frees, hasher: &shared.hasher };
        let leaves = shared.len.load(Ordering::Relaxed);
        // SAFETY: this is the one writer.
        let insert = AssertUnwindSafe(|| unsafe { shared.table.insert(hash, (leaf, hint), leaves, &mut tools) });
        if let Err(panic) = catch_unwind(insert) {
            // SAFETY: this is the one writer.
            unsafe { shared.tree.remove(leaf, &mut own.arena, &mut own.deferred_frees) };
            own.deferred_frees.push(Garbage::TreePart(TaggedPtr::leaf(leaf)));
            resume_unwind(panic);
        }
    }

    /// Removes `key`. `true` if it existed. Its value is dropped when no reader can see it.
    ///
    /// ```
    /// let (mut writer, _map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// assert!(writer.remove(b"a"));
    /// assert!(!writer.remove(b"a"));
    /// ```
    pub fn remove(&mut self, key: &[u8]) -> bool {
        let (shared, own) = self.parts();
        let hash = shared.hasher.hash(key);
        // SAFETY: this is the one writer.
        let Some(place) = (unsafe { shared.table.place::<V>(hash, key) }) else { return false };
        place.clear();
        // SAFETY: as above.
        unsafe { shared.tree.remove(place.leaf, &mut own.arena, &mut own.deferred_frees) };
        own.deferred_frees.push(Garbage::TreePart(TaggedPtr::leaf(place.leaf)));
        shared.len.store(shared.len.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        // Last, because the hasher may panic.
        let mut tools =
            Tools { arena: &mut own.arena, deferred_frees: &mut own.deferred_frees, hasher: &shared.hasher };
        // SAFETY: as above.
        unsafe { shared.table.shrink_if_sparse::<V, H>(hash, &mut tools) };
        self.tidy();
        true
    }

    /// A reader's handle to this map.
    ///
    /// ```
    /// let (mut writer, _map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// assert_eq!(writer.map().len(), 1);
    /// ```
    #[must_use]
    pub fn map(&self) -> Map<V, H> {
        Map { shared: Arc::clone(&self.shared) }
    }

    /// The number of keys.
    ///
    /// ```
    /// let (writer, _map) = hightower_index::new::<u32>();
    /// assert_eq!(writer.len(), 0);
    /// ```
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len.load(Ordering::Relaxed)
    }

    /// Whether the map is empty.
    ///
    /// ```
    /// let (writer, _map) = hightower_index::new::<u32>();
    /// assert!(writer.is_empty());
    /// ```
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Frees garbage that no reader can see. Returns the number of parts that still wait for
    /// readers.
    ///
    /// Writes free garbage incrementally; this call is for a pause of writes.
    ///
    /// ```
    /// let (mut writer, _map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// writer.remove(b"a");
    /// while writer.reclaim() > 0 {
    ///     std::thread::yield_now();
    /// }
    /// ```
    pub fn reclaim(&mut self) -> usize {
        self.parts().1.deferred_frees.seal();
        self.free_unseen(true);
        let own = self.parts().1;
        own.arena.trim();
        let waiting = own.deferred_frees.len();
        self.shared.reserve.clear();
        self.publish_memory();
        waiting
    }

    /// The last step of every write: seal and free some garbage when due, and account for memory.
    pub(crate) fn tidy(&mut self) {
        let deferred_frees = &mut self.parts().1.deferred_frees;
        if deferred_frees.is_due() {
            deferred_frees.seal();
            self.free_unseen(false);
        }
        self.publish_memory();
    }

    fn publish_memory(&mut self) {
        // SAFETY: this is the one writer, and `parts` is not borrowed.
        unsafe { self.shared.account() };
    }

    fn free_unseen(&mut self, all: bool) {
        let own = self.parts().1;
        let mut panics = DropPanics::default();
        for retired in own.deferred_frees.take_unseen(all).into_iter().flatten() {
            // SAFETY: the epochs show that no reader can see these any more; each was retired once.
            unsafe {
                match retired {
                    Garbage::TableBlock(block) => block.free(&mut own.arena),
                    Garbage::TreePart(link) => match link.follow::<V>() {
                        Pointee::Leaf(leaf) if crate::mutants::planted("panic_leaks_a_batch") => {
                            leaf.free(&mut own.arena);
                        }
                        Pointee::Leaf(leaf) if core::mem::needs_drop::<V>() => panics.run(|| leaf.free(&mut own.arena)),
                        Pointee::Leaf(leaf) => leaf.free(&mut own.arena),
                        Pointee::Node(node) => node.free(&mut own.arena),
                        Pointee::Nothing => {}
                    },
                }
            }
        }
        panics.go_on();
    }
}

/// The slot of the leaf of `key`. For an absent key, the nodes for its insertion are prefetched:
/// first the one below the top nodes, during the search in the table, then the next, during the
/// creation of the leaf. This saves two waits per insertion.
///
/// # Safety
///
/// Nobody writes during `'w`.
#[inline]
unsafe fn find_or_approach<'w, V, H>(shared: &MapInner<V, H>, hash: u64, key: &[u8]) -> Option<TableSlot<'w, V>> {
    // SAFETY: the caller's promise.
    unsafe {
        shared.table.prefetch_slot(hash);
        let (link, depth) = shared.tree.prefetch_below_top(key);
        let found = shared.table.place(hash, key);
        if found.is_none() {
            shared.tree.prefetch_further(key, link, depth);
        }
        found
    }
}

impl<V, H: KeyHasher> fmt::Debug for Writer<V, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("len", &self.len()).finish_non_exhaustive()
    }
}
