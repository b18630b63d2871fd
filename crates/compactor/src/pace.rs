//! How fast compaction goes: a token bucket on a clock that tests bring.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::mutants::planted;

/// No sleep is longer than this, so that a run hears of an abort soon.
const LONGEST_SLEEP: Duration = Duration::from_millis(50);
/// So much time's worth of bytes may be saved up.
const BURST: Duration = Duration::from_millis(20);

/// Time, and sleeping. The engine brings the real one.
pub trait PaceClock {
    /// Time since some fixed moment, never going back.
    fn elapsed(&self) -> Duration;

    /// Sleeps for about so long; may return early.
    fn sleep(&self, duration: Duration);
}

/// Lets a number of bytes pass per second.
///
/// ```
/// use std::num::NonZeroU64;
/// use std::time::Duration;
/// use hightower_compactor::Pace;
///
/// let mut pace = Pace::new(NonZeroU64::new(1000), Duration::ZERO);
/// pace.spend(500);
/// assert!(pace.debt(Duration::ZERO) > Duration::from_millis(400));
/// assert_eq!(pace.debt(Duration::from_secs(1)), Duration::ZERO);
/// ```
#[derive(Clone, Debug)]
pub struct Pace {
    bytes_per_s: Option<NonZeroU64>,
    /// The moment at which all that was spent is paid for.
    paid_at: Duration,
    spent: u64,
}

impl Pace {
    /// A pace of so many bytes per second, `None` for no limit, from now on.
    #[must_use]
    pub fn new(bytes_per_s: Option<NonZeroU64>, now: Duration) -> Self {
        Self { bytes_per_s, paid_at: now, spent: 0 }
    }

    /// Notes that so many bytes were read or written.
    pub fn spend(&mut self, bytes: u64) {
        self.spent = self.spent.saturating_add(bytes);
    }

    /// How long to wait, at the moment `now`, until what was spent is paid for.
    pub fn debt(&mut self, now: Duration) -> Duration {
        let spent = std::mem::take(&mut self.spent);
        let Some(bytes_per_s) = self.bytes_per_s.filter(|_| !planted("pace_ignored")) else { return Duration::ZERO };
        // What was not used is lost but for a burst.
        let start = self.paid_at.max(now.saturating_sub(BURST));
        let cost_ns = u128::from(spent) * 1_000_000_000 / u128::from(bytes_per_s.get());
        self.paid_at = start.saturating_add(Duration::from_nanos(u64::try_from(cost_ns).unwrap_or(u64::MAX)));
        self.paid_at.saturating_sub(now)
    }

    /// Waits until what was spent is paid for; asks `go_on` now and then, and stops waiting when it says no. Says whether to go on.
    pub fn wait(&mut self, clock: &dyn PaceClock, go_on: &mut dyn FnMut() -> bool) -> bool {
        loop {
            if !go_on() {
                return false;
            }
            let debt = self.debt(clock.elapsed());
            if debt.is_zero() {
                return true;
            }
            clock.sleep(debt.min(LONGEST_SLEEP));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::num::NonZeroU64;
    use std::time::Duration;

    use super::{Pace, PaceClock};

    struct Manual(Cell<Duration>);

    impl PaceClock for Manual {
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
        let mut pace = Pace::new(NonZeroU64::new(1 << 20), clock.elapsed());
        for _ in 0..64 {
            pace.spend(64 << 10);
            assert!(pace.wait(&clock, &mut || true));
        }
        let took = clock.elapsed() - Duration::from_secs(7);
        assert!((Duration::from_millis(3900)..Duration::from_millis(4100)).contains(&took), "4 MiB took {took:?}");

        clock.sleep(Duration::from_millis(50));
        clock.0.set(clock.elapsed() + Duration::from_secs(60));
        let start = clock.elapsed();
        pace.spend(1 << 20);
        assert!(pace.wait(&clock, &mut || true));
        assert!(clock.elapsed() - start > Duration::from_millis(950));
    }

    #[test]
    fn no_limit_never_waits_and_an_abort_ends_the_wait() {
        let clock = Manual(Cell::new(Duration::ZERO));
        let mut pace = Pace::new(None, Duration::ZERO);
        pace.spend(u64::MAX);
        assert!(pace.wait(&clock, &mut || true));
        assert_eq!(clock.elapsed(), Duration::ZERO);

        let mut pace = Pace::new(NonZeroU64::new(1), Duration::ZERO);
        pace.spend(1_000_000);
        let mut asked = 0;
        let go_on = pace.wait(&clock, &mut || {
            asked += 1;
            asked < 5
        });
        assert!(!go_on && clock.elapsed() < Duration::from_secs(1));
    }
}
