//! The crate's lock: that of parking_lot. Under `--cfg shuttle` each acquisition is a step of the
//! schedule.

use std::ops::{Deref, DerefMut};

use hightower_seams::lock_order::{self, HeldRank, Rank};
use parking_lot::MutexGuard;

#[cfg(shuttle)]
pub(crate) use hightower_seams::schedule::ScheduledMutex as Mutex;
pub(crate) use hightower_seams::schedule::step;
#[cfg(not(shuttle))]
pub(crate) use parking_lot::Mutex;

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
