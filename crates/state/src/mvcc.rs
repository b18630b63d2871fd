//! The visibility of commits: the newest published seq, the live snapshots and the undo slots.

use std::time::Duration;

use crate::entry::{IndexEntry, LatestVersion};
use crate::snapshot_registry::{SnapshotRegistry, SnapshotTicket};
use crate::sync::{AtomicU64, Guard};
use crate::undo::UndoSlots;
use crate::version::Version;

/// The shared state of readers and the writer besides the entries.
#[derive(Debug)]
pub(crate) struct MvccState {
    /// The newest published commit.
    pub(crate) visible: AtomicU64,
    pub(crate) registry: SnapshotRegistry,
    pub(crate) undo: UndoSlots,
}

impl MvccState {
    pub(crate) fn new() -> Self {
        Self { visible: AtomicU64::new(0), registry: SnapshotRegistry::new(), undo: UndoSlots::new() }
    }

    /// Takes a snapshot of the newest published commit; the caller must return its ticket to the
    /// registry.
    pub(crate) fn snapshot(&self, now: Duration) -> (SnapshotTicket, u64) {
        self.registry.register(&self.visible, now)
    }

    /// The version of an entry as of a snapshot's seq, tombstones included.
    pub(crate) fn at(&self, entry: &IndexEntry, seq: u64, guard: &Guard) -> Option<Version> {
        entry.at(seq, &self.undo, guard)
    }

    /// The latest published version of an entry, tombstones included. If a commit is in flight in
    /// this entry, the read takes a snapshot.
    pub(crate) fn latest(
        &self,
        entry: &IndexEntry,
        guard: &Guard,
        now: impl FnOnce() -> Duration,
    ) -> Option<LatestVersion> {
        if let Some(latest) = entry.latest() {
            return Some(latest);
        }
        let (ticket, seq) = self.snapshot(now());
        let found = self.at(entry, seq, guard);
        self.registry.release(&ticket);
        found.map(|found| LatestVersion { word: found.word, version: found.version })
    }
}
