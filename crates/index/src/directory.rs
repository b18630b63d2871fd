//! The directory of the point table: which bucket holds the leaves of a hash, by its leading bits.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crate::arena::Arena;
use crate::bucket::HashBucket;
use crate::sync::{AtomicPtr, Ordering};

/// Bits of an address that hold a bucket's size class, or the directory's depth.
const LOW_BITS: usize = 63;
const PLACE_BYTES: usize = size_of::<AtomicPtr<u8>>();

/// A bucket or a directory: a pointer with its size in the low six bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct TableBlock {
    pub(crate) tagged: *mut u8,
    pub(crate) role: BlockRole,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockRole {
    Bucket,
    Directory,
}

#[inline(always)]
pub(crate) fn directory_index(hash: u64, depth: u32) -> usize {
    ((hash >> 1) >> (63 - depth)) as usize
}

/// A directory that stays alive for `'g`.
#[derive(Clone, Copy)]
pub(crate) struct Directory<'g> {
    base: NonNull<u8>,
    pub(crate) depth: u32,
    lives: PhantomData<&'g AtomicPtr<u8>>,
}

impl<'g> Directory<'g> {
    pub(crate) fn len_bytes(depth: u32) -> usize {
        (PLACE_BYTES << depth).max(64)
    }

    pub(crate) fn alloc(arena: &mut Arena, depth: u32) -> Self {
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
    pub(crate) unsafe fn from_tagged(tagged: *mut u8) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "six bits")]
        let depth = (tagged.addr() & LOW_BITS) as u32;
        // SAFETY: tagged addresses are not null.
        let base = unsafe { NonNull::new_unchecked(tagged.map_addr(|address| address & !LOW_BITS)) };
        Self { base, depth, lives: PhantomData }
    }

    pub(crate) fn tagged(self) -> *mut u8 {
        self.base.as_ptr().map_addr(|address| address | self.depth as usize)
    }

    pub(crate) fn len(self) -> usize {
        1 << self.depth
    }

    #[inline(always)]
    pub(crate) fn place(self, at: usize) -> &'g AtomicPtr<u8> {
        debug_assert!(at < self.len());
        // SAFETY: the directory is alive for 'g and that long.
        unsafe { &*self.base.as_ptr().add(at * PLACE_BYTES).cast() }
    }

    #[inline(always)]
    pub(crate) fn bucket(self, at: usize) -> HashBucket<'g> {
        // SAFETY: every place of a published directory holds a bucket that its readers keep alive.
        unsafe { HashBucket::from_tagged(self.place(at).load(Ordering::Acquire)) }
    }

    /// The directory entries of the bucket at `at`: all with the same leading bits.
    pub(crate) fn places_of(self, at: usize, bucket_depth: u32) -> core::ops::Range<usize> {
        let span = 1 << (self.depth - bucket_depth);
        let first = at & !(span - 1);
        first..first + span
    }
}

impl TableBlock {
    /// Frees the memory.
    ///
    /// # Safety
    ///
    /// Nobody can reach the block any more, and it is freed once.
    pub(crate) unsafe fn free(self, arena: &mut Arena) {
        // SAFETY: the caller's promise; the role states the origin of the pointer.
        unsafe {
            match self.role {
                BlockRole::Bucket => {
                    let bucket = HashBucket::from_tagged(self.tagged);
                    bucket.free(arena);
                }
                BlockRole::Directory => {
                    let directory = Directory::from_tagged(self.tagged);
                    arena.free(directory.base, Directory::len_bytes(directory.depth));
                }
            }
        }
    }
}
