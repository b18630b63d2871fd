//! The epoch guard, which keeps memory alive while a reader uses it.
//!
//! One [collector](crate::collector) serves the process: all maps and
//! [`Published`](crate::Published) cells share its epochs, and one guard protects all of them.

use core::fmt;
use core::time::Duration;

use crate::collector::DeferredAction;

/// Prevents the freeing of everything that was reachable at its creation or was reached under it.
///
/// [`pin`] creates it. It is not [`Send`], because a guard belongs to its thread. Hold it briefly:
/// while a guard lives, removed memory of the whole process is not freed. Long scans use a
/// [`Cursor`](crate::Cursor), or [`Guard::repin`].
///
/// ```
/// let guard = hightower_index::pin();
/// drop(guard); // references that were read under it end here
/// ```
pub struct Guard {
    inner: InnerGuard,
}

/// The process's collector, or under loom only its contract, which keeps the models small; the
/// collector has separate models.
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

/// Number of attempts of [`synchronize`] before it sleeps: two free everything if no guard is
/// older.
const ATTEMPTS_WITHOUT_SLEEP: u32 = 4;

/// Waits until all guards of this moment have ended, for up to about `limit_ms` milliseconds, and
/// then frees what this thread has removed, or waits until other threads have freed it. Returns
/// whether all of it is freed.
///
/// A guard of the calling thread never ends meanwhile. Guards of other maps and threads of the
/// process count too, and so does memory that they are freeing. With a limit of 0 it does not
/// sleep. Without older guards it costs some microseconds.
///
/// ```
/// let (mut writer, _map) = hightower_index::new::<u32>();
/// writer.insert(b"a", 1);
/// writer.remove(b"a");
/// assert!(hightower_index::synchronize(1000));
/// ```
pub fn synchronize(limit_ms: u32) -> bool {
    // Memory removed until now is sealed at this epoch or before, and is freed two steps later.
    let until = pin().inner.flush() + 2;
    for attempt in 0..ATTEMPTS_WITHOUT_SLEEP.saturating_add(limit_ms) {
        if attempt >= ATTEMPTS_WITHOUT_SLEEP {
            std::thread::sleep(Duration::from_millis(1));
        }
        let guard = pin();
        // Another thread may have taken this thread's garbage, and not have freed it yet.
        if guard.inner.flush() >= until && !guard.inner.is_running() {
            return true;
        }
    }
    false
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

    /// Seals this thread's pending garbage, and collects some.
    ///
    /// Needed only to free memory soon; see also [`synchronize`].
    ///
    /// ```
    /// hightower_index::pin().flush();
    /// ```
    pub fn flush(&self) {
        let _epoch = self.inner.flush();
    }

    /// Runs `run(data)` after all current guards except this one have ended.
    ///
    /// # Safety
    ///
    /// The call may run on any thread at any later time, and all targets of `data` must allow that.
    /// Memory seen by this guard may be freed as soon as the guard ends.
    pub(crate) unsafe fn defer(&self, data: *mut (), run: unsafe fn(*mut ())) {
        self.inner.defer(DeferredAction { data, run });
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").finish_non_exhaustive()
    }
}
