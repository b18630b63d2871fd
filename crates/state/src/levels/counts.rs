//! Counts. They are computed from the levels; a change of a key updates no counts per segment.

use std::collections::BTreeMap;
use std::sync::Arc;

use hightower_index::pin;
use hightower_table::{MergeSource, SegmentCounts, TableError};

use crate::inner::SnapshotRegistration;
use crate::levels::merged_scan::{MemtableSource, whole_merge};
use crate::levels::snapshot::LeveledSnapshot;
use crate::levels::state::LeveledKvState;
use crate::levels::table_list::TableLevel;
use crate::levels::view::{LowerLevels, Memtable, View};
use crate::location::Location;
use crate::mutants::planted;
use crate::range_scan::Visited;

/// Bounds of the number of existing keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCountBounds {
    /// The lower bound.
    pub at_least: u64,
    /// The upper bound.
    pub at_most: u64,
}

/// The levels of a [`LeveledKvState`] at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LevelStats {
    /// The number of existing keys.
    pub keys: KeyCountBounds,
    /// Number of frozen memtables, which wait to become tables.
    pub frozen: usize,
    /// Number of tables.
    pub tables: usize,
    /// The bytes of the active memtable.
    pub active_bytes: usize,
    /// The bytes of the frozen memtables.
    pub frozen_bytes: usize,
    /// The bytes of memtables that have become tables and still take memory: while snapshots and
    /// readers hold them, and until [`LeveledKvState::reclaim`] is called.
    pub held_bytes: usize,
}

impl<L: Location> LeveledKvState<L> {
    /// The number of existing keys. O(1) while all keys are in one level; otherwise it counts the
    /// keys of a snapshot: [`LeveledSnapshot::count`].
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    ///
    /// ```
    /// assert_eq!(hightower_state::LeveledKvState::<u32>::new().len()?, 0);
    /// # Ok::<(), hightower_state::TableError>(())
    /// ```
    pub fn len(&self) -> Result<u64, TableError> {
        let one_level = key_bounds(self.inner().view(&pin()));
        if one_level.at_least == one_level.at_most {
            return Ok(one_level.at_most);
        }
        self.snapshot().count()
    }

    /// Whether no key exists. Looks for the first key only.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    pub fn is_empty(&self) -> Result<bool, TableError> {
        Ok(self.snapshot().prefix(b"").next_pinned(&pin(), |_| {})?.is_none())
    }

    /// For each segment, the number of entries that point into it, their bytes and their
    /// tombstones: the current sum over all levels. The segment's other records are dead. An entry
    /// that a higher level hides counts until the levels are merged.
    ///
    /// Costs a pass over the memtables, some tens of milliseconds per million entries; tables store
    /// their sums.
    ///
    /// ```
    /// use hightower_state::{Change, CommandKind, LeveledKvState, pin};
    ///
    /// let state = LeveledKvState::<u32>::new();
    /// let guard = pin();
    /// let change = Change { key: b"a", version: 1, kind: CommandKind::Set, location: 64, len_bytes: 30 };
    /// state.writer().begin(1, &guard)?.apply(&change);
    /// let counts = state.segment_counts();
    /// assert_eq!((counts[0].segment, counts[0].entries, counts[0].len_bytes), (0, 1, 30));
    /// # Ok::<(), hightower_state::StateError>(())
    /// ```
    #[must_use]
    pub fn segment_counts(&self) -> Vec<SegmentCounts> {
        let snapshot = Arc::new(SnapshotRegistration::new(self.inner()));
        let mut sums = BTreeMap::new();
        for memtable in snapshot.view.memtables() {
            count_entries::<L>(memtable, &snapshot, &mut sums);
        }
        if let Some(lower) = snapshot.view.lower.as_deref() {
            lower.tables.iter().flat_map(|table| existing(lower, table)).for_each(|counts| add(&mut sums, *counts));
        }
        sums.into_values().collect()
    }

    /// For each segment, the number of entries of tables that point into it, their bytes and their
    /// tombstones: [`segment_counts`](Self::segment_counts) without the memtables. Costs a step for
    /// each table and segment.
    #[must_use]
    pub fn table_counts(&self) -> Vec<SegmentCounts> {
        let guard = pin();
        let view = self.inner().view(&guard);
        let mut sums = BTreeMap::new();
        if let Some(lower) = view.lower.as_deref() {
            lower.tables.iter().flat_map(|table| existing(lower, table)).for_each(|counts| add(&mut sums, *counts));
        }
        sums.into_values().collect()
    }

    /// For each segment, the entries that a higher level hides at this moment: they stay hidden, so
    /// their records are dead. Costs a pass over all keys.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    ///
    /// ```
    /// // There is one level.
    /// assert_eq!(hightower_state::LeveledKvState::<u32>::new().hidden_counts()?, []);
    /// # Ok::<(), hightower_state::TableError>(())
    /// ```
    pub fn hidden_counts(&self) -> Result<Vec<SegmentCounts>, TableError> {
        let snapshot = Arc::new(SnapshotRegistration::new(self.inner()));
        let Some(lower) = snapshot.view.lower.as_deref() else { return Ok(Vec::new()) };
        // The entries of all lower levels, minus the visible ones of them.
        let mut hidden = BTreeMap::new();
        for memtable in snapshot.view.frozen() {
            count_entries::<L>(memtable, &snapshot, &mut hidden);
        }
        lower.tables.iter().flat_map(|table| existing(lower, table)).for_each(|counts| add(&mut hidden, *counts));
        // Before the merge, which leaves an empty memtable out: a commit may fill it in between.
        // Then its entries count as visible ones of lower levels, which only hides less.
        let first_lower = usize::from(!snapshot.view.active.map.is_empty());
        let mut merge = whole_merge::<L>(&snapshot)?;
        while merge.advance()? {
            let entry = merge.entry();
            let is_lower = merge.level().is_some_and(|level| level >= first_lower);
            if let Some(sum) = hidden.get_mut(&entry.pointer.segment).filter(|_| is_lower) {
                sum.entries = sum.entries.saturating_sub(1);
                sum.len_bytes = sum.len_bytes.saturating_sub(entry.len_bytes.into());
                sum.tombstones = sum.tombstones.saturating_sub(entry.is_tombstone().into());
            }
        }
        Ok(hidden.into_values().filter(|counts| counts.entries > 0).collect())
    }

    /// Bounds of the number of existing keys, without a pass over them.
    #[must_use]
    pub fn key_bounds(&self) -> KeyCountBounds {
        key_bounds(self.inner().view(&pin()))
    }

    /// The bytes of the memtables of the current view.
    #[must_use]
    pub fn memtable_bytes(&self) -> usize {
        self.inner().view(&pin()).memtables().map(|memtable| memtable.map.memory_bytes()).sum()
    }

    /// The number of tombstones in all levels. Those of different levels may be of one key.
    #[must_use]
    pub fn tombstones(&self) -> u64 {
        let guard = pin();
        let memtables = self.inner().view(&guard).memtables();
        let of_memtables: u64 = memtables.map(|memtable| memtable.counts.tombstones() as u64).sum();
        of_memtables + self.table_counts().iter().map(|counts| counts.tombstones).sum::<u64>()
    }

    /// The sizes of the levels. Takes the writer's lock briefly.
    #[must_use]
    pub fn level_stats(&self) -> LevelStats {
        let mut writer = self.writer();
        let held_bytes = writer.held_bytes();
        let guard = pin();
        let view = self.inner().view(&guard);
        LevelStats {
            keys: key_bounds(view),
            frozen: view.frozen().len(),
            tables: view.tables().len(),
            active_bytes: view.active.map.memory_bytes(),
            frozen_bytes: view.frozen().iter().map(|memtable| memtable.map.memory_bytes()).sum(),
            held_bytes,
        }
    }
}

