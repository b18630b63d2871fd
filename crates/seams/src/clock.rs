//! The clock. Tests replace it to control the time.

use std::fmt::Debug;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A source of time: a wall clock for timestamps, and a monotonic clock for ages and pauses.
pub trait Clock: Debug + Send + Sync {
    /// Unix time in milliseconds. It may step back, as wall clocks do.
    fn now_ms(&self) -> i64;

    /// The time since a fixed moment. It never decreases.
    fn elapsed(&self) -> Duration;

    /// Pauses the calling thread for about `duration`; may return early. The rate limiter of
    /// compaction calls it, and a transaction that is repeated after conflicts.
    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

/// The operating system's clock.
///
/// With the feature `coarse-clock`, [`now_ms`](Clock::now_ms) is on Linux the time of the kernel's
/// last tick: at most a few milliseconds ago, at a quarter of the cost.
///
/// ```
/// use hightower_seams::{Clock, SystemClock};
///
/// let clock = SystemClock::new();
/// assert!(clock.now_ms() > 1_700_000_000_000);
/// assert!(clock.elapsed() <= clock.elapsed());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    /// A clock whose [`elapsed`](Clock::elapsed) begins now.
    #[must_use]
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> i64 {
        now_ms()
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(all(target_os = "linux", feature = "coarse-clock"))]
fn now_ms() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000)
}

#[cfg(not(all(target_os = "linux", feature = "coarse-clock")))]
fn now_ms() -> i64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

/// A clock for tests, which only the test moves. A [`sleep`](Clock::sleep) advances it and returns
/// at once.
///
/// ```
/// use std::time::Duration;
/// use hightower_seams::{Clock, ManualClock};
///
/// let clock = ManualClock::at(1_700_000_000_000);
/// clock.advance(Duration::from_secs(1));
/// assert_eq!((clock.now_ms(), clock.elapsed()), (1_700_000_001_000, Duration::from_secs(1)));
/// clock.set_now_ms(5);
/// assert_eq!((clock.now_ms(), clock.elapsed()), (5, Duration::from_secs(1)));
/// ```
#[derive(Debug)]
pub struct ManualClock {
    now_ms: AtomicI64,
    elapsed_us: AtomicU64,
    step_ms: i64,
}

impl ManualClock {
    /// A clock at this Unix time in milliseconds, with an elapsed time of 0.
    #[must_use]
    pub fn at(now_ms: i64) -> Self {
        Self { now_ms: AtomicI64::new(now_ms), elapsed_us: AtomicU64::new(0), step_ms: 0 }
    }

    /// The same, but each call of [`now_ms`](Clock::now_ms) moves the wall clock by `step_ms`
    /// milliseconds, so that no two timestamps are equal.
    #[must_use]
    pub fn stepping(now_ms: i64, step_ms: i64) -> Self {
        Self { step_ms, ..Self::at(now_ms) }
    }

    /// Advances both times, in whole microseconds.
    pub fn advance(&self, duration: Duration) {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
        self.elapsed_us.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Sets the wall clock only, forward or back.
    pub fn set_now_ms(&self, now_ms: i64) {
        self.now_ms.store(now_ms, Ordering::SeqCst);
    }

    /// Moves the wall clock only, by milliseconds, forward or back.
    pub fn shift_ms(&self, ms: i64) {
        self.now_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Sets the elapsed time only.
    pub fn set_elapsed(&self, elapsed: Duration) {
        self.elapsed_us.store(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        match self.step_ms {
            0 => self.now_ms.load(Ordering::SeqCst),
            step_ms => self.now_ms.fetch_add(step_ms, Ordering::SeqCst),
        }
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.elapsed_us.load(Ordering::SeqCst))
    }

    fn sleep(&self, duration: Duration) {
        self.advance(duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_in_this_century() {
        let now_ms = SystemClock::new().now_ms();
        assert!((1_700_000_000_000..4_200_000_000_000).contains(&now_ms), "{now_ms}");
    }

    #[test]
    fn a_manual_clock_moves_when_told_and_by_its_step() {
        let clock = ManualClock::stepping(100, 1);
        assert_eq!((clock.now_ms(), clock.now_ms(), clock.elapsed()), (100, 101, Duration::ZERO));
        clock.sleep(Duration::from_millis(8));
        assert_eq!((clock.now_ms(), clock.elapsed()), (110, Duration::from_millis(8)));
        clock.set_elapsed(Duration::from_secs(3));
        assert_eq!((clock.now_ms(), clock.elapsed()), (111, Duration::from_secs(3)));
    }
}
