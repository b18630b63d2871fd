//! The options of a keyspace.

use crate::config::Durability;

/// The options of a keyspace: from its creation on, or since
/// [`alter_keyspace`](crate::SingleNodeEngine::alter_keyspace).
///
/// ```
/// use hightower_engine::{Durability, KeyspaceOptions};
///
/// let options = KeyspaceOptions::default().with_durability(Durability::Sync);
/// assert_eq!(options.durability, Some(Durability::Sync));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyspaceOptions {
    /// The durability of the calls of [`Keyspace`](crate::Keyspace) that have none of their own;
    /// `None` for that of the store.
    pub durability: Option<Durability>,
    /// The most keys with a value; `None` for no limit. A commit that would exceed it is refused as
    /// a whole with [`Error::KeyspaceFull`](crate::Error::KeyspaceFull), unless it adds no key.
    pub max_keys: Option<u64>,
    /// The most bytes of keys and values; `None` for no limit. A commit that would exceed it is
    /// refused likewise, unless it adds no byte.
    ///
    /// What counts are the keys that have a value: the bytes of the key as the caller gives it, and
    /// of the value. Deleted keys, replaced values and the store's overhead do not count.
    ///
    /// A keyspace with a quota has a cost. The first write of a value after an open counts the
    /// keyspace: it reads all keys and values. Later writes read the keys that they change.
    pub max_bytes: Option<u64>,
}

impl KeyspaceOptions {
    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    /// Sets [`max_keys`](Self::max_keys).
    #[must_use]
    pub fn with_max_keys(mut self, max_keys: u64) -> Self {
        self.max_keys = Some(max_keys);
        self
    }

    /// Sets [`max_bytes`](Self::max_bytes).
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: u64) -> Self {
        self.max_bytes = Some(max_bytes);
        self
    }

    /// Whether there is a limit.
    pub(crate) fn has_quota(&self) -> bool {
        self.max_keys.is_some() || self.max_bytes.is_some()
    }
}
