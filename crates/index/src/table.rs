//! The point table: an extendible hash table of tagged pointers to leaves.
//!
//! Leaves lie in [buckets](crate::bucket) of a bounded number of slots; a directory of buckets is
//! indexed by the top bits of the hash ("Extendible Hashing", Fagin et al., TODS 1979). A full
//! bucket is split into two by one more bit of the hash. If this needs more bits than the directory
//! has, the directory is copied to twice its length. So an insert pays for at most one bucket, and
//! a reader sees either the old or the new bucket and never searches in two places.
//!
//! ```text
//! hash:  63 ........ directory index | 31 ............ 8 group in the bucket (scaled) | 7 .. 0 tag
//! ```
//!
//! If too many keys have the same top bits for splitting to help, buckets grow instead: a bad hash
//! makes lookups slow, but memory and writes stay bounded.

mod fill;

use crate::arena::Arena;
use crate::bucket::{FULL_CLASS, FULL_SLOTS, HashBucket, MAX_CLASS, slots_limit, slots_of_class};
use crate::deferred_free::{DeferredFrees, Garbage};
use crate::directory::{BlockRole, Directory, TableBlock, directory_index};
use crate::hash::KeyHasher;
use crate::leaf::Leaf;
use crate::sync::{AtomicPtr, AtomicUsize, Ordering};

pub(crate) use fill::Parted;

/// Prefetch distance of leaves in a rebuild.
const REBUILD_AHEAD: usize = 12;
/// Maximum number of directory bits beyond those needed for the number of buckets, before buckets
/// grow instead.
const SPARE_DEPTH: u32 = 4;

/// The table. Readers use `&self` under a guard, or with exclusive access to the map; methods for
/// the writer only are marked.
pub(crate) struct PointTable {
    directory: AtomicPtr<u8>,
    /// Number of buckets. Only the writer reads it.
    buckets: AtomicUsize,
}

/// The slot of a leaf in the table.
pub(crate) struct TableSlot<'g, V> {
    bucket: HashBucket<'g>,
    at: usize,
    pub(crate) leaf: Leaf<'g, V>,
}

impl<V> TableSlot<'_, V> {
    /// Sets the leaf's hint, if it differs. For the writer only, before it changes the table.
    #[inline(always)]
    pub(crate) fn hint_anew(&self, hint: u32) {
        self.bucket.hint_anew(self.at, self.leaf, hint);
    }

    /// Replaces the leaf by another of the same key. For the writer only, as above.
    pub(crate) fn replace(&self, leaf: Leaf<'_, V>, hint: u32) {
        self.bucket.replace(self.at, leaf, hint);
    }

    /// Removes the leaf. For the writer only, as above.
    pub(crate) fn clear(&self) {
        self.bucket.clear(self.at);
    }
}

/// The writer's data besides the table.
pub(crate) struct Tools<'a, H> {
    pub(crate) arena: &'a mut Arena,
    pub(crate) deferred_frees: &'a mut DeferredFrees,
    pub(crate) hasher: &'a H,
}

impl PointTable {
    pub(crate) fn new(arena: &mut Arena) -> Self {
        let directory = Directory::alloc(arena, 0);
        let bucket = HashBucket::alloc(arena, 0, 0);
        directory.place(0).store(bucket.tagged(), Ordering::Release);
        Self { directory: AtomicPtr::new(directory.tagged()), buckets: AtomicUsize::new(1) }
    }

    /// # Safety
    ///
    /// A guard lives for `'g`, or nobody writes during `'g`.
    #[inline(always)]
    unsafe fn directory<'g>(&self) -> Directory<'g> {
        // SAFETY: the published directory is retired by epochs.
        unsafe { Directory::from_tagged(self.directory.load(Ordering::Acquire)) }
    }

    #[inline(always)]
    unsafe fn bucket<'g>(&self, hash: u64) -> HashBucket<'g> {
        // SAFETY: the caller's promise.
        let directory = unsafe { self.directory() };
        directory.bucket(directory_index(hash, directory.depth))
    }

    /// The leaf of `key`.
    ///
    /// # Safety
    ///
    /// A guard lives for `'g`, or nobody writes during `'g`; the table holds leaves of `V`.
    #[inline(always)]
    pub(crate) unsafe fn get<'g, V>(&self, hash: u64, key: &[u8]) -> Option<Leaf<'g, V>> {
        // SAFETY: the caller's promise.
        unsafe { self.bucket(hash) }.find(hash, key).map(|(_, leaf)| leaf)
    }

