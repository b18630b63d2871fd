//! Secret random bytes, as a trait, so that tests can choose them.

use std::fmt::Debug;

use crate::error::{Error, Result};

/// A source of random bytes for keys.
pub trait SecretEntropy: Debug + Send + Sync {
    /// Fills `out` with random bytes.
    ///
    /// # Errors
    /// [`Error::Randomness`] if the source fails. Do not use `out` then.
    fn fill(&self, out: &mut [u8]) -> Result<()>;
}

/// The operating system's random generator (`getrandom`).
#[derive(Clone, Copy, Debug, Default)]
pub struct OsSecretEntropy;

impl SecretEntropy for OsSecretEntropy {
    fn fill(&self, out: &mut [u8]) -> Result<()> {
        getrandom::fill(out).map_err(Error::Randomness)
    }
}

/// `N` random bytes from `entropy`.
pub(crate) fn random<const N: usize>(entropy: &dyn SecretEntropy) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    entropy.fill(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_differ() {
        let first: [u8; 32] = random(&OsSecretEntropy).unwrap();
        let second: [u8; 32] = random(&OsSecretEntropy).unwrap();
        assert_ne!(first, second);
    }
}
