//! The crate's lock: that of parking_lot. Under `--cfg shuttle` each acquisition is a step of the
//! schedule.

use std::ops::{Deref, DerefMut};

use hightower_seams::lock_order::{self, HeldRank, Rank};
use parking_lot::MutexGuard;

#[cfg(not(shuttle))]
pub(crate) use parking_lot::Mutex;
#[cfg(shuttle)]
pub(crate) use scheduled::Mutex;
#[cfg(shuttle)]
pub(crate) use scheduled::step;

/// A meeting point of threads without a lock, where the schedule may switch threads; empty in a
/// normal build.
#[cfg(not(shuttle))]
#[inline(always)]
pub(crate) const fn step() {}

#[cfg(shuttle)]
mod scheduled {
    use parking_lot::MutexGuard;

    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner()
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            loop {
                step();
                if let Some(guard) = self.0.try_lock() {
                    return guard;
                }
            }
        }
    }

    /// A point at which the schedule may switch threads. Threads that shuttle does not control,
    /// such as those that read ahead during an open, yield to the system.
    pub(crate) fn step() {
        if shuttle::current::try_get_current_task().is_some() {
            shuttle::thread::yield_now();
        } else {
            std::thread::yield_now();
        }
    }
}

/// A lock with its rank in the order of locks, which builds with debug assertions check.
#[derive(Debug)]
pub(crate) struct RankedMutex<T> {
    rank: Rank,
    content: Mutex<T>,
}

/// The guard of a [`RankedMutex`].
#[derive(Debug)]
pub(crate) struct RankedGuard<'a, T> {
    content: MutexGuard<'a, T>,
    _held: HeldRank,
}

impl<T> RankedMutex<T> {
    pub(crate) const fn new(rank: Rank, content: T) -> Self {
        Self { rank, content: Mutex::new(content) }
    }

    pub(crate) fn lock(&self) -> RankedGuard<'_, T> {
        let held = lock_order::take(self.rank);
        RankedGuard { content: self.content.lock(), _held: held }
    }
}

impl<T> Deref for RankedGuard<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.content
    }
}

impl<T> DerefMut for RankedGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.content
    }
}
