//! A consistent view as of one seq.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::Arc;

use hightower_index::{Guard, pin};

use crate::change::{EntryRecord, Versioned};
use crate::inner::{SnapshotRegistration, StateInner};
use crate::location::Location;
use crate::range::{EntryRange, StateRange};
use crate::range_scan::{OneMemtable, RangeScan};

/// A consistent view of a [`ConcurrentKvState`](crate::ConcurrentKvState) as of one commit.
///
/// Taking it never waits, and its cost does not depend on the number of keys. While it lives, the
/// state keeps the versions that it reads: at most one old version per overwritten key. A clone is
/// the same view and keeps nothing more.
///
/// ```
/// use hightower_state::ConcurrentKvState;
///
/// # fn main() -> Result<(), hightower_state::StateError> {
/// let state = ConcurrentKvState::<u32>::new();
/// state.set(b"a", 1, 10)?;
/// let snapshot = state.snapshot();
/// state.delete(b"a", 2, 0)?;
///
/// let reader = std::thread::spawn(move || snapshot.get(b"a").map(|found| found.location));
/// assert_eq!(reader.join().unwrap(), Some(10));
/// # Ok(())
/// # }
/// ```
pub struct StateSnapshot<L> {
    registration: Arc<SnapshotRegistration>,
    location: PhantomData<fn(L) -> L>,
}

impl<L: Location> StateSnapshot<L> {
    pub(crate) fn new(inner: &Arc<StateInner>) -> Self {
        Self { registration: Arc::new(SnapshotRegistration::new(inner)), location: PhantomData }
    }

    /// The seq at which this snapshot reads.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.registration.seq
    }

    /// The location and version of an existing key.
    ///
    /// If locations are reused or retired, read with [`get_pinned`](Self::get_pinned) and use the
    /// location under the guard.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Versioned<L>> {
        self.get_pinned(key, &pin())
    }

    /// The location and version of an existing key. The location stays good while the guard
    /// lives.
    #[must_use]
    pub fn get_pinned(&self, key: &[u8], guard: &Guard) -> Option<Versioned<L>> {
        self.entry_pinned(key, guard)?.found()
    }

    /// Like [`get_pinned`](Self::get_pinned). Calls `hinted` as
    /// [`ConcurrentKvState::get_hinted`](crate::ConcurrentKvState::get_hinted) does, with the hint
    /// of the latest location.
    #[must_use]
    #[inline]
    pub fn get_hinted(&self, key: &[u8], guard: &Guard, hinted: impl FnMut(u32)) -> Option<Versioned<L>> {
        let inner = &self.registration.inner;
        let entry = self.registration.view.active.map.get_hinted(key, guard, hinted)?;
        EntryRecord::new(&inner.mvcc.at(entry, self.seq(), guard)?).found()
    }

    /// The entry of a key, tombstones included. The location stays valid while the guard lives.
    #[must_use]
    pub fn entry_pinned(&self, key: &[u8], guard: &Guard) -> Option<EntryRecord<L>> {
        let inner = &self.registration.inner;
        let entry = self.registration.view.active.map.get(key, guard)?;
        Some(EntryRecord::new(&inner.mvcc.at(entry, self.seq(), guard)?))
    }

    /// Looks up several keys, overlapping their cache misses. Calls `each` with the position of
    /// each key and the result of [`get_pinned`](Self::get_pinned) for it.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        guard: &Guard,
        mut each: impl FnMut(usize, Option<Versioned<L>>),
    ) {
        let inner = &self.registration.inner;
        self.registration.view.active.map.get_many(keys, guard, |at, entry| {
            let version = entry.and_then(|entry| inner.mvcc.at(entry.value(), self.seq(), guard));
            each(at, version.and_then(|version| EntryRecord::new(&version).found()));
        });
    }

    /// The existing keys between two bounds, in order, from either end. The iterator owns a clone
    /// of the snapshot.
    ///
    /// ```
    /// use std::ops::Bound;
    /// use hightower_state::ConcurrentKvState;
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::<u32>::new();
    /// for (key, location) in [(b"a", 1), (b"b", 2), (b"c", 3)] {
    ///     state.set(key, 1, location)?;
    /// }
    /// let range = state.snapshot().range(Bound::Excluded(b"a"), Bound::Unbounded);
    /// let backwards: Vec<_> = range.rev().map(|(key, found)| (key, found.location)).collect();
    /// assert_eq!(backwards, [(b"c".to_vec(), 3), (b"b".to_vec(), 2)]);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> StateRange<L> {
        StateRange::new(RangeScan::new(OneMemtable::Active, Arc::clone(&self.registration), from, to))
    }

    /// The existing keys that begin with `prefix`, in order, from either end.
    #[must_use]
    pub fn prefix(&self, prefix: &[u8]) -> StateRange<L> {
        StateRange::new(RangeScan::of_prefix(OneMemtable::Active, Arc::clone(&self.registration), prefix))
    }

    /// Every entry between two bounds, tombstones included: the content of a table.
    #[must_use]
    pub fn entries(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> EntryRange<L> {
        EntryRange::new(RangeScan::new(OneMemtable::Active, Arc::clone(&self.registration), from, to))
    }
}

impl<L> Clone for StateSnapshot<L> {
    fn clone(&self) -> Self {
        Self { registration: Arc::clone(&self.registration), location: PhantomData }
    }
}

impl<L> fmt::Debug for StateSnapshot<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateSnapshot").field("seq", &self.registration.seq).finish_non_exhaustive()
    }
}
