//! The index of an open store, and the last numbers of a closed one.

use std::sync::OnceLock;

use hightower_index::{Guard, Published, pin};
use hightower_segment::ForkGuard;
use hightower_state::{LeveledKvState, StateStats};

use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::place::Place;

/// The index, until the store is closed: its memory is then freed with the last snapshot.
#[derive(Debug)]
pub(crate) struct OpenIndex {
    state: Published<LeveledKvState<Place>>,
    last: OnceLock<LastNumbers>,
    fork_guard: ForkGuard,
}

/// The numbers of a closed store.
#[derive(Debug)]
pub(crate) struct LastNumbers {
    pub(crate) state: StateStats,
    pub(crate) latest_version: u64,
    /// A lower bound of the number of keys with a value.
    pub(crate) keys_at_least: u64,
}

impl OpenIndex {
    pub(crate) fn new(state: LeveledKvState<Place>, fork_guard: ForkGuard) -> Self {
        Self { state: Published::new(state), last: OnceLock::new(), fork_guard }
    }

    /// The index, unless the store is closed.
    #[inline]
    pub(crate) fn state<'g>(&'g self, guard: &'g Guard) -> Result<&'g LeveledKvState<Place>> {
        if self.fork_guard.is_forked() {
            return Err(Error::Forked);
        }
        // A read must not construct and drop an error.
        match self.state.load(guard) {
            Some(state) => Ok(state),
            None => Err(Error::Closed),
        }
    }

    /// As [`state`](Self::state), for work that takes longer than the lifetime of a guard.
    pub(crate) fn handle(&self) -> Result<LeveledKvState<Place>> {
        self.state(&pin()).cloned()
    }

    /// Releases the index, and keeps its current numbers. Its memory is freed when no snapshot and
    /// no reader uses it. No version used outside the index is above `version_floor`.
    pub(crate) fn close(&self, version_floor: u64) {
        let Ok(state) = self.handle() else { return };
        let mut last = numbers(&state);
        let keys_at_least = state.key_bounds().at_least;
        drop(state);
        (last.index_bytes, last.retained_versions, last.retained_bytes) = (0, 0, 0);
        (last.snapshots, last.oldest_snapshot) = (0, None);
        let latest_version = last.max_version.max(version_floor);
        self.last.get_or_init(|| LastNumbers { state: last, latest_version, keys_at_least });
        if !planted("closed_index_kept") {
            self.state.store(None, &pin());
        }
    }

    /// The result of `open` on the index, or for a closed store of `closed` on its last numbers.
    pub(crate) fn number<R: Default>(
        &self,
        open: impl FnOnce(&LeveledKvState<Place>) -> R,
        closed: impl FnOnce(&LastNumbers) -> R,
    ) -> R {
        match self.state.load(&pin()) {
            Some(state) => open(state),
            None => self.last.get().map(closed).unwrap_or_default(),
        }
    }

    /// The seqno of the latest published commit.
    pub(crate) fn visible_seq(&self) -> u64 {
        self.number(LeveledKvState::visible_seq, |last| last.state.visible_seq)
    }

    /// The highest version in the index.
    pub(crate) fn max_version(&self) -> u64 {
        self.number(LeveledKvState::max_version, |last| last.latest_version)
    }

    /// Prepares memory for new keys; returns whether it had work.
    pub(crate) fn prepare_memory(&self) -> bool {
        self.number(LeveledKvState::prepare_memory, |_| false)
    }
}

/// The counts of a state, of all levels. If several levels have keys, the numbers of keys and of
/// tombstones are upper bounds.
pub(crate) fn numbers(state: &LeveledKvState<Place>) -> StateStats {
    let mut numbers = state.active_memtable().stats();
    numbers.live_keys = usize::try_from(state.key_bounds().at_most).unwrap_or(usize::MAX);
    numbers.tombstones = usize::try_from(state.tombstones()).unwrap_or(usize::MAX);
    numbers.index_bytes = state.memtable_bytes();
    numbers
}
