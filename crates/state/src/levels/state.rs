//! The handle of a state with all levels, and lookups of the newest versions.

use std::fmt;
use std::sync::Arc;

use hightower_index::{Awaited, Guard, SeededHasher, pin};
use hightower_seams::{Clock, SystemClock};
use hightower_table::{TableError, TableReader};

use crate::change::{EntryRecord, NewestCommand};
use crate::inner::StateInner;
use crate::levels::lookup::{LookedBelow, Lookup, TableSearch};
use crate::levels::pointer::record_of;
use crate::levels::snapshot::LeveledSnapshot;
use crate::levels::spare::SpareMemtable;
use crate::levels::view::View;
use crate::levels::writer::LeveledWriter;
use crate::location::Location;
use crate::mutants::planted;
use crate::state::ConcurrentKvState;
use crate::version::{Version, Word};

/// A [`ConcurrentKvState`] whose keys need not fit in memory: an active memtable, frozen memtables,
/// and tables of [`hightower_table`], newest first. The first level that has a key answers.
///
/// It reads no records. If no memtable has a key, the caller gets a [`TableSearch`], which yields
/// the places where the record may be. The lowest 32 bits of a location are an offset, the bits
/// above are a segment.
///
/// While the active memtable is the only level, operations cost as much as those of a
/// [`ConcurrentKvState`].
///
/// ```
/// use std::sync::Arc;
/// use hightower_segment::{Fs, RealFs};
/// use hightower_state::{Change, CommandKind, LeveledKvState, Lookup, SegmentSet, pin};
/// use hightower_table::{TableError, TableOptions, TableReader, TableWriter};
/// # use hightower_state::LocationBits;
///
/// # let scratch = tempfile::tempdir()?;
/// let dir = RealFs.open_dir(scratch.path())?;
/// let state = LeveledKvState::<LocationBits>::new();
/// let guard = pin();
///
/// // A put, to segment 1.
/// let location = LocationBits::from_parts(1, 64);
/// let mut writer = state.writer();
/// writer.begin(1, &guard)?.apply(&Change { key: b"a", version: 1, kind: CommandKind::Set, location, len_bytes: 9 });
///
/// // A flush: freeze under the lock, write without it, install.
/// let frozen = writer.freeze(state.spare_memtable(), &guard).unwrap();
/// drop(writer);
/// let mut table = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
/// table.push_all(&mut frozen.source(), &mut |_| std::ops::ControlFlow::Continue(()))?;
/// table.finish()?;
/// let table = Arc::new(TableReader::open(dir.as_ref(), "1.tbl")?);
/// state.writer().install_flushed(&frozen, Some(table), SegmentSet::new([1]))?;
///
/// // A get. The closure reads the record, and returns `None` if it is another key's.
/// let Lookup::Below(search) = state.get(b"a", &guard) else { panic!("the memtable is empty") };
/// let found = search.find(|place: LocationBits| Ok::<_, TableError>(Some(place)))?;
/// assert_eq!(found, Some(location));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct LeveledKvState<L> {
    /// Shares all parts; its own reads use the active memtable only.
    memory: ConcurrentKvState<L>,
}

impl<L: Location> LeveledKvState<L> {
    /// An empty state.
    #[must_use]
    pub fn new() -> Self {
        Self::with_hasher(SeededHasher::random(), Arc::new(SystemClock::new()))
    }

    /// Like [`ConcurrentKvState::with_hasher`].
    #[must_use]
    pub fn with_hasher(hasher: SeededHasher, clock: Arc<dyn Clock>) -> Self {
        Self { memory: ConcurrentKvState::with_hasher(hasher, clock) }
    }

    pub(crate) fn inner(&self) -> &Arc<StateInner> {
        &self.memory.inner
    }

