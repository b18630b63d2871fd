//! The map's memory: slabs of equal blocks in aligned chunks. Only the writer uses it, so nothing
//! is shared.
//!
//! A small map allocates single chunks. A larger one allocates regions of 2 MiB, with advice to
//! back each by a huge page: in a large map every access misses the cache, and with small pages
//! also the TLB. The price is that about one insert in 20,000 waits until the system has cleared 2
//! MiB, unless a region is in [reserve](crate::reserve).
//!
//! A block of up to [`SLAB_MAX_BYTES`] comes from a chunk of its size class; masking a block's
//! address yields its chunk. Longer blocks come from the global allocator. A chunk is freed with
//! its last block, so removals free memory. Blocks whose class is a multiple of a cache line never
//! straddle one.
//!
//! Everything is accounted to the byte: [`Arena::held_bytes`] is the memory taken from the global
//! allocator.

use std::alloc::{Layout, dealloc, handle_alloc_error};
use std::collections::{BTreeMap, BTreeSet};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::region::{ALL_FREE, CHUNK_BYTES, REGION_BYTES, Region, allocate};
use crate::reserve::Reserve;

/// The memory of a map, in bytes, from which it allocates regions.
const REGIONS_FROM_BYTES: usize = 2 * REGION_BYTES;
/// The same for a bulk build, whose memory is filled at once.
const BULK_REGIONS_FROM_BYTES: usize = REGION_BYTES / 4;
/// Length of the head of a chunk, in bytes.
const CHUNK_HEAD_BYTES: usize = 64;
/// The longest block that comes from a slab: four of them fill a chunk, and their addresses are
/// multiples of 64.
pub(crate) const SLAB_MAX_BYTES: usize = 8128;
/// Classes step by 8 bytes up to here, and by a sixteenth of a power of two above.
const FINE_MAX_BYTES: usize = 256;
const FINE_CLASSES: usize = FINE_MAX_BYTES / 8;
const CLASSES: usize = FINE_CLASSES + 5 * 16;

#[repr(C)]
struct Chunk {
    /// Freed blocks, linked through their first word.
    free: *mut FreeBlock,
    /// Offset of the first unused block.
    fresh_offset: u32,
    block_bytes: u32,
    used_blocks: u32,
    class: u32,
    /// Neighbours in the class's list of chunks with room.
    previous: *mut Chunk,
    next: *mut Chunk,
}

const _: () = assert!(size_of::<Chunk>() <= CHUNK_HEAD_BYTES);

struct FreeBlock {
    next: *mut FreeBlock,
}

impl Chunk {
    fn is_full(&self) -> bool {
        self.free.is_null() && self.fresh_offset as usize + self.block_bytes as usize > CHUNK_BYTES
    }
}

/// The allocator of one map.
pub(crate) struct Arena {
    /// Per class, the chunks with room; the chunk in use is first.
    roomy: [*mut Chunk; CLASSES],
    /// Chunks that were allocated singly.
    chunks: BTreeMap<usize, NonNull<u8>>,
    /// Regions of many chunks, by address.
    regions: BTreeMap<usize, Region>,
    /// The regions with free chunks.
    roomy_regions: BTreeSet<usize>,
    large: BTreeMap<usize, (NonNull<u8>, usize)>,
    held_bytes: usize,
    /// The memory from which it allocates regions.
    regions_from_bytes: usize,
    /// The reserve with a prepared region.
    reserve: Option<Arc<Reserve>>,
}

// SAFETY: the arena owns all that its pointers point to, and none of it depends on the thread.
unsafe impl Send for Arena {}

impl Arena {
    pub(crate) const fn new() -> Self {
        Self {
            roomy: [ptr::null_mut(); CLASSES],
            chunks: BTreeMap::new(),
            regions: BTreeMap::new(),
            roomy_regions: BTreeSet::new(),
            large: BTreeMap::new(),
            held_bytes: 0,
            regions_from_bytes: REGIONS_FROM_BYTES,
            reserve: None,
        }
    }

    /// An arena that takes regions from `reserve` when they are ready there.
    pub(crate) fn with_reserve(reserve: Arc<Reserve>) -> Self {
        let mut arena = Self::new();
        arena.reserve = Some(reserve);
        arena
    }

    /// An arena that a bulk build fills: it takes memory in regions early.
    pub(crate) fn bulk() -> Self {
        let mut arena = Self::new();
        arena.regions_from_bytes =
            if crate::mutants::planted("bulk_in_small_pages") { REGIONS_FROM_BYTES } else { BULK_REGIONS_FROM_BYTES };
        arena
    }

    /// Bytes allocated from the global allocator.
    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// The part of it in single chunks.
    #[cfg(test)]
    pub(crate) fn lone_bytes(&self) -> usize {
        self.chunks.len() * CHUNK_BYTES
    }

