//! The signal to the waiting reader of a feed.

use std::task::Waker;
use std::time::Duration;

use crate::observe::CALLBACKS;
use crate::sync::{Condvar, Mutex};

/// Wakes the waiting reader of one feed.
#[derive(Debug, Default)]
pub(crate) struct FeedSignal {
    state: Mutex<FeedSignalState>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct FeedSignalState {
    is_set: bool,
    waker: Option<Waker>,
}

impl FeedSignal {
    pub(crate) fn set(&self) {
        let mut state = self.state.lock();
        state.is_set = true;
        let waker = state.waker.take();
        drop(state);
        self.arrived.notify_all();
        if let Some(waker) = waker {
            // Recorded; the feed is not affected.
            let _woken = CALLBACKS.catch("the waker of a feed", || waker.wake());
        }
    }

    /// Forgets earlier signals. The caller then looks for commits before it waits.
    pub(crate) fn clear(&self) {
        self.state.lock().is_set = false;
    }

    /// As [`clear`](Self::clear); the next signal wakes this waker.
    pub(crate) fn clear_for(&self, waker: &Waker) {
        // Cloning and dropping a waker runs code of a runtime: not under the lock.
        let waker = waker.clone();
        let mut state = self.state.lock();
        state.is_set = false;
        let replaced = state.waker.replace(waker);
        drop(state);
        drop(replaced);
    }

    /// Waits for a signal since the last [`clear`](Self::clear), not longer than `limit` if there is
    /// one. Returns whether the signal came.
    pub(crate) fn wait(&self, limit: Option<Duration>) -> bool {
        let mut state = self.state.lock();
        while !state.is_set {
            match limit {
                None => self.arrived.wait(&mut state),
                Some(limit) => {
                    if self.arrived.wait_for(&mut state, limit).timed_out() {
                        return state.is_set;
                    }
                }
            }
        }
        true
    }
}
