//! The writer's lock of a state with levels: commits, freezes and changes of the list of tables.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use hightower_index::{Guard, pin};
use hightower_table::TableReader;

use crate::change::{Applied, Change};
use crate::commit::Commit;
use crate::error::StateError;
use crate::inner::{SnapshotRegistration, StateInner};
use crate::levels::lookup::LookedBelow;
use crate::levels::merged_scan::MemtableSource;
use crate::levels::segment_set::SegmentSet;
use crate::levels::spare::SpareMemtable;
use crate::levels::table_list::TableMark;
use crate::levels::view::{LowerLevels, Memtable};
use crate::location::Location;
use crate::mutants::planted;
use crate::outcome::{ApplyOutcome, CommandKind};
use crate::stats::StateStats;
use crate::sync::Ordering;
use crate::writer::StateWriter;

/// The exclusive right to change a [`LeveledKvState`](crate::LeveledKvState), until it is dropped.
/// It does not affect readers.
///
/// Every change of the levels is one: a reader sees all of it or nothing.
///
/// Example: [`LeveledKvState`](crate::LeveledKvState).
pub struct LeveledWriter<'a, L> {
    writer: StateWriter<'a, L>,
    inner: &'a Arc<StateInner>,
}

/// A memtable that takes no more commits: what a table is written from.
///
/// Example: [`LeveledKvState`](crate::LeveledKvState).
pub struct FrozenMemtable<L> {
    memtable: Memtable,
    inner: Arc<StateInner>,
    last_seq: u64,
    location: PhantomData<fn(L) -> L>,
}

/// The levels have changed since a look-up below the active memtable: look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the levels have changed since the key was looked up below the memtable: look again")]
pub struct ViewChanged;

impl<'a, L: Location> LeveledWriter<'a, L> {
    pub(crate) fn new(writer: StateWriter<'a, L>, inner: &'a Arc<StateInner>) -> Self {
        Self { writer, inner }
    }

    /// The newest version that a key has seen, tombstones included: from the active memtable, or
    /// else what [`look_below`](crate::LeveledKvState::look_below) has found.
    ///
    /// # Errors
    ///
    /// [`ViewChanged`] if the active memtable does not know the key, and the levels have changed
    /// since the look-up.
    pub fn version_of(&self, key: &[u8], below: &LookedBelow) -> Result<Option<u64>, ViewChanged> {
        if let Some(version) = self.writer.version_of(key) {
            return Ok(Some(version));
        }
        if self.inner.view(&pin()).number != below.view && !planted("levels_change_unnoticed") {
            return Err(ViewChanged);
        }
        Ok(below.version)
    }

    /// The outcome of a command, without a change. Example:
    /// [`look_below`](crate::LeveledKvState::look_below).
    ///
    /// # Errors
    ///
    /// Those of [`version_of`](Self::version_of).
    pub fn evaluate(
        &self,
        key: &[u8],
        version: u64,
        kind: CommandKind,
        below: &LookedBelow,
    ) -> Result<ApplyOutcome, ViewChanged> {
        Ok(ApplyOutcome::decide(self.version_of(key, below)?, version, kind))
    }

    /// As [`StateWriter::begin`]. A change that is applied must win against the levels below the
    /// active memtable: its version is above every other, or [`evaluate`](Self::evaluate) says so.
    ///
    /// # Errors
    ///
    /// If `seq` is not above the seq of every earlier commit.
    pub fn begin<'w, 'g>(&'w mut self, seq: u64, guard: &'g Guard) -> Result<Commit<'w, 'g, L>, StateError> {
        self.writer.begin(seq, guard)
    }

    /// As [`StateWriter::replay`]: for changes behind those that the tables have.
    pub fn replay(&mut self, change: &Change<'_, L>) -> Applied<L> {
        self.writer.replay(change)
    }

