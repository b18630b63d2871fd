//! The budget of the memtables' memory: when a flush is due, and the delay of writers while a flush
//! is slower than they are.
//!
//! A commit costs a compare of its log positions and of one number; the sizes are looked at once
//! per step of the log, after the commit lock is released. Half of the budget is for the active
//! memtable, the other half for the frozen one that is being written to a table.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hightower_seams::Clock;
use hightower_segment::CoveredPosition;
use hightower_state::{LevelStats, LeveledKvState};

use crate::config::StoreConfig;
use crate::error::Error;
use crate::maintenance::Maintenance;
use crate::mutants::planted;
use crate::read_path::ReadPath;
use crate::sync::Mutex;
use crate::tables::Tables;

/// A flush is due when the log since the last one has this many times the budget's bytes.
const LOG_TIMES: u64 = 2;
/// The sizes are looked at about this often while the log grows by the budget's bytes, but not more
/// often than each KiB, and at least each MiB.
const STEPS_PER_BUDGET: u64 = 64;
const STEP_BITS_MIN: u32 = 10;
const STEP_BITS_MAX: u32 = 20;
/// The delay of a commit when the excess over the budget is an `EXCESS_SHARE`th of the budget or
/// more.
const LONGEST_DELAY: Duration = Duration::from_millis(10);
const EXCESS_SHARE: u64 = 4;
/// In the word of [`MemoryBudget`]: the log has made a step. The other bits are the delay in ns.
const STEP_MADE: u64 = 1 << 63;

/// Numbers of the memory of the index, in [`Stats::index_memory`](crate::Stats::index_memory).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct IndexMemoryStats {
    /// The budget: [`StoreConfig::index_memory_bytes`](crate::StoreConfig::index_memory_bytes).
    pub budget_bytes: u64,
    /// Memory of the active memtable, which commits go to.
    pub active_bytes: u64,
    /// Memory of the frozen memtables, which wait to become tables or are being written.
    pub frozen_bytes: u64,
    /// Memory of memtables that have become tables, and that snapshots and readers still hold. It
    /// does not count against the budget.
    pub held_bytes: u64,
    /// Bytes of the log since the last flush began, in steps: an open after a crash replays about
    /// this much, and what a failed flush left.
    pub log_bytes: u64,
    /// Number of flushes that the budget, or the length of the log, has caused.
    pub flushes: u64,
    /// Number of merges of tables.
    pub merges: u64,
    /// Number of commits that were delayed because flushes were slower than the writers.
    pub delays: u64,
    /// The sum of these delays.
    pub delayed: Duration,
    /// The reason why the last flush that was due failed, such as a full device. While it is set,
    /// memory may grow beyond the budget and writers are not delayed; the flush is repeated.
    pub flush_failure: Option<String>,
}

/// The budget, and what it has caused.
#[derive(Debug)]
pub(crate) struct MemoryBudget {
    budget_bytes: u64,
    /// log2 of the bytes of log between two looks at the sizes.
    step_bits: u32,
    /// The delay of commits in ns, and [`STEP_MADE`]. A commit reads only this.
    word: AtomicU64,
    /// Bytes of log since the last freeze. Changed under the commit lock.
    log_bytes: AtomicU64,
    flushes: AtomicU64,
    merges: AtomicU64,
    delays: AtomicU64,
    delayed_ns: AtomicU64,
    flush_failure: Mutex<Option<String>>,
    clock: Arc<dyn Clock>,
    read: Arc<ReadPath>,
    maintenance: Arc<Maintenance>,
}

impl MemoryBudget {
    /// The budget of an open store, whose log behind the tables counts as written now.
    pub(crate) fn new(
        config: &StoreConfig,
        clock: &Arc<dyn Clock>,
        read: &Arc<ReadPath>,
        tables: &Tables,
        maintenance: &Arc<Maintenance>,
    ) -> Self {
        let step_bytes = config.index_memory_bytes / STEPS_PER_BUDGET;
        Self {
            budget_bytes: config.index_memory_bytes,
            step_bits: step_bytes.max(1).ilog2().clamp(STEP_BITS_MIN, STEP_BITS_MAX),
            word: AtomicU64::new(0),
            log_bytes: AtomicU64::new(bytes_behind(read, &tables.covered())),
            flushes: AtomicU64::new(0),
            merges: AtomicU64::new(0),
            delays: AtomicU64::new(0),
            delayed_ns: AtomicU64::new(0),
            flush_failure: Mutex::default(),
            clock: Arc::clone(clock),
            read: Arc::clone(read),
            maintenance: Arc::clone(maintenance),
        }
    }

