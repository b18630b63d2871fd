//! The clock seam, which the age of snapshots is measured by.

use std::time::{Duration, Instant};

/// Tells how much time has passed since some fixed moment; never goes back.
pub trait Clock: Send + Sync + 'static {
    /// The time since the clock's own beginning.
    fn now(&self) -> Duration;
}

/// The system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// A clock that begins now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the seam that others go through")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
}
