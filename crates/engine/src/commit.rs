//! The write path: evaluate, append, apply, publish, under one short lock; then wait for the sync that was asked for.
//!
//! What needs no order is done before the lock: limits, the payload's checksum, the clock, warming the key's path in the index. Under the lock a
//! commit gets its seq and versions, its records go to the tail of the log in one append, and only then does the state change: a failed append
//! leaves nothing behind. Outside the lock again, a writer that asked for it waits for a sync.

use std::collections::HashMap;
use std::sync::Arc;

use hightower_index::{Guard, pin};
use hightower_log::{CommandRef, Placement, encode_head, payload_checksum};
use hightower_segment::{Appender, Purpose};
use hightower_state::{ApplyOutcome, Change, CommandKind, Commit, ConcurrentKvState, Replaced, StateWriter};

use crate::batch::{Batch, BatchOutcome, Committed, Operation, Rejected, Requirement};
use crate::config::Durability;
use crate::core::Core;
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::pipeline::{Committer, Request};
use crate::place::Place;
use crate::sync::step;
use crate::table::Tracked;

/// The tail moves on by 2^20 bytes between two wake-ups of the threads that make ready, which look by themselves while there is much to do: to wake them costs
/// a writer up to some ten microseconds.
const MAINTENANCE_STEP_BITS: u32 = 20;

/// So many keys of a batch are warmed at once: some processors drop what is asked for when 24 lines are on their way.
const WARMED_TOGETHER: usize = 8;
/// And so many in all: what they bring fits the second cache of a core.
const WARMED_MAX: usize = 2048;

/// A batch of so many commands that will be synced is on its way to the device while they are applied, which takes tens of microseconds.
const WRITTEN_EARLY_MIN: usize = 128;

/// A longer scratch buffer is given back after its batch.
const SCRATCH_KEPT_BYTES: usize = 1 << 20;

/// The reserve for what takes access away is this share of `max_index_memory_bytes`, and at least so much.
const INDEX_RESERVE_SHARE: u64 = 16;
const INDEX_RESERVE_MIN_BYTES: u64 = 64 << 10;
/// About what a key takes in the index besides its bytes.
const INDEX_ENTRY_BYTES: u64 = 64;

/// What a commit needs room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// New data.
    Data,
    /// A batch that [may use the reserve](Batch::use_reserve).
    Reserve,
    /// Deletes and nothing else.
    Deletes,
}

/// What only the holder of the commit lock touches.
#[derive(Debug)]
pub(crate) struct CommitLog {
    pub(crate) appender: Appender,
    /// The segment that the appender writes to, as the table knows it.
    pub(crate) active: Arc<Tracked>,
    /// The seq of the latest commit.
    pub(crate) last_seq: u64,
    /// The highest version that was ever seen.
    pub(crate) max_version: u64,
    /// Where batches are encoded; kept while it is short, so that few batches allocate twice.
    scratch: Vec<u8>,
    /// About how much the index has grown beyond its cap by the reserve.
    index_reserve_used_bytes: u64,
}

impl CommitLog {
    pub(crate) fn new(appender: Appender, active: Arc<Tracked>, last_seq: u64, max_version: u64) -> Self {
        Self { appender, active, last_seq, max_version, scratch: Vec::new(), index_reserve_used_bytes: 0 }
    }
}

/// One change of one key, all but its order known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write<'a> {
    pub(crate) key: &'a [u8],
    /// `None`: a delete.
    pub(crate) value: Option<&'a [u8]>,
    /// Version and timestamp, if the caller gives them.
    pub(crate) given: Option<(u64, i64)>,
}

/// A command of a batch, once the lock has given it a version.
#[derive(Clone, Copy, Debug)]
struct Planned {
    version: u64,
    timestamp: i64,
    outcome: ApplyOutcome,
    /// Where its record starts, and how long it is; set when it is encoded.
    offset: u32,
    len_bytes: u32,
}

