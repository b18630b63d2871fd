//! Tables: a flush writes the active memtable to a table, a merge makes several tables one. Both
//! run concurrently with other writes.
//!
//! A flush freezes the active memtable under the commit lock, at the end of the log. Then it syncs
//! the log up to that end, so that every record that the table points to is durable. It writes the
//! memtable in key order to a file, and names the file once it is complete and synced: one edit of
//! the manifest adds the table and moves the covered position. Last, the table takes the memtable's
//! place in the view.
//!
//! If that fails, the memtable stays frozen, and the next flush writes it first.
//!
//! Compaction and merges may take long. They do the flushes that become due meanwhile between their
//! own steps ([`FlushesBetween`]), up to a number of tables.
//!
//! Before all else, tables that are known to be damaged are rebuilt from the log.

use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use hightower_index::{pin, synchronize};
use hightower_seams::Entropy;
use hightower_segment::{CoveredPosition, NamedTable, NamedTables, SegmentStore};
use hightower_state::{LeveledKvState, LeveledWriter};
use hightower_table::{LevelMerge, MergeSource, ScanDirection, TableError, TableRange, TableReader, TableWriter};

use crate::commit_log::{CommitLock, CommitLog};
use crate::components::{Background, Components};
use crate::error::{Error, Result};
use crate::files::io_error;
use crate::maintenance::{Maintenance, Turn};
use crate::memory_budget::MemoryBudget;
use crate::merge_choice::{TABLES_MAX, worth_merging};
use crate::mutants::planted;
use crate::observe::{Operation, observe};
use crate::open_store::OpenStore;
use crate::place::Place;
use crate::read_path::ReadPath;
use crate::rebuild::{RUN_BYTES, TableRebuild};
use crate::sync_path::SyncPath;
pub(crate) use crate::table_files::WrittenTable;
use crate::table_files::{LIKELY_BYTES_PER_KEY, begin_table, open_written, remove_unnamed};
use crate::tables::{CurrentTables, PendingFlush, TableStats, Tables, UnnamedFiles};

/// On a device with room for fewer files than this, all tables are merged after each flush, and
/// compaction makes none.
const FEW_FILES: u64 = 256;
/// With this many tables, flushes wait for the end of long work, because each lookup reads a cache
/// line of each table. Writers may be delayed then.
const INTERRUPTED_TABLES_MAX: usize = 4 * TABLES_MAX;

/// Writes tables. Its methods take the data of the turn, so that only its holder can call them.
#[derive(Debug)]
pub(crate) struct TableFlusher {
    entropy: Arc<dyn Entropy>,
    read: Arc<ReadPath>,
    log: Arc<CommitLock>,
    store: Arc<OpenStore>,
    sync: Arc<SyncPath>,
    tables: Arc<Tables>,
    maintenance: Arc<Maintenance>,
    budget: Arc<MemoryBudget>,
    background: Background,
}

/// The flushes that become due during long work of the holder of the turn. Its steps do them.
pub(crate) struct FlushesBetween<'a> {
    flusher: &'a TableFlusher,
    turn: &'a mut Turn,
    /// One has failed. The background repeats it after the work.
    has_failed: bool,
}

impl<'a> FlushesBetween<'a> {
    pub(crate) fn new(flusher: &'a TableFlusher, turn: &'a mut Turn) -> Self {
        Self { flusher, turn, has_failed: false }
    }

    /// Flushes if that is due. The new table lies above all others. A failure is recorded in the
    /// budget's numbers.
    pub(crate) fn step(&mut self) {
        let flusher = self.flusher;
        if self.has_failed || !flusher.budget.is_due() || planted("flushes_wait_for_compaction") {
            return;
        }
        if flusher.tables.stats().len() < INTERRUPTED_TABLES_MAX {
            let flushed = observe(Operation::Checkpoint, || flusher.write_memtables_if_room(self.turn).map(drop));
            flusher.budget.note_flush(flushed.as_ref().err());
            self.has_failed = flushed.is_err();
        }
    }
}

