//! The input and output data of the state.

use crate::location::Location;
use crate::outcome::{ApplyOutcome, CommandKind};
use crate::version::{Version, Word};

/// One command, with a location instead of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a, L> {
    /// The key.
    pub key: &'a [u8],
    /// The version: the highest one wins for a key.
    pub version: u64,
    /// The kind of the command: set or delete.
    pub kind: CommandKind,
    /// The location of the command's record. A tombstone has one too.
    pub location: L,
    /// The length of the record, in bytes; returned as [`Replaced::len_bytes`] when the record is
    /// dead. 0 if the length is not used.
    pub len_bytes: u32,
}

/// The result of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied<L> {
    /// The outcome by the apply rules.
    pub outcome: ApplyOutcome,
    /// The replaced version, if the change won and the key had one.
    pub replaced: Option<Replaced<L>>,
}

/// A replaced version of a key. Snapshots may still read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced<L> {
    /// The location of its record.
    pub location: L,
    /// The length of its record, in bytes.
    pub len_bytes: u32,
    /// Whether it is a tombstone.
    pub was_tombstone: bool,
}

/// A location with its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned<L> {
    /// The location of the value.
    pub location: L,
    /// The version of the command that set the value.
    pub version: u64,
}

/// The newest command that a key has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestCommand {
    /// Its version.
    pub version: u64,
    /// Whether it sets or deletes the key.
    pub kind: CommandKind,
}

/// The newest command that a key has seen, with the place of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestRecord<L> {
    /// The command.
    pub command: NewestCommand,
    /// The location of its record.
    pub location: L,
    /// Whether it is in the active memtable, so that its record was written lately.
    pub is_recent: bool,
}

/// The complete entry of a key at a seq, without the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRecord<L> {
    /// The location of the record.
    pub location: L,
    /// The version of the winning command.
    pub version: u64,
    /// Whether the entry is a value or a tombstone.
    pub kind: CommandKind,
    /// The length of the record, in bytes.
    pub len_bytes: u32,
}

impl<L: Location> Change<'_, L> {
    pub(crate) fn version_at(&self, seq: u64) -> Version {
        let word = Word::new(self.location.to_bits(), self.kind);
        Version { word, seq, version: self.version, len_bytes: self.len_bytes }
    }
}

impl NewestCommand {
    pub(crate) fn new(version: &Version) -> Self {
        Self { version: version.version, kind: version.word.kind() }
    }

    /// The version of the key's value; `None` if the command is a delete.
    #[must_use]
    pub fn version_of_value(&self) -> Option<u64> {
        (self.kind == CommandKind::Set).then_some(self.version)
    }
}

impl<L: Location> NewestRecord<L> {
    pub(crate) fn recent(version: &Version) -> Self {
        let location = L::from_bits(version.word.location());
        Self { command: NewestCommand::new(version), location, is_recent: true }
    }

    /// The location of the key's value; `None` if the command is a delete.
    #[must_use]
    pub fn location_of_value(&self) -> Option<L> {
        (self.command.kind == CommandKind::Set).then_some(self.location)
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
