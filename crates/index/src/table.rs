//! The point table: an extendible hash table of tagged pointers to leaves.
//!
//! A slot is eight bytes: a pointer to a leaf in the low 48 bits, a fingerprint of the key's hash in the top 16. Slots form segments of at most
//! [`FULL_SLOTS`], probed in a line; a directory of segments is indexed by the top bits of the hash ("Extendible Hashing", Fagin et al., TODS 1979).
//! A segment that fills up is rebuilt as two that are told apart by one more bit of the hash; when that needs more bits than the directory has,
//! the directory is copied to twice its length. So no insert ever pays for more than one segment, a reader sees one segment at a
//! time, before or after, and there is no state in which it must look in two places.
//!
//! ```text
//! hash:  63 ........ directory index | 47 .. 32 fingerprint | 31 ............ 0 place in the segment (scaled)
//! ```
//!
//! Readers see a slot go from empty to a leaf, from a leaf to its replacement, and from a leaf to a grave (or to empty, where the probe line ends anyway).
//! A leaf never moves within a segment, so a probe cannot miss it.
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
use crate::prefetch::prefetch_line;
use crate::sync::{AtomicPtr, AtomicUsize, Ordering};

pub(crate) use fill::Parted;

/// Slots of a segment that splits when it is full.
const FULL_SLOTS: usize = if cfg!(loom) { 8 } else { 1008 };
/// Slots in a cache line. Every segment has a multiple of it, and its slots begin at a line.
const LINE_SLOTS: usize = 8;
/// The size class of such a segment; smaller ones are doubled until they get there.
const FULL_CLASS: usize = if cfg!(loom) { 0 } else { 7 };
/// Bits of an address that hold a segment's size class, or the directory's depth.
const LOW_BITS: usize = 63;
const FINGERPRINT_SHIFT: u32 = 48;
/// How a leaf is put where readers find it.
const PUBLISH: Ordering = if cfg!(mutants = "missed_publish") { Ordering::Relaxed } else { Ordering::Release };
/// What removal leaves in a slot that others may lie behind.
const GRAVE_ADDRESS: usize = 1;
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

/// What the writer keeps about a segment, in its first 64 bytes.
#[repr(C, align(64))]
struct SegmentHead {
    leaves: usize,
    graves: usize,
    depth: u32,
}

const HEAD_BYTES: usize = size_of::<SegmentHead>();
const SLOT_BYTES: usize = size_of::<AtomicPtr<u8>>();

const fn slots_of_class(class: usize) -> usize {
    if class < FULL_CLASS { 8 << class } else { FULL_SLOTS << (class - FULL_CLASS) }
}

/// Slots per class, so that a reader needs no branch.
static SLOTS: [u32; 24] = {
    let mut slots = [0; 24];
    let mut class = 0;
    while class < 24 {
        #[expect(clippy::cast_possible_truncation, reason = "1008 << 16 at most")]
        let count = slots_of_class(class) as u32;
        slots[class] = count;
        class += 1;
    }
    slots
};
const MAX_CLASS: usize = SLOTS.len() - 1;

#[inline(always)]
fn fingerprint(hash: u64) -> usize {
    ((hash >> 32) as usize & 0xffff) << FINGERPRINT_SHIFT
}

/// The slot where the probe for `hash` begins: the first of a cache line, so that most probes end in the line that they begin in.
#[inline(always)]
fn home(hash: u64, slots: usize) -> usize {
    (((hash & 0xffff_ffff) * (slots / LINE_SLOTS) as u64) >> 32) as usize * LINE_SLOTS
}

#[inline(always)]
fn directory_index(hash: u64, depth: u32) -> usize {
    ((hash >> 1) >> (63 - depth)) as usize
}

/// Slots that may be taken, leaves and graves together, before a segment is rebuilt.
const fn slots_limit(slots: usize) -> usize {
    slots * 4 / 5
}

/// A segment that stays alive for `'g`.
#[derive(Clone, Copy)]
struct Segment<'g> {
    base: NonNull<u8>,
    class: usize,
    lives: PhantomData<&'g SegmentHead>,
}

