//! Hashing of keys: a fast keyed hash with a secret per map, so that no caller can choose colliding
//! keys.

use core::fmt;
use core::hash::{BuildHasher, Hasher};
use std::hash::RandomState;

use rapidhash::v3::{RapidSecrets, rapidhash_v3_seeded};

/// Hashes keys for the point table.
///
/// The same key must always get the same hash. All 64 bits should be well mixed: the table uses the
/// top bits as directory index, and the low bits for the place in a bucket and the tag. A hasher
/// with many equal hashes makes a map slow. A hasher that gives a key two hashes, or panics, can
/// make a map lose or duplicate keys. It never causes access to foreign memory, and every value is
/// dropped once.
///
/// ```
/// use hightower_index::{KeyHasher, pin, with_hasher};
///
/// struct Worst;
/// impl KeyHasher for Worst {
///     fn hash(&self, _key: &[u8]) -> u64 {
///         0
///     }
/// }
///
/// let (mut writer, map) = with_hasher::<u32, _>(Worst);
/// writer.insert(b"a", 1);
/// writer.insert(b"b", 2);
/// assert_eq!(map.get(b"b", &pin()), Some(&2));
/// ```
pub trait KeyHasher: Send + Sync {
    /// The hash of `key`.
    fn hash(&self, key: &[u8]) -> u64;
}

/// The default [`KeyHasher`]: rapidhash V3 under secrets derived from a seed.
///
/// ```
/// use hightower_index::{KeyHasher, SeededHasher};
/// let hasher = SeededHasher::new(7);
/// assert_eq!(hasher.hash(b"a"), SeededHasher::new(7).hash(b"a"));
/// assert_ne!(hasher.hash(b"a"), SeededHasher::new(8).hash(b"a"));
/// ```
#[derive(Clone)]
pub struct SeededHasher {
    secrets: RapidSecrets,
}

impl SeededHasher {
    /// A hasher with secrets derived from `seed` only, for reproducible tests.
    ///
    /// ```
    /// let hasher = hightower_index::SeededHasher::new(1);
    /// ```
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { secrets: RapidSecrets::seed(seed) }
    }

    /// A hasher with secrets from the process's random source.
    ///
    /// ```
    /// let hasher = hightower_index::SeededHasher::random();
    /// ```
    #[must_use]
    pub fn random() -> Self {
        Self::new(RandomState::new().build_hasher().finish())
    }
}

impl Default for SeededHasher {
    fn default() -> Self {
        Self::random()
    }
}

impl KeyHasher for SeededHasher {
    #[inline]
    fn hash(&self, key: &[u8]) -> u64 {
        rapidhash_v3_seeded(key, &self.secrets)
    }
}

impl fmt::Debug for SeededHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // No secrets in logs: with them, a caller can choose colliding keys.
        f.debug_struct("SeededHasher").finish_non_exhaustive()
    }
}
