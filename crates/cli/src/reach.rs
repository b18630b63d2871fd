//! The keys that a verb is about: those of the default keyspace, those of a named one, or the
//! records of the authentication service.

use std::ops::Bound;

use hightower_kv::auth::{KeyRange, records};
use hightower_kv::{Batch, BatchOutcome, Range, ReservedKeyspace, SingleNodeEngine, Snapshot};

use crate::failure::Failure;

/// The keyspace of the keys.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Reach {
    /// The keyspace of the keys; without it, the default one. See `keyspace`
    #[arg(long, value_name = "NAME", conflicts_with = "auth_records")]
    keyspace: Option<String>,

    /// The records of users, sessions, API keys and roles instead of keys: `auth` looks after them
    #[arg(long)]
    auth_records: bool,
}

impl Reach {
    /// Whether the values may be secrets, such as password hashes.
    pub(crate) fn is_secret(&self) -> bool {
        self.auth_records
    }

    /// Whether it is about the keys of the default keyspace.
    pub(crate) fn is_default(&self) -> bool {
        !self.auth_records && self.keyspace.is_none()
    }

    /// Commits a batch of keys.
    pub(crate) fn commit(&self, store: &SingleNodeEngine, batch: &Batch) -> Result<BatchOutcome, Failure> {
        Ok(match &self.keyspace {
            Some(name) => store.keyspace(name)?.commit(batch)?,
            None if self.auth_records => store.reserved_keyspace(ReservedKeyspace::Auth).commit(batch)?,
            None => store.commit(batch)?,
        })
    }

    /// The keys of a snapshot.
    pub(crate) fn of(&self, snapshot: &Snapshot) -> Result<Snapshot, Failure> {
        Ok(match &self.keyspace {
            Some(name) => snapshot.keyspace_named(name)?,
            None if self.auth_records => snapshot.keyspace(&records())?,
            None => snapshot.clone(),
        })
    }

    /// The keys of `range`, in order, of a snapshot.
    pub(crate) fn range(&self, snapshot: &Snapshot, range: &KeyRange) -> Result<Range, Failure> {
        let to = range.end().map_or(Bound::Unbounded, Bound::Excluded);
        Ok(self.of(snapshot)?.range((Bound::Included(range.start()), to)))
    }
}
