//! The open store: what all of its handles, snapshots and threads share.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hightower_index::pin;
use hightower_seams::lock_order::{self, HeldRank, Rank};
use hightower_segment::{ForkGuard, Lock, SegmentError, SegmentStore, Stamp};
use hightower_state::ConcurrentKvState;

use crate::commit::CommitLog;
use crate::compaction::Upkeep;
use crate::components::{Background, Components};
use crate::config::{Durability, StoreConfig};
use crate::engine::Life;
use crate::error::{Error, Result};
use crate::files::io_error;
use crate::flusher::Flusher;
use crate::group_commit::{GroupCommit, Poison};
use crate::guarded::Panics;
use crate::maintenance::Maintenance;
use crate::mutants::planted;
use crate::observe::{Operation, observe};
use crate::open_index::OpenIndex;
use crate::open_store::OpenStore;
use crate::pace::Pace;
use crate::pipeline::Pipeline;
use crate::place::Place;
use crate::sizing::Sizing;
use crate::sync::{MappedMutexGuard, Mutex, MutexGuard};
use crate::table::Segments;
use crate::time::StoreTime;

/// The parts of an open store. [`Rank`] has the order of its locks; readers take none.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: StoreConfig,
    pub(crate) components: Components,
    pub(crate) time: StoreTime,
    pub(crate) index: OpenIndex,
    pub(crate) segments: Segments,
    /// `None` in a store that is read-only or closed.
    pub(crate) commit: Mutex<Option<CommitLog>>,
    /// Holds the store's lock. Empty as above, so that a snapshot that outlives the engine does not
    /// keep the store locked.
    pub(crate) store: OpenStore,
    pub(crate) group: GroupCommit,
    pub(crate) poison: Poison,
    pub(crate) flusher: Flusher,
    /// Makes the files ready that the tail will need.
    pub(crate) maintenance: Maintenance,
    /// Touches the pages that the tail will need: a fast writer is upon them while a file is still
    /// being made, which waits for the device.
    pub(crate) touching: Maintenance,
    /// Syncs and seals what the tail has left behind: it waits for the device, and nobody should
    /// wait for it.
    pub(crate) sealing: Maintenance,
    /// Whether the device is to begin with what will be synced: for the same thread.
    writing_wanted: AtomicBool,
    pub(crate) upkeep: Upkeep,
    pub(crate) sizing: Sizing,
    /// Held by whoever makes files that the quota has to allow for.
    pub(crate) growing: Mutex<()>,
    /// Set when closing begins: from then on nothing new is begun.
    pub(crate) closed: AtomicBool,
    pub(crate) life: Life,
    /// Panics of what the caller brought.
    pub(crate) panics: Arc<Panics>,
    /// Tells a child that was forked from the process that opened the store, which must leave it
    /// alone.
    pub(crate) fork_guard: ForkGuard,
    /// Keeps writers away from a store that is open for reading, for as long as anybody reads:
    /// snapshots outlive the engine.
    _reading: Option<ReadingLock>,
}

/// What keeps writers away from a store that is being read. It has to be dropped last: then
/// segments that were let go of, but wait for the end of an epoch to be freed, and hold the lock
/// too, are freed first.
#[derive(Debug)]
pub(crate) struct ReadingLock(pub(crate) Arc<dyn Lock>);

impl Drop for ReadingLock {
    fn drop(&mut self) {
        // Usually two steps of the epoch free them. A thread that reads another store meanwhile holds up
        // the steps for microseconds, or for as long as the system lets it wait for a processor.
        const STEPS_MAX: u32 = 2_000;
        const QUICK_STEPS: u32 = 500;
        for step in 0..STEPS_MAX {
            if Arc::strong_count(&self.0) == 1 {
                return;
            }
            pin().flush();
            if step < QUICK_STEPS {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(100));
            }
        }
    }
}

/// The commit lock, and the log that it protects.
#[derive(Debug)]
pub(crate) struct CommitGuard<'a> {
    log: MappedMutexGuard<'a, CommitLog>,
    _held: HeldRank,
}

impl Deref for CommitGuard<'_> {
    type Target = CommitLog;

    #[inline]
    fn deref(&self) -> &CommitLog {
        &self.log
    }
}

impl DerefMut for CommitGuard<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut CommitLog {
        &mut self.log
    }
}

