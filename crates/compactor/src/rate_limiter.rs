//! The rate limiter of compaction: a token bucket on a clock that tests can replace.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::mutants::planted;

/// The longest sleep, so that an aborted run ends soon.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// The bytes of this time may be saved up for a burst.
const BURST: Duration = Duration::from_millis(20);

/// A clock with a sleep. The engine passes the real one.
pub trait RateClock {
    /// Time since some fixed moment, never going back.
    fn elapsed(&self) -> Duration;

    /// Sleeps for about `duration`; may return early.
    fn sleep(&self, duration: Duration);
}

/// Lets a number of bytes pass per second.
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
    /// The moment from which bytes may be consumed without waiting.
    free_at: Duration,
    consumed: u64,
}

impl RateLimiter {
    /// A limiter to a number of bytes per second from now on, `None` for no limit.
    #[must_use]
    pub fn new(bytes_per_s: Option<NonZeroU64>, now: Duration) -> Self {
        Self { bytes_per_s, free_at: now, consumed: 0 }
    }

    /// Counts bytes that were read or written.
    pub fn consume(&mut self, bytes: u64) {
        self.consumed = self.consumed.saturating_add(bytes);
    }

    /// The time to wait, at the moment `now`, for the bytes that were consumed.
    pub fn wait_time(&mut self, now: Duration) -> Duration {
        let consumed = std::mem::take(&mut self.consumed);
        let Some(bytes_per_s) = self.bytes_per_s.filter(|_| !planted("pace_ignored")) else { return Duration::ZERO };
        // Unused time is lost, except for a burst.
        let start = self.free_at.max(now.saturating_sub(BURST));
        let cost_ns = u128::from(consumed) * 1_000_000_000 / u128::from(bytes_per_s.get());
        self.free_at = start.saturating_add(Duration::from_nanos(u64::try_from(cost_ns).unwrap_or(u64::MAX)));
        self.free_at.saturating_sub(now)
    }

    /// Waits until what was consumed is paid for; asks `go_on` now and then, and stops waiting when
    /// it says no. Returns whether to go on.
    pub fn wait(&mut self, clock: &dyn RateClock, go_on: &mut dyn FnMut() -> bool) -> bool {
        loop {
            if !go_on() {
                return false;
            }
            let wait_time = self.wait_time(clock.elapsed());
            if wait_time.is_zero() {
                return true;
            }
            clock.sleep(wait_time.min(LONGEST_SLEEP));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroU64;
    use std::time::Duration;

    use super::{RateClock, RateLimiter};

    struct Manual(Cell<Duration>);

    impl RateClock for Manual {
        fn elapsed(&self) -> Duration {
            self.0.get()
        }

        fn sleep(&self, duration: Duration) {
            assert!(duration <= super::LONGEST_SLEEP);
            self.0.set(self.0.get() + duration);
        }
    }

    #[test]
    fn the_rate_is_kept_over_time_and_idle_time_is_not_saved_up() {
        let clock = Manual(Cell::new(Duration::from_secs(7)));
        let mut limiter = RateLimiter::new(NonZeroU64::new(1 << 20), clock.elapsed());
        for _ in 0..64 {
            limiter.consume(64 << 10);
            assert!(limiter.wait(&clock, &mut || true));
        }
        let took = clock.elapsed() - Duration::from_secs(7);
        assert!((Duration::from_millis(3900)..Duration::from_millis(4100)).contains(&took), "4 MiB took {took:?}");

        clock.sleep(Duration::from_millis(50));
        clock.0.set(clock.elapsed() + Duration::from_secs(60));
        let start = clock.elapsed();
        limiter.consume(1 << 20);
        assert!(limiter.wait(&clock, &mut || true));
        assert!(clock.elapsed() - start > Duration::from_millis(950));
    }

    #[test]
    fn no_limit_never_waits_and_an_abort_ends_the_wait() {
        let clock = Manual(Cell::new(Duration::ZERO));
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
}
