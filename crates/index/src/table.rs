//! The point table: an extendible hash table of tagged pointers to leaves.
//!
//! Leaves lie in [segments](crate::segment) of a bounded number of slots; a directory of segments is indexed by the top bits of the hash ("Extendible Hashing",
//! Fagin et al., TODS 1979). A segment that fills up is rebuilt as two that are told apart by one more bit of the hash; when that needs more bits than the
//! directory has, the directory is copied to twice its length. So no insert ever pays for more than one segment, a reader sees one segment at a
//! time, before or after, and there is no state in which it must look in two places.
//!
//! ```text
//! hash:  63 ........ directory index | 31 ............ 8 group in the segment (scaled) | 7 .. 0 tag
//! ```
//!
//! If a hasher gives so many keys the same top bits that splitting does not help, segments grow instead: a bad hash makes lookups slow,
//! never memory or writes unbounded.

mod fill;

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crate::arena::Arena;
use crate::hash::KeyHasher;
use crate::leaf::Leaf;
use crate::limbo::{Limbo, Retired};
use crate::segment::{FULL_CLASS, FULL_SLOTS, MAX_CLASS, Segment, slots_limit, slots_of_class};
use crate::sync::{AtomicPtr, AtomicUsize, Ordering};

pub(crate) use fill::Parted;

/// Bits of an address that hold a segment's size class, or the directory's depth.
const LOW_BITS: usize = 63;
const PLACE_BYTES: usize = size_of::<AtomicPtr<u8>>();
/// How far ahead of a rebuild leaves are fetched.
const REBUILD_AHEAD: usize = 12;
/// How many bits the directory may have beyond what the number of segments needs, before segments grow instead.
const SPARE_DEPTH: u32 = 4;

/// A segment or a directory: a pointer whose low six bits say how long it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    tagged: *mut u8,
    role: Role,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Segment,
    Directory,
}

#[inline(always)]
fn directory_index(hash: u64, depth: u32) -> usize {
    ((hash >> 1) >> (63 - depth)) as usize
}

/// A directory that stays alive for `'g`.
#[derive(Clone, Copy)]
struct Directory<'g> {
    base: NonNull<u8>,
    depth: u32,
    lives: PhantomData<&'g AtomicPtr<u8>>,
}

impl<'g> Directory<'g> {
    fn len_bytes(depth: u32) -> usize {
        (PLACE_BYTES << depth).max(64)
    }

    fn alloc(arena: &mut Arena, depth: u32) -> Self {
        let base = arena.alloc(Self::len_bytes(depth));
        // SAFETY: the block is fresh and that long.
        unsafe {
            let places = base.as_ptr().cast::<AtomicPtr<u8>>();
            (0..1 << depth).for_each(|at| places.add(at).write(AtomicPtr::new(ptr::null_mut())));
        }
        Self { base, depth, lives: PhantomData }
    }

    /// # Safety
    ///
    /// `tagged` came from [`Directory::tagged`] of a directory that stays alive for `'g`.
    #[inline(always)]
    unsafe fn from_tagged(tagged: *mut u8) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "six bits")]
        let depth = (tagged.addr() & LOW_BITS) as u32;
        // SAFETY: tagged addresses are not null.
        let base = unsafe { NonNull::new_unchecked(tagged.map_addr(|address| address & !LOW_BITS)) };
        Self { base, depth, lives: PhantomData }
    }

    fn tagged(self) -> *mut u8 {
        self.base.as_ptr().map_addr(|address| address | self.depth as usize)
    }

    fn len(self) -> usize {
        1 << self.depth
    }

    #[inline(always)]
    fn place(self, at: usize) -> &'g AtomicPtr<u8> {
        debug_assert!(at < self.len());
        // SAFETY: the directory is alive for 'g and that long.
        unsafe { &*self.base.as_ptr().add(at * PLACE_BYTES).cast() }
    }

    #[inline(always)]
    fn segment(self, at: usize) -> Segment<'g> {
        // SAFETY: every place of a published directory holds a segment that its readers keep alive.
        unsafe { Segment::from_tagged(self.place(at).load(Ordering::Acquire)) }
    }

    /// The places that lead to the segment at `at`: all that share its leading bits.
    fn places_of(self, at: usize, segment_depth: u32) -> core::ops::Range<usize> {
        let span = 1 << (self.depth - segment_depth);
        let first = at & !(span - 1);
        first..first + span
    }
}

/// The table. Readers use `&self` under a guard or with the map to themselves; the writer's methods are marked.
pub(crate) struct Table {
    directory: AtomicPtr<u8>,
    /// How many segments there are. Only the writer reads it.
    segments: AtomicUsize,
}

