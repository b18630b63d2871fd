//! Checksums: CRC-32 (the IEEE polynomial, as in RFC 1952), seeded so that bytes only count in their own place.
//!
//! A record's check is computed in two steps, because the two halves become known at different times: the payload's
//! (key and value) as soon as the caller hands them over, the head's only once the commit order gives the record its offset.
//! `check = crc(crc(seed, head), payload_checksum)`: the second step costs some ten nanoseconds, whatever the payload's length.

use std::sync::LazyLock;

use crc32fast::Hasher;

use crate::mutants::planted;

/// The checksum of a record's payload, which needs neither offset nor segment: compute it before taking any lock.
///
/// ```
/// assert_eq!(hightower_log::payload_checksum(b"12345", b"6789"), 0xcbf4_3926);
/// ```
#[must_use]
pub fn payload_checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = FRESH.clone();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// The checksum of a payload in one piece.
#[inline]
pub(crate) fn whole_checksum(payload: &[u8]) -> u32 {
    let mut hasher = FRESH.clone();
    hasher.update(payload);
    hasher.finalize()
}

/// A hasher that knows already what the processor can do: asking takes as long as the checksum of a short key.
static FRESH: LazyLock<Hasher> = LazyLock::new(Hasher::new);

/// The start value for a record at `offset` in a segment with `salt`.
///
/// For one segment no two offsets share a seed (an odd factor permutes the 32-bit numbers), so a record copied to another
/// offset never passes; between segments the salts, drawn at random, tell them apart.
pub(crate) fn seed(salt: u64, offset: u32) -> u32 {
    let salt = if planted("salt_ignored") { 0 } else { salt };
    let offset = if planted("offset_ignored") { 0 } else { offset };
    let [a, b, c, d, e, f, g, h] = salt.to_le_bytes();
    let low = u32::from_le_bytes([a, b, c, d]);
    let high = u32::from_le_bytes([e, f, g, h]);
    (offset.wrapping_mul(0x9e37_79b1) ^ low).wrapping_add(high)
}

/// The CRC-32 of `bytes`, going on from `start`.
pub(crate) fn crc(start: u32, bytes: &[u8]) -> u32 {
    let mut hasher = Hasher::new_with_initial(start);
    hasher.update(bytes);
    hasher.finalize()
}

/// A record's check: the CRC-32 of `payload`'s four bytes, going on from the head's.
///
/// Every record needs this, and for four bytes a call of the library costs five times the four lookups.
#[inline]
pub(crate) fn join(head: u32, payload: u32) -> u32 {
    // The register is the head's checksum inverted; four bytes pass through it in one step ("slicing by 4", Kounavis and Berry, 2005).
    let [a, b, c, d] = (!head ^ payload).to_le_bytes();
    !(STEPS[3][usize::from(a)] ^ STEPS[2][usize::from(b)] ^ STEPS[1][usize::from(c)] ^ STEPS[0][usize::from(d)])
}

/// `STEPS[n][byte]`: what `byte` leaves in the register after `n` more bytes of zeros.
static STEPS: [[u32; 256]; 4] = {
    /// The polynomial of RFC 1952, bits reversed.
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let mut steps = [[0; 256]; 4];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "below 256")]
        let mut register = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            register = if register & 1 == 1 { register >> 1 ^ POLYNOMIAL } else { register >> 1 };
            bit += 1;
        }
        steps[0][byte] = register;
        byte += 1;
    }
    let mut zeros = 1;
    while zeros < 4 {
        let mut byte = 0;
        while byte < 256 {
            let register: u32 = steps[zeros - 1][byte];
            steps[zeros][byte] = register >> 8 ^ steps[0][(register & 0xff) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    steps
};

/// Half of a 32-bit checksum, for the check of a record's head alone.
pub(crate) fn fold(checksum: u32) -> u16 {
    let [a, b, c, d] = checksum.to_le_bytes();
    u16::from_le_bytes([a ^ c, b ^ d])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{crc, join, payload_checksum, whole_checksum};

    proptest! {
        #[test]
        fn the_short_ways_agree_with_the_library(head: u32, payload: u32, key: Vec<u8>, value: Vec<u8>) {
            prop_assert_eq!(join(head, payload), crc(head, &payload.to_le_bytes()));
            prop_assert_eq!(whole_checksum(&[&key[..], &value].concat()), payload_checksum(&key, &value));
            prop_assert_eq!(payload_checksum(&key, &value), crc(crc(0, &key), &value));
        }
    }
}
