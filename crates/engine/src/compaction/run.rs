//! One run of compaction, from the choice of victims to the freed files.
//!
//! 1. Make sure that the tables cover the inputs: otherwise flush. Then only tables point into
//!    them.
//! 2. Put a mark above the current tables, for the table of relocations.
//! 3. Copy the survivors into outputs, make these durable and read them back; write their new
//!    places to the table of relocations. Nothing points to them yet: after a crash they are
//!    garbage.
//! 4. Sync the log. The run drops records that newer commits have overtaken, so these commits must
//!    be durable before the records are gone.
//! 5. Replace the inputs by the outputs in the manifest, and add the table, in one step. From here
//!    on a crash leaves the outputs only, which have the same content.
//! 6. Publish a view with the table at the mark, whose set of segments has the outputs instead of
//!    the inputs. Nothing is changed in place. An expired tombstone that was not copied is gone
//!    with its segment.
//! 7. When no older view is in use, remove the inputs from the segment table, and their files once
//!    nobody holds them.
//!
//! If the device has no room for a table, the new places go to the active memtable instead
//! ([`moves`](super::moves)), between steps 5 and 6, and no flush comes first.

use std::sync::Arc;

use hightower_compactor::{
    Budget, Goal, RateLimiter, Rewritten, SegmentUsage, TombstoneRule, output_base_seq, rewrite,
};
use hightower_index::{pin, synchronize};
use hightower_log::SegmentKind;
use hightower_seams::Clock;
use hightower_segment::{CompactedSegment, Edit, NamedTable, NamedTables, Released, SegmentStore};
use hightower_state::{LeveledKvState, TableMark};

use crate::compaction::host::{RunHost, RunParts};
use crate::compaction::moves::MemtableMoves;
use crate::compaction::stats::RunReport;
use crate::compaction::usage::usage as current_usage;
use crate::components::Components;
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::feed::FeedHub;
use crate::files::remove_if_there;
use crate::maintenance::{Maintenance, Turn};
use crate::mutants::planted;
use crate::open_store::OpenStore;
use crate::place::Place;
use crate::quota::DiskQuota;
use crate::read_path::{READERS_WAIT_MS, ReadPath};
use crate::sync::step;
use crate::sync_path::SyncPath;
use crate::table::Tracked;
use crate::table_flusher::{FlushesBetween, TableFlusher, WrittenTable};
use crate::tables::{TableStats, Tables, UnnamedFiles};
use crate::time::StoreTime;

/// Runs compactions, one at a time. Its methods take the data of the turn, so that only its holder
/// can call them.
#[derive(Debug)]
pub(crate) struct CompactionRunner {
    clock: Arc<dyn Clock>,
    config: Arc<StoreConfig>,
    time: Arc<StoreTime>,
    read: Arc<ReadPath>,
    store: Arc<OpenStore>,
    sync: Arc<SyncPath>,
    quota: Arc<DiskQuota>,
    maintenance: Arc<Maintenance>,
    feeds: Arc<FeedHub>,
    tables: Arc<Tables>,
    flusher: Arc<TableFlusher>,
}

/// The place of a run's table of relocations. Dropping it gives the place up.
struct Marked<'a> {
    state: &'a LeveledKvState<Place>,
    mark: Option<TableMark>,
    /// Number of tables below the mark. Flushes during the run put theirs above it.
    tables_below: usize,
}

impl Marked<'_> {
    /// The index of the mark in the list of tables.
    fn index_in(&self, newest_first: &[NamedTable]) -> usize {
        let above = newest_first.len().saturating_sub(self.tables_below);
        if planted("relocations_named_on_top") { 0 } else { above }
    }
}

impl Drop for Marked<'_> {
    fn drop(&mut self) {
        if let Some(mark) = &self.mark {
            // It is in the list, because it was neither used nor removed.
            let _removed = self.state.writer().remove_mark(mark);
        }
    }
}

/// The parts of a store that compaction uses.
#[derive(Debug)]
pub(crate) struct RunnerParts<'a> {
    pub(crate) config: &'a Arc<StoreConfig>,
    pub(crate) time: &'a Arc<StoreTime>,
    pub(crate) read: &'a Arc<ReadPath>,
    pub(crate) store: &'a Arc<OpenStore>,
    pub(crate) sync: &'a Arc<SyncPath>,
    pub(crate) quota: &'a Arc<DiskQuota>,
    pub(crate) maintenance: &'a Arc<Maintenance>,
    pub(crate) feeds: &'a Arc<FeedHub>,
    pub(crate) tables: &'a Arc<Tables>,
    pub(crate) flusher: &'a Arc<TableFlusher>,
}