impl Core {
    /// Commits one change, and waits for what `durability` asks. Gives the outcome and the seq of the commit (of the latest, if it was stale).
    pub(crate) fn commit_one(&self, write: Write<'_>, durability: Durability) -> Result<(ApplyOutcome, u64)> {
        let value = write.value.unwrap_or_default();
        crate::batch::check_lengths(write.key.len(), value.len())?;
        crate::batch::check_version(write.given)?;
        self.check_writable()?;
        // One guard for all that follows: pinning again under it costs next to nothing.
        let guard = pin();
        let state = self.state(&guard)?;
        let ahead = state.prefetch_start(write.key, &guard);
        let checksum = payload_checksum(write.key, value);
        let ahead = state.prefetch_step(write.key, ahead);
        let now = write.given.map_or_else(|| self.time.now_ms(), |(_, timestamp)| timestamp);
        state.prefetch_step(write.key, ahead);

        let mut log = self.commit_log()?;
        let (outcome, seq) = self.commit_one_locked(&mut log, state, write, now, checksum, &guard)?;
        drop(log);
        drop(guard);
        let _held = if planted("sync_under_the_lock") { self.commit_log().ok() } else { None };
        if outcome == ApplyOutcome::IgnoredStale {
            return Ok((outcome, seq));
        }
        self.make_durable(seq, durability)?;
        self.maintain_as_caller();
        Ok((outcome, seq))
    }

    fn commit_one_locked(
        &self,
        log: &mut CommitLog,
        state: &ConcurrentKvState<Place>,
        write: Write<'_>,
        timestamp: i64,
        checksum: u64,
        guard: &Guard,
    ) -> Result<(ApplyOutcome, u64)> {
        self.poison.check()?;
        let mut state = state.writer();
        let version = match write.given {
            None => next_version(log.max_version)?,
            Some((version, _)) => {
                if state.version_of(write.key).is_some_and(|known| known >= version) {
                    return Ok((ApplyOutcome::IgnoredStale, log.last_seq));
                }
                version
            }
        };
        self.check_memory(log, &state, [(write.key, write.value)], false)?;
        let command = command_of(write.key, write.value, version, timestamp);
        let len_max = hightower_log::MAX_HEAD_LEN_BYTES + write.key.len() + write.value.unwrap_or_default().len();
        let demand = if write.value.is_none() { Demand::Deletes } else { Demand::Data };
        self.make_room(log, len_max, demand)?;

        let offset = log.appender.position();
        let placement = Placement::Appended { durable: log.appender.durable(), continues: false };
        let head = encode_head(log.appender.context(), offset, &command, placement, checksum).map_err(refused)?;
        let parts = [head.as_ref(), write.key, write.value.unwrap_or_default()];
        let appended = log.appender.append(&parts, 1).map_err(|failure| self.append_failed(failure))?;
        let end = log.appender.position();

        let planned =
            Planned { version, timestamp, outcome: won(write.value), offset, len_bytes: end - appended.offset };
        let mut commit = state.begin(appended.seq, guard).map_err(|error| self.poison.latch(&error))?;
        self.apply(&mut commit, &log.active, write.key, &planned, guard);
        step();
        commit.publish();
        let seq = appended.seq;
        log.last_seq = seq;
        self.note_progress(appended.offset, end);
        if write.given.is_none() || !planted("given_version_forgotten") {
            log.max_version = log.max_version.max(version);
        }
        Ok((planned.outcome, seq))
    }

    /// Commits a batch, and waits for what `durability` asks.
    pub(crate) fn commit_batch(&self, batch: &Batch, durability: Durability) -> Result<BatchOutcome> {
        batch.validate()?;
        self.check_writable()?;
        let now = self.time.now_ms();
        let guard = pin();
        let state = self.state(&guard)?;
        prefetch_batch(state, batch, &guard);
        if planted("requirement_before_lock") {
            let early = first_unmet(&state.writer(), &batch.requirements);
            crate::sync::thread::yield_now();
            if let Some(rejected) = early {
                return Ok(rejected);
            }
        }
        let mut log = self.commit_log()?;
        let outcome = self.commit_batch_locked(&mut log, state, batch, now, durability)?;
        drop(log);
        drop(guard);
        if let BatchOutcome::Committed(Committed { seq, outcomes, .. }) = &outcome
            && outcomes.iter().any(|outcome| *outcome != ApplyOutcome::IgnoredStale)
        {
            self.make_durable(*seq, durability)?;
        }
        self.maintain_as_caller();
        Ok(outcome)
    }