    /// Takes the writer's lock; waits while another thread holds it.
    #[must_use]
    #[inline]
    pub fn writer(&self) -> LeveledWriter<'_, L> {
        LeveledWriter::new(self.memory.writer(), self.inner())
    }

    /// An empty memtable for [`LeveledWriter::freeze`].
    #[must_use]
    pub fn spare_memtable(&self) -> SpareMemtable<L> {
        SpareMemtable::new(self.inner())
    }

    /// The latest version of a key. Example: [`Lookup`].
    #[must_use]
    pub fn get<'a>(&'a self, key: &'a [u8], guard: &'a Guard) -> Lookup<'a, L> {
        self.get_hinted(key, guard, |_| {})
    }

    /// Like [`get`](Self::get). Calls `hinted` as [`ConcurrentKvState::get_hinted`] does.
    ///
    /// A key of a memtable costs a lookup there, and a probe of each newer frozen memtable.
    #[inline]
    pub fn get_hinted<'a>(&'a self, key: &'a [u8], guard: &'a Guard, mut hinted: impl FnMut(u32)) -> Lookup<'a, L> {
        let inner = self.inner();
        let view = inner.view(guard);
        let entry = view.active.map.get_hinted(key, guard, &mut hinted);
        let latest = entry.and_then(|entry| inner.latest(entry, guard));
        let active = latest.map(|latest| (latest.word, latest.version));
        if active.is_none() && entry.is_some() && planted("levels_unpublished_hides") {
            return Lookup::Absent;
        }
        if active.is_none() && view.lower.is_none() {
            return Lookup::Absent;
        }
        let in_memory = active.or_else(|| frozen_latest(inner, view, key, guard));
        Lookup::new(in_memory, || TableSearch::new(view, key))
    }

    /// Looks up several keys in one view, overlapping their cache misses in the active memtable. A
    /// commit may come between the lookups of two keys.
    pub fn get_many<'a, K: AsRef<[u8]>>(
        &'a self,
        keys: &'a [K],
        guard: &'a Guard,
        mut each: impl FnMut(usize, Lookup<'a, L>),
    ) {
        let inner = self.inner();
        let view = inner.view(guard);
        view.active.map.get_many(keys, guard, |at, entry| {
            let Some(key) = keys.get(at).map(AsRef::as_ref) else { return };
            let active = entry.and_then(|entry| inner.latest(entry.value(), guard));
            let active = active.map(|latest| (latest.word, latest.version));
            let in_memory = active.or_else(|| frozen_latest(inner, view, key, guard));
            each(at, Lookup::new(in_memory, || TableSearch::new(view, key)));
        });
    }

    /// Whether the newest command of a key is the one at `location`. Compaction uses it: such a
    /// record is live. Reads no record. Costs a probe of each memtable and a cache line per table,
    /// and some blocks per table if several tables may have the key.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    pub fn is_newest(&self, key: &[u8], location: L, guard: &Guard) -> Result<bool, TableError> {
        let inner = self.inner();
        let view = inner.view(guard);
        if let Some(version) = newest_in_memtables(inner, view, key, guard) {
            return Ok(version.word.location() == location.to_bits());
        }
        TableSearch::new(view, key).map_or(Ok(false), |search| search.is_topmost(location))
    }

    /// Starts to load the cache lines in which tables may have a key.
    pub fn prefetch_in_tables(&self, key: &[u8], guard: &Guard) {
        if let Some(search) = TableSearch::new(self.inner().view(guard), key) {
            search.prefetch();
        }
    }

    /// The newest entry of a key, tombstones included, found without reading a record: costs some
    /// blocks per table.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    pub fn entry(&self, key: &[u8], guard: &Guard) -> Result<Option<EntryRecord<L>>, TableError> {
        let inner = self.inner();
        let view = inner.view(guard);
        if let Some(version) = newest_in_memtables(inner, view, key, guard) {
            return Ok(Some(EntryRecord::new(&version)));
        }
        let below = TableSearch::new(view, key).map(|search| search.entry()).transpose()?.flatten();
        Ok(below.and_then(|entry| record_of(&entry)))
    }

    /// Calls `each` with the entry that each level below the active memtable has of a key, topmost
    /// level first, hidden ones too. Costs some blocks per table.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if a table is damaged.
    pub fn entries_below(
        &self,
        key: &[u8],
        guard: &Guard,
        mut each: impl FnMut(EntryRecord<L>),
    ) -> Result<(), TableError> {
        let view = self.inner().view(guard);
        let frozen = view.frozen().iter().filter_map(|memtable| memtable.get(key, guard));
        frozen.for_each(|entry| each(EntryRecord::new(&entry.newest())));
        TableSearch::new(view, key)
            .map_or(Ok(()), |search| search.for_each_entry(|entry| record_of(&entry).into_iter().for_each(&mut each)))
    }

    /// Whether a memtable has an entry of a key.
    #[must_use]
    pub fn is_in_memtable(&self, key: &[u8], guard: &Guard) -> bool {
        self.inner().view(guard).memtables().any(|memtable| memtable.get(key, guard).is_some())
    }

    /// Whether a live snapshot may read below `seq`, which must be published.
    #[must_use]
    pub fn has_snapshot_below(&self, seq: u64) -> bool {
        self.inner().mvcc.registry.may_read_below(seq)
    }

    /// Looks up the newest command of a key below the active memtable, for
    /// [`LeveledWriter::newest_of`]. Call it before taking the writer's lock. `read` works as in
    /// [`TableSearch::find`], and returns the record's version and kind.
    ///
    /// A command whose version is above every other does not need it, nor does any command while
    /// the active memtable [is the only level](Self::is_one_level).
    ///
    /// # Errors
    ///
    /// Errors of `read`, and the error of a damaged table.
    ///
    /// ```
    /// use hightower_state::{ApplyOutcome, CommandKind, LeveledKvState, TableError, pin};
    ///
    /// let state = LeveledKvState::<u32>::new();
    /// let below = state.look_below(b"a", &pin(), |_place| Ok::<_, TableError>(None))?;
    /// let outcome = state.writer().evaluate(b"a", 7, CommandKind::Set, Some(&below));
    /// assert_eq!(outcome, Ok(ApplyOutcome::Applied));
    /// # Ok::<(), TableError>(())
    /// ```
    pub fn look_below<E: From<TableError>>(
        &self,
        key: &[u8],
        guard: &Guard,
        mut read: impl FnMut(L) -> Result<Option<NewestCommand>, E>,
    ) -> Result<LookedBelow, E> {
        let view = self.inner().view(guard);
        let found = |newest| Ok(LookedBelow { view: view.number, newest });
        // A key of the active memtable stays there as long as the view is the same.
        if view.active.get(key, guard).is_some() {
            return found(None);
        }
        if let Some(entry) = view.frozen().iter().find_map(|memtable| memtable.get(key, guard)) {
            let newest = entry.newest();
            return found(Some((NewestCommand::new(&newest), newest.word.location())));
        }
        let Some(search) = TableSearch::new(view, key) else { return found(None) };
        let located = |location: L| -> Result<_, E> { Ok(read(location)?.map(|newest| (newest, location.to_bits()))) };
        found(search.find(located)?)
    }

    /// Whether the active memtable is the only level. Cheap.
    #[must_use]
    #[inline]
    pub fn is_one_level(&self, guard: &Guard) -> bool {
        self.inner().view(guard).lower.is_none()
    }

    /// The active memtable, as a state of its own: the same keys, as long as it is the only level.
    #[must_use]
    #[inline]
    pub fn active_memtable(&self) -> &ConcurrentKvState<L> {
        &self.memory
    }

    /// Like [`ConcurrentKvState::prefetch`], for the active memtable.
    #[inline]
    pub fn prefetch<'k, K>(
        &self,
        keys: &'k [K],
        key_of: impl Fn(&'k K) -> &'k [u8],
        guard: &Guard,
        meanwhile: impl FnMut(Awaited),
    ) {
        self.memory.prefetch(keys, key_of, guard, meanwhile);
    }

    /// Like [`ConcurrentKvState::prepare_memory`], for the active memtable.
    pub fn prepare_memory(&self) -> bool {
        self.memory.prepare_memory()
    }

    /// A consistent view as of the newest published commit. O(1); it starts again if the levels
    /// change meanwhile.
    #[must_use]
    pub fn snapshot(&self) -> LeveledSnapshot<L> {
        LeveledSnapshot::new(self.inner())
    }

    /// The tables of the current view, newest first.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<TableReader>> {
        self.inner().view(&pin()).tables().iter().map(|table| Arc::clone(&table.reader)).collect()
    }

    /// The seq of the newest published commit; 0 if there was none.
    #[must_use]
    pub fn visible_seq(&self) -> u64 {
        self.memory.visible_seq()
    }

    /// The highest version that was ever applied or installed; 0 if there was none.
    #[must_use]
    pub fn max_version(&self) -> u64 {
        self.memory.max_version()
    }

    /// Drops the old versions of the active memtable that no snapshot needs, like
    /// [`ConcurrentKvState::reclaim`], and frees the memtables that no view has any more. Call it
    /// after each installation and from time to time; only this call frees those memtables.
    pub fn reclaim(&self) {
        self.memory.reclaim();
        // Dropped after the lock is released, because freeing a memtable takes a step for each key.
        if !planted("unused_memtables_kept") {
            drop(self.writer().take_unused());
        }
    }
}