/// Where the table has a leaf.
pub(crate) struct Place<'g, V> {
    segment: Segment<'g>,
    at: usize,
    pub(crate) leaf: Leaf<'g, V>,
}

impl<V> Place<'_, V> {
    /// Sets the leaf's hint, unless it has it already. The writer's, before it changes the table.
    #[inline(always)]
    pub(crate) fn hint_anew(&self, hint: u32) {
        self.segment.hint_anew(self.at, self.leaf, hint);
    }

    /// Puts another leaf of the same key here. The writer's, as above.
    pub(crate) fn replace(&self, leaf: Leaf<'_, V>, hint: u32) {
        self.segment.replace(self.at, leaf, hint);
    }

    /// Takes the leaf out. The writer's, as above.
    pub(crate) fn clear(&self) {
        self.segment.clear(self.at);
    }
}

/// What the writer's methods need besides the table.
pub(crate) struct Tools<'a, H> {
    pub(crate) arena: &'a mut Arena,
    pub(crate) limbo: &'a mut Limbo,
    pub(crate) hasher: &'a H,
}

impl Table {
    pub(crate) fn new(arena: &mut Arena) -> Self {
        let directory = Directory::alloc(arena, 0);
        let segment = Segment::alloc(arena, 0, 0);
        directory.place(0).store(segment.tagged(), Ordering::Release);
        Self { directory: AtomicPtr::new(directory.tagged()), segments: AtomicUsize::new(1) }
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
    unsafe fn segment<'g>(&self, hash: u64) -> Segment<'g> {
        // SAFETY: the caller's promise.
        let directory = unsafe { self.directory() };
        directory.segment(directory_index(hash, directory.depth))
    }

    /// The leaf of `key`.
    ///
    /// # Safety
    ///
    /// A guard lives for `'g`, or nobody writes during `'g`; the table holds leaves of `V`.
    #[inline(always)]
    pub(crate) unsafe fn get<'g, V>(&self, hash: u64, key: &[u8]) -> Option<Leaf<'g, V>> {
        // SAFETY: the caller's promise.
        unsafe { self.segment(hash) }.find(hash, key).map(|(_, leaf)| leaf)
    }

    /// The leaf of `key`; `hinted` gets its hint before it is looked at, and rarely that of another leaf.
    ///
    /// # Safety
    ///
    /// As for [`Table::get`].
    #[inline(always)]
    pub(crate) unsafe fn get_hinted<'g, V>(
        &self,
        hash: u64,
        key: &[u8],
        hinted: impl FnMut(u32),
    ) -> Option<Leaf<'g, V>> {
        // SAFETY: the caller's promise.
        unsafe { self.segment(hash) }.find_hinted(hash, key, hinted).map(|(_, leaf)| leaf)
    }

    /// The leaf of `key`, and where the table has it: good until the table is changed.
    ///
    /// # Safety
    ///
    /// As for [`Table::insert`].
    #[inline(always)]
    pub(crate) unsafe fn place<'g, V>(&self, hash: u64, key: &[u8]) -> Option<Place<'g, V>> {
        // SAFETY: the caller's promise.
        let segment = unsafe { self.segment(hash) };
        segment.find(hash, key).map(|(at, leaf)| Place { segment, at, leaf })
    }

    /// Asks for the line where the probe for `hash` begins.
    ///
    /// # Safety
    ///
    /// As for [`Table::get`].
    #[inline(always)]
    pub(crate) unsafe fn prefetch_slot(&self, hash: u64) {
        // SAFETY: the caller's promise.
        let segment = unsafe { self.segment(hash) };
        segment.prefetch(hash);
    }

    /// Asks for the leaf that the probe for `hash` will likely reach; says whether there is one.
    ///
    /// # Safety
    ///
    /// As for [`Table::get`].
    #[inline(always)]
    pub(crate) unsafe fn prefetch_leaf<V>(&self, hash: u64) -> bool {
        // SAFETY: the caller's promise.
        let candidate = unsafe { self.segment(hash) }.candidate::<V>(hash);
        candidate.inspect(|leaf| leaf.prefetch()).is_some()
    }

    /// Asks for what [`Table::insert`] will write besides the slot. The writer's.
    ///
    /// # Safety
    ///
    /// As for [`Table::insert`].
    #[inline(always)]
    pub(crate) unsafe fn prefetch_insert(&self, hash: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.segment(hash) }.prefetch_head();
    }

    /// Adds a leaf whose key is not in the table. The writer's. If the hasher panics, the table is as it was.
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
            // SAFETY: the writer alone retires segments, and does so below only after its last use of this one.
            if unsafe { self.try_insert(hash, leaf, hint) } {
                return;
            }
            // SAFETY: the caller's promise.
            unsafe { self.make_room::<V, H>(hash, leaves, tools) };
        }
    }

    /// Adds a leaf whose key is not in the table, if there is room without asking for hashes; says whether there was. The writer's.
    ///
    /// # Safety
    ///
    /// As for [`Table::insert`].
    #[inline(always)]
    pub(crate) unsafe fn try_insert<V>(&self, hash: u64, leaf: Leaf<'_, V>, hint: u32) -> bool {
        // SAFETY: the caller's promise.
        let segment = unsafe { self.segment(hash) };
        let has_room = segment.taken() < slots_limit(segment.slots());
        if has_room {
            segment.put(hash, leaf, hint);
        }
        has_room
    }

    /// Gives memory back if a removal has left the segment of `hash` nearly empty. The writer's. If the hasher panics, the table is as it was.
    ///
    /// # Safety
    ///
    /// As for [`Table::insert`].
    pub(crate) unsafe fn shrink_if_sparse<V, H: KeyHasher>(&self, hash: u64, tools: &mut Tools<'_, H>) {
        // SAFETY: the caller's promise.
        let segment = unsafe { self.segment(hash) };
        if segment.leaves() < segment.slots() / 8 {
            // SAFETY: the caller's promise.
            unsafe { self.shrink::<V, H>(hash, tools) };
        }
    }

    /// Makes room in the full segment of `hash`: cleans it of graves, doubles it while it is small, or splits it.
    unsafe fn make_room<V, H: KeyHasher>(&self, hash: u64, leaves: usize, tools: &mut Tools<'_, H>) {
        // SAFETY: the writer's call; see insert.
        let (directory, segment) = unsafe { (self.directory(), self.segment(hash)) };
        if segment.leaves() < slots_limit(segment.slots()) * 3 / 4 {
            self.rebuild::<V, H>(directory, hash, segment.class(), tools);
            return;
        }
        let wanted_depth = (leaves / (FULL_SLOTS / 2)).checked_ilog2().map_or(0, |log2| log2 + 1);
        let may_split = segment.class() >= FULL_CLASS && segment.depth() < wanted_depth + SPARE_DEPTH;
        if may_split || segment.class() == MAX_CLASS {
            self.split::<V, H>(directory, hash, tools);
        } else {
            self.rebuild::<V, H>(directory, hash, segment.class() + 1, tools);
        }
    }

    /// Replaces the segment of `hash` by one of `class` with the same leaves.
    fn rebuild<V, H: KeyHasher>(&self, directory: Directory<'_>, hash: u64, class: usize, tools: &mut Tools<'_, H>) {
        let at = directory_index(hash, directory.depth);
        let old = directory.segment(at);
        let new = Segment::alloc(tools.arena, class, old.depth());
        for_each_hashed::<V, H>(old, tools.hasher, |hash, leaf, hint| {
            if !(crate::mutants::planted("slot_lost") && new.leaves() == 5) {
                new.put(hash, leaf, hint);
            }
        });
        self.install(directory, at, new);
        retire_segment(old, tools.limbo);
    }

    /// Replaces the segment of `hash` by two, told apart by one more bit.
    fn split<V, H: KeyHasher>(&self, directory: Directory<'_>, hash: u64, tools: &mut Tools<'_, H>) {
        let old = directory.segment(directory_index(hash, directory.depth));
        let depth = old.depth() + 1;
        let directory =
            if depth > directory.depth { self.resize_directory(directory, depth, tools) } else { directory };
        let at = directory_index(hash, directory.depth);
        let places = directory.places_of(at, old.depth());
        let half_of = |hash: u64| (hash >> (64 - depth) & 1) as usize;
        let classes = classes_of_halves::<V, H>(old, tools.hasher, half_of);
        let halves = classes.map(|class| Segment::alloc(tools.arena, class, depth));
        for_each_hashed::<V, H>(old, tools.hasher, |hash, leaf, hint| {
            // A hasher that says another thing than when the halves were measured may find one full; then the other has room.
            let half = half_of(hash);
            let is_full = halves[half].taken() >= slots_limit(halves[half].slots());
            halves[if is_full { 1 - half } else { half }].put(hash, leaf, hint);
        });
        let middle = places.start + places.len() / 2;
        self.install(directory, places.start, halves[0]);
        self.install(directory, middle, halves[1]);
        self.segments.store(self.segments.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        retire_segment(old, tools.limbo);
    }

    /// Puts `segment` in all places that its depth gives it around `at`.
    fn install(&self, directory: Directory<'_>, at: usize, segment: Segment<'_>) {
        for place in directory.places_of(at, segment.depth()) {
            directory.place(place).store(segment.tagged(), Ordering::Release);
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
        tools.limbo.push(Retired::Block(Block { tagged: old.tagged(), role: Role::Directory }));
        new
    }

    /// Gives memory back after a removal that left the segment of `hash` nearly empty.
    unsafe fn shrink<V, H: KeyHasher>(&self, hash: u64, tools: &mut Tools<'_, H>) {
        // SAFETY: the writer's call; see insert.
        let (directory, segment) = unsafe { (self.directory(), self.segment(hash)) };
        if segment.class() > FULL_CLASS || (segment.depth() == 0 && segment.class() > 0) {
            self.rebuild::<V, H>(directory, hash, segment.class() - 1, tools);
            return;
        }
        if segment.depth() == 0 {
            return;
        }
        let at = directory_index(hash, directory.depth);
        let buddy_at = at ^ (1 << (directory.depth - segment.depth()));
        let buddy = directory.segment(buddy_at);
        if buddy.depth() != segment.depth()
            || buddy.class() != segment.class()
            || buddy.leaves() + segment.leaves() > segment.slots() / 4
        {
            return;
        }
        let merged = Segment::alloc(tools.arena, segment.class(), segment.depth() - 1);
        for each in [segment, buddy] {
            for_each_hashed::<V, H>(each, tools.hasher, |hash, leaf, hint| merged.put(hash, leaf, hint));
        }
        self.install(directory, at, merged);
        retire_segment(segment, tools.limbo);
        retire_segment(buddy, tools.limbo);
        self.shrink_directory(directory, tools);
    }

    /// Counts a merge, and shortens the directory when it is far longer than the segments need.
    fn shrink_directory<H>(&self, directory: Directory<'_>, tools: &mut Tools<'_, H>) {
        let segments = self.segments.load(Ordering::Relaxed) - 1;
        self.segments.store(segments, Ordering::Relaxed);
        // Looking at every segment costs as much as the directory is long, so it is done once in a share of that many merges.
        if segments > directory.len() / 4 || !segments.is_multiple_of((directory.len() / 16).max(1)) {
            return;
        }
        let needed = (0..directory.len()).map(|at| directory.segment(at).depth()).max().unwrap_or(0);
        // One bit is left to spare, or a put and a remove in turn would copy the directory each time.
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
            let segment = directory.segment(at);
            segment.entries::<V>().for_each(|(leaf, _)| visit(leaf));
            at += directory.places_of(at, segment.depth()).len();
        }
    }
}

