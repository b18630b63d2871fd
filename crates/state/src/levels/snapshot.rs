//! Snapshots over all levels.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::Arc;

use hightower_index::Guard;
use hightower_table::TableError;

use crate::change::EntryRecord;
use crate::changes::ChangeSince;
use crate::inner::{SnapshotRegistration, StateInner};
use crate::levels::lookup::{Lookup, TableSearch};
use crate::levels::merged_scan::AllLevels;
use crate::levels::pointer::record_of;
use crate::levels::range::LeveledRange;
use crate::location::Location;
use crate::mutants::planted;
use crate::range_scan::RangeScan;
use crate::version::Version;

/// A consistent view of a [`LeveledKvState`](crate::LeveledKvState) as of one commit: like
/// [`StateSnapshot`](crate::StateSnapshot), over all levels.
///
/// It holds all levels of its moment, including memtables and tables that have since been flushed
/// or merged. It also holds the set of segments that they point into; these must stay readable.
///
/// ```
/// use hightower_state::{Change, CommandKind, LeveledKvState, Lookup, pin};
///
/// let state = LeveledKvState::<u32>::new();
/// let guard = pin();
/// let set = |seq, location| {
///     let mut writer = state.writer();
///     let mut commit = writer.begin(seq, &guard)?;
///     commit.apply(&Change { key: b"a", version: seq, kind: CommandKind::Set, location, len_bytes: 0 });
///     Ok::<(), hightower_state::StateError>(())
/// };
/// set(1, 10)?;
/// let before = state.snapshot();
/// state.writer().freeze(state.spare_memtable(), &guard);
/// set(2, 20)?;
/// let Lookup::Found(found) = before.get(b"a", &guard) else { panic!("the key is in a memtable") };
/// assert_eq!((before.seq(), found.location), (1, 10));
/// # Ok::<(), hightower_state::StateError>(())
/// ```
pub struct LeveledSnapshot<L> {
    registration: Arc<SnapshotRegistration>,
    location: PhantomData<fn(L) -> L>,
}

impl<L: Location> LeveledSnapshot<L> {
    pub(crate) fn new(inner: &Arc<StateInner>) -> Self {
        Self { registration: Arc::new(SnapshotRegistration::new(inner)), location: PhantomData }
    }

