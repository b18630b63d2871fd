//! Ranges over all levels.

use std::fmt;
use std::iter::FusedIterator;
use std::ops::ControlFlow;

use hightower_index::{Guard, pin};
use hightower_table::TableError;

use crate::change::EntryRecord;
use crate::levels::merged_scan::AllLevels;
use crate::location::Location;
use crate::range_scan::{EntryInPlace, RangeEnd, RangeScan, Visited};

/// Keys at a snapshot, in key order, from either end, over all levels. Works like
/// [`StateRange`](crate::StateRange), and is as fast while the active memtable is the only level.
/// An error ends it.
///
/// ```
/// use hightower_state::{Change, CommandKind, LeveledKvState, pin};
///
/// let state = LeveledKvState::<u32>::new();
/// let guard = pin();
/// let mut writer = state.writer();
/// for (seq, key) in [(1, b"a"), (2, b"b")] {
///     let mut commit = writer.begin(seq, &guard)?;
///     commit.apply(&Change { key, version: seq, kind: CommandKind::Set, location: 7, len_bytes: 0 });
/// }
/// drop(writer);
/// let keys = state.snapshot().prefix(b"").rev().map(|found| found.map(|(key, _)| key));
/// assert_eq!(keys.collect::<Result<Vec<_>, _>>().unwrap(), [b"b", b"a"]);
/// # Ok::<(), hightower_state::StateError>(())
/// ```
pub struct LeveledRange<L> {
    scan: RangeScan<L, AllLevels<L>>,
}

impl<L: Location> LeveledRange<L> {
    pub(crate) fn new(scan: RangeScan<L, AllLevels<L>>) -> Self {
        Self { scan }
    }

    /// The next key from the front. Calls `ahead` with each location some items before returning
    /// it. The location stays good while the guard lives.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    #[inline]
    pub fn next_pinned(&mut self, guard: &Guard, ahead: impl Fn(L)) -> Result<Option<EntryInPlace<'_, L>>, TableError> {
        self.scan.next(RangeEnd::Front, guard, ahead)
    }

    /// Like [`next_pinned`](Self::next_pinned), from the back.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    #[inline]
    pub fn next_back_pinned(
        &mut self,
        guard: &Guard,
        ahead: impl Fn(L),
    ) -> Result<Option<EntryInPlace<'_, L>>, TableError> {
        self.scan.next(RangeEnd::Back, guard, ahead)
    }

    /// Calls `visit` with keys and entries from the front, as
    /// [`StateRange::visit_pinned`](crate::StateRange::visit_pinned) does.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    pub fn visit_pinned(
        &mut self,
        limit: usize,
        guard: &Guard,
        ahead: impl Fn(L),
        visit: impl FnMut(&[u8], EntryRecord<L>) -> ControlFlow<()>,
    ) -> Result<Visited, TableError> {
        self.scan.visit(limit, guard, ahead, visit)
    }

    /// Skips every key up to and including `key`.
    pub fn skip_to_after(&mut self, key: &[u8]) {
        self.scan.skip_to_after(key);
    }

    /// Ends the range before `key`.
    pub fn stop_before(&mut self, key: &[u8]) {
        self.scan.stop_before(key);
    }

    /// The seq that the range is read at.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.scan.seq()
    }
}

fn owned<L>((key, record): EntryInPlace<'_, L>) -> (Vec<u8>, EntryRecord<L>) {
    (key.to_vec(), record)
}

impl<L: Location> Iterator for LeveledRange<L> {
    type Item = Result<(Vec<u8>, EntryRecord<L>), TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_pinned(&pin(), |_| {}).map(|next| next.map(owned)).transpose()
    }
}

impl<L: Location> DoubleEndedIterator for LeveledRange<L> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.next_back_pinned(&pin(), |_| {}).map(|next| next.map(owned)).transpose()
    }
}

impl<L: Location> FusedIterator for LeveledRange<L> {}

impl<L> fmt::Debug for LeveledRange<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeveledRange").finish_non_exhaustive()
    }
}
