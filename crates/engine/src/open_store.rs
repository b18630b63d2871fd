//! The segment store of an open store, and who works with it.

use std::ops::Deref;

use hightower_segment::{ForkGuard, SegmentStore};

use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::sync::{Condvar, Mutex};

/// The segment store, until it is closed. It holds the lock of the directory, so whoever closes it
/// waits until nobody works with it any more: the next open must find the lock free.
#[derive(Debug)]
pub(crate) struct OpenStore {
    slot: Mutex<Slot>,
    unused: Condvar,
    is_read_only: bool,
    fork_guard: ForkGuard,
}

#[derive(Debug)]
struct Slot {
    store: Option<SegmentStore>,
    users: usize,
}

impl OpenStore {
    /// `None` for a store that is open for reading.
    pub(crate) fn new(store: Option<SegmentStore>, fork_guard: ForkGuard) -> Self {
        let is_read_only = store.is_none();
        Self { slot: Mutex::new(Slot { store, users: 0 }), unused: Condvar::new(), is_read_only, fork_guard }
    }

    /// The store, to work with for a while: closing waits until it is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::Closed`], [`Error::Forked`].
    pub(crate) fn in_use(&self) -> Result<InUse<'_>> {
        if self.fork_guard.is_forked() {
            return Err(Error::Forked);
        }
        let mut slot = self.slot.lock();
        let store = slot.store.clone().ok_or(if self.is_read_only { Error::ReadOnly } else { Error::Closed })?;
        slot.users += 1;
        Ok(InUse { store, _user: User(self) })
    }

    /// Gives it to nobody any more, waits for those who have it, and lets go of it.
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

/// A segment store that somebody works with. Whoever holds it must not close the store.
#[derive(Debug)]
pub(crate) struct InUse<'a> {
    // Goes first: with the last user the lock must be free.
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
            assert!(store.in_use().is_err(), "nobody begins anew");
            drop(in_use);
            closing.join().unwrap().unwrap();
        });
        store.close();
    }
}