    /// The leaf of `key`; `hinted` gets its hint before the leaf is read, and rarely that of
    /// another leaf.
    ///
    /// # Safety
    ///
    /// As for [`PointTable::get`].
    #[inline(always)]
    pub(crate) unsafe fn get_hinted<'g, V>(
        &self,
        hash: u64,
        key: &[u8],
        hinted: impl FnMut(u32),
    ) -> Option<Leaf<'g, V>> {
        // SAFETY: the caller's promise.
        unsafe { self.bucket(hash) }.find_hinted(hash, key, hinted).map(|(_, leaf)| leaf)
    }

    /// The leaf of `key`, and its slot in the table: valid until the table is changed.
    ///
    /// # Safety
    ///
    /// As for [`PointTable::insert`].
    #[inline(always)]
    pub(crate) unsafe fn place<'g, V>(&self, hash: u64, key: &[u8]) -> Option<TableSlot<'g, V>> {
        // SAFETY: the caller's promise.
        let bucket = unsafe { self.bucket(hash) };
        bucket.find(hash, key).map(|(at, leaf)| TableSlot { bucket, at, leaf })
    }

    /// Prefetches the line where the probe for `hash` begins.
    ///
    /// # Safety
    ///
    /// As for [`PointTable::get`].
    #[inline(always)]
    pub(crate) unsafe fn prefetch_slot(&self, hash: u64) {
        // SAFETY: the caller's promise.
        let bucket = unsafe { self.bucket(hash) };
        bucket.prefetch(hash);
    }

    /// Prefetches the likely leaf of the probe for `hash`; returns whether one exists.
    ///
    /// # Safety
    ///
    /// As for [`PointTable::get`].
    #[inline(always)]
    pub(crate) unsafe fn prefetch_leaf<V>(&self, hash: u64) -> bool {
        // SAFETY: the caller's promise.
        let candidate = unsafe { self.bucket(hash) }.candidate::<V>(hash);
        candidate.inspect(|leaf| leaf.prefetch()).is_some()
    }

    /// Prefetches the memory that [`PointTable::insert`] writes besides the slot. For the writer
    /// only.
    ///
    /// # Safety
    ///
    /// As for [`PointTable::insert`].
    #[inline(always)]
    pub(crate) unsafe fn prefetch_insert(&self, hash: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.bucket(hash) }.prefetch_head();
    }

    /// Adds a leaf whose key is not in the table. For the writer only. If the hasher panics, the
    /// table is unchanged.
    ///
    /// # Safety
    ///
    /// The caller is the one writer, and the table holds leaves of `V`.
    pub(crate) unsafe fn insert<V, H: KeyHasher>(
        &self,
        hash: u64,
        (leaf, hint): (Leaf<'_, V>, u32),
        leaves: usize,
        tools: &mut Tools<'_, H>,
    ) {
        loop {
            // SAFETY: the writer alone retires buckets, and does so below only after its last use
            // of this one.
            if unsafe { self.try_insert(hash, leaf, hint) } {
                return;
            }
            // SAFETY: the caller's promise.
            unsafe { self.make_room::<V, H>(hash, leaves, tools) };
        }
    }

    /// Adds a leaf whose key is not in the table, if the bucket has room without a rebuild; returns
    /// whether it had. For the writer only.
    ///
    /// # Safety
    ///
    /// As for [`PointTable::insert`].
    #[inline(always)]
    pub(crate) unsafe fn try_insert<V>(&self, hash: u64, leaf: Leaf<'_, V>, hint: u32) -> bool {
        // SAFETY: the caller's promise.
        let bucket = unsafe { self.bucket(hash) };
        let has_room = bucket.taken() < slots_limit(bucket.slots());
        if has_room {
            bucket.put(hash, leaf, hint);
        }
        has_room
    }

    /// Frees memory if the bucket of `hash` is nearly empty after a removal. For the writer only.
    /// If the hasher panics, the table is unchanged.
    ///
    /// # Safety
    ///
    /// As for [`PointTable::insert`].
    pub(crate) unsafe fn shrink_if_sparse<V, H: KeyHasher>(&self, hash: u64, tools: &mut Tools<'_, H>) {
        // SAFETY: the caller's promise.
        let bucket = unsafe { self.bucket(hash) };
        if bucket.leaves() < bucket.slots() / 8 {
            // SAFETY: the caller's promise.
            unsafe { self.shrink::<V, H>(hash, tools) };
        }
    }

    /// Makes room in the full bucket of `hash`: cleans it of deleted slots, doubles it while it is
    /// small, or splits it.
    unsafe fn make_room<V, H: KeyHasher>(&self, hash: u64, leaves: usize, tools: &mut Tools<'_, H>) {
        // SAFETY: the writer's call; see insert.
        let (directory, bucket) = unsafe { (self.directory(), self.bucket(hash)) };
        if bucket.leaves() < slots_limit(bucket.slots()) * 3 / 4 {
            self.rebuild::<V, H>(directory, hash, bucket.class(), tools);
            return;
        }
        let wanted_depth = (leaves / (FULL_SLOTS / 2)).checked_ilog2().map_or(0, |log2| log2 + 1);
        let may_split = bucket.class() >= FULL_CLASS && bucket.depth() < wanted_depth + SPARE_DEPTH;
        if may_split || bucket.class() == MAX_CLASS {
            self.split::<V, H>(directory, hash, tools);
        } else {
            self.rebuild::<V, H>(directory, hash, bucket.class() + 1, tools);
        }
    }

    /// Replaces the bucket of `hash` by one of `class` with the same leaves.
    fn rebuild<V, H: KeyHasher>(&self, directory: Directory<'_>, hash: u64, class: usize, tools: &mut Tools<'_, H>) {
        let at = directory_index(hash, directory.depth);
        let old = directory.bucket(at);
        let new = HashBucket::alloc(tools.arena, class, old.depth());
        for_each_hashed::<V, H>(old, tools.hasher, |hash, leaf, hint| {
            if !(crate::mutants::planted("slot_lost") && new.leaves() == 5) {
                new.put(hash, leaf, hint);
            }
        });
        self.install(directory, at, new);
        retire_bucket(old, tools.deferred_frees);
    }

    /// Splits the bucket of `hash` in two, by one more bit.
    fn split<V, H: KeyHasher>(&self, directory: Directory<'_>, hash: u64, tools: &mut Tools<'_, H>) {
        let old = directory.bucket(directory_index(hash, directory.depth));
        let depth = old.depth() + 1;
        let directory =
            if depth > directory.depth { self.resize_directory(directory, depth, tools) } else { directory };
        let at = directory_index(hash, directory.depth);
        let places = directory.places_of(at, old.depth());
        let half_of = |hash: u64| (hash >> (64 - depth) & 1) as usize;
        let classes = classes_of_halves::<V, H>(old, tools.hasher, half_of);
        let halves = classes.map(|class| HashBucket::alloc(tools.arena, class, depth));
        for_each_hashed::<V, H>(old, tools.hasher, |hash, leaf, hint| {
            // If the hasher's results have changed since the halves were measured, one may be full;
            // then the other has room.
            let half = half_of(hash);
            let is_full = halves[half].taken() >= slots_limit(halves[half].slots());
            halves[if is_full { 1 - half } else { half }].put(hash, leaf, hint);
        });
        let middle = places.start + places.len() / 2;
        self.install(directory, places.start, halves[0]);
        self.install(directory, middle, halves[1]);
        self.buckets.store(self.buckets.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        retire_bucket(old, tools.deferred_frees);
    }

    /// Stores `bucket` in all directory entries of its depth around `at`.
    fn install(&self, directory: Directory<'_>, at: usize, bucket: HashBucket<'_>) {
        for place in directory.places_of(at, bucket.depth()) {
            directory.place(place).store(bucket.tagged(), Ordering::Release);
        }
    }

    /// Copies the directory to one of `depth`, and installs that.
    fn resize_directory<H>(&self, old: Directory<'_>, depth: u32, tools: &mut Tools<'_, H>) -> Directory<'static> {
        let new = Directory::alloc(tools.arena, depth);
        for at in 0..new.len() {
            let from = if depth >= old.depth { at >> (depth - old.depth) } else { at << (old.depth - depth) };
            new.place(at).store(old.place(from).load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.directory.store(new.tagged(), Ordering::Release);
        tools.deferred_frees.push(Garbage::TableBlock(TableBlock { tagged: old.tagged(), role: BlockRole::Directory }));
        new
    }

    /// Frees memory after a removal, if the bucket of `hash` is nearly empty.
    unsafe fn shrink<V, H: KeyHasher>(&self, hash: u64, tools: &mut Tools<'_, H>) {
        // SAFETY: the writer's call; see insert.
        let (directory, bucket) = unsafe { (self.directory(), self.bucket(hash)) };
        if bucket.class() > FULL_CLASS || (bucket.depth() == 0 && bucket.class() > 0) {
            self.rebuild::<V, H>(directory, hash, bucket.class() - 1, tools);
            return;
        }
        if bucket.depth() == 0 {
            return;
        }
        let at = directory_index(hash, directory.depth);
        let buddy_at = at ^ (1 << (directory.depth - bucket.depth()));
        let buddy = directory.bucket(buddy_at);
        if buddy.depth() != bucket.depth()
            || buddy.class() != bucket.class()
            || buddy.leaves() + bucket.leaves() > bucket.slots() / 4
        {
            return;
        }
        let merged = HashBucket::alloc(tools.arena, bucket.class(), bucket.depth() - 1);
        for each in [bucket, buddy] {
            for_each_hashed::<V, H>(each, tools.hasher, |hash, leaf, hint| merged.put(hash, leaf, hint));
        }
        self.install(directory, at, merged);
        retire_bucket(bucket, tools.deferred_frees);
        retire_bucket(buddy, tools.deferred_frees);
        self.shrink_directory(directory, tools);
    }

    /// Counts a merge, and shortens the directory when it is far longer than the buckets need.
    fn shrink_directory<H>(&self, directory: Directory<'_>, tools: &mut Tools<'_, H>) {
        let buckets = self.buckets.load(Ordering::Relaxed) - 1;
        self.buckets.store(buckets, Ordering::Relaxed);
        // This reads the whole directory, so it runs only once per a number of merges that is a
        // share of the directory's length.
        if buckets > directory.len() / 4 || !buckets.is_multiple_of((directory.len() / 16).max(1)) {
            return;
        }
        let needed = (0..directory.len()).map(|at| directory.bucket(at).depth()).max().unwrap_or(0);
        // One bit is left to spare, or a put and a remove in turn would copy the directory each
        // time.
        if needed + 1 < directory.depth {
            self.resize_directory(directory, needed + 1, tools);
        }
    }

    /// Every leaf. With the map to oneself.
    ///
    /// # Safety
    ///
    /// Nobody writes; the table holds leaves of `V` that are alive.
    pub(crate) unsafe fn for_each_leaf<V>(&self, mut visit: impl FnMut(Leaf<'_, V>)) {
        // SAFETY: the caller's promise.
        let directory = unsafe { self.directory() };
        let mut at = 0;
        while at < directory.len() {
            let bucket = directory.bucket(at);
            bucket.entries::<V>().for_each(|(leaf, _)| visit(leaf));
            at += directory.places_of(at, bucket.depth()).len();
        }
    }
}

/// Calls `visit` with each leaf of a bucket, its hash and its hint, fetching leaves ahead.
fn for_each_hashed<V, H: KeyHasher>(bucket: HashBucket<'_>, hasher: &H, mut visit: impl FnMut(u64, Leaf<'_, V>, u32)) {
    let mut ahead = bucket.entries::<V>();
    ahead.by_ref().take(REBUILD_AHEAD).for_each(|(leaf, _)| leaf.prefetch());
    for (leaf, hint) in bucket.entries::<V>() {
        if let Some((next, _)) = ahead.next() {
            next.prefetch();
        }
        visit(hasher.hash(leaf.key()), leaf, hint);
    }
}

/// The size classes for the halves of a bucket. The halves of a bucket that had grown beyond a full
/// one get the smallest classes that hold their leaves: an empty half has no removals, so nothing
/// would shrink it later, and its buddy could not be merged with it.
fn classes_of_halves<V, H: KeyHasher>(old: HashBucket<'_>, hasher: &H, half_of: impl Fn(u64) -> usize) -> [usize; 2] {
    if old.class() <= FULL_CLASS || crate::mutants::planted("halves_stay_large") {
        return [old.class(); 2];
    }
    let mut leaves = [0; 2];
    for_each_hashed::<V, H>(old, hasher, |hash, _, _| leaves[half_of(hash)] += 1);
    leaves.map(|leaves| {
        (FULL_CLASS..old.class()).find(|&class| leaves < slots_limit(slots_of_class(class))).unwrap_or(old.class())
    })
}

fn retire_bucket(bucket: HashBucket<'_>, deferred_frees: &mut DeferredFrees) {
    deferred_frees.push(Garbage::TableBlock(TableBlock { tagged: bucket.tagged(), role: BlockRole::Bucket }));
}
