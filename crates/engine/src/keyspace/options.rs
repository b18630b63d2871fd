//! The options of a keyspace.

use crate::config::Durability;

/// The options of a keyspace, from its creation on.
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
}

impl KeyspaceOptions {
    /// Sets [`durability`](Self::durability).
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }
}
