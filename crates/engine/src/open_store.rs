//! The segment store of an open store, its users, and whether it accepts writes.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};

use hightower_segment::{ForkGuard, SegmentError, SegmentStore};

use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::poison::Poison;
use crate::sync::{Condvar, Mutex};

/// The segment store, until it is closed. It holds the lock of the directory. Closing waits for its
/// users, because the next open must find the lock free.
#[derive(Debug)]
pub(crate) struct OpenStore {
    slot: Mutex<StoreSlot>,
    unused: Condvar,
    is_read_only: bool,
    /// Set when closing begins; later operations are refused.
    is_closing: AtomicBool,
    poison: Poison,
    /// Detects a child that was forked from the process that opened the store. The child must not
    /// use the store.
    fork_guard: ForkGuard,
}

#[derive(Debug)]
struct StoreSlot {
    store: Option<SegmentStore>,
    users: usize,
}

impl OpenStore {
    /// `None` for a store that is open for reading.
    pub(crate) fn new(store: Option<SegmentStore>, fork_guard: ForkGuard) -> Self {
        Self {
            is_read_only: store.is_none(),
            slot: Mutex::new(StoreSlot { store, users: 0 }),
            unused: Condvar::new(),
            is_closing: AtomicBool::new(false),
            poison: Poison::default(),
            fork_guard,
        }
    }

    /// The segment store for one operation: closing waits until the result is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Closed`], [`Error::Forked`].
    pub(crate) fn in_use(&self) -> Result<InUse<'_>> {
        self.check_not_forked()?;
        let mut slot = self.slot.lock();
        let store = slot.store.clone().ok_or(if self.is_read_only { Error::ReadOnly } else { Error::Closed })?;
        slot.users += 1;
        Ok(InUse { store, _user: User(self) })
    }

    /// Whether the store was opened for reading only.
    pub(crate) fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    /// Whether this process was forked from the one that opened the store.
    pub(crate) fn is_forked(&self) -> bool {
        self.fork_guard.is_forked()
    }

    /// Refuses every operation in a forked child: threads that exist only in the parent may hold
    /// the locks, and the files are the parent's.
    #[inline]
    pub(crate) fn check_not_forked(&self) -> Result<()> {
        if self.is_forked() { Err(Error::Forked) } else { Ok(()) }
    }

    /// Refuses every operation once closing has begun.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_not_forked()?;
        if self.is_closing() { Err(Error::Closed) } else { Ok(()) }
    }

    /// Refuses writes to a store that is read-only, closed, or has failed before.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.is_read_only {
            return Err(Error::ReadOnly);
        }
        self.check_open()?;
        self.poison.check()
    }

    /// The latch of the first failed write or sync.
    #[inline]
    pub(crate) fn poison(&self) -> &Poison {
        &self.poison
    }

    /// The failure because of which writes are refused, of a commit or of background work.
    pub(crate) fn poison_reason(&self) -> Option<String> {
        let of_files = || self.in_use().ok().and_then(|store| store.poison_cause().map(str::to_owned));
        let of_commits = self.poison.reason().map(str::to_owned);
        if planted("background_failures_not_shown") { of_commits } else { of_commits.or_else(of_files) }
    }

    /// Handles a failed append: if it may have changed the log, the store refuses further writes.
    #[cold]
    pub(crate) fn append_failed(&self, failure: SegmentError) -> Error {
        match failure {
            SegmentError::Full { .. } | SegmentError::TooLarge { .. } | SegmentError::DoesNotFit { .. } => {
                failure.into()
            }
            // A file could not be created, for lack of descriptors or memory. The log was not
            // changed.
            SegmentError::Io { .. } | SegmentError::OutOfMaps { .. } if self.is_log_sound() => failure.into(),
            other => self.poison.latch(&other),
        }
    }

    /// Refuses writes from now on, because a thread of the store has panicked.
    #[cold]
    pub(crate) fn poison_by_panic(&self, thread: &str, message: &str) {
        let failure = std::io::Error::other(format!("the thread {thread} ended by a bug: {message}"));
        let _refused = self.poison.latch(&failure);
    }

    /// Whether the content of the files is known: no failure has left it uncertain.
    pub(crate) fn is_log_sound(&self) -> bool {
        self.in_use().is_ok_and(|store| !store.is_poisoned())
    }

    /// Refuses new operations from now on.
    pub(crate) fn begin_closing(&self) {
        self.is_closing.store(true, Ordering::Release);
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    /// Admits no new users, waits for the current ones, and drops the segment store.
    pub(crate) fn close(&self) {
        if planted("lock_until_dropped") {
            return;
        }
        let mut slot = self.slot.lock();
        let store = slot.store.take();
        while slot.users > 0 && !planted("closed_while_in_use") {
            self.unused.wait(&mut slot);
        }
        drop(slot);
        drop(store);
    }
}

/// A segment store in use. Its holder must not close the store.
#[derive(Debug)]
pub(crate) struct InUse<'a> {
    // Dropped first: the lock must be free when the last user ends.
    store: SegmentStore,
    _user: User<'a>,
}

impl Deref for InUse<'_> {
    type Target = SegmentStore;

    fn deref(&self) -> &SegmentStore {
        &self.store
    }
}

#[derive(Debug)]
struct User<'a>(&'a OpenStore);

impl Drop for User<'_> {
    fn drop(&mut self) {
        let mut slot = self.0.slot.lock();
        slot.users -= 1;
        if slot.users == 0 {
            self.0.unused.notify_all();
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::path::Path;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use hightower_segment::{ForkGuard, SegmentError, SegmentStore, StoreOptions, sim::SimFs};

    use super::OpenStore;

    #[test]
    fn closing_waits_for_those_who_work_with_it_and_then_the_lock_is_free() {
        let fs = SimFs::new();
        let open = || SegmentStore::open(Arc::new(fs.clone()), Path::new("/store"), StoreOptions::default());
        let (store, recovery) = open().unwrap();
        drop(recovery);
        let store = OpenStore::new(Some(store), ForkGuard::new().unwrap());
        thread::scope(|scope| {
            let in_use = store.in_use().unwrap();
            let closing = scope.spawn(|| {
                store.close();
                open().map(drop)
            });
            let has_closed = (0..50).any(|_| {
                thread::sleep(Duration::from_millis(1));
                closing.is_finished()
            });
            assert!(!has_closed && matches!(open(), Err(SegmentError::Locked { .. })), "it is in use");
            assert!(store.in_use().is_err(), "a new user was admitted");
            drop(in_use);
            closing.join().unwrap().unwrap();
        });
        store.close();
    }
}
