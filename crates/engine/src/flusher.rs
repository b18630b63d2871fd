//! Background syncs, so that a power loss costs at most the requested interval.
//!
//! A write with an interval registers it here. The thread wakes, waits half of the interval so that
//! other writes can join, syncs once for all, and sleeps until the next write. The other half is
//! for the sync. Without writes the thread sleeps.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::mutants::planted;
use crate::sync::{Condvar, Mutex, MutexGuard};

const NOTHING: u64 = u64::MAX;

/// The shared state of writers and the flusher's thread.
#[derive(Debug)]
pub(crate) struct Flusher {
    /// The shortest requested interval of unsynced writes, in microseconds; [`NOTHING`] if none is
    /// requested.
    pending_us: AtomicU64,
    closing: Mutex<bool>,
    wake: Condvar,
}

impl Default for Flusher {
    fn default() -> Self {
        Self { pending_us: AtomicU64::new(NOTHING), closing: Mutex::new(false), wake: Condvar::new() }
    }
}

impl Flusher {
    /// Requests a sync within `interval`. It costs one load while a request that is due no later is
    /// pending.
    pub(crate) fn request(&self, interval: Duration) {
        let interval_us = u64::try_from(interval.as_micros()).unwrap_or(NOTHING - 1).min(NOTHING - 1);
        // The write was appended before this load, and the flusher swaps before it syncs: if this
        // load sees an earlier request, the sync of that request covers the write. Sequential
        // consistency orders the two.
        if self.pending_us.load(Ordering::SeqCst) <= interval_us {
            return;
        }
        if self.pending_us.fetch_min(interval_us, Ordering::SeqCst) > interval_us {
            let _closing = self.closing.lock();
            self.wake.notify_one();
        }
    }

    /// Runs until [`close`](Self::close), and calls `sync` when a request is due; `sync` returns
    /// its duration.
    pub(crate) fn run(&self, mut sync: impl FnMut() -> Duration) {
        let mut closing = self.closing.lock();
        // A request during a sync is not covered by it, and may have waited for its duration.
        let mut waited = Duration::ZERO;
        // The share of its interval that the pending request waits for others, as a power of two.
        // It shrinks each time the wait restarts, so that all waits together are shorter than the
        // interval of the first request.
        let mut share = 1;
        while !*closing {
            let pending_us = self.pending_us.load(Ordering::SeqCst);
            let has_waited = if planted("interval_counts_anew") { Duration::ZERO } else { std::mem::take(&mut waited) };
            if pending_us == NOTHING {
                self.wake.wait(&mut closing);
                share = 1;
                continue;
            }
            let left = Duration::from_micros(pending_us >> share).saturating_sub(has_waited);
            if self.wake.wait_for(&mut closing, left).timed_out() {
                self.pending_us.swap(NOTHING, Ordering::SeqCst);
                waited = MutexGuard::unlocked(&mut closing, &mut sync);
                share = 1;
            } else if !planted("interval_starts_anew") {
                // A shorter request woke the thread.
                share = (share + 1).min(63);
            }
        }
    }

    /// Ends [`run`](Self::run); the caller syncs pending writes.
    pub(crate) fn close(&self) {
        *self.closing.lock() = true;
        self.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::Flusher;

    /// Waits in many short steps, without a deadline: a suspended machine must not end the wait.
    fn wait_for(what: &str, is_there: impl Fn() -> bool) {
        for _ in 0..10_000 {
            if is_there() {
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("{what}");
    }

    /// Ends the flusher also after a failed assertion; otherwise its thread, and the test, would
    /// wait forever.
    struct Closes<'a>(&'a Flusher);

    impl Drop for Closes<'_> {
        fn drop(&mut self) {
            self.0.close();
        }
    }

    /// Runs a flusher with earlier `requests`, beside `look`.
    fn beside(requests: impl FnOnce(&Flusher), look: impl FnOnce(&Flusher, &AtomicUsize)) {
        let (flusher, syncs) = (Flusher::default(), AtomicUsize::new(0));
        requests(&flusher);
        thread::scope(|scope| {
            let _closes = Closes(&flusher);
            scope.spawn(|| {
                flusher.run(|| {
                    syncs.fetch_add(1, Ordering::SeqCst);
                    Duration::ZERO
                });
            });
            look(&flusher, &syncs);
        });
    }

    #[test]
    fn it_syncs_nothing_when_nothing_was_written() {
        beside(
            |_| {},
            |_, syncs| {
                thread::sleep(Duration::from_millis(30));
                assert_eq!(syncs.load(Ordering::SeqCst), 0);
            },
        );
    }

    #[test]
    fn one_sync_serves_all_requests_before_it() {
        beside(
            |flusher| (0..100).for_each(|_| flusher.request(Duration::from_millis(2))),
            |_, syncs| {
                wait_for("the requests were never served", || syncs.load(Ordering::SeqCst) > 0);
                thread::sleep(Duration::from_millis(30));
                assert_eq!(syncs.load(Ordering::SeqCst), 1);
            },
        );
    }

    #[test]
    fn a_shorter_request_overtakes_a_longer_one() {
        beside(
            |flusher| flusher.request(Duration::from_secs(3600)),
            |flusher, syncs| {
                thread::sleep(Duration::from_millis(5));
                flusher.request(Duration::from_millis(1));
                wait_for("the shorter request was never served", || syncs.load(Ordering::SeqCst) > 0);
            },
        );
    }

    #[test]
    fn ever_shorter_requests_hold_up_no_earlier_one() {
        beside(
            |flusher| flusher.request(Duration::from_secs(10)),
            |flusher, syncs| {
                for number in 1..2_000 {
                    flusher.request(Duration::from_millis(10_000 - number));
                    thread::sleep(Duration::from_millis(1));
                    if syncs.load(Ordering::SeqCst) > 0 {
                        return;
                    }
                }
                panic!("no sync while requests came");
            },
        );
    }

    #[test]
    fn what_is_asked_for_during_a_slow_sync_has_waited_already() {
        let (flusher, syncs) = (Flusher::default(), AtomicUsize::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                flusher.run(|| {
                    if syncs.fetch_add(1, Ordering::SeqCst) == 0 {
                        flusher.request(Duration::from_secs(60));
                    }
                    Duration::from_secs(30)
                });
            });
            let _closes = Closes(&flusher);
            flusher.request(Duration::from_millis(1));
            let has_synced_again = || syncs.load(Ordering::SeqCst) > 1;
            wait_for("half of the interval was over when the first sync ended", has_synced_again);
        });
    }
}
