//! One run, from the victims to the freed files.
//!
//! 1. Survivors are copied into outputs, which are made durable and read back. Nothing points to
//!    them yet; a crash leaves garbage.
//! 2. The log is synced. What the run has left behind is dead because of newer commits, and these
//!    must not be lost once the older ones are gone.
//! 3. The manifest is replaced: outputs in, inputs out. From here on a crash leaves the outputs and
//!    no inputs, and both hold the same.
//! 4. The index is pointed to the outputs, record by record, each only if it still points to the
//!    old place. Readers that looked the old place up before still find the inputs in the table.
//! 5. Tombstones whose time has come are forgotten. Not earlier: as long as the inputs count, an
//!    older command that arrives late must meet them.
//! 6. The inputs leave the table. A reader that comes too late asks the index again.
//! 7. Their files are freed once nobody holds them any more.

use std::sync::Arc;

use hightower_compactor::{
    Budget, Goal, Moved, RateLimiter, RecordPlace, SegmentUsage, TombstoneRule, output_base_seq, rewrite,
};
use hightower_index::pin;
use hightower_segment::{CompactedSegment, Edit, Released, Segment, SegmentStore};
use hightower_state::StateWriter;

use crate::compaction::background::Turn;
use crate::compaction::host::{RunHost, place_of};
use crate::compaction::stats::RunReport;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::place::Place;
use crate::sync::step;
use crate::table::Tracked;

/// So many records are moved under one hold of the state's lock: few, since commits wait meanwhile.
const MOVES_PER_LOCK: usize = 24;

impl Core {
    /// Runs a compaction of `victims`, in the order given. Whatever is not a sealed segment of this
    /// store is left out.
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

