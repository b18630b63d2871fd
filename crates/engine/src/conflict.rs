//! The error of a transaction whose reads another commit has changed.

use crate::bounds::OwnedBounds;
use crate::expect::{Expect, Rejected, there};

/// What a transaction met at its commit: a key that it had read, itself or in a range, has been
/// changed since. Begin a new transaction, which reads again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the transaction was not committed: {} was changed since {}, and now {}", key.escape_ascii(), self.read(), there(*found))]
#[non_exhaustive]
pub struct Conflict {
    /// The key.
    pub key: Vec<u8>,
    /// The range that was read and holds the key; `None` if the key was read itself.
    pub range: Option<Box<OwnedBounds>>,
    /// What the transaction had read: [`Expect::Version`], [`Expect::Absent`], or for a range
    /// [`Expect::UnchangedSince`] its snapshot.
    pub expected: Expect,
    /// The version of the key's value now; `None` if it has no value.
    pub found: Option<u64>,
}

impl Conflict {
    fn read(&self) -> String {
        match self.expected {
            Expect::Absent => "it was read as absent".into(),
            Expect::Present => "it was read as present".into(),
            Expect::Version(version) => format!("it was read with version {version}"),
            Expect::UnchangedSince(seqno) => format!("a range with it was read at seqno {seqno}"),
        }
    }
}

impl From<Rejected> for Conflict {
    fn from(rejected: Rejected) -> Self {
        let Rejected { key, expected, found, range } = rejected;
        Self { key, range, expected, found }
    }
}
