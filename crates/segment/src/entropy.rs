//! Random numbers, through a seam so that tests decide them.

use std::fmt::Debug;
use std::io;

/// A source of random numbers: salts of segments, the id of a store.
pub trait Entropy: Debug + Send + Sync {
    /// The next number. Numbers need not be secret, but must not repeat.
    ///
    /// # Errors
    ///
    /// Those of the source.
    fn next_u64(&self) -> io::Result<u64>;
}

/// The operating system's random numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn next_u64(&self) -> io::Result<u64> {
        let mut bytes = [0_u8; 8];
        let mut filled = 0;
        while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            filled += rustix::io::retry_on_intr(|| {
                rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty())
            })?;
        }
        Ok(u64::from_le_bytes(bytes))
    }
}
