//! Loading tables: changes in key order, each key once, into a new state.
//!
//! Several threads each fill a [`LoadRun`] without a lock; [`StateWriter::load_runs`] joins the
//! runs in the index.

use std::fmt;
use std::marker::PhantomData;

use hightower_index::{BulkError, SortedRun, pin};

use crate::change::Change;
use crate::counters::Delta;
use crate::entry::IndexEntry;
use crate::error::StateError;
use crate::location::Location;
use crate::state::ConcurrentKvState;
use crate::writer::StateWriter;

/// Changes in ascending key order, for an empty state. [`ConcurrentKvState::load_run`] creates it,
/// [`StateWriter::load_runs`] loads it.
///
/// ```
/// use hightower_state::{Change, CommandKind, ConcurrentKvState, LoadRun};
///
/// # fn main() -> Result<(), hightower_state::StateError> {
/// let state = ConcurrentKvState::<u32>::new();
/// let (mut low, mut high) = (state.load_run(), state.load_run());
/// let fill = |run: &mut LoadRun<u32>, keys: &[&str]| {
///     keys.iter().try_for_each(|key| {
///         run.push(&Change { key: key.as_bytes(), version: 1, kind: CommandKind::Set, location: 7, len_bytes: 0 })
///     })
/// };
/// std::thread::scope(|scope| {
///     let other = scope.spawn(|| fill(&mut high, &["c", "d"]));
///     fill(&mut low, &["a", "b"])?;
///     other.join().unwrap_or(Ok(()))
/// })?;
/// let mut writer = state.writer();
/// assert_eq!(writer.load_runs([low, high], 2)?, 4);
/// writer.resume(17)?;
/// assert_eq!((state.len(), state.snapshot().seq()), (4, 17));
/// # Ok(())
/// # }
/// ```
pub struct LoadRun<L> {
    run: SortedRun<IndexEntry>,
    delta: Delta,
    location: PhantomData<fn(L) -> L>,
}

impl<L: Location> LoadRun<L> {
    /// Adds a change: the newest command of its key, tombstones included.
    ///
    /// # Errors
    ///
    /// [`StateError::KeysOutOfOrder`] if the key is not above all previous keys. The run is
    /// unchanged.
    pub fn push(&mut self, change: &Change<'_, L>) -> Result<(), StateError> {
        let version = change.version_at(0);
        self.run.push(change.key, IndexEntry::new(&version))?;
        self.delta.add(version.word, version.version);
        Ok(())
    }

    /// The number of changes in the run.
    #[must_use]
    pub fn len(&self) -> usize {
        self.run.len()
    }

    /// Whether the run is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.run.is_empty()
    }
}

impl<L: Location> ConcurrentKvState<L> {
    /// An empty run of changes for this state: see [`LoadRun`].
    #[must_use]
    pub fn load_run(&self) -> LoadRun<L> {
        LoadRun { run: self.inner.map(&pin()).sorted_run(), delta: Delta::default(), location: PhantomData }
    }
}

impl<L: Location> StateWriter<'_, L> {
    /// Loads runs of ascending keys, each above the previous one, into a new state. Returns the
    /// number of keys.
    ///
    /// As with [`replay`](Self::replay), loaded changes have no seq and are visible at once, even
    /// to snapshots. The caller's thread and up to `threads - 1` others do the work.
    ///
    /// # Errors
    ///
    /// [`StateError::KeysOutOfOrder`], [`NotEmpty`](StateError::NotEmpty) or
    /// [`OtherState`](StateError::OtherState). The state is then unchanged, and the runs are
    /// dropped.
    pub fn load_runs(
        &mut self,
        runs: impl IntoIterator<Item = LoadRun<L>>,
        threads: usize,
    ) -> Result<usize, StateError> {
        let mut delta = Delta::default();
        let runs: Vec<_> = runs
            .into_iter()
            .map(|run| {
                delta.merge(&run.delta);
                run.run
            })
            .collect();
        let loaded = self.state().index.join_runs(runs, threads)?;
        self.inner().count(&delta, &pin());
        Ok(loaded)
    }

    /// Replays many changes and returns the number of winning ones.
    ///
    /// For tables: an empty state is built in bulk from keys in ascending order (see
    /// [`load_runs`](Self::load_runs) for several threads). From the first key out of order, or if
    /// the state is not empty, changes are [replayed](Self::replay) one by one.
    ///
    /// ```
    /// use hightower_state::{Change, CommandKind, ConcurrentKvState};
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::<u32>::new();
    /// let keys = [b"a", b"b", b"c"];
    /// let changes = keys.iter().zip(0..).map(|(key, location)| {
    ///     Change { key: &key[..], version: 1, kind: CommandKind::Set, location, len_bytes: 0 }
    /// });
    /// let mut writer = state.writer();
    /// assert_eq!(writer.load(changes), 3);
    /// writer.resume(17)?;
    /// assert_eq!((state.len(), state.snapshot().seq()), (3, 17));
    /// # Ok(())
    /// # }
    /// ```
    pub fn load<'k>(&mut self, changes: impl IntoIterator<Item = Change<'k, L>>) -> usize {
        let mut changes = changes.into_iter();
        let mut delta = Delta::default();
        let mut entries = changes.by_ref().map(|change| {
            let version = change.version_at(0);
            delta.add(version.word, version.version);
            (Keyed(change), IndexEntry::new(&version))
        });
        let (built, next) = self.state().index.build_rising(&mut entries);
        let next = next.map(|(change, _)| change.0);
        if let Some(change) = &next {
            delta.remove(change.version_at(0).word);
        }
        self.inner().count(&delta, &pin());
        built + next.into_iter().chain(changes).filter(|change| self.replay(change).outcome.changed()).count()
    }
}

/// The index entry of a change.
struct Keyed<'k, L>(Change<'k, L>);

impl<L> AsRef<[u8]> for Keyed<'_, L> {
    fn as_ref(&self) -> &[u8] {
        self.0.key
    }
}

impl From<BulkError> for StateError {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::NotEmpty => Self::NotEmpty,
            BulkError::OtherMap => Self::OtherState,
            _ => Self::KeysOutOfOrder,
        }
    }
}

impl<L> fmt::Debug for LoadRun<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadRun").field("len", &self.run.len()).finish_non_exhaustive()
    }
}