/// The parts of a store that [`TableFlusher`] uses.
#[derive(Debug)]
pub(crate) struct FlushParts<'a> {
    pub(crate) read: &'a Arc<ReadPath>,
    pub(crate) log: &'a Arc<CommitLock>,
    pub(crate) store: &'a Arc<OpenStore>,
    pub(crate) sync: &'a Arc<SyncPath>,
    pub(crate) tables: &'a Arc<Tables>,
    pub(crate) maintenance: &'a Arc<Maintenance>,
    pub(crate) budget: &'a Arc<MemoryBudget>,
}

impl TableFlusher {
    pub(crate) fn new(components: &Components, parts: &FlushParts<'_>) -> Self {
        Self {
            entropy: Arc::clone(&components.entropy),
            read: Arc::clone(parts.read),
            log: Arc::clone(parts.log),
            store: Arc::clone(parts.store),
            sync: Arc::clone(parts.sync),
            tables: Arc::clone(parts.tables),
            maintenance: Arc::clone(parts.maintenance),
            budget: Arc::clone(parts.budget),
            background: components.background,
        }
    }

    /// Flushes if the budget of memory or the length of the log asks for it. A failure is also
    /// recorded in the budget's numbers.
    pub(crate) fn flush_if_due(&self, turn: &mut Turn) -> Result<()> {
        if !self.budget.is_due() {
            self.budget.note_none_due();
            return Ok(());
        }
        let flushed = self.flush(turn);
        self.budget.note_flush(flushed.as_ref().err());
        flushed
    }

    /// Does the background's flush on the caller's thread, in a store without threads. The commit
    /// has succeeded, so a failure is only recorded.
    #[cold]
    pub(crate) fn flush_as_caller(&self) {
        if self.background == Background::Caller
            // A compaction policy that writes has the turn; a later commit flushes.
            && let Ok(mut turn) = self.maintenance.turn.lock()
        {
            let _recorded = self.flush_if_due(&mut turn);
        }
    }

    /// Writes all memtables to tables; merges tables if there are too many. Does nothing if no
    /// commit has followed the last flush.
    pub(crate) fn flush(&self, turn: &mut Turn) -> Result<()> {
        observe(Operation::Checkpoint, || self.flush_unobserved(turn))
    }

