//! The quota of disk space: `max_disk_bytes`.
//!
//! The quota is checked when files are created, not at each write, because the active segment's
//! room is already allocated. A store near its quota first prepares no next segment. Then a write
//! that needs a new segment is refused; deletes and compaction, which free space in the end, may
//! exceed the quota by a segment. One lock covers the check and the creation of the file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hightower_seams::lock_order::{self, HeldRank, Rank};
use hightower_segment::SegmentStore;

use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::open_store::OpenStore;
use crate::read_path::ReadPath;
use crate::sync::{Mutex, MutexGuard};
use crate::tables::Tables;

/// Deletes, and batches that may use the reserve, may exceed the quota by this share of it.
const QUOTA_RESERVE_SHARE: u64 = 8;

/// The purpose of a request for disk space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// New data.
    Data,
    /// A batch that [may use the reserve](crate::Batch::use_reserve).
    Reserve,
    /// Deletes only.
    Deletes,
}

/// The quota, and the disk space that counts against it.
#[derive(Debug)]
pub(crate) struct DiskQuota {
    max_bytes: Option<u64>,
    /// Held while a file that counts against the quota is created.
    growing: Mutex<()>,
    /// Bytes of segments that compaction has removed and whose files still exist.
    retired_bytes: AtomicU64,
    read: Arc<ReadPath>,
    store: Arc<OpenStore>,
    tables: Arc<Tables>,
}

impl DiskQuota {
    pub(crate) fn new(
        config: &StoreConfig,
        read: &Arc<ReadPath>,
        store: &Arc<OpenStore>,
        tables: &Arc<Tables>,
    ) -> Self {
        Self {
            max_bytes: config.max_disk_bytes,
            growing: Mutex::default(),
            retired_bytes: AtomicU64::new(0),
            read: Arc::clone(read),
            store: Arc::clone(store),
            tables: Arc::clone(tables),
        }
    }

    /// Removed segments still take `len_bytes` of the disk.
    pub(crate) fn set_retired_bytes(&self, len_bytes: u64) {
        self.retired_bytes.store(len_bytes, Ordering::Relaxed);
    }

    /// Disk space of segments, spare files and tables. While writers or compaction work it may be
    /// too high, never too low: a file that moves from one sum to another counts twice.
    fn disk_bytes(&self, store: &SegmentStore) -> u64 {
        let before = store.tail_stats();
        let segments = self.read.segments.len_bytes();
        let reserved = before.reserved_bytes.max(store.tail_stats().reserved_bytes);
        let other = self.tables.len_bytes() + self.retired_bytes.load(Ordering::Relaxed);
        segments + reserved + other
    }

    /// The lock of the creation of files that count against the quota. `None` in a store without a
    /// quota.
    pub(crate) fn growing(&self) -> Option<(HeldRank, MutexGuard<'_, ()>)> {
        let has_quota = self.max_bytes.is_some() && !planted("quota_not_locked");
        has_quota.then(|| (lock_order::take(Rank::Growing), self.growing.lock()))
    }

    /// Whether the quota allows the room for `wanted`. Valid while [`growing`](Self::growing) is
    /// held.
    pub(crate) fn allows<E>(&self, wanted_bytes: impl FnOnce() -> Result<u64, E>) -> Result<bool, E> {
        let Some(max) = self.max_bytes else { return Ok(true) };
        let wanted_bytes = wanted_bytes()?;
        Ok(self.store.in_use().is_ok_and(|store| self.disk_bytes(&store).saturating_add(wanted_bytes) <= max))
    }

    /// Whether the store is within the quota.
    pub(crate) fn is_kept(&self) -> bool {
        self.allows(|| Ok::<_, Error>(0)).unwrap_or(false)
    }

    /// Whether there is room for what is not needed: less than an 8th of the quota is left
    /// otherwise.
    pub(crate) fn has_room_to_spare(&self) -> bool {
        let spared = self.max_bytes.map_or(0, |max| max / QUOTA_RESERVE_SHARE);
        self.allows(|| Ok::<_, Error>(spared)).unwrap_or(false)
    }

    /// Refuses a new segment for a commit of up to `len_bytes` if the quota is used up.
    pub(crate) fn check(&self, len_bytes: usize, demand: Demand) -> Result<()> {
        let Some(max) = self.max_bytes else { return Ok(()) };
        let store = self.store.in_use()?;
        let needed = store.room_for_roll(len_bytes)?;
        let used = self.disk_bytes(&store);
        let reserve = if demand == Demand::Data { 0 } else { max / QUOTA_RESERVE_SHARE };
        if used.saturating_add(needed) <= max.saturating_add(reserve) {
            return Ok(());
        }
        let detail = format!(
            "the store takes {used} of the {max} bytes that max_disk_bytes allows, and the next segment needs {needed}; delete keys, compact, or raise it"
        );
        Err(Error::Full { detail })
    }
}
