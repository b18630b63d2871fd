//! The hash of keys. It is seeded, so that attackers cannot choose keys that collide.

use std::fmt;

use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

/// Hashes keys for the point tables: rapidhash V3 under secrets that derive from a seed.
///
/// Tables that a lookup reads together share a seed, so that the lookup hashes a key once. The hash
/// equals that of `hightower_index::SeededHasher::new(seed)`, so a memtable can also share it.
///
/// ```
/// use hightower_table::TableHasher;
///
/// let hasher = TableHasher::new(7);
/// assert_eq!(hasher.hash(b"key"), TableHasher::new(7).hash(b"key"));
/// assert_ne!(hasher.hash(b"key"), TableHasher::new(8).hash(b"key"));
/// ```
#[derive(Clone)]
pub struct TableHasher {
    secrets: RapidSecrets,
}

impl TableHasher {
    /// The hasher of this seed. Costs about as much as hashing a short key.
    ///
    /// ```
    /// let hasher = hightower_table::TableHasher::new(1);
    /// ```
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { secrets: RapidSecrets::seed(seed) }
    }

    /// The hash of a key.
    ///
    /// ```
    /// let hasher = hightower_table::TableHasher::new(1);
    /// assert_ne!(hasher.hash(b"a"), hasher.hash(b"b"));
    /// ```
    #[must_use]
    #[inline]
    pub fn hash(&self, key: &[u8]) -> u64 {
        rapidhash_v3_seeded(key, &self.secrets)
    }
}

impl fmt::Debug for TableHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The secrets stay out of logs: with them, an attacker can choose keys that collide.
        f.debug_struct("TableHasher").finish_non_exhaustive()
    }
}
