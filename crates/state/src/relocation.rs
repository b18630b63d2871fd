//! The relocation of records that compaction has moved.

use crate::entry::IndexEntry;
use crate::location::Location;
use crate::mutants::planted;
use crate::writer::StateWriter;

/// The effect of [`StateWriter::relocate`]. If nothing was moved, the copy is garbage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Relocated {
    /// The old length of the record, if it was the newest of its key.
    pub newest_len_bytes: Option<u32>,
    /// Whether the record belongs to a version that is retained for snapshots.
    pub retained: bool,
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
