//! A lock that returns an error to its holder instead of a deadlock.
//!
//! Long work (compaction, a flush, closing) calls the caller's code: policies, clocks, file
//! systems. If that code calls the store on the same thread, it gets an error instead of an endless
//! wait.

use std::ops::{Deref, DerefMut};

use hightower_seams::lock_order::{self, HeldRank, Rank};

use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::sync::thread::{self, ThreadId};
use crate::sync::{Mutex, MutexGuard};

/// The content of a [`CheckedMutex`] names the rank of its lock.
pub(crate) trait HasRank {
    const RANK: Rank;
}

/// A mutex that refuses the thread that holds it.
#[derive(Debug, Default)]
pub(crate) struct CheckedMutex<T> {
    content: Mutex<T>,
    holder: Mutex<Option<ThreadId>>,
}

impl<T: HasRank> CheckedMutex<T> {
    pub(crate) fn new(content: T) -> Self {
        Self { content: Mutex::new(content), holder: Mutex::new(None) }
    }

    /// Waits for other threads.
    ///
    /// # Errors
    ///
    /// [`Error::Validation`] if this thread already holds the lock.
    pub(crate) fn lock(&self) -> Result<CheckedGuard<'_, T>> {
        self.refuse_holder()?;
        let held = lock_order::take(T::RANK);
        let content = self.content.lock();
        *self.holder.lock() = Some(thread::current().id());
        Ok(CheckedGuard { holder: &self.holder, content, _held: held })
    }

    /// Refuses the thread that holds the lock.
    pub(crate) fn refuse_holder(&self) -> Result<()> {
        if *self.holder.lock() == Some(thread::current().id()) && !planted("reentry_not_seen") {
            return Err(called_from_within());
        }
        Ok(())
    }
}

/// The error of a call that would wait for its own caller.
pub(crate) fn called_from_within() -> Error {
    Error::Validation(
        "the store is calling this code, such as a compaction policy, so the call would wait for itself: make it from another thread"
            .into(),
    )
}

/// The lock, until it is dropped.
#[derive(Debug)]
pub(crate) struct CheckedGuard<'a, T> {
    holder: &'a Mutex<Option<ThreadId>>,
    content: MutexGuard<'a, T>,
    _held: HeldRank,
}

impl<T> Deref for CheckedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.content
    }
}

impl<T> DerefMut for CheckedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.content
    }
}

impl<T> Drop for CheckedGuard<'_, T> {
    fn drop(&mut self) {
        // The content's lock is dropped after this.
        *self.holder.lock() = None;
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use hightower_seams::lock_order::Rank;

    use super::{CheckedMutex, HasRank};

    impl HasRank for u32 {
        const RANK: Rank = Rank::Turn;
    }

    #[test]
    fn its_holder_is_refused_and_others_wait() {
        let turn = CheckedMutex::<u32>::default();
        let mut held = turn.lock().unwrap();
        *held += 1;
        assert_eq!(turn.lock().map(|held| *held).unwrap_err().code(), "validation");
        std::thread::scope(|scope| {
            let other = scope.spawn(|| turn.lock().map(|held| *held));
            drop(held);
            assert_eq!(other.join().unwrap().unwrap(), 1);
        });
        assert_eq!(*turn.lock().unwrap(), 1, "and it is free again");
    }
}
