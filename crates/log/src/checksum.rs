//! Checksums: CRC-32 (the IEEE polynomial, as in RFC 1952), seeded so that bytes only count in their own place.
//!
//! A record's check is computed in two steps, because the two halves become known at different times: the payload's
//! (key and value) as soon as the caller hands them over, the head's only once the commit order gives the record its offset.
//! `check = crc(crc(seed, head), payload_checksum)`: the second step costs some ten nanoseconds, whatever the payload's length.

use crc32fast::Hasher;

use crate::mutants::planted;

/// The checksum of a record's payload, which needs neither offset nor segment: compute it before taking any lock.
///
/// ```
/// assert_eq!(hightower_log::payload_checksum(b"12345", b"6789"), 0xcbf4_3926);
/// ```
#[must_use]
pub fn payload_checksum(key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = Hasher::new();
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

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

/// Half of a 32-bit checksum, for the check of a record's head alone.
pub(crate) fn fold(checksum: u32) -> u16 {
    let [a, b, c, d] = checksum.to_le_bytes();
    u16::from_le_bytes([a ^ c, b ^ d])
}
