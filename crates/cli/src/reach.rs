//! How far plain verbs reach: the records of the authentication service are left out, unless they
//! are asked for.
//!
//! Which keys those are is the library's matter: [`reserved_keys`].

use std::ops::Bound;

use hightower_kv::auth::{KeyRange, reserved_keys};
use hightower_kv::{Range, SingleNodeEngine};

use crate::failure::Failure;

/// Whether the records of the authentication service are meant too.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub(crate) struct Reach {
    /// Reach the records of users, sessions, keys and roles too (they start with \0auth/), which
    /// `auth` looks after
    #[arg(long)]
    pub(crate) with_auth: bool,
}

impl Reach {
    /// Fails for a key that is out of reach.
    pub(crate) fn check(self, key: &[u8]) -> Result<(), Failure> {
        if self.includes(key) {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "the key is one of the authentication service's: `auth` looks after them; {OVERRIDE}"
        )))
    }

    pub(crate) fn includes(self, key: &[u8]) -> bool {
        self.with_auth || !reserved_keys().contains(key)
    }

    /// The keys of `range` that are within reach, in order, as of one moment.
    pub(crate) fn ranges(self, store: &SingleNodeEngine, range: &KeyRange) -> Result<Vec<Range>, Failure> {
        let snapshot = store.snapshot()?;
        let parts = if self.with_auth { vec![range.clone()] } else { range.without(&reserved_keys()) };
        let open = |part: &KeyRange| {
            let to = part.end().map_or(Bound::Unbounded, Bound::Excluded);
            snapshot.range((Bound::Included(part.start()), to))
        };
        Ok(parts.iter().map(open).collect())
    }
}

/// What to do if it is meant.
pub(crate) const OVERRIDE: &str = "--with-auth reaches them all the same";