/// The segments of a run.
struct Victims<'a> {
    /// The figures of all segments.
    usage: &'a [SegmentUsage],
    inputs: &'a [&'a SegmentUsage],
    /// Segments that are removed without being read.
    dead: &'a [u32],
    goal: Goal,
}

impl CompactionRunner {
    pub(crate) fn new(components: &Components, parts: &RunnerParts<'_>) -> Self {
        Self {
            clock: Arc::clone(&components.clock),
            config: Arc::clone(parts.config),
            time: Arc::clone(parts.time),
            read: Arc::clone(parts.read),
            store: Arc::clone(parts.store),
            sync: Arc::clone(parts.sync),
            quota: Arc::clone(parts.quota),
            maintenance: Arc::clone(parts.maintenance),
            feeds: Arc::clone(parts.feeds),
            tables: Arc::clone(parts.tables),
            flusher: Arc::clone(parts.flusher),
        }
    }

    /// Compacts `victims`, in this order. Ignores ids that do not name a sealed segment.
    pub(crate) fn compact(
        &self,
        turn: &mut Turn,
        usage: &[SegmentUsage],
        victims: &[u32],
        goal: Goal,
    ) -> Result<RunReport> {
        let store = self.store.in_use()?;
        let find = |id: &u32| {
            let found = usage.binary_search_by_key(id, |usage| usage.id).ok().and_then(|at| usage.get(at));
            found.filter(|usage| usage.is_sealed)
        };
        let (dead, inputs): (Vec<_>, Vec<_>) = victims.iter().filter_map(find).partition(|usage| usage.is_dead());
        let dead: Vec<u32> = dead.iter().map(|usage| usage.id).collect();
        let victims = Victims { usage, inputs: &inputs, dead: &dead, goal };
        let has_table = self.prepare_table(turn, &store, &victims)?;
        // A merge may have dropped entries since: their records are dead now, and block tombstones.
        let fresh = current_usage(&self.read, &self.time, self.config.compaction.tombstone_grace);
        let usage = if planted("tombstones_ignore_a_merge") { usage } else { &fresh };
        let victims = Victims { usage, inputs: &inputs, dead: &dead, goal };
        if has_table {
            match self.compact_with(turn, &store, &victims, true) {
                // The table had no room after all, or no name.
                Err(Error::Full { .. }) if !planted("full_tables_end_compaction") => {}
                run => return run,
            }
        }
        self.compact_with(turn, &store, &victims, false)
    }

    /// One run, with a table of relocations or with moves in the memtable.
    fn compact_with(
        &self,
        turn: &mut Turn,
        store: &SegmentStore,
        victims: &Victims<'_>,
        has_table: bool,
    ) -> Result<RunReport> {
        let Victims { usage, inputs, dead, goal } = *victims;
        let ids: Vec<u32> = inputs.iter().map(|usage| usage.id).collect();
        let state = self.read.index.handle()?;
        let tables_below = self.tables.stats().len();
        let mut marked = Marked { state: &state, mark: Some(state.writer().mark()), tables_below };
        let parts = RunParts {
            config: &self.config,
            clock: &*self.clock,
            read: &self.read,
            open: &self.store,
            store,
            stamp: self.time.stamp(self.read.index.max_version()),
            opened_ms: self.maintenance.opened_ms(),
            flusher: &self.flusher,
            last_seq: state.visible_seq(),
            dead,
        };
        // Without a table, the outputs have to lie beyond the covered position: it must not move.
        let flushes = has_table.then(|| FlushesBetween::new(&self.flusher, turn));
        let limiter = self.rate_limiter(usage, goal);
        let mut host = RunHost::new(&parts, inputs, output_base_seq(usage, &ids), limiter, flushes)?;
        let rule = |emptied: &[u32]| TombstoneRule::new(usage, &[emptied, dead].concat());
        let live_bytes = usage.iter().map(|usage| usage.live_bytes).sum();
        let rewritten = rewrite(&mut host, &ids, Budget::for_store(live_bytes), rule)?;
        let (outputs, relocations) = host.finish()?;
        let removed = [dead, &rewritten.emptied].concat();
        if removed.is_empty() && outputs.is_empty() {
            return Ok(RunReport::default());
        }
        let mut report = RunReport::default();
        report.note(&rewritten);
        if !planted("compaction_without_sync") {
            self.sync.sync_all()?;
        }
        let tables = self.list_with(&marked, relocations.as_ref(), &outputs);
        let retain = self.feeds.keeps_history() && self.has_room_for_history(store);
        let edit = Edit { tables, add: outputs, remove: removed, retain };
        if let Err(failure) = store.install(&edit) {
            // After a poisoning failure the manifest on disk may already name the outputs, so they
            // stay.
            if !store.is_poisoned() {
                edit.add.into_iter().for_each(|output| drop(store.abandon(output)));
                relocations.iter().for_each(|table| self.flusher.abandon(store, table));
            }
            return Err(failure.into());
        }
        step();
        // If the state cannot follow the manifest from here on, the store must refuse writes.
        let moved = (!has_table).then_some(&rewritten);
        let published = self.publish(turn, &mut marked, &edit, relocations, moved);
        let retired = published.map_err(|failure| self.store.poison().latch(&failure))?;
        report.note_files(&retired, &edit);
        self.free_retired(turn, store)?;
        Ok(report)
    }

