//! The iterators: over live keys, or over all entries including tombstones.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::ControlFlow;

use hightower_index::{Guard, pin};

use crate::change::{EntryRecord, Versioned};
use crate::location::Location;
use crate::outcome::CommandKind;
use crate::range_scan::{OneMemtable, RangeEnd, RangeScan, Visited};

/// Live keys at a snapshot, in key order, from either end.
///
/// It owns its snapshot: it can be stored, sent to another thread, and outlive the state's handles.
/// It reads in batches and holds no guard in between, so a slow reader does not delay the freeing
/// of memory.
///
/// As an [`Iterator`] it allocates each key. [`next_pinned`](Self::next_pinned) borrows the key
/// instead, and its locations stay valid under the caller's guard.
pub struct StateRange<L> {
    scan: RangeScan<L, OneMemtable>,
}

/// All keys at a snapshot, tombstones included, in key order, from either end. Otherwise like
/// [`StateRange`].
pub struct EntryRange<L> {
    scan: RangeScan<L, OneMemtable>,
}

impl<L: Location> StateRange<L> {
    pub(crate) fn new(scan: RangeScan<L, OneMemtable>) -> Self {
        Self { scan: scan.live_only() }
    }

    /// The next key from the front. The location stays good while the guard lives.
    ///
    /// ```
    /// use hightower_state::{ConcurrentKvState, pin};
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::<u32>::new();
    /// state.set(b"a", 1, 10)?;
    /// let mut range = state.prefix(b"");
    /// let guard = pin();
    /// while let Some((key, found)) = range.next_pinned(&guard) {
    ///     assert_eq!((key, found.location), (&b"a"[..], 10));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn next_pinned(&mut self, guard: &Guard) -> Option<(&[u8], Versioned<L>)> {
        self.next_pinned_with(guard, |_| {})
    }

    /// Like [`next_pinned`](Self::next_pinned). Also calls `ahead` with each location some items
    /// before returning it, so that the caller can prefetch the record.
    pub fn next_pinned_with(&mut self, guard: &Guard, ahead: impl Fn(L)) -> Option<(&[u8], Versioned<L>)> {
        let Ok(next) = self.scan.next(RangeEnd::Front, guard, ahead);
        next.map(live)
    }

    /// The next key from the back. The location stays good while the guard lives.
    pub fn next_back_pinned(&mut self, guard: &Guard) -> Option<(&[u8], Versioned<L>)> {
        self.next_back_pinned_with(guard, |_| {})
    }

    /// Like [`next_back_pinned`](Self::next_back_pinned), with the `ahead` of
    /// [`next_pinned_with`](Self::next_pinned_with).
    pub fn next_back_pinned_with(&mut self, guard: &Guard, ahead: impl Fn(L)) -> Option<(&[u8], Versioned<L>)> {
        let Ok(next) = self.scan.next(RangeEnd::Back, guard, ahead);
        next.map(live)
    }

    /// Calls `visit` with keys and locations from the front, until it breaks or has examined
    /// `limit` entries, including tombstones and keys that the snapshot does not see. Calls `ahead`
    /// with locations that will be needed soon.
    ///
    /// This is the fastest iteration over many keys, without copies. The guard delays the freeing
    /// of all memory, so take a new one after some hundred entries.
    ///
    /// ```
    /// use std::ops::ControlFlow;
    /// use hightower_state::{ConcurrentKvState, Visited, pin};
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::<u32>::new();
    /// state.set(b"a", 1, 10)?;
    /// state.set(b"b", 2, 20)?;
    /// let (mut range, mut sum) = (state.prefix(b""), 0);
    /// let visited = range.visit_pinned(100, &pin(), |_| {}, |_key, found| {
    ///     sum += found.location;
    ///     ControlFlow::Continue(())
    /// });
    /// assert_eq!((visited, sum), (Visited::All, 30));
    /// # Ok(())
    /// # }
    /// ```
    pub fn visit_pinned(
        &mut self,
        limit: usize,
        guard: &Guard,
        ahead: impl Fn(L),
        mut visit: impl FnMut(&[u8], Versioned<L>) -> ControlFlow<()>,
    ) -> Visited {
        let Ok(visited) = self.scan.visit(limit, guard, ahead, |key, record| {
            let (key, found) = live((key, record));
            visit(key, found)
        });
        visited
    }

    /// Skips every key up to and including `key`.
    ///
    /// ```
    /// use hightower_state::ConcurrentKvState;
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::<u32>::new();
    /// state.set(b"a", 1, 10)?;
    /// state.set(b"b", 2, 20)?;
    /// let mut range = state.prefix(b"");
    /// range.skip_to_after(b"a");
    /// assert_eq!(range.next().map(|(key, _)| key), Some(b"b".to_vec()));
    /// # Ok(())
    /// # }
    /// ```
    pub fn skip_to_after(&mut self, key: &[u8]) {
        self.scan.skip_to_after(key);
    }

    /// Ends the range before `key`.
    ///
    /// ```
    /// use hightower_state::ConcurrentKvState;
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::<u32>::new();
    /// state.set(b"a", 1, 10)?;
    /// state.set(b"b", 2, 20)?;
    /// let mut range = state.prefix(b"");
    /// range.stop_before(b"b");
    /// assert_eq!(range.count(), 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn stop_before(&mut self, key: &[u8]) {
        self.scan.stop_before(key);
    }

    /// The seq that the range is read at.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.scan.seq()
    }
}