    fn flush_unobserved(&self, turn: &mut Turn) -> Result<()> {
        match self.mend(turn) {
            Ok(()) => self.mended(turn, |turn| self.flush_sound(turn)),
            // A flush reads no table, so memory need not wait for a rebuild that may never work.
            Err(failure) if !planted("flushes_wait_for_a_rebuild") => {
                self.write_memtables_if_room(turn).and(Err(failure))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Does some maintenance. If it meets a damaged table, rebuilds the tables and does it again.
    pub(crate) fn mended<R>(&self, turn: &mut Turn, work: impl Fn(&mut Turn) -> Result<R>) -> Result<R> {
        match work(turn) {
            Err(Error::Corrupt { .. }) if self.tables.damage().is_some() && !planted("damage_ends_maintenance") => {
                self.mend(turn)?;
                work(turn)
            }
            done => done,
        }
    }

    /// Rebuilds the tables from the log if one of them is known to be damaged.
    pub(crate) fn mend(&self, turn: &mut Turn) -> Result<()> {
        if self.tables.damage().is_none() {
            return Ok(());
        }
        let store = self.store.in_use()?;
        if !store.refill_reserves()? {
            let detail = "there is no room to rebuild damaged tables besides the room that deletes need".to_owned();
            return Err(Error::Full { detail });
        }
        let CurrentTables { list, .. } = self.tables.current();
        let tracked = self.read.segments.all();
        let segments: Vec<_> = tracked.iter().map(|tracked| Arc::clone(&tracked.segment)).collect();
        let rebuild = TableRebuild {
            dir: store.dir(),
            entropy: &*self.entropy,
            segments: &segments,
            list: &list,
            records: tracked.iter().map(|tracked| tracked.records()).sum(),
            take_id: &|| Ok(store.take_table_id()?),
            hash_seed: self.hash_seed()?,
            run_bytes: RUN_BYTES,
        };
        let written = rebuild.run(&mut |_| ControlFlow::Continue(()))?;
        let now = CurrentTables {
            list: NamedTables { newest_first: vec![written.named], covered: list.covered },
            stats: vec![TableStats::of(&written.reader)],
        };
        self.name(&store, &written, &now, 0)?;
        let state = self.read.index.handle()?;
        let mut writer = state.writer();
        let installed = writer.replace_all_tables(vec![Arc::clone(&written.reader)], self.read.segments.set());
        installed.map_err(|error| self.store.poison().latch(&error))?;
        self.clear_hidden_counts();
        self.end_change(turn, &state, writer, now, list.newest_first);
        self.maintenance.note(|stats| stats.rebuilds += 1);
        Ok(())
    }

    /// Like [`mend`](Self::mend), for callers that have other work: without room for the new table,
    /// returns the error instead of failing. Their work may make room.
    pub(crate) fn try_mend(&self, turn: &mut Turn) -> Result<Option<Error>> {
        match self.mend(turn) {
            Ok(()) => Ok(None),
            Err(full @ Error::Full { .. }) => Ok(Some(full)),
            Err(failure) => Err(failure),
        }
    }

    fn flush_sound(&self, turn: &mut Turn) -> Result<()> {
        if self.write_memtables_if_room(turn)? { self.try_merge(turn) } else { Ok(()) }
    }

    /// Writes all memtables to tables. Returns whether there was an entry in one.
    fn write_memtables_if_room(&self, turn: &mut Turn) -> Result<bool> {
        let store = self.store.in_use()?;
        let keys = self.keys_in_memtables(turn)?;
        if keys == 0 {
            return Ok(false);
        }
        if !self.has_room_for(&store, keys)? {
            let detail = "there is no room for a table besides the room that deletes and compaction need".to_owned();
            return Err(Error::Full { detail });
        }
        self.write_memtables(&store, turn)?;
        Ok(true)
    }

    /// Drops dead tables, and merges the newest others if that is worth it and there is room.
    pub(crate) fn try_merge(&self, turn: &mut Turn) -> Result<()> {
        match self.drop_dead(turn) {
            Err(Error::Full { .. }) => {}
            dropped => dropped?,
        }
        let tables = self.tables.stats();
        if tables.len() < 2 {
            return Ok(());
        }
        let has_few = self.has_few_files(&*self.store.in_use()?)?;
        let count = if has_few { Some(tables.len()) } else { worth_merging(&tables) };
        count.map_or(Ok(()), |count| self.merge_if_there_is_room(turn, count))
    }

    /// Like [`flush`](Self::flush), for callers that can do without the table: if there is no room
    /// for it, returns the reason instead of an error.
    pub(crate) fn try_flush(&self, turn: &mut Turn) -> Result<Option<String>> {
        match self.flush(turn) {
            Ok(()) => Ok(None),
            Err(Error::Full { detail }) => Ok(Some(detail)),
            Err(failure) => Err(failure),
        }
    }

    /// Makes the counts of dead records exact: flushes if it may, and merges all tables into one.
    /// If there is no room for that, counts the entries that higher levels hide instead.
    pub(crate) fn settle_counts(&self, turn: &mut Turn, may_flush: bool) -> Result<()> {
        if may_flush {
            let _no_room = self.try_flush(turn)?;
        }
        self.merge_all(turn)?;
        let state = self.read.index.handle()?;
        let lower = self.tables.stats().len() + turn.frozen.len();
        let active = state.active_memtable().stats();
        let is_one_level = lower + usize::from(active.live_keys + active.tombstones > 0) <= 1;
        if !is_one_level && !planted("hidden_entries_stay_live") {
            let hidden = state.hidden_counts().map_err(|failure| self.read.noted(failure))?;
            self.read.segments.set_hidden_counts(&hidden);
        }
        Ok(())
    }

    /// Merges all tables into one if there is room for it.
    pub(crate) fn merge_all(&self, turn: &mut Turn) -> Result<()> {
        let count = self.tables.stats().len();
        if count < 2 { Ok(()) } else { self.merge_if_there_is_room(turn, count) }
    }

    fn merge_if_there_is_room(&self, turn: &mut Turn, count: usize) -> Result<()> {
        let store = self.store.in_use()?;
        let keys = self.tables.stats().iter().take(count).map(|table| table.keys).sum();
        if !self.has_room_for(&store, keys)? {
            return Ok(());
        }
        match self.merge(&store, turn, count) {
            Err(Error::Full { .. }) => Ok(()),
            merged => merged,
        }
    }

    /// The number of entries in memtables.
    fn keys_in_memtables(&self, turn: &Turn) -> Result<u64> {
        let active = self.read.index.handle()?.active_memtable().stats();
        let frozen: usize = turn.frozen.iter().map(|frozen| frozen.memtable.len()).sum();
        Ok((active.live_keys + active.tombstones + frozen) as u64)
    }

    /// Whether the device has room for few files, so that each table takes one from others.
    pub(crate) fn has_few_files(&self, store: &SegmentStore) -> Result<bool> {
        let dir = store.dir();
        let room = dir.room().map_err(|source| io_error("ask for the free room of", dir.path(), source))?;
        Ok(room.available_files < FEW_FILES)
    }

    /// Whether the device has room for a table of this number of keys, besides the room that
    /// deletes and compaction need. A table that filled the device would briefly take the room that
    /// the manifest may need, and would leave other operations only the reserves.
    pub(crate) fn has_room_for(&self, store: &SegmentStore, keys: u64) -> Result<bool> {
        if !store.refill_reserves()? {
            return Ok(false);
        }
        let dir = store.dir();
        let room = dir.room().map_err(|source| io_error("ask for the free room of", dir.path(), source))?;
        let needed = self.read.segments.live_bytes().min(keys.saturating_mul(LIKELY_BYTES_PER_KEY));
        Ok(room.available_bytes >= needed)
    }

    /// Writes the memtables to tables, the oldest first.
    fn write_memtables(&self, store: &SegmentStore, turn: &mut Turn) -> Result<()> {
        // Those of a failed flush come first, so that no more wait while it is repeated.
        self.write_frozen(store, turn)?;
        turn.frozen.extend(self.freeze()?);
        self.write_frozen(store, turn)
    }

    fn write_frozen(&self, store: &SegmentStore, turn: &mut Turn) -> Result<()> {
        while let Some(frozen) = turn.frozen.front() {
            let stale = self.write_memtable(store, frozen)?;
            turn.frozen.pop_front();
            turn.waiting.extend(stale);
            // The replaced view goes, and the memtable with it, unless a reader has it.
            let _ended = synchronize(0);
            self.read.index.handle()?.reclaim();
            self.maintenance.note(|stats| stats.checkpoints += 1);
        }
        Ok(())
    }

    /// Freezes the active memtable, unless it is empty.
    fn freeze(&self) -> Result<Option<PendingFlush>> {
        let state = self.read.index.handle()?;
        let spare = state.spare_memtable();
        let log = self.log.lock()?;
        let Some(memtable) = state.writer().freeze(spare, &pin()) else { return Ok(None) };
        let (max_version, covered) = (log.max_version, self.end_of_log(&log));
        self.budget.note_freeze();
        Ok(Some(PendingFlush { memtable, max_version, covered }))
    }

    fn end_of_log(&self, log: &CommitLog) -> CoveredPosition {
        let active = &log.active.segment;
        // Each compacted segment is in the list or will get a higher id. So does an output of the
        // current run, or the run's own edit of the manifest covers it.
        let last_id = self.read.segments.all().last().map_or(0, |tracked| tracked.segment.id());
        CoveredPosition {
            segment: active.id(),
            offset: active.len_bytes(),
            next_seq: log.last_seq.saturating_add(1),
            compacted_below: last_id.saturating_add(1),
        }
    }

    /// Writes the oldest frozen memtable to a table, and names it. Returns the files of earlier
    /// tables that the manifest no longer names.
    fn write_memtable(&self, store: &SegmentStore, frozen: &PendingFlush) -> Result<Option<UnnamedFiles>> {
        if !planted("table_named_before_log_sync") {
            self.sync_log(store, frozen.memtable.last_seq())?;
        }
        let written = self.write(store, &mut frozen.memtable.source(), &mut || ())?;
        let before = self.tables.current();
        let mut now = before.clone();
        now.list.newest_first.insert(0, written.named);
        now.stats.insert(0, TableStats::of(&written.reader));
        now.list.covered = frozen.covered;
        // A compaction since the freeze has put its outputs into tables, too.
        if !planted("outputs_covered_no_more") {
            now.list.covered.compacted_below = frozen.covered.compacted_below.max(before.list.covered.compacted_below);
        }
        if planted("table_covers_later_commits") {
            now.list.covered = self.end_of_log(&*self.log.lock()?);
        }
        let named_before = store.manifest().tables.newest_first;
        self.name(store, &written, &now, frozen.max_version)?;
        let state = self.read.index.handle()?;
        let mut writer = state.writer();
        let installed =
            writer.install_flushed(&frozen.memtable, Some(Arc::clone(&written.reader)), self.read.segments.set());
        installed.map_err(|error| self.store.poison().latch(&error))?;
        if !planted("flushed_entries_counted_twice") {
            self.read.segments.remove_from_memtables(written.reader.segments());
        }
        self.read.segments.set_table_counts(&state.table_counts());
        let views = writer.older_views();
        drop(writer);
        let stale = named_before.into_iter().filter(|old| !now.list.newest_first.contains(old)).collect::<Vec<_>>();
        self.tables.replace(now);
        Ok((!stale.is_empty()).then(|| UnnamedFiles { views, segments: Vec::new(), tables: stale }))
    }

    /// Drops tables whose entries all point into segments that compaction has removed. One table
    /// stays, because the covered position belongs to the tables.
    fn drop_dead(&self, turn: &mut Turn) -> Result<()> {
        let state = self.read.index.handle()?;
        let segments = self.read.segments.set();
        let is_dead = |table: &Arc<TableReader>| !table.segments().iter().any(|found| segments.contains(found.segment));
        let tables = state.tables();
        let mut dead: Vec<u64> = tables.iter().filter(|table| is_dead(table)).map(|table| table.id()).collect();
        dead.truncate(tables.len().saturating_sub(1));
        if dead.is_empty() || planted("dead_tables_kept") {
            return Ok(());
        }
        let store = self.store.in_use()?;
        let mut now = self.tables.current();
        let stale = now.list.newest_first.extract_if(.., |table| dead.contains(&table.id.into())).collect();
        now.stats.retain(|table| !dead.contains(&table.id.into()));
        store.set_tables(now.list.clone(), 0)?;
        let mut writer = state.writer();
        for id in dead {
            writer.replace_tables(&[id], None).map_err(|error| self.store.poison().latch(&error))?;
        }
        self.end_change(turn, &state, writer, now, stale);
        Ok(())
    }

    /// Merges the newest `count` tables into one.
    fn merge(&self, store: &SegmentStore, turn: &mut Turn, count: usize) -> Result<()> {
        let state = self.read.index.handle()?;
        let tables = state.tables();
        let merged = tables.get(..count).unwrap_or_default();
        let whole = || (Bound::<Vec<u8>>::Unbounded, Bound::<Vec<u8>>::Unbounded);
        let forward = ScanDirection::Forward;
        let sources =
            merged.iter().map(|table| TableRange::new::<Vec<u8>>(Arc::clone(table), whole(), forward)).collect();
        let segments = self.read.segments.set();
        let exists = |segment| segments.contains(segment) || planted("merge_keeps_what_does_not_exist");
        let mut flushes = FlushesBetween::new(self, turn);
        let written = self.write(store, &mut LevelMerge::new(sources, forward, exists), &mut || flushes.step());
        let written = written.map_err(|failure| self.read.noted(failure))?;
        let mut now = self.tables.current();
        // Flushes have put their tables above those of the beginning.
        let first = now.stats.len().saturating_sub(tables.len());
        let first = if planted("merge_named_on_top") { 0 } else { first };
        let place = first..first + count;
        let stale: Vec<_> = now.list.newest_first.splice(place.clone(), [written.named]).collect();
        now.stats.splice(place, [TableStats::of(&written.reader)]);
        self.name(store, &written, &now, 0)?;
        let mut writer = state.writer();
        let replaced: Vec<u64> = merged.iter().map(|table| table.id()).collect();
        let installed = writer.replace_tables(&replaced, Some(Arc::clone(&written.reader)));
        installed.map_err(|error| self.store.poison().latch(&error))?;
        // The new table lacks the hidden entries.
        self.clear_hidden_counts();
        self.end_change(turn, &state, writer, now, stale);
        self.budget.note_merge();
        Ok(())
    }

    /// Ends a change of the tables in the state. The files of those that are `stale` go with the
    /// older views.
    fn end_change(
        &self,
        turn: &mut Turn,
        state: &LeveledKvState<Place>,
        mut writer: LeveledWriter<'_, Place>,
        now: CurrentTables,
        stale: Vec<NamedTable>,
    ) {
        self.read.segments.set_table_counts(&state.table_counts());
        let views = writer.older_views();
        drop(writer);
        self.tables.replace(now);
        turn.waiting.push(UnnamedFiles { views, segments: Vec::new(), tables: stale });
    }

    /// The tables have no hidden entries any more, or some whose number is not known.
    fn clear_hidden_counts(&self) {
        if !planted("hidden_counts_stay") {
            self.read.segments.set_hidden_counts(&[]);
        }
    }

    /// Names a written table in the manifest, with the whole list. If that fails, removes the
    /// table.
    fn name(&self, store: &SegmentStore, written: &WrittenTable, now: &CurrentTables, max_version: u64) -> Result<()> {
        if let Err(failure) = store.set_tables(now.list.clone(), max_version) {
            if !store.is_poisoned() {
                self.abandon(store, written);
            }
            return Err(failure.into());
        }
        Ok(())
    }

    /// Removes a table that the manifest certainly does not name.
    pub(crate) fn abandon(&self, store: &SegmentStore, written: &WrittenTable) {
        remove_unnamed(store.dir().as_ref(), &written.named);
    }

    /// Makes the log durable up to this commit, including the ends of the segments before it: an
    /// open stops at a segment whose end is missing.
    fn sync_log(&self, store: &SegmentStore, seq: u64) -> Result<()> {
        self.sync.sync_to(seq)?;
        store.sync_predecessors().map_err(|failure| self.store.append_failed(failure))?;
        Ok(())
    }

    /// Writes a table durably under its name, and calls `step` now and then. After a failure no
    /// file is left that an open would use.
    fn write<S>(&self, store: &SegmentStore, entries: &mut S, step: &mut dyn FnMut()) -> Result<WrittenTable>
    where
        S: MergeSource,
        TableError: From<S::Error>,
    {
        let (id, mut writer) = self.begin_table(store)?;
        let mut observe = |_| {
            step();
            ControlFlow::Continue(())
        };
        writer.push_all(entries, &mut observe)?;
        open_written(store.dir().as_ref(), id, &writer.finish_with(&mut observe)?)
    }

    /// Completes a table and opens it.
    pub(crate) fn finish_table(&self, store: &SegmentStore, id: u32, writer: TableWriter) -> Result<WrittenTable> {
        open_written(store.dir().as_ref(), id, &writer.finish()?)
    }

    /// Begins a table with the next free id.
    pub(crate) fn begin_table(&self, store: &SegmentStore) -> Result<(u32, TableWriter)> {
        begin_table(store.dir(), &*self.entropy, &|| Ok(store.take_table_id()?), self.hash_seed()?)
    }

    /// The seed of the hash of keys that the tables share.
    fn hash_seed(&self) -> Result<Option<u64>> {
        Ok(self.read.index.handle()?.tables().first().map(|table| table.hash_seed()))
    }
}