    /// log2 of the bytes of log after which a commit calls [`note_step`](Self::note_step).
    #[inline]
    pub(crate) fn step_bits(&self) -> u32 {
        self.step_bits
    }

    /// Records under the commit lock that the log has grown from one position of a segment to
    /// another, beyond a multiple of the step.
    pub(crate) fn note_step(&self, from: u32, to: u32) {
        let steps = u64::from(to >> self.step_bits).saturating_sub(u64::from(from >> self.step_bits));
        self.grow(steps << self.step_bits);
    }

    /// Records under the commit lock that a segment has ended at this position.
    pub(crate) fn note_rotation(&self, end: u32) {
        self.grow(u64::from(end) & ((1 << self.step_bits) - 1));
    }

    fn grow(&self, len_bytes: u64) {
        if !planted("log_bytes_not_counted") {
            self.log_bytes.fetch_add(len_bytes, Ordering::Relaxed);
        }
        self.word.fetch_or(STEP_MADE, Ordering::Relaxed);
    }

    /// Records under the commit lock that the active memtable was frozen.
    pub(crate) fn note_freeze(&self) {
        self.log_bytes.store(0, Ordering::Relaxed);
    }

    /// Whether a commit must call [`attend`](Self::attend) after it has released the lock.
    #[inline]
    pub(crate) fn wants_attention(&self) -> bool {
        self.word.load(Ordering::Relaxed) != 0
    }

    /// Looks at the sizes if the log has made a step, and delays the commit if memory exceeds the
    /// budget. Returns whether a flush is due.
    #[cold]
    pub(crate) fn attend(&self) -> bool {
        let word = self.word.fetch_and(!STEP_MADE, Ordering::Relaxed);
        // A delay may be out of date: not all flushes look at the sizes.
        let is_due = word != 0 && self.look();
        let delay = Duration::from_nanos(self.word.load(Ordering::Relaxed) & !STEP_MADE);
        if !delay.is_zero() && !planted("writers_not_slowed") {
            self.clock.sleep(delay);
            self.delays.fetch_add(1, Ordering::Relaxed);
            self.delayed_ns.fetch_add(nanos(delay), Ordering::Relaxed);
        }
        is_due
    }

