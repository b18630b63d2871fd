//! Buckets of the point table: slots with pointers to leaves, and per slot a tag byte and a hint
//! byte.
//!
//! A slot is eight bytes: a pointer to a leaf, which needs 45 bits, and the low 19 bits of the
//! value's [hint](crate::HINT_BITS); the other 8 bits are a byte beside the tag. Eight slots, one
//! cache line, are a group; their tags are one word, and their bytes of hints the next. A tag says
//! that its slot was never used, is deleted, or holds a key whose hash ends in a certain byte. A
//! lookup compares the eight tags of its group at once and reads a slot only if its tag matches.
//! While the group has no unused slot, the lookup continues with the next group. So a lookup of an
//! absent key nearly always reads tags only. The group's slots are fetched at the same time, so
//! that one of a present key does not wait twice. (Tags beside slots are the idea of Google's
//! "Swiss Tables".)
//!
//! ```text
//! head 64 | a word of tags and one of hints per group, padded to a line | slots, a line per group
//! ```
//!
//! A slot changes from empty to a leaf, from a leaf to its replacement, and from a leaf to empty. A
//! new leaf is in its slot before its tag is set. A leaf never moves within a bucket. A tag returns
//! to *never used* only in a group with another such tag: no key is behind such a group, so no
//! probe can miss one. A hint is set in two steps without synchronization: a reader may see a part
//! of it, or that of an earlier leaf, so a wrong hint must cost only time.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use crate::arena::Arena;
use crate::bytes::equal;
use crate::leaf::Leaf;
use crate::prefetch::prefetch_line;
use crate::sync::{AtomicPtr, AtomicU64, Ordering};

/// Slots of the largest bucket, which splits when it is full; it fits a block of the arena.
pub(crate) const FULL_SLOTS: usize = if cfg!(loom) { 8 } else { 800 };
/// The size class of the largest bucket; smaller ones are doubled up to it.
pub(crate) const FULL_CLASS: usize = if cfg!(loom) { 0 } else { 7 };
/// Slots of a group: a cache line, and a word of tags.
const GROUP_SLOTS: usize = 8;
/// Bits of an address that hold a bucket's size class.
const CLASS_BITS: usize = 63;
/// The shift of a leaf's address in its slot: the top 16 bits of an address are unused, and the
/// last three are zero.
const LEAF_SHIFT: u32 = 16;
/// Number of hint bits in a slot.
const SLOT_HINT_BITS: u32 = LEAF_SHIFT + 3;
const SLOT_HINT_MASK: usize = (1 << SLOT_HINT_BITS) - 1;
/// The number of bits of a [hint](crate::with_hints) that are kept: 19 in the slot, and a byte
/// beside the tag.
pub const HINT_BITS: u32 = SLOT_HINT_BITS + u8::BITS;
const HINT_MASK: u32 = (1 << HINT_BITS) - 1;

/// The memory ordering of publishing a leaf.
#[inline(always)]
fn publish() -> Ordering {
    if crate::mutants::planted("missed_publish") { Ordering::Relaxed } else { Ordering::Release }
}

/// The tag of a slot that was never used.
const TAG_EMPTY: u8 = 0;
/// The tag of a slot whose leaf was removed.
const TAG_DELETED: u8 = 1;

/// The writer's data of a bucket, in its first 64 bytes.
#[repr(C, align(64))]
struct BucketHead {
    leaves: usize,
    deleted: usize,
    depth: u32,
}

const HEAD_BYTES: usize = size_of::<BucketHead>();
const SLOT_BYTES: usize = size_of::<AtomicPtr<u8>>();
/// A word of tags and one of hints.
const MARKS_BYTES: usize = 2 * size_of::<AtomicU64>();

pub(crate) const fn slots_of_class(class: usize) -> usize {
    if class < FULL_CLASS { 8 << class } else { FULL_SLOTS << (class - FULL_CLASS) }
}

/// Maximum number of used slots, leaves and deleted ones, before a bucket is rebuilt.
pub(crate) const fn slots_limit(slots: usize) -> usize {
    slots * 4 / 5
}

