//! The concurrent state: an index of entries, a lock for the writer, and lock-free readers.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Bound;
use std::sync::Arc;

use hightower_index::{Awaited, Guard, SeededHasher, pin};
use hightower_seams::lock_order::{self, Rank};
use hightower_seams::{Clock, SystemClock};

use crate::change::{Applied, Change, Versioned};
use crate::entry::{IndexEntry, LatestVersion};
use crate::error::StateError;
use crate::inner::StateInner;
use crate::location::Location;
use crate::outcome::CommandKind;
use crate::range::StateRange;
use crate::snapshot::StateSnapshot;
use crate::stats::StateStats;
use crate::sync::Ordering;
use crate::writer::StateWriter;

/// A concurrent, versioned, ordered map from byte strings to locations.
///
/// It has one writer at a time, and any number of readers, which take no lock and never wait. A
/// clone is another handle to the same state.
///
/// * [`writer`](Self::writer) takes the writer's lock. [`set`](Self::set) and
///   [`delete`](Self::delete) are short forms for a commit of one command.
/// * [`get`](Self::get) reads the latest published version. [`snapshot`](Self::snapshot) takes O(1)
///   and reads as of one seq. Both see batches atomically.
///
/// ```
/// use hightower_state::{ApplyOutcome, ConcurrentKvState};
///
/// # fn main() -> Result<(), hightower_state::StateError> {
/// let state = ConcurrentKvState::<u32>::new();
/// assert_eq!(state.set(b"a", 1, 100)?.outcome, ApplyOutcome::Applied);
///
/// let before = state.snapshot();
/// state.set(b"a", 2, 200)?;
/// state.delete(b"b", 1, 0)?;
///
/// assert_eq!(state.get(b"a").map(|found| found.location), Some(200));
/// assert_eq!(before.get(b"a").map(|found| found.location), Some(100));
/// assert_eq!((state.len(), state.version_of(b"b")), (1, Some(1)));
/// # Ok(())
/// # }
/// ```
pub struct ConcurrentKvState<L> {
    pub(crate) inner: Arc<StateInner>,
    location: PhantomData<fn(L) -> L>,
}

