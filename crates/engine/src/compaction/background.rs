//! The background thread, and explicit compaction.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hightower_compactor::{CompactionPolicy, Goal, SegmentUsage};
use hightower_log::SegmentKind;
use hightower_seams::Clock;
use hightower_segment::{Purpose, SegmentError};

use crate::background_signal::Cause;
use crate::commit_log::CommitLock;
use crate::compaction::run::CompactionRunner;
use crate::compaction::stats::{CompactionReport, RunReport, Total};
use crate::compaction::usage::usage;
use crate::components::Components;
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::feed::FeedHub;
use crate::files::io_error;
use crate::guarded::{Panics, choose};
use crate::keyspace::KeyspaceRemoval;
use crate::maintenance::{Maintenance, Turn};
use crate::memory_budget::MemoryBudget;
use crate::mutants::planted;
use crate::observe::{Operation, observe};
use crate::open_store::OpenStore;
use crate::read_path::ReadPath;
use crate::table_flusher::TableFlusher;
use crate::tail_upkeep::TailUpkeep;
use crate::time::StoreTime;

/// Maximum delay of the background after failures.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(3600);

/// The first and the longest wait before a failed flush is repeated.
const FLUSH_WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The pause between two steps of the removal of a dropped keyspace: longer than a step, so that
/// other writers have more than half of the time.
const REMOVAL_PAUSE: Duration = Duration::from_millis(2);
/// As for a failed flush, before memory and files that readers held are looked at again.
const FREE_WAITS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(10));

/// Number of background runs before the turn is released for others.
const RUNS_PER_TURN: u32 = 16;

/// An explicit compaction rotates the active segment to order it, if it has more than this share of
/// the live bytes, and at least this number of bytes; less is not worth a segment.
const WORTH_ORDERING_SHARE: u64 = 16;
const WORTH_ORDERING_BYTES: u64 = 1 << 20;

/// Header and seal of an output: at most this.
const OUTPUT_FRAME_BYTES: u64 = 256;

/// The remaining segments of an explicit compaction: those that existed at its begin. So it
/// terminates under any rate of writes.
struct Session {
    ids: HashSet<u32>,
}

/// The schedule and the work of compaction.
#[derive(Debug)]
pub(crate) struct Compaction {
    policy: Arc<dyn CompactionPolicy>,
    clock: Arc<dyn Clock>,
    config: Arc<StoreConfig>,
    panics: Arc<Panics>,
    time: Arc<StoreTime>,
    read: Arc<ReadPath>,
    log: Arc<CommitLock>,
    store: Arc<OpenStore>,
    tail: Arc<TailUpkeep>,
    maintenance: Arc<Maintenance>,
    budget: Arc<MemoryBudget>,
    flusher: Arc<TableFlusher>,
    runner: Arc<CompactionRunner>,
    feeds: Arc<FeedHub>,
    removal: Arc<KeyspaceRemoval>,
}

/// The parts of a store that [`Compaction`] works with.
#[derive(Debug)]
pub(crate) struct CompactionParts<'a> {
    pub(crate) config: &'a Arc<StoreConfig>,
    pub(crate) panics: &'a Arc<Panics>,
    pub(crate) time: &'a Arc<StoreTime>,
    pub(crate) read: &'a Arc<ReadPath>,
    pub(crate) log: &'a Arc<CommitLock>,
    pub(crate) store: &'a Arc<OpenStore>,
    pub(crate) tail: &'a Arc<TailUpkeep>,
    pub(crate) maintenance: &'a Arc<Maintenance>,
    pub(crate) budget: &'a Arc<MemoryBudget>,
    pub(crate) flusher: &'a Arc<TableFlusher>,
    pub(crate) runner: &'a Arc<CompactionRunner>,
    pub(crate) feeds: &'a Arc<FeedHub>,
    pub(crate) removal: &'a Arc<KeyspaceRemoval>,
}

