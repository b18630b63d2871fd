//! The signal that wakes and ends the background thread.

use std::time::Duration;

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
}

/// Wakes the background thread, and ends it.
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
        if std::mem::take(&mut signal.is_flush_due) {
            return Cause::Flush;
        }
        if std::mem::take(&mut signal.is_woken) { Cause::Woken } else { Cause::Interval }
    }

    #[cfg(test)]
    pub(crate) fn is_woken(&self) -> bool {
        self.signal.lock().is_woken
    }
}
