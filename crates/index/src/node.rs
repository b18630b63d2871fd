//! Inner nodes of the radix tree.
//!
//! A node has the common key bytes of all keys below it (its prefix, stored completely), and
//! branches on the next byte. The leaf of a key that ends right after the prefix is the node's
//! terminal. Four kinds, after "The Adaptive Radix Tree" (Leis et al., ICDE 2013), differ in how
//! they find the child of a byte; each comes in a few capacities, so that sparse nodes stay small:
//!
//! | kind | search | capacities | bytes without prefix |
//! | --- | --- | --- | --- |
//! | 4 | key bytes in one word | 2, 4 | 24 + 8 per child |
//! | 16 | key bytes in two words, compared at once | 8, 12, 16 | 32 + 8 per child |
//! | 48 | 256 bytes of slot numbers | 24, 32, 48 | 272 + 8 per child |
//! | 256 | by index | 256 | 2064 |
//!
//! One writer changes a node while readers read it. Each change in place is one atomic store:
//!
//! - a child slot or the terminal is replaced, set or cleared;
//! - a child is added: its slot is filled first, then the key byte, then (release) `used`, or in
//!   kind 48 the slot number. A reader that sees the latter sees the former.
//!
//! A slot keeps its byte for the node's life, so a reader that has found a byte's slot cannot read
//! another byte's child there. Prefix, capacity and kind never change; a change of these replaces
//! the node.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::NonNull;

use crate::arena::Arena;
use crate::node_kind::{CAPACITIES, NodeKind};
use crate::search::{self, Lanes};
use crate::sync::{AtomicPtr, AtomicU8, AtomicU16, AtomicU64, Ordering};
use crate::tagged_ptr::TaggedPtr;

#[repr(C)]
struct NodeHead {
    prefix_len_bytes: u32,
    /// Number of children. Only the writer reads it.
    live: AtomicU16,
    /// Number of slots with a byte, in kinds 4, 16 and 48.
    used: AtomicU8,
    /// Number of slots; 0 means 256.
    capacity: u8,
    terminal: AtomicPtr<u8>,
}

const HEAD_BYTES: usize = size_of::<NodeHead>();
const WORD_BYTES: usize = size_of::<AtomicU64>();
const SLOT_BYTES: usize = size_of::<AtomicPtr<u8>>();

/// A byte of the key, or the key's end, as a position in a node's order: 0 is the terminal, `b + 1`
/// is the child of byte `b`.
pub(crate) type ByteCode = u16;
/// The code of the terminal, the first in order.
pub(crate) const CODE_TERMINAL: ByteCode = 0;
/// The last code.
pub(crate) const CODE_MAX: ByteCode = 256;

/// The code of the child of `byte`.
#[inline(always)]
pub(crate) fn code_of(byte: u8) -> ByteCode {
    ByteCode::from(byte) + 1
}

/// An inner node that stays alive for `'g`.
#[derive(Clone, Copy)]
pub(crate) struct Node<'g> {
    base: NonNull<u8>,
    kind: NodeKind,
    lives: PhantomData<&'g NodeHead>,
}

/// The content of a new node.
pub(crate) struct NodePlan {
    pub(crate) terminal: TaggedPtr,
    len: usize,
    /// The first `len` are there.
    children: [MaybeUninit<(u8, TaggedPtr)>; 256],
}

impl NodePlan {
    pub(crate) fn new(terminal: TaggedPtr) -> Self {
        Self { terminal, len: 0, children: [const { MaybeUninit::uninit() }; 256] }
    }

    pub(crate) fn push(&mut self, byte: u8, child: TaggedPtr) {
        self.children[self.len].write((byte, child));
        self.len += 1;
    }

    pub(crate) fn children(&self) -> &[(u8, TaggedPtr)] {
        // SAFETY: `push` has written the first `len`.
        unsafe { self.children[..self.len].assume_init_ref() }
    }

    /// Builds the node under the concatenation of `prefix`.
    pub(crate) fn build<'g>(&self, arena: &mut Arena, prefix: [&[u8]; 3]) -> Node<'g> {
        build(arena, prefix, self.terminal, self.children())
    }
}

/// A node of the smallest sufficient capacity, under the concatenation of `prefix`. The children's
/// bytes differ.
pub(crate) fn build<'g>(
    arena: &mut Arena,
    prefix: [&[u8]; 3],
    terminal: TaggedPtr,
    children: &[(u8, TaggedPtr)],
) -> Node<'g> {
    let fitting = CAPACITIES.iter().find(|(capacity, _)| usize::from(*capacity) >= children.len());
    let &(capacity, kind) = fitting.unwrap_or(&(256, NodeKind::Full));
    let prefix_len_bytes = prefix.iter().map(|part| part.len()).sum();
    let node = Node::alloc(arena, kind, capacity, prefix_len_bytes, terminal);
    node.fill_prefix(prefix);
    if node.is_small() {
        node.fill_small(children);
    } else {
        node.fill_large(children);
    }
    node
}