impl<L: Location> LeveledSnapshot<L> {
    /// The number of existing keys as of the snapshot: a pass over all of them.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    pub fn count(&self) -> Result<u64, TableError> {
        const SLICE: usize = 512;
        let (mut range, mut count) = (self.prefix(b""), 0);
        loop {
            let visited = range.visit_pinned(
                SLICE,
                &pin(),
                |_| {},
                |_, _| {
                    count += 1;
                    std::ops::ControlFlow::Continue(())
                },
            )?;
            if visited != Visited::Some {
                return Ok(count);
            }
        }
    }
}

fn add(sums: &mut BTreeMap<u32, SegmentCounts>, counts: SegmentCounts) {
    let sum =
        sums.entry(counts.segment).or_insert(SegmentCounts { segment: counts.segment, ..SegmentCounts::default() });
    sum.entries += counts.entries;
    sum.len_bytes += counts.len_bytes;
    sum.tombstones += counts.tombstones;
}

/// Adds the entries of a memtable.
fn count_entries<L: Location>(
    memtable: &Memtable,
    snapshot: &Arc<SnapshotRegistration>,
    sums: &mut BTreeMap<u32, SegmentCounts>,
) {
    let mut source = MemtableSource::<L>::whole(memtable.clone(), Arc::clone(snapshot));
    while source.advance() == Ok(true) {
        let entry = source.entry();
        let (segment, tombstones) = (entry.pointer.segment, u64::from(entry.is_tombstone()));
        add(sums, SegmentCounts { segment, entries: 1, len_bytes: entry.len_bytes.into(), tombstones });
    }
}

/// A table's counts for the segments that exist.
fn existing<'a>(lower: &'a LowerLevels, table: &'a TableLevel) -> impl Iterator<Item = &'a SegmentCounts> {
    table.reader.segments().iter().filter(|counts| lower.segments.contains(counts.segment))
}

/// The bounds of the number of existing keys. At most: the live keys of all levels together. At
/// least: the maximum, over all levels, of a level's live keys minus the tombstones above it.
fn key_bounds(view: &View) -> KeyCountBounds {
    let memtables = view.memtables().map(|memtable| {
        let counts = &memtable.counts;
        (counts.live_keys() as u64, counts.tombstones() as u64)
    });
    let tables = view.lower.as_deref().into_iter().flat_map(|lower| {
        lower.tables.iter().map(|table| {
            existing(lower, table).fold((0, 0), |(live, dead), counts| {
                (live + counts.entries - counts.tombstones, dead + counts.tombstones)
            })
        })
    });
    let (mut bounds, mut tombstones_above) = (KeyCountBounds::default(), 0);
    for (live, tombstones) in memtables.chain(tables) {
        bounds.at_most += live;
        let left = if planted("levels_tombstones_uncounted") { live } else { live.saturating_sub(tombstones_above) };
        bounds.at_least = bounds.at_least.max(left);
        tombstones_above += tombstones;
    }
    bounds
}