impl Core {
    pub(crate) fn new(
        config: StoreConfig,
        components: Components,
        time: StoreTime,
        state: ConcurrentKvState<Place>,
        segments: Segments,
        open: Option<(SegmentStore, CommitLog)>,
    ) -> Result<Self> {
        let fork_guard = ForkGuard::new().map_err(|source| io_error("watch for forks of", &config.data_dir, source))?;
        let (store, log) = open.unzip();
        let upkeep = Upkeep::default();
        upkeep.set_opened_ms(time.now_ms());
        Ok(Self {
            config,
            components,
            time,
            group: GroupCommit::starting_at(state.visible_seq()),
            index: OpenIndex::new(state, fork_guard),
            segments,
            commit: Mutex::new(log),
            store: OpenStore::new(store, fork_guard),
            poison: Poison::default(),
            flusher: Flusher::default(),
            maintenance: Maintenance::default(),
            touching: Maintenance::default(),
            sealing: Maintenance::default(),
            writing_wanted: AtomicBool::new(false),
            upkeep,
            sizing: Sizing::default(),
            growing: Mutex::default(),
            closed: AtomicBool::new(false),
            life: Life::default(),
            panics: Arc::default(),
            fork_guard,
            _reading: None,
        })
    }

    /// The same, which shows these panics.
    pub(crate) fn showing(self, panics: Arc<Panics>) -> Self {
        Self { panics, ..self }
    }

    /// A store that is open for reading, with the lock of readers.
    pub(crate) fn reading(self, lock: Option<ReadingLock>) -> Self {
        Self { _reading: lock, ..self }
    }