    /// A block of at least `len_bytes` with unspecified content, aligned to 8, and to 64 if the
    /// length is a multiple of 64.
    pub(crate) fn alloc(&mut self, len_bytes: usize) -> NonNull<u8> {
        if len_bytes > SLAB_MAX_BYTES {
            return self.alloc_large(len_bytes);
        }
        let (class, block_bytes) = class_of(len_bytes);
        if self.roomy[class].is_null() {
            self.add_chunk(class, block_bytes);
        }
        let chunk = self.roomy[class];
        // SAFETY: the class's list holds live chunks of this arena with room, and nobody else
        // touches them.
        unsafe {
            let block = take_block(chunk);
            if (*chunk).is_full() {
                self.unlink(chunk);
            }
            block
        }
    }

    /// Frees a block.
    ///
    /// # Safety
    ///
    /// The block came from [`Arena::alloc`] of this arena with the same length, and nobody uses it
    /// any more.
    pub(crate) unsafe fn free(&mut self, block: NonNull<u8>, len_bytes: usize) {
        if len_bytes > SLAB_MAX_BYTES {
            // SAFETY: the caller's promise.
            unsafe { self.free_large(block, len_bytes) };
            return;
        }
        let chunk = block.as_ptr().map_addr(|address| address & !(CHUNK_BYTES - 1)).cast::<Chunk>();
        // SAFETY: slab blocks lie in chunks aligned to their length, and carry the provenance of
        // the whole chunk.
        unsafe {
            let was_full = (*chunk).is_full();
            let freed = block.as_ptr().cast::<FreeBlock>();
            freed.write(FreeBlock { next: (*chunk).free });
            (*chunk).free = freed;
            (*chunk).used_blocks -= 1;
            if was_full {
                self.link(chunk);
            }
            // The chunk in use stays, or a put and a remove in turn would allocate one each time.
            if (*chunk).used_blocks == 0 && !((*chunk).previous.is_null() && (*chunk).next.is_null()) {
                self.unlink(chunk);
                self.release(chunk);
            }
        }
    }

    /// Takes over all memory of `other`.
    pub(crate) fn absorb(&mut self, mut other: Self) {
        for class in 0..CLASSES {
            while !other.roomy[class].is_null() {
                let chunk = other.roomy[class];
                // SAFETY: the list holds live chunks with room, which go from one list to the
                // other.
                unsafe {
                    other.unlink(chunk);
                    self.link(chunk);
                }
            }
        }
        self.chunks.append(&mut other.chunks);
        self.regions.append(&mut other.regions);
        self.roomy_regions.append(&mut other.roomy_regions);
        self.large.append(&mut other.large);
        self.held_bytes += core::mem::take(&mut other.held_bytes);
    }

    /// Frees the empty chunks that were kept for the next block of their class.
    pub(crate) fn trim(&mut self) {
        for class in 0..CLASSES {
            let chunk = self.roomy[class];
            // SAFETY: as in alloc.
            unsafe {
                if !chunk.is_null() && (*chunk).used_blocks == 0 {
                    self.unlink(chunk);
                    self.release(chunk);
                }
            }
        }
        let free = self.regions.iter().filter(|(_, region)| region.free == ALL_FREE).map(|(address, _)| *address);
        free.collect::<Vec<_>>().into_iter().for_each(|address| self.release_region(address));
    }

    fn add_chunk(&mut self, class: usize, block_bytes: usize) {
        let base = self.take_chunk();
        let chunk = base.as_ptr().cast::<Chunk>();
        #[expect(clippy::cast_possible_truncation, reason = "all below the chunk's length")]
        // SAFETY: the chunk is fresh and long enough for its head.
        unsafe {
            chunk.write(Chunk {
                free: ptr::null_mut(),
                fresh_offset: CHUNK_HEAD_BYTES as u32,
                block_bytes: block_bytes as u32,
                used_blocks: 0,
                class: class as u32,
                previous: ptr::null_mut(),
                next: ptr::null_mut(),
            });
            self.link(chunk);
        }
    }

    /// # Safety
    ///
    /// `chunk` is a live chunk of this arena with room, in no list.
    unsafe fn link(&mut self, chunk: *mut Chunk) {
        // SAFETY: the caller's promise; the list holds live chunks.
        unsafe {
            let first = &mut self.roomy[(*chunk).class as usize];
            (*chunk).previous = ptr::null_mut();
            (*chunk).next = *first;
            if !first.is_null() {
                (**first).previous = chunk;
            }
            *first = chunk;
        }
    }

