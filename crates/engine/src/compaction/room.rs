//! How much of the disk the store may take: `max_disk_bytes`.
//!
//! The quota is met where files are made, not at each write: an active segment has its room
//! already. A store near its quota first goes without a prepared segment; then a write that needs a
//! new one is refused, while deletes and compaction, which free space in the end, may go beyond by
//! a segment. Between the question whether there is room and the file that takes it nobody else may
//! ask: both are done under one lock.

use hightower_seams::lock_order::{self, HeldRank, Rank};
use hightower_segment::SegmentStore;

use crate::commit::Demand;
use crate::config::{MIN_SEGMENT_SIZE_BYTES, StoreConfig};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::sync::MutexGuard;

/// A store with a quota has segments of at most this share of it, so that the quota is not used up
/// by room for what is to come.
const QUOTA_SHARE: u64 = 32;
/// What takes access away may go beyond the quota by this share of it.
const QUOTA_RESERVE_SHARE: u64 = 8;

impl StoreConfig {
    /// How long new segments are: as configured, or less if the quota asks for it.
    pub(crate) fn segment_len_bytes(&self) -> u32 {
        let share = self.max_disk_bytes.map_or(u64::MAX, |max| (max / QUOTA_SHARE).max(MIN_SEGMENT_SIZE_BYTES));
        u32::try_from(self.max_segment_size.min(share)).unwrap_or(u32::MAX)
    }
}

impl Core {
    /// How much of the disk segments, spare files and checkpoint take; rather too much than too
    /// little where writers or compaction are at work meanwhile: what goes from the one sum to
    /// the other counts twice.
    fn disk_bytes(&self, store: &SegmentStore) -> u64 {
        let before = store.tail_stats();
        let segments = self.segments.len_bytes();
        let reserved = before.reserved_bytes.max(store.tail_stats().reserved_bytes);
        segments + reserved + self.upkeep.other_bytes()
    }

    /// Keeps others from making files that count against the quota, until the guard goes. Nothing
    /// in a store without one.
    pub(crate) fn growing(&self) -> Option<(HeldRank, MutexGuard<'_, ()>)> {
        let has_quota = self.config.max_disk_bytes.is_some() && !planted("quota_not_locked");
        has_quota.then(|| (lock_order::take(Rank::Growing), self.growing.lock()))
    }

    /// Whether the quota allows for files of so many bytes more. Only under
    /// [`growing`](Self::growing) is it still so when they are made.
    pub(crate) fn has_disk_for(&self, more_bytes: u64) -> bool {
        let Some(max) = self.config.max_disk_bytes else { return true };
        self.store.in_use().is_ok_and(|store| self.disk_bytes(&store).saturating_add(more_bytes) <= max)
    }

    /// Refuses to go on to a new segment for a write of `len_bytes` when the quota is used up.
    pub(crate) fn check_disk(&self, len_bytes: usize, demand: Demand) -> Result<()> {
        let Some(max) = self.config.max_disk_bytes else { return Ok(()) };
        let store = self.store.in_use()?;
        let needed = store.room_for_roll(len_bytes)?;
        let used = self.disk_bytes(&store);
        let reserve = if demand == Demand::Data { 0 } else { max / QUOTA_RESERVE_SHARE };
        if used.saturating_add(needed) <= max.saturating_add(reserve) {
            return Ok(());
        }
        self.upkeep.wake();
        let detail = format!(
            "the store takes {used} of the {max} bytes that max_disk_bytes allows, and the next segment needs {needed}; delete keys, compact, or raise it"
        );
        Err(Error::Full { detail })
    }
}
