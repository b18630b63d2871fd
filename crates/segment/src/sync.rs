//! Waiting for the device, without the appender's lock.

use std::sync::Arc;

use crate::error::SegmentError;
use crate::shared::Shared;

/// Makes appended commits durable. Clone it and call it from any thread, while others append.
#[derive(Clone, Debug)]
pub struct SyncPoint {
    pub(crate) shared: Arc<Shared>,
}

impl SyncPoint {
    /// Syncs everything that was appended before the call. One sync runs at a time; a caller that
    /// finds its commits covered by the one before returns without another.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for the first failure; it is never retried, and everyone gets
    /// [`SegmentError::Poisoned`] from then on.
    pub fn sync(&self) -> Result<(), SegmentError> {
        self.shared.sync()
    }
}
