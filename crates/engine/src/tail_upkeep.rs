//! The background work at the tail of the log: touching pages ahead, preparing the next segment,
//! sealing rotated segments, and releasing unused room while nothing is written.
//!
//! Each of the first three has its own thread: a fast writer can reach the next pages while a file
//! is still being created, and sealing waits for the device.

use std::sync::Arc;

use hightower_seams::Clock;
use hightower_segment::{SegmentError, SegmentStore, Stamp};

use crate::commit_log::CommitLock;
use crate::components::{Background, Components};
use crate::config::StoreConfig;
use crate::error::{Error, Result};
use crate::open_store::OpenStore;
use crate::pace::Pace;
use crate::quota::DiskQuota;
use crate::read_path::ReadPath;
use crate::sizing::Sizing;
use crate::time::StoreTime;
use crate::worker_signal::WorkerSignal;

/// Prepares the tail of the log for the next commits.
#[derive(Debug)]
pub(crate) struct TailUpkeep {
    touching: WorkerSignal,
    preparing: WorkerSignal,
    sealing: WorkerSignal,
    sizing: Sizing,
    background: Background,
    clock: Arc<dyn Clock>,
    config: Arc<StoreConfig>,
    time: Arc<StoreTime>,
    read: Arc<ReadPath>,
    log: Arc<CommitLock>,
    store: Arc<OpenStore>,
    quota: Arc<DiskQuota>,
}

/// The parts of a store that [`TailUpkeep`] works with.
#[derive(Debug)]
pub(crate) struct TailParts<'a> {
    pub(crate) config: &'a Arc<StoreConfig>,
    pub(crate) time: &'a Arc<StoreTime>,
    pub(crate) read: &'a Arc<ReadPath>,
    pub(crate) log: &'a Arc<CommitLock>,
    pub(crate) store: &'a Arc<OpenStore>,
    pub(crate) quota: &'a Arc<DiskQuota>,
}

impl TailUpkeep {
    pub(crate) fn new(components: &Components, parts: &TailParts<'_>) -> Self {
        Self {
            touching: WorkerSignal::default(),
            preparing: WorkerSignal::default(),
            sealing: WorkerSignal::default(),
            sizing: Sizing::default(),
            background: components.background,
            clock: Arc::clone(&components.clock),
            config: Arc::clone(parts.config),
            time: Arc::clone(parts.time),
            read: Arc::clone(parts.read),
            log: Arc::clone(parts.log),
            store: Arc::clone(parts.store),
            quota: Arc::clone(parts.quota),
        }
    }

    /// Signals that the tail has advanced.
    pub(crate) fn wake(&self) {
        self.touching.wake();
        self.preparing.wake();
    }

    /// Signals that the log has rotated, so a segment has to be sealed.
    pub(crate) fn note_rotation(&self) {
        self.wake();
        self.sealing.wake();
    }

    /// The thread that prepares segments; runs until [`close`](Self::close).
    pub(crate) fn run_preparing(&self) {
        self.preparing.run(|| self.prepare_files(), || self.give_back());
    }

    /// The thread that touches pages; runs until [`close`](Self::close).
    pub(crate) fn run_touching(&self) {
        let mut pace = Pace::default();
        self.touching.run(|| self.touch_ahead(&mut pace), || {});
    }

    /// The thread that seals segments; runs until [`close`](Self::close).
    pub(crate) fn run_sealing(&self) {
        self.sealing.run(|| self.seal(), || {});
    }

    /// Ends the threads.
    pub(crate) fn close(&self) {
        self.preparing.close();
        self.touching.close();
        self.sealing.close();
    }

    /// Does the threads' work on the caller's thread, in a store without threads.
    #[inline]
    pub(crate) fn work_as_caller(&self) {
        if self.background == Background::Caller {
            self.work_once();
        }
    }

    #[cold]
    fn work_once(&self) {
        if self.preparing.take_wish() {
            let _made = self.read.index.prepare_memory();
            let _prepared = self.prepare_files();
            let _sealed = self.seal();
        }
    }