impl<'g> Segment<'g> {
    fn alloc(arena: &mut Arena, class: usize, depth: u32) -> Self {
        let len_bytes = HEAD_BYTES + slots_of_class(class) * SLOT_BYTES;
        let base = arena.alloc(len_bytes);
        // SAFETY: the block is fresh and that long.
        unsafe {
            base.cast::<SegmentHead>().write(SegmentHead { leaves: 0, graves: 0, depth });
            let slots = base.as_ptr().add(HEAD_BYTES).cast::<AtomicPtr<u8>>();
            (0..slots_of_class(class)).for_each(|at| slots.add(at).write(AtomicPtr::new(ptr::null_mut())));
        }
        Self { base, class, lives: PhantomData }
    }

    /// # Safety
    ///
    /// `tagged` came from [`Segment::tagged`] of a segment that stays alive for `'g`.
    #[inline(always)]
    unsafe fn from_tagged(tagged: *mut u8) -> Self {
        let class = tagged.addr() & LOW_BITS;
        // SAFETY: tagged addresses are not null.
        let base = unsafe { NonNull::new_unchecked(tagged.map_addr(|address| address & !LOW_BITS)) };
        Self { base, class, lives: PhantomData }
    }

    fn tagged(self) -> *mut u8 {
        self.base.as_ptr().map_addr(|address| address | self.class)
    }

    #[inline(always)]
    fn slots(self) -> usize {
        SLOTS[self.class] as usize
    }

