//! The entry of a key: its newest version in place, and older ones while a snapshot needs them.
//!
//! # Reading without retry
//!
//! An overwrite by commit n stores, in this order and each with release:
//!
//! 1. the old version, in the [undo slot](crate::undo) or at the head of the older versions;
//! 2. `seq := n`;
//! 3. `word := new location, pending`;
//! 4. `version` and `len_bytes`;
//! 5. after the commit is published: `word := new location`.
//!
//! A reader at a snapshot's seq S loads the fields and then `seq`, each with acquire. `seq <= S`
//! means that none of the fields comes from a commit after S. All commits up to S were complete
//! when the snapshot was taken, so all fields come from the newest commit up to S. If `seq > S`,
//! that version has been replaced. The reader then takes it from the undo slot, if the entry's
//! commit is in flight, or from the older versions.
//!
//! A reader of the latest version loads `version`, `word` and `version` again. If the word is not
//! pending and both versions are equal, location and version belong together and are published.
//! Otherwise a commit is in flight in this entry, and the reader reads like a snapshot. It never
//! retries.

use crate::location::LocationBits;
use crate::mutants::planted;
use crate::sync::{AtomicU32, AtomicU64, Guard, Ordering};
use crate::undo::UndoSlots;
use crate::version::{Version, Word};
use crate::version_chain::VersionChain;

/// The value of a key in the index.
#[derive(Debug)]
pub(crate) struct IndexEntry {
    word: AtomicU64,
    seq: AtomicU64,
    version: AtomicU64,
    older_versions: VersionChain,
    len_bytes: AtomicU32,
}

/// The fields of the latest version that a plain read needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LatestVersion {
    pub(crate) word: Word,
    pub(crate) version: u64,
}

impl IndexEntry {
    pub(crate) fn new(version: &Version) -> Self {
        Self {
            word: AtomicU64::new(version.word.raw()),
            seq: AtomicU64::new(version.seq),
            version: AtomicU64::new(version.version),
            older_versions: VersionChain::default(),
            len_bytes: AtomicU32::new(version.len_bytes),
        }
    }

    /// The identity of this entry in an undo slot. An entry is not moved while a snapshot may need
    /// an older version of it.
    pub(crate) fn id(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// The latest version, tombstones included; `None` if a commit is in flight here.
    pub(crate) fn latest(&self) -> Option<LatestVersion> {
        let version = self.version.load(Ordering::Acquire);
        let word = Word::from_raw(self.word.load(Ordering::Acquire));
        let is_whole = self.version.load(Ordering::Acquire) == version || planted("version_unchecked");
        let is_published = !word.is_pending() || planted("pending_unchecked");
        (is_whole && is_published).then_some(LatestVersion { word: word.settled(), version })
    }

    /// The newest version with a seq up to `seq`, tombstones included.
    pub(crate) fn at(&self, seq: u64, undo: &UndoSlots, guard: &Guard) -> Option<Version> {
        let newest = self.newest();
        if newest.seq <= seq {
            return Some(Version { word: newest.word.settled(), ..newest });
        }
        let undone = if planted("undo_ignored") { None } else { undo.find(newest.seq, self.id()) };
        match undone {
            Some(old) if old.seq <= seq => Some(old),
            _ => self.older_versions.find(seq, guard),
        }
    }

    /// All fields, `seq` last. For the writer they are consistent.
    pub(crate) fn newest(&self) -> Version {
        let early = planted("seq_first").then(|| self.seq.load(Ordering::Acquire));
        let version = self.version.load(Ordering::Acquire);
        let len_bytes = self.len_bytes.load(Ordering::Acquire);
        let word = Word::from_raw(self.word.load(Ordering::Acquire));
        let seq = early.unwrap_or_else(|| self.seq.load(Ordering::Acquire));
        Version { word, seq, version, len_bytes }
    }

    /// The location of the newest version, published or not, for a prefetch.
    pub(crate) fn newest_location(&self) -> LocationBits {
        Word::from_raw(self.word.load(Ordering::Relaxed)).location()
    }

    /// Overwrites the newest version. The old one must already be stored for readers.
    pub(crate) fn replace(&self, new: &Version) {
        if planted("location_before_seq") {
            self.word.store(new.word.raw(), Ordering::Release);
        }
        self.seq.store(new.seq, Ordering::Release);
        self.word.store(new.word.raw(), Ordering::Release);
        self.version.store(new.version, Ordering::Release);
        self.len_bytes.store(new.len_bytes, Ordering::Release);
    }

    /// Marks the word as published.
    pub(crate) fn settle(&self) {
        let word = Word::from_raw(self.word.load(Ordering::Relaxed));
        self.word.store(word.settled().raw(), Ordering::Release);
    }

    /// Sets the length of the newest version's record, after a copy of the record.
    #[cfg(not(loom))]
    pub(crate) fn set_len_bytes(&self, len_bytes: u32) {
        self.len_bytes.store(len_bytes, Ordering::Release);
    }

    pub(crate) fn older_versions(&self) -> &VersionChain {
        &self.older_versions
    }

    /// Points the versions of this key at `old` to `new`; returns whether one existed.
    pub(crate) fn relocate(&self, old: LocationBits, new: LocationBits, guard: &Guard) -> bool {
        let word = Word::from_raw(self.word.load(Ordering::Relaxed));
        let is_there = word.location() == old || planted("install_without_comparing");
        if is_there {
            self.word.store(word.moved_to(new).raw(), Ordering::Release);
        }
        is_there | (!planted("older_not_relocated") && self.older_versions.relocate(old, new, guard))
    }
}
