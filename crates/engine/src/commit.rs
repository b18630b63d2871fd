//! The write path: evaluate, append, apply, publish, under one short lock; then wait for a sync if
//! the durability needs one. [`WritePath::commit`] is the whole path, for a single put, a batch,
//! and a group of queued commits.
//!
//! Work that does not depend on the order of commits is done before the lock: limits, the payload's
//! checksum, the clock, prefetching the key's path in the active memtable, and looking keys up
//! below it. Only requirements, explicit versions and merges need that look-up; if the levels
//! change before the lock is taken, it is repeated without the lock. Merges are evaluated there
//! too, and under the lock only if the value of the key is no longer the same. Under the lock, a
//! commit gets its seqno and versions, and one append writes its records to the tail of the log.
//! The state changes only after that, so a failed append changes nothing. After the lock, the
//! writer waits for a sync if the durability needs one.

mod limited;
mod limits;
mod merge_path;
mod merging;
mod pending;

use std::sync::Arc;

use hightower_index::{Guard, pin};
use hightower_log::{Placement, payload_checksum};
use hightower_segment::{Appended, Purpose};
use hightower_state::{ApplyOutcome, Awaited, CommandKind, LeveledKvState, LeveledWriter, LookedBelow};

use crate::batch::{Batch, BatchOutcome, check_value_len, check_version};
use crate::commit_log::{CommitGuard, CommitLock, CommitLog};
use crate::config::{Durability, StoreConfig};
use crate::error::{Error, Result};
use crate::feed::{FeedBell, FeedHub};
use crate::keyspace::{KeyspaceQuotas, check_key};
use crate::maintenance::Maintenance;
use crate::memory_budget::MemoryBudget;
use crate::merger::Merger;
use crate::mutants::planted;
use crate::open_store::OpenStore;
use crate::pipeline::{self, Committer, Request};
use crate::place::Place;
use crate::quota::{Demand, DiskQuota};
use crate::read_path::ReadPath;
use crate::sync::step;
use crate::sync_path::SyncPath;
use crate::table_flusher::TableFlusher;
use crate::tail_upkeep::TailUpkeep;
use crate::time::StoreTime;
use crate::watch::Watches;

use merging::{Basis, MergeValues, PendingMerge};
pub(crate) use pending::Write;
use pending::{BatchRecords, CommitVerdict, Evaluated, PendingCommit, PendingRecord, Records};

/// log2 of the bytes between two wake-ups of the preparing threads, which also poll under load: a
/// wake-up costs a writer up to some 10 µs.
const MAINTENANCE_STEP_BITS: u32 = 20;

/// Number of prefetched keys of a batch: their memory fits the second-level cache of a core.
const PREFETCHED_MAX: usize = 2048;

/// Maximum length of a kept scratch buffer; a longer one is freed after its batch.
const SCRATCH_KEPT_BYTES: usize = 1 << 20;

/// The reserve for revocations: this share of `max_index_memory_bytes`, and at least this number of
/// bytes.
const INDEX_RESERVE_SHARE: u64 = 16;
const INDEX_RESERVE_MIN_BYTES: u64 = 64 << 10;
/// Approximate memory of a key in the index, besides its bytes.
const INDEX_ENTRY_BYTES: u64 = 64;

/// The commits of a store.
#[derive(Debug)]
pub(crate) struct WritePath {
    max_index_memory_bytes: Option<u64>,
    budget: Arc<MemoryBudget>,
    flusher: Arc<TableFlusher>,
    time: Arc<StoreTime>,
    read: Arc<ReadPath>,
    log: Arc<CommitLock>,
    store: Arc<OpenStore>,
    sync: Arc<SyncPath>,
    tail: Arc<TailUpkeep>,
    quota: Arc<DiskQuota>,
    maintenance: Arc<Maintenance>,
    feeds: Arc<FeedHub>,
    bell: Arc<FeedBell>,
    watches: Arc<Watches>,
    merger: Arc<Merger>,
    quotas: Arc<KeyspaceQuotas>,
}