    #[inline(always)]
    fn slot(self, at: usize) -> &'g AtomicPtr<u8> {
        debug_assert!(at < self.slots());
        // SAFETY: the segment is alive for 'g, and has that many slots behind its head.
        unsafe { &*self.base.as_ptr().add(HEAD_BYTES + at * SLOT_BYTES).cast() }
    }

    /// What the writer keeps. Readers never look at it.
    fn head(self) -> *mut SegmentHead {
        self.base.as_ptr().cast()
    }

    fn leaves(self) -> usize {
        // SAFETY: only the writer calls this, and it alone writes the head.
        unsafe { (*self.head()).leaves }
    }

    fn taken(self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.head()).leaves + (*self.head()).graves }
    }

    fn depth(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.head()).depth }
    }

    fn count(self, leaves: isize, graves: isize) {
        // SAFETY: as above.
        unsafe {
            (*self.head()).leaves = (*self.head()).leaves.wrapping_add_signed(leaves);
            (*self.head()).graves = (*self.head()).graves.wrapping_add_signed(graves);
        }
    }

    /// The leaf of `key`, and its slot.
    #[inline(always)]
    fn find<V>(self, hash: u64, key: &[u8]) -> Option<(usize, Leaf<'g, V>)> {
        let slots = self.slots();
        let wanted = fingerprint(hash);
        let mut at = home(hash, slots);
        for _ in 0..slots {
            let entry = self.slot(at).load(Ordering::Acquire);
            if entry.is_null() {
                return None;
            }
            if entry.addr() & FINGERPRINT_MASK == wanted && entry.addr() != GRAVE_ADDRESS {
                // SAFETY: slots hold leaves of V under a fingerprint, published with release, that live as long as the segment's readers.
                let leaf = unsafe { leaf_of::<V>(entry) };
                if leaf.key() == key {
                    return Some((at, leaf));
                }
            }
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
        None
    }

    /// The first leaf that the fingerprint lets through, unchecked: what a lookup will most likely compare with.
    #[inline(always)]
    fn candidate<V>(self, hash: u64) -> Option<Leaf<'g, V>> {
        let slots = self.slots();
        let wanted = fingerprint(hash);
        let mut at = home(hash, slots);
        for _ in 0..slots {
            let entry = self.slot(at).load(Ordering::Acquire);
            if entry.is_null() {
                return None;
            }
            if entry.addr() & FINGERPRINT_MASK == wanted && entry.addr() != GRAVE_ADDRESS {
                // SAFETY: as in find.
                return Some(unsafe { leaf_of::<V>(entry) });
            }
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
        None
    }

    /// Puts a leaf that is not here into the first free slot of its probe line. There is one.
    fn put<V>(self, hash: u64, leaf: Leaf<'_, V>) {
        let slots = self.slots();
        let mut at = home(hash, slots);
        loop {
            let entry = self.slot(at).load(Ordering::Relaxed);
            if entry.is_null() || entry.addr() == GRAVE_ADDRESS {
                self.slot(at).store(entry_of(hash, leaf), PUBLISH);
                self.count(1, if entry.is_null() { 0 } else { -1 });
                return;
            }
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
    }

    /// Empties a slot. It becomes a grave if something may lie behind it; else it and the graves before it become free.
    fn clear(self, at: usize) {
        let slots = self.slots();
        let next = if at + 1 == slots { 0 } else { at + 1 };
        self.count(-1, 1);
        self.slot(at).store(ptr::without_provenance_mut(GRAVE_ADDRESS), Ordering::Release);
        if !self.slot(next).load(Ordering::Relaxed).is_null() {
            return;
        }
        let mut at = at;
        while self.slot(at).load(Ordering::Relaxed).addr() == GRAVE_ADDRESS {
            self.slot(at).store(ptr::null_mut(), Ordering::Release);
            self.count(0, -1);
            at = if at == 0 { slots - 1 } else { at - 1 };
        }
    }

    /// All leaves, in slot order.
    fn entries<V: 'g>(self) -> impl Iterator<Item = Leaf<'g, V>> {
        (0..self.slots()).filter_map(move |at| {
            let entry = self.slot(at).load(Ordering::Relaxed);
            // SAFETY: as in find.
            (!entry.is_null() && entry.addr() != GRAVE_ADDRESS).then(|| unsafe { leaf_of::<V>(entry) })
        })
    }
}

const FINGERPRINT_MASK: usize = 0xffff << FINGERPRINT_SHIFT;

fn entry_of<V>(hash: u64, leaf: Leaf<'_, V>) -> *mut u8 {
    leaf.as_raw().map_addr(|address| address | fingerprint(hash))
}

/// # Safety
///
/// `entry` is from a slot of a table of `V` and holds a leaf that stays alive for `'g`.
#[inline(always)]
unsafe fn leaf_of<'g, V>(entry: *mut u8) -> Leaf<'g, V> {
    // SAFETY: the caller's promise.
    unsafe { Leaf::from_raw(entry.map_addr(|address| address & !FINGERPRINT_MASK)) }
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
        (SLOT_BYTES << depth).max(64)
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
        unsafe { &*self.base.as_ptr().add(at * SLOT_BYTES).cast() }
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

    /// Asks for the line where the probe for `hash` begins.
    ///
    /// # Safety
    ///
    /// As for [`Table::get`].
    #[inline(always)]
    pub(crate) unsafe fn prefetch_slot(&self, hash: u64) {
        // SAFETY: the caller's promise.
        let segment = unsafe { self.segment(hash) };
        prefetch_line(ptr::from_ref(segment.slot(home(hash, segment.slots()))).cast());
    }

    /// Asks for the leaf that the probe for `hash` will likely reach.
    ///
    /// # Safety
    ///
    /// As for [`Table::get`].
    #[inline(always)]
    pub(crate) unsafe fn prefetch_leaf<V>(&self, hash: u64) {
        // SAFETY: the caller's promise.
        if let Some(leaf) = unsafe { self.segment(hash) }.candidate::<V>(hash) {
            leaf.prefetch();
        }
    }

    /// Adds a leaf whose key is not in the table. The writer's.
    ///
    /// # Safety
    ///
    /// The caller is the one writer, and the table holds leaves of `V`.
    pub(crate) unsafe fn insert<V, H: KeyHasher>(
        &self,
        hash: u64,
        leaf: Leaf<'_, V>,
        leaves: usize,
        tools: &mut Tools<'_, H>,
    ) {
        loop {
            // SAFETY: the writer alone retires segments, and does so below only after its last use of this one.
            let segment = unsafe { self.segment(hash) };
            if segment.taken() < slots_limit(segment.slots()) {
                segment.put(hash, leaf);
                return;
            }
            // SAFETY: the caller's promise.
            unsafe { self.make_room::<V, H>(hash, leaves, tools) };
        }
    }

    /// Replaces the leaf of a key that is in the table. The writer's.
    ///
    /// # Safety
    ///
    /// As for [`Table::insert`].
    pub(crate) unsafe fn replace<V>(&self, hash: u64, leaf: Leaf<'_, V>) {
        // SAFETY: the caller's promise.
        let segment = unsafe { self.segment(hash) };
        if let Some((at, _)) = segment.find::<V>(hash, leaf.key()) {
            segment.slot(at).store(entry_of(hash, leaf), Ordering::Release);
        }
    }

    /// Takes the leaf of `key` out. The writer's.
    ///
    /// # Safety
    ///
    /// As for [`Table::insert`].
    pub(crate) unsafe fn remove<V, H: KeyHasher>(&self, hash: u64, key: &[u8], tools: &mut Tools<'_, H>) {
        // SAFETY: the caller's promise.
        let segment = unsafe { self.segment(hash) };
        let Some((at, _)) = segment.find::<V>(hash, key) else { return };
        segment.clear(at);
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
            self.rebuild::<V, H>(directory, hash, segment.class, tools);
            return;
        }
        let wanted_depth = (leaves / (FULL_SLOTS / 2)).checked_ilog2().map_or(0, |log2| log2 + 1);
        let may_split = segment.class >= FULL_CLASS && segment.depth() < wanted_depth + SPARE_DEPTH;
        if may_split || segment.class == MAX_CLASS {
            self.split::<V, H>(directory, hash, tools);
        } else {
            self.rebuild::<V, H>(directory, hash, segment.class + 1, tools);
        }
    }

    /// Replaces the segment of `hash` by one of `class` with the same leaves.
    fn rebuild<V, H: KeyHasher>(&self, directory: Directory<'_>, hash: u64, class: usize, tools: &mut Tools<'_, H>) {
        let at = directory_index(hash, directory.depth);
        let old = directory.segment(at);
        let new = Segment::alloc(tools.arena, class, old.depth());
        for_each_hashed::<V, H>(old, tools.hasher, |hash, leaf| {
            if !(cfg!(mutants = "slot_lost") && new.leaves() == 5) {
                new.put(hash, leaf);
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
        let class = old.class;
        let halves = [Segment::alloc(tools.arena, class, depth), Segment::alloc(tools.arena, class, depth)];
        for_each_hashed::<V, H>(old, tools.hasher, |hash, leaf| {
            halves[(hash >> (64 - depth) & 1) as usize].put(hash, leaf);
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
        if segment.class > FULL_CLASS || (segment.depth() == 0 && segment.class > 0) {
            self.rebuild::<V, H>(directory, hash, segment.class - 1, tools);
            return;
        }
        if segment.depth() == 0 {
            return;
        }
        let at = directory_index(hash, directory.depth);
        let buddy_at = at ^ (1 << (directory.depth - segment.depth()));
        let buddy = directory.segment(buddy_at);
        if buddy.depth() != segment.depth()
            || buddy.class != segment.class
            || buddy.leaves() + segment.leaves() > segment.slots() / 4
        {
            return;
        }
        let merged = Segment::alloc(tools.arena, segment.class, segment.depth() - 1);
        for each in [segment, buddy] {
            for_each_hashed::<V, H>(each, tools.hasher, |hash, leaf| merged.put(hash, leaf));
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
            segment.entries::<V>().for_each(&mut visit);
            at += directory.places_of(at, segment.depth()).len();
        }
    }
}

/// Calls `visit` with each leaf of a segment and its hash, fetching leaves ahead.
fn for_each_hashed<V, H: KeyHasher>(segment: Segment<'_>, hasher: &H, mut visit: impl FnMut(u64, Leaf<'_, V>)) {
    let mut ahead = segment.entries::<V>();
    ahead.by_ref().take(REBUILD_AHEAD).for_each(Leaf::prefetch);
    for leaf in segment.entries::<V>() {
        if let Some(next) = ahead.next() {
            next.prefetch();
        }
        visit(hasher.hash(leaf.key()), leaf);
    }
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
                    arena.free(segment.base, HEAD_BYTES + slots_of_class(segment.class) * SLOT_BYTES);
                }
                Role::Directory => {
                    let directory = Directory::from_tagged(self.tagged);
                    arena.free(directory.base, Directory::len_bytes(directory.depth));
                }
            }
        }
    }
}