impl<L: Location> ConcurrentKvState<L> {
    /// An empty state.
    #[must_use]
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock::new()))
    }

    /// An empty state with a clock for the age of snapshots.
    #[must_use]
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::with_hasher(SeededHasher::random(), clock)
    }

    /// An empty state with a hasher for the index and a clock for the age of snapshots. Keep the
    /// hasher's seed secret from users who choose keys, because they could choose colliding ones.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use hightower_state::{ConcurrentKvState, SeededHasher, SystemClock};
    ///
    /// let clock = Arc::new(SystemClock::new());
    /// let state = ConcurrentKvState::<u32>::with_hasher(SeededHasher::new(7), clock);
    /// assert_eq!(state.len(), 0);
    /// ```
    #[must_use]
    pub fn with_hasher(hasher: SeededHasher, clock: Arc<dyn Clock>) -> Self {
        Self { inner: Arc::new(StateInner::new(hasher, hint_of::<L>, clock)), location: PhantomData }
    }

    /// Takes the writer's lock; waits while another thread holds it.
    #[must_use]
    #[inline]
    pub fn writer(&self) -> StateWriter<'_, L> {
        let held = lock_order::take(Rank::StateWriter);
        StateWriter::new(held, self.inner.writer.lock(), &self.inner)
    }

    /// Sets a key in one commit, with the next seq.
    ///
    /// # Errors
    ///
    /// If the seqs are exhausted.
    pub fn set(&self, key: &[u8], version: u64, location: L) -> Result<Applied<L>, StateError> {
        self.apply(&Change { key, version, kind: CommandKind::Set, location, len_bytes: 0 })
    }

    /// Deletes a key in one commit, with the next seq. The location is that of the tombstone.
    ///
    /// # Errors
    ///
    /// If the seqs are exhausted.
    pub fn delete(&self, key: &[u8], version: u64, location: L) -> Result<Applied<L>, StateError> {
        self.apply(&Change { key, version, kind: CommandKind::Delete, location, len_bytes: 0 })
    }

    /// Applies one change in one commit, with the next seq.
    ///
    /// # Errors
    ///
    /// If the seqs are exhausted.
    pub fn apply(&self, change: &Change<'_, L>) -> Result<Applied<L>, StateError> {
        let guard = pin();
        let mut writer = self.writer();
        let seq = self.visible_seq().saturating_add(1);
        let mut commit = writer.begin(seq, &guard)?;
        let applied = commit.apply(change);
        commit.publish();
        Ok(applied)
    }

    /// The latest location and version of an existing key.
    ///
    /// If locations are reused or retired, read with [`get_pinned`](Self::get_pinned) and use the
    /// location under the guard.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Versioned<L>> {
        self.get_pinned(key, &pin())
    }

    /// The latest location and version of an existing key. The location stays good while the
    /// guard lives, as [`retire_locations`](Self::retire_locations) explains.
    ///
    /// Costs one probe of the index, usually one cache miss. Takes no lock and does not retry.
    #[must_use]
    pub fn get_pinned(&self, key: &[u8], guard: &Guard) -> Option<Versioned<L>> {
        let entry = self.inner.map(guard).get(key, guard)?;
        found(self.inner.latest(entry, guard)?)
    }

    /// Like [`get_pinned`](Self::get_pinned). Calls `hinted` with the location's
    /// [hint](Location::hint) before it waits for the entry, so that the caller can prefetch the
    /// record meanwhile. A hint may be outdated, partly written, or of another key: no result may
    /// depend on it.
    ///
    /// ```
    /// use hightower_state::{ConcurrentKvState, Location, LocationBits, pin};
    ///
    /// #[derive(Clone, Copy, Debug, PartialEq)]
    /// struct Slot(u32);
    ///
    /// impl Location for Slot {
    ///     fn to_bits(self) -> LocationBits {
    ///         self.0.into()
    ///     }
    ///
    ///     fn from_bits(bits: LocationBits) -> Self {
    ///         Self(u32::from_bits(bits))
    ///     }
    ///
    ///     fn hint(self) -> u32 {
    ///         self.0
    ///     }
    /// }
    ///
    /// # fn main() -> Result<(), hightower_state::StateError> {
    /// let state = ConcurrentKvState::new();
    /// state.set(b"a", 1, Slot(5))?;
    /// state.set(b"a", 2, Slot(6))?;
    /// let mut hints = Vec::new();
    /// let found = state.get_hinted(b"a", &pin(), |hint| hints.push(hint));
    /// assert_eq!((found.map(|found| found.location), hints), (Some(Slot(6)), vec![6]));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn get_hinted(&self, key: &[u8], guard: &Guard, hinted: impl FnMut(u32)) -> Option<Versioned<L>> {
        let entry = self.inner.map(guard).get_hinted(key, guard, hinted)?;
        found(self.inner.latest(entry, guard)?)
    }

    /// Looks up several keys, overlapping their cache misses. Calls `each` with the position of
    /// each key and the result of [`get_pinned`](Self::get_pinned) for it. A commit may come
    /// between the lookups of two keys; a snapshot reads all of them at one seq.
    pub fn get_many<K: AsRef<[u8]>>(
        &self,
        keys: &[K],
        guard: &Guard,
        mut each: impl FnMut(usize, Option<Versioned<L>>),
    ) {
        self.inner.map(guard).get_many(keys, guard, |at, entry| {
            each(at, entry.and_then(|entry| found(self.inner.latest(entry.value(), guard)?)));
        });
    }

    /// Whether the key exists.
    #[must_use]
    pub fn contains_key(&self, key: &[u8]) -> bool {
        self.get(key).is_some()
    }

    /// The latest version that a key has seen, tombstones included.
    #[must_use]
    pub fn version_of(&self, key: &[u8]) -> Option<u64> {
        let guard = pin();
        let entry = self.inner.map(&guard).get(key, &guard)?;
        Some(self.inner.latest(entry, &guard)?.version)
    }

    /// Prefetches the memory for lookups and writes of `keys`. Call it before taking the writer's
    /// lock. `meanwhile` runs during the prefetch; see
    /// [`Map::prefetch`](hightower_index::Map::prefetch).
    #[inline]
    pub fn prefetch<'k, K>(
        &self,
        keys: &'k [K],
        key_of: impl Fn(&'k K) -> &'k [u8],
        guard: &Guard,
        meanwhile: impl FnMut(Awaited),
    ) {
        self.inner.map(guard).prefetch(keys, key_of, guard, meanwhile);
    }

    /// Prepares memory for new keys, so that no commit waits for it; returns whether it did. For a
    /// background thread; see [`Map::prepare_memory`](hightower_index::Map::prepare_memory).
    pub fn prepare_memory(&self) -> bool {
        self.inner.map(&pin()).prepare_memory()
    }

    /// A consistent view as of the newest published commit. O(1), without waiting.
    #[must_use]
    pub fn snapshot(&self) -> StateSnapshot<L> {
        StateSnapshot::new(&self.inner)
    }

    /// The keys between two bounds as of now, in order: a [`snapshot`](Self::snapshot)'s range.
    #[must_use]
    pub fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> StateRange<L> {
        self.snapshot().range(from, to)
    }

    /// The keys that begin with `prefix` as of now, in order: a [`snapshot`](Self::snapshot)'s
    /// prefix.
    #[must_use]
    pub fn prefix(&self, prefix: &[u8]) -> StateRange<L> {
        self.snapshot().prefix(prefix)
    }

    /// The number of live keys. Exact while no commit is in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.view(&pin()).active.counts.live_keys()
    }

    /// Whether no key exists. Tombstones may exist.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The seq of the newest published commit; 0 if there was none.
    #[must_use]
    pub fn visible_seq(&self) -> u64 {
        self.inner.visible()
    }

    /// The highest version that was ever applied; 0 if there was none.
    #[must_use]
    pub fn max_version(&self) -> u64 {
        self.inner.max_version.get()
    }

    /// The bytes of keys, entries and index, without the old versions that are kept for snapshots:
    /// see [`stats`](Self::stats).
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        self.inner.map(&pin()).memory_bytes()
    }

    /// Counts of keys, bytes and snapshots. Takes the writer's lock briefly.
    #[must_use]
    pub fn stats(&self) -> StateStats {
        self.writer().stats()
    }

    /// Drops all old versions that no snapshot needs any more, a few at a time, so that other
    /// writers get the lock in between. Commits do the same; call this for a state without commits.
    pub fn reclaim(&self) {
        const SLICE: usize = 256;
        while self.writer().reclaim(SLICE) {}
    }

    /// Call this before you free the old places of [relocated](StateWriter::relocate) records.
    ///
    /// Call it after the last relocation, and free the old places once no guard that exists at the
    /// call is alive. A pinned read after the call returns the new location, and iterators repeat
    /// the lookups that they have made ahead.
    pub fn retire_locations(&self) {
        self.inner.retirements.fetch_add(1, Ordering::SeqCst);
    }
}

/// The hint of an entry in the index.
fn hint_of<L: Location>(entry: &IndexEntry) -> u32 {
    L::from_bits(entry.newest_location()).hint()
}

/// The location and version, unless this is a tombstone.
fn found<L: Location>(latest: LatestVersion) -> Option<Versioned<L>> {
    let location = L::from_bits(latest.word.location());
    (!latest.word.is_tombstone()).then_some(Versioned { location, version: latest.version })
}

impl<L> Clone for ConcurrentKvState<L> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner), location: PhantomData }
    }
}

impl<L: Location> Default for ConcurrentKvState<L> {
    fn default() -> Self {
        Self::new()
    }
}

impl<L> fmt::Debug for ConcurrentKvState<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seq = self.inner.mvcc.visible.load(Ordering::Acquire);
        f.debug_struct("ConcurrentKvState")
            .field("visible_seq", &seq)
            .field("len", &self.inner.view(&pin()).active.counts.live_keys())
            .finish_non_exhaustive()
    }
}
