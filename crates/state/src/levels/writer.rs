//! The writer's lock of a state with levels: commits, freezes and changes of the list of tables.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use hightower_index::{Guard, pin};
use hightower_table::TableReader;

use crate::change::{Applied, Change, NewestCommand, NewestRecord};
use crate::commit::Commit;
use crate::error::StateError;
use crate::inner::{SnapshotRegistration, StateInner};
use crate::levels::lookup::LookedBelow;
use crate::levels::merged_scan::MemtableSource;
use crate::levels::older_views::OlderViews;
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
/// Each change of the levels is atomic for readers.
///
/// Example: [`LeveledKvState`](crate::LeveledKvState).
pub struct LeveledWriter<'a, L> {
    writer: StateWriter<'a, L>,
    inner: &'a Arc<StateInner>,
}

/// A memtable that takes no more commits, from which a table is written.
///
/// Example: [`LeveledKvState`](crate::LeveledKvState).
pub struct FrozenMemtable<L> {
    memtable: Memtable,
    inner: Arc<StateInner>,
    last_seq: u64,
    location: PhantomData<fn(L) -> L>,
}

/// The error that the levels have changed since a lookup below the active memtable: look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the levels have changed since the key was looked up below the memtable: look again")]
pub struct ViewChanged;

impl<'a, L: Location> LeveledWriter<'a, L> {
    pub(crate) fn new(writer: StateWriter<'a, L>, inner: &'a Arc<StateInner>) -> Self {
        Self { writer, inner }
    }

    /// The newest command that a key has seen: from the active memtable, otherwise from `below`,
    /// the result of [`look_below`](crate::LeveledKvState::look_below). While the active memtable
    /// is the only level, `below` is not needed.
    ///
    /// # Errors
    ///
    /// [`ViewChanged`] if the active memtable does not have the key, and `below` is missing or the
    /// levels have changed since the lookup.
    pub fn newest_of(&self, key: &[u8], below: Option<&LookedBelow>) -> Result<Option<NewestCommand>, ViewChanged> {
        Ok(self.newest_record_of(key, below)?.map(|newest| newest.command))
    }

    /// As [`newest_of`](Self::newest_of), with the location of the command's record.
    ///
    /// # Errors
    ///
    /// As for [`newest_of`](Self::newest_of).
    pub fn newest_record_of(
        &self,
        key: &[u8],
        below: Option<&LookedBelow>,
    ) -> Result<Option<NewestRecord<L>>, ViewChanged> {
        if let Some(newest) = self.writer.newest_of(key) {
            return Ok(Some(newest));
        }
        let guard = pin();
        let view = self.inner.view(&guard);
        if view.lower.is_none() {
            return Ok(None);
        }
        let is_same = |below: &&LookedBelow| below.view == view.number || planted("levels_change_unnoticed");
        below.filter(is_same).map(LookedBelow::newest).ok_or(ViewChanged)
    }

    /// Whether the active memtable has an entry of the key.
    #[must_use]
    pub fn is_in_active_memtable(&self, key: &[u8]) -> bool {
        self.writer.newest_of(key).is_some()
    }

    /// The outcome of a command, without a change. Example:
    /// [`look_below`](crate::LeveledKvState::look_below).
    ///
    /// # Errors
    ///
    /// As for [`newest_of`](Self::newest_of).
    pub fn evaluate(
        &self,
        key: &[u8],
        version: u64,
        kind: CommandKind,
        below: Option<&LookedBelow>,
    ) -> Result<ApplyOutcome, ViewChanged> {
        let known = self.newest_of(key, below)?.map(|newest| newest.version);
        Ok(ApplyOutcome::decide(known, version, kind))
    }

    /// Like [`StateWriter::begin`]. An applied change must win against the levels below the active
    /// memtable: its version is above every other, or [`evaluate`](Self::evaluate) has returned
    /// that it wins.
    ///
    /// # Errors
    ///
    /// If `seq` is not above the seq of every earlier commit.
    pub fn begin<'w, 'g>(&'w mut self, seq: u64, guard: &'g Guard) -> Result<Commit<'w, 'g, L>, StateError> {
        self.writer.begin(seq, guard)
    }