    /// Looks at the sizes, sets the delay, and wakes the background if a flush is due. Returns
    /// whether one is. After a failed flush nobody is delayed, and the background repeats the flush
    /// after its own wait.
    pub(crate) fn look(&self) -> bool {
        let Some(levels) = self.levels() else { return false };
        let has_failed = self.flush_failure.lock().is_some();
        let delay = if has_failed { Duration::ZERO } else { delay(counted_bytes(&levels), self.budget_bytes) };
        let _always =
            self.word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| Some(word & STEP_MADE | nanos(delay)));
        let is_due = self.is_due_at(&levels);
        if is_due && (!has_failed || planted("failed_flushes_repeated_at_once")) {
            self.maintenance.wake_for_flush();
        }
        is_due
    }

    /// Whether a flush is due: the active memtable has reached its half of the budget, or the log
    /// its length, or an earlier flush has left frozen memtables.
    pub(crate) fn is_due(&self) -> bool {
        self.levels().is_some_and(|levels| self.is_due_at(&levels))
    }

    fn is_due_at(&self, levels: &LevelStats) -> bool {
        let is_full = levels.active_bytes as u64 >= self.budget_bytes / 2 && !planted("full_memtables_not_flushed");
        let is_long = self.log_bytes.load(Ordering::Relaxed) >= self.budget_bytes.saturating_mul(LOG_TIMES);
        (levels.frozen > 0 && !planted("failed_flush_not_repeated")) || ((is_full || is_long) && self.has_entries())
    }

    fn has_entries(&self) -> bool {
        let entries = |state: &LeveledKvState<_>| {
            let stats = state.active_memtable().stats();
            stats.live_keys + stats.tombstones > 0
        };
        self.read.index.number(entries, |_| false)
    }

    /// Records the end of a flush that was due.
    pub(crate) fn note_flush(&self, failure: Option<&Error>) {
        match failure {
            None => drop(self.flushes.fetch_add(1, Ordering::Relaxed)),
            // The flush is the next open's.
            Some(Error::Closed) => return,
            Some(_) => {}
        }
        let before = std::mem::replace(&mut *self.flush_failure.lock(), failure.map(ToString::to_string));
        if failure.is_some() && before.is_none() {
            // The background may not be the one whose flush has failed.
            self.maintenance.wake_for_flush();
        }
        self.look();
    }

    /// Records that no flush is due: another one has made up for one that failed.
    pub(crate) fn note_none_due(&self) {
        *self.flush_failure.lock() = None;
    }

    pub(crate) fn note_merge(&self) {
        self.merges.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether memtables that have become tables still take memory.
    pub(crate) fn holds_memory(&self) -> bool {
        self.levels().is_some_and(|levels| levels.held_bytes > 0)
    }

    fn levels(&self) -> Option<LevelStats> {
        self.read.index.number(|state| Some(state.level_stats()), |_| None)
    }

    pub(crate) fn stats(&self) -> IndexMemoryStats {
        let levels = self.levels();
        let of_levels = |bytes: fn(&LevelStats) -> usize| levels.as_ref().map_or(0, bytes) as u64;
        IndexMemoryStats {
            budget_bytes: self.budget_bytes,
            active_bytes: of_levels(|levels| levels.active_bytes),
            frozen_bytes: of_levels(|levels| levels.frozen_bytes),
            held_bytes: of_levels(|levels| levels.held_bytes),
            log_bytes: self.log_bytes.load(Ordering::Relaxed),
            flushes: self.flushes.load(Ordering::Relaxed),
            merges: self.merges.load(Ordering::Relaxed),
            delays: self.delays.load(Ordering::Relaxed),
            delayed: Duration::from_nanos(self.delayed_ns.load(Ordering::Relaxed)),
            flush_failure: self.flush_failure.lock().clone(),
        }
    }
}

/// Bytes of the log behind a position.
fn bytes_behind(read: &ReadPath, covered: &CoveredPosition) -> u64 {
    let segments = read.segments.all();
    let behind = segments.iter().map(|tracked| {
        let segment = &tracked.segment;
        u64::from(segment.len_bytes().saturating_sub(covered.end_in(segment.id(), segment.kind())))
    });
    behind.sum()
}

/// The memory that counts against the budget.
fn counted_bytes(levels: &LevelStats) -> u64 {
    let frozen_bytes = if planted("frozen_bytes_not_counted") { 0 } else { levels.frozen_bytes };
    (levels.active_bytes + frozen_bytes) as u64
}

/// The delay of a commit: the square of the excess, so that it begins gently.
fn delay(used_bytes: u64, budget_bytes: u64) -> Duration {
    let full_excess_bytes = (budget_bytes / EXCESS_SHARE).max(1);
    let excess_bytes = used_bytes.saturating_sub(budget_bytes).min(full_excess_bytes);
    #[allow(clippy::cast_precision_loss, reason = "a delay needs no more than some digits")]
    let share = excess_bytes as f64 / full_excess_bytes as f64;
    LONGEST_DELAY.mul_f64(share * share)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX) & !STEP_MADE
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::delay;

    #[test]
    fn the_delay_grows_with_the_excess_up_to_10_ms() {
        let us = |used_bytes| delay(used_bytes, 1000).as_micros();
        assert_eq!([0, 999, 1000, 1025, 1125, 1250, 9999].map(us), [0, 0, 0, 100, 2500, 10_000, 10_000]);
        assert_eq!(delay(u64::MAX, u64::MAX), Duration::ZERO);
        assert_eq!(delay(u64::MAX, 1 << 62), Duration::from_millis(10));
    }
}
