//! What runs in the background to keep commits short, each on a thread of its own: making the next
//! segment ready, touching pages ahead of the tail, and syncing and sealing segments that were
//! rolled; and when it is quiet, giving back room that was made ready.

use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

/// How often such a thread looks by itself whether the tail has come near what was made ready.
const TICK: Duration = Duration::from_millis(2);
/// How many quiet looks until it sleeps until woken.
const QUIET_TICKS: u32 = 50;
/// When it was quiet for so long after that, what was made ready ahead is given back.
const REST_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Wish {
    is_woken: bool,
    is_closing: bool,
}

/// The meeting place of writers and such a thread.
#[derive(Debug, Default)]
pub(crate) struct Maintenance {
    wish: Mutex<Wish>,
    wake: Condvar,
}

impl Maintenance {
    /// There is something to do.
    pub(crate) fn wake(&self) {
        self.wish.lock().is_woken = true;
        self.wake.notify_one();
    }

    /// Whether there is something to do; from now on no longer.
    pub(crate) fn take_wish(&self) -> bool {
        std::mem::take(&mut self.wish.lock().is_woken)
    }

    /// Runs until [`close`](Self::close). `work` does what is to be done and says whether there was
    /// anything; `rest` is called once whenever it has become quiet.
    pub(crate) fn run(&self, mut work: impl FnMut() -> bool, mut rest: impl FnMut()) {
        let mut quiet_ticks = 0;
        let mut has_rested = false;
        loop {
            quiet_ticks = if work() { 0 } else { quiet_ticks + 1 };
            let mut wish = self.wish.lock();
            if !wish.is_woken && !wish.is_closing {
                if quiet_ticks >= QUIET_TICKS && has_rested {
                    self.wake.wait(&mut wish);
                } else if quiet_ticks >= QUIET_TICKS {
                    has_rested = self.wake.wait_for(&mut wish, REST_AFTER).timed_out();
                    if has_rested {
                        MutexGuard::unlocked(&mut wish, &mut rest);
                    }
                } else {
                    self.wake.wait_for(&mut wish, TICK);
                }
            }
            if wish.is_closing {
                return;
            }
            if std::mem::take(&mut wish.is_woken) {
                (quiet_ticks, has_rested) = (0, false);
            }
        }
    }

    /// Ends [`run`](Self::run).
    pub(crate) fn close(&self) {
        self.wish.lock().is_closing = true;
        self.wake.notify_all();
    }
}
