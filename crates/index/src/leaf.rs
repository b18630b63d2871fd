//! Leaves: one allocation that holds the value, the key's length and the key's bytes, in this order.
//!
//! Tree and table point to the same leaf. Key and length never change while the leaf is reachable; the value changes only through its own
//! interior (atomics, [`Published`](crate::Published)).

use core::marker::PhantomData;
use core::mem::{align_of, offset_of, size_of};
use core::ptr::NonNull;

use crate::arena::Arena;
use crate::prefetch::prefetch_line;

#[repr(C)]
struct Head<V> {
    value: V,
    key_len_bytes: u32,
}

/// Copies a key; a short one without a call.
///
/// # Safety
///
/// There is room for it at `to`.
#[inline(always)]
unsafe fn copy_key(key: &[u8], to: *mut u8) {
    // SAFETY: the caller's promise; the first and the last eight bytes of eight to sixteen cover them all.
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
    head: NonNull<Head<V>>,
    lives: PhantomData<&'g Head<V>>,
}

impl<V> Clone for Leaf<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for Leaf<'_, V> {}

impl<V> PartialEq for Leaf<'_, V> {
    fn eq(&self, other: &Self) -> bool {
        self.head == other.head
    }
}

impl<'g, V> Leaf<'g, V> {
    const KEY_OFFSET: usize = offset_of!(Head<V>, key_len_bytes) + size_of::<u32>();
    /// Leaves are aligned to 8 at least, so that pointers to them have three bits to spare.
    const ALIGN: usize = if align_of::<Head<V>>() > 8 { align_of::<Head<V>>() } else { 8 };

    fn len_bytes(key_len_bytes: usize) -> usize {
        const { assert!(align_of::<Head<V>>() <= 64, "values aligned to more than a cache line are not supported") };
        (Self::KEY_OFFSET + key_len_bytes).max(size_of::<Head<V>>()).next_multiple_of(Self::ALIGN)
    }

    /// A new leaf, not yet reachable by anybody.
    ///
    /// # Panics
    ///
    /// When the key is longer than `u32::MAX` bytes.
    pub(crate) fn new(arena: &mut Arena, key: &[u8], value: V) -> Self {
        assert!(key.len() <= crate::MAX_KEY_LEN_BYTES, "a key of {} bytes is over the limit", key.len());
        let head = arena.alloc(Self::len_bytes(key.len())).cast::<Head<V>>();
        // SAFETY: the block is fresh, long enough for head and key, and aligned for the head (the length is a multiple of ALIGN).
        unsafe {
            (&raw mut (*head.as_ptr()).value).write(value);
            #[expect(clippy::cast_possible_truncation, reason = "checked above")]
            (&raw mut (*head.as_ptr()).key_len_bytes).write(key.len() as u32);
            let bytes = head.as_ptr().cast::<u8>().add(Self::KEY_OFFSET);
            copy_key(key, bytes);
        }
        Self { head, lives: PhantomData }
    }

    /// Drops the value and gives the memory back.
    ///
    /// # Safety
    ///
    /// Nobody can reach the leaf any more, and it is freed once.
    pub(crate) unsafe fn free(self, arena: &mut Arena) {
        let len_bytes = Self::len_bytes(self.key().len());
        // SAFETY: by the caller's promise the leaf is ours alone; it was allocated with this length.
        unsafe {
            (&raw mut (*self.head.as_ptr()).value).drop_in_place();
            arena.free(self.head.cast(), len_bytes);
        }
    }

    /// Drops the value alone, for when the arena goes as a whole.
    ///
    /// # Safety
    ///
    /// As for [`Leaf::free`].
    pub(crate) unsafe fn drop_value(self) {
        // SAFETY: by the caller's promise the leaf is ours alone.
        unsafe { (&raw mut (*self.head.as_ptr()).value).drop_in_place() }
    }

    /// The leaf at `address`.
    ///
    /// # Safety
    ///
    /// `address` came from [`Leaf::as_raw`] of a leaf that stays alive for `'g`.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(address: *mut u8) -> Self {
        // SAFETY: as_raw gave a non-null pointer.
        Self { head: unsafe { NonNull::new_unchecked(address.cast()) }, lives: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn as_raw(self) -> *mut u8 {
        self.head.as_ptr().cast()
    }

    #[inline(always)]
    pub(crate) fn value(self) -> &'g V {
        // SAFETY: the leaf is alive for 'g and its value was written before it became reachable.
        unsafe { &(*self.head.as_ptr()).value }
    }

    #[inline(always)]
    pub(crate) fn key(self) -> &'g [u8] {
        // SAFETY: the leaf is alive for 'g; length and bytes were written before it became reachable and never change.
        unsafe {
            let len_bytes = (*self.head.as_ptr()).key_len_bytes as usize;
            core::slice::from_raw_parts(self.head.as_ptr().cast::<u8>().add(Self::KEY_OFFSET), len_bytes)
        }
    }

    /// Asks for the lines of the value and of a short key.
    #[inline(always)]
    pub(crate) fn prefetch(self) {
        let start = self.as_raw();
        prefetch_line(start);
        if !(Self::KEY_OFFSET + 16).is_multiple_of(64) && start.addr() % 64 + Self::KEY_OFFSET + 16 > 64 {
            prefetch_line(start.wrapping_add(64));
        }
    }
}