/// The layout of a class, as a table, so that a reader needs no branch.
#[derive(Clone, Copy)]
struct BucketLayout {
    groups: u32,
    /// The offset of the slots.
    slots_offset: u32,
}

const CLASSES: usize = 24;
pub(crate) const MAX_CLASS: usize = CLASSES - 1;

static LAYOUTS: [BucketLayout; CLASSES] = {
    let mut layouts = [BucketLayout { groups: 0, slots_offset: 0 }; CLASSES];
    let mut class = 0;
    while class < CLASSES {
        #[expect(clippy::cast_possible_truncation, reason = "800 << 16 slots at most")]
        let layout = BucketLayout {
            groups: (slots_of_class(class) / GROUP_SLOTS) as u32,
            slots_offset: slots_offset(class) as u32,
        };
        layouts[class] = layout;
        class += 1;
    }
    layouts
};

const fn slots_offset(class: usize) -> usize {
    (HEAD_BYTES + slots_of_class(class) / GROUP_SLOTS * MARKS_BYTES).next_multiple_of(64)
}

const fn len_bytes(class: usize) -> usize {
    slots_offset(class) + slots_of_class(class) * SLOT_BYTES
}

/// The tag of a key: the low byte of its hash, which neither directory nor group use, except for
/// two reserved values.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the last byte is meant")]
fn tag_of(hash: u64) -> u8 {
    let byte = hash as u8;
    if byte > TAG_DELETED { byte } else { byte + 2 }
}

/// The first group of the probe for `hash`.
#[inline(always)]
fn home(hash: u64, groups: usize) -> usize {
    (((hash & 0xffff_ffff) * groups as u64) >> 32) as usize
}

/// Eight times the byte.
#[inline(always)]
const fn splat(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The top bit of every byte that is zero.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    const LOW: u64 = splat(0x7f);
    !(((word & LOW) + LOW) | word | LOW)
}

/// The slots of a group whose tags have their top bit set in `mask`.
#[inline(always)]
fn places(mut mask: u64) -> impl Iterator<Item = usize> {
    core::iter::from_fn(move || {
        let place = (mask != 0).then(|| mask.trailing_zeros() as usize / 8);
        mask &= mask.wrapping_sub(1);
        place
    })
}

/// A bucket that stays alive for `'g`.
#[derive(Clone, Copy)]
pub(crate) struct HashBucket<'g> {
    base: NonNull<u8>,
    class: usize,
    lives: PhantomData<&'g BucketHead>,
}

impl<'g> HashBucket<'g> {
    pub(crate) fn alloc(arena: &mut Arena, class: usize, depth: u32) -> Self {
        let base = arena.alloc(len_bytes(class));
        let bucket = Self { base, class, lives: PhantomData };
        // SAFETY: the block is fresh and that long.
        unsafe {
            base.cast::<BucketHead>().write(BucketHead { leaves: 0, deleted: 0, depth });
            let marks = base.as_ptr().add(HEAD_BYTES).cast::<[AtomicU64; 2]>();
            let unused = || [AtomicU64::new(splat(TAG_EMPTY)), AtomicU64::new(0)];
            (0..bucket.groups()).for_each(|at| marks.add(at).write(unused()));
            let slots = base.as_ptr().add(bucket.layout().slots_offset as usize).cast::<AtomicPtr<u8>>();
            (0..bucket.slots()).for_each(|at| slots.add(at).write(AtomicPtr::new(ptr::null_mut())));
        }
        bucket
    }

    /// Returns the memory.
    ///
    /// # Safety
    ///
    /// Nobody can reach the bucket any more, and it is freed once.
    pub(crate) unsafe fn free(self, arena: &mut Arena) {
        // SAFETY: the caller's promise; the length is the one it was allocated with.
        unsafe { arena.free(self.base, len_bytes(self.class)) };
    }

