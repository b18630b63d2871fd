//! The writer's lock: commits, recovery, and the compactor's calls.

use std::fmt;
use std::marker::PhantomData;

use hightower_index::{Guard, pin};
use hightower_seams::lock_order::HeldRank;

use crate::change::{Applied, Change, EntryRecord, NewestRecord, Replaced};
use crate::commit::Commit;
use crate::counters::Delta;
use crate::entry::IndexEntry;
use crate::error::StateError;
use crate::in_flight::ChainChange;
use crate::inner::{StateInner, WriterState};
use crate::location::Location;
use crate::lock::MutexGuard;
use crate::mutants::planted;
use crate::outcome::{ApplyOutcome, CommandKind};
use crate::stats::{SnapshotAge, StateStats};
use crate::sync::Ordering;
use crate::version_chain;

/// The highest seq. Higher numbers are marks of the registry.
const MAX_SEQ: u64 = u64::MAX - 2;

/// The exclusive right to change a state, until it is dropped. It does not affect readers.
///
/// ```
/// use hightower_state::{ApplyOutcome, Change, CommandKind, ConcurrentKvState, pin};
///
/// # fn main() -> Result<(), hightower_state::StateError> {
/// let state = ConcurrentKvState::<u32>::new();
/// let guard = pin();
/// let mut writer = state.writer();
///
/// // A batch: both or neither, for every reader.
/// let mut commit = writer.begin(1, &guard)?;
/// commit.apply(&Change { key: b"a", version: 1, kind: CommandKind::Set, location: 10, len_bytes: 0 });
/// commit.apply(&Change { key: b"b", version: 2, kind: CommandKind::Set, location: 20, len_bytes: 0 });
/// assert!(state.is_empty());
/// commit.publish();
///
/// assert_eq!(writer.evaluate(b"a", 1, CommandKind::Delete), ApplyOutcome::IgnoredStale);
/// assert_eq!(state.len(), 2);
/// # Ok(())
/// # }
/// ```
pub struct StateWriter<'a, L> {
    state: MutexGuard<'a, WriterState>,
    _held: HeldRank,
    inner: &'a StateInner,
    location: PhantomData<fn(L) -> L>,
}

impl<'a, L: Location> StateWriter<'a, L> {
    pub(crate) fn new(held: HeldRank, state: MutexGuard<'a, WriterState>, inner: &'a StateInner) -> Self {
        Self { state, _held: held, inner, location: PhantomData }
    }

    /// The outcome of a command, without a change.
    #[must_use]
    pub fn evaluate(&self, key: &[u8], version: u64, kind: CommandKind) -> ApplyOutcome {
        ApplyOutcome::decide(self.version_of(key), version, kind)
    }

    /// The newest version that a key has seen, tombstones included.
    #[must_use]
    pub fn version_of(&self, key: &[u8]) -> Option<u64> {
        Some(self.state.index.get(key)?.newest().version)
    }

    /// The newest command that a key has seen.
    pub(crate) fn newest_of(&self, key: &[u8]) -> Option<NewestRecord<L>> {
        Some(NewestRecord::recent(&self.state.index.get(key)?.newest()))
    }

    /// The newest entry of a key, tombstones included.
    #[must_use]
    pub fn entry(&self, key: &[u8]) -> Option<EntryRecord<L>> {
        Some(EntryRecord::new(&self.state.index.get(key)?.newest()))
    }

    /// Begins the commit with seq `seq`. [`Commit::publish`], or dropping it, publishes it
    /// atomically.
    ///
    /// # Errors
    ///
    /// If `seq` is not above the seq of every earlier commit.
    pub fn begin<'w, 'g>(&'w mut self, seq: u64, guard: &'g Guard) -> Result<Commit<'w, 'g, L>, StateError> {
        let visible = self.inner.mvcc.visible.load(Ordering::Relaxed);
        if seq <= visible || seq > MAX_SEQ {
            return Err(StateError::SeqOutOfRange { seq, visible });
        }
        Ok(Commit::new(&mut self.state, self.inner, seq, guard))
    }

    /// Applies a change during recovery, in any order, even repeatedly. The change has no seq and
    /// is visible at once, even to snapshots: use it only before the state has readers.
    pub fn replay(&mut self, change: &Change<'_, L>) -> Applied<L> {
        let new = change.version_at(0);
        let old = self.state.index.update(change.key, |entry| {
            let old = entry.newest();
            let outcome = ApplyOutcome::decide(Some(old.version), change.version, change.kind);
            if outcome.changed() {
                entry.replace(&new);
            }
            old
        });
        let outcome = ApplyOutcome::decide(old.map(|old| old.version), change.version, change.kind);
        if !outcome.changed() {
            return Applied::STALE;
        }
        let mut delta = Delta::default();
        delta.add(new.word, new.version);
        match &old {
            Some(old) => delta.remove(old.word),
            None => drop(self.state.index.insert(change.key, IndexEntry::new(&new))),
        }
        self.inner.count(&delta, &pin());
        Applied { outcome, replaced: old.as_ref().map(Replaced::new) }
    }

