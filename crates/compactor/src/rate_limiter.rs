//! The rate limiter of compaction: a token bucket with a replaceable clock.

use std::num::NonZeroU64;
use std::time::Duration;

use hightower_seams::Clock;

use crate::mutants::planted;

/// The longest sleep, so that an aborted run ends soon.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// The maximum burst, as time at the limited rate.
const BURST: Duration = Duration::from_millis(20);

/// Limits reads and writes to a number of bytes per second.
///
/// ```
/// use std::num::NonZeroU64;
/// use std::time::Duration;
/// use hightower_compactor::RateLimiter;
///
/// let mut limiter = RateLimiter::new(NonZeroU64::new(1000), Duration::ZERO);
/// limiter.consume(500);
/// assert!(limiter.wait_time(Duration::ZERO) > Duration::from_millis(400));
/// assert_eq!(limiter.wait_time(Duration::from_secs(1)), Duration::ZERO);
/// ```
#[derive(Clone, Debug)]
pub struct RateLimiter {
    bytes_per_s: Option<NonZeroU64>,
    /// The time from which bytes may be consumed without waiting.
    free_at: Duration,
    consumed: u64,
    /// The latest moment known. A pause counts as passed even if the clock stands still.
    now: Duration,
}

impl RateLimiter {
    /// A limiter to a number of bytes per second from `now` on; `None` for no limit.
    #[must_use]
    pub fn new(bytes_per_s: Option<NonZeroU64>, now: Duration) -> Self {
        Self { bytes_per_s, free_at: now, consumed: 0, now }
    }

    /// Counts bytes that were read or written.
    pub fn consume(&mut self, bytes: u64) {
        self.consumed = self.consumed.saturating_add(bytes);
    }

    /// The time to wait at `now` for the consumed bytes.
    pub fn wait_time(&mut self, now: Duration) -> Duration {
        let consumed = std::mem::take(&mut self.consumed);
        let Some(bytes_per_s) = self.bytes_per_s.filter(|_| !planted("pace_ignored")) else { return Duration::ZERO };
        // Unused time is lost, except for a burst.
        let start = self.free_at.max(now.saturating_sub(BURST));
        let cost_ns = u128::from(consumed) * 1_000_000_000 / u128::from(bytes_per_s.get());
        self.free_at = start.saturating_add(Duration::from_nanos(u64::try_from(cost_ns).unwrap_or(u64::MAX)));
        self.free_at.saturating_sub(now)
    }

    /// Waits until the consumed bytes are within the rate. Calls `go_on` before each pause, and
    /// stops waiting when it returns false. Returns whether to continue.
    pub fn wait(&mut self, clock: &dyn Clock, go_on: &mut dyn FnMut() -> bool) -> bool {
        loop {
            if !go_on() {
                return false;
            }
            self.now = self.now.max(clock.elapsed());
            let pause = self.wait_time(self.now).min(LONGEST_SLEEP);
            if pause.is_zero() {
                return true;
            }
            clock.sleep(pause);
            self.now += pause;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::time::Duration;

    use hightower_seams::{Clock, ManualClock};

    use super::RateLimiter;

    /// Stands still; its pauses take no time.
    #[derive(Debug)]
    struct StoppedClock;

    impl Clock for StoppedClock {
        fn now_ms(&self) -> i64 {
            0
        }

        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, duration: Duration) {
            assert!(duration <= super::LONGEST_SLEEP);
        }
    }

    #[test]
    fn the_rate_is_kept_over_time_and_idle_time_is_not_saved_up() {
        let clock = ManualClock::at(0);
        clock.set_elapsed(Duration::from_secs(7));
        let mut limiter = RateLimiter::new(NonZeroU64::new(1 << 20), clock.elapsed());
        for _ in 0..64 {
            limiter.consume(64 << 10);
            assert!(limiter.wait(&clock, &mut || true));
        }
        let took = clock.elapsed() - Duration::from_secs(7);
        assert!((Duration::from_millis(3900)..Duration::from_millis(4100)).contains(&took), "4 MiB took {took:?}");

        clock.sleep(Duration::from_millis(50));
        clock.advance(Duration::from_secs(60));
        let start = clock.elapsed();
        limiter.consume(1 << 20);
        assert!(limiter.wait(&clock, &mut || true));
        assert!(clock.elapsed() - start > Duration::from_millis(950));
    }

    #[test]
    fn no_limit_never_waits_and_an_abort_ends_the_wait() {
        let clock = ManualClock::at(0);
        let mut limiter = RateLimiter::new(None, Duration::ZERO);
        limiter.consume(u64::MAX);
        assert!(limiter.wait(&clock, &mut || true));
        assert_eq!(clock.elapsed(), Duration::ZERO);

        let mut limiter = RateLimiter::new(NonZeroU64::new(1), Duration::ZERO);
        limiter.consume(1_000_000);
        let mut asked = 0;
        let go_on = limiter.wait(&clock, &mut || {
            asked += 1;
            asked < 5
        });
        assert!(!go_on && clock.elapsed() < Duration::from_secs(1));
    }

    /// Otherwise a run under a clock that stands still would never end.
    #[test]
    fn pauses_count_as_passed_under_a_clock_that_stands_still() {
        let mut limiter = RateLimiter::new(NonZeroU64::new(1000), Duration::ZERO);
        for seconds in [1_usize, 2] {
            limiter.consume(1000);
            let mut asked = 0;
            let go_on = limiter.wait(&StoppedClock, &mut || {
                asked += 1;
                asked < 1000
            });
            assert!(go_on && asked == 21, "{asked} pauses of 50 ms in second {seconds}");
        }
    }
}
