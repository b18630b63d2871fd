//! Syncs without the appender's lock.

use std::sync::Arc;

use crate::error::SegmentError;
use crate::log_tail::LogTail;

/// Makes appended commits durable. It can be cloned and called from any thread, also during
/// appends.
#[derive(Clone, Debug)]
pub struct SyncPoint {
    pub(crate) tail: Arc<LogTail>,
}

impl SyncPoint {
    /// Syncs everything appended before the call. One sync runs at a time; a caller whose commits
    /// the previous one has covered returns without another.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for the first failure; it is never retried, and later calls return
    /// [`SegmentError::Poisoned`].
    pub fn sync(&self) -> Result<(), SegmentError> {
        self.tail.sync()
    }
}
