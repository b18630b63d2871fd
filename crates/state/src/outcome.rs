//! The apply rules: which command wins for one key.
//!
//! For one key the state is the command with the highest version, and nothing else counts.
//! Everything in this crate that changes a key asks [`ApplyOutcome::decide`], so that the plain
//! model and the concurrent state can't drift apart.

use crate::mutants::planted;

/// What a command does to its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// Gives the key a value.
    Set,
    /// Takes the key's value away and leaves a tombstone, which keeps the version.
    Delete,
}

/// What came of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ApplyOutcome {
    /// A `Set` won: the key has its value now.
    Applied,
    /// A `Delete` won: the key is absent now, whether or not it was there before, and a tombstone
    /// keeps the version.
    Removed,
    /// The key has seen this version or a higher one; nothing changed.
    IgnoredStale,
}

impl ApplyOutcome {
    /// What a command of `kind` at `version` comes to for a key whose newest version is `current`.
    ///
    /// A higher version wins, an equal or lower one is stale. A key that was never seen has no
    /// version.
    ///
    /// ```
    /// use hightower_state::{ApplyOutcome, CommandKind};
    ///
    /// assert_eq!(ApplyOutcome::decide(None, 0, CommandKind::Set), ApplyOutcome::Applied);
    /// assert_eq!(ApplyOutcome::decide(Some(9), 10, CommandKind::Delete), ApplyOutcome::Removed);
    /// assert_eq!(ApplyOutcome::decide(Some(10), 10, CommandKind::Set), ApplyOutcome::IgnoredStale);
    /// ```
    #[must_use]
    pub fn decide(current: Option<u64>, version: u64, kind: CommandKind) -> Self {
        if current.is_some_and(|current| version < current || version == current && !planted("equal_version_wins")) {
            return Self::IgnoredStale;
        }
        match kind {
            CommandKind::Set => Self::Applied,
            CommandKind::Delete => Self::Removed,
        }
    }

    /// Whether the command changed the state.
    #[must_use]
    pub fn changed(self) -> bool {
        self != Self::IgnoredStale
    }
}
