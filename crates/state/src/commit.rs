//! One commit: apply changes, then publish.

use std::fmt;
use std::marker::PhantomData;

use hightower_index::{EntryRef, Guard};

use crate::change::{Applied, Change, Replaced};
use crate::counters::Delta;
use crate::entry::IndexEntry;
use crate::in_flight::{EntryPointer, InFlightCommit};
use crate::inner::{StateInner, WriterState};
use crate::location::Location;
use crate::mutants::planted;
use crate::outcome::ApplyOutcome;
use crate::version::Version;

/// Number of old versions that a commit examines for reclaiming, besides two per written key. This
/// is more than a commit can add, so the queue shrinks; it is small, so no commit pays for a
/// backlog.
const RECLAIM_LEN: usize = 4;

/// An open commit. Readers see it only after it is published, and then completely.
///
/// Dropping it also publishes it, because the caller's log already has the applied changes.
pub struct Commit<'w, 'g, L> {
    state: &'w mut WriterState,
    inner: &'w StateInner,
    guard: &'g Guard,
    /// `None` after it is published.
    flight: Option<InFlightCommit<EntryRef<'g, IndexEntry>>>,
    delta: Delta,
    location: PhantomData<fn(L) -> L>,
}

impl EntryPointer for EntryRef<'_, IndexEntry> {
    fn entry(&self) -> &IndexEntry {
        self.value()
    }
}

impl<'w, 'g, L: Location> Commit<'w, 'g, L> {
    pub(crate) fn new(state: &'w mut WriterState, inner: &'w StateInner, seq: u64, guard: &'g Guard) -> Self {
        let flight = Some(InFlightCommit::new(seq));
        Self { state, inner, guard, flight, delta: Delta::default(), location: PhantomData }
    }

    /// Applies one change. A key may occur more than once; each change applies to the result of the
    /// previous ones.
    ///
    /// Costs one probe of the index for an overwrite, and an insertion for a new key.
    pub fn apply(&mut self, change: &Change<'_, L>) -> Applied<L>
    where
        'w: 'g,
    {
        let Some(flight) = &mut self.flight else { return Applied::STALE };
        let new = pending(change, flight.seq());
        let (inner, guard, delta) = (self.inner, self.guard, &mut self.delta);
        self.state.index.upsert(
            change.key,
            inner.map(guard),
            guard,
            || IndexEntry::new(&new),
            |entry, is_new| {
                let old = (!is_new).then(|| entry.value().newest());
                let outcome = ApplyOutcome::decide(old.map(|old| old.version), change.version, change.kind);
                if !outcome.changed() {
                    return Applied::STALE;
                }
                if is_new {
                    flight.added(entry);
                } else {
                    flight.overwrite(&inner.mvcc, entry, &new, guard);
                }
                delta.add(new.word, new.version);
                if let Some(old) = &old {
                    delta.remove(old.word);
                }
                Applied { outcome, replaced: old.as_ref().map(Replaced::new) }
            },
        )
    }

    /// Makes the commit visible, atomically.
    pub fn publish(mut self) {
        self.finish();
    }
}

impl<L> Commit<'_, '_, L> {
    #[inline]
    fn finish(&mut self) {
        let Some(flight) = self.flight.take() else { return };
        let WriterState { live, gc_queue, .. } = &mut *self.state;
        let budget = 2 * flight.len() + RECLAIM_LEN;
        self.inner.count(&self.delta, self.guard);
        let kept = flight.publish(&self.inner.mvcc, live, self.guard, |version, live| {
            gc_queue.push(version.pointer.key(), version.seq, version.until, live);
        });
        self.state.account(kept);
        self.state.reclaim(self.inner.map(self.guard), budget, self.guard);
    }
}

fn pending<L: Location>(change: &Change<'_, L>, seq: u64) -> Version {
    let new = change.version_at(seq);
    if planted("never_pending") { new } else { Version { word: new.word.pending(), ..new } }
}

impl<L> Drop for Commit<'_, '_, L> {
    fn drop(&mut self) {
        self.finish();
    }
}

impl<L> fmt::Debug for Commit<'_, '_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit").field("seq", &self.flight.as_ref().map(InFlightCommit::seq)).finish_non_exhaustive()
    }
}
