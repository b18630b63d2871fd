//! What the tail of the log needs beside the commits: pages touched ahead, the next segment
//! prepared, rotated segments sealed, and unused room given back when nothing is written.
//!
//! Each of the first three has a thread. A fast writer reaches the next pages while a file is still
//! being made, and sealing waits for the device.

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

/// Keeps the tail of the log ready for the next commits.
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

    /// The tail has moved on.
    pub(crate) fn wake(&self) {
        self.touching.wake();
        self.preparing.wake();
    }

    /// The log has rotated: there is a segment to seal.
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

    /// Does the work of the threads in a store that has none.
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

    /// Touches pages ahead of a tail that moves at this pace, and prepares memory for new keys;
    /// says whether there was anything to do. Pages that cannot be touched cost time later, and
    /// nothing else.
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

    /// Prepares the files that the tail will need next; says whether there was anything to do.
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

    /// Syncs and seals the segments that were rotated; says whether there were any.
    fn seal(&self) -> bool {
        self.work(|store| Ok(store.has_predecessors() && store.sync_predecessors()? > 0))
    }

    fn work(&self, work: impl FnOnce(&SegmentStore) -> Result<bool, SegmentError>) -> bool {
        let Ok(store) = self.store.in_use() else { return false };
        match work(&store) {
            Ok(worked) => worked,
            // The statistics show a full device, and the commit that needs the room meets it again.
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

    /// What a segment that begins now counts from.
    fn stamp(&self) -> Stamp {
        self.time.stamp(self.read.index.max_version())
    }

    /// Measures how fast the log grows, and sets the length of the next files.
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

    /// Gives back room that was prepared for more than is written now. For when nothing is.
    fn give_back(&self) {
        match self.try_give_back() {
            // A full device shows elsewhere; a store that was closed meanwhile has given everything
            // back.
            Ok(()) | Err(Error::Full { .. } | Error::Closed | Error::ReadOnly | Error::Poisoned { .. }) => {}
            // The next time tries again to remove the file, which does no harm until then.
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
            // A rotation may count on the files that this removes.
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

    /// Gives back room if hardly anything is written at the moment.
    pub(crate) fn give_back_unless_busy(&self) {
        let Ok(store) = self.store.in_use() else { return };
        self.plan_segments(&store);
        if store.next_len() <= self.idle_len() {
            self.give_back();
        }
    }
}
