//! The undo slots: the versions that the commit in flight has replaced.
//!
//! An overwrite without a snapshot should not allocate. But until its commit is published, every
//! reader must still find the old version, so the writer first stores the old version in one of
//! these slots. After publishing, the writer reads the live snapshots, keeps the old version in the
//! entry if one of them needs it, and clears the slot. Between commits all slots are empty. An
//! entry may use only the slots of one set, so that a reader examines few slots. If these are full,
//! as in very long batches, the old version goes at once to the head of the entry's older versions.
//!
//! A reader that finds an entry changed by commit c searches the slots of the entry's set for the
//! label (entry, c). It reads a slot's label, the fields, and the label again. If the label has
//! changed, commit c is complete, and the version that the reader needs is in the entry's older
//! versions. A reader never retries.

use crate::mutants::planted;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::version::{Version, Word};

/// Number of sets of slots: a power of two.
const SETS: usize = if cfg!(loom) { 1 } else { 64 };
/// Number of slots in a set.
const WAYS: usize = if cfg!(loom) { 1 } else { 8 };

/// All slots.
#[derive(Debug)]
pub(crate) struct UndoSlots {
    slots: Box<[UndoSlot]>,
}

/// The number of a slot that holds a version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SlotNumber(usize);

impl UndoSlots {
    pub(crate) fn new() -> Self {
        Self { slots: (0..SETS * WAYS).map(|_| UndoSlot::new()).collect() }
    }

    /// Stores the version `old` of `entry`, which commit `commit` is about to replace, if a slot is
    /// free. Only the writer calls this.
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

    /// The version that commit `commit` replaced in `entry`, if a slot holds it.
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

/// The label of an empty slot: the seqs of commits are above 0.
const EMPTY: u64 = 0;

/// One version, labelled with the commit that replaced it and with its entry.
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

    /// Stores the version `old` of `entry`, which commit `commit` is about to replace. Only the
    /// writer calls this, and only for an empty slot.
    fn set(&self, commit: u64, entry: usize, old: &Version) {
        self.entry.store(entry, Ordering::Release);
        self.word.store(old.word.raw(), Ordering::Release);
        self.seq.store(old.seq, Ordering::Release);
        self.version.store(old.version, Ordering::Release);
        self.len_bytes.store(old.len_bytes, Ordering::Release);
        self.commit.store(commit, Ordering::Release);
    }

    /// The version that commit `commit` replaced in `entry`, if the slot holds it.
    ///
    /// Every field is stored with release and loaded with acquire. A reader that sees a field of a
    /// later commit therefore also sees that the label was cleared before.
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
