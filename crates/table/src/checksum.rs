//! Checksums of the parts of a table, seeded by offset so that bytes at another offset do not
//! match.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::planted;

/// The salt of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) u64);

impl Salt {
    /// The seed for bytes at `offset`. An odd factor permutes the 64-bit numbers: no two offsets of
    /// a table share a seed.
    #[inline]
    fn seed(self, offset: u64) -> u64 {
        let offset = if planted("table_offset_ignored") { 0 } else { offset };
        self.0.wrapping_add(offset.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The checksum of a block or line that begins at `offset`.
    #[inline]
    pub(crate) fn check(self, offset: u64, bytes: &[u8]) -> u32 {
        let [a, b, c, d, ..] = self.long_check(offset, bytes).to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// All 64 bits of the checksum.
    #[inline]
    pub(crate) fn long_check(self, offset: u64, bytes: &[u8]) -> u64 {
        xxh3_64_with_seed(bytes, self.seed(offset))
    }
}
