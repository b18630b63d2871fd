//! The liveness of records, and the relocation of records moved by compaction.

use crate::entry::IndexEntry;
use crate::location::Location;
use crate::mutants::planted;
use crate::outcome::CommandKind;
use crate::state::ConcurrentKvState;
use crate::sync::{Guard, Ordering, fence};
use crate::writer::StateWriter;

/// Whether a record is still needed, and for which readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordLiveness {
    /// No reader needs it, now or later: it can be dropped.
    Free,
    /// It is the newest command of its key.
    Newest {
        /// Whether it is a tombstone.
        kind: CommandKind,
        /// Whether a live snapshot is older than the record, and so may read the previous version.
        is_hidden_from_snapshot: bool,
    },
    /// A snapshot may read it, or a commit is replacing it.
    Retained,
}

/// The effect of [`StateWriter::relocate`]. If nothing was moved, the copy is garbage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relocated {
    /// The old length of the record, if it was the newest of its key.
    pub newest_len_bytes: Option<u32>,
    /// Whether the record belongs to a version that is retained for snapshots.
    pub retained: bool,
}

impl<L: Location> ConcurrentKvState<L> {
    /// Whether the record of `key` at `location` is still needed. Takes the writer's lock only if
    /// the record is not the newest and a snapshot is alive.
    ///
    /// ```
    /// use hightower_state::{CommandKind, ConcurrentKvState, RecordLiveness, pin};
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::<u32>::new();
    /// state.set(b"a", 1, 10)?;
    /// state.set(b"a", 2, 20)?;
    /// assert_eq!(state.liveness(b"a", 10, &pin()), RecordLiveness::Free);
    /// let newest = RecordLiveness::Newest { kind: CommandKind::Set, is_hidden_from_snapshot: false };
    /// assert_eq!(state.liveness(b"a", 20, &pin()), newest);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn liveness(&self, key: &[u8], location: L, guard: &Guard) -> RecordLiveness {
        let Some(entry) = self.inner.map(guard).get(key, guard) else { return RecordLiveness::Free };
        let newest = entry.newest();
        let word = newest.word;
        if word.is_pending() {
            return RecordLiveness::Retained;
        }
        let registry = &self.inner.mvcc.registry;
        if word.location() == location.to_bits() {
            let is_hidden_from_snapshot = registry.may_read_below(newest.seq);
            return RecordLiveness::Newest { kind: word.kind(), is_hidden_from_snapshot };
        }
        // The record's replacement is published. A new snapshot reads the replacement or a newer
        // version.
        fence(Ordering::SeqCst);
        if registry.len() == 0 || !self.writer().holds(key, location) {
            RecordLiveness::Free
        } else {
            RecordLiveness::Retained
        }
    }
}

impl<L: Location> StateWriter<'_, L> {
    /// Moves the key's versions at `old` to `new`: the newest one, versions retained for snapshots,
    /// and the index's hint. The copy at `new` has `len_bytes` bytes.
    ///
    /// Readers that have already read a location may still use it: see
    /// [`retire_locations`](crate::ConcurrentKvState::retire_locations).
    ///
    /// ```
    /// use hightower_state::{ConcurrentKvState, Relocated};
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::<u32>::new();
    /// state.set(b"a", 1, 10)?;
    /// let relocated = state.writer().relocate(b"a", 10, 20, 7);
    /// assert_eq!(relocated.newest_len_bytes, Some(0));
    /// assert_eq!(state.get(b"a").map(|found| found.location), Some(20));
    /// assert_eq!(state.writer().relocate(b"a", 10, 30, 7), Relocated::default());
    /// # Ok(())
    /// # }
    /// ```
    pub fn relocate(&mut self, key: &[u8], old: L, new: L, len_bytes: u32) -> Relocated {
        let index = &mut self.state().index;
        if planted("relocation_keeps_hint") {
            return index.get(key).map(|entry| relocate(entry, old, new, len_bytes)).unwrap_or_default();
        }
        index.update(key, |entry| relocate(entry, old, new, len_bytes)).unwrap_or_default()
    }
}

fn relocate<L: Location>(entry: &IndexEntry, old: L, new: L, len_bytes: u32) -> Relocated {
    let guard = hightower_index::pin();
    let newest = entry.newest();
    let was_newest = newest.word.location() == old.to_bits();
    let moved = entry.relocate(old.to_bits(), new.to_bits(), &guard);
    if was_newest {
        entry.set_len_bytes(len_bytes);
    }
    Relocated { newest_len_bytes: was_newest.then_some(newest.len_bytes), retained: moved && !was_newest }
}