    /// The commit lock, unless the store is read-only or closed.
    #[inline]
    pub(crate) fn commit_log(&self) -> Result<CommitGuard<'_>> {
        let held = lock_order::take(Rank::Commit);
        let log = MutexGuard::try_map(self.commit.lock(), Option::as_mut)
            .map_err(|_| if self.config.read_only { Error::ReadOnly } else { Error::Closed })?;
        Ok(CommitGuard { log, _held: held })
    }

    /// Refuses writes to a store that is closed, read-only, or has failed before.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.config.read_only {
            return Err(Error::ReadOnly);
        }
        self.check_open()?;
        self.poison.check()
    }

    /// Refuses anything in a child of the process that opened the store: its locks may be held by
    /// threads that are not there, and its files are the parent's.
    #[inline]
    pub(crate) fn check_not_forked(&self) -> Result<()> {
        if self.fork_guard.is_forked() { Err(Error::Forked) } else { Ok(()) }
    }

    /// The queue in front of the commit, if the store has one.
    #[inline]
    pub(crate) fn pipeline(&self) -> Result<Option<&Pipeline>> {
        self.check_not_forked()?;
        Ok(self.life.pipeline())
    }

    /// Refuses anything once the store is closed.
    pub(crate) fn check_open(&self) -> Result<()> {
        self.check_not_forked()?;
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { Ok(()) }
    }

    /// Sees to it that commit `seq` gets the durability that was asked for: waits for it, or leaves
    /// it to the background.
    #[inline]
    pub(crate) fn make_durable(&self, seq: u64, durability: Durability) -> Result<()> {
        match durability {
            Durability::Os => Ok(()),
            Durability::Interval(_) if self.components.background == Background::Caller => self.sync_to(seq),
            Durability::Interval(interval) => {
                if !planted("interval_forgotten") {
                    self.flusher.request(interval);
                }
                Ok(())
            }
            Durability::Sync => self.sync_to(seq),
        }
    }

    /// Waits until commit `seq` is durable.
    pub(crate) fn sync_to(&self, seq: u64) -> Result<()> {
        self.group.wait(
            seq,
            &self.poison,
            || self.components.clock.elapsed(),
            || self.index.visible_seq(),
            || observe(Operation::Sync, || self.store.in_use()?.sync_point().sync().map_err(Error::from)),
        )
    }

    /// A commit that could not be appended: if the store may have been touched, it takes no more
    /// writes.
    #[cold]
    pub(crate) fn append_failed(&self, failure: SegmentError) -> Error {
        match failure {
            SegmentError::Full { .. } | SegmentError::TooLarge { .. } | SegmentError::DoesNotFit { .. } => {
                failure.into()
            }
            // A file could not be made, for want of descriptors or memory; nothing of the log was touched.
            SegmentError::Io { .. } | SegmentError::OutOfMaps { .. } if self.is_log_sound() => failure.into(),
            other => self.poison.latch(&other),
        }
    }

    /// Refuses writes from now on, since a thread of the store's has panicked.
    #[cold]
    pub(crate) fn poison_by_panic(&self, name: &str) {
        let message = self.panics.last().unwrap_or_default();
        let _told = self.poison.latch(&std::io::Error::other(format!("the thread {name} ended by a bug: {message}")));
    }

    /// Whether nothing has failed so far that leaves it open what the files hold.
    pub(crate) fn is_log_sound(&self) -> bool {
        self.store.in_use().is_ok_and(|store| !store.is_poisoned())
    }

    /// Touches pages ahead of a tail that moves at this pace, and has memory for new keys ready;
    /// says whether there was anything to do. That pages cannot be touched costs time later,
    /// and nothing else.
    pub(crate) fn touch_ahead(&self, pace: &mut Pace) -> bool {
        let has_memory_made = self.index.prepare_memory();
        let Ok(store) = self.store.in_use() else { return has_memory_made };
        let Some(tail) = store.progress() else { return has_memory_made };
        let began = self.components.clock.elapsed();
        let ahead = pace.look(tail, began);
        let Ok(touched_bytes) = store.prefault_ahead(ahead.len_bytes, ahead.pages) else { return has_memory_made };
        let ended = self.components.clock.elapsed();
        pace.took(ahead, touched_bytes, ended.saturating_sub(began), ended);
        has_memory_made || touched_bytes > 0
    }

    /// Makes the files ready that the tail will need next; says whether there was anything to do.
    pub(crate) fn prepare_files(&self) -> bool {
        self.work_on_tail(|store| {
            self.plan_segments(store);
            if !store.wants_preparation() {
                return Ok(false);
            }
            let _growing = self.growing();
            if self.config.max_disk_bytes.is_some() && !self.has_disk_for(store.room_to_prepare()?) {
                return Ok(false);
            }
            store.prepare_next(self.stamp())
        })
    }

    /// What a segment that is begun now counts from.
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp_of(self.index.max_version())
    }

    /// The same, where the highest version is known: the only place where a stamp is made, so that
    /// no caller's number gets into one.
    pub(crate) fn stamp_of(&self, max_version: u64) -> Stamp {
        Stamp { max_version, timestamp: self.time.stamp_ms() }
    }

    /// The tail has moved on.
    pub(crate) fn wake_tail(&self) {
        self.touching.wake();
        self.maintenance.wake();
    }

    /// Has the device begin with what was appended, while its commit is applied: what a sync would
    /// do first. By another thread, since it may wait for the device, and others wait for the
    /// committing one.
    pub(crate) fn start_writing(&self) {
        if self.components.background == Background::Threads {
            self.writing_wanted.store(true, Ordering::Release);
            self.sealing.wake();
        }
    }

    /// Syncs and seals the segments that were rolled; says whether there were any.
    pub(crate) fn seal(&self) -> bool {
        if self.writing_wanted.swap(false, Ordering::Acquire)
            && let Ok(store) = self.store.in_use()
        {
            store.start_writing();
        }
        self.work_on_tail(|store| Ok(store.has_predecessors() && store.sync_predecessors()? > 0))
    }

    fn work_on_tail(&self, work: impl FnOnce(&SegmentStore) -> Result<bool, SegmentError>) -> bool {
        let Ok(store) = self.store.in_use() else { return false };
        match work(&store) {
            Ok(worked) => worked,
            // A full device is seen in the statistics, and met again by the commit that needs the room.
            Err(SegmentError::Full { .. }) => false,
            // A file could not be made or removed. If it is needed, the commit that needs it makes it, or is told.
            Err(SegmentError::Io { .. } | SegmentError::OutOfMaps { .. }) if !store.is_poisoned() => false,
            Err(failure) => {
                self.poison.latch(&failure);
                false
            }
        }
    }

    /// Does what the threads would do, if the store has none.
    #[inline]
    pub(crate) fn maintain_as_caller(&self) {
        if self.components.background == Background::Caller && self.maintenance.take_wish() {
            let _made = self.index.prepare_memory();
            let _prepared = self.prepare_files();
            let _sealed = self.seal();
        }
    }
}
