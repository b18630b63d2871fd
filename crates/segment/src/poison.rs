//! The latch that a failed write or sync throws: from then on nothing more is written.
//!
//! After a failed fsync the kernel may have dropped the pages it could not write, and a second
//! fsync would report success for them. So a failure is never retried; reopening reads what is
//! really there.
//!
//! What fails before the device is asked, for want of file descriptors or memory, has changed
//! nothing, and does not throw it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::SegmentError;
use crate::mapping::ForkGuard;

#[derive(Debug)]
pub(crate) struct Poison {
    set: AtomicBool,
    cause: OnceLock<Arc<str>>,
    guard: ForkGuard,
    dir: PathBuf,
}

impl Poison {
    /// For the store in `dir`, which is this process's.
    pub(crate) fn new(guard: ForkGuard, dir: PathBuf) -> Self {
        Self { set: AtomicBool::new(false), cause: OnceLock::new(), guard, dir }
    }

    /// # Errors
    ///
    /// [`SegmentError::Poisoned`] if anything failed before; [`SegmentError::Forked`] in a child of
    /// the process that opened the store.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), SegmentError> {
        if self.set.load(Ordering::Acquire) || self.guard.is_forked() { Err(self.error()) } else { Ok(()) }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Throws the latch; the first cause stays.
    pub(crate) fn set(&self, cause: &str) {
        self.cause.get_or_init(|| cause.into());
        self.set.store(true, Ordering::Release);
    }

    /// Throws the latch unless nothing can have changed: for want of room, of descriptors or of
    /// memory, or since something of others' is in the way. Gives the error back. Not for syncs.
    pub(crate) fn latch(&self, error: SegmentError) -> SegmentError {
        if error.changes_nothing() { error } else { self.latch_sync(error) }
    }

    /// The same for a rename, which the system may also have refused.
    pub(crate) fn latch_rename(&self, error: SegmentError) -> SegmentError {
        if error.is_refused_rename() { error } else { self.latch(error) }
    }

    /// The same for a sync that failed: after that nothing is known, whatever the reason.
    pub(crate) fn latch_sync(&self, error: SegmentError) -> SegmentError {
        if matches!(error, SegmentError::Io { .. }) {
            self.set(&error.to_string());
        }
        error
    }

    #[cold]
    fn error(&self) -> SegmentError {
        if self.guard.is_forked() {
            return SegmentError::Forked { dir: self.dir.clone() };
        }
        SegmentError::Poisoned { cause: self.cause.get().cloned().unwrap_or_else(|| "cause unknown".into()) }
    }
}
