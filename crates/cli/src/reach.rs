//! The keys that plain verbs use: the records of the authentication service only with
//! `--with-auth`.
//!
//! The library defines these keys: [`reserved_keys`].

use std::ops::Bound;

use hightower_kv::auth::{KeyRange, reserved_keys};
use hightower_kv::{Range, Snapshot};

use crate::failure::Failure;

/// Whether the records of the authentication service are included.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Reach {
    /// Include the records of users, sessions, API keys and roles (keys that start with \0auth/),
    /// which `auth` looks after
    #[arg(long)]
    pub(crate) with_auth: bool,
}

impl Reach {
    /// Fails for a key that is not included.
    pub(crate) fn check(self, key: &[u8]) -> Result<(), Failure> {
        if self.includes(key) {
            return Ok(());
        }
        Err(Failure::Usage(format!("the key belongs to the authentication service, which `auth` manages; {OVERRIDE}")))
    }

    pub(crate) fn includes(self, key: &[u8]) -> bool {
        self.with_auth || !reserved_keys().contains(key)
    }

    /// The included keys of `range`, in order, of a snapshot.
    pub(crate) fn ranges(self, snapshot: &Snapshot, range: &KeyRange) -> Vec<Range> {
        let parts = if self.with_auth { vec![range.clone()] } else { range.without(&reserved_keys()) };
        let open = |part: &KeyRange| {
            let to = part.end().map_or(Bound::Unbounded, Bound::Excluded);
            snapshot.range((Bound::Included(part.start()), to))
        };
        parts.iter().map(open).collect()
    }
}

/// The advice for intended access.
pub(crate) const OVERRIDE: &str = "--with-auth overrides this";
