//! A region of memory that a background thread prepares for the writer.
//!
//! A fresh huge page is cleared at its first touch, which takes from a fifth of a millisecond to
//! some milliseconds. Without the reserve an insert would wait for this; a background thread does
//! it instead.

use std::ptr;

use crate::region::{REGION_BYTES, Region};
use crate::sync::{AtomicBool, AtomicPtr, Ordering};

/// At most one region, cleared and mapped.
pub(crate) struct Reserve {
    ready: AtomicPtr<u8>,
    /// The writer uses regions, and the last prepared one is taken.
    is_wanted: AtomicBool,
}

impl Reserve {
    pub(crate) fn new() -> Self {
        Self { ready: AtomicPtr::new(ptr::null_mut()), is_wanted: AtomicBool::new(false) }
    }

    /// Takes the prepared region, if any, and requests another. For the writer only.
    pub(crate) fn take(&self) -> Option<Region> {
        let base = self.ready.swap(ptr::null_mut(), Ordering::Acquire);
        self.is_wanted.store(true, Ordering::Relaxed);
        // SAFETY: the stored pointer came from `into_raw`, and the swap has made it ours.
        ptr::NonNull::new(base).map(|base| unsafe { Region::from_raw(base) })
    }

    /// Prepares a region if one is requested; returns whether it did.
    pub(crate) fn prepare(&self) -> bool {
        if !self.is_wanted.swap(false, Ordering::Relaxed) {
            return false;
        }
        let region = Region::new();
        region.touch();
        let before = self.ready.swap(region.into_raw().as_ptr(), Ordering::AcqRel);
        // SAFETY: as in `take`.
        drop(ptr::NonNull::new(before).map(|base| unsafe { Region::from_raw(base) }));
        true
    }

    /// Returns the prepared region to the allocator.
    pub(crate) fn clear(&self) {
        drop(self.take());
        self.is_wanted.store(false, Ordering::Relaxed);
    }

    /// Bytes taken from the global allocator.
    pub(crate) fn held_bytes(&self) -> usize {
        if self.ready.load(Ordering::Relaxed).is_null() { 0 } else { REGION_BYTES }
    }
}

impl Drop for Reserve {
    fn drop(&mut self) {
        self.clear();
    }
}