    fn commit_batch_locked(
        &self,
        log: &mut CommitLog,
        state: &ConcurrentKvState<Place>,
        batch: &Batch,
        now: i64,
        durability: Durability,
    ) -> Result<BatchOutcome> {
        self.poison.check()?;
        let mut state = state.writer();
        if !planted("requirement_before_lock")
            && let Some(rejected) = first_unmet(&state, &batch.requirements)
        {
            return Ok(rejected);
        }
        let (mut plan, max_version) = plan(&state, log.max_version, batch, now)?;
        let writes = batch.operations.iter().map(|operation| batch.parts(operation));
        let reserve_taken_bytes = self.check_memory(log, &state, writes, batch.uses_reserve())?;
        self.make_room_for(log, batch, &plan)?;
        encode_batch(log, batch, &mut plan)?;
        let records = plan.iter().filter(|planned| planned.outcome != ApplyOutcome::IgnoredStale).count();
        if records > 0 {
            let CommitLog { appender, scratch, .. } = log;
            // At most 65,536 commands: the batch was validated.
            let appended = appender.append(&[scratch.as_slice()], u32::try_from(records).unwrap_or(u32::MAX));
            let appended = appended.map_err(|failure| self.append_failed(failure))?;
            log.index_reserve_used_bytes += reserve_taken_bytes;
            if log.scratch.capacity() > SCRATCH_KEPT_BYTES && !planted("scratch_kept") {
                log.scratch = Vec::new();
            }
            if durability == Durability::Sync && records >= WRITTEN_EARLY_MIN {
                self.start_writing();
            }
            let guard = pin();
            let mut commit = state.begin(appended.seq, &guard).map_err(|error| self.poison.latch(&error))?;
            for (operation, planned) in batch.operations.iter().zip(&plan) {
                if planned.outcome != ApplyOutcome::IgnoredStale {
                    self.apply(&mut commit, &log.active, batch.parts(operation).0, planned, &guard);
                }
            }
            step();
            commit.publish();
            log.last_seq = appended.seq;
            self.note_progress(appended.offset, log.appender.position());
        }
        log.max_version = max_version;
        Ok(BatchOutcome::Committed(Committed {
            seq: log.last_seq,
            outcomes: plan.iter().map(|planned| planned.outcome).collect(),
            versions: plan.iter().map(|planned| planned.version).collect(),
        }))
    }

    /// Rolls to a segment with room for all that the plan writes.
    fn make_room_for(&self, log: &mut CommitLog, batch: &Batch, plan: &[Planned]) -> Result<()> {
        let mut len_max = 0;
        let mut has_writes = false;
        let mut only_deletes = true;
        for (operation, planned) in batch.operations.iter().zip(plan) {
            if planned.outcome != ApplyOutcome::IgnoredStale {
                let (key, value) = batch.parts(operation);
                len_max += hightower_log::MAX_HEAD_LEN_BYTES + key.len() + value.unwrap_or_default().len();
                has_writes = true;
                only_deletes &= value.is_none();
            }
        }
        let demand = match (only_deletes, batch.uses_reserve()) {
            (true, _) => Demand::Deletes,
            (false, true) => Demand::Reserve,
            (false, _) => Demand::Data,
        };
        if has_writes { self.make_room(log, len_max, demand) } else { Ok(()) }
    }