    /// Touches pages ahead of the tail, as far as `pace` says, and prepares memory for new keys.
    /// Returns whether there was work. A failure is ignored: untouched pages only cost time later.
    fn touch_ahead(&self, pace: &mut Pace) -> bool {
        let has_memory_made = self.read.index.prepare_memory();
        let Ok(store) = self.store.in_use() else { return has_memory_made };
        let Some(tail) = store.progress() else { return has_memory_made };
        let began = self.clock.elapsed();
        let ahead = pace.look(tail, began);
        let Ok(touched_bytes) = store.prefault_ahead(ahead.len_bytes, ahead.pages) else { return has_memory_made };
        let ended = self.clock.elapsed();
        pace.took(ahead, touched_bytes, ended.saturating_sub(began), ended);
        has_memory_made || touched_bytes > 0
    }

    /// Prepares the next files of the tail. Returns whether there was work.
    fn prepare_files(&self) -> bool {
        self.work(|store| {
            self.plan_segments(store);
            if !store.wants_preparation() {
                return Ok(false);
            }
            let _growing = self.quota.growing();
            if !self.quota.allows(|| store.room_to_prepare())? {
                return Ok(false);
            }
            store.prepare_next(self.stamp())
        })
    }

    /// Syncs and seals rotated segments. Returns whether there were any.
    fn seal(&self) -> bool {
        self.work(|store| Ok(store.has_predecessors() && store.sync_predecessors()? > 0))
    }

    fn work(&self, work: impl FnOnce(&SegmentStore) -> Result<bool, SegmentError>) -> bool {
        let Ok(store) = self.store.in_use() else { return false };
        match work(&store) {
            Ok(worked) => worked,
            // The commit that needs the room gets the error.
            Err(SegmentError::Full { .. }) => false,
            // A file could not be created or removed. The commit that needs it creates it, or
            // fails.
            Err(SegmentError::Io { .. } | SegmentError::OutOfMaps { .. }) if !store.is_poisoned() => false,
            Err(failure) => {
                self.store.poison().latch(&failure);
                false
            }
        }
    }

    /// The base version and time of a segment that begins now.
    fn stamp(&self) -> Stamp {
        self.time.stamp(self.read.index.max_version())
    }

    /// Measures the rate of the log's growth, and sets the length of the next files.
    fn plan_segments(&self, store: &SegmentStore) {
        let now = self.clock.elapsed();
        let Some(end) = store.end() else { return };
        if let Some(len_bytes) = self.sizing.plan(now, end, &self.config, &self.read.segments) {
            store.set_next_len(len_bytes);
        }
    }

    /// The length of a segment while nothing is written.
    fn idle_len(&self) -> u32 {
        self.config.idle_segment_len(self.read.segments.live_bytes())
    }

    /// Releases room that was prepared for a higher rate of writes. Called while nothing is
    /// written.
    fn give_back(&self) {
        match self.try_give_back() {
            // Other calls report a full device; a closed store has already released the room.
            Ok(()) | Err(Error::Full { .. } | Error::Closed | Error::ReadOnly | Error::Poisoned { .. }) => {}
            // The next call tries again to remove the file, which is harmless until then.
            Err(Error::Io { .. }) if self.store.is_log_sound() => {}
            Err(failure) => drop(self.store.poison().latch(&failure)),
        }
    }

    fn try_give_back(&self) -> Result<()> {
        let store = self.store.in_use()?;
        self.sizing.note_idle();
        let wanted = self.idle_len();
        store.set_next_len(wanted);
        {
            // A rotation must not rely on the files that this removes.
            let _growing = self.quota.growing();
            store.trim()?;
        }
        let mut log = self.log.lock()?;
        if log.appender.remaining_bytes() / 2 > wanted {
            let given_back: Result<(), SegmentError> = log.appender.give_back(wanted);
            given_back?;
        }
        Ok(())
    }

    /// Releases room unless the rate of writes is high.
    pub(crate) fn give_back_unless_busy(&self) {
        let Ok(store) = self.store.in_use() else { return };
        self.plan_segments(&store);
        if store.next_len() <= self.idle_len() {
            self.give_back();
        }
    }
}
