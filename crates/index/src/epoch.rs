//! The epoch guard, which keeps memory alive while a reader uses it.
//!
//! One [collector](crate::collector) serves the process, so that every map and every
//! [`Published`](crate::Published) cell shares one clock, and one guard serves them all.

use core::fmt;

use crate::collector::DeferredAction;

/// Keeps everything that was reachable when it was made, or reached through it since, from being
/// freed.
///
/// Made by [`pin`]. Not [`Send`]: a guard belongs to its thread. Hold it briefly: while a guard
/// lives, nothing that is removed anywhere in the process is freed. Long walks use a
/// [`Cursor`](crate::Cursor), or [`Guard::repin`].
///
/// ```
/// let guard = hightower_index::pin();
/// drop(guard); // references that were read under it end here
/// ```
pub struct Guard {
    inner: InnerGuard,
}

/// The process's collector, or under loom its contract alone, which keeps the models small: the
/// collector has models of its own.
#[cfg(not(loom))]
use crate::collector::{PinGuard as InnerGuard, pin as pin_inner};

#[cfg(loom)]
#[path = "epoch_model.rs"]
mod model;
#[cfg(loom)]
use model::{ModelGuard as InnerGuard, pin as pin_inner};

/// Pins the current thread and returns the guard.
///
/// Cost: some nanoseconds, on Linux without a fence; a nested pin costs one increment.
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
    Guard { inner: pin_inner() }
}

impl Guard {
    /// Ends the protection of everything read so far and pins again, without the cost of a drop and
    /// a new [`pin`].
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

    /// Runs `run(data)` once no guard that exists now is alive, but for this one.
    ///
    /// # Safety
    ///
    /// It may be run on any thread at any later time, and everything that `data` leads to must be
    /// fit for that. What this guard sees may be gone as soon as it ends.
    pub(crate) unsafe fn defer(&self, data: *mut (), run: unsafe fn(*mut ())) {
        self.inner.defer(DeferredAction { data, run });
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}