    /// Makes sure that the tables cover the inputs, and that there is room for one more. If there
    /// is none, returns `false`.
    fn prepare_table(&self, turn: &mut Turn, store: &SegmentStore, victims: &Victims<'_>) -> Result<bool> {
        let Victims { usage, inputs, .. } = *victims;
        if self.flusher.has_few_files(store)? {
            return Ok(false);
        }
        let covered = self.tables.covered();
        let is_covered = |usage: &SegmentUsage| covered.end_in(usage.id, usage.kind) == u32::MAX;
        // The new table moves the covered position beyond all compacted segments.
        let compacted = usage.iter().filter(|usage| usage.kind == SegmentKind::Compacted);
        let is_covered = inputs.iter().copied().chain(compacted).all(is_covered);
        if !is_covered && !planted("compaction_of_uncovered_segments") && self.flusher.try_flush(turn)?.is_some() {
            return Ok(false);
        }
        let keys = inputs.iter().map(|usage| usage.live_records).sum();
        self.flusher.has_room_for(store, keys)
    }

    /// The list of tables with the relocations at the mark; `None` if it stays the same.
    fn list_with(
        &self,
        marked: &Marked<'_>,
        relocations: Option<&WrittenTable>,
        outputs: &[CompactedSegment],
    ) -> Option<NamedTables> {
        let mut list = self.tables.current().list;
        let (place, named) = (marked.index_in(&list.newest_first), relocations?.named);
        if !planted("relocations_unnamed") {
            list.newest_first.insert(place, named);
        }
        // The outputs' records are all in the table.
        let last_id = outputs.iter().map(|output| output.segment.id()).max().unwrap_or(0);
        if !planted("outputs_counted_twice") {
            list.covered.compacted_below = list.covered.compacted_below.max(last_id.saturating_add(1));
        }
        Some(list)
    }

    /// Publishes the view of a run's result: with the table of relocations, or with the moves in
    /// the memtable. Returns the removed segments.
    fn publish(
        &self,
        turn: &mut Turn,
        marked: &mut Marked<'_>,
        edit: &Edit,
        relocations: Option<WrittenTable>,
        moved: Option<&Rewritten>,
    ) -> Result<Vec<Arc<Tracked>>> {
        for output in &edit.add {
            let tracked = self.read.segments.add(Arc::clone(&output.segment))?;
            tracked.add_records(output.records);
        }
        step();
        let moves = MemtableMoves { read: &self.read, state: marked.state };
        moved.map_or(Ok(()), |moved| moves.install(moved))?;
        let mut current = self.tables.current();
        if let (Some(list), Some(table)) = (&edit.tables, &relocations) {
            let place = marked.index_in(&current.list.newest_first);
            current.list.clone_from(list);
            current.stats.insert(place, TableStats::of(&table.reader));
        }
        let mut writer = marked.state.writer();
        let retired = self.read.segments.retire(&edit.remove);
        let mark = marked.mark.take().ok_or_else(|| Error::Internal("compaction: the mark is gone".into()))?;
        let reader = relocations.map(|table| table.reader);
        let installed = writer.install_relocations(&mark, reader, self.read.segments.set());
        installed.map_err(|error| Error::Internal(error.to_string().into()))?;
        self.read.segments.set_table_counts(&marked.state.table_counts());
        let views = writer.older_views();
        drop(writer);
        moved.map_or(Ok(()), |moved| moves.forget(&moved.forgotten))?;
        self.tables.replace(current);
        self.feeds.log().note_removed(&edit.remove, edit.retain);
        step();
        let segments = retired.iter().map(|tracked| tracked.segment.id()).collect();
        turn.waiting.push(UnnamedFiles { views, segments, tables: Vec::new() });
        Ok(retired)
    }

