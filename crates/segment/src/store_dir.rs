//! The directory of an open store, and the data that all parts need: the lock, the latch that ends
//! all writing, random numbers, and the ids of segments.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use hightower_seams::Entropy;

use crate::error::SegmentError;
use crate::fs::{Dir, Lock, retry_interrupted};
use crate::mapping::ForkGuard;
use crate::poison::FailureLatch;

#[derive(Debug)]
pub(crate) struct StoreDir {
    /// Open as long as the store. The names of its files are relative to it.
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) poison: FailureLatch,
    entropy: Arc<dyn Entropy>,
    /// The next free segment id. The manifest's field follows it.
    next_id: AtomicU32,
    _lock: Box<dyn Lock>,
}

impl StoreDir {
    pub(crate) fn new(
        dir: Arc<dyn Dir>,
        lock: Box<dyn Lock>,
        entropy: Arc<dyn Entropy>,
        next_id: u32,
    ) -> Result<Self, SegmentError> {
        let guard = ForkGuard::new().map_err(|error| SegmentError::io("watch for forks of", dir.path(), error))?;
        let poison = FailureLatch::new(guard, dir.path().to_owned());
        Ok(Self { dir, poison, entropy, next_id: AtomicU32::new(next_id), _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a file of the store, for messages.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// An id that no segment has had.
    pub(crate) fn take_id(&self) -> Result<u32, SegmentError> {
        let taken = self.next_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| id.checked_add(1));
        taken.map_err(|_| SegmentError::Invalid { what: "the store has used up all segment ids".to_owned() })
    }

    /// The id that [`take_id`](Self::take_id) returns next.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id.load(Ordering::Relaxed)
    }

    pub(crate) fn random(&self) -> Result<u64, SegmentError> {
        let number = self.entropy.next_u64();
        number.map_err(|error| SegmentError::io("draw a random number for", self.path(), error))
    }

    /// Makes the file names in the store's directory durable.
    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        let synced = retry_interrupted(|| self.dir.sync());
        synced.map_err(|error| SegmentError::io("sync", self.path(), error))
    }
}
