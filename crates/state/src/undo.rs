//! The undo slots: the versions that the commit in flight has replaced.
//!
//! An overwrite without a snapshot should not allocate. But until its commit is published, every
//! reader must still find the old version. So the writer puts it into one of these slots first.
//! Once the commit is published it looks at the live snapshots, keeps the old version in the entry
//! if one of them needs it, and then clears the slot: outside a commit all slots are empty. An
//! entry may use the slots of one set only, so that a reader looks at a few; when these are taken,
//! as in very long batches, the old version goes in front of the entry's older versions at once.
//!
//! A reader that finds an entry changed by commit c asks the slots of its set for (entry, c). It
//! reads a slot's label, the fields, and the label again. If the label has changed, commit c is
//! complete, and what the reader needs is in the entry's older versions; it never tries twice.

use crate::mutants::planted;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::version::{Version, Word};

/// Sets of slots: a power of two.
const SETS: usize = if cfg!(loom) { 1 } else { 64 };
/// Slots of a set.
const WAYS: usize = if cfg!(loom) { 1 } else { 8 };

/// All slots.
#[derive(Debug)]
pub(crate) struct UndoSlots {
    slots: Box<[UndoSlot]>,
}

/// Which slot holds a version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotNumber(usize);

impl UndoSlots {
    pub(crate) fn new() -> Self {
        Self { slots: (0..SETS * WAYS).map(|_| UndoSlot::new()).collect() }
    }

    /// Puts in what commit `commit` is about to replace in `entry`, if a slot is free for it. The
    /// writer alone calls this.
    pub(crate) fn set(&self, commit: u64, entry: usize, old: &Version) -> Option<SlotNumber> {
        let mut set = set_of(entry);
        let free = set.find(|at| self.slots[*at].commit.load(Ordering::Relaxed) == EMPTY)?;
        self.slots[free].set(commit, entry, old);
        Some(SlotNumber(free))
    }

    /// Empties a slot.
    pub(crate) fn clear(&self, slot: SlotNumber) {
        self.slots[slot.0].commit.store(EMPTY, Ordering::Release);
    }

    /// What commit `commit` replaced in `entry`, if a slot says so.
    pub(crate) fn find(&self, commit: u64, entry: usize) -> Option<Version> {
        set_of(entry).find_map(|at| self.slots[at].find(commit, entry))
    }
}

/// The slots that an entry may use.
fn set_of(entry: usize) -> std::ops::Range<usize> {
    // Fibonacci hashing: the top bits of the product depend on all bits of the address.
    let set = (entry as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    #[allow(clippy::cast_possible_truncation, reason = "32 bits are left")]
    let first = set as usize % SETS * WAYS;
    first..first + WAYS
}

/// The label of an empty slot; commits have seqs above zero.
const EMPTY: u64 = 0;

/// One version, labelled with the commit that replaced it and the entry it was in.
#[derive(Debug)]
struct UndoSlot {
    /// The seq of the commit in flight, written last and cleared first.
    commit: AtomicU64,
    /// The address of the entry: an identity, never followed.
    entry: AtomicUsize,
    word: AtomicU64,
    seq: AtomicU64,
    version: AtomicU64,
    len_bytes: AtomicU32,
}

impl UndoSlot {
    fn new() -> Self {
        Self {
            commit: AtomicU64::new(EMPTY),
            entry: AtomicUsize::new(0),
            word: AtomicU64::new(0),
            seq: AtomicU64::new(0),
            version: AtomicU64::new(0),
            len_bytes: AtomicU32::new(0),
        }
    }

    /// Puts in what commit `commit` is about to replace in `entry`. The writer alone calls this,
    /// with the slot empty.
    fn set(&self, commit: u64, entry: usize, old: &Version) {
        self.entry.store(entry, Ordering::Release);
        self.word.store(old.word.raw(), Ordering::Release);
        self.seq.store(old.seq, Ordering::Release);
        self.version.store(old.version, Ordering::Release);
        self.len_bytes.store(old.len_bytes, Ordering::Release);
        self.commit.store(commit, Ordering::Release);
    }

    /// What commit `commit` replaced in `entry`, if the slot says so.
    ///
    /// Every field is stored with release and loaded with acquire: a reader that sees a field of a
    /// later commit also sees that the label was cleared before it.
    fn find(&self, commit: u64, entry: usize) -> Option<Version> {
        if self.commit.load(Ordering::Acquire) != commit || self.entry.load(Ordering::Acquire) != entry {
            return None;
        }
        let old = Version {
            word: Word::from_raw(self.word.load(Ordering::Acquire)),
            seq: self.seq.load(Ordering::Acquire),
            version: self.version.load(Ordering::Acquire),
            len_bytes: self.len_bytes.load(Ordering::Acquire),
        };
        let unchanged = self.commit.load(Ordering::Acquire) == commit || planted("undo_unchecked");
        unchanged.then_some(old)
    }
}