/// The newest published version of a key in the memtables.
fn newest_in_memtables(inner: &StateInner, view: &View, key: &[u8], guard: &Guard) -> Option<Version> {
    view.memtables().find_map(|memtable| inner.mvcc.at(memtable.get(key, guard)?, inner.visible(), guard))
}

/// The newest version in the frozen memtables.
#[inline(never)]
fn frozen_latest(inner: &StateInner, view: &View, key: &[u8], guard: &Guard) -> Option<(Word, u64)> {
    view.frozen().iter().find_map(|memtable| {
        let latest = inner.latest(memtable.get(key, guard)?, guard)?;
        let is_passed = latest.word.is_tombstone() && planted("levels_tombstone_hides_nothing");
        (!is_passed).then_some((latest.word, latest.version))
    })
}

impl<L> Clone for LeveledKvState<L> {
    fn clone(&self) -> Self {
        Self { memory: self.memory.clone() }
    }
}

impl<L: Location> Default for LeveledKvState<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L> fmt::Debug for LeveledKvState<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guard = pin();
        let view = self.memory.inner.view(&guard);
        f.debug_struct("LeveledKvState")
            .field("view", &view.number)
            .field("frozen", &view.frozen().len())
            .field("tables", &view.tables().len())
            .finish_non_exhaustive()
    }
}
