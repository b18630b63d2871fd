//! The id of a keyspace.

use std::fmt;

/// The id of a keyspace. A store never uses an id a second time: a keyspace that was dropped or
/// cleared, and a later one of the same name, have different ids.
///
/// ```
/// use hightower_engine::KeyspaceId;
///
/// assert_eq!(KeyspaceId::DEFAULT.get(), 0);
/// assert!(KeyspaceId::DEFAULT < KeyspaceId::SYSTEM);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyspaceId(u64);

impl KeyspaceId {
    /// The default keyspace: the keys of the store's own calls.
    pub const DEFAULT: Self = Self(0);
    /// The keyspace of the store's own records.
    pub const SYSTEM: Self = Self(1);

    /// The id as a number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    pub(crate) const fn new(id: u64) -> Self {
        Self(id)
    }
}

impl fmt::Display for KeyspaceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
