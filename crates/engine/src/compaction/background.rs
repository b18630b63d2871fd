//! The turn, the thread in the background, and the explicit run.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hightower_compactor::{Goal, SegmentUsage};
use hightower_log::SegmentKind;
use hightower_seams::lock_order::Rank;
use hightower_segment::{Purpose, Segment, SegmentError};

use crate::compaction::stats::{CompactionReport, CompactionStats, RunReport, Total};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::guarded::choose;
use crate::mutants::planted;
use crate::observe::{Operation, observe};
use crate::sync::{Condvar, Mutex};
use crate::turn::{CheckedMutex, HasRank};

/// After failures the background waits at most this long until it tries again.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(3600);

/// An explicit run tries so often to free the files of what it has removed.
const FREEING_ATTEMPTS: usize = 16;

/// So many runs in the background, and others get the turn.
const RUNS_PER_TURN: u32 = 16;

/// The background looks when the log has grown by one part in so many of its segments: a look costs
/// the more the more segments there are.
const LOOK_SHARE: usize = 64;

/// The active segment is ended to be put in order if it holds more than one part in so many of what
/// lives, and at least so many bytes; less is not worth a segment.
const WORTH_ORDERING_SHARE: u64 = 16;
const WORTH_ORDERING_BYTES: u64 = 1 << 20;

impl HasRank for Turn {
    const RANK: Rank = Rank::Turn;
}

/// The data of the turn's holder.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Segments that count no longer, and whose files are still held.
    pub(crate) retired: Vec<Arc<Segment>>,
    /// The name of the checkpoint that the manifest names, and the seq and the number of runs that
    /// it was taken at.
    pub(crate) checkpoint: Option<(String, u64, u64)>,
}

#[derive(Debug, Default)]
struct Signal {
    is_woken: bool,
    is_closing: bool,
}

/// What made the background look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Interval,
    Woken,
    Closing,
}

/// What compaction has done.
#[derive(Debug, Default)]
struct Books {
    stats: CompactionStats,
    total: Total,
}

/// Compaction, checkpoints and backups take turns here.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    pub(crate) turn: CheckedMutex<Turn>,
    signal: Mutex<Signal>,
    wake: Condvar,
    books: Mutex<Books>,
    checkpoint_bytes: AtomicU64,
    retired_bytes: AtomicU64,
    /// How many segments were ended since the background was woken for it.
    rolls: AtomicUsize,
    /// When the store was opened, Unix milliseconds.
    opened_ms: AtomicI64,
}

impl Upkeep {
    /// There may be something to compact.
    pub(crate) fn wake(&self) {
        self.signal.lock().is_woken = true;
        self.wake.notify_one();
    }

    /// The log has gone on to a new segment, of so many: time to look whether there is something to
    /// compact, if it has grown enough since.
    pub(crate) fn note_roll(&self, segments: usize) {
        let rolls = self.rolls.fetch_add(1, Ordering::Relaxed) + 1;
        if rolls >= segments / LOOK_SHARE || planted("each_roll_looks_at_all_segments") {
            self.rolls.store(0, Ordering::Relaxed);
            self.wake();
        }
    }

    /// Ends the thread in the background.
    pub(crate) fn close(&self) {
        self.signal.lock().is_closing = true;
        self.wake.notify_all();
    }

    fn wait(&self, interval: Duration) -> Cause {
        let mut signal = self.signal.lock();
        if !signal.is_woken && !signal.is_closing {
            self.wake.wait_for(&mut signal, interval);
        }
        if signal.is_closing {
            return Cause::Closing;
        }
        if std::mem::take(&mut signal.is_woken) { Cause::Woken } else { Cause::Interval }
    }

