//! The crate's lock: that of the standard library, whose every turn is a step of the schedule that shuttle draws (`--cfg shuttle`).
//!
//! The standard library's, because who waits for it goes to sleep and is woken. Whoever waits for one of parking_lot gives up its processor some times before, and
//! where all of them are busy Linux gives it to another for a whole slice: a put beside a compaction then waited 1 to 3 ms for a lock that is held for
//! some microseconds.

pub(crate) use std::sync::MutexGuard;
use std::sync::PoisonError;

#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// A thread that panics under the lock lets go of it, and keeps nobody else out: nothing of a caller's runs there.
    #[cfg(not(shuttle))]
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(shuttle)]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        use std::sync::TryLockError;

        loop {
            step();
            match self.0.try_lock() {
                Ok(guard) => return guard,
                Err(TryLockError::Poisoned(failed)) => return PoisonError::into_inner(failed),
                Err(TryLockError::WouldBlock) => {}
            }
        }
    }
}

/// Another thread may go on here. Threads that shuttle does not know, such as those that read ahead while a store is opened, go on by themselves.
#[cfg(shuttle)]
fn step() {
    if shuttle::current::try_get_current_task().is_some() {
        shuttle::thread::yield_now();
    } else {
        std::thread::yield_now();
    }
}