/// Calls `visit` with each leaf of a segment, its hash and its hint, fetching leaves ahead.
fn for_each_hashed<V, H: KeyHasher>(segment: Segment<'_>, hasher: &H, mut visit: impl FnMut(u64, Leaf<'_, V>, u32)) {
    let mut ahead = segment.entries::<V>();
    ahead.by_ref().take(REBUILD_AHEAD).for_each(|(leaf, _)| leaf.prefetch());
    for (leaf, hint) in segment.entries::<V>() {
        if let Some((next, _)) = ahead.next() {
            next.prefetch();
        }
        visit(hasher.hash(leaf.key()), leaf, hint);
    }
}

/// How large the halves of a segment have to be. Halves of a segment that had grown beyond a full one are as small as what goes into them allows: one
/// that is empty sees no removal, so that nothing would ever make it smaller, and its buddy could not be merged with it.
fn classes_of_halves<V, H: KeyHasher>(old: Segment<'_>, hasher: &H, half_of: impl Fn(u64) -> usize) -> [usize; 2] {
    if old.class() <= FULL_CLASS || crate::mutants::planted("halves_stay_large") {
        return [old.class(); 2];
    }
    let mut leaves = [0; 2];
    for_each_hashed::<V, H>(old, hasher, |hash, _, _| leaves[half_of(hash)] += 1);
    leaves.map(|leaves| {
        (FULL_CLASS..old.class()).find(|&class| leaves < slots_limit(slots_of_class(class))).unwrap_or(old.class())
    })
}

fn retire_segment(segment: Segment<'_>, limbo: &mut Limbo) {
    limbo.push(Retired::Block(Block { tagged: segment.tagged(), role: Role::Segment }));
}

impl Block {
    /// Gives the memory back.
    ///
    /// # Safety
    ///
    /// Nobody can reach the block any more, and it is freed once.
    pub(crate) unsafe fn free(self, arena: &mut Arena) {
        // SAFETY: the caller's promise; the role tells what the pointer was made from.
        unsafe {
            match self.role {
                Role::Segment => {
                    let segment = Segment::from_tagged(self.tagged);
                    segment.free(arena);
                }
                Role::Directory => {
                    let directory = Directory::from_tagged(self.tagged);
                    arena.free(directory.base, Directory::len_bytes(directory.depth));
                }
            }
        }
    }
}
