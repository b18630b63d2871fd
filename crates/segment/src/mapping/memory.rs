//! Plain memory in place of a file's pages.

use std::cell::UnsafeCell;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Observes the changes of a [`SharedMemory`] through its mappings.
pub trait MemoryObserver: Send + Sync {
    /// Called after `bytes` were written at `offset`.
    fn wrote(&self, offset: usize, bytes: &[u8]);

    /// Makes a range durable.
    ///
    /// # Errors
    ///
    /// As [`Mapping::sync`](super::Mapping::sync).
    fn sync(&self, range: Range<usize>) -> io::Result<()>;
}

/// Plain memory in place of a file's pages: of fixed size, shared by the file and its mappings.
///
/// Bytes that a mapping has published are *frozen*; writes that would change them are refused.
pub struct SharedMemory {
    bytes: Box<[UnsafeCell<u8>]>,
    frozen: AtomicUsize,
    mappings: AtomicUsize,
    /// Held while a thread accesses bytes that are not frozen, or thaws bytes.
    unfrozen: Mutex<()>,
}

/// A write that would change bytes that a mapping has published, or beyond the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen;

// SAFETY: frozen bytes are only read; all others are accessed only under the lock `unfrozen` (by
// mappings through `write_at`).
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Memory that holds a copy of `bytes`.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let bytes: *mut [u8] = Box::into_raw(bytes.into());
        // SAFETY: the pointer was just taken out of a box, and `UnsafeCell<u8>` has the layout of
        // `u8`. (Wrapping byte by byte would be safe, but too slow for thousands of simulated
        // crashes.)
        let bytes = unsafe { Box::from_raw(bytes as *mut [UnsafeCell<u8>]) };
        Self { bytes, frozen: AtomicUsize::new(0), mappings: AtomicUsize::new(0), unfrozen: Mutex::new(()) }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The number of its live mappings.
    #[must_use]
    pub fn mappings(&self) -> usize {
        self.mappings.load(Ordering::Acquire)
    }

    pub(super) fn base(&self) -> *mut u8 {
        // From the whole slice, so that the pointer may reach all of it.
        self.bytes.as_ptr().cast::<u8>().cast_mut()
    }

    /// Copies bytes from `offset` on to the buffer, up to the end; returns their number.
    pub fn read_at(&self, offset: usize, buffer: &mut [u8]) -> usize {
        let _held = self.unfrozen.lock();
        let count = self.len().saturating_sub(offset).min(buffer.len());
        if count > 0 {
            // SAFETY: `offset + count` is at most `len`; frozen bytes are not written, and the
            // others not while the lock is held. The buffer is exclusively borrowed, so it is not
            // this memory.
            unsafe { std::ptr::copy_nonoverlapping(self.base().add(offset), buffer.as_mut_ptr(), count) };
        }
        count
    }

    /// Copies bytes in. Published bytes stay untouched: they may only be "written" as they are, as
    /// recovery does while a reader of another process has them mapped.
    ///
    /// # Errors
    ///
    /// [`Frozen`] if they reach beyond the end, or would change published bytes; then nothing was
    /// written.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<(), Frozen> {
        let _held = self.unfrozen.lock();
        let end = offset.checked_add(bytes.len()).ok_or(Frozen)?;
        if end > self.len() {
            return Err(Frozen);
        }
        let kept = self.frozen.load(Ordering::Acquire).saturating_sub(offset).min(bytes.len());
        let (kept_bytes, bytes) = bytes.split_at_checked(kept).ok_or(Frozen)?;
        // SAFETY: the range lies within the memory, as `kept` bytes from `offset` on are before
        // `end`; frozen bytes are not written.
        let published = unsafe { std::slice::from_raw_parts(self.base().add(offset), kept) };
        if published != kept_bytes {
            return Err(Frozen);
        }
        let offset = offset + kept;
        // SAFETY: the target lies within the memory and is not frozen, so no slice of it was lent,
        // and the lock keeps others away. `bytes` may borrow from this memory only where it is
        // frozen, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base().add(offset), bytes.len()) };
        Ok(())
    }

    /// No byte before `end` changes from now on.
    pub(super) fn freeze(&self, end: usize) {
        let _held = self.unfrozen.lock();
        self.frozen.fetch_max(end, Ordering::AcqRel);
    }

    /// Counts a new mapping.
    pub(super) fn note_mapping(&self) {
        self.mappings.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts a dropped mapping. After the last one all bytes may change again, because nobody
    /// borrows from them.
    pub(super) fn forget_mapping(&self) {
        let _held = self.unfrozen.lock();
        if self.mappings.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.frozen.store(0, Ordering::Release);
        }
    }

    /// Lets all bytes change again, if the caller's mapping is the only one.
    pub(super) fn thaw(&self) -> bool {
        let _held = self.unfrozen.lock();
        if self.mappings() != 1 {
            return false;
        }
        self.frozen.store(0, Ordering::Release);
        true
    }
}

impl fmt::Debug for SharedMemory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("SharedMemory").field("len", &self.len()).finish_non_exhaustive()
    }
}
