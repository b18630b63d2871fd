//! Regions: memory of 2 MiB, with advice to back it by one huge page.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Chunk length and alignment.
pub(crate) const CHUNK_BYTES: usize = 32 * 1024;
/// Region length and alignment: a huge page of most targets. One bit per chunk fits a word.
pub(crate) const REGION_BYTES: usize = 64 * CHUNK_BYTES;
/// The mask of a region without chunks in use.
pub(crate) const ALL_FREE: u64 = u64::MAX;

/// Memory for 64 chunks; bit `i` of `free` is set when chunk `i` is free. Dropping it frees the
/// memory.
pub(crate) struct Region {
    pub(crate) base: NonNull<u8>,
    pub(crate) free: u64,
}

impl Region {
    /// A region with advice for a huge page.
    pub(crate) fn new() -> Self {
        let base = allocate(region_layout());
        advise_huge(base);
        Self { base, free: ALL_FREE }
    }

    /// Touches every page, so that the system maps all of it.
    pub(crate) fn touch(&self) {
        const PAGE_BYTES: usize = 4096;
        for offset in (0..REGION_BYTES).step_by(PAGE_BYTES) {
            // SAFETY: the region is ours and that long.
            unsafe { self.base.as_ptr().add(offset).write_volatile(0) };
        }
    }

    /// Its memory, for [`from_raw`](Self::from_raw).
    pub(crate) fn into_raw(self) -> NonNull<u8> {
        core::mem::ManuallyDrop::new(self).base
    }

    /// # Safety
    ///
    /// `base` came from [`into_raw`](Self::into_raw) of a region without chunks, and is used for
    /// this once.
    pub(crate) unsafe fn from_raw(base: NonNull<u8>) -> Self {
        Self { base, free: ALL_FREE }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout. The arena drops a region when no chunk of it is in
        // use, or when the map is gone.
        unsafe { dealloc(self.base.as_ptr(), region_layout()) };
    }
}

const fn region_layout() -> Layout {
    // SAFETY: the alignment is a power of two, and the length does not overflow.
    unsafe { Layout::from_size_align_unchecked(REGION_BYTES, REGION_BYTES) }
}

/// Advises the system to back a region by a huge page. Without one, only the speed changes.
fn advise_huge(region: NonNull<u8>) {
    #[cfg(all(target_os = "linux", not(miri)))]
    // SAFETY: the region is ours, whole pages, and the advice changes no content.
    unsafe {
        libc::madvise(region.as_ptr().cast(), REGION_BYTES, libc::MADV_HUGEPAGE);
    }
    #[cfg(not(all(target_os = "linux", not(miri))))]
    let _ = region;
}

/// A block of the global allocator, whose address has at most 48 bits.
pub(crate) fn allocate(layout: Layout) -> NonNull<u8> {
    // SAFETY: no layout here has length zero.
    let block = unsafe { alloc(layout) };
    let Some(block) = NonNull::new(block) else { handle_alloc_error(layout) };
    // Table slots have room for 48 bits of an address. User addresses have them clear on every
    // supported target unless asked for.
    assert!(block.as_ptr().addr() >> 48 == 0, "the allocator returned an address of more than 48 bits");
    block
}
