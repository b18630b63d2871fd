//! The latch that a failed write or sync throws: from then on nothing more is written.
//!
//! After a failed fsync the kernel may have dropped the pages it could not write, and a second fsync would report success for
//! them. So a failure is never retried; reopening reads what is really there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::SegmentError;

#[derive(Debug, Default)]
pub(crate) struct Poison {
    set: AtomicBool,
    cause: OnceLock<Arc<str>>,
}

impl Poison {
    /// # Errors
    ///
    /// [`SegmentError::Poisoned`] if anything failed before.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), SegmentError> {
        if self.set.load(Ordering::Acquire) { Err(self.error()) } else { Ok(()) }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Throws the latch; the first cause stays.
    pub(crate) fn set(&self, cause: &str) {
        self.cause.get_or_init(|| cause.into());
        self.set.store(true, Ordering::Release);
    }

    /// Throws the latch unless the error is only a lack of room, and gives the error back.
    pub(crate) fn latch(&self, error: SegmentError) -> SegmentError {
        if matches!(error, SegmentError::Io { .. }) {
            self.set(&error.to_string());
        }
        error
    }

    #[cold]
    fn error(&self) -> SegmentError {
        SegmentError::Poisoned { cause: self.cause.get().cloned().unwrap_or_else(|| "cause unknown".into()) }
    }
}