impl Compaction {
    pub(crate) fn new(components: &Components, parts: &CompactionParts<'_>) -> Self {
        Self {
            policy: Arc::clone(&components.policy),
            clock: Arc::clone(&components.clock),
            config: Arc::clone(parts.config),
            panics: Arc::clone(parts.panics),
            time: Arc::clone(parts.time),
            read: Arc::clone(parts.read),
            log: Arc::clone(parts.log),
            store: Arc::clone(parts.store),
            tail: Arc::clone(parts.tail),
            maintenance: Arc::clone(parts.maintenance),
            budget: Arc::clone(parts.budget),
            flusher: Arc::clone(parts.flusher),
            runner: Arc::clone(parts.runner),
            feeds: Arc::clone(parts.feeds),
            removal: Arc::clone(parts.removal),
        }
    }

    pub(crate) fn usage(&self) -> Vec<SegmentUsage> {
        usage(&self.read, &self.time, self.config.compaction.tombstone_grace)
    }

    /// The loop of the background thread, until [`Maintenance::close`]. Without an interval, it
    /// only flushes.
    pub(crate) fn run(&self) {
        let interval = self.config.compaction_interval;
        let may_compact = !interval.is_zero();
        // A replay may have filled the memtable.
        let mut memory_wait = self.keep_memory(None);
        let mut memory_at = self.clock.elapsed().saturating_add(memory_wait.unwrap_or_default());
        let mut left = interval;
        let mut retry_at = Duration::ZERO;
        let mut failures = 0_u32;
        let mut removal_wait = self.remove_dropped(None);
        loop {
            let wait = memory_wait.unwrap_or(LONGEST_BACK_OFF).min(if may_compact { left } else { LONGEST_BACK_OFF });
            let wait = wait.min(removal_wait.unwrap_or(LONGEST_BACK_OFF));
            let cause = self.maintenance.wait(wait);
            let was_removing = removal_wait.is_some();
            if cause != Cause::Closing {
                removal_wait = self.remove_dropped(removal_wait);
            }
            let is_time = match cause {
                Cause::Closing => return,
                Cause::Flush => true,
                Cause::Interval if !was_removing => memory_wait.is_some(),
                // Frequent wake-ups must neither put it off nor bring it forward.
                Cause::Interval | Cause::Woken => memory_wait.is_some() && self.clock.elapsed() >= memory_at,
            };
            if is_time {
                memory_wait = self.keep_memory(memory_wait.filter(|_| cause != Cause::Flush));
                memory_at = self.clock.elapsed().saturating_add(memory_wait.unwrap_or_default());
            }
            match cause {
                Cause::Closing | Cause::Flush => continue,
                Cause::Interval => {
                    left = left.saturating_sub(wait);
                    if !left.is_zero() {
                        continue;
                    }
                }
                Cause::Woken => {}
            }
            left = interval;
            let now = self.clock.elapsed();
            if !may_compact || now < retry_at || self.store.poison().check().is_err() {
                continue;
            }
            match observe(Operation::Compaction, || self.compact_in_background(cause == Cause::Interval)) {
                Ok(()) => failures = 0,
                Err(Error::Closed) => return,
                Err(failure) => {
                    failures = failures.saturating_add(1);
                    let wait = interval.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
                    retry_at = now.saturating_add(wait.min(LONGEST_BACK_OFF));
                    self.maintenance.note(|stats| stats.last_failure = Some(failure.to_string()));
                }
            }
            self.maintenance.note(|stats| {
                stats.failures = failures;
                if failures == 0 {
                    stats.last_failure = None;
                }
            });
        }
    }

    /// Flushes if a flush is due, and frees memtables and files that became unused. Returns the
    /// time after which it should be called again, if a flush failed or readers still hold memory
    /// or files; `waited` is the previous one.
    fn keep_memory(&self, waited: Option<Duration>) -> Option<Duration> {
        if self.store.poison().check().is_err() {
            return None;
        }
        let mut turn = self.maintenance.turn.lock().ok()?;
        let (first, longest) = match self.flusher.flush_if_due(&mut turn) {
            Ok(()) => FREE_WAITS,
            // Recorded in the budget's numbers.
            Err(_) => FLUSH_WAITS,
        };
        let freed = self.free_unused(&mut turn);
        if let Err(failure) = &freed {
            self.maintenance.note(|stats| stats.last_failure = Some(failure.to_string()));
        }
        self.runner.count_retired(&turn);
        let is_done = first == FREE_WAITS.0 && freed.is_ok() && turn.waiting.is_empty() && !self.budget.holds_memory();
        (!is_done).then(|| waited.map_or(first, |waited| waited.saturating_mul(2).clamp(first, longest)))
    }