        let mut host =
            RunHost::new(self, &store, &inputs, output_base_seq(usage, &ids), self.rate_limiter(usage, goal))?;
        let rule = |emptied: &[u32]| TombstoneRule::new(usage, &[emptied, &dead].concat());
        let rewritten = rewrite(&mut host, &ids, Budget::default(), rule)?;
        let outputs = host.finish()?;
        let removed = [dead, rewritten.emptied.clone()].concat();
        if removed.is_empty() && outputs.is_empty() {
            return Ok(RunReport::default());
        }
        let mut report = RunReport::default();
        report.note(&rewritten);
        if !planted("compaction_without_sync") {
            self.sync_to(self.index.visible_seq())?;
        }
        let edit = Edit { add: outputs, remove: removed };
        if let Err(failure) = store.install(&edit) {
            // Unless it is certain that nothing has changed, the manifest on disk may name the outputs already.
            if !store.is_poisoned() {
                edit.add.into_iter().for_each(|output| drop(store.release(output.segment)));
            }
            return Err(failure.into());
        }
        step();
        self.adopt(&edit.add)?;
        step();
        // From here on the index and the manifest must come to agree, or nothing more may be written.
        let in_order: Vec<_> = edit.add.iter().map(|output| output.segment.read_in_order()).collect();
        let moved = self.install_moves(&rewritten.moved).and_then(|()| self.forget(&rewritten.forgotten));
        report.forgotten_tombstones = moved.map_err(|failure| self.poison.latch(&failure))?;
        drop(in_order);
        self.retire(turn, &store, &edit, &mut report)?;
        Ok(report)
    }

    /// How fast to go: explicit runs, and runs that are badly needed, as fast as they can.
    fn rate_limiter(&self, usage: &[SegmentUsage], goal: Goal) -> RateLimiter {
        let dead: u64 = usage.iter().map(SegmentUsage::dead_bytes).sum();
        let len: u64 = usage.iter().map(|usage| usage.len_bytes).sum();
        let is_urgent = goal == Goal::Full || dead > len / 2 || !self.has_disk_for(0);
        let limit = if is_urgent { None } else { self.config.compaction.rate_limit_bytes_per_s };
        RateLimiter::new(limit, self.components.clock.elapsed())
    }

    /// Puts the outputs into the table, so that the index may point to them.
    fn adopt(&self, outputs: &[CompactedSegment]) -> Result<()> {
        for output in outputs {
            let tracked = self.segments.add(Arc::clone(&output.segment))?;
            tracked.add_records(output.records);
        }
        Ok(())
    }

    /// Points the index from the old places to the new ones.
    fn install_moves(&self, moved: &[Moved]) -> Result<()> {
        for some in moved.chunks(MOVES_PER_LOCK) {
            let guard = pin();
            let state = self.index.state(&guard)?;
            // The records are read before the lock is taken.
            let mut ready = Vec::with_capacity(MOVES_PER_LOCK);
            for moved in some {
                let to = self.tracked(moved.to.segment, &guard)?;
                let command = to.segment.record_at(moved.to.offset)?.command();
                let command = command.ok_or(Error::Internal("compaction: a record is no command".into()))?;
                ready.push((moved, command, to, self.tracked(moved.from.segment, &guard)?));
            }
            state.prefetch(&ready, |(_, command, ..)| command.key(), &guard, |_| ());
            let mut writer = state.writer();
            for (moved, command, to, from) in ready {
                let is_tombstone = command.value().is_none();
                let (old, new) = (place_of(moved.from), place_of(moved.to));
                let relocated = writer.relocate(command.key(), old, new, moved.len_bytes);
                if let Some(old_len_bytes) = relocated.newest_len_bytes {
                    to.add_live(moved.len_bytes, is_tombstone);
                    from.remove_live(old_len_bytes, is_tombstone);
                }
            }
        }
        Ok(())
    }

    /// Forgets tombstones, unless they were overtaken meanwhile. Gives how many.
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
            let mut writer: StateWriter<'_, Place> = self.index.state(&guard)?.writer();
            for (place, command) in ready {
                let is_there = writer.entry(command.key()).is_some_and(|entry| entry.location == place_of(place));
                forgotten += u64::from(is_there && writer.remove_tombstone(command.key(), command.version()));
            }
        }
        Ok(forgotten)
    }

    fn tracked<'g>(&'g self, id: u32, guard: &'g hightower_index::Guard) -> Result<&'g Arc<Tracked>> {
        let lost = || Error::Internal(format!("compaction: segment {id} is not in the table").into());
        self.segments.find(id, guard).ok_or_else(lost)
    }

    /// Takes the inputs out of the table, and frees what nobody holds.
    fn retire(&self, turn: &mut Turn, store: &SegmentStore, edit: &Edit, report: &mut RunReport) -> Result<()> {
        let gone = self.segments.remove(&edit.remove);
        let gone: Vec<Arc<Segment>> = gone.into_iter().map(|tracked| Arc::clone(&tracked.segment)).collect();
        step();
        report.removed_segments = gone.len() as u64;
        report.removed_bytes = gone.iter().map(|segment| u64::from(segment.len_bytes())).sum();
        report.written_segments = edit.add.len() as u64;
        report.written_file_bytes = edit.add.iter().map(|output| u64::from(output.segment.len_bytes())).sum();
        turn.retired.extend(gone);
        self.free_retired(turn, store)
    }

    /// Frees the files of removed segments that nobody holds any more.
    pub(crate) fn free_retired(&self, turn: &mut Turn, store: &SegmentStore) -> Result<()> {
        if turn.retired.is_empty() {
            return Ok(());
        }
        // The old table is freed once all guards of its time are gone; usually that takes two steps of the
        // epoch.
        (0..4).for_each(|_| pin().flush());
        let mut waiting = std::mem::take(&mut turn.retired).into_iter();
        while let Some(segment) = waiting.next() {
            match store.release(segment) {
                Ok(Released::InUse(segment)) => turn.retired.push(segment),
                Ok(Released::Removed) => {}
                Err(failure) => {
                    // The others are freed another time.
                    turn.retired.extend(waiting);
                    return Err(failure.into());
                }
            }
        }
        Ok(())
    }
}