    /// Ends a recovery: the next commit's seq must be above `seq`, and snapshots read at `seq`
    /// until that commit.
    ///
    /// # Errors
    ///
    /// If `seq` is below the newest seq, or above the highest seq of a commit.
    pub fn resume(&mut self, seq: u64) -> Result<(), StateError> {
        let visible = self.inner.mvcc.visible.load(Ordering::Relaxed);
        if seq < visible || seq > MAX_SEQ {
            return Err(StateError::SeqOutOfRange { seq, visible });
        }
        self.inner.forgotten_seq.store(seq, Ordering::SeqCst);
        self.inner.mvcc.visible.store(seq, Ordering::Release);
        Ok(())
    }

    /// Whether a version of the key at `location` is current or may still be read.
    #[must_use]
    pub fn holds(&self, key: &[u8], location: L) -> bool {
        let Some(entry) = self.state.index.get(key) else { return false };
        let bits = location.to_bits();
        let mut holds = entry.newest().word.location() == bits;
        entry.older_versions().for_each(&pin(), |old| holds |= old.word.location() == bits);
        holds
    }

    pub(crate) fn state(&mut self) -> &mut WriterState {
        &mut self.state
    }

    pub(crate) fn inner(&self) -> &StateInner {
        self.inner
    }

    /// Removes a tombstone if it is still the key's newest command, has this version, and no
    /// snapshot needs the previous version. Returns whether it has removed it. Afterwards, an older
    /// command of the key would win.
    pub fn remove_tombstone(&mut self, key: &[u8], version: u64) -> bool {
        let Some(entry) = self.state.index.get(key) else { return false };
        let newest = entry.newest();
        if !newest.word.is_tombstone() || newest.version != version {
            return false;
        }
        let registry = &self.inner.mvcc.registry;
        self.state.live.refresh(registry);
        let live = &self.state.live;
        // If this returns true, the caller frees the tombstone's record. A registering snapshot
        // nearly always gets a new seq, so it is worth waiting for it.
        let is_needed = if live.has_pending() { registry.reads_below(newest.seq) } else { !live.all_reach(newest.seq) };
        if is_needed && !planted("tombstone_removed_early") {
            return false;
        }
        // Raised before the removal, for a walk that no longer finds the tombstone.
        self.inner.forgotten_seq.fetch_max(newest.seq, Ordering::SeqCst);
        let guard = pin();
        let mut dropped = 0;
        if let Some(entry) = self.state.index.get(key) {
            entry.older_versions().for_each(&guard, |_| dropped += 1);
        }
        self.state.account(ChainChange { added: 0, dropped });
        self.state.index.remove(key);
        let mut delta = Delta::default();
        delta.remove(newest.word);
        self.inner.count(&delta, &guard);
        true
    }

    /// Examines up to `budget` old versions whose snapshot has ended, and drops those that no
    /// snapshot needs. Returns whether the queue has more.
    pub fn reclaim(&mut self, budget: usize) -> bool {
        self.state.live.refresh(&self.inner.mvcc.registry);
        let guard = pin();
        self.state.reclaim(self.inner.map(&guard), budget, &guard)
    }

    /// The counts of keys, bytes and snapshots.
    #[must_use]
    pub fn stats(&self) -> StateStats {
        let registry = &self.inner.mvcc.registry;
        let now = self.inner.clock.elapsed();
        let guard = pin();
        let active = &self.inner.view(&guard).active;
        let age = |(seq, since)| SnapshotAge { seq, age: now.saturating_sub(since) };
        StateStats {
            live_keys: active.counts.live_keys(),
            tombstones: active.counts.tombstones(),
            index_bytes: active.map.memory_bytes(),
            retained_versions: self.state.old_versions,
            retained_bytes: self.state.old_versions * version_chain::OldVersion::LEN_BYTES
                + self.state.gc_queue.len_bytes(),
            snapshots: registry.len(),
            oldest_snapshot: registry.oldest().map(age),
            visible_seq: self.inner.mvcc.visible.load(Ordering::Relaxed),
            max_version: self.inner.max_version.get(),
        }
    }
}

impl<L> fmt::Debug for StateWriter<'_, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateWriter").finish_non_exhaustive()
    }
}
