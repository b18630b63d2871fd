//! The crate's lock: that of the standard library. Under `--cfg shuttle` each acquisition is a step
//! of the schedule.
//!
//! A thread that waits for the standard library's lock sleeps until it is woken. A thread that
//! waits for a lock of parking_lot yields its processor several times first. If all processors are
//! busy, Linux then runs another thread for a whole time slice: a put beside a compaction waited 1
//! to 3 ms for a lock that is held for some microseconds.

pub(crate) use std::sync::MutexGuard;
use std::sync::{PoisonError, TryLockError};

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// A panic under the lock releases it and does not poison it: no code of a caller runs there.
    #[cfg(not(shuttle))]
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        // Apart from the wait, which is rare, this is short enough to be inlined into a commit.
        self.0.try_lock().unwrap_or_else(|failure| match failure {
            TryLockError::Poisoned(failed) => failed.into_inner(),
            TryLockError::WouldBlock => self.wait(),
        })
    }

    #[cfg(not(shuttle))]
    #[cold]
    fn wait(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(shuttle)]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        loop {
            hightower_seams::schedule::step();
            match self.0.try_lock() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(failed)) => return PoisonError::into_inner(failed),
                Err(TryLockError::WouldBlock) => {}
            }
        }
    }
}
