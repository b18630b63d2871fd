//! The requirements of a batch on keys, and the error of a violated one.

use crate::bounds::OwnedBounds;
use crate::keyspace::KeyspaceId;

/// A requirement of a batch on a key, checked at its commit.
///
/// ```
/// use hightower_engine::Expect;
///
/// assert!(Expect::Absent.holds(None));
/// assert!(!Expect::Version(7).holds(Some(8)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expect {
    /// The key has no value.
    Absent,
    /// The key has a value.
    Present,
    /// The key has a value with this version.
    Version(u64),
    /// No commit after this seqno has set or deleted the key.
    UnchangedSince(u64),
}

impl Expect {
    /// Whether a key with a value of version `found` (`None` for no value) fulfils the requirement.
    /// Always `false` for [`UnchangedSince`](Self::UnchangedSince), which only the store can check.
    #[must_use]
    pub fn holds(self, found: Option<u64>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Version(version) => found == Some(version),
            Self::UnchangedSince(_) => false,
        }
    }
}

/// The first violated requirement of a batch that was not committed. Read the key again and decide
/// again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch was rejected: {}", self.reason())]
#[non_exhaustive]
pub struct Rejected {
    /// The key; empty if it is not known, see `known_since`.
    pub key: Vec<u8>,
    /// The keyspace of the key, and of the range.
    pub keyspace: KeyspaceId,
    /// The requirement.
    pub expected: Expect,
    /// The version of the key's value; `None` if it had no value.
    pub found: Option<u64>,
    /// The range of a requirement on a range; the key lies in it.
    pub range: Option<Box<OwnedBounds>>,
    /// `Some` if the store may have forgotten changes of the range: it remembers only those since
    /// this seqno. `None` if it knows that the key has changed.
    pub known_since: Option<u64>,
}

impl Rejected {
    /// Constructs it, for implementations of [`KvEngine`](crate::KvEngine) other than the store. The
    /// keyspace is the default one.
    #[must_use]
    pub fn new(key: Vec<u8>, expected: Expect, found: Option<u64>) -> Self {
        Self { keyspace: KeyspaceId::DEFAULT, key, expected, found, range: None, known_since: None }
    }

    fn reason(&self) -> String {
        let required = required(self.expected);
        match self.known_since {
            None => format!("{} {required}, but {}", self.key.escape_ascii(), there(self.found)),
            Some(seqno) => {
                format!("a range {required}, but the store remembers only changes since seqno {seqno}")
            }
        }
    }
}

fn required(expected: Expect) -> String {
    match expected {
        Expect::Absent => "must have no value".into(),
        Expect::Present => "must have a value".into(),
        Expect::Version(version) => format!("must have a value of version {version}"),
        Expect::UnchangedSince(seqno) => format!("must be unchanged since seqno {seqno}"),
    }
}

pub(crate) fn there(found: Option<u64>) -> String {
    found.map_or_else(|| "has none".into(), |version| format!("has one of version {version}"))
}
