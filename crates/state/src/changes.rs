//! Changes in a range of keys since a seqno.

use std::ops::{Bound, ControlFlow};

use hightower_index::pin;

use crate::bounds;
use crate::location::Location;
use crate::mutants::planted;
use crate::state::ConcurrentKvState;
use crate::sync::Ordering;

/// Number of entries that a search examines under one guard.
const ENTRIES_PER_GUARD: usize = 256;

/// The answer of [`ConcurrentKvState::change_since`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeSince {
    /// Nothing has changed.
    None,
    /// A commit has set or deleted this key.
    Changed {
        /// The first such key of the range.
        key: Vec<u8>,
        /// The version of its value; `None` if it has no value.
        version: Option<u64>,
    },
    /// The state does not know: it remembers only changes since `known_since`. Earlier changes were
    /// loaded from disk, or their tombstones have been removed.
    Forgotten {
        /// The earliest seqno with an answer.
        known_since: u64,
    },
}

impl<L: Location> ConcurrentKvState<L> {
    /// The first key of a range that a commit after `since` has set or deleted. Takes no lock;
    /// costs a walk over the entries of the range, tombstones included.
    ///
    /// The answer may or may not include commits during the walk. It is never
    /// [`ChangeSince::Forgotten`] while a snapshot at `since` lives.
    ///
    /// ```
    /// use std::ops::Bound::Unbounded;
    /// use hightower_state::{ChangeSince, ConcurrentKvState};
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::<u32>::new();
    /// state.set(b"a", 1, 10)?;
    /// let seen = state.visible_seq();
    /// assert_eq!(state.change_since(Unbounded, Unbounded, seen), ChangeSince::None);
    /// state.delete(b"b", 1, 20)?;
    /// let changed = ChangeSince::Changed { key: b"b".to_vec(), version: None };
    /// assert_eq!(state.change_since(Unbounded, Unbounded, seen), changed);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn change_since(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, since: u64) -> ChangeSince {
        let mut from = from.map(<[u8]>::to_vec);
        loop {
            let borrowed = from.as_ref().map(Vec::as_slice);
            if bounds::is_empty(borrowed, to) {
                break;
            }
            let guard = pin();
            let (mut left, mut last, mut changed) = (ENTRIES_PER_GUARD, None, None);
            let flow = self.inner.map(&guard).visit(
                borrowed,
                to,
                &guard,
                |_| (),
                |entry| {
                    last = Some(entry.key());
                    left -= 1;
                    let is_hidden =
                        planted("deletes_unnoticed_in_ranges") && entry.value().newest().word.is_tombstone();
                    if entry.value().newest().seq > since && !is_hidden {
                        changed = Some(entry);
                        return ControlFlow::Break(());
                    }
                    if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                },
            );
            if let Some(entry) = changed {
                let latest = self.inner.latest(entry.value(), &guard);
                let version = latest.filter(|latest| !latest.word.is_tombstone()).map(|latest| latest.version);
                return ChangeSince::Changed { key: entry.key().to_vec(), version };
            }
            match last {
                Some(last) if flow.is_break() => from = Bound::Excluded(last.to_vec()),
                _ => break,
            }
        }
        // Read after the walk: the removal of a tombstone that the walk missed has raised the
        // number.
        let known_since = self.inner.forgotten_seq.load(Ordering::SeqCst);
        if since < known_since && !planted("forgotten_changes_ignored") {
            return ChangeSince::Forgotten { known_since };
        }
        ChangeSince::None
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound::{Excluded, Included, Unbounded};

    use super::*;

    fn state_of(keys: u32) -> ConcurrentKvState<u32> {
        let state = ConcurrentKvState::new();
        for number in 0..keys {
            state.set(format!("k/{number:05}").as_bytes(), 1, number).unwrap();
        }
        state
    }

    #[test]
    fn a_change_is_found_wherever_it_is_in_a_long_range() {
        const KEYS: u32 = 1000;
        for at in [0, 1, 254, 255, 256, 257, 511, 512, 999] {
            let state = state_of(KEYS);
            let since = state.visible_seq();
            assert_eq!(state.change_since(Unbounded, Unbounded, since), ChangeSince::None);
            let key = format!("k/{at:05}").into_bytes();
            state.set(&key, 2, 0).unwrap();
            let changed = ChangeSince::Changed { key: key.clone(), version: Some(2) };
            assert_eq!(state.change_since(Unbounded, Unbounded, since), changed);
            assert_eq!(state.change_since(Included(&key), Included(&key), since), changed);
            assert_eq!(state.change_since(Excluded(&key), Unbounded, since), ChangeSince::None);
            assert_eq!(state.change_since(Unbounded, Excluded(&key), since), ChangeSince::None);
            assert_eq!(state.change_since(Unbounded, Unbounded, since + 1), ChangeSince::None);
        }
    }

    #[test]
    fn a_tombstone_is_a_change_and_a_removed_one_is_not_forgotten_silently() {
        let state = state_of(3);
        let since = state.visible_seq();
        state.delete(b"k/00001", 7, 0).unwrap();
        let deleted = ChangeSince::Changed { key: b"k/00001".to_vec(), version: None };
        assert_eq!(state.change_since(Unbounded, Unbounded, since), deleted);
        assert!(state.writer().remove_tombstone(b"k/00001", 7));
        let forgotten = ChangeSince::Forgotten { known_since: since + 1 };
        assert_eq!(state.change_since(Unbounded, Unbounded, since), forgotten);
        assert_eq!(state.change_since(Unbounded, Unbounded, since + 1), ChangeSince::None);
    }

    #[test]
    fn a_snapshot_keeps_what_tells_of_changes_since() {
        let state = state_of(3);
        let snapshot = state.snapshot();
        state.delete(b"k/00001", 7, 0).unwrap();
        assert!(!state.writer().remove_tombstone(b"k/00001", 7), "an older snapshot lives");
        drop(snapshot);
        assert!(state.writer().remove_tombstone(b"k/00001", 7));
    }

    #[test]
    fn a_loaded_state_knows_of_changes_since_its_load_only() {
        let state = state_of(0);
        state.writer().resume(40).unwrap();
        assert_eq!(state.change_since(Unbounded, Unbounded, 39), ChangeSince::Forgotten { known_since: 40 });
        assert_eq!(state.change_since(Unbounded, Unbounded, 40), ChangeSince::None);
    }

    #[test]
    fn inverted_bounds_hold_nothing() {
        let state = state_of(3);
        assert_eq!(state.change_since(Included(b"z"), Excluded(b"a"), 0), ChangeSince::None);
    }
}
