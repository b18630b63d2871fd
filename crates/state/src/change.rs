//! The plain data that goes into the state and comes out of it.

use crate::location::Location;
use crate::outcome::{ApplyOutcome, CommandKind};
use crate::version::{Version, Word};

/// One command, with a location instead of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a, L> {
    /// The key.
    pub key: &'a [u8],
    /// Decides against other commands of the key: the highest wins.
    pub version: u64,
    /// Whether the command sets or deletes.
    pub kind: CommandKind,
    /// Where the command's record is. A tombstone has one too.
    pub location: L,
    /// How long the record is, in bytes; handed back as [`Replaced::len_bytes`] when the record is
    /// dead. 0 if that doesn't matter.
    pub len_bytes: u32,
}

/// The result of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<L> {
    /// The decision of the apply rules.
    pub outcome: ApplyOutcome,
    /// The version that the change replaced, if it won and the key had one.
    pub replaced: Option<Replaced<L>>,
}

/// A version that is no longer the newest of its key. Snapshots may still read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced<L> {
    /// Where its record is.
    pub location: L,
    /// How long its record is.
    pub len_bytes: u32,
    /// Whether it was a tombstone.
    pub was_tombstone: bool,
}

/// A location and the version that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned<L> {
    /// Where the value is.
    pub location: L,
    /// The version of the command that set it.
    pub version: u64,
}

/// Everything that the state knows of a key at some seq, except the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRecord<L> {
    /// Where the record is.
    pub location: L,
    /// The version of the command that won.
    pub version: u64,
    /// Whether there is a value or a tombstone.
    pub kind: CommandKind,
    /// How long the record is, in bytes.
    pub len_bytes: u32,
}

impl<L: Location> Change<'_, L> {
    pub(crate) fn version_at(&self, seq: u64) -> Version {
        let word = Word::new(self.location.to_bits(), self.kind);
        Version { word, seq, version: self.version, len_bytes: self.len_bytes }
    }
}

impl<L> Applied<L> {
    pub(crate) const STALE: Self = Self { outcome: ApplyOutcome::IgnoredStale, replaced: None };
}

impl<L: Location> Replaced<L> {
    pub(crate) fn new(old: &Version) -> Self {
        Self {
            location: L::from_bits(old.word.location()),
            len_bytes: old.len_bytes,
            was_tombstone: old.word.is_tombstone(),
        }
    }
}

impl<L: Location> EntryRecord<L> {
    pub(crate) fn new(version: &Version) -> Self {
        Self {
            location: L::from_bits(version.word.location()),
            version: version.version,
            kind: version.word.kind(),
            len_bytes: version.len_bytes,
        }
    }

    /// The location and version, unless this is a tombstone.
    #[must_use]
    pub fn found(&self) -> Option<Versioned<L>> {
        (self.kind == CommandKind::Set).then_some(Versioned { location: self.location, version: self.version })
    }
}
