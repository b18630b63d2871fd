//! Leaves: one allocation with the key's length, the key's bytes and the value, in this order.
//!
//! The key is before the value because keys are compared, also by callers, with `memcmp`, which
//! reads 32 bytes for 16. At the end of a leaf it would read a cache line that was not prefetched,
//! and the comparison would take as long as the rest of the lookup.
//!
//! Tree and table point to the same leaf. Key and length never change while the leaf is reachable;
//! the value changes only through its own interior (atomics, [`Published`](crate::Published)).

use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ptr::NonNull;

use crate::arena::Arena;
use crate::prefetch::prefetch_line;

/// Maximum length of a key, in bytes: 4 GiB − 1.
pub const MAX_KEY_LEN_BYTES: usize = u32::MAX as usize;

/// Copies a key; a short one without a call.
///
/// # Safety
///
/// There is room for it at `to`.
#[inline(always)]
unsafe fn copy_key(key: &[u8], to: *mut u8) {
    // SAFETY: the caller's promise; the first and the last eight bytes of eight to sixteen cover
    // them all.
    unsafe {
        if let (8..=16, Some(head), Some(tail)) = (key.len(), key.first_chunk::<8>(), key.last_chunk::<8>()) {
            to.cast::<[u8; 8]>().write_unaligned(*head);
            to.add(key.len() - 8).cast::<[u8; 8]>().write_unaligned(*tail);
        } else {
            to.copy_from_nonoverlapping(key.as_ptr(), key.len());
        }
    }
}

/// A leaf that stays alive for `'g`.
pub(crate) struct Leaf<'g, V> {
    start: NonNull<u8>,
    lives: PhantomData<&'g V>,
}

impl<V> Clone for Leaf<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Leaf<'_, V> {}

impl<V> PartialEq for Leaf<'_, V> {
    fn eq(&self, other: &Self) -> bool {
        self.start == other.start
    }
}

impl<'g, V> Leaf<'g, V> {
    const KEY_OFFSET: usize = size_of::<u32>();
    /// Leaves are aligned to 8 at least, so that pointers to them have three bits to spare.
    const ALIGN: usize = if align_of::<V>() > 8 { align_of::<V>() } else { 8 };

    /// Where the value is.
    #[inline(always)]
    fn value_offset(key_len_bytes: usize) -> usize {
        // Not `next_multiple_of`, which compiles to ten instructions in every lookup.
        (Self::KEY_OFFSET + key_len_bytes + align_of::<V>() - 1) & !(align_of::<V>() - 1)
    }

    fn len_bytes(key_len_bytes: usize) -> usize {
        const { assert!(align_of::<V>() <= 64, "values aligned to more than a cache line are not supported") };
        (Self::value_offset(key_len_bytes) + size_of::<V>()).next_multiple_of(Self::ALIGN)
    }

    /// A new leaf, not yet reachable.
    ///
    /// # Panics
    ///
    /// If the key is longer than `u32::MAX` bytes.
    pub(crate) fn new(arena: &mut Arena, key: &[u8], value: V) -> Self {
        assert!(key.len() <= MAX_KEY_LEN_BYTES, "a key of {} bytes is over the limit", key.len());
        let start = arena.alloc(Self::len_bytes(key.len())).cast::<u8>();
        // SAFETY: the block is fresh, long enough for length, key and value, and aligned for both
        // numbers (its length is a multiple of ALIGN, and the value's offset one of the value's
        // alignment).
        unsafe {
            #[expect(clippy::cast_possible_truncation, reason = "checked above")]
            start.cast::<u32>().write(key.len() as u32);
            copy_key(key, start.as_ptr().add(Self::KEY_OFFSET));
            start.add(Self::value_offset(key.len())).cast::<V>().write(value);
        }
        Self { start, lives: PhantomData }
    }

    /// Drops the value and frees the memory.
    ///
    /// # Safety
    ///
    /// Nobody can reach the leaf any more, and it is freed once.
    pub(crate) unsafe fn free(self, arena: &mut Arena) {
        /// Frees the memory, also if the value's drop panics.
        struct Memory<'a>(&'a mut Arena, NonNull<u8>, usize);
        impl Drop for Memory<'_> {
            fn drop(&mut self) {
                // SAFETY: the leaf was allocated with this length, and by the promise of `free`
                // nobody can reach it any more.
                unsafe { self.0.free(self.1, self.2) };
            }
        }
        let _memory = Memory(arena, self.start, Self::len_bytes(self.key().len()));
        // SAFETY: by the caller's promise the leaf is ours alone.
        unsafe { self.value_ptr().drop_in_place() };
    }

    /// Drops only the value; for a drop of the whole arena.
    ///
    /// # Safety
    ///
    /// As for [`Leaf::free`].
    pub(crate) unsafe fn drop_value(self) {
        // SAFETY: by the caller's promise the leaf is ours alone.
        unsafe { self.value_ptr().drop_in_place() }
    }

    /// The leaf at `address`.
    ///
    /// # Safety
    ///
    /// `address` came from [`Leaf::as_raw`] of a leaf that stays alive for `'g`.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(address: *mut u8) -> Self {
        // SAFETY: as_raw gave a non-null pointer.
        Self { start: unsafe { NonNull::new_unchecked(address) }, lives: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn as_raw(self) -> *mut u8 {
        self.start.as_ptr()
    }

    #[inline(always)]
    fn key_len_bytes(self) -> usize {
        // SAFETY: the leaf is alive for 'g; the length was written before it became reachable and
        // never changes.
        unsafe { self.start.cast::<u32>().read() as usize }
    }

    #[inline(always)]
    fn value_ptr(self) -> NonNull<V> {
        // SAFETY: the leaf reaches to the end of its value.
        unsafe { self.start.add(Self::value_offset(self.key_len_bytes())).cast() }
    }

    #[inline(always)]
    pub(crate) fn value(self) -> &'g V {
        // SAFETY: the leaf is alive for 'g and its value was written before it became reachable.
        unsafe { self.value_ptr().as_ref() }
    }

    #[inline(always)]
    pub(crate) fn key(self) -> &'g [u8] {
        // SAFETY: the leaf is alive for 'g; length and bytes were written before it became
        // reachable and never change.
        unsafe { core::slice::from_raw_parts(self.start.as_ptr().add(Self::KEY_OFFSET), self.key_len_bytes()) }
    }

    /// Prefetches the lines of a short key and of the value behind it.
    #[inline(always)]
    pub(crate) fn prefetch(self) {
        const SHORT_KEY_LEN_BYTES: usize = 16;
        let start = self.as_raw();
        prefetch_line(start);
        if start.addr() % 64 + Self::len_bytes(SHORT_KEY_LEN_BYTES) > 64 {
            prefetch_line(start.wrapping_add(64));
        }
    }
}
