//! The latch of a failed write or sync: afterwards the store writes nothing more.
//!
//! After a failed fsync the kernel may have dropped the pages it could not write, and a second
//! fsync would report success for them. So a failure is never retried; the next open reads the true
//! content.
//!
//! A failure before any device access, for lack of file descriptors or memory, has changed nothing
//! and does not set the latch.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::SegmentError;
use crate::mapping::ForkGuard;

#[derive(Debug)]
pub(crate) struct FailureLatch {
    set: AtomicBool,
    cause: OnceLock<Arc<str>>,
    guard: ForkGuard,
    dir: PathBuf,
}

impl FailureLatch {
    /// A latch for the store in `dir`, which belongs to this process.
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

    /// The first failure.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.cause.get().map(|cause| &**cause)
    }

    /// Sets the latch. The first cause stays.
    pub(crate) fn set(&self, cause: &str) {
        self.cause.get_or_init(|| cause.into());
        self.set.store(true, Ordering::Release);
    }

    /// Sets the latch, unless nothing can have changed: for lack of room, descriptors or memory, or
    /// because of a foreign file. Returns the error. Not for syncs.
    pub(crate) fn latch(&self, error: SegmentError) -> SegmentError {
        if error.changes_nothing() { error } else { self.latch_sync(error) }
    }

    /// The same for a rename, which the system may also have refused.
    pub(crate) fn latch_rename(&self, error: SegmentError) -> SegmentError {
        if error.is_refused_rename() { error } else { self.latch(error) }
    }

    /// The same for a failed sync: afterwards nothing is known, for any reason.
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
