//! Checksums of records, seeded so that bytes are valid only at their own place.
//!
//! A record's check combines two hashes, because the two parts become known at different times: the
//! payload (key and value) at the call, the head only when the commit order gives the record its
//! offset. Combining them is one operation. Both are XXH3 with 64 bits
//! (<https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md>): for a record of 100 bytes it
//! takes half of the time of a CRC, and every read computes it.

use twox_hash::XxHash3_64;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::header::RecordContext;
use crate::mutants::planted;

/// The length from which XXH3 processes stripes of 64 bytes, where wide vectors are faster.
const WIDE_VECTORS_MIN_BYTES: usize = 512;

/// The checksum of a record's payload. It needs neither offset nor segment: compute it before
/// taking any lock.
///
/// ```
/// use hightower_log::payload_checksum;
///
/// assert_ne!(payload_checksum(b"12345", b"6789"), payload_checksum(b"1234", b"56789"));
/// ```
#[must_use]
#[inline]
pub fn payload_checksum(key: &[u8], value: &[u8]) -> u64 {
    // Rotated by half, so that an exchange of key and value is detected. The head has their
    // lengths.
    xxh3_64(key).rotate_left(32) ^ xxh3(value)
}

/// XXH3 with 64 bits: one function by two crates, each where it is faster. `xxhash-rust` takes 5 %
/// fewer instructions for a whole get of 100 bytes; `twox-hash` detects the processor's vectors at
/// run time and hashes 4 KiB in half of the time.
#[inline]
fn xxh3(bytes: &[u8]) -> u64 {
    if bytes.len() < WIDE_VECTORS_MIN_BYTES { xxh3_64(bytes) } else { XxHash3_64::oneshot(bytes) }
}

/// The checksum of a record's head at its place, without the payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadSum(u64);

impl HeadSum {
    /// The checksum of `fields`: the bytes of a head from its kind up to its head check.
    #[inline]
    pub(crate) fn new(context: &RecordContext, offset: u32, fields: &[u8]) -> Self {
        let salt = if planted("salt_ignored") { 0 } else { context.salt };
        let offset = if planted("offset_ignored") { 0 } else { offset };
        Self(xxh3_64_with_seed(fields, seed(salt, offset)))
    }

    /// The check of the head alone, in an appended record.
    #[inline]
    pub(crate) fn head_check(self) -> u16 {
        let [a, b, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([a, b])
    }

    /// The check of a record with this payload.
    #[inline]
    pub(crate) fn check(self, payload_checksum: u64) -> u32 {
        // The upper half; the head check is the lower one.
        let [.., a, b, c, d] = (self.0 ^ payload_checksum).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }
}

/// The start value for a record at `offset` in a segment with `salt`.
///
/// For one segment no two offsets share a seed (an odd factor permutes the 64-bit numbers), so a
/// record copied to another offset is invalid. Segments differ by their random salts.
#[inline]
fn seed(salt: u64, offset: u32) -> u64 {
    salt.wrapping_add(u64::from(offset).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::xxh3_64;

    use super::{WIDE_VECTORS_MIN_BYTES, payload_checksum, xxh3};

    /// The published test vector of the hash for an empty input.
    const EMPTY: u64 = 0x2d06_8005_38d3_94c2;

    #[test]
    fn a_payload_of_nothing_is_the_published_vector_twice() {
        assert_eq!(payload_checksum(b"", b""), EMPTY.rotate_left(32) ^ EMPTY);
    }

    /// Lengths around the change of crates, of stripes (64 bytes) and of blocks (1,024 bytes).
    #[test]
    fn both_crates_compute_one_function() {
        let bytes: Vec<u8> = (0..70_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect();
        let lengths = (0..2 * WIDE_VECTORS_MIN_BYTES)
            .chain([1_023, 1_024, 1_025, 2_047, 2_048, 2_049, 4_096, 4_097, 65_535, 65_536, 70_000]);
        for len in lengths {
            assert_eq!(xxh3(&bytes[..len]), xxh3_64(&bytes[..len]), "{len} bytes");
        }
    }

    #[test]
    fn key_and_value_cannot_be_exchanged() {
        assert_ne!(payload_checksum(b"a", b"b"), payload_checksum(b"b", b"a"));
    }
}