    /// Deletes some keys of dropped keyspaces. Returns the time after which it should be called
    /// again, if there are more or it has failed; `waited` is the previous one.
    fn remove_dropped(&self, waited: Option<Duration>) -> Option<Duration> {
        if self.store.poison().check().is_err() {
            return None;
        }
        match self.removal.step() {
            Ok(false) | Err(Error::Closed) => None,
            Ok(true) => Some(REMOVAL_PAUSE),
            Err(failure) => {
                self.maintenance.note(|stats| stats.last_failure = Some(failure.to_string()));
                let (first, longest) = FLUSH_WAITS;
                Some(waited.map_or(first, |waited| waited.saturating_mul(2).clamp(first, longest)))
            }
        }
    }

    fn free_unused(&self, turn: &mut Turn) -> Result<()> {
        self.runner.free_retired(turn, &*self.store.in_use()?)?;
        self.read.index.handle()?.reclaim();
        Ok(())
    }

    /// Compacts until the policy chooses nothing. `may_roll`: the store is idle, so the active
    /// segment may be rotated.
    fn compact_in_background(&self, may_roll: bool) -> Result<()> {
        let mut turn = self.maintenance.turn.lock()?;
        self.flusher.mended(&mut turn, |turn| self.compact_some(turn, may_roll))
    }

    fn compact_some(&self, turn: &mut Turn, mut may_roll: bool) -> Result<()> {
        self.read.index.handle()?.reclaim();
        self.runner.free_retired(turn, &*self.store.in_use()?)?;
        let unmended = self.flusher.try_mend(turn)?;
        if self.store.in_use()?.tail_stats().full {
            self.flusher.settle_counts(turn, self.config.writes_checkpoint_after_compaction())?;
        }
        let mut has_run = false;
        let mut victims_max = usize::MAX;
        for left in (0..RUNS_PER_TURN).rev() {
            if left == 0 {
                // Other callers may wait for the turn: let them go first.
                self.maintenance.wake();
            }
            let usage = self.usage();
            let victims = self.choose(&usage, Goal::Background)?;
            if victims.is_empty() {
                if !(may_roll && self.active_is_in_the_way(&usage)) {
                    break;
                }
                may_roll = false;
                self.roll_active()?;
                continue;
            }
            let run = match self.compact_within(turn, &usage, victims, Goal::Background, &mut victims_max) {
                Err(Error::Full { .. }) if has_run => break,
                run => run?,
            };
            if run.removed_segments == 0 && run.written_segments == 0 {
                break;
            }
            has_run = true;
            self.maintenance.note_run(&run);
            let _recorded = self.flusher.flush_if_due(turn);
            self.flusher.try_merge(turn)?;
        }
        if has_run && self.config.writes_checkpoint_after_compaction() {
            let failure = self.flusher.try_flush(turn)?;
            self.maintenance.note(|stats| stats.checkpoint_failure = failure);
        }
        self.runner.count_retired(turn);
        unmended.map_or(Ok(()), Err)
    }

    /// A run of compaction. If it meets a damaged table, the store knows that.
    pub(crate) fn run_once(
        &self,
        turn: &mut Turn,
        usage: &[SegmentUsage],
        victims: &[u32],
        goal: Goal,
    ) -> Result<RunReport> {
        self.runner.compact(turn, usage, victims, goal).map_err(|failure| self.read.noted(failure))
    }

    fn choose(&self, usage: &[SegmentUsage], goal: Goal) -> Result<Vec<u32>> {
        choose(&self.panics, &*self.policy, usage, goal, &self.config.compaction)
    }