    /// # Safety
    ///
    /// `tagged` came from [`HashBucket::tagged`] of a bucket that stays alive for `'g`.
    #[inline(always)]
    pub(crate) unsafe fn from_tagged(tagged: *mut u8) -> Self {
        let class = tagged.addr() & CLASS_BITS;
        // SAFETY: tagged addresses are not null.
        let base = unsafe { NonNull::new_unchecked(tagged.map_addr(|address| address & !CLASS_BITS)) };
        Self { base, class, lives: PhantomData }
    }

    /// The bucket's address with its class in the low six bits.
    pub(crate) fn tagged(self) -> *mut u8 {
        self.base.as_ptr().map_addr(|address| address | self.class)
    }

    pub(crate) fn class(self) -> usize {
        self.class
    }

    #[inline(always)]
    fn layout(self) -> BucketLayout {
        LAYOUTS[self.class]
    }

    #[inline(always)]
    fn groups(self) -> usize {
        self.layout().groups as usize
    }

    pub(crate) fn slots(self) -> usize {
        self.groups() * GROUP_SLOTS
    }

    #[inline(always)]
    fn slot(self, at: usize) -> &'g AtomicPtr<u8> {
        debug_assert!(at < self.slots());
        // SAFETY: the bucket is alive for 'g, and has that many slots behind its marks.
        unsafe { &*self.base.as_ptr().add(self.layout().slots_offset as usize + at * SLOT_BYTES).cast() }
    }

    #[inline(always)]
    fn marks(self, group: usize) -> &'g [AtomicU64; 2] {
        debug_assert!(group < self.groups());
        // SAFETY: the bucket is alive for 'g, and has marks of that many groups behind its head.
        unsafe { &*self.base.as_ptr().add(HEAD_BYTES + group * MARKS_BYTES).cast() }
    }

    #[inline(always)]
    fn tags(self, group: usize) -> &'g AtomicU64 {
        &self.marks(group)[0]
    }

    /// The top bytes of the group's hints.
    #[inline(always)]
    fn hints(self, group: usize) -> &'g AtomicU64 {
        &self.marks(group)[1]
    }

    /// The hint of an entry that was read from this slot.
    #[inline(always)]
    fn hint(self, at: usize, entry: *mut u8) -> u32 {
        let (group, place) = (at / GROUP_SLOTS, at % GROUP_SLOTS);
        let top = byte_at(self.hints(group).load(Ordering::Relaxed), place);
        #[expect(clippy::cast_possible_truncation, reason = "19 bits")]
        let low = (entry.addr() & SLOT_HINT_MASK) as u32;
        u32::from(top) << SLOT_HINT_BITS | low
    }

    #[inline(always)]
    fn next(self, group: usize) -> usize {
        if group + 1 == self.groups() { 0 } else { group + 1 }
    }

    /// The writer's data. Readers never read it.
    fn head(self) -> *mut BucketHead {
        self.base.as_ptr().cast()
    }

    pub(crate) fn leaves(self) -> usize {
        // SAFETY: only the writer calls this, and it alone writes the head.
        unsafe { (*self.head()).leaves }
    }

    pub(crate) fn taken(self) -> usize {
        // SAFETY: as above.
        unsafe { (*self.head()).leaves + (*self.head()).deleted }
    }

    pub(crate) fn depth(self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.head()).depth }
    }

    fn count(self, leaves: isize, deleted: isize) {
        // SAFETY: as above.
        unsafe {
            (*self.head()).leaves = (*self.head()).leaves.wrapping_add_signed(leaves);
            (*self.head()).deleted = (*self.head()).deleted.wrapping_add_signed(deleted);
        }
    }

    /// Prefetches the lines where the probe for `hash` begins.
    #[inline(always)]
    pub(crate) fn prefetch(self, hash: u64) {
        let group = home(hash, self.groups());
        prefetch_line(ptr::from_ref(self.tags(group)).cast());
        prefetch_line(ptr::from_ref(self.slot(group * GROUP_SLOTS)).cast());
    }

    /// Prefetches the bucket's head.
    #[inline(always)]
    pub(crate) fn prefetch_head(self) {
        prefetch_line(self.base.as_ptr());
    }

    /// The leaf of `key`, and its slot.
    #[inline(always)]
    pub(crate) fn find<V>(self, hash: u64, key: &[u8]) -> Option<(usize, Leaf<'g, V>)> {
        self.probe(hash, |_, _, leaf| equal(leaf.key(), key))
    }

    /// As [`find`](Self::find); calls `hinted` with the hint of each candidate before its leaf is
    /// read, nearly always only that of the right one.
    #[inline(always)]
    pub(crate) fn find_hinted<V>(
        self,
        hash: u64,
        key: &[u8],
        mut hinted: impl FnMut(u32),
    ) -> Option<(usize, Leaf<'g, V>)> {
        self.probe(hash, |at, entry, leaf| {
            hinted(self.hint(at, entry));
            equal(leaf.key(), key)
        })
    }

    /// The first leaf with a matching tag, unchecked: most likely the one of a lookup.
    #[inline(always)]
    pub(crate) fn candidate<V>(self, hash: u64) -> Option<Leaf<'g, V>> {
        self.probe(hash, |_, _, _| true).map(|(_, leaf)| leaf)
    }

    /// The first leaf with this tag that `is_right` accepts, and its slot. `is_right` gets the slot
    /// and its content.
    #[inline(always)]
    fn probe<V>(
        self,
        hash: u64,
        mut is_right: impl FnMut(usize, *mut u8, Leaf<'g, V>) -> bool,
    ) -> Option<(usize, Leaf<'g, V>)> {
        let tags_wanted = splat(tag_of(hash));
        let mut group = home(hash, self.groups());
        // An absent key does not need its slots; a present one would wait for them after the tags.
        // The gain of the latter is larger.
        prefetch_line(ptr::from_ref(self.slot(group * GROUP_SLOTS)).cast());
        for _ in 0..self.groups() {
            let tags = self.tags(group).load(Ordering::Acquire);
            for place in places(zero_bytes(tags ^ tags_wanted)) {
                let at = group * GROUP_SLOTS + place;
                let entry = self.slot(at).load(Ordering::Acquire);
                if !entry.is_null() {
                    // SAFETY: slots hold leaves of V, published with release, that live as long as
                    // the bucket's readers.
                    let leaf = unsafe { leaf_of::<V>(entry) };
                    if is_right(at, entry, leaf) {
                        return Some((at, leaf));
                    }
                }
            }
            if zero_bytes(tags ^ splat(TAG_EMPTY)) != 0 {
                return None;
            }
            group = self.next(group);
        }
        None
    }

    /// Puts a new leaf into the first free slot of its probe, which must exist. For the writer
    /// only.
    pub(crate) fn put<V>(self, hash: u64, leaf: Leaf<'_, V>, hint: u32) {
        let mut group = home(hash, self.groups());
        loop {
            let tags = self.tags(group).load(Ordering::Relaxed);
            // The tags of free slots, empty or deleted, differ in the last bit alone.
            if let Some(place) = places(zero_bytes(tags & splat(!TAG_DELETED))).next() {
                let was_grave = byte_at(tags, place) == TAG_DELETED;
                self.set(group * GROUP_SLOTS + place, leaf, hint, publish());
                self.tags(group).store(with_byte(tags, place, tag_of(hash)), publish());
                self.count(1, if was_grave { -1 } else { 0 });
                return;
            }
            group = self.next(group);
        }
    }

    /// Replaces the leaf of the same key in slot `at`. For the writer only.
    pub(crate) fn replace<V>(self, at: usize, leaf: Leaf<'_, V>, hint: u32) {
        self.set(at, leaf, hint, Ordering::Release);
    }

    /// Sets the hint of the leaf in slot `at`, if it differs. For the writer only.
    #[inline(always)]
    pub(crate) fn hint_anew<V>(self, at: usize, leaf: Leaf<'_, V>, hint: u32) {
        let known = self.hint(at, self.slot(at).load(Ordering::Relaxed));
        if known != hint & HINT_MASK && !crate::mutants::planted("hint_not_renewed") {
            self.set(at, leaf, hint, Ordering::Release);
        }
    }

    #[inline(always)]
    fn set<V>(self, at: usize, leaf: Leaf<'_, V>, hint: u32, order: Ordering) {
        let hints = self.hints(at / GROUP_SLOTS);
        #[expect(clippy::cast_possible_truncation, reason = "the bits above are no part of a hint")]
        let top = (hint >> SLOT_HINT_BITS) as u8;
        hints.store(with_byte(hints.load(Ordering::Relaxed), at % GROUP_SLOTS, top), Ordering::Relaxed);
        self.slot(at).store(entry_of(leaf, hint), order);
    }

    /// Empties a slot. It becomes a deleted slot if a key may be behind its group. For the writer
    /// only.
    pub(crate) fn clear(self, at: usize) {
        let (group, place) = (at / GROUP_SLOTS, at % GROUP_SLOTS);
        let tags = self.tags(group).load(Ordering::Relaxed);
        let is_last = zero_bytes(tags ^ splat(TAG_EMPTY)) != 0 || crate::mutants::planted("tag_emptied");
        let tag = if is_last { TAG_EMPTY } else { TAG_DELETED };
        self.tags(group).store(with_byte(tags, place, tag), Ordering::Release);
        self.slot(at).store(ptr::null_mut(), Ordering::Release);
        self.count(-1, if is_last { 0 } else { 1 });
    }

    /// All leaves and their hints, in slot order.
    pub(crate) fn entries<V: 'g>(self) -> impl Iterator<Item = (Leaf<'g, V>, u32)> {
        (0..self.slots()).filter_map(move |at| {
            let entry = self.slot(at).load(Ordering::Relaxed);
            let hint = if crate::mutants::planted("hint_lost") { 0 } else { self.hint(at, entry) };
            // SAFETY: as in probe.
            (!entry.is_null()).then(|| (unsafe { leaf_of::<V>(entry) }, hint))
        })
    }
}

