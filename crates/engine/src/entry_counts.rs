//! Counts of the entries that point into a segment.

use std::sync::atomic::{AtomicU64, Ordering};

use hightower_table::SegmentCounts;

/// Counts of entries.
#[derive(Debug, Default)]
pub(crate) struct EntryCounts {
    pub(crate) entries: AtomicU64,
    /// Bytes of their records.
    pub(crate) len_bytes: AtomicU64,
    pub(crate) tombstones: AtomicU64,
}

impl EntryCounts {
    pub(crate) fn add(&self, counts: &SegmentCounts) {
        add(&self.len_bytes, counts.len_bytes, Ordering::Relaxed);
        add(&self.entries, counts.entries, Ordering::Release);
        add(&self.tombstones, counts.tombstones, Ordering::Relaxed);
    }

    pub(crate) fn subtract(&self, counts: &SegmentCounts) {
        subtract(&self.len_bytes, counts.len_bytes);
        subtract(&self.entries, counts.entries);
        subtract(&self.tombstones, counts.tombstones);
    }

    pub(crate) fn set(&self, counts: &SegmentCounts) {
        self.len_bytes.store(counts.len_bytes, Ordering::Relaxed);
        self.entries.store(counts.entries, Ordering::Release);
        self.tombstones.store(counts.tombstones, Ordering::Relaxed);
    }
}

/// Adds to a counter that other threads may read but only this thread changes now.
#[inline]
pub(crate) fn add(number: &AtomicU64, more: u64, order: Ordering) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(more), order);
}

/// Subtracts from such a counter.
#[inline]
pub(crate) fn subtract(number: &AtomicU64, less: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Relaxed);
}
