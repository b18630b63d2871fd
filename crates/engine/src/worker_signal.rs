//! The signal from writers to a thread that prepares or finishes their work, so that commits stay
//! short.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// The interval at which such a thread looks for work without a signal.
const TICK: Duration = Duration::from_millis(2);
/// After this many looks without work it sleeps until it is woken.
const QUIET_TICKS: u32 = 50;
/// After this time of sleep without a signal, the thread releases prepared room.
const IDLE_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Wish {
    is_woken: bool,
    is_closing: bool,
}

/// Wakes one thread of the store, and ends it.
#[derive(Debug, Default)]
pub(crate) struct WorkerSignal {
    wish: Mutex<Wish>,
    wake: Condvar,
}

impl WorkerSignal {
    /// Signals work.
    pub(crate) fn wake(&self) {
        self.wish.lock().is_woken = true;
        self.wake.notify_one();
    }

    /// Whether there is work; resets the signal.
    pub(crate) fn take_wish(&self) -> bool {
        std::mem::take(&mut self.wish.lock().is_woken)
    }

    /// Runs until [`close`](Self::close). `work` does the present work, and returns whether there
    /// was any; `idle` is called once per quiet time.
    pub(crate) fn run(&self, mut work: impl FnMut() -> bool, mut idle: impl FnMut()) {
        let mut quiet_ticks = 0;
        let mut was_idle = false;
        loop {
            quiet_ticks = if work() { 0 } else { quiet_ticks + 1 };
            let mut wish = self.wish.lock();
            if !wish.is_woken && !wish.is_closing {
                if quiet_ticks >= QUIET_TICKS && was_idle {
                    self.wake.wait(&mut wish);
                } else if quiet_ticks >= QUIET_TICKS {
                    was_idle = self.wake.wait_for(&mut wish, IDLE_AFTER).timed_out();
                    if was_idle {
                        MutexGuard::unlocked(&mut wish, &mut idle);
                    }
                } else {
                    self.wake.wait_for(&mut wish, TICK);
                }
            }
            if wish.is_closing {
                return;
            }
            if std::mem::take(&mut wish.is_woken) {
                (quiet_ticks, was_idle) = (0, false);
            }
        }
    }

    /// Ends [`run`](Self::run).
    pub(crate) fn close(&self) {
        self.wish.lock().is_closing = true;
        self.wake.notify_all();
    }
}