#[expect(clippy::cast_possible_truncation, reason = "one byte is meant")]
fn byte_at(word: u64, place: usize) -> u8 {
    (word >> (8 * place)) as u8
}

fn with_byte(word: u64, place: usize, byte: u8) -> u64 {
    let shift = 8 * place;
    word & !(0xff << shift) | u64::from(byte) << shift
}

/// The content of a slot for a leaf.
#[inline(always)]
fn entry_of<V>(leaf: Leaf<'_, V>, hint: u32) -> *mut u8 {
    leaf.as_raw().map_addr(|address| address << LEAF_SHIFT | hint as usize & SLOT_HINT_MASK)
}

/// # Safety
///
/// `entry` is from a slot of a table of `V` and holds a leaf that stays alive for `'g`.
#[inline(always)]
unsafe fn leaf_of<'g, V>(entry: *mut u8) -> Leaf<'g, V> {
    // SAFETY: the caller's promise.
    unsafe { Leaf::from_raw(entry.map_addr(|entry| (entry & !SLOT_HINT_MASK) >> LEAF_SHIFT)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_bytes_are_found_exactly() {
        let interesting = [0_u8, 1, 2, 0x7e, 0x7f, 0x80, 0x81, 0xfe, 0xff];
        for first in interesting {
            for second in interesting {
                for at in 0..8 {
                    let mut bytes = [second; 8];
                    bytes[at] = first;
                    let mask = zero_bytes(u64::from_le_bytes(bytes));
                    let found: Vec<usize> = places(mask).collect();
                    let expected: Vec<usize> = (0..8).filter(|at| bytes[*at] == 0).collect();
                    assert_eq!(found, expected, "{bytes:?}");
                    assert_eq!(byte_at(with_byte(u64::from_le_bytes(bytes), at, 7), at), 7);
                }
            }
        }
    }

    #[test]
    fn a_full_segment_fits_a_block() {
        assert!(len_bytes(FULL_CLASS) <= crate::arena::SLAB_MAX_BYTES || cfg!(loom));
        for (class, layout) in LAYOUTS.iter().enumerate().take(FULL_CLASS + 1) {
            assert_eq!(layout.slots_offset % 64, 0);
            assert_eq!(len_bytes(class) % 64, 0);
        }
    }
}