    /// When the store was opened, Unix milliseconds: whatever a crash has left was there by then.
    pub(crate) fn opened_ms(&self) -> i64 {
        self.opened_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn set_opened_ms(&self, opened_ms: i64) {
        self.opened_ms.store(opened_ms, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> CompactionStats {
        self.books.lock().stats.clone()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut CompactionStats)) {
        change(&mut self.books.lock().stats);
    }

    fn note_run(&self, run: &RunReport) {
        let mut books = self.books.lock();
        books.stats.add(run);
        books.total.add(run);
    }

    /// All that was done since the store was opened.
    fn total(&self) -> Total {
        self.books.lock().total.clone()
    }

    /// What the store takes on disk besides segments.
    pub(crate) fn other_bytes(&self) -> u64 {
        self.checkpoint_bytes.load(Ordering::Relaxed) + self.retired_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn set_checkpoint_bytes(&self, len_bytes: u64) {
        self.checkpoint_bytes.store(len_bytes, Ordering::Relaxed);
    }

    fn note_retired(&self, turn: &Turn) {
        let bytes = turn.retired.iter().map(|segment| u64::from(segment.capacity_bytes())).sum();
        self.retired_bytes.store(bytes, Ordering::Relaxed);
        self.note(|stats| stats.waiting_segments = turn.retired.len() as u64);
    }
}

/// What an explicit run still has to look at: the segments that were there when it began. So it
/// comes to an end however much is written.
struct Session {
    ids: HashSet<u32>,
}

impl Core {
    /// The thread in the background; runs until [`Upkeep::close`].
    pub(crate) fn keep_up(&self) {
        let interval = self.config.compaction_interval;
        let mut retry_at = Duration::ZERO;
        let mut failures = 0_u32;
        loop {
            let cause = self.upkeep.wait(interval);
            if cause == Cause::Closing {
                return;
            }
            let now = self.components.clock.elapsed();
            if now < retry_at || self.poison.check().is_err() {
                continue;
            }
            match observe(Operation::Compaction, || self.compact_in_background(cause == Cause::Interval)) {
                Ok(()) => failures = 0,
                Err(Error::Closed) => return,
                Err(failure) => {
                    failures = failures.saturating_add(1);
                    let wait = interval.saturating_mul(1_u32.checked_shl(failures).unwrap_or(u32::MAX));
                    retry_at = now.saturating_add(wait.min(LONGEST_BACK_OFF));
                    self.upkeep.note(|stats| stats.last_failure = Some(failure.to_string()));
                }
            }
            self.upkeep.note(|stats| {
                stats.failures = failures;
                if failures == 0 {
                    stats.last_failure = None;
                }
            });
        }
    }

    /// Compacts until the policy is content. `may_roll`: nothing else has called for it, so the
    /// active segment may be ended for it.
    fn compact_in_background(&self, mut may_roll: bool) -> Result<()> {
        let mut turn = self.upkeep.turn.lock()?;
        self.index.handle()?.reclaim();
        self.free_retired(&mut turn, &*self.store.in_use()?)?;
        let mut has_run = false;
        let mut victims_max = usize::MAX;
        for left in (0..RUNS_PER_TURN).rev() {
            if left == 0 {
                // Others may want the turn; go on after them.
                self.upkeep.wake();
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
            let run = match self.compact_within(&mut turn, &usage, victims, Goal::Background, &mut victims_max) {
                Err(Error::Full { .. }) if has_run => break,
                run => run?,
            };
            if run.removed_segments == 0 && run.written_segments == 0 {
                break;
            }
            has_run = true;
            self.upkeep.note_run(&run);
        }
        if has_run && self.config.writes_checkpoint_after_compaction() {
            let failure = self.try_checkpoint(&mut turn)?;
            self.upkeep.note(|stats| stats.checkpoint_failure = failure);
        }
        self.upkeep.note_retired(&turn);
        Ok(())
    }

    fn choose(&self, usage: &[SegmentUsage], goal: Goal) -> Result<Vec<u32>> {
        choose(&self.panics, &*self.components.policy, usage, goal, &self.config.compaction)
    }

    /// See [`SingleNodeEngine::run_compaction_now`](crate::SingleNodeEngine::run_compaction_now).
    pub(crate) fn compact_fully(&self) -> Result<CompactionReport> {
        self.check_writable()?;
        let before = self.upkeep.total();
        let started = self.components.clock.elapsed();
        let mut turn = self.upkeep.turn.lock()?;
        let before = if planted("background_not_reported") { self.upkeep.total() } else { before };
        let background_failure = self.upkeep.stats().last_failure;
        self.index.handle()?.reclaim();
        self.free_retired(&mut turn, &*self.store.in_use()?)?;
        self.drop_dead(&mut turn)?;
        let usage = self.usage();
        let may_order = self.config.compaction.order_when_explicit && !self.store.in_use()?.tail_stats().full;
        if usage.iter().any(|active| !active.is_sealed && is_worth_rolling(active, &usage, may_order)) {
            match self.roll_active() {
                // Deletes have used up what there was for the tail. What the other segments give
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
            let run = match self.compact_within(&mut turn, &usage, victims, Goal::Full, &mut victims_max) {
                Err(Error::Full { .. }) if self.upkeep.total().since(&before).runs > 0 => break,
                run => run?,
            };
            if run.removed_segments == 0 && run.written_segments == 0 {
                break;
            }
            self.upkeep.note_run(&run);
        }
        if may_order {
            self.put_in_order(&mut turn, &session)?;
        }
        let has_run = self.upkeep.total().since(&before).runs > 0;
        let checkpoint_failure = if has_run && self.config.writes_checkpoint_after_compaction() {
            self.try_checkpoint(&mut turn)?
        } else {
            None
        };
        self.free_patiently(&mut turn)?;
        self.upkeep.note_retired(&turn);
        self.rest_unless_busy();
        Ok(CompactionReport {
            waiting_segments: turn.retired.len() as u64,
            checkpoint_failure,
            background_failure,
            elapsed: self.components.clock.elapsed().saturating_sub(started),
            ..self.upkeep.total().since(&before)
        })
    }

    /// Runs a compaction of as many of the victims as there is room for, those with the fewest live
    /// bytes first; `victims_max` is how many there was room for so far.
    ///
    /// # Errors
    ///
    /// [`Error::Full`] if there is no room for what lives in one of them; what was tried has left
    /// no trace.
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
            match self.compact(turn, usage, &victims, goal) {
                Err(Error::Full { detail }) => {
                    // The files of an earlier run's inputs may have been held until now.
                    let waiting = turn.retired.len();
                    self.free_patiently(turn)?;
                    if turn.retired.len() < waiting {
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

    /// Rewrites in key order what the log has left in the order of its commits. A luxury: once
    /// there is no room for it, it ends.
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
            let run = match self.compact(turn, &usage, &victims, Goal::Full) {
                Ok(run) => run,
                Err(Error::Full { .. }) => break,
                Err(failure) => return Err(failure),
            };
            if run.removed_segments == 0 && run.written_segments == 0 {
                break;
            }
            self.upkeep.note_run(&run);
        }
        Ok(())
    }

    /// Drops the segments that hold nothing any more. It needs no room, so it comes before all that
    /// does: on a full device it makes what there is.
    fn drop_dead(&self, turn: &mut Turn) -> Result<()> {
        // Segments that were rolled a moment ago may not be sealed yet.
        self.store.in_use()?.sync_predecessors().map_err(|failure| self.append_failed(failure))?;
        let usage = self.usage();
        let dead: Vec<u32> =
            usage.iter().filter(|usage| usage.is_sealed && usage.is_dead()).map(|usage| usage.id).collect();
        if dead.is_empty() {
            return Ok(());
        }
        let run = self.compact(turn, &usage, &dead, Goal::Full)?;
        self.upkeep.note_run(&run);
        self.free_patiently(turn)
    }

    /// Frees what is retired, waiting a little for readers that are about to be done with it.
    pub(crate) fn free_patiently(&self, turn: &mut Turn) -> Result<()> {
        let store = self.store.in_use()?;
        for _ in 0..FREEING_ATTEMPTS {
            self.free_retired(turn, &store)?;
            if turn.retired.is_empty() {
                break;
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// The segments in numbers, for the next run of a session; what came later is shown as having
    /// nothing to give. `None`: all is done.
    fn next_of(&self, session: &Session) -> Result<Option<Vec<SegmentUsage>>> {
        self.check_writable()?;
        let mut usage = self.usage();
        for usage in usage.iter_mut().filter(|usage| !session.ids.contains(&usage.id)) {
            // Its dead records stay in view: they may block tombstones.
            usage.expired_tombstone_bytes = 0;
            usage.retained_records = usage.retained_records.max(usage.dead_records());
        }
        let is_any_left = usage.iter().any(|usage| session.ids.contains(&usage.id));
        Ok(is_any_left.then_some(usage))
    }

    /// Whether too much of the log could be freed, and the active segment is what holds it.
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

    /// Ends the active segment and seals it, so that it can be compacted.
    pub(crate) fn roll_active(&self) -> Result<()> {
        let store = self.store.in_use()?;
        // The successor is made before the lock is taken, so that nobody waits for it. Without room for it
        // the roll looks for another way.
        match store.prepare_next(self.stamp()) {
            Ok(_) | Err(SegmentError::Full { .. }) => {}
            Err(failure) => return Err(self.append_failed(failure)),
        }
        {
            let mut log = self.commit_log()?;
            let stamp = self.stamp_of(log.max_version);
            log.appender.roll(0, Purpose::Reclaim, stamp).map_err(|failure| self.append_failed(failure))?;
            // Records of a segment that the table does not have could not be found.
            let added = self.segments.add(Arc::clone(log.appender.segment()));
            log.active = added.map_err(|failure| self.poison.latch(&failure))?;
        }
        self.wake_tail();
        store.sync_predecessors()?;
        Ok(())
    }
}

/// Of these victims, keeps those with the fewest live bytes.
fn keep_cheapest(victims: &mut Vec<u32>, usage: &[SegmentUsage], count: usize) {
    let live_bytes = |id: &u32| {
        let found = usage.binary_search_by_key(id, |usage| usage.id).ok().and_then(|at| usage.get(at));
        found.map_or(0, |usage| usage.live_bytes)
    };
    victims.sort_by_key(live_bytes);
    victims.truncate(count);
}

/// Whether an explicit compaction ends the active segment: for what it could free, or for a good
/// part of the store that it could put in order.
fn is_worth_rolling(active: &SegmentUsage, all: &[SegmentUsage], may_order: bool) -> bool {
    let live: u64 = all.iter().map(|usage| usage.live_bytes).sum();
    let is_good_part = active.live_bytes > (live / WORTH_ORDERING_SHARE).max(WORTH_ORDERING_BYTES);
    active.dead_records() + active.expired_tombstone_bytes > 0 || (may_order && is_good_part)
}

#[cfg(test)]
mod tests {
    use super::Upkeep;

    #[test]
    fn the_more_segments_there_are_the_more_rolls_it_takes_to_look_at_them_all() {
        let rolls_per_look = |segments: usize| {
            let upkeep = Upkeep::default();
            (1..).find(|_| {
                upkeep.note_roll(segments);
                upkeep.signal.lock().is_woken
            })
        };
        assert_eq!([1, 64, 128, 31_000].map(rolls_per_look), [1, 1, 2, 484].map(Some));
    }
}