    /// The seq at which it reads.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.registration.seq
    }

    /// The version of a key as of the snapshot. Example: [`LeveledSnapshot`].
    #[must_use]
    pub fn get<'a>(&'a self, key: &'a [u8], guard: &'a Guard) -> Lookup<'a, L> {
        self.get_hinted(key, guard, |_| {})
    }

    /// Like [`get`](Self::get). Calls `hinted` as
    /// [`ConcurrentKvState::get_hinted`](crate::ConcurrentKvState::get_hinted) does, with the hint
    /// of the latest location.
    #[inline]
    pub fn get_hinted<'a>(&'a self, key: &'a [u8], guard: &'a Guard, hinted: impl FnMut(u32)) -> Lookup<'a, L> {
        let SnapshotRegistration { inner, view, seq, .. } = &*self.registration;
        let entry = view.active.map.get_hinted(key, guard, hinted);
        let version = entry.and_then(|entry| inner.mvcc.at(entry, *seq, guard));
        let version = version.or_else(|| self.frozen_version(key, guard));
        Lookup::new(version.map(|version| (version.word, version.version)), || self.search(key, guard))
    }

    /// Looks up several keys, overlapping their cache misses in the active memtable.
    pub fn get_many<'a, K: AsRef<[u8]>>(
        &'a self,
        keys: &'a [K],
        guard: &'a Guard,
        mut each: impl FnMut(usize, Lookup<'a, L>),
    ) {
        let SnapshotRegistration { inner, view, seq, .. } = &*self.registration;
        view.active.map.get_many(keys, guard, |at, entry| {
            let Some(key) = keys.get(at).map(AsRef::as_ref) else { return };
            let version = entry.and_then(|entry| inner.mvcc.at(entry.value(), *seq, guard));
            let version = version.or_else(|| self.frozen_version(key, guard));
            each(at, Lookup::new(version.map(|version| (version.word, version.version)), || self.search(key, guard)));
        });
    }

    /// The entry of a key, tombstones included, found without reading a record: like
    /// [`LeveledKvState::entry`](crate::LeveledKvState::entry).
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    pub fn entry(&self, key: &[u8], guard: &Guard) -> Result<Option<EntryRecord<L>>, TableError> {
        let SnapshotRegistration { inner, view, seq, .. } = &*self.registration;
        let active = view.active.get(key, guard).and_then(|entry| inner.mvcc.at(entry, *seq, guard));
        if let Some(version) = active.or_else(|| self.frozen_version(key, guard)) {
            return Ok(Some(EntryRecord::new(&version)));
        }
        let below = self.search(key, guard).map(|search| search.entry()).transpose()?.flatten();
        Ok(below.and_then(|entry| record_of(&entry)))
    }

    /// The first key of a range whose value in a later snapshot is another one: never
    /// [`ChangeSince::Forgotten`]. Costs a walk over the range in both.
    ///
    /// Equal versions are equal values, because the tombstones that are newer than a snapshot stay
    /// while it lives.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    ///
    /// ```
    /// use std::ops::Bound::Unbounded;
    /// use hightower_state::{Change, ChangeSince, CommandKind, LeveledKvState, pin};
    ///
    /// let state = LeveledKvState::<u32>::new();
    /// let before = state.snapshot();
    /// let change = Change { key: b"a", version: 7, kind: CommandKind::Set, location: 64, len_bytes: 0 };
    /// state.writer().begin(1, &pin())?.apply(&change);
    /// let difference = before.first_difference(&state.snapshot(), Unbounded, Unbounded);
    /// assert_eq!(difference.unwrap(), ChangeSince::Changed { key: b"a".to_vec(), version: Some(7) });
    /// # Ok::<(), hightower_state::StateError>(())
    /// ```
    pub fn first_difference(
        &self,
        later: &Self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> Result<ChangeSince, TableError> {
        let (mut before, mut after) = (self.range(from, to), later.range(from, to));
        loop {
            let (before, after) = (before.next().transpose()?, after.next().transpose()?);
            let (key, version) = match (before, after) {
                (None, None) => return Ok(ChangeSince::None),
                (Some((old, _)), None) => (old, None),
                (Some((old, _)), Some((new, _))) if old < new => (old, None),
                (Some((old, before)), Some((new, after))) if old == new && before.version == after.version => continue,
                (_, Some((new, after))) => (new, Some(after.version)),
            };
            return Ok(ChangeSince::Changed { key, version });
        }
    }

    fn frozen_version(&self, key: &[u8], guard: &Guard) -> Option<Version> {
        let SnapshotRegistration { inner, view, seq, .. } = &*self.registration;
        view.frozen().iter().find_map(|memtable| inner.mvcc.at(memtable.get(key, guard)?, *seq, guard))
    }

    fn search<'a>(&'a self, key: &'a [u8], guard: &'a Guard) -> Option<TableSearch<'a>> {
        let search = TableSearch::new(&self.registration.view, key)?;
        if planted("levels_segments_of_another_view") {
            return Some(search.with_segments_of(self.registration.inner.view(guard)));
        }
        Some(search)
    }

    /// The existing keys between two bounds, in order, from either end. The iterator owns a clone
    /// of the snapshot. Example: [`LeveledRange`].
    #[must_use]
    pub fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> LeveledRange<L> {
        LeveledRange::new(self.scan(from, to).live_only())
    }

    /// The existing keys that begin with `prefix`, in order, from either end.
    #[must_use]
    pub fn prefix(&self, prefix: &[u8]) -> LeveledRange<L> {
        let scan = RangeScan::of_prefix(AllLevels::default(), Arc::clone(&self.registration), prefix);
        LeveledRange::new(scan.live_only())
    }

    /// Every entry between two bounds, tombstones included.
    #[must_use]
    pub fn entries(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> LeveledRange<L> {
        LeveledRange::new(self.scan(from, to))
    }

    fn scan(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> RangeScan<L, AllLevels<L>> {
        RangeScan::new(AllLevels::default(), Arc::clone(&self.registration), from, to)
    }
}

impl<L> Clone for LeveledSnapshot<L> {
    fn clone(&self) -> Self {
        Self { registration: Arc::clone(&self.registration), location: PhantomData }
    }
}

impl<L> fmt::Debug for LeveledSnapshot<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeveledSnapshot").field("seq", &self.registration.seq).finish_non_exhaustive()
    }
}
