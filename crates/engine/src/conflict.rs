//! The error of a transaction whose reads another commit has changed.

use std::ops::Bound;

use crate::bounds::OwnedBounds;
use crate::expect::{Expect, Rejected, there};
use crate::keyspace::KeyspaceId;

/// What a transaction met at its commit: a key that it had read, itself or in a range, has been
/// changed since. Begin a new transaction, which reads again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the transaction was not committed: {}", self.reason())]
#[non_exhaustive]
pub struct Conflict {
    /// The key; empty if the store cannot tell whether the range has changed.
    pub key: Vec<u8>,
    /// The keyspace of the key, and of the range.
    pub keyspace: KeyspaceId,
    /// The range that was read and holds the key; `None` if the key was read itself.
    pub range: Option<Box<OwnedBounds>>,
    /// What the transaction had read: [`Expect::Version`], [`Expect::Absent`], or for a range, and
    /// for a key among more than 256, [`Expect::UnchangedSince`] its snapshot.
    pub expected: Expect,
    /// The version of the key's value now; `None` if it has no value.
    pub found: Option<u64>,
}

impl Conflict {
    fn reason(&self) -> String {
        if self.key.is_empty() {
            return "the store has forgotten whether a range has changed since it was read".into();
        }
        format!("{} was changed since {}, and now {}", self.key.escape_ascii(), self.read(), there(self.found))
    }

    fn read(&self) -> String {
        match self.expected {
            Expect::Absent => "it was read as absent".into(),
            Expect::Present => "it was read as present".into(),
            Expect::Version(version) => format!("it was read with version {version}"),
            Expect::UnchangedSince(seqno) if self.range.is_none() => format!("it was read at seqno {seqno}"),
            Expect::UnchangedSince(seqno) => format!("a range with it was read at seqno {seqno}"),
        }
    }
}

impl From<Rejected> for Conflict {
    fn from(rejected: Rejected) -> Self {
        let Rejected { keyspace, key, expected, found, range, .. } = rejected;
        let is_key =
            |bounds: &OwnedBounds| matches!(bounds, (Bound::Included(from), Bound::Included(to)) if from == to);
        let range = range.filter(|bounds| key.is_empty() || !is_key(bounds));
        Self { key, keyspace, range, expected, found }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(key: &str, from: &str, to: &str) -> Conflict {
        let bounds = (Bound::Included(from.into()), Bound::Included(to.into()));
        let rejected = Rejected::new(key.into(), Expect::UnchangedSince(7), None);
        Rejected { range: Some(Box::new(bounds)), ..rejected }.into()
    }

    #[test]
    fn it_says_what_was_read_and_changed() {
        let of_key = met("a", "a", "a");
        assert_eq!(of_key.range, None);
        assert!(
            of_key.to_string().ends_with("a was changed since it was read at seqno 7, and now has none"),
            "{of_key}"
        );
        let of_range = met("b", "a", "c");
        assert!(of_range.to_string().contains("b was changed since a range with it was read at seqno 7"), "{of_range}");
        let forgotten = met("", "a", "a");
        assert!(forgotten.range.is_some());
        assert!(
            forgotten.to_string().ends_with("forgotten whether a range has changed since it was read"),
            "{forgotten}"
        );
    }
}
