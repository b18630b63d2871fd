//! Random bytes. Tests replace their source to control them.

use std::fmt::Debug;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// A source of random bytes: salts of segments, the id of a store, pauses before repetitions, and
/// the keys and tokens of the authentication service.
pub trait Entropy: Debug + Send + Sync {
    /// Fills `out` with random bytes. They must not repeat, and those of the authentication service
    /// must be unpredictable.
    ///
    /// # Errors
    ///
    /// Those of the source. Do not use `out` then.
    fn fill(&self, out: &mut [u8]) -> io::Result<()>;

    /// A random number: 8 bytes of [`fill`](Self::fill), the lowest first.
    ///
    /// # Errors
    ///
    /// Those of the source.
    fn next_u64(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The operating system's random generator. It needs the feature `os-entropy`.
///
/// ```
/// use hightower_seams::{Entropy, OsEntropy};
///
/// assert_ne!(OsEntropy.next_u64()?, OsEntropy.next_u64()?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[cfg(feature = "os-entropy")]
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

#[cfg(feature = "os-entropy")]
impl Entropy for OsEntropy {
    fn fill(&self, out: &mut [u8]) -> io::Result<()> {
        getrandom::fill(out).map_err(io::Error::from)
    }
}

/// Bytes that look random and are the same for the same seed: for tests that repeat, never for
/// secrets. It is the splitmix64 generator of Steele, Lea and Flood ("Fast splittable pseudorandom
/// number generators", OOPSLA 2014).
///
/// ```
/// use hightower_seams::{Entropy, SeededEntropy};
///
/// assert_eq!(SeededEntropy::new(7).next_u64()?, SeededEntropy::new(7).next_u64()?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct SeededEntropy(AtomicU64);

impl SeededEntropy {
    /// A source that returns the same bytes for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, out: &mut [u8]) -> io::Result<()> {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        for chunk in out.chunks_mut(8) {
            let number = mix64(self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP));
            chunk.copy_from_slice(&number.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// The finalizer of splitmix64: every number once, in no order.
#[must_use]
pub const fn mix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_bytes_in_pieces_of_any_length() {
        let source = SeededEntropy::new(1);
        let mut bytes = [0; 20];
        source.fill(&mut bytes).unwrap();
        let again = SeededEntropy::new(1);
        assert_eq!(bytes[..8], again.next_u64().unwrap().to_le_bytes());
        assert_eq!(bytes[8..16], again.next_u64().unwrap().to_le_bytes());
        assert_eq!(bytes[16..], again.next_u64().unwrap().to_le_bytes()[..4]);
        // The first number of splitmix64 from 0, as its authors give it.
        assert_eq!(SeededEntropy::new(0).next_u64().unwrap(), 0xe220_a839_7b1d_cdaf);
    }

    #[cfg(feature = "os-entropy")]
    #[test]
    fn random_bytes_differ() {
        let (mut first, mut second) = ([0; 32], [0; 32]);
        OsEntropy.fill(&mut first).unwrap();
        OsEntropy.fill(&mut second).unwrap();
        assert_ne!(first, second);
    }
}
