//! The wall clock, as a trait, so that tests can set the time.

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

/// Unix time in milliseconds.
pub type Timestamp = i64;

/// A wall clock.
pub trait WallClock: Debug + Send + Sync {
    /// The current time, in Unix milliseconds.
    ///
    /// A wall clock may go back; delays and expiries then shift by the same amount.
    fn now_ms(&self) -> Timestamp;
}

/// The operating system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemWallClock;

impl WallClock for SystemWallClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn now_ms(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_in_this_century() {
        let now = SystemWallClock.now_ms();
        assert!(now > 1_700_000_000_000, "{now}");
        assert!(now < 4_200_000_000_000, "{now}");
    }
}