    /// Like [`StateWriter::replay`], for changes beyond the position that the tables cover.
    pub fn replay(&mut self, change: &Change<'_, L>) -> Applied<L> {
        self.writer.replay(change)
    }

    /// Like [`StateWriter::resume`].
    ///
    /// # Errors
    ///
    /// If `seq` is below the newest seq, or above the highest seq of a commit.
    pub fn resume(&mut self, seq: u64) -> Result<(), StateError> {
        self.writer.resume(seq)
    }

    /// Freezes the active memtable, and continues with an empty one. `None` if it has no entries.
    pub fn freeze(&mut self, spare: SpareMemtable<L>, guard: &Guard) -> Option<FrozenMemtable<L>> {
        let old = self.inner.view(guard).active.clone();
        if old.map.is_empty() {
            return None;
        }
        // A search for changes examines the active memtable only.
        self.inner.forgotten_seq.fetch_max(self.inner.visible(), Ordering::SeqCst);
        self.writer.state().replace_index(spare.index);
        let frozen = old.clone();
        let older = self.inner.publish(
            |view| {
                let mut lower = view.lower.as_deref().cloned().unwrap_or_default();
                lower.frozen.insert(0, frozen);
                (view.active, view.lower) = (spare.memtable, Some(Arc::new(lower)));
            },
            guard,
        );
        self.writer.state().note_older(older);
        let last_seq = self.inner.visible();
        Some(FrozenMemtable { memtable: old, inner: Arc::clone(self.inner), last_seq, location: PhantomData })
    }

    /// Replaces the lowest frozen memtable by its table, which becomes the topmost table. Without a
    /// table it only removes the memtable, whose entries are then not needed. `segments` is the new
    /// set of segments for table entries.
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

    /// A mark above all current tables and below all later ones: the place for the relocation table
    /// of a compaction that begins now. Until the mark is used or removed, tables from both sides
    /// of it cannot be replaced together.
    #[must_use]
    pub fn mark(&mut self) -> TableMark {
        self.writer.state().tables.mark()
    }

    /// Ends a compaction: its relocation table replaces the mark. `segments` contains the new
    /// segments, and no longer the compacted ones.
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

    /// Replaces several neighbours by a merged table. `replaced` has their ids, newest first.
    /// Without a merged table it removes them, because none of their entries exist.
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

    /// Replaces all tables by these, newest first: for an open, and after a rebuild.
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

    /// Like [`StateWriter::remove_tombstone`], but removes nothing while there is a level below the
    /// active memtable, because it may have an older entry of the key.
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

    /// Publishes the tables of the list, without the memtable that has become one of them.
    fn publish_tables(&mut self, flushed: Option<&Memtable>, segments: Option<SegmentSet>, guard: &Guard) {
        let tables = self.writer.state().tables.tables();
        let older = self.inner.publish(
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
        self.writer.state().note_older(older);
    }

    /// The views before the current one that are still in use.
    #[must_use]
    pub fn older_views(&mut self) -> OlderViews {
        OlderViews::new(self.writer.state().older_views.clone())
    }

    /// The bytes of memtables that the current view no longer has, but other views may have.
    pub(crate) fn held_bytes(&mut self) -> usize {
        self.writer.state().retired.iter().map(|memtable| memtable.map.memory_bytes()).sum()
    }

    /// Takes the memtables that no view has any more.
    pub(crate) fn take_unused(&mut self) -> Vec<Memtable> {
        self.writer.state().retired.extract_if(.., |memtable| memtable.is_unused()).collect()
    }
}

impl<L: Location> FrozenMemtable<L> {
    /// The highest seq that its commits may have.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The number of entries, tombstones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memtable.map.len()
    }

    /// Whether it has no entries.
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
        // A frozen memtable does not change, so its versions stay without a registered snapshot.
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
