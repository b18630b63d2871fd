//! How much room the store keeps ready: as much as is being written needs, and while nothing is
//! written as little as its size allows.
//!
//! A file that is made ahead is long enough for what the writers of the moment write in some
//! seconds, so that making files costs them nothing; and at least a small share of what lives in
//! the store, so that the number of segments stays small. When nothing is written, what was made
//! ready for a rush is given back.

use std::time::Duration;

use hightower_segment::{SegmentError, SegmentStore};
use parking_lot::Mutex;

use crate::config::{MIN_SEGMENT_SIZE_BYTES, StoreConfig};
use crate::core::Core;
use crate::error::Error;

/// A segment is this share of the bytes that live, or more: the active one, its successor and the
/// spare take room for three.
const LIVE_SHARE: u64 = 512;
/// Writers fill no more than one segment in so many seconds, if the largest allows for it.
const SECONDS_PER_SEGMENT: u64 = 2;
/// The rate of writing is looked at so often.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(10);
/// What was written before a pause of this length says nothing about what comes.
const MEMORY: Duration = Duration::from_secs(1);
/// How much lives is looked at when the log has grown by one part in so many of its segments.
const LOOK_SHARE: usize = 64;
/// With each look the rate falls by no more than this share.
const FALL_SHARE: u64 = 32;

/// How fast the log grows.
#[derive(Clone, Copy, Debug, Default)]
struct Growth {
    at: Duration,
    segment: u32,
    end: u32,
    bytes_per_s: u64,
}

impl Growth {
    /// The log ends there now.
    fn look(&mut self, now: Duration, (segment, end): (u32, u32)) {
        let since = now.saturating_sub(self.at);
        // What went into segments between is not seen; what is seen of the new one shows the rate
        // soon.
        let grown = u64::from(if segment == self.segment { end.saturating_sub(self.end) } else { end });
        let seen = grown.saturating_mul(1_000_000) / u64::try_from(since.as_micros()).unwrap_or(u64::MAX).max(1);
        let kept = if since > MEMORY { 0 } else { self.bytes_per_s - self.bytes_per_s / FALL_SHARE };
        let rate = if seen > self.bytes_per_s { self.bytes_per_s / 2 + seen / 2 } else { seen };
        *self = Self { at: now, segment, end, bytes_per_s: rate.max(kept) };
    }
}

/// How many bytes lived when it was looked at last. To look costs the more the more segments there
/// are, so it is not done at each roll.
#[derive(Clone, Copy, Debug, Default)]
struct Living {
    bytes: u64,
    /// The active segment of that time.
    segment: u32,
}

/// What is known of the rate at which the store is written to, and of its size.
#[derive(Debug, Default)]
pub(crate) struct Sizing {
    growth: Mutex<Growth>,
    living: Mutex<Living>,
}

impl StoreConfig {
    /// How long a segment is for a store with so many live bytes that is not written to.
    pub(crate) fn idle_segment_len(&self, live_bytes: u64) -> u32 {
        let largest = self.segment_len_bytes();
        let least = u32::try_from(self.min_segment_size.max(MIN_SEGMENT_SIZE_BYTES)).unwrap_or(u32::MAX);
        u32::try_from(live_bytes / LIVE_SHARE).unwrap_or(u32::MAX).clamp(least.min(largest), largest)
    }
}

impl Core {
    /// How long a segment is while nothing is written.
    fn idle_len(&self) -> u32 {
        self.config.idle_segment_len(self.segments.live_bytes())
    }

    /// The same, from what was known when the log had at most one part in [`LOOK_SHARE`] fewer
    /// segments.
    fn idle_len_about(&self, active: u32) -> u32 {
        let mut living = self.sizing.living.lock();
        let grown = active.abs_diff(living.segment) as usize;
        if grown > self.segments.count() / LOOK_SHARE {
            *living = Living { bytes: self.segments.live_bytes(), segment: active };
        }
        self.config.idle_segment_len(living.bytes)
    }

    /// Looks at how fast the log grows, and says how long files are to be.
    pub(crate) fn plan_segments(&self, store: &SegmentStore) {
        let now = self.components.clock.elapsed();
        let Some(end) = store.end() else { return };
        let bytes_per_s = {
            let mut growth = self.sizing.growth.lock();
            if now.saturating_sub(growth.at) < SAMPLE_INTERVAL && growth.segment == end.0 {
                return;
            }
            growth.look(now, end);
            growth.bytes_per_s
        };
        let rush = u32::try_from(bytes_per_s.saturating_mul(SECONDS_PER_SEGMENT)).unwrap_or(u32::MAX);
        store.set_next_len(self.idle_len_about(end.0).max(rush));
    }

    /// Gives back room that was made ready for more than is written now. For when nothing is.
    pub(crate) fn rest(&self) {
        match self.try_rest() {
            // A full device is seen elsewhere; a store that was closed meanwhile has given back
            // everything.
            Ok(()) | Err(Error::Full { .. } | Error::Closed | Error::ReadOnly | Error::Poisoned { .. }) => {}
            // What could not be removed is tried again at the next rest, and does no harm until
            // then.
            Err(Error::Io { .. }) if self.is_log_sound() => {}
            Err(failure) => drop(self.poison.latch(&failure)),
        }
    }

    fn try_rest(&self) -> Result<(), Error> {
        let store = self.store.in_use()?;
        self.sizing.growth.lock().bytes_per_s = 0;
        let wanted = self.idle_len();
        store.set_next_len(wanted);
        {
            // A roll may count on the files that this removes.
            let _growing = self.growing();
            store.trim()?;
        }
        let mut log = self.commit_log()?;
        if log.appender.remaining_bytes() / 2 > wanted {
            let given_back: Result<(), SegmentError> = log.appender.give_back(wanted);
            given_back?;
        }
        Ok(())
    }

    /// Gives back room if hardly anything is written at the moment.
    pub(crate) fn rest_unless_busy(&self) {
        let Ok(store) = self.store.in_use() else { return };
        self.plan_segments(&store);
        if store.next_len() <= self.idle_len() {
            self.rest();
        }
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
