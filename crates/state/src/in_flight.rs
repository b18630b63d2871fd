//! A commit in flight: from its first overwrite until it is published and settled.
//!
//! This is the writer's side of the protocols. The readers' sides are in [`entry`](crate::entry),
//! [`undo`](crate::undo) and [`registry`](crate::snapshot_registry). The writer and the models of
//! the model checker run the same code.

use crate::entry::IndexEntry;
use crate::mutants::planted;
use crate::mvcc::MvccState;
use crate::snapshot_registry::LiveSnapshots;
use crate::sync::{Guard, Ordering};
use crate::undo::SlotNumber;
use crate::version::Version;

/// A pointer to an entry that stays valid while the commit is in flight.
pub(crate) trait EntryPointer: Copy {
    fn entry(&self) -> &IndexEntry;
}

/// An open commit, not yet published.
#[derive(Debug)]
pub(crate) struct InFlightCommit<P> {
    seq: u64,
    /// The written entries, the first without an allocation.
    first: Option<WrittenEntry<P>>,
    rest: Vec<WrittenEntry<P>>,
    kept: ChainChange,
}

/// The numbers of old versions that a commit has added to entries and dropped from them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChainChange {
    pub(crate) added: usize,
    pub(crate) dropped: usize,
}

#[derive(Clone, Copy, Debug)]
struct WrittenEntry<P> {
    pointer: P,
    old: ReplacedPlace,
}

/// The place of the replaced version.
#[derive(Clone, Copy, Debug)]
enum ReplacedPlace {
    /// There is none, because the key is new.
    None,
    /// In an undo slot.
    InUndoSlot(Version, SlotNumber),
    /// At the head of the entry's older versions.
    InChain(Version),
}

/// An old version that stays in its entry, because a snapshot needs it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetainedVersion<P> {
    pub(crate) pointer: P,
    /// The seq of the version.
    pub(crate) seq: u64,
    /// The commit that replaced it.
    pub(crate) until: u64,
}

impl<P: EntryPointer> InFlightCommit<P> {
    pub(crate) fn new(seq: u64) -> Self {
        Self { seq, first: None, rest: Vec::new(), kept: ChainChange::default() }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Overwrites an entry that readers can reach. The word must be pending, and the seq must be
    /// the commit's.
    #[inline]
    pub(crate) fn overwrite(&mut self, mvcc: &MvccState, pointer: P, new: &Version, guard: &Guard) {
        let entry = pointer.entry();
        let old = entry.newest();
        if old.seq == self.seq {
            // This commit has already written the entry. The version that it replaced is stored,
            // and no reader has seen the version that it wrote.
            entry.replace(new);
            return;
        }
        let old = Version { word: old.word.settled(), ..old };
        if let Some(slot) = mvcc.undo.set(self.seq, entry.id(), &old) {
            self.touch(pointer, ReplacedPlace::InUndoSlot(old, slot));
        } else {
            entry.older_versions().push(&old, self.seq, guard);
            self.kept.added += 1;
            self.touch(pointer, ReplacedPlace::InChain(old));
        }
        entry.replace(new);
    }

    /// Records an entry that this commit has added.
    pub(crate) fn added(&mut self, pointer: P) {
        self.touch(pointer, ReplacedPlace::None);
    }

    #[inline]
    fn touch(&mut self, pointer: P, old: ReplacedPlace) {
        let touched = WrittenEntry { pointer, old };
        if self.first.is_none() {
            self.first = Some(touched);
        } else {
            self.rest.push(touched);
        }
    }

    /// The number of written entries.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Makes the commit visible, keeps the old versions that a snapshot needs, and drops the
    /// others. `retained` is called with each kept version.
    #[inline]
    pub(crate) fn publish(
        mut self,
        mvcc: &MvccState,
        live: &mut LiveSnapshots,
        guard: &Guard,
        mut retained: impl FnMut(RetainedVersion<P>, &LiveSnapshots),
    ) -> ChainChange {
        if planted("settled_before_published") {
            self.first.iter().chain(&self.rest).for_each(|touched| touched.pointer.entry().settle());
        }
        mvcc.visible.store(self.seq, Ordering::Release);
        live.refresh(&mvcc.registry);
        for touched in self.first.iter().chain(&self.rest) {
            if let Some(seq) = settle_old(touched, self.seq, live, guard, &mut self.kept) {
                retained(RetainedVersion { pointer: touched.pointer, seq, until: self.seq }, live);
            }
        }
        for touched in self.first.iter().chain(&self.rest) {
            if let ReplacedPlace::InUndoSlot(_, slot) = touched.old {
                mvcc.undo.clear(slot);
            }
            touched.pointer.entry().settle();
        }
        self.kept
    }
}

/// Retains the version that `touched` has replaced, and returns its seq, if a snapshot needs it.
/// Otherwise drops it.
fn settle_old<P: EntryPointer>(
    touched: &WrittenEntry<P>,
    seq: u64,
    live: &LiveSnapshots,
    guard: &Guard,
    kept: &mut ChainChange,
) -> Option<u64> {
    let older = touched.pointer.entry().older_versions();
    match touched.old {
        ReplacedPlace::None => None,
        ReplacedPlace::InUndoSlot(old, _) if live.needs(old.seq, seq) && !planted("retention_missed") => {
            older.push(&old, seq, guard);
            kept.added += 1;
            Some(old.seq)
        }
        ReplacedPlace::InUndoSlot(..) => None,
        ReplacedPlace::InChain(old) if live.needs(old.seq, seq) => Some(old.seq),
        ReplacedPlace::InChain(_) => {
            kept.dropped += older.trim(live, guard);
            None
        }
    }
}
