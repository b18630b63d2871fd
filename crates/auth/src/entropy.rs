//! Random bytes, with this crate's errors.

use hightower_seams::Entropy;

use crate::error::{Error, Result};

/// Fills `out` with random bytes.
pub(crate) fn fill_random(entropy: &dyn Entropy, out: &mut [u8]) -> Result<()> {
    entropy.fill(out).map_err(Error::Randomness)
}

/// `N` random bytes from `entropy`.
pub(crate) fn random<const N: usize>(entropy: &dyn Entropy) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fill_random(entropy, &mut bytes)?;
    Ok(bytes)
}