    /// See [`SingleNodeEngine::run_compaction_now`](crate::SingleNodeEngine::run_compaction_now).
    pub(crate) fn compact_fully(&self) -> Result<CompactionReport> {
        self.store.check_writable()?;
        self.maintenance.turn.refuse_holder()?;
        match self.removal.finish() {
            // It is still due; first, compaction makes room.
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(failure) => return Err(failure),
        }
        let before = self.maintenance.total();
        let started = self.clock.elapsed();
        let mut turn = self.maintenance.turn.lock()?;
        let before = if planted("background_not_reported") { self.maintenance.total() } else { before };
        let background_failure = self.maintenance.stats().last_failure;
        let checkpoint_failure = self.flusher.mended(&mut turn, |turn| self.compact_all(turn, &before))?;
        Ok(CompactionReport {
            waiting_segments: turn.waiting_segments() as u64,
            checkpoint_failure,
            background_failure,
            elapsed: self.clock.elapsed().saturating_sub(started),
            ..self.maintenance.total().since(&before)
        })
    }

    /// Compacts all segments that exist now. Returns the reason why no table was written at the
    /// end.
    fn compact_all(&self, turn: &mut Turn, before: &Total) -> Result<Option<String>> {
        self.read.index.handle()?.reclaim();
        self.runner.free_retired(turn, &*self.store.in_use()?)?;
        self.drop_dead(turn)?;
        let unmended = self.flusher.try_mend(turn)?;
        self.flusher.settle_counts(turn, self.config.writes_checkpoint_after_compaction())?;
        let usage = self.usage();
        let may_order = self.config.compaction.order_when_explicit && !self.store.in_use()?.tail_stats().full;
        if usage.iter().any(|active| !active.is_sealed && is_worth_rolling(active, &usage, may_order)) {
            match self.roll_active() {
                // Deletes have exhausted the reserve of the tail. Compaction of other segments
                // makes room for it.
                Ok(()) | Err(Error::Full { .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
        let session = Session { ids: self.usage().iter().map(|usage| usage.id).collect() };
        let mut victims_max = usize::MAX;
        while let Some(usage) = self.next_of(&session)? {
            let victims = self.choose(&usage, Goal::Full)?;
            let victims: Vec<u32> = victims.into_iter().filter(|id| session.ids.contains(id)).collect();
            if victims.is_empty() {
                break;
            }
            let run = match self.compact_within(turn, &usage, victims, Goal::Full, &mut victims_max) {
                Err(Error::Full { .. }) if self.maintenance.total().since(before).runs > 0 => break,
                run => run?,
            };
            if run.removed_segments == 0 && run.written_segments == 0 {
                break;
            }
            self.maintenance.note_run(&run);
            let _recorded = self.flusher.flush_if_due(turn);
            self.flusher.try_merge(turn)?;
        }
        if self.store.in_use()?.tail_stats().full {
            self.join_small(turn, &session)?;
        }
        if may_order {
            self.put_in_order(turn, &session)?;
        }
        let has_run = self.maintenance.total().since(before).runs > 0;
        let checkpoint_failure = if has_run && self.config.writes_checkpoint_after_compaction() {
            let failure = self.flusher.try_flush(turn)?;
            // Each run has left a table of its moves. Ranges are faster with one table.
            if !planted("moves_stay_in_their_tables") {
                self.flusher.merge_all(turn)?;
            }
            failure
        } else {
            None
        };
        self.runner.free_patiently(turn)?;
        self.runner.count_retired(turn);
        self.tail.give_back_unless_busy();
        unmended.map_or(Ok(checkpoint_failure), Err)
    }

    /// Compacts as many of the victims as fit the free room, those with the fewest live bytes
    /// first; `victims_max` is the number that fitted so far.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if the room is too small for the live bytes of one of them; the attempt
    /// leaves no files.
    fn compact_within(
        &self,
        turn: &mut Turn,
        usage: &[SegmentUsage],
        mut victims: Vec<u32>,
        goal: Goal,
        victims_max: &mut usize,
    ) -> Result<RunReport> {
        if victims.len() > *victims_max {
            keep_cheapest(&mut victims, usage, *victims_max);
        }
        loop {
            match self.run_once(turn, usage, &victims, goal) {
                Err(Error::Full { detail }) => {
                    // The files of an earlier run's inputs may have been in use until now.
                    let waiting = turn.waiting_segments();
                    self.runner.free_patiently(turn)?;
                    if turn.waiting_segments() < waiting {
                        continue;
                    }
                    if victims.len() <= 1 || planted("full_runs_are_not_made_smaller") {
                        return Err(Error::Full { detail });
                    }
                    let fewer = victims.len() / 2;
                    keep_cheapest(&mut victims, usage, fewer);
                    *victims_max = fewer;
                }
                Ok(run) => {
                    *victims_max = victims_max.saturating_mul(2);
                    return Ok(run);
                }
                failed => return failed,
            }
        }
    }

    /// Joins the segments with the least live bytes into one, on a device that has bytes but no
    /// free names: this frees names, even where nothing is dead.
    fn join_small(&self, turn: &mut Turn, session: &Session) -> Result<()> {
        let Some(usage) = self.next_of(session)? else { return Ok(()) };
        let store = self.store.in_use()?;
        let reserve_bytes = u64::from(store.compaction_reserve_len());
        let room = store.dir().room().map_err(|source| io_error("ask for the room of", store.dir().path(), source))?;
        if room.available_bytes < reserve_bytes.max(WORTH_ORDERING_BYTES) || planted("names_are_not_freed") {
            return Ok(());
        }
        let mut smallest: Vec<&SegmentUsage> = usage.iter().filter(|usage| usage.is_sealed).collect();
        smallest.sort_unstable_by_key(|usage| usage.live_bytes);
        let mut sum_bytes = OUTPUT_FRAME_BYTES;
        let fitting = smallest.iter().take_while(|usage| {
            sum_bytes += usage.live_bytes;
            sum_bytes <= reserve_bytes
        });
        let mut victims: Vec<u32> = fitting.map(|usage| usage.id).collect();
        victims.sort_unstable();
        // The output and the two reserves that are missing take three names.
        if victims.len() < 4 {
            return Ok(());
        }
        match self.run_once(turn, &usage, &victims, Goal::Full) {
            Ok(run) => self.maintenance.note_run(&run),
            Err(Error::Full { .. }) => {}
            Err(failure) => return Err(failure),
        }
        self.runner.free_patiently(turn)
    }

    /// Rewrites segments in commit order into key order. This is optional: it stops when room is
    /// short.
    fn put_in_order(&self, turn: &mut Turn, session: &Session) -> Result<()> {
        while let Some(usage) = self.next_of(session)? {
            let is_unordered = |usage: &&SegmentUsage| {
                usage.is_sealed && usage.kind == SegmentKind::Append && session.ids.contains(&usage.id)
            };
            let unordered: Vec<&SegmentUsage> = usage.iter().filter(is_unordered).collect();
            let live_bytes: u64 = unordered.iter().map(|usage| usage.live_bytes).sum();
            if live_bytes < WORTH_ORDERING_BYTES || self.store.in_use()?.tail_stats().full {
                break;
            }
            let victims: Vec<u32> = unordered.iter().map(|usage| usage.id).collect();
            let run = match self.run_once(turn, &usage, &victims, Goal::Full) {
                Ok(run) => run,
                Err(Error::Full { .. }) => break,
                Err(failure) => return Err(failure),
            };
            if run.removed_segments == 0 && run.written_segments == 0 {
                break;
            }
            self.maintenance.note_run(&run);
            self.flusher.try_merge(turn)?;
        }
        Ok(())
    }

    /// Drops fully dead segments. This needs no room, so it runs first: on a full device it frees
    /// room.
    fn drop_dead(&self, turn: &mut Turn) -> Result<()> {
        // Recently rotated segments may not be sealed yet.
        self.store.in_use()?.sync_predecessors().map_err(|failure| self.store.append_failed(failure))?;
        let usage = self.usage();
        let dead: Vec<u32> =
            usage.iter().filter(|usage| usage.is_sealed && usage.is_dead()).map(|usage| usage.id).collect();
        if dead.is_empty() {
            return Ok(());
        }
        let run = self.run_once(turn, &usage, &dead, Goal::Full)?;
        self.maintenance.note_run(&run);
        self.runner.free_patiently(turn)
    }

    /// The figures of the segments, for the next run of a session; later segments appear as fully
    /// live. `None` at the end.
    fn next_of(&self, session: &Session) -> Result<Option<Vec<SegmentUsage>>> {
        self.store.check_writable()?;
        let mut usage = self.usage();
        for usage in usage.iter_mut().filter(|usage| !session.ids.contains(&usage.id)) {
            // Its dead records still count: they may block tombstones.
            usage.expired_tombstone_bytes = 0;
            usage.retained_records = usage.retained_records.max(usage.dead_records());
        }
        let is_any_left = usage.iter().any(|usage| session.ids.contains(&usage.id));
        Ok(is_any_left.then_some(usage))
    }

    /// Whether too much garbage exists, most of it in the active segment.
    fn active_is_in_the_way(&self, usage: &[SegmentUsage]) -> bool {
        let config = &self.config.compaction;
        let exceeds =
            |part: u64, whole: u64, percent: u8| u128::from(part) * 100 > u128::from(whole) * u128::from(percent);
        let dead: u64 = usage.iter().map(SegmentUsage::dead_bytes).sum();
        let len: u64 = usage.iter().map(|usage| usage.len_bytes).sum();
        let active = usage.iter().find(|usage| !usage.is_sealed);
        exceeds(dead, len, config.start_percent)
            && active.is_some_and(|active| exceeds(active.dead_bytes(), active.len_bytes, config.min_victim_percent))
    }

    /// Rotates and seals the active segment, so that it can be compacted.
    fn roll_active(&self) -> Result<()> {
        let store = self.store.in_use()?;
        // The successor is created before the lock is taken, so that no writer waits for it.
        // Without room for it the rotation uses a reserve or fails.
        match store.prepare_next(self.time.stamp(self.read.index.max_version())) {
            Ok(_) | Err(SegmentError::Full { .. }) => {}
            Err(failure) => return Err(self.store.append_failed(failure)),
        }
        {
            let mut log = self.log.lock()?;
            let stamp = self.time.stamp(log.max_version);
            log.appender.roll(0, Purpose::Reclaim, stamp).map_err(|failure| self.store.append_failed(failure))?;
            log.adopt_segment(&self.read.segments, &self.feeds)
                .map_err(|failure| self.store.poison().latch(&failure))?;
        }
        self.tail.wake();
        store.sync_predecessors()?;
        Ok(())
    }
}

/// Keeps the victims with the fewest bytes that the state or a snapshot needs: these are copied.
fn keep_cheapest(victims: &mut Vec<u32>, usage: &[SegmentUsage], count: usize) {
    let needed_bytes = |id: &u32| {
        let found = usage.binary_search_by_key(id, |usage| usage.id).ok().and_then(|at| usage.get(at));
        found.map_or(0, |usage| usage.len_bytes.saturating_sub(usage.dead_bytes()))
    };
    victims.sort_by_key(needed_bytes);
    victims.truncate(count);
}

/// Whether an explicit compaction rotates the active segment: to free space, or to order a large
/// part of the store.
fn is_worth_rolling(active: &SegmentUsage, all: &[SegmentUsage], may_order: bool) -> bool {
    let live: u64 = all.iter().map(|usage| usage.live_bytes).sum();
    let is_good_part = active.live_bytes > (live / WORTH_ORDERING_SHARE).max(WORTH_ORDERING_BYTES);
    active.dead_records() + active.expired_tombstone_bytes > 0 || (may_order && is_good_part)
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::time::Duration;

    use hightower_compactor::SegmentUsage;
    use hightower_log::SegmentKind;

    use super::keep_cheapest;

    #[test]
    fn what_snapshots_need_is_written_too() {
        let usage = |id, live_bytes, retained_records| SegmentUsage {
            id,
            kind: SegmentKind::Append,
            is_sealed: true,
            base_seq: 0,
            len_bytes: 1000,
            records: 100,
            live_records: 10,
            live_bytes,
            retained_records,
            expired_tombstone_bytes: 0,
            age: Duration::ZERO,
        };
        let all = [usage(1, 100, 80), usage(2, 300, 0), usage(3, 200, 0)];
        let mut victims = vec![1, 2, 3];
        keep_cheapest(&mut victims, &all, 2);
        assert_eq!(victims, [3, 2], "nearly all of the first segment is needed");
    }
}