    /// The rate limit of a run: none for explicit and for urgent runs.
    fn rate_limiter(&self, usage: &[SegmentUsage], goal: Goal) -> RateLimiter {
        let dead: u64 = usage.iter().map(SegmentUsage::dead_bytes).sum();
        let len: u64 = usage.iter().map(|usage| usage.len_bytes).sum();
        let is_urgent = goal == Goal::Full || dead > len / 2 || !self.quota.is_kept();
        let limit = if is_urgent { None } else { self.config.compaction.rate_limit_bytes_per_s };
        RateLimiter::new(limit, self.clock.elapsed())
    }

    /// Frees the files of removed segments that no reader holds.
    pub(crate) fn free_retired(&self, turn: &mut Turn, store: &SegmentStore) -> Result<()> {
        let for_feeds = self.quota.is_kept() && !store.tail_stats().full;
        self.feeds.give_up_removed(for_feeds, self.has_room_for_history(store), self.time.now_ms());
        self.give_up_history(turn, store)?;
        if !turn.has_unfreed() {
            return Ok(());
        }
        // A replaced view or segment table is freed once all guards that could see it have ended.
        let _ended = synchronize(0);
        let is_unused =
            |waiting: &mut UnnamedFiles| !waiting.views.are_in_use() || planted("files_go_before_their_views");
        let mut unused = turn.waiting.extract_if(.., is_unused).collect::<Vec<_>>().into_iter();
        while let Some(mut files) = unused.next() {
            if !files.segments.is_empty() {
                let gone = self.read.segments.remove(&std::mem::take(&mut files.segments));
                for tracked in gone {
                    let id = tracked.segment.id();
                    // History that was given up meanwhile is there already.
                    if !store.is_retained(id) && turn.retired.iter().all(|known| known.id() != id) {
                        turn.retired.push(Arc::clone(&tracked.segment));
                    }
                }
            }
            while let Some(table) = files.tables.last() {
                if let Err(error) = remove_if_there(store.dir().as_ref(), &table.file_name()) {
                    // The next call frees the others.
                    if !planted("unremoved_files_forgotten") {
                        turn.waiting.push(files);
                        turn.waiting.extend(unused);
                    }
                    return Err(error);
                }
                files.tables.pop();
            }
        }
        let _ended = synchronize(0);
        let mut waiting = std::mem::take(&mut turn.retired).into_iter();
        while let Some(segment) = waiting.next() {
            match store.release(segment) {
                Ok(Released::InUse(segment)) => turn.retired.push(segment),
                Ok(Released::Removed) => {}
                Err(failure) => {
                    // The next call frees the others.
                    turn.retired.extend(waiting);
                    return Err(failure.into());
                }
            }
        }
        Ok(())
    }

    /// Whether nothing needs the room of the history more.
    fn has_room_for_history(&self, store: &SegmentStore) -> bool {
        self.quota.has_room_to_spare() && !store.tail_stats().full
    }

    /// Removes from the manifest what is no longer needed of the history. After a failure, the next
    /// call tries again.
    fn give_up_history(&self, turn: &mut Turn, store: &SegmentStore) -> Result<()> {
        let given_up = self.feeds.log().take_given_up();
        turn.given_up.extend(given_up);
        if !turn.given_up.is_empty() {
            let ids: Vec<u32> = turn.given_up.iter().map(|segment| segment.id()).collect();
            store.give_up_retained(&ids)?;
            turn.retired.append(&mut turn.given_up);
        }
        Ok(())
    }

    /// Frees the files of removed segments, and waits briefly for readers that are about to end.
    pub(crate) fn free_patiently(&self, turn: &mut Turn) -> Result<()> {
        let store = self.store.in_use()?;
        self.free_retired(turn, &store)?;
        // Guards may hold the old view, and then the old segment table. Snapshots and values may
        // hold segments and tables for any time; they are not waited for.
        for _ in 0..2 {
            if turn.has_unfreed() && !planted("readers_not_awaited") {
                let _ended = synchronize(READERS_WAIT_MS);
                self.free_retired(turn, &store)?;
            }
        }
        Ok(())
    }

    /// Counts the removed segments whose files are still held.
    pub(crate) fn count_retired(&self, turn: &Turn) {
        let guard = pin();
        let of_segments = turn.waiting.iter().flat_map(|waiting| &waiting.segments);
        let waiting = of_segments.filter_map(|id| self.read.segments.find(*id, &guard)).map(|tracked| &tracked.segment);
        let segments: u64 = waiting.chain(&turn.retired).map(|segment| u64::from(segment.capacity_bytes())).sum();
        let tables: u64 = turn.waiting.iter().flat_map(|waiting| &waiting.tables).map(|table| table.len_bytes).sum();
        let history = self.feeds.log().retained_bytes();
        self.quota.set_retired_bytes(segments + tables + history);
        self.maintenance.note(|stats| stats.waiting_segments = turn.waiting_segments() as u64);
    }
}
