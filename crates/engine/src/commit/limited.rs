//! What a commit changes in keyspaces with a quota.

use hightower_state::LookedBelow;

use crate::error::Error;
use crate::keyspace::{KeyspaceGrowth, KeyspaceId};

/// What a commit changes in keyspaces with a quota.
#[derive(Debug, Default)]
pub(crate) struct LimitedChanges {
    pub(super) keys: Vec<LimitedKey>,
    /// What the commit adds, once it is evaluated.
    pub(super) growth: Vec<(KeyspaceId, KeyspaceGrowth)>,
    /// A key could not be read, or a keyspace not be counted.
    pub(super) failure: Option<Error>,
}

/// A key as it was before the lock.
#[derive(Debug)]
pub(super) struct LimitedKey {
    /// The index of its record.
    pub(super) at: usize,
    /// `None` if what it had is unknown.
    pub(super) below: Option<LookedBelow>,
    pub(super) held: HeldValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldValue {
    Absent,
    Present {
        version: u64,
        len: usize,
    },
    /// It is damaged; only for deletes.
    Unknown,
}

impl HeldValue {
    pub(super) fn version(self) -> Option<u64> {
        match self {
            Self::Present { version, .. } => Some(version),
            Self::Absent | Self::Unknown => None,
        }
    }

    pub(super) fn len(self) -> Option<usize> {
        match self {
            Self::Present { len, .. } => Some(len),
            Self::Absent | Self::Unknown => None,
        }
    }
}
