//! One version of a key, as plain numbers, and the word that packs a location with its two flags.

use crate::location::LocationBits;
use crate::outcome::CommandKind;

/// A location and two flags in 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

impl Word {
    const TOMBSTONE: u64 = 1 << 63;
    /// The flag of a word whose commit may not be published yet.
    const PENDING: u64 = 1 << 62;

    pub(crate) fn new(location: LocationBits, kind: CommandKind) -> Self {
        match kind {
            CommandKind::Set => Self(location.get()),
            CommandKind::Delete => Self(location.get() | Self::TOMBSTONE),
        }
    }

    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn is_pending(self) -> bool {
        self.0 & Self::PENDING != 0
    }

    pub(crate) fn pending(self) -> Self {
        Self(self.0 | Self::PENDING)
    }

    pub(crate) fn settled(self) -> Self {
        Self(self.0 & !Self::PENDING)
    }

    pub(crate) fn is_tombstone(self) -> bool {
        self.0 & Self::TOMBSTONE != 0
    }

    pub(crate) fn kind(self) -> CommandKind {
        if self.is_tombstone() { CommandKind::Delete } else { CommandKind::Set }
    }

    pub(crate) fn location(self) -> LocationBits {
        LocationBits::low(self.0)
    }

    /// The same flags with another location.
    pub(crate) fn moved_to(self, location: LocationBits) -> Self {
        Self(self.0 & (Self::TOMBSTONE | Self::PENDING) | location.get())
    }
}

/// One version of a key: the result of one command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) word: Word,
    /// The seq of its commit.
    pub(crate) seq: u64,
    pub(crate) version: u64,
    /// The length of its record, to account for live and dead bytes.
    pub(crate) len_bytes: u32,
}