/// The positions of a node's words, slots and prefix.
fn len_bytes(kind: NodeKind, capacity: usize, prefix_len_bytes: usize) -> usize {
    (HEAD_BYTES + kind.key_words() * WORD_BYTES + capacity * SLOT_BYTES + prefix_len_bytes).next_multiple_of(8)
}

impl<'g> Node<'g> {
    /// A node without its words, slots and prefix.
    fn alloc(arena: &mut Arena, kind: NodeKind, capacity: u16, prefix_len_bytes: usize, terminal: TaggedPtr) -> Self {
        let bytes = len_bytes(kind, usize::from(capacity), prefix_len_bytes);
        let base = arena.alloc(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "a prefix is part of a key; 256 is stored as 0")]
        // SAFETY: the block is fresh and long enough for the head.
        unsafe {
            base.cast::<NodeHead>().write(NodeHead {
                prefix_len_bytes: prefix_len_bytes as u32,
                live: AtomicU16::new(0),
                used: AtomicU8::new(0),
                capacity: capacity as u8,
                terminal: AtomicPtr::new(terminal.raw()),
            });
        }
        Self { base, kind, lives: PhantomData }
    }

    /// Fills the words and slots of a fresh small node, each written once: a node that grows to ten
    /// children is built four times.
    fn fill_small(self, children: &[(u8, TaggedPtr)]) {
        let (words, slots) = self.fresh_parts();
        let mut keys = [0_u64; 2];
        for (at, &(byte, child)) in children.iter().enumerate() {
            keys[at / 8] |= u64::from(byte) << (8 * (at % 8));
            // SAFETY: the node was built for this number of children.
            unsafe { slots.add(at).write(AtomicPtr::new(child.raw())) };
        }
        // SAFETY: the block has this number of words and slots.
        unsafe {
            (0..self.kind.key_words()).for_each(|at| words.add(at).write(AtomicU64::new(keys[at])));
            (children.len()..self.capacity()).for_each(|at| slots.add(at).write(AtomicPtr::new(core::ptr::null_mut())));
        }
        #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
        let len = children.len() as u8;
        self.head().used.store(len, Ordering::Relaxed);
        self.head().live.store(len.into(), Ordering::Relaxed);
    }

    /// Fills the words and slots of a fresh large node.
    fn fill_large(self, children: &[(u8, TaggedPtr)]) {
        let (words, slots) = self.fresh_parts();
        // SAFETY: the block has this number of words and slots.
        unsafe {
            (0..self.kind.key_words()).for_each(|at| words.add(at).write(AtomicU64::new(0)));
            (0..self.capacity()).for_each(|at| slots.add(at).write(AtomicPtr::new(core::ptr::null_mut())));
        }
        for &(byte, child) in children {
            self.append(byte, child);
        }
    }

    /// The words and the slots of a fresh node.
    fn fresh_parts(self) -> (*mut AtomicU64, *mut AtomicPtr<u8>) {
        // SAFETY: both lie in the node's block, behind its head.
        unsafe {
            let words = self.base.as_ptr().add(HEAD_BYTES).cast::<AtomicU64>();
            (words, words.add(self.kind.key_words()).cast())
        }
    }

    /// Frees the node's memory, not its children.
    ///
    /// # Safety
    ///
    /// Nobody can reach the node any more, and it is freed once.
    pub(crate) unsafe fn free(self, arena: &mut Arena) {
        let bytes = len_bytes(self.kind, self.capacity(), self.prefix().len());
        // SAFETY: the caller's promise; the length is the one it was allocated with.
        unsafe { arena.free(self.base, bytes) };
    }

    /// The node of kind `kind` at `address`.
    ///
    /// # Safety
    ///
    /// `address` came from [`Node::as_raw`] of a node of that kind that stays alive for `'g`.
    #[inline(always)]
    pub(crate) unsafe fn from_raw(address: *mut u8, kind: NodeKind) -> Self {
        // SAFETY: as_raw gave a non-null pointer.
        Self { base: unsafe { NonNull::new_unchecked(address) }, kind, lives: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn as_raw(self) -> *mut u8 {
        self.base.as_ptr()
    }

    #[inline(always)]
    pub(crate) fn kind(self) -> NodeKind {
        self.kind
    }

    #[inline(always)]
    fn head(self) -> &'g NodeHead {
        // SAFETY: the node is alive for 'g; its head was written before it became reachable, and
        // what changes in it is atomic.
        unsafe { self.base.cast::<NodeHead>().as_ref() }
    }

    #[inline(always)]
    pub(crate) fn capacity(self) -> usize {
        if self.kind == NodeKind::Full { 256 } else { usize::from(self.head().capacity) }
    }

    #[inline(always)]
    pub(crate) fn prefix_len_bytes(self) -> usize {
        self.head().prefix_len_bytes as usize
    }

    #[inline(always)]
    pub(crate) fn prefix(self) -> &'g [u8] {
        let offset = HEAD_BYTES + self.kind.key_words() * WORD_BYTES + self.capacity() * SLOT_BYTES;
        // SAFETY: the prefix lies behind the slots, was written before the node became reachable,
        // and never changes.
        unsafe { core::slice::from_raw_parts(self.base.as_ptr().add(offset), self.head().prefix_len_bytes as usize) }
    }

    fn fill_prefix(self, parts: [&[u8]; 3]) {
        let mut offset = HEAD_BYTES + self.kind.key_words() * WORD_BYTES + self.capacity() * SLOT_BYTES;
        for part in parts {
            // SAFETY: the node is fresh, and was allocated with room for all parts.
            unsafe { self.base.as_ptr().add(offset).copy_from_nonoverlapping(part.as_ptr(), part.len()) };
            offset += part.len();
        }
    }

    #[inline(always)]
    fn word(self, at: usize) -> &'g AtomicU64 {
        debug_assert!(at < self.kind.key_words());
        // SAFETY: the kind has that many words behind the head, valid since the node was built.
        unsafe { &*self.base.as_ptr().add(HEAD_BYTES + at * WORD_BYTES).cast() }
    }

    #[inline(always)]
    fn slot(self, at: usize) -> &'g AtomicPtr<u8> {
        debug_assert!(at < self.capacity());
        let offset = HEAD_BYTES + self.kind.key_words() * WORD_BYTES + at * SLOT_BYTES;
        // SAFETY: the node has `capacity` slots behind its words, valid since it was built.
        unsafe { &*self.base.as_ptr().add(offset).cast() }
    }

    #[inline(always)]
    fn child_at(self, at: usize) -> TaggedPtr {
        TaggedPtr::from_raw(self.slot(at).load(Ordering::Acquire))
    }

    /// The slot of the key that ends at this node.
    #[inline(always)]
    pub(crate) fn terminal(self) -> &'g AtomicPtr<u8> {
        &self.head().terminal
    }

    #[inline(always)]
    pub(crate) fn terminal_link(self) -> TaggedPtr {
        TaggedPtr::from_raw(self.terminal().load(Ordering::Acquire))
    }

    #[inline(always)]
    fn used(self) -> usize {
        usize::from(self.head().used.load(Ordering::Acquire))
    }

    #[inline(always)]
    fn keys(self) -> [u64; 2] {
        let second = if self.kind == NodeKind::Sixteen { self.word(1).load(Ordering::Relaxed) } else { 0 };
        [self.word(0).load(Ordering::Relaxed), second]
    }

    /// The slot of the child of `byte`. It may be empty.
    #[inline(always)]
    pub(crate) fn find(self, byte: u8) -> Option<&'g AtomicPtr<u8>> {
        match self.kind {
            NodeKind::Four | NodeKind::Sixteen => {
                let used = self.used();
                let mask = search::equal_mask(self.keys(), byte) & lanes(used);
                (mask != 0).then(|| self.slot(mask.trailing_zeros() as usize))
            }
            NodeKind::FortyEight => self.numbered_slot(byte).map(|at| self.slot(at)),
            NodeKind::Full => Some(self.slot(usize::from(byte))),
        }
    }

    #[inline(always)]
    fn numbered_slot(self, byte: u8) -> Option<usize> {
        let word = self.word(usize::from(byte / 8)).load(Ordering::Acquire);
        let number = (word >> (8 * u32::from(byte % 8))) & 0xff;
        (number != 0).then(|| number as usize - 1)
    }

    /// The first non-empty code at or after `from`.
    #[inline]
    pub(crate) fn ceil(self, from: ByteCode) -> Option<(ByteCode, TaggedPtr)> {
        if from == CODE_TERMINAL {
            let terminal = self.terminal_link();
            if !terminal.is_nothing() {
                return Some((CODE_TERMINAL, terminal));
            }
        }
        let byte = u8::try_from(from.saturating_sub(1)).ok()?;
        match self.kind {
            NodeKind::Four | NodeKind::Sixteen => self.ceil_by_search(byte),
            NodeKind::FortyEight => self.ceil_by_number(byte),
            NodeKind::Full => (byte..=u8::MAX).find_map(|byte| self.existing(byte, usize::from(byte))),
        }
    }

    /// The last non-empty code at or before `from`.
    #[inline]
    pub(crate) fn floor(self, from: ByteCode) -> Option<(ByteCode, TaggedPtr)> {
        if from > CODE_TERMINAL {
            let byte = u8::try_from(from - 1).unwrap_or(u8::MAX);
            let found = match self.kind {
                NodeKind::Four | NodeKind::Sixteen => self.floor_by_search(byte),
                NodeKind::FortyEight => self.floor_by_number(byte),
                NodeKind::Full => (0..=byte).rev().find_map(|byte| self.existing(byte, usize::from(byte))),
            };
            if found.is_some() {
                return found;
            }
        }
        let terminal = self.terminal_link();
        (!terminal.is_nothing()).then_some((CODE_TERMINAL, terminal))
    }

    #[inline]
    fn ceil_by_search(self, mut byte: u8) -> Option<(ByteCode, TaggedPtr)> {
        let used = self.used();
        let keys = self.keys();
        loop {
            let (found, at) = search::first_at_least(keys, used, byte)?;
            let child = self.child_at(at);
            if !child.is_nothing() {
                return Some((code_of(found), child));
            }
            byte = found.checked_add(1)?;
        }
    }

    fn floor_by_search(self, mut byte: u8) -> Option<(ByteCode, TaggedPtr)> {
        let used = self.used();
        let keys = self.keys();
        loop {
            let (found, at) = search::last_at_most(keys, used, byte)?;
            let child = self.child_at(at);
            if !child.is_nothing() {
                return Some((code_of(found), child));
            }
            byte = found.checked_sub(1)?;
        }
    }

    /// Eight slot numbers at a time: most bytes of such a node have none.
    #[inline]
    fn ceil_by_number(self, byte: u8) -> Option<(ByteCode, TaggedPtr)> {
        let first = usize::from(byte / 8);
        // What lies before `byte` in its word does not count.
        let mut unwanted = !(u64::MAX << (8 * u32::from(byte % 8)));
        for at in first..NodeKind::FortyEight.key_words() {
            let mut numbers = self.word(at).load(Ordering::Acquire) & !unwanted;
            unwanted = 0;
            while numbers != 0 {
                let lane = numbers.trailing_zeros() / 8;
                if let Some(found) = self.numbered(at, lane, numbers) {
                    return Some(found);
                }
                numbers &= !(0xff << (8 * lane));
            }
        }
        None
    }

    fn floor_by_number(self, byte: u8) -> Option<(ByteCode, TaggedPtr)> {
        let first = usize::from(byte / 8);
        let mut wanted = u64::MAX >> (56 - 8 * u32::from(byte % 8));
        for at in (0..=first).rev() {
            let mut numbers = self.word(at).load(Ordering::Acquire) & wanted;
            wanted = u64::MAX;
            while numbers != 0 {
                let lane = 7 - numbers.leading_zeros() / 8;
                if let Some(found) = self.numbered(at, lane, numbers) {
                    return Some(found);
                }
                numbers &= !(0xff << (8 * lane));
            }
        }
        None
    }

    /// The child whose slot number is in this lane of the word at `at`, if it exists.
    #[inline(always)]
    fn numbered(self, at: usize, lane: u32, numbers: u64) -> Option<(ByteCode, TaggedPtr)> {
        let number = ((numbers >> (8 * lane)) & 0xff) as usize;
        #[expect(clippy::cast_possible_truncation, reason = "32 words of eight lanes")]
        self.existing((at * 8 + lane as usize) as u8, number - 1)
    }

    #[inline(always)]
    fn existing(self, byte: u8, slot: usize) -> Option<(ByteCode, TaggedPtr)> {
        let child = self.child_at(slot);
        (!child.is_nothing()).then_some((code_of(byte), child))
    }

    #[inline(always)]
    fn child_of_large(self, byte: u8) -> TaggedPtr {
        if self.kind == NodeKind::Full {
            return self.child_at(usize::from(byte));
        }
        self.numbered_slot(byte).map_or(TaggedPtr::NOTHING, |at| self.child_at(at))
    }

    /// Number of children. For the writer only.
    pub(crate) fn live(self) -> usize {
        usize::from(self.head().live.load(Ordering::Relaxed))
    }

    fn add_live(self, change: i16) {
        let live = self.head().live.load(Ordering::Relaxed);
        self.head().live.store(live.wrapping_add_signed(change), Ordering::Relaxed);
    }

    /// Sets the child of a byte that has none, if the node has a free slot. For the writer only.
    pub(crate) fn try_add(self, byte: u8, child: TaggedPtr) -> bool {
        if let Some(place) = self.find(byte) {
            place.store(child.raw(), Ordering::Release);
            self.add_live(1);
            return true;
        }
        if self.used() == self.capacity() {
            return false;
        }
        self.append(byte, child);
        true
    }

    /// Assigns a slot to `byte`, in kind 256 its own. The node has room, and the byte has no slot.
    fn append(self, byte: u8, child: TaggedPtr) {
        self.add_live(1);
        if self.kind == NodeKind::Full {
            self.slot(usize::from(byte)).store(child.raw(), Ordering::Release);
            return;
        }
        let at = self.used();
        self.slot(at).store(child.raw(), Ordering::Release);
        #[expect(clippy::cast_possible_truncation, reason = "at most 48")]
        let next = at as u8 + 1;
        if self.kind == NodeKind::FortyEight {
            let word = self.word(usize::from(byte / 8));
            let number = u64::from(next) << (8 * u32::from(byte % 8));
            word.store(word.load(Ordering::Relaxed) | number, Ordering::Release);
        } else {
            let word = self.word(at / 8);
            word.store(word.load(Ordering::Relaxed) | u64::from(byte) << (8 * (at % 8)), Ordering::Release);
        }
        self.head().used.store(next, Ordering::Release);
    }

    /// Clears the slot of the child of `byte`. For the writer only.
    pub(crate) fn clear(self, byte: u8) {
        if let Some(place) = self.find(byte) {
            place.store(core::ptr::null_mut(), Ordering::Release);
            self.add_live(-1);
        }
    }

    /// Whether a much smaller node suffices for `live` children.
    pub(crate) fn is_sparse(self, live: usize) -> bool {
        let capacity = self.capacity();
        let smaller = CAPACITIES.iter().rev().map(|(each, _)| usize::from(*each)).find(|each| *each < capacity);
        smaller.is_some_and(|smaller| live <= smaller * 3 / 4)
    }

    /// Adds the node's terminal and children to a plan, except the child of `leave_out`.
    pub(crate) fn add_to(self, plan: &mut NodePlan, leave_out: Option<u8>) {
        let mut keep = |byte: u8, child: TaggedPtr| {
            if !child.is_nothing() && Some(byte) != leave_out {
                plan.push(byte, child);
            }
        };
        if self.is_small() {
            let keys = self.keys();
            for at in 0..self.used() {
                keep(search::lane(keys, at), self.child_at(at));
            }
        } else {
            for byte in 0..=u8::MAX {
                keep(byte, self.child_of_large(byte));
            }
        }
    }

    /// A copy of the smallest sufficient capacity, under the concatenation of `prefix`.
    pub(crate) fn copied<'c>(self, arena: &mut Arena, prefix: [&[u8]; 3]) -> Node<'c> {
        let mut plan = NodePlan::new(self.terminal_link());
        self.add_to(&mut plan, None);
        plan.build(arena, prefix)
    }

    /// Whether it finds children by comparing bytes, so that they are few.
    #[inline(always)]
    pub(crate) fn is_small(self) -> bool {
        matches!(self.kind, NodeKind::Four | NodeKind::Sixteen)
    }

    /// The current children of a small node in order. A lane's child may be removed before it is
    /// read.
    #[inline(always)]
    pub(crate) fn lanes_in_order(self, rising: bool) -> Lanes {
        let used = self.used();
        search::order(self.keys(), used, rising)
    }

    /// The byte of a lane of a small node.
    #[inline(always)]
    pub(crate) fn byte_of_lane(self, lane: usize) -> u8 {
        search::lane(self.keys(), lane)
    }

    /// The child in a lane of a small node; it may be empty.
    #[inline(always)]
    pub(crate) fn child_in_lane(self, lane: usize) -> TaggedPtr {
        self.child_at(lane)
    }

    /// Prefetches the target of the child at `code`, if the node has many children.
    #[inline(always)]
    pub(crate) fn prefetch_child(self, code: Option<ByteCode>) {
        if let Some(byte) = code.and_then(|code| u8::try_from(code.wrapping_sub(1)).ok()) {
            self.child_of_large(byte).prefetch();
        }
    }
}

#[inline(always)]
fn lanes(used: usize) -> u32 {
    (1_u32 << used) - 1
}