    /// Makes one command of a commit visible, and keeps the books of live and dead bytes.
    fn apply<'w: 'g, 'g>(
        &self,
        commit: &mut Commit<'w, 'g, Place>,
        active: &Tracked,
        key: &[u8],
        planned: &Planned,
        guard: &Guard,
    ) {
        let location = Place { segment: active.segment.id(), offset: planned.offset };
        let kind = if planned.outcome == ApplyOutcome::Removed { CommandKind::Delete } else { CommandKind::Set };
        let len_bytes = planned.len_bytes;
        let applied = commit.apply(&Change { key, version: planned.version, kind, location, len_bytes });
        active.add_records(1);
        active.add_live(len_bytes, kind == CommandKind::Delete);
        if let Some(replaced) = applied.replaced {
            self.count_dead(&replaced, guard);
        }
    }

    /// A record is no longer the latest of its key.
    fn count_dead(&self, replaced: &Replaced<Place>, guard: &Guard) {
        if let Some(tracked) = self.segments.find(replaced.location.segment, guard) {
            tracked.remove_live(replaced.len_bytes, replaced.was_tombstone);
        }
    }

    /// Rolls to the next segment if a commit of up to `len_max` bytes would not fit the active one.
    fn make_room(&self, log: &mut CommitLog, len_max: usize, demand: Demand) -> Result<()> {
        if len_max <= log.appender.remaining_bytes() as usize {
            return Ok(());
        }
        let purpose = if demand == Demand::Data { Purpose::Grow } else { Purpose::Reclaim };
        let _growing = self.growing();
        if demand != Demand::Deletes {
            self.check_disk(len_max, demand)?;
        }
        let stamp = self.stamp_of(log.max_version);
        log.appender.make_room(len_max, purpose, stamp).map_err(|failure| self.append_failed(failure))?;
        log.active = self.segments.add(Arc::clone(log.appender.segment()))?;
        self.wake_tail();
        self.sealing.wake();
        self.upkeep.note_roll(self.segments.count());
        Ok(())
    }

    /// Wakes the threads that make ready each time the tail has moved on by a step, so that they stay ahead.
    #[inline]
    fn note_progress(&self, from: u32, to: u32) {
        if from >> MAINTENANCE_STEP_BITS != to >> MAINTENANCE_STEP_BITS {
            self.wake_tail();
        }
    }

    /// Refuses new keys when the index has reached its cap. Gives how much of the reserve they take, which is for those that may use it.
    fn check_memory<'a>(
        &self,
        log: &mut CommitLog,
        state: &StateWriter<'_, Place>,
        writes: impl IntoIterator<Item = (&'a [u8], Option<&'a [u8]>)>,
        uses_reserve: bool,
    ) -> Result<u64> {
        let Some(cap) = self.config.max_index_memory_bytes else { return Ok(0) };
        let used = self.number(ConcurrentKvState::index_bytes, |_| 0) as u64;
        if used < cap || planted("cap_ignored") {
            log.index_reserve_used_bytes = 0;
            return Ok(0);
        }
        let is_new = |(key, value): &(&[u8], Option<&[u8]>)| value.is_some() && state.version_of(key).is_none();
        let taken_bytes: u64 =
            writes.into_iter().filter(is_new).map(|(key, _)| key.len() as u64 + INDEX_ENTRY_BYTES).sum();
        let reserve = (cap / INDEX_RESERVE_SHARE).max(INDEX_RESERVE_MIN_BYTES);
        let fits_reserve = uses_reserve && log.index_reserve_used_bytes.saturating_add(taken_bytes) <= reserve;
        if taken_bytes == 0 || fits_reserve || (uses_reserve && planted("reserve_without_bound")) {
            return Ok(taken_bytes);
        }
        let detail = format!(
            "the index takes {used} bytes of the {cap} that max_index_memory_bytes allows; delete keys or raise it"
        );
        Err(Error::Full { detail })
    }
}

impl Committer for Core {
    fn note_panic(&self) {
        self.poison_by_panic("hightower-commit");
    }

    fn commit_group(&self, requests: &[Request]) -> Vec<Result<BatchOutcome>> {
        let now = self.time.now_ms();
        let guard = pin();
        let state = self.state(&guard);
        let mut log = self.commit_log();
        let mut results: Vec<_> = requests
            .iter()
            .map(|request| {
                request.batch.validate()?;
                let log = log.as_mut().map_err(|_| Error::Closed)?;
                self.commit_batch_locked(log, state.clone()?, &request.batch, now, request.durability)
            })
            .collect();
        drop(log);
        drop(guard);
        // The last one first: the sync that covers it covers the others, which then find themselves durable.
        for (request, result) in requests.iter().zip(&mut results).rev() {
            if let Ok(BatchOutcome::Committed(Committed { seq, .. })) = result
                && let Err(error) = self.make_durable(*seq, request.durability)
            {
                *result = Err(error);
            }
        }
        self.maintain_as_caller();
        results
    }
}

/// Warms the ways of a batch's keys in the index, of several at a time, so that their cache misses overlap.
fn prefetch_batch(state: &ConcurrentKvState<Place>, batch: &Batch, guard: &Guard) {
    let mut ahead = Vec::with_capacity(WARMED_TOGETHER);
    let most = batch.operations.len().min(WARMED_MAX);
    for operations in batch.operations[..most].chunks(WARMED_TOGETHER) {
        let keys = || operations.iter().map(|operation| batch.parts(operation).0);
        ahead.extend(keys().map(|key| state.prefetch_start(key, guard)));
        let further = keys().zip(ahead.drain(..)).map(|(key, ahead)| state.prefetch_step(key, ahead));
        let further: Vec<_> = further.collect();
        for (key, ahead) in keys().zip(further) {
            state.prefetch_step(key, ahead);
        }
    }
}

/// The version for a command that brings none.
fn next_version(max_version: u64) -> Result<u64> {
    let used_up = Error::Validation(
        "the store has given the last version, 2^64 - 1: its files were not made by this program".into(),
    );
    max_version.checked_add(1).ok_or(used_up)
}

fn won(value: Option<&[u8]>) -> ApplyOutcome {
    if value.is_some() { ApplyOutcome::Applied } else { ApplyOutcome::Removed }
}

