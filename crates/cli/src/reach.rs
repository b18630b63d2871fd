//! The keys that plain verbs use: those of one keyspace, and the records of the authentication
//! service only with `--with-auth`.
//!
//! The library defines the keys of these records: [`reserved_keys`].

use std::ops::Bound;

use hightower_kv::auth::{KeyRange, reserved_keys};
use hightower_kv::{Batch, BatchOutcome, Range, SingleNodeEngine, Snapshot};

use crate::failure::Failure;

/// The keyspace of the keys, and whether the records of the authentication service are included.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Reach {
    /// The keyspace of the keys; without it, the default one. See `keyspace`
    #[arg(long, value_name = "NAME", conflicts_with = "with_auth")]
    keyspace: Option<String>,

    /// Include the records of users, sessions, API keys and roles (keys that start with \0auth/),
    /// which `auth` looks after
    #[arg(long)]
    pub(crate) with_auth: bool,
}

impl Reach {
    /// Fails for a key that is not included.
    pub(crate) fn check(&self, key: &[u8]) -> Result<(), Failure> {
        if self.includes(key) {
            return Ok(());
        }
        Err(Failure::Usage(format!("the key belongs to the authentication service, which `auth` manages; {OVERRIDE}")))
    }

    pub(crate) fn includes(&self, key: &[u8]) -> bool {
        self.with_auth || self.keyspace.is_some() || !reserved_keys().contains(key)
    }

    /// The name of the keyspace, if it is not the default one.
    pub(crate) fn keyspace(&self) -> Option<&str> {
        self.keyspace.as_deref()
    }

    /// Commits a batch of keys.
    pub(crate) fn commit(&self, store: &SingleNodeEngine, batch: &Batch) -> Result<BatchOutcome, Failure> {
        Ok(match self.keyspace() {
            Some(name) => store.keyspace(name)?.commit(batch)?,
            None => store.commit(batch)?,
        })
    }

    /// The keys of a snapshot.
    pub(crate) fn of(&self, snapshot: &Snapshot) -> Result<Snapshot, Failure> {
        Ok(match self.keyspace() {
            Some(name) => snapshot.keyspace_named(name)?,
            None => snapshot.clone(),
        })
    }

    /// The included keys of `range`, in order, of a snapshot.
    pub(crate) fn ranges(&self, snapshot: &Snapshot, range: &KeyRange) -> Result<Vec<Range>, Failure> {
        let snapshot = self.of(snapshot)?;
        let is_whole = self.with_auth || self.keyspace.is_some();
        let parts = if is_whole { vec![range.clone()] } else { range.without(&reserved_keys()) };
        let open = |part: &KeyRange| {
            let to = part.end().map_or(Bound::Unbounded, Bound::Excluded);
            snapshot.range((Bound::Included(part.start()), to))
        };
        Ok(parts.iter().map(open).collect())
    }
}

/// The advice for intended access.
pub(crate) const OVERRIDE: &str = "--with-auth overrides this";