    /// As [`StateWriter::resume`].
    ///
    /// # Errors
    ///
    /// If `seq` is below the newest seq, or above the highest seq of a commit.
    pub fn resume(&mut self, seq: u64) -> Result<(), StateError> {
        self.writer.resume(seq)
    }

    /// Freezes the active memtable, and goes on with an empty one. `None` if it has no entries.
    pub fn freeze(&mut self, spare: SpareMemtable<L>, guard: &Guard) -> Option<FrozenMemtable<L>> {
        let old = self.inner.view(guard).active.clone();
        if old.map.is_empty() {
            return None;
        }
        // Changes are looked for in the active memtable only.
        self.inner.forgotten_seq.fetch_max(self.inner.visible(), Ordering::SeqCst);
        self.writer.state().replace_index(spare.index);
        let frozen = old.clone();
        self.inner.publish(
            |view| {
                let mut lower = view.lower.as_deref().cloned().unwrap_or_default();
                lower.frozen.insert(0, frozen);
                (view.active, view.lower) = (spare.memtable, Some(Arc::new(lower)));
            },
            guard,
        );
        let last_seq = self.inner.visible();
        Some(FrozenMemtable { memtable: old, inner: Arc::clone(self.inner), last_seq, location: PhantomData })
    }

    /// The topmost table becomes that of a frozen memtable, the lowest one. `None` removes the
    /// memtable alone: nothing of it is needed. `segments` are those that exist for tables from now
    /// on.
    ///
    /// # Errors
    ///
    /// [`StateError::NotLowestMemtable`] or [`StateError::TableIdInUse`]; nothing has changed.
    pub fn install_flushed(
        &mut self,
        frozen: &FrozenMemtable<L>,
        table: Option<Arc<TableReader>>,
        segments: SegmentSet,
    ) -> Result<(), StateError> {
        let guard = pin();
        let is_lowest = self.inner.view(&guard).frozen().last().is_some_and(|last| last.is(&frozen.memtable));
        if !is_lowest && !planted("levels_flush_out_of_order") {
            return Err(StateError::NotLowestMemtable);
        }
        let max_version = table.as_ref().map_or(0, |table| table.max_version());
        if let Some(table) = table {
            self.writer.state().tables.push(table)?;
        }
        self.inner.max_version.raise(max_version);
        self.writer.state().retired.push(frozen.memtable.clone());
        self.publish_tables(Some(&frozen.memtable), Some(segments), &guard);
        Ok(())
    }

    /// A mark above all tables of this moment and below all later ones: the place of the relocation
    /// table of a compaction that begins now. Until it is used or removed, no tables from both
    /// sides of it are replaced.
    #[must_use]
    pub fn mark(&mut self) -> TableMark {
        self.writer.state().tables.mark()
    }

    /// Ends a compaction: its relocation table takes the place of the mark, and `segments` has its
    /// new segments and no longer its victims.
    ///
    /// # Errors
    ///
    /// [`StateError::UnknownMark`] or [`StateError::TableIdInUse`]; nothing has changed.
    pub fn install_relocations(
        &mut self,
        mark: &TableMark,
        table: Option<Arc<TableReader>>,
        segments: SegmentSet,
    ) -> Result<(), StateError> {
        self.writer.state().tables.replace_mark(mark, table)?;
        self.publish_tables(None, Some(segments), &pin());
        Ok(())
    }

    /// Removes the mark of a compaction that ends without a result.
    ///
    /// # Errors
    ///
    /// [`StateError::UnknownMark`].
    pub fn remove_mark(&mut self, mark: &TableMark) -> Result<(), StateError> {
        self.writer.state().tables.replace_mark(mark, None)
    }

