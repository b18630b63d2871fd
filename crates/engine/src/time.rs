//! The store's time, which stamps segments and measures the grace of tombstones.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use hightower_log::SegmentKind;
use hightower_seams::Clock;
use hightower_segment::Stamp;

use crate::mutants::planted;
use crate::sync::Mutex;
use crate::table::Segments;

/// 9999-12-31T23:59:59.999Z. A clock's reading above it, or below 0, is ignored.
const LATEST_PLAUSIBLE_MS: i64 = 253_402_300_799_999;

/// While the clock is behind an earlier stamp of the store, the store's time runs at half the
/// clock's pace. So a grace still ends, and the clock can catch up.
const SLOWED_BY: u64 = 2;

/// Time that never decreases within a store, whatever the clock returns, and that no caller can
/// change. A stamp below an earlier one would end the grace of tombstones as soon as the clock is
/// corrected.
#[derive(Debug)]
pub(crate) struct StoreTime {
    clock: Arc<dyn Clock>,
    /// The latest stamp, Unix milliseconds.
    latest_ms: AtomicI64,
    /// The monotonic reading of the clock up to which `latest_ms` accounts for time.
    stamped_at: Mutex<Duration>,
}

impl StoreTime {
    /// Continues from the stamps of a store's segments.
    pub(crate) fn resume(clock: Arc<dyn Clock>, segments: &Segments) -> Self {
        let all = segments.all();
        let headers = all.iter().map(|tracked| tracked.segment.header());
        let begun = headers.map(|header| header.created_ms);
        let appended = all.iter().rev().filter(|tracked| tracked.segment.header().kind == SegmentKind::Append);
        // The newest segment may have been prepared before its predecessor was sealed.
        let looked_at = if planted("seal_of_before_ignored") { 1 } else { 2 };
        let ended = appended.take(looked_at).filter_map(|tracked| tracked.segment.sealed_at());
        let latest_ms = begun.chain(ended).filter(|ms| is_plausible(*ms)).max();
        let latest_ms = latest_ms.filter(|_| !planted("time_begins_anew"));
        Self::beginning_at(clock, latest_ms.unwrap_or(0))
    }

    fn beginning_at(clock: Arc<dyn Clock>, latest_ms: i64) -> Self {
        let stamped_at = Mutex::new(clock.elapsed());
        Self { clock, latest_ms: AtomicI64::new(latest_ms), stamped_at }
    }

    /// Unix time in milliseconds, at least the latest stamp. Costs a reading of the clock.
    #[inline]
    pub(crate) fn now_ms(&self) -> i64 {
        let now_ms = self.clock.now_ms();
        let now_ms = if is_plausible(now_ms) || planted("clock_may_go_back") { now_ms } else { 0 };
        if planted("clock_may_go_back") { now_ms } else { now_ms.max(self.latest_ms.load(Ordering::Relaxed)) }
    }

    /// The stamp of a segment that begins or ends now, in a store that has seen versions up to
    /// `max_version`. Only this function makes stamps, so that no number of a caller gets into one.
    pub(crate) fn stamp(&self, max_version: u64) -> Stamp {
        Stamp { max_version, timestamp: self.stamp_ms() }
    }

    /// The time for a header or a seal: at least every earlier one.
    pub(crate) fn stamp_ms(&self) -> i64 {
        let (now_ms, elapsed) = (self.now_ms(), self.clock.elapsed());
        let mut stamped_at = self.stamped_at.lock();
        let passed = elapsed.saturating_sub(*stamped_at);
        let passed_ms = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX) / SLOWED_BY;
        let latest_ms = self.latest_ms.load(Ordering::Relaxed);
        let slowed_ms = latest_ms.saturating_add_unsigned(passed_ms);
        if now_ms > slowed_ms || planted("clock_may_go_back") {
            *stamped_at = stamped_at.saturating_add(passed);
            self.latest_ms.store(now_ms, Ordering::Relaxed);
            return now_ms;
        }
        // The rest below a millisecond is carried over.
        *stamped_at = stamped_at.saturating_add(Duration::from_millis(passed_ms.saturating_mul(SLOWED_BY)));
        self.latest_ms.store(slowed_ms, Ordering::Relaxed);
        slowed_ms
    }
}

fn is_plausible(ms: i64) -> bool {
    (0..=LATEST_PLAUSIBLE_MS).contains(&ms)
}

#[cfg(test)]
mod tests {
    use hightower_seams::ManualClock;

    use super::*;

    fn set(clock: &ManualClock, now_ms: i64, elapsed_us: u64) {
        clock.set_now_ms(now_ms);
        clock.set_elapsed(Duration::from_micros(elapsed_us));
    }

    #[test]
    fn time_never_goes_back_and_never_stands_still() {
        let clock = Arc::new(ManualClock::at(0));
        let time = StoreTime::beginning_at(Arc::clone(&clock) as Arc<_>, 1_000_000);
        set(&clock, 2_000_000, 0);
        assert_eq!((time.now_ms(), time.stamp_ms()), (2_000_000, 2_000_000));
        for strange in [5, 0, -1, i64::MIN, i64::MAX, LATEST_PLAUSIBLE_MS + 1] {
            set(&clock, strange, 0);
            assert_eq!((time.now_ms(), time.stamp_ms()), (2_000_000, 2_000_000), "{strange}");
        }
        // Half the pace, for any number of readings and steps of any size.
        for step in 1..=8000 {
            set(&clock, 5, step * 500);
            let _stamp = time.stamp_ms();
        }
        assert_eq!((time.now_ms(), time.stamp_ms()), (2_002_000, 2_002_000));
        // The clock has caught up.
        set(&clock, 2_003_000, 6_000_000);
        assert_eq!((time.now_ms(), time.stamp_ms()), (2_003_000, 2_003_000));
        set(&clock, 2_003_500, 6_500_000);
        assert_eq!(time.stamp_ms(), 2_003_500);
    }

    #[test]
    fn a_clock_of_extremes_alone_still_lets_time_pass() {
        for strange in [i64::MIN, i64::MAX] {
            let clock = Arc::new(ManualClock::at(0));
            set(&clock, strange, 0);
            let time = StoreTime::beginning_at(Arc::clone(&clock) as Arc<_>, 0);
            assert_eq!((time.now_ms(), time.stamp_ms()), (0, 0));
            set(&clock, strange, 10_000_000);
            assert_eq!((time.stamp_ms(), time.now_ms()), (5_000, 5_000));
            set(&clock, strange, u64::MAX);
            assert!(time.stamp_ms() > 5_000);
        }
    }
}
