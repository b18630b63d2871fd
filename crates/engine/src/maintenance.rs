//! The shared state of compaction, flushes and backups: the turn, the signal of the background
//! thread, and the statistics.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hightower_seams::lock_order::Rank;
use hightower_segment::Segment;

use crate::background_signal::{BackgroundSignal, Cause};
use crate::compaction::stats::{CompactionStats, RunReport, Total};
use crate::mutants::planted;
use crate::sync::Mutex;
use crate::tables::{PendingFlush, UnnamedFiles};
use crate::turn::{CheckedMutex, HasRank};

/// The background searches for work when the number of segments has grown by this share, because
/// the cost of a search grows with their number.
const LOOK_SHARE: usize = 64;

impl HasRank for Turn {
    const RANK: Rank = Rank::Turn;
}

/// The data of the turn's holder.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Frozen memtables, the oldest first.
    pub(crate) frozen: VecDeque<PendingFlush>,
    /// Files that older views may lead to.
    pub(crate) waiting: Vec<UnnamedFiles>,
    /// Segments of the history that feeds no longer need, and that the manifest still names.
    pub(crate) given_up: Vec<Arc<Segment>>,
    /// Removed segments that no view leads to, and whose files are still in use.
    pub(crate) retired: Vec<Arc<Segment>>,
}

impl Turn {
    /// Whether files of removed segments or tables may still be in use.
    pub(crate) fn has_unfreed(&self) -> bool {
        !self.retired.is_empty() || !self.waiting.is_empty()
    }

    /// Number of removed segments whose files still exist.
    pub(crate) fn waiting_segments(&self) -> usize {
        self.retired.len() + self.waiting.iter().map(|waiting| waiting.segments.len()).sum::<usize>()
    }
}

/// The work of compaction.
#[derive(Debug, Default)]
struct Books {
    stats: CompactionStats,
    total: Total,
}

/// The turn of compaction, flushes and backups, and their statistics.
#[derive(Debug)]
pub(crate) struct Maintenance {
    pub(crate) turn: CheckedMutex<Turn>,
    signal: Arc<BackgroundSignal>,
    books: Mutex<Books>,
    /// Rotations since the last wake-up of the background for one.
    rotations: AtomicUsize,
    opened_ms: i64,
}

impl Maintenance {
    /// For a store opened at `opened_ms`, in Unix milliseconds.
    pub(crate) fn new(turn: Turn, signal: &Arc<BackgroundSignal>, opened_ms: i64) -> Self {
        Self {
            turn: CheckedMutex::new(turn),
            signal: Arc::clone(signal),
            books: Mutex::default(),
            rotations: AtomicUsize::new(0),
            opened_ms,
        }
    }

    /// The time of the open, in Unix milliseconds: recovered records existed by then.
    pub(crate) fn opened_ms(&self) -> i64 {
        self.opened_ms
    }

    /// Wakes the background, because compaction may have work.
    pub(crate) fn wake(&self) {
        self.signal.wake();
    }

    /// Wakes the background, because a flush is due.
    pub(crate) fn wake_for_flush(&self) {
        self.signal.wake_for_flush();
    }

    /// Records a rotation to `segments` segments; wakes the background if the log has grown enough
    /// since the last search.
    pub(crate) fn note_rotation(&self, segments: usize) {
        let rotations = self.rotations.fetch_add(1, Ordering::Relaxed) + 1;
        if rotations >= segments / LOOK_SHARE || planted("each_roll_looks_at_all_segments") {
            self.rotations.store(0, Ordering::Relaxed);
            self.wake();
        }
    }

    /// Ends the background thread.
    pub(crate) fn close(&self) {
        self.signal.close();
    }

    /// Waits for the interval, a wake-up, or the end.
    pub(crate) fn wait(&self, interval: Duration) -> Cause {
        self.signal.wait(interval)
    }

    pub(crate) fn stats(&self) -> CompactionStats {
        self.books.lock().stats.clone()
    }

    pub(crate) fn note(&self, change: impl FnOnce(&mut CompactionStats)) {
        change(&mut self.books.lock().stats);
    }

    pub(crate) fn note_run(&self, run: &RunReport) {
        let mut books = self.books.lock();
        books.stats.add(run);
        books.total.add(run);
    }

    /// The work of all runs since the open.
    pub(crate) fn total(&self) -> Total {
        self.books.lock().total.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Maintenance, Turn};

    #[test]
    fn the_more_segments_there_are_the_more_rolls_it_takes_to_look_at_them_all() {
        let rotations_per_look = |segments: usize| {
            let maintenance = Maintenance::new(Turn::default(), &Arc::default(), 0);
            (1..).find(|_| {
                maintenance.note_rotation(segments);
                maintenance.signal.is_woken()
            })
        };
        assert_eq!([1, 64, 128, 31_000].map(rotations_per_look), [1, 1, 2, 484].map(Some));
    }
}
