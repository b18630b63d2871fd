//! The apply rules: the winning command of a key.
//!
//! The state of a key is the command with the highest version; nothing else counts. All code in
//! this crate that changes a key calls [`ApplyOutcome::decide`], so the plain model and the
//! concurrent state have one rule.

use crate::mutants::planted;

/// The kind of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandKind {
    /// Sets the value of the key.
    Set,
    /// Deletes the key and leaves a tombstone with the version.
    Delete,
}

/// The outcome of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ApplyOutcome {
    /// A `Set` won: the key has the new value.
    Applied,
    /// A `Delete` won: the key is absent now, whether or not it existed before, and a tombstone has
    /// the version.
    Removed,
    /// The key already had this version or a higher one; nothing changed.
    IgnoredStale,
}

impl ApplyOutcome {
    /// The outcome of a command of `kind` at `version` for a key whose newest version is `current`.
    ///
    /// A higher version wins, an equal or lower one is stale. A new key has no version.
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
