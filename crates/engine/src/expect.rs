//! What a batch requires of a key, and the error of a batch whose requirement does not hold.

/// What a batch requires of a key at the moment it commits.
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
    /// The key has a value, and this version gave it.
    Version(u64),
}

impl Expect {
    /// Whether a key whose value has version `found` (`None`: no value) is as expected.
    #[must_use]
    pub fn holds(self, found: Option<u64>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::Version(version) => found == Some(version),
        }
    }
}

/// A batch of which nothing was committed: the first of its requirements that did not hold. As an
/// error it says to read the key again and to decide anew.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch was rejected: {} {}, and {}", key.escape_ascii(), required(*expected), there(*found))]
#[non_exhaustive]
pub struct Rejected {
    /// The first key that was not as required.
    pub key: Vec<u8>,
    /// What was required of it.
    pub expected: Expect,
    /// The version of the value that it had; `None` if it had no value.
    pub found: Option<u64>,
}

impl Rejected {
    /// For engines other than the store's own.
    #[must_use]
    pub fn new(key: Vec<u8>, expected: Expect, found: Option<u64>) -> Self {
        Self { key, expected, found }
    }
}

fn required(expected: Expect) -> String {
    match expected {
        Expect::Absent => "was to have no value".into(),
        Expect::Present => "was to have a value".into(),
        Expect::Version(version) => format!("was to have the value of version {version}"),
    }
}

fn there(found: Option<u64>) -> String {
    found.map_or_else(|| "it has none".into(), |version| format!("it has one of version {version}"))
}
