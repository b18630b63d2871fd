//! The undo slot: what the first overwrite of the commit in flight has replaced.
//!
//! An overwrite that nobody holds a snapshot against should cost no allocation, yet until its commit is published every reader
//! must still find the old version. So the writer puts it into this one slot first. Once the commit is published it looks at
//! the live snapshots, keeps the old version in the entry if one of them needs it, and then clears the slot: outside a commit
//! the slot is empty.
//!
//! A reader that finds an entry changed by commit c asks the slot for (entry, c). It reads the label, the fields, and the label
//! again. If the label has changed, commit c is complete, and what the reader needs is in the entry's older versions; it
//! never tries twice.

use crate::mutants::planted;
use crate::sync::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use crate::version::{Version, Word};

/// The label of an empty slot; commits have seqs above zero.
const EMPTY: u64 = 0;

/// One version, labelled with the commit that replaced it and the entry it was in.
#[derive(Debug)]
pub(crate) struct Undo {
    /// The seq of the commit in flight, written last and cleared first.
    commit: AtomicU64,
    /// The address of the entry: an identity, never followed.
    entry: AtomicUsize,
    word: AtomicU64,
    seq: AtomicU64,
    version: AtomicU64,
    len_bytes: AtomicU32,
}

impl Undo {
    pub(crate) fn new() -> Self {
        Self {
            commit: AtomicU64::new(EMPTY),
            entry: AtomicUsize::new(0),
            word: AtomicU64::new(0),
            seq: AtomicU64::new(0),
            version: AtomicU64::new(0),
            len_bytes: AtomicU32::new(0),
        }
    }

    /// Puts in what commit `commit` is about to replace in `entry`. The writer alone calls this, with the slot empty.
    pub(crate) fn set(&self, commit: u64, entry: usize, old: &Version) {
        self.entry.store(entry, Ordering::Release);
        self.word.store(old.word.raw(), Ordering::Release);
        self.seq.store(old.seq, Ordering::Release);
        self.version.store(old.version, Ordering::Release);
        self.len_bytes.store(old.len_bytes, Ordering::Release);
        self.commit.store(commit, Ordering::Release);
    }

    /// Empties the slot.
    pub(crate) fn clear(&self) {
        self.commit.store(EMPTY, Ordering::Release);
    }

    /// What commit `commit` replaced in `entry`, if the slot says so.
    ///
    /// Every field is stored with release and loaded with acquire: whoever reads a field of a later commit also sees that the
    /// label was cleared before it.
    pub(crate) fn find(&self, commit: u64, entry: usize) -> Option<Version> {
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
