//! Locks, threads and waits: those of the system, or under `--cfg shuttle` replacements where each
//! operation is a step of the schedule.
//!
//! At meeting points of threads without a lock, [`step`] lets the schedule switch threads; it is
//! empty in a normal build. A guard for a wait of a [`Condvar`] must not be held across other
//! steps, because threads wait for it outside the schedule.

pub(crate) use hightower_seams::schedule::step;
#[cfg(not(shuttle))]
pub(crate) use normal::{Condvar, MappedMutexGuard, Mutex, MutexGuard, receive, thread};
#[cfg(shuttle)]
pub(crate) use scheduled::{Condvar, MappedMutexGuard, Mutex, MutexGuard, receive, thread};

#[cfg(not(shuttle))]
mod normal {
    use crossbeam_channel::{Receiver, RecvError};
    pub(crate) use parking_lot::{Condvar, MappedMutexGuard, Mutex, MutexGuard};
    pub(crate) use std::thread;

    /// Waits for the next message.
    pub(crate) fn receive<T>(receiver: &Receiver<T>) -> Result<T, RecvError> {
        receiver.recv()
    }
}

#[cfg(shuttle)]
mod scheduled {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use crossbeam_channel::{Receiver, RecvError, TryRecvError};
    pub(crate) use hightower_seams::schedule::ScheduledMutex as Mutex;
    use hightower_seams::schedule::step;
    pub(crate) use parking_lot::{MappedMutexGuard, MutexGuard};
    pub(crate) use shuttle::thread;

    /// Number of steps of a timeout: in a schedule every timer may fire early.
    const STEPS_OF_A_TIMEOUT: u32 = 3;

    #[derive(Debug, Default)]
    pub(crate) struct Condvar {
        notified: AtomicU64,
    }

    /// The outcome of a wait with a timeout.
    pub(crate) struct WaitOutcome(bool);

    impl WaitOutcome {
        pub(crate) fn timed_out(&self) -> bool {
            self.0
        }
    }

    impl Condvar {
        pub(crate) const fn new() -> Self {
            Self { notified: AtomicU64::new(0) }
        }

        pub(crate) fn notify_one(&self) {
            self.notified.fetch_add(1, Ordering::SeqCst);
        }

        pub(crate) fn notify_all(&self) {
            self.notified.fetch_add(1, Ordering::SeqCst);
        }

        pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
            let before = self.notified.load(Ordering::SeqCst);
            MutexGuard::unlocked(guard, || {
                while self.notified.load(Ordering::SeqCst) == before {
                    step();
                }
            });
        }

        pub(crate) fn wait_for<T>(&self, guard: &mut MutexGuard<'_, T>, _limit: Duration) -> WaitOutcome {
            let before = self.notified.load(Ordering::SeqCst);
            let mut steps = 0;
            MutexGuard::unlocked(guard, || {
                while self.notified.load(Ordering::SeqCst) == before && steps < STEPS_OF_A_TIMEOUT {
                    steps += 1;
                    step();
                }
            });
            WaitOutcome(steps == STEPS_OF_A_TIMEOUT)
        }
    }

    pub(crate) fn receive<T>(receiver: &Receiver<T>) -> Result<T, RecvError> {
        loop {
            match receiver.try_recv() {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) => step(),
            }
        }
    }
}