fn command_of<'a>(key: &'a [u8], value: Option<&'a [u8]>, version: u64, timestamp: i64) -> CommandRef<'a> {
    match value {
        Some(value) => CommandRef::Set { key, value, version, timestamp },
        None => CommandRef::Delete { key, version, timestamp },
    }
}

/// The first requirement that does not hold.
fn first_unmet(state: &StateWriter<'_, Place>, requirements: &[Requirement]) -> Option<BatchOutcome> {
    requirements.iter().find_map(|requirement| {
        let known = state.entry(&requirement.key);
        let found = known.and_then(|known| known.found()).map(|known| known.version);
        if requirement.expect.holds(found) {
            return None;
        }
        Some(BatchOutcome::Rejected(Rejected { key: requirement.key.clone(), expected: requirement.expect, found }))
    })
}

/// Gives each command its version and outcome, and says the highest version seen.
fn plan(state: &StateWriter<'_, Place>, mut max_version: u64, batch: &Batch, now: i64) -> Result<(Vec<Planned>, u64)> {
    // Versions that the engine gives always win. Only commands with their own need a look at what the key has, and at what
    // earlier commands of the batch give it.
    let any_given = batch.operations.iter().any(|operation| operation.given.is_some());
    let mut earlier: HashMap<&[u8], u64> = HashMap::new();
    let mut plan = Vec::with_capacity(batch.operations.len());
    for operation in &batch.operations {
        let (key, value) = batch.parts(operation);
        let (version, timestamp) = match operation.given {
            Some(given) => given,
            None => (next_version(max_version)?, now),
        };
        max_version = max_version.max(version);
        let mut outcome = won(value);
        if any_given {
            let known = earlier.get(key).copied().or_else(|| state.version_of(key));
            if operation.given.is_some() && known.is_some_and(|known| known >= version) {
                outcome = ApplyOutcome::IgnoredStale;
            } else {
                earlier.insert(key, version);
            }
        }
        plan.push(Planned { version, timestamp, outcome, offset: 0, len_bytes: 0 });
    }
    Ok((plan, max_version))
}

/// Encodes all commands that won into the scratch buffer, as one commit.
fn encode_batch(log: &mut CommitLog, batch: &Batch, plan: &mut [Planned]) -> Result<()> {
    let CommitLog { appender, scratch, .. } = log;
    scratch.clear();
    let durable = appender.durable();
    let last = plan.iter().rposition(|planned| planned.outcome != ApplyOutcome::IgnoredStale);
    for (at, (operation, planned)) in batch.operations.iter().zip(plan.iter_mut()).enumerate() {
        if planned.outcome == ApplyOutcome::IgnoredStale {
            continue;
        }
        let (key, value) = batch.parts(operation);
        let start = scratch.len();
        // The appender has room for all of it, so its offsets fit.
        planned.offset = appender.position().saturating_add(u32::try_from(start).unwrap_or(u32::MAX));
        let placement = Placement::Appended { durable, continues: Some(at) != last };
        let command = command_of(key, value, planned.version, planned.timestamp);
        let head = encode_head(appender.context(), planned.offset, &command, placement, checksum_of(operation));
        scratch.extend_from_slice(head.map_err(refused)?.as_ref());
        scratch.extend_from_slice(key);
        scratch.extend_from_slice(value.unwrap_or_default());
        planned.len_bytes = u32::try_from(scratch.len() - start).unwrap_or(u32::MAX);
    }
    Ok(())
}

fn checksum_of(operation: &Operation) -> u64 {
    operation.payload_checksum
}

/// The codec refused what the limits had let pass.
fn refused(error: hightower_log::EncodeError) -> Error {
    Error::Internal(error.to_string().into())
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
        let scratch_bytes = || engine.core.commit.lock().as_ref().unwrap().scratch.capacity();
        assert!(engine.commit(Batch::new().put("a", "b").put("c", "d")).unwrap().is_committed());
        assert!((1..=SCRATCH_KEPT_BYTES).contains(&scratch_bytes()), "that of a short one is kept");
        let mut large = Batch::new();
        large.put("a", vec![7; 2 * SCRATCH_KEPT_BYTES]).put("c", "d");
        assert!(engine.commit(&large).unwrap().is_committed());
        assert!(scratch_bytes() <= SCRATCH_KEPT_BYTES, "{}", scratch_bytes());
        assert_eq!(engine.get("a").unwrap().unwrap().len(), 2 * SCRATCH_KEPT_BYTES);
    }
}