    /// # Safety
    ///
    /// `chunk` is in its class's list.
    unsafe fn unlink(&mut self, chunk: *mut Chunk) {
        // SAFETY: the caller's promise; the list holds live chunks.
        unsafe {
            let (previous, next) = ((*chunk).previous, (*chunk).next);
            if previous.is_null() {
                self.roomy[(*chunk).class as usize] = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
            (*chunk).previous = ptr::null_mut();
            (*chunk).next = ptr::null_mut();
        }
    }

    /// # Safety
    ///
    /// `chunk` is empty and in no list.
    unsafe fn release(&mut self, chunk: *mut Chunk) {
        if let Some(base) = self.chunks.remove(&chunk.addr()) {
            self.held_bytes -= CHUNK_BYTES;
            // SAFETY: the chunk was allocated with this layout, and by the caller's promise nobody
            // uses it.
            unsafe { dealloc(base.as_ptr(), chunk_layout()) };
            return;
        }
        let address = chunk.addr() & !(REGION_BYTES - 1);
        let Some(region) = self.regions.get_mut(&address) else { return };
        region.free |= 1 << ((chunk.addr() - address) / CHUNK_BYTES);
        self.roomy_regions.insert(address);
        // One region is kept, or a put and a remove in turn would allocate one each time.
        if region.free == ALL_FREE && self.roomy_regions.len() > 1 {
            self.release_region(address);
        }
    }

    /// Frees a region without used chunks.
    fn release_region(&mut self, address: usize) {
        self.roomy_regions.remove(&address);
        if self.regions.remove(&address).is_some() {
            self.held_bytes -= REGION_BYTES;
        }
    }

    /// A chunk of memory: a single one in a small map, otherwise one of a region. The lowest region
    /// is used first, so that the highest may become empty.
    fn take_chunk(&mut self) -> NonNull<u8> {
        if self.regions.is_empty() && self.held_bytes < self.regions_from_bytes {
            return self.take_lone_chunk();
        }
        let address = self.roomy_regions.first().copied().unwrap_or_else(|| self.add_region());
        let Some(region) = self.regions.get_mut(&address) else { return self.take_lone_chunk() };
        let at = region.free.trailing_zeros() as usize;
        region.free &= region.free - 1;
        if region.free == 0 {
            self.roomy_regions.remove(&address);
        }
        // SAFETY: the region has a chunk for every bit.
        unsafe { region.base.add(at * CHUNK_BYTES) }
    }

    fn take_lone_chunk(&mut self) -> NonNull<u8> {
        let base = allocate(chunk_layout());
        self.chunks.insert(base.as_ptr().addr(), base);
        self.held_bytes += CHUNK_BYTES;
        base
    }

    fn add_region(&mut self) -> usize {
        let region = self.reserve.as_deref().and_then(Reserve::take).unwrap_or_else(Region::new);
        let address = region.base.as_ptr().addr();
        self.regions.insert(address, region);
        self.roomy_regions.insert(address);
        self.held_bytes += REGION_BYTES;
        address
    }

    fn alloc_large(&mut self, len_bytes: usize) -> NonNull<u8> {
        let block = allocate(large_layout(len_bytes));
        self.large.insert(block.as_ptr().addr(), (block, len_bytes));
        self.held_bytes += len_bytes;
        block
    }

    /// # Safety
    ///
    /// As for [`Arena::free`].
    unsafe fn free_large(&mut self, block: NonNull<u8>, len_bytes: usize) {
        self.large.remove(&block.as_ptr().addr());
        self.held_bytes -= len_bytes;
        // SAFETY: allocated with this layout; unused by the caller's promise.
        unsafe { dealloc(block.as_ptr(), large_layout(len_bytes)) };
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        for base in self.chunks.values() {
            // SAFETY: allocated with this layout; the map that used it is gone.
            unsafe { dealloc(base.as_ptr(), chunk_layout()) };
        }
        for (block, len_bytes) in self.large.values() {
            // SAFETY: as above; the regions go by themselves.
            unsafe { dealloc(block.as_ptr(), large_layout(*len_bytes)) };
        }
    }
}

/// # Safety
///
/// `chunk` is live and has room.
unsafe fn take_block(chunk: *mut Chunk) -> NonNull<u8> {
    // SAFETY: the caller's promise: either a freed block or fresh room is there, both inside the
    // chunk, so not null.
    unsafe {
        (*chunk).used_blocks += 1;
        let freed = (*chunk).free;
        if !freed.is_null() {
            (*chunk).free = (*freed).next;
            return NonNull::new_unchecked(freed.cast());
        }
        let offset = (*chunk).fresh_offset;
        (*chunk).fresh_offset = offset + (*chunk).block_bytes;
        NonNull::new_unchecked(chunk.cast::<u8>().add(offset as usize))
    }
}

/// The class of blocks of `len_bytes`, and their true length.
fn class_of(len_bytes: usize) -> (usize, usize) {
    if len_bytes <= FINE_MAX_BYTES {
        let steps = len_bytes.div_ceil(8).max(1);
        return (steps - 1, steps * 8);
    }
    let power = (len_bytes - 1).ilog2() as usize;
    let step_log2 = power - 4;
    let steps = (len_bytes - 1) >> step_log2;
    let block_bytes = ((steps + 1) << step_log2).min(SLAB_MAX_BYTES);
    (FINE_CLASSES + (power - 8) * 16 + (steps - 16), block_bytes)
}

const fn chunk_layout() -> Layout {
    // SAFETY: the alignment is a power of two, and the length does not overflow.
    unsafe { Layout::from_size_align_unchecked(CHUNK_BYTES, CHUNK_BYTES) }
}

fn large_layout(len_bytes: usize) -> Layout {
    Layout::from_size_align(len_bytes, 64).unwrap_or_else(|_| handle_alloc_error(Layout::new::<u8>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_dense_and_long_enough() {
        let mut last = 0;
        for len_bytes in 1..=SLAB_MAX_BYTES {
            let (class, block_bytes) = class_of(len_bytes);
            assert!(class < CLASSES);
            assert!(block_bytes >= len_bytes && block_bytes <= SLAB_MAX_BYTES);
            assert!(class == last || class == last + 1, "a gap before {len_bytes}");
            assert!(block_bytes % 8 == 0 && (len_bytes % 64 != 0 || block_bytes % 64 == 0));
            last = class;
        }
    }

    #[test]
    fn memory_comes_back() {
        let mut arena = Arena::new();
        let lens = [8, 24, 64, 200, 300, 2064, 8128, 8129, 100_000];
        let mut blocks = Vec::new();
        for round in 0..if cfg!(miri) { 27 } else { 3600_usize } {
            let len_bytes = lens[round % lens.len()];
            let fill = round.to_le_bytes()[0];
            let block = arena.alloc(len_bytes);
            assert_eq!(block.as_ptr().addr() % if len_bytes % 64 == 0 { 64 } else { 8 }, 0);
            // SAFETY: the block is ours and that long.
            unsafe { block.as_ptr().write_bytes(fill, len_bytes) };
            blocks.push((block, len_bytes, fill));
        }
        for (block, len_bytes, fill) in blocks {
            // SAFETY: the block is ours, filled above, and freed once.
            unsafe {
                assert!(
                    (0..len_bytes).step_by(if cfg!(miri) { 97 } else { 1 }).all(|at| *block.as_ptr().add(at) == fill)
                );
                arena.free(block, len_bytes);
            }
        }
        arena.trim();
        assert_eq!(arena.held_bytes(), 0);
    }

    #[test]
    fn a_region_in_reserve_is_taken_once() {
        let reserve = Arc::new(Reserve::new());
        let mut arena = Arena::with_reserve(Arc::clone(&reserve));
        arena.regions_from_bytes = 0;
        assert!(!reserve.prepare(), "nothing was taken yet");
        let first = arena.alloc(8);
        assert!(reserve.prepare() && !reserve.prepare());
        assert_eq!((arena.held_bytes(), reserve.held_bytes()), (REGION_BYTES, REGION_BYTES));
        // The first chunk is taken; 63 more, and the region is used up.
        let more: Vec<_> = (0..64 * 4).map(|_| arena.alloc(SLAB_MAX_BYTES)).collect();
        assert_eq!((arena.held_bytes(), reserve.held_bytes()), (2 * REGION_BYTES, 0));
        assert!(reserve.prepare());
        reserve.clear();
        assert_eq!(reserve.held_bytes(), 0);
        assert!(!reserve.prepare(), "a cleared reserve does not ask for memory");
        // SAFETY: the blocks are ours, and freed once.
        unsafe {
            arena.free(first, 8);
            more.into_iter().for_each(|block| arena.free(block, SLAB_MAX_BYTES));
        }
    }

    #[test]
    fn absorbed_memory_is_used_and_comes_back() {
        let mut arenas = [Arena::new(), Arena::new()];
        let lens = [8, 64, 2064, 8128, 100_000];
        let mut blocks = Vec::new();
        for round in 0..if cfg!(miri) { 20 } else { 4000_usize } {
            let len_bytes = lens[round % lens.len()];
            blocks.push((arenas[round % 2].alloc(len_bytes), len_bytes));
        }
        let [mut arena, other] = arenas;
        let held_bytes = arena.held_bytes() + other.held_bytes();
        arena.absorb(other);
        assert_eq!(arena.held_bytes(), held_bytes);
        blocks.push((arena.alloc(8), 8));
        assert_eq!(arena.held_bytes(), held_bytes, "there is room in an absorbed chunk");
        for (block, len_bytes) in blocks {
            // SAFETY: the block is ours, and freed once.
            unsafe { arena.free(block, len_bytes) };
        }
        arena.trim();
        assert_eq!(arena.held_bytes(), 0);
    }
}
