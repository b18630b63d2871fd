//! How much of the disk the store may take: `max_disk_bytes`.
//!
//! The quota is checked where files are created, not at each write: an active segment has its room
//! already. A store near its quota first goes without a prepared segment; then a write that needs a
//! new one is refused, while deletes and compaction, which free space in the end, may exceed it by
//! a segment. The check and the creation of the file that it allows are under one lock.

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

/// What takes access away may exceed the quota by this share of it.
const QUOTA_RESERVE_SHARE: u64 = 8;

/// What a commit needs room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// New data.
    Data,
    /// A batch that [may use the reserve](crate::Batch::use_reserve).
    Reserve,
    /// Deletes and nothing else.
    Deletes,
}

/// The quota, and the count of what it applies to.
#[derive(Debug)]
pub(crate) struct DiskQuota {
    max_bytes: Option<u64>,
    /// Held while a file that counts against the quota is created.
    growing: Mutex<()>,
    checkpoint_bytes: AtomicU64,
    /// Of segments that compaction has removed, and whose files are still held.
    retired_bytes: AtomicU64,
    read: Arc<ReadPath>,
    store: Arc<OpenStore>,
}

impl DiskQuota {
    pub(crate) fn new(
        config: &StoreConfig,
        read: &Arc<ReadPath>,
        store: &Arc<OpenStore>,
        checkpoint_bytes: u64,
    ) -> Self {
        Self {
            max_bytes: config.max_disk_bytes,
            growing: Mutex::default(),
            checkpoint_bytes: AtomicU64::new(checkpoint_bytes),
            retired_bytes: AtomicU64::new(0),
            read: Arc::clone(read),
            store: Arc::clone(store),
        }
    }

    /// The index checkpoint takes `len_bytes` of the disk.
    pub(crate) fn set_checkpoint_bytes(&self, len_bytes: u64) {
        self.checkpoint_bytes.store(len_bytes, Ordering::Relaxed);
    }

    /// Removed segments still take `len_bytes` of the disk.
    pub(crate) fn set_retired_bytes(&self, len_bytes: u64) {
        self.retired_bytes.store(len_bytes, Ordering::Relaxed);
    }

    /// Bytes of the disk that segments, spare files and checkpoint take. Rather too much than too
    /// little while writers or compaction work: what moves from one sum to another counts twice.
    fn disk_bytes(&self, store: &SegmentStore) -> u64 {
        let before = store.tail_stats();
        let segments = self.read.segments.len_bytes();
        let reserved = before.reserved_bytes.max(store.tail_stats().reserved_bytes);
        let other = self.checkpoint_bytes.load(Ordering::Relaxed) + self.retired_bytes.load(Ordering::Relaxed);
        segments + reserved + other
    }

    /// Keeps others from creating files that count against the quota, until the guard is dropped.
    /// Nothing in a store without a quota.
    pub(crate) fn growing(&self) -> Option<(HeldRank, MutexGuard<'_, ()>)> {
        let has_quota = self.max_bytes.is_some() && !planted("quota_not_locked");
        has_quota.then(|| (lock_order::take(Rank::Growing), self.growing.lock()))
    }

    /// Whether the quota allows what `wanted` needs. Valid for as long as
    /// [`growing`](Self::growing) is held.
    pub(crate) fn allows<E>(&self, wanted_bytes: impl FnOnce() -> Result<u64, E>) -> Result<bool, E> {
        let Some(max) = self.max_bytes else { return Ok(true) };
        let wanted_bytes = wanted_bytes()?;
        Ok(self.store.in_use().is_ok_and(|store| self.disk_bytes(&store).saturating_add(wanted_bytes) <= max))
    }

    /// Whether the store takes no more than the quota.
    pub(crate) fn is_kept(&self) -> bool {
        self.allows(|| Ok::<_, Error>(0)).unwrap_or(false)
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
