//! The segments at the tail of the log, and their syncs.
//!
//! A *prepared* segment is a file with a durable header that the manifest names: from then on
//! commits may go into it.

use std::sync::Arc;

use hightower_seams::lock_order::Rank;

use crate::error::SegmentError;
use crate::layout::FIRST_RECORD_AT;
use crate::lock::{RankedGuard, RankedMutex, step};
use crate::manifest::{SegmentEntry, SegmentState};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::{Form, ManifestFile};
use crate::mapping::MappingWriter;
use crate::mutants::planted;
use crate::options::AppendMode;
use crate::segment::Segment;
use crate::store_dir::StoreDir;

/// The end of the log.
#[derive(Debug)]
pub(crate) struct LogTail {
    store: Arc<StoreDir>,
    manifest: Arc<ManifestFile>,
    mode: AppendMode,
    sync_turn: RankedMutex<()>,
    state: RankedMutex<TailState>,
}

/// A segment that is durable, named in the manifest, and empty.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) segment: Arc<Segment>,
    pub(crate) writer: MappingWriter,
}

impl Prepared {
    pub(crate) fn fits(&self, len_bytes: u32) -> bool {
        self.segment.capacity_bytes() >= len_bytes
    }
}

/// The segments at the tail of the log, oldest first: rolled ones, the active one, the prepared
/// one.
#[derive(Debug, Default)]
pub(crate) struct TailState {
    /// Rolled segments that the manifest does not show as sealed yet.
    pub(crate) rolled: Vec<Rolled>,
    /// `None` only before recovery has finished and after close.
    pub(crate) active: Option<Arc<Segment>>,
    pub(crate) prepared: Option<Prepared>,
    /// A roll has taken the successor and is not finished: no other is prepared meanwhile, so that
    /// a roll that fails can give its successor back.
    pub(crate) is_rolling: bool,
}

/// A segment that takes no more commits.
#[derive(Clone, Debug)]
pub(crate) struct Rolled {
    pub(crate) segment: Arc<Segment>,
    pub(crate) records: u64,
    pub(crate) max_version: u64,
    pub(crate) synced: bool,
}

impl LogTail {
    pub(crate) fn new(store: Arc<StoreDir>, manifest: Arc<ManifestFile>, mode: AppendMode) -> Self {
        Self {
            store,
            manifest,
            mode,
            sync_turn: RankedMutex::new(Rank::Syncing, ()),
            state: RankedMutex::new(Rank::Tail, TailState::default()),
        }
    }

    /// Its segments. The lock is held for a few instructions, never across I/O.
    pub(crate) fn lock(&self) -> RankedGuard<'_, TailState> {
        self.state.lock()
    }

    /// Syncs all commits appended before the call: rolled segments first, then the active one.
    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        // Also before the lock: in a forked child the thread that holds it may not exist.
        self.store.poison.check()?;
        let _turn = self.sync_turn.lock();
        self.store.poison.check()?;
        // Both under one lock: no roll comes in between, so each earlier append is in one of the
        // two.
        let (active, unsynced) = {
            let tail = self.state.lock();
            (tail.active.clone(), tail.unsynced())
        };
        self.sync_rolled(unsynced)?;
        let Some(active) = active else { return Ok(()) };
        let end = active.len_bytes();
        if end > active.durable() {
            self.sync_segment(&active, end)?;
        }
        Ok(())
    }

    /// Syncs the rolled segments. The caller holds `sync_turn`.
    fn sync_rolled(&self, unsynced: Vec<Arc<Segment>>) -> Result<(), SegmentError> {
        if planted("skip_predecessor_sync") {
            return Ok(());
        }
        for segment in unsynced {
            self.sync_segment(&segment, segment.len_bytes())?;
            let mut tail = self.state.lock();
            if let Some(rolled) = tail.rolled.iter_mut().find(|rolled| rolled.segment.id() == segment.id()) {
                rolled.synced = true;
            }
            // The active segment may count on its predecessors only once all of them are durable.
            if tail.rolled.iter().all(|rolled| rolled.synced)
                && let Some(active) = &tail.active
            {
                active.raise_durable(FIRST_RECORD_AT);
            }
        }
        Ok(())
    }

    fn sync_segment(&self, segment: &Segment, end: u32) -> Result<(), SegmentError> {
        if !planted("ack_before_sync") {
            step();
            let synced = segment.sync_to(end, self.mode == AppendMode::Mapped);
            if planted("no_poison_on_failed_sync") {
                synced?;
            } else {
                synced.map_err(|error| self.store.poison.latch_sync(error))?;
            }
        }
        step();
        segment.raise_durable(end);
        Ok(())
    }

    /// Syncs rolled segments and seals them in the manifest. Returns the number of segments sealed.
    pub(crate) fn seal_rolled(&self) -> Result<usize, SegmentError> {
        self.store.poison.check()?;
        {
            let _turn = self.sync_turn.lock();
            self.store.poison.check()?;
            let unsynced = self.state.lock().unsynced();
            if !planted("seal_before_sync") {
                self.sync_rolled(unsynced)?;
            }
        }
        let everything = planted("seal_before_sync") || planted("skip_predecessor_sync");
        let synced: Vec<Rolled> =
            self.state.lock().rolled.iter().filter(|rolled| rolled.synced || everything).cloned().collect();
        if synced.is_empty() {
            return Ok(0);
        }
        self.manifest.edit(Form::Shortest, |manifest| {
            let sealed = synced.iter().filter_map(|Rolled { segment, records, .. }| {
                let commits = segment.commits().unwrap_or_default();
                let state = SegmentState::Sealed { len_bytes: segment.len_bytes(), records: *records, commits };
                manifest.segment(segment.id()).map(|entry| SegmentEntry { state, ..*entry })
            });
            let max_version = synced.iter().map(|rolled| rolled.max_version).max().unwrap_or(0);
            ManifestEdit { max_version, put: sealed.collect(), ..ManifestEdit::default() }
        })?;
        for rolled in &synced {
            rolled.segment.mark_sealed();
            rolled.segment.release_unused()?;
            if !planted("sealed_files_stay_open") {
                rolled.segment.close_file();
            }
        }
        self.state.lock().rolled.retain(|rolled| !rolled.segment.is_sealed());
        Ok(synced.len())
    }
}

impl TailState {
    fn unsynced(&self) -> Vec<Arc<Segment>> {
        self.rolled.iter().filter(|rolled| !rolled.synced).map(|rolled| Arc::clone(&rolled.segment)).collect()
    }

    /// The successor is wanted as soon as there is none. If the store waited until the active
    /// segment is nearly full, the device might be full by then, and deletes and compaction, which
    /// free room, would have none to begin with.
    pub(crate) fn wants_successor(&self) -> bool {
        let is_rolling = self.is_rolling && !planted("prepares_during_a_roll");
        self.active.is_some() && self.prepared.is_none() && !is_rolling
    }
}
