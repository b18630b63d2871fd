//! Time and randomness, as seams: the service asks these traits and nothing else, so that a test
//! decides what time it is and which bytes are "random".

use std::fmt::Debug;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// Unix time in milliseconds.
pub type Timestamp = i64;

/// Tells the wall-clock time.
pub trait Clock: Debug + Send + Sync {
    /// The time now, in Unix milliseconds.
    ///
    /// It may go back (wall clocks do): a delay or an expiry is then late or early by that much.
    fn now_ms(&self) -> Timestamp;
}

/// The operating system's wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the seam")]
    fn now_ms(&self) -> Timestamp {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        }
    }
}

/// Gives random bytes fit for keys.
pub trait Entropy: Debug + Send + Sync {
    /// Fills `out` with random bytes.
    ///
    /// # Errors
    /// [`Error::Randomness`] if the source fails; `out` must then not be used.
    fn fill(&self, out: &mut [u8]) -> Result<()>;
}

/// The operating system's random generator (`getrandom`).
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        getrandom::fill(out).map_err(Error::Randomness)
    }
}

/// `N` random bytes from `entropy`.
pub(crate) fn random<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_in_this_century() {
        let now = SystemClock.now_ms();
        assert!(now > 1_700_000_000_000, "{now}");
        assert!(now < 4_200_000_000_000, "{now}");
    }

    #[test]
    fn random_bytes_differ() {
        let first: [u8; 32] = random(&OsEntropy).unwrap();
        let second: [u8; 32] = random(&OsEntropy).unwrap();
        assert_ne!(first, second);
    }
}
