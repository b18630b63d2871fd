//! The epoch guard: what keeps memory alive while a reader looks at it.
//!
//! A thin wrapper over [`crossbeam-epoch`](https://docs.rs/crossbeam-epoch)'s default collector, so that every map and every
//! [`Published`](crate::Published) cell of a process shares one clock, and one guard serves them all.

use core::fmt;

/// Keeps everything that was reachable when it was made, or reached through it since, from being freed.
///
/// Made by [`pin`]. Not [`Send`]: a guard belongs to its thread. Hold it briefly: while a guard lives, nothing that is
/// removed anywhere in the process is freed. Long walks use a [`Cursor`](crate::Cursor), or [`Guard::repin`].
///
/// ```
/// let guard = hightower_index::pin();
/// drop(guard); // references that were read under it end here
/// ```
pub struct Guard {
    inner: imp::Guard,
}

/// The collector: crossbeam's, or under loom its contract alone, which keeps the models small.
#[cfg(not(loom))]
mod imp {
    pub(super) use crossbeam_epoch::{Guard, pin};
}

#[cfg(loom)]
#[path = "epoch_model.rs"]
mod imp;

/// Pins the current thread and returns the guard.
///
/// Cost: about ten nanoseconds; a nested pin costs one increment.
///
/// ```
/// let (mut writer, map) = hightower_index::new::<u32>();
/// writer.insert(b"a", 1);
/// let guard = hightower_index::pin();
/// assert_eq!(map.get(b"a", &guard), Some(&1));
/// ```
#[inline]
#[must_use]
pub fn pin() -> Guard {
    Guard { inner: imp::pin() }
}

impl Guard {
    /// Lets go of everything read so far and pins again, without the cost of a drop and a new [`pin`].
    ///
    /// Has no effect while another guard of this thread lives.
    ///
    /// ```
    /// let mut guard = hightower_index::pin();
    /// guard.repin();
    /// ```
    #[inline]
    pub fn repin(&mut self) {
        self.inner.repin();
    }

    /// Hands this thread's pending garbage over for collection, and collects some.
    ///
    /// Only needed to see memory freed soon, as in tests.
    ///
    /// ```
    /// hightower_index::pin().flush();
    /// ```
    pub fn flush(&self) {
        self.inner.flush();
    }

    /// Runs `action` once no guard that exists now is alive.
    ///
    /// # Safety
    ///
    /// `action` may run on any thread at any later time, so whatever it captures must be fit for that.
    pub(crate) unsafe fn defer<F: FnOnce()>(&self, action: F) {
        // SAFETY: the caller's promise is the same.
        unsafe { self.inner.defer_unchecked(action) }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}