fn live<L>((key, record): (&[u8], EntryRecord<L>)) -> (&[u8], Versioned<L>) {
    debug_assert!(record.kind == CommandKind::Set, "the walk passes over tombstones");
    (key, Versioned { location: record.location, version: record.version })
}

impl<L: Location> Iterator for StateRange<L> {
    type Item = (Vec<u8>, Versioned<L>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, found) = self.next_pinned(&pin())?;
        Some((key.to_vec(), found))
    }
}

impl<L: Location> DoubleEndedIterator for StateRange<L> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let (key, found) = self.next_back_pinned(&pin())?;
        Some((key.to_vec(), found))
    }
}

/// A range that has ended stays ended: its two ends only move towards each other.
impl<L: Location> FusedIterator for StateRange<L> {}

impl<L: Location> FusedIterator for EntryRange<L> {}

impl<L: Location> EntryRange<L> {
    pub(crate) fn new(scan: RangeScan<L, OneMemtable>) -> Self {
        Self { scan }
    }

    /// The next key from the front. The location stays good while the guard lives.
    pub fn next_pinned(&mut self, guard: &Guard) -> Option<(&[u8], EntryRecord<L>)> {
        let Ok(next) = self.scan.next(RangeEnd::Front, guard, |_| {});
        next
    }

    /// The next key from the back. The location stays good while the guard lives.
    pub fn next_back_pinned(&mut self, guard: &Guard) -> Option<(&[u8], EntryRecord<L>)> {
        let Ok(next) = self.scan.next(RangeEnd::Back, guard, |_| {});
        next
    }

    /// Calls `visit` with the entries from the front, until it breaks or has examined `limit`
    /// entries: see [`StateRange::visit_pinned`].
    pub fn visit_pinned(
        &mut self,
        limit: usize,
        guard: &Guard,
        ahead: impl Fn(L),
        visit: impl FnMut(&[u8], EntryRecord<L>) -> ControlFlow<()>,
    ) -> Visited {
        let Ok(visited) = self.scan.visit(limit, guard, ahead, visit);
        visited
    }
}

impl<L: Location> Iterator for EntryRange<L> {
    type Item = (Vec<u8>, EntryRecord<L>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, record) = self.next_pinned(&pin())?;
        Some((key.to_vec(), record))
    }
}

impl<L: Location> DoubleEndedIterator for EntryRange<L> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let (key, record) = self.next_back_pinned(&pin())?;
        Some((key.to_vec(), record))
    }
}

impl<L> fmt::Debug for StateRange<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateRange").finish_non_exhaustive()
    }
}

impl<L> fmt::Debug for EntryRange<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryRange").finish_non_exhaustive()
    }
}