/// The parts of a store that commits use.
#[derive(Debug)]
pub(crate) struct WriteParts<'a> {
    pub(crate) budget: &'a Arc<MemoryBudget>,
    pub(crate) flusher: &'a Arc<TableFlusher>,
    pub(crate) time: &'a Arc<StoreTime>,
    pub(crate) read: &'a Arc<ReadPath>,
    pub(crate) log: &'a Arc<CommitLock>,
    pub(crate) store: &'a Arc<OpenStore>,
    pub(crate) sync: &'a Arc<SyncPath>,
    pub(crate) tail: &'a Arc<TailUpkeep>,
    pub(crate) quota: &'a Arc<DiskQuota>,
    pub(crate) maintenance: &'a Arc<Maintenance>,
    pub(crate) feeds: &'a Arc<FeedHub>,
    pub(crate) bell: &'a Arc<FeedBell>,
    pub(crate) merger: &'a Arc<Merger>,
}

impl WritePath {
    pub(crate) fn new(config: &StoreConfig, parts: &WriteParts<'_>) -> Self {
        Self {
            max_index_memory_bytes: config.max_index_memory_bytes,
            budget: Arc::clone(parts.budget),
            flusher: Arc::clone(parts.flusher),
            time: Arc::clone(parts.time),
            read: Arc::clone(parts.read),
            log: Arc::clone(parts.log),
            store: Arc::clone(parts.store),
            sync: Arc::clone(parts.sync),
            tail: Arc::clone(parts.tail),
            quota: Arc::clone(parts.quota),
            maintenance: Arc::clone(parts.maintenance),
            feeds: Arc::clone(parts.feeds),
            bell: Arc::clone(parts.bell),
            watches: Arc::default(),
            merger: Arc::clone(parts.merger),
            quotas: Arc::default(),
        }
    }

    /// The quotas of keyspaces.
    pub(crate) fn quotas(&self) -> &KeyspaceQuotas {
        &self.quotas
    }

