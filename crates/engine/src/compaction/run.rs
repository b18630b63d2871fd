//! One run of compaction, from the choice of victims to the freed files.
//!
//! 1. Copy the survivors into outputs, make these durable and read them back. Nothing points to
//!    them yet: after a crash they are garbage.
//! 2. Sync the log. The run drops records that newer commits have overtaken, so these commits must
//!    be durable before the records are gone.
//! 3. Replace the inputs by the outputs in the manifest. From here on a crash leaves the outputs
//!    only, which have the same content.
//! 4. Point the index to the outputs: each entry only if it still points to the old location.
//!    Readers that have an old location still find the inputs in the segment table.
//! 5. Remove the expired tombstones from the index. Until the manifest is replaced, an older
//!    command that arrives late must still lose to them.
//! 6. Remove the inputs from the segment table. A reader that does not find a segment looks the key
//!    up again.
//! 7. Remove their files once no reader holds them.

use std::sync::Arc;

use hightower_compactor::{
    Budget, Goal, RateLimiter, RecordPlace, Rewritten, SegmentUsage, TombstoneRule, output_base_seq, rewrite,
};
use hightower_index::{pin, synchronize};
use hightower_seams::Clock;
use hightower_segment::{CompactedSegment, Edit, Released, Segment, SegmentStore};
use hightower_state::StateWriter;

use crate::compaction::host::{RunHost, RunParts, place_of};
use crate::compaction::stats::RunReport;
use crate::components::Components;
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::feed::FeedHub;
use crate::maintenance::{Maintenance, Turn};
use crate::mutants::planted;
use crate::open_store::OpenStore;
use crate::place::Place;
use crate::quota::DiskQuota;
use crate::read_path::{READERS_WAIT_MS, ReadPath};
use crate::sync::step;
use crate::sync_path::SyncPath;
use crate::table::Tracked;
use crate::time::StoreTime;

