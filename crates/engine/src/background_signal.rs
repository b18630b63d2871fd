//! The signal that wakes and ends the background thread.

use std::time::Duration;

use crate::mutants::planted;
use crate::sync::{Condvar, Mutex};

/// The reason for a search of the background thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Interval,
    Woken,
    /// A flush is due.
    Flush,
    Closing,
}

#[derive(Debug, Default)]
struct Signal {
    is_woken: bool,
    is_flush_due: bool,
    is_closing: bool,
    /// Whether the last cause was a flush.
    was_flush: bool,
}

/// Wakes the background thread, and ends it. Flushes come first, but no two while there is other
/// work: writers that fill memory faster than it is flushed must not keep compaction from freeing
/// disk space.
#[derive(Debug, Default)]
pub(crate) struct BackgroundSignal {
    signal: Mutex<Signal>,
    wake: Condvar,
}

impl BackgroundSignal {
    /// Wakes the background thread, because it may have work.
    pub(crate) fn wake(&self) {
        self.signal.lock().is_woken = true;
        self.wake.notify_one();
    }

    /// Wakes the background thread, because a flush is due.
    pub(crate) fn wake_for_flush(&self) {
        self.signal.lock().is_flush_due = true;
        self.wake.notify_one();
    }

    /// Ends the background thread.
    pub(crate) fn close(&self) {
        self.signal.lock().is_closing = true;
        self.wake.notify_all();
    }

    /// Waits for the interval, a wake-up, or the end.
    pub(crate) fn wait(&self, interval: Duration) -> Cause {
        let mut signal = self.signal.lock();
        if !signal.is_woken && !signal.is_flush_due && !signal.is_closing {
            self.wake.wait_for(&mut signal, interval);
        }
        if signal.is_closing {
            return Cause::Closing;
        }
        let is_next = signal.is_woken && signal.was_flush && !planted("flushes_starve_compaction");
        signal.was_flush = signal.is_flush_due && !is_next;
        if signal.was_flush {
            signal.is_flush_due = false;
            return Cause::Flush;
        }
        if std::mem::take(&mut signal.is_woken) { Cause::Woken } else { Cause::Interval }
    }

    #[cfg(test)]
    pub(crate) fn is_woken(&self) -> bool {
        self.signal.lock().is_woken
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::time::Duration;

    use super::{BackgroundSignal, Cause};

    #[test]
    fn flushes_that_are_always_due_leave_every_second_turn_to_other_work() {
        let signal = BackgroundSignal::default();
        let mut causes = Vec::new();
        signal.wake();
        for _ in 0..4 {
            signal.wake_for_flush();
            causes.push(signal.wait(Duration::ZERO));
        }
        assert_eq!(causes, [Cause::Flush, Cause::Woken, Cause::Flush, Cause::Flush]);
        assert_eq!(signal.wait(Duration::ZERO), Cause::Interval);
    }
}