    /// Commits a group in order, each commit separately, under one acquisition of the commit lock;
    /// then waits until the commits that need it are durable. `prepare` runs before the lock is
    /// taken. On return, each commit has its outcome.
    ///
    /// Inlined into its three callers, so that a single put pays for no loop.
    ///
    /// # Errors
    ///
    /// If the store takes no commits at all.
    #[inline(always)]
    fn commit<'a, R: Records<'a>>(
        &self,
        group: &mut [PendingCommit<'a, R>],
        prepare: impl FnOnce(&mut [PendingCommit<'a, R>], &LeveledKvState<Place>, &Guard),
    ) -> Result<()> {
        if self.store.is_read_only() {
            return Err(Error::ReadOnly);
        }
        let are_limited = self.quotas.are_any();
        if are_limited {
            // A failed count is repeated below, where it is the failure of its commit.
            group.iter().for_each(|commit| drop(self.count_what_is_due(commit)));
        }
        // One guard covers everything: nested pins are nearly free.
        let guard = pin();
        let state = self.read.index.state(&guard)?;
        prepare(group, state, &guard);
        if planted("bell_rung_before_the_commit") {
            self.bell.ring();
        }
        if !state.is_one_level(&guard) {
            // A failed look-up is repeated under the lock, if it is needed then.
            group.iter_mut().for_each(|commit| drop(self.look_below(commit, state, &guard)));
        }
        if R::MAY_MERGE {
            // The same.
            group.iter_mut().for_each(|commit| drop(self.merge_ahead(commit, state, &guard)));
        }
        if are_limited {
            group.iter_mut().for_each(|commit| self.prepare_limits(commit, state, &guard));
        }
        let mut log = Some(self.log.lock()?);
        for commit in &mut *group {
            // If the store was closed meanwhile, the rest of the group stays closed too.
            while let Some(held) = &mut log {
                commit.result = self.commit_locked(commit, held, state, &guard);
                let Ok(CommitVerdict::ViewChanged) = commit.result else { break };
                if let Err(failure) = self.look_again(commit, &mut log, state, &guard) {
                    commit.result = Err(failure);
                    break;
                }
            }
        }
        drop(log);
        drop(guard);
        if !planted("bell_rung_before_the_commit") {
            self.bell.ring();
        }
        let _held = if planted("sync_under_the_lock") { self.log.lock().ok() } else { None };
        // Starts with the last one: its sync makes the earlier ones durable.
        for commit in group.iter_mut().rev() {
            // This includes commits without a written record: the record that made a write stale
            // needs the durability promised for the stale write.
            if let Ok(CommitVerdict::Committed { seqno, is_written }) = commit.result
                && (is_written || !planted("stale_before_sync"))
                && let Err(failure) = self.sync.make_durable(seqno, commit.durability)
            {
                commit.result = Err(failure);
            }
        }
        self.tail.work_as_caller();
        if self.budget.wants_attention() && self.budget.attend() {
            self.flusher.flush_as_caller();
        }
        Ok(())
    }

    /// Looks the keys of a commit up below the active memtable again, without the lock.
    #[cold]
    fn look_again<'l, 'a, R: Records<'a>>(
        &'l self,
        commit: &mut PendingCommit<'a, R>,
        log: &mut Option<CommitGuard<'l>>,
        state: &LeveledKvState<Place>,
        guard: &Guard,
    ) -> Result<()> {
        step();
        *log = None;
        let looked = self.look_below(commit, state, guard).and_then(|()| self.merge_ahead(commit, state, guard));
        if self.quotas.are_any() {
            self.prepare_limits(commit, state, guard);
        }
        *log = Some(self.log.lock()?);
        looked
    }

    /// Looks up the keys of requirements, of records with explicit versions and of merges, below
    /// the active memtable.
    fn look_below<'a, R: Records<'a>>(
        &self,
        commit: &mut PendingCommit<'a, R>,
        state: &LeveledKvState<Place>,
        guard: &Guard,
    ) -> Result<()> {
        commit.look_below(|key| self.below(key, state, guard))
    }

    /// What the levels below the active memtable have of a key.
    fn below(&self, key: &[u8], state: &LeveledKvState<Place>, guard: &Guard) -> Result<LookedBelow> {
        let looked = state.look_below(key, guard, |place| self.read.newest_at(key, place, guard));
        looked.map_err(|failure: Error| self.read.noted(failure))
    }

    #[inline(always)]
    fn commit_locked<'a, R: Records<'a>>(
        &self,
        commit: &mut PendingCommit<'a, R>,
        log: &mut CommitLog,
        state: &LeveledKvState<Place>,
        guard: &Guard,
    ) -> Result<CommitVerdict> {
        self.store.poison().check()?;
        if !commit.keyspaces.is_empty() {
            commit.keyspaces.iter().try_for_each(|keyspace| keyspace.check_in(self.read.store_number))?;
        }
        let mut state = state.writer();
        // Evaluate.
        if !planted("requirement_before_lock")
            && let Some(rejected) = commit.first_unmet(&state)
        {
            return Ok(rejected);
        }
        let newest = |key: &[u8], below: Option<&LookedBelow>| state.newest_record_of(key, below);
        let merge = |merge: &mut PendingMerge<'a>, key: &[u8], basis: Basis<'a>| {
            let may_run = merge.may_run_under_lock(&basis);
            if may_run { self.merge(merge, key, basis, guard).map(|()| true) } else { Ok(false) }
        };
        let evaluated = commit.evaluate(newest, log.max_version, merge)?;
        let Evaluated { max_version, written, len_max, is_view_changed } = evaluated;
        if is_view_changed {
            return Ok(CommitVerdict::ViewChanged);
        }
        if self.quotas.are_any() && !self.check_limits(commit, &state)? {
            return Ok(CommitVerdict::ViewChanged);
        }
        // Ends the watch, so it comes after all that may need another look-up.
        if commit.watch.is_some()
            && let Some(rejected) = commit.range_verdict()?
        {
            return Ok(rejected);
        }
        if written == 0 {
            return Ok(CommitVerdict::Committed { seqno: log.last_seq, is_written: false });
        }
        let reserve_taken_bytes = self.check_memory(log, &state, commit)?;
        // Append.
        if len_max > log.appender.remaining_bytes() as usize || log.appender.is_for_reclaim() {
            self.rotate(log, commit, len_max)?;
        }
        let appended = self.append(log, commit.records.as_mut(), written)?;
        log.index_reserve_used_bytes += reserve_taken_bytes;
        // Apply.
        let segment = log.active.segment.id();
        let mut change = state.begin(appended.seq, guard).map_err(|error| self.store.poison().latch(&error))?;
        for record in commit.records.as_mut().iter_mut().filter(|record| record.is_written()) {
            record.replaced = change.apply(&record.change(segment)).replaced;
        }
        step();
        // Publish.
        change.publish();
        if let Some(dropped) = commit.dropped.filter(|_| !planted("drop_noted_after_the_commit")) {
            dropped.note_drop();
        }
        (log.last_seq, log.max_version) = (appended.seq, max_version);
        if let Some(limited) = &commit.limited {
            self.note_limits(limited, appended.seq);
        }
        self.published(log, appended, commit, guard);
        Ok(CommitVerdict::Committed { seqno: appended.seq, is_written: true })
    }

    /// The work after publishing a commit. Both locks are still held, so no other commit or move
    /// has happened since.
    #[inline]
    fn published<'a, R: Records<'a>>(
        &self,
        log: &CommitLog,
        appended: Appended,
        commit: &PendingCommit<'a, R>,
        guard: &Guard,
    ) {
        let told = |record: &PendingRecord<'a>| (record.key, record.version_of_value());
        self.watches.note(appended.seq, commit.written().map(told));
        for record in commit.written() {
            log.active.add_records(1);
            log.active.add_live(record.len_bytes, record.kind() == CommandKind::Delete);
            if let Some(replaced) = &record.replaced
                && let Some(tracked) = self.read.segments.find(replaced.location.segment, guard)
            {
                tracked.remove_live(replaced.len_bytes, replaced.was_tombstone);
            }
        }
        let (start, end) = (appended.offset, log.appender.position());
        if start >> self.budget.step_bits() != end >> self.budget.step_bits() {
            self.note_step(start, end);
        }
    }

    #[cold]
    fn note_step(&self, start: u32, end: u32) {
        self.budget.note_step(start, end);
        if start >> MAINTENANCE_STEP_BITS != end >> MAINTENANCE_STEP_BITS {
            self.tail.wake();
        }
    }

    /// Watches the ranges that the commits of a group require unchanged. Walks the ranges, without
    /// a lock and before the guard of the commit.
    fn watch_ranges(&self, group: &mut [PendingCommit<'_, BatchRecords<'_>>]) -> Result<()> {
        for commit in group {
            if let Some(ranges) = commit.ranges {
                commit.watch = Some(self.watches.watch(ranges, &self.read.index.handle()?, commit.snapshot));
            }
        }
        Ok(())
    }

    /// Commits one change, and waits for `durability`.
    pub(crate) fn commit_one(&self, write: Write<'_>, durability: Durability) -> Result<ApplyOutcome> {
        let Write { key, value, given, keyspace } = write;
        check_key(key)?;
        check_value_len(value.unwrap_or_default().len())?;
        check_version(given)?;
        let mut group = [PendingCommit::new([PendingRecord::new(write, 0, 0)], durability)];
        if let Some(keyspace) = keyspace {
            group[0].keyspaces = std::slice::from_ref(keyspace);
        }
        self.commit(&mut group, |group, state, guard| {
            let [PendingCommit { records: [record], .. }] = group else { return };
            state.prefetch(
                &[key],
                |key| key,
                guard,
                |awaited| match awaited {
                    Awaited::Slots => record.payload_checksum = payload_checksum(key, value.unwrap_or_default()),
                    Awaited::Paths if given.is_none() => record.timestamp = self.time.now_ms(),
                    Awaited::Paths => {}
                },
            );
        })?;
        let [PendingCommit { records: [record], result, .. }] = group;
        result.map(|_| record.outcome())
    }

    /// Commits a batch, and waits for `durability`.
    pub(crate) fn commit_batch(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        batch.validate()?;
        let values = MergeValues::of(batch);
        let mut group = [PendingCommit::of(batch, &values, durability, self.time.now_ms())];
        if planted("requirement_before_lock")
            && let Some(rejected) = group[0].first_unmet(&self.read.index.state(&pin())?.writer())
        {
            let [commit] = group;
            return PendingCommit { result: Ok(rejected), ..commit }.into_outcome();
        }
        self.watch_ranges(&mut group)?;
        self.commit(&mut group, |_, state, guard| {
            // Uses the length of the operations, which are shorter than their records.
            let first = batch.operations.len().min(PREFETCHED_MAX);
            state.prefetch(&batch.operations[..first], |operation| batch.key(operation), guard, |_| ());
        })?;
        let [commit] = group;
        commit.into_outcome()
    }

    /// Encodes the winning records, and appends them as one commit.
    #[inline]
    fn append(&self, log: &mut CommitLog, records: &mut [PendingRecord<'_>], written: usize) -> Result<Appended> {
        let CommitLog { appender, scratch, .. } = log;
        let (start, durable) = (appender.position(), appender.durable());
        let placement = |continues| Placement::Appended { durable, continues };
        if let [record] = records {
            // A single record goes to the tail without an intermediate copy.
            let head = record.encode_head(appender.context(), start, placement(false))?;
            let parts = [head.as_ref(), record.key, record.value_bytes()];
            return appender.append(&parts, 1).map_err(|failure| self.store.append_failed(failure));
        }
        scratch.clear();
        let mut left = written;
        for record in records.iter_mut().filter(|record| record.is_written()) {
            left -= 1;
            // The appender has room for everything, so the offsets fit.
            let offset = start.saturating_add(u32::try_from(scratch.len()).unwrap_or(u32::MAX));
            let head = record.encode_head(appender.context(), offset, placement(left > 0))?;
            scratch.extend_from_slice(head.as_ref());
            scratch.extend_from_slice(record.key);
            scratch.extend_from_slice(record.value_bytes());
        }
        // At most 65,536 records: the batch was validated.
        let appended = appender.append(&[scratch.as_slice()], u32::try_from(written).unwrap_or(u32::MAX));
        if scratch.capacity() > SCRATCH_KEPT_BYTES && !planted("scratch_kept") {
            *scratch = Vec::new();
        }
        appended.map_err(|failure| self.store.append_failed(failure))
    }

    /// Rotates to a segment with room for a commit of up to `len_max` bytes. Stays in the current
    /// segment if it has the room and the reserves allow it.
    #[cold]
    fn rotate<'a, R: Records<'a>>(
        &self,
        log: &mut CommitLog,
        commit: &PendingCommit<'a, R>,
        len_max: usize,
    ) -> Result<()> {
        let only_deletes = commit.written().all(|record| record.kind() == CommandKind::Delete);
        let demand = match (only_deletes, commit.uses_reserve) {
            (true, _) => Demand::Deletes,
            (false, true) => Demand::Reserve,
            (false, _) => Demand::Data,
        };
        let purpose = if demand == Demand::Data { Purpose::Grow } else { Purpose::Reclaim };
        let _growing = self.quota.growing();
        if demand != Demand::Deletes {
            self.quota.check(len_max, demand).inspect_err(|_| self.maintenance.wake())?;
        }
        let end = log.appender.position();
        let stamp = self.time.stamp(log.max_version);
        if !log.appender.make_room(len_max, purpose, stamp).map_err(|failure| self.store.append_failed(failure))? {
            return Ok(());
        }
        log.adopt_segment(&self.read.segments, &self.feeds).map_err(|failure| self.store.poison().latch(&failure))?;
        self.budget.note_rotation(end);
        self.tail.note_rotation();
        self.maintenance.note_rotation(self.read.segments.count());
        Ok(())
    }

    /// Refuses new keys when the index has reached its cap. Returns the part of the reserve that
    /// they take, if they may use it.
    #[inline]
    fn check_memory<'a, R: Records<'a>>(
        &self,
        log: &mut CommitLog,
        state: &LeveledWriter<'_, Place>,
        commit: &PendingCommit<'a, R>,
    ) -> Result<u64> {
        let Some(cap) = self.max_index_memory_bytes else { return Ok(0) };
        let used = self.read.index.number(LeveledKvState::memtable_bytes, |_| 0) as u64;
        if used < cap || planted("cap_ignored") {
            log.index_reserve_used_bytes = 0;
            return Ok(0);
        }
        let is_new =
            |record: &&PendingRecord<'_>| record.kind() == CommandKind::Set && !state.is_in_active_memtable(record.key);
        let taken_bytes: u64 =
            commit.written().filter(is_new).map(|record| record.key.len() as u64 + INDEX_ENTRY_BYTES).sum();
        let reserve = (cap / INDEX_RESERVE_SHARE).max(INDEX_RESERVE_MIN_BYTES);
        let uses_reserve = commit.uses_reserve;
        let fits_reserve = uses_reserve && log.index_reserve_used_bytes.saturating_add(taken_bytes) <= reserve;
        if taken_bytes == 0 || fits_reserve || (uses_reserve && planted("reserve_without_bound")) {
            return Ok(taken_bytes);
        }
        let detail = format!(
            "the index takes {used} bytes of the {cap} that max_index_memory_bytes allows; flush it by a checkpoint, or raise the cap"
        );
        Err(Error::Full { detail })
    }
}

impl Committer for WritePath {
    fn note_panic(&self, message: &str) {
        self.store.poison_by_panic(pipeline::THREAD, message);
    }

    fn commit_group(&self, requests: &[Request]) -> Vec<Result<BatchOutcome>> {
        let now = self.time.now_ms();
        let values: Vec<_> = requests.iter().map(|request| MergeValues::of(&request.batch)).collect();
        let requests_and_values = requests.iter().zip(&values);
        let mut group: Vec<_> = requests_and_values
            .map(|(request, values)| PendingCommit::of(&request.batch, values, request.durability, now))
            .collect();
        match self.watch_ranges(&mut group).and_then(|()| self.commit(&mut group, |_, _, _| ())) {
            Ok(()) => group.into_iter().map(PendingCommit::into_outcome).collect(),
            Err(failure) => requests.iter().map(|_| Err(failure.clone())).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SCRATCH_KEPT_BYTES;
    use crate::batch::Batch;
    use crate::config::StoreConfig;
    use crate::engine::SingleNodeEngine;

    #[test]
    fn the_memory_of_a_large_batch_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap();
        let scratch_bytes = || engine.log.lock().unwrap().scratch.capacity();
        assert!(engine.commit(Batch::new().put("a", "b").put("c", "d")).unwrap().is_committed());
        assert!((1..=SCRATCH_KEPT_BYTES).contains(&scratch_bytes()), "the buffer of a short batch is kept");
        let mut large = Batch::new();
        large.put("a", vec![7; 2 * SCRATCH_KEPT_BYTES]).put("c", "d");
        assert!(engine.commit(&large).unwrap().is_committed());
        assert!(scratch_bytes() <= SCRATCH_KEPT_BYTES, "{}", scratch_bytes());
        assert_eq!(engine.get("a").unwrap().unwrap().len(), 2 * SCRATCH_KEPT_BYTES);
    }
}