/// Number of records that are moved under one hold of the state's lock. Few, because commits wait
/// for it.
const MOVES_PER_LOCK: usize = 24;

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
        let ids: Vec<u32> = inputs.iter().map(|usage| usage.id).collect();

        let parts = RunParts {
            config: &self.config,
            clock: &*self.clock,
            read: &self.read,
            open: &self.store,
            store: &store,
            stamp: self.time.stamp(self.read.index.max_version()),
            opened_ms: self.maintenance.opened_ms(),
        };
        let mut host = RunHost::new(&parts, &inputs, output_base_seq(usage, &ids), self.rate_limiter(usage, goal))?;
        let rule = |emptied: &[u32]| TombstoneRule::new(usage, &[emptied, &dead].concat());
        let live_bytes = usage.iter().map(|usage| usage.live_bytes).sum();
        let rewritten = rewrite(&mut host, &ids, Budget::for_store(live_bytes), rule)?;
        let outputs = host.finish()?;
        let removed = [dead, rewritten.emptied.clone()].concat();
        if removed.is_empty() && outputs.is_empty() {
            return Ok(RunReport::default());
        }
        let mut report = RunReport::default();
        report.note(&rewritten);
        if !planted("compaction_without_sync") {
            self.sync.sync_all()?;
        }
        let edit = Edit { add: outputs, remove: removed };
        if let Err(failure) = store.install(&edit) {
            // After a poisoning failure the manifest on disk may already name the outputs, so they
            // stay.
            if !store.is_poisoned() {
                edit.add.into_iter().for_each(|output| drop(store.abandon(output)));
            }
            return Err(failure.into());
        }
        step();
        self.adopt(&edit.add)?;
        step();
        // If the index cannot follow the manifest from here on, the store must refuse writes.
        let moved = self.install_moves(&rewritten).and_then(|()| self.forget(&rewritten.forgotten));
        report.forgotten_tombstones = moved.map_err(|failure| self.store.poison().latch(&failure))?;
        self.retire(turn, &store, &edit, &mut report)?;
        Ok(report)
    }

    /// The rate limit of a run: none for explicit and for urgent runs.
    fn rate_limiter(&self, usage: &[SegmentUsage], goal: Goal) -> RateLimiter {
        let dead: u64 = usage.iter().map(SegmentUsage::dead_bytes).sum();
        let len: u64 = usage.iter().map(|usage| usage.len_bytes).sum();
        let is_urgent = goal == Goal::Full || dead > len / 2 || !self.quota.is_kept();
        let limit = if is_urgent { None } else { self.config.compaction.rate_limit_bytes_per_s };
        RateLimiter::new(limit, self.clock.elapsed())
    }

    /// Adds the outputs to the segment table, so that the index may point to them.
    fn adopt(&self, outputs: &[CompactedSegment]) -> Result<()> {
        for output in outputs {
            let tracked = self.read.segments.add(Arc::clone(&output.segment))?;
            tracked.add_records(output.records);
        }
        Ok(())
    }

    /// Moves index entries from the old locations to the new ones, without reading the records.
    fn install_moves(&self, rewritten: &Rewritten) -> Result<()> {
        for some in rewritten.moved.chunks(MOVES_PER_LOCK) {
            let guard = pin();
            let state = self.read.index.state(&guard)?.active_memtable();
            // The segments are looked up before the lock is taken.
            let mut ready = Vec::with_capacity(MOVES_PER_LOCK);
            for moved in some {
                let to = self.tracked(moved.to.segment, &guard)?;
                ready.push((moved, rewritten.key_of(moved), to, self.tracked(moved.from.segment, &guard)?));
            }
            state.prefetch(&ready, |(_, key, ..)| key, &guard, |_| ());
            let mut writer = state.writer();
            for (moved, key, to, from) in ready {
                let (old, new) = (place_of(moved.from), place_of(moved.to));
                let relocated = writer.relocate(key, old, new, moved.len_bytes);
                if let Some(old_len_bytes) = relocated.newest_len_bytes {
                    to.add_live(moved.len_bytes, moved.is_tombstone);
                    from.remove_live(old_len_bytes, moved.is_tombstone);
                }
            }
        }
        Ok(())
    }

    /// Removes tombstones from the index, unless a newer command has replaced them. Returns the
    /// number of removed tombstones.
    fn forget(&self, places: &[RecordPlace]) -> Result<u64> {
        let mut forgotten = 0;
        for some in places.chunks(MOVES_PER_LOCK) {
            let guard = pin();
            let mut ready = Vec::with_capacity(MOVES_PER_LOCK);
            for place in some {
                let tracked = self.tracked(place.segment, &guard)?;
                let record = tracked.segment.record_at(place.offset)?;
                ready.extend(record.command().map(|command| (*place, command)));
            }
            let mut writer: StateWriter<'_, Place> = self.read.index.state(&guard)?.active_memtable().writer();
            for (place, command) in ready {
                let is_there = writer.entry(command.key()).is_some_and(|entry| entry.location == place_of(place));
                forgotten += u64::from(is_there && writer.remove_tombstone(command.key(), command.version()));
            }
        }
        Ok(forgotten)
    }

    fn tracked<'g>(&'g self, id: u32, guard: &'g hightower_index::Guard) -> Result<&'g Arc<Tracked>> {
        let lost = || Error::Internal(format!("compaction: segment {id} is not in the table").into());
        self.read.segments.find(id, guard).ok_or_else(lost)
    }

    /// Removes the inputs from the segment table, and frees the files that no reader holds.
    fn retire(&self, turn: &mut Turn, store: &SegmentStore, edit: &Edit, report: &mut RunReport) -> Result<()> {
        let gone = self.read.segments.remove(&edit.remove);
        self.feeds.log().note_removed(&edit.remove);
        let gone: Vec<Arc<Segment>> = gone.into_iter().map(|tracked| Arc::clone(&tracked.segment)).collect();
        step();
        report.removed_segments = gone.len() as u64;
        report.removed_bytes = gone.iter().map(|segment| u64::from(segment.len_bytes())).sum();
        report.written_segments = edit.add.len() as u64;
        report.written_file_bytes = edit.add.iter().map(|output| u64::from(output.segment.len_bytes())).sum();
        turn.retired.extend(gone);
        self.free_retired(turn, store)
    }

    /// Frees the files of removed segments that no reader holds.
    pub(crate) fn free_retired(&self, turn: &mut Turn, store: &SegmentStore) -> Result<()> {
        if turn.retired.is_empty() {
            return Ok(());
        }
        self.feeds.give_up_removed(self.quota.is_kept() && !store.tail_stats().full);
        // The old table is freed once all guards that could see it have ended.
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

    /// Frees the files of removed segments, and waits briefly for readers that are about to end.
    pub(crate) fn free_patiently(&self, turn: &mut Turn) -> Result<()> {
        let store = self.store.in_use()?;
        self.free_retired(turn, &store)?;
        // Snapshots and values may hold the rest for any time; only guards are waited for.
        if !turn.retired.is_empty() && !planted("readers_not_awaited") {
            let _ended = synchronize(READERS_WAIT_MS);
            self.free_retired(turn, &store)?;
        }
        Ok(())
    }

    /// Counts the removed segments whose files are still held.
    pub(crate) fn count_retired(&self, turn: &Turn) {
        let bytes = turn.retired.iter().map(|segment| u64::from(segment.capacity_bytes())).sum();
        self.quota.set_retired_bytes(bytes);
        self.maintenance.note(|stats| stats.waiting_segments = turn.retired.len() as u64);
    }
}
