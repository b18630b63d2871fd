//! The thread that catches up at an interval.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::follower::pursuit::Pursuit;
use crate::sync::{Condvar, Mutex, thread};

/// Catches up at an interval, until it is dropped.
pub(super) struct Refresher {
    end: Arc<EndSignal>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct EndSignal {
    has_ended: Mutex<bool>,
    changed: Condvar,
}

impl Refresher {
    pub(super) fn start(pursuit: &Arc<Pursuit>, interval: Duration) -> io::Result<Self> {
        let (end, pursuit) = (Arc::<EndSignal>::default(), Arc::clone(pursuit));
        let theirs = Arc::clone(&end);
        let run = move || {
            while !theirs.wait(interval) {
                pursuit.refresh();
            }
        };
        let thread = thread::Builder::new().name("hightower-follow".into()).spawn(run)?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl EndSignal {
    /// Waits for the interval. Returns whether the follower is going.
    fn wait(&self, interval: Duration) -> bool {
        let mut has_ended = self.has_ended.lock();
        if !*has_ended {
            self.changed.wait_for(&mut has_ended, interval);
        }
        *has_ended
    }
}

impl Drop for Refresher {
    fn drop(&mut self) {
        *self.end.has_ended.lock() = true;
        self.end.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was its own failure.
            let _ended = thread.join();
        }
    }
}
