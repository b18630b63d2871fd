//! The directory of an open store, and the data that all parts need: the lock, the latch that ends
//! all writing, random numbers, and the ids of segments and tables.

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
    /// The first free table id at the open, and the next one. The manifest's field follows it.
    first_table_id: u32,
    next_table_id: AtomicU32,
    _lock: Box<dyn Lock>,
}

impl StoreDir {
    pub(crate) fn new(
        dir: Arc<dyn Dir>,
        lock: Box<dyn Lock>,
        entropy: Arc<dyn Entropy>,
        next_id: u32,
        first_table_id: u32,
    ) -> Result<Self, SegmentError> {
        let guard = ForkGuard::new().map_err(|error| SegmentError::io("watch for forks of", dir.path(), error))?;
        let poison = FailureLatch::new(guard, dir.path().to_owned());
        let (next_id, next_table_id) = (AtomicU32::new(next_id), AtomicU32::new(first_table_id));
        Ok(Self { dir, poison, entropy, next_id, first_table_id, next_table_id, _lock: lock })
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
        take(&self.next_id, "segment")
    }

    /// The id that [`take_id`](Self::take_id) returns next.
    pub(crate) fn next_id(&self) -> u32 {
        self.next_id.load(Ordering::Relaxed)
    }

    /// An id that no table has had.
    pub(crate) fn take_table_id(&self) -> Result<u32, SegmentError> {
        take(&self.next_table_id, "table")
    }

    /// Whether [`take_table_id`](Self::take_table_id) has returned this id.
    pub(crate) fn has_taken_table_id(&self, id: u32) -> bool {
        (self.first_table_id..self.next_table_id.load(Ordering::Relaxed)).contains(&id)
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

fn take(next: &AtomicU32, of_what: &str) -> Result<u32, SegmentError> {
    let taken = next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| id.checked_add(1));
    taken.map_err(|_| SegmentError::Invalid { what: format!("the store has used up all {of_what} ids") })
}
