//! One commit on its way: from its first overwrite to the moment after it is published.
//!
//! This is the writer's half of the protocols whose other halves are in [`entry`](crate::entry), [`undo`](crate::undo) and
//! [`registry`](crate::registry). The writer and the models of the model checker run the same code.

use std::time::Duration;

use crate::entry::{Entry, Latest};
use crate::mutants::planted;
use crate::registry::{Live, Registry, Ticket};
use crate::sync::{AtomicU64, Guard, Ordering};
use crate::undo::{SlotNumber, Undo};
use crate::version::Version;

/// What readers and the writer agree on besides the entries.
#[derive(Debug)]
pub(crate) struct Timeline {
    /// The newest published commit.
    pub(crate) visible: AtomicU64,
    pub(crate) registry: Registry,
    pub(crate) undo: Undo,
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Self { visible: AtomicU64::new(0), registry: Registry::new(), undo: Undo::new() }
    }

    /// Takes a snapshot of the newest published commit; its ticket has to go back to the registry.
    pub(crate) fn snapshot(&self, now: Duration) -> (Ticket, u64) {
        self.registry.register(&self.visible, now)
    }

    /// The version of an entry as of a snapshot's seq, tombstones included.
    pub(crate) fn at(&self, entry: &Entry, seq: u64, guard: &Guard) -> Option<Version> {
        entry.at(seq, &self.undo, guard)
    }

    /// The latest published version of an entry, tombstones included. If a commit is in flight right there, this takes a snapshot for
    /// the time of the read.
    pub(crate) fn latest(&self, entry: &Entry, guard: &Guard, now: impl FnOnce() -> Duration) -> Option<Latest> {
        if let Some(latest) = entry.latest() {
            return Some(latest);
        }
        let (ticket, seq) = self.snapshot(now());
        let found = self.at(entry, seq, guard);
        self.registry.release(&ticket);
        found.map(|found| Latest { word: found.word, version: found.version })
    }
}

/// A way to an entry that stays valid for as long as the commit is on its way.
pub(crate) trait Reach: Copy {
    fn entry(&self) -> &Entry;
}

/// A commit that has begun and isn't published yet.
#[derive(Debug)]
pub(crate) struct Flight<R> {
    seq: u64,
    /// The entries that were written, the first without an allocation.
    first: Option<Touched<R>>,
    rest: Vec<Touched<R>>,
    kept: Kept,
}

/// How many old versions a commit has added to entries and dropped from them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) added: usize,
    pub(crate) dropped: usize,
}

#[derive(Clone, Copy, Debug)]
struct Touched<R> {
    reach: R,
    old: Old,
}

/// Where the version that was replaced is.
#[derive(Clone, Copy, Debug)]
enum Old {
    /// There was none: the key is new.
    None,
    /// In an undo slot.
    Undone(Version, SlotNumber),
    /// In front of the entry's older versions.
    Kept(Version),
}

/// An old version that some snapshot needs, and that stays in its entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retained<R> {
    pub(crate) reach: R,
    /// The seq of the version.
    pub(crate) seq: u64,
    /// The commit that replaced it.
    pub(crate) until: u64,
}

impl<R: Reach> Flight<R> {
    pub(crate) fn new(seq: u64) -> Self {
        Self { seq, first: None, rest: Vec::new(), kept: Kept::default() }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Overwrites an entry that readers can reach. The word must be pending and the seq the flight's.
    pub(crate) fn overwrite(&mut self, timeline: &Timeline, reach: R, new: &Version, guard: &Guard) {
        let entry = reach.entry();
        let old = entry.newest();
        if old.seq == self.seq {
            // Written by this commit before: what it replaced then is safe, and nobody can have seen what it put there.
            entry.replace(new);
            return;
        }
        let old = Version { word: old.word.settled(), ..old };
        if let Some(slot) = timeline.undo.set(self.seq, entry.id(), &old) {
            self.touch(reach, Old::Undone(old, slot));
        } else {
            entry.older().push(&old, self.seq, guard);
            self.kept.added += 1;
            self.touch(reach, Old::Kept(old));
        }
        entry.replace(new);
    }

    /// Remembers an entry that this commit has added.
    pub(crate) fn added(&mut self, reach: R) {
        self.touch(reach, Old::None);
    }

    fn touch(&mut self, reach: R, old: Old) {
        let touched = Touched { reach, old };
        if self.first.is_none() {
            self.first = Some(touched);
        } else {
            self.rest.push(touched);
        }
    }

    /// How many entries were written.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.rest.len()
    }

    /// Makes the commit visible, keeps the old versions that a snapshot needs, and drops the others. `retained` gets those
    /// that stay.
    pub(crate) fn publish(
        mut self,
        timeline: &Timeline,
        live: &mut Live,
        guard: &Guard,
        mut retained: impl FnMut(Retained<R>, &Live),
    ) -> Kept {
        if planted("settled_before_published") {
            self.first.iter().chain(&self.rest).for_each(|touched| touched.reach.entry().settle());
        }
        timeline.visible.store(self.seq, Ordering::Release);
        live.refresh(&timeline.registry);
        for touched in self.first.iter().chain(&self.rest) {
            if let Some(seq) = settle_old(touched, self.seq, live, guard, &mut self.kept) {
                retained(Retained { reach: touched.reach, seq, until: self.seq }, live);
            }
        }
        for touched in self.first.iter().chain(&self.rest) {
            if let Old::Undone(_, slot) = touched.old {
                timeline.undo.clear(slot);
            }
            touched.reach.entry().settle();
        }
        self.kept
    }
}

/// Keeps what `touched` has replaced if a snapshot needs it, and says its seq then; else lets it go.
fn settle_old<R: Reach>(touched: &Touched<R>, seq: u64, live: &Live, guard: &Guard, kept: &mut Kept) -> Option<u64> {
    let older = touched.reach.entry().older();
    match touched.old {
        Old::None => None,
        Old::Undone(old, _) if live.needs(old.seq, seq) && !planted("retention_missed") => {
            older.push(&old, seq, guard);
            kept.added += 1;
            Some(old.seq)
        }
        Old::Undone(..) => None,
        Old::Kept(old) if live.needs(old.seq, seq) => Some(old.seq),
        Old::Kept(_) => {
            kept.dropped += older.trim(live, guard);
            None
        }
    }
}
