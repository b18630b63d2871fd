//! Lengths of segments: long enough for the current writers; while nothing is written, as short as
//! the size of the store allows.
//!
//! A preallocated file holds some seconds of the current writers' data, so that the creation of
//! files does not delay them. It has at least a small share of the live bytes, so that the number
//! of segments stays small.

use std::time::Duration;

use parking_lot::Mutex;

use crate::config::{MIN_SEGMENT_SIZE_BYTES, StoreConfig};
use crate::table::Segments;

/// A segment has at least this share of the live bytes. The active segment, its successor and the
/// spare together take three times that.
const LIVE_SHARE: u64 = 512;
/// Writers fill at most one segment in this time, if the maximum length allows it.
const SECONDS_PER_SEGMENT: u64 = 2;
/// The interval at which the rate of writing is measured.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);
/// After a pause of this length, the earlier rate is discarded.
const MEMORY: Duration = Duration::from_secs(1);
/// The live bytes are counted again when the log has grown by one part in this many of its
/// segments.
const LOOK_SHARE: usize = 64;
/// The largest fall of the rate per measurement, as a share.
const FALL_SHARE: u64 = 32;
/// A segment's largest share of the quota, so that preallocated room does not use the quota up.
const QUOTA_SHARE: u64 = 32;

/// The rate of the log's growth.
#[derive(Clone, Copy, Debug, Default)]
struct Growth {
    at: Duration,
    segment: u32,
    end: u32,
    bytes_per_s: u64,
}

impl Growth {
    /// Records the current end of the log.
    fn look(&mut self, now: Duration, (segment, end): (u32, u32)) {
        let since = now.saturating_sub(self.at);
        // Bytes of segments in between are not counted; the new segment soon shows the rate.
        let grown = u64::from(if segment == self.segment { end.saturating_sub(self.end) } else { end });
        let seen = grown.saturating_mul(1_000_000) / u64::try_from(since.as_micros()).unwrap_or(u64::MAX).max(1);
        let kept = if since > MEMORY { 0 } else { self.bytes_per_s - self.bytes_per_s / FALL_SHARE };
        let rate = if seen > self.bytes_per_s { self.bytes_per_s / 2 + seen / 2 } else { seen };
        *self = Self { at: now, segment, end, bytes_per_s: rate.max(kept) };
    }
}

/// The live bytes at the last count. A count costs time per segment, so not every rotation counts.
#[derive(Clone, Copy, Debug, Default)]
struct Living {
    bytes: u64,
    /// The active segment at that time.
    segment: u32,
}

/// The rate of writing, and the size of the store.
#[derive(Debug, Default)]
pub(crate) struct Sizing {
    growth: Mutex<Growth>,
    living: Mutex<Living>,
}

impl StoreConfig {
    /// The length of a segment: as configured, or less if the quota requires it.
    pub(crate) fn segment_len_bytes(&self) -> u32 {
        let share = self.max_disk_bytes.map_or(u64::MAX, |max| (max / QUOTA_SHARE).max(MIN_SEGMENT_SIZE_BYTES));
        u32::try_from(self.max_segment_size.min(share)).unwrap_or(u32::MAX)
    }

    /// The length of a segment while nothing is written, in a store with `live_bytes`.
    pub(crate) fn idle_segment_len(&self, live_bytes: u64) -> u32 {
        let largest = self.segment_len_bytes();
        let least = u32::try_from(self.min_segment_size.max(MIN_SEGMENT_SIZE_BYTES)).unwrap_or(u32::MAX);
        u32::try_from(live_bytes / LIVE_SHARE).unwrap_or(u32::MAX).clamp(least.min(largest), largest)
    }
}

impl Sizing {
    /// Measures the growth of the log, which now ends at `end` of a segment, and returns the length
    /// of the next file; `None` if the last measurement is too recent.
    pub(crate) fn plan(
        &self,
        now: Duration,
        end: (u32, u32),
        config: &StoreConfig,
        segments: &Segments,
    ) -> Option<u32> {
        let bytes_per_s = {
            let mut growth = self.growth.lock();
            if now.saturating_sub(growth.at) < SAMPLE_INTERVAL && growth.segment == end.0 {
                return None;
            }
            growth.look(now, end);
            growth.bytes_per_s
        };
        let rush = u32::try_from(bytes_per_s.saturating_mul(SECONDS_PER_SEGMENT)).unwrap_or(u32::MAX);
        Some(config.idle_segment_len(self.live_bytes_about(end.0, segments)).max(rush))
    }

    /// Records that nothing is written any more.
    pub(crate) fn note_idle(&self) {
        self.growth.lock().bytes_per_s = 0;
    }

    /// The live bytes, counted when the log had at most one part in [`LOOK_SHARE`] fewer segments.
    fn live_bytes_about(&self, active: u32, segments: &Segments) -> u64 {
        let mut living = self.living.lock();
        let grown = active.abs_diff(living.segment) as usize;
        if grown > segments.count() / LOOK_SHARE {
            *living = Living { bytes: segments.live_bytes(), segment: active };
        }
        living.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Growth;
    use crate::config::StoreConfig;

    #[test]
    fn the_rate_rises_at_once_and_falls_slowly() {
        let mut growth = Growth::default();
        growth.look(Duration::from_millis(1000), (1, 64));
        for step in 1..=10_u32 {
            growth.look(Duration::from_millis(1000 + u64::from(step) * 10), (1, 64 + step * 1_000_000));
        }
        assert!((90_000_000..=100_000_000).contains(&growth.bytes_per_s), "{}", growth.bytes_per_s);
        growth.look(Duration::from_millis(1110), (2, 64));
        assert!(growth.bytes_per_s > 90_000_000, "a roll is no pause");
        growth.look(Duration::from_millis(5000), (2, 64));
        assert!(growth.bytes_per_s < 1000, "a pause is one");
    }

    #[test]
    fn segments_follow_the_size_of_the_store() {
        let config = StoreConfig::default();
        assert_eq!(config.idle_segment_len(0), 256 << 10);
        assert_eq!(config.idle_segment_len(1280 << 20), 5 << 19);
        assert_eq!(config.idle_segment_len(1 << 50), 64 << 20);
        let small = StoreConfig { max_segment_size: 8192, ..config };
        assert_eq!(small.idle_segment_len(1 << 50), 8192);
    }
}