    /// Puts a merged table in the place of several neighbours, which are given by their ids, newest
    /// first. `None` removes them: none of their entries existed.
    ///
    /// # Errors
    ///
    /// [`StateError::NotAdjacent`], [`StateError::AcrossMark`] or [`StateError::TableIdInUse`];
    /// nothing has changed.
    pub fn replace_tables(&mut self, replaced: &[u64], merged: Option<Arc<TableReader>>) -> Result<(), StateError> {
        self.writer.state().tables.replace(replaced, merged)?;
        self.publish_tables(None, None, &pin());
        Ok(())
    }

    /// Puts these tables, newest first, in the place of all: at an opening, and after a rebuild.
    ///
    /// # Errors
    ///
    /// [`StateError::AcrossMark`] while a compaction runs, or [`StateError::TableIdInUse`]; nothing
    /// has changed.
    pub fn replace_all_tables(
        &mut self,
        tables: Vec<Arc<TableReader>>,
        segments: SegmentSet,
    ) -> Result<(), StateError> {
        let max_version = tables.iter().map(|table| table.max_version()).max().unwrap_or(0);
        self.writer.state().tables.replace_all(tables)?;
        self.inner.max_version.raise(max_version);
        self.publish_tables(None, Some(segments), &pin());
        Ok(())
    }

    /// As [`StateWriter::remove_tombstone`], but never while there is a level below the active
    /// memtable, which may have an older entry of the key.
    pub fn remove_tombstone(&mut self, key: &[u8], version: u64) -> bool {
        let has_lower = self.inner.view(&pin()).lower.is_some() && !planted("levels_tombstone_removed");
        !has_lower && self.writer.remove_tombstone(key, version)
    }

    /// The counts of the active memtable and of snapshots; see
    /// [`LeveledKvState::level_stats`](crate::LeveledKvState::level_stats).
    #[must_use]
    pub fn stats(&self) -> StateStats {
        self.writer.stats()
    }

    /// Publishes the tables of the list, without a memtable that has become one of them.
    fn publish_tables(&mut self, flushed: Option<&Memtable>, segments: Option<SegmentSet>, guard: &Guard) {
        let tables = self.writer.state().tables.tables();
        self.inner.publish(
            |view| {
                let lower = view.lower.as_deref().cloned().unwrap_or_default();
                let frozen = lower.frozen.into_iter().filter(|each| !flushed.is_some_and(|flushed| each.is(flushed)));
                let segments = segments.unwrap_or(lower.segments);
                let lower = LowerLevels { frozen: frozen.collect(), tables, segments };
                let is_empty = lower.frozen.is_empty() && lower.tables.is_empty();
                view.lower = (!is_empty).then(|| Arc::new(lower));
            },
            guard,
        );
    }

    /// The bytes of memtables that the current view does not have and others may.
    pub(crate) fn held_bytes(&mut self) -> usize {
        self.writer.state().retired.iter().map(|memtable| memtable.map.memory_bytes()).sum()
    }

    /// Memtables that nobody can reach any more.
    pub(crate) fn take_unused(&mut self) -> Vec<Memtable> {
        self.writer.state().retired.extract_if(.., |memtable| memtable.is_unused()).collect()
    }
}

impl<L: Location> FrozenMemtable<L> {
    /// The seq of the newest commit that it may have.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The number of entries, tombstones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memtable.map.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memtable.map.is_empty()
    }

    /// Its memory in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.memtable.map.memory_bytes()
    }

    /// The newest entry of each key, in order, tombstones included.
    #[must_use]
    pub fn source(&self) -> MemtableSource<L> {
        // It does not change, so no snapshot has to keep anything for it.
        let newest = Arc::new(SnapshotRegistration::unregistered(&self.inner));
        MemtableSource::whole(self.memtable.clone(), newest)
    }
}

impl<L> fmt::Debug for LeveledWriter<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeveledWriter").finish_non_exhaustive()
    }
}

impl<L> fmt::Debug for FrozenMemtable<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenMemtable")
            .field("last_seq", &self.last_seq)
            .field("len", &self.memtable.map.len())
            .finish_non_exhaustive()
    }
}
