//! The state that the appender, the sync handle, background threads and the compactor share:
//! options, manifest, and the segments at the tail of the log.
//!
//! Lock order: `preparing` (creates files ahead of use), `sync_turn` (one sync at a time),
//! `manifest` (held while the file is replaced), `tail` (held for a few instructions, never across
//! I/O). An append takes none of them; a roll with a prepared successor takes `tail` alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hightower_log::{MAX_HEAD_LEN_BYTES, SegmentHeader};
use hightower_seams::lock_order::Rank;

use crate::error::SegmentError;
use crate::fs::{Dir, File, Lock, remove_if_there, retry_interrupted, write_all_at};
use crate::lock::{RankedMutex, step};
use crate::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::{Form, ManifestFile};
use crate::map_reserve::MapReserve;
use crate::mapping::ForkGuard;
use crate::mutants::planted;
use crate::names::{FIRST_FREE_SPARE, MANIFEST, MANIFEST_TMP};
use crate::options::StoreOptions;
use crate::poison::FailureLatch;
use crate::reserves::Reserves;
use crate::segment::Segment;
use crate::spares::Prepared;
use crate::tail::AppendMode;

/// No record is shorter than this: a head with the narrowest numbers, and one byte of key.
const SHORTEST_COMMIT_BYTES: u64 = 16;
/// Room for the record that ends a segment.
#[allow(clippy::cast_possible_truncation, reason = "34")]
pub(crate) const SEAL_LEN_BYTES: u32 = MAX_HEAD_LEN_BYTES as u32;
/// Bytes of a segment besides its commits.
#[allow(clippy::cast_possible_truncation, reason = "98")]
pub(crate) const OVERHEAD_BYTES: u32 = SegmentHeader::LEN as u32 + SEAL_LEN_BYTES;

#[derive(Debug)]
pub(crate) struct Shared {
    /// Open as long as the store is: the names of its files are relative to it.
    pub(crate) dir: Arc<dyn Dir>,
    pub(crate) options: StoreOptions,
    /// [`AppendMode::Mapped`] or [`AppendMode::Positioned`].
    pub(crate) mode: AppendMode,
    pub(crate) preparing: RankedMutex<()>,
    pub(crate) sync_turn: RankedMutex<()>,
    pub(crate) manifest: RankedMutex<ManifestFile>,
    pub(crate) tail: RankedMutex<TailState>,
    pub(crate) poison: FailureLatch,
    /// The next free segment id; the manifest's follows it.
    pub(crate) next_id: AtomicU32,
    /// The next number of a spare file. Each open removes left-over spares and restarts the
    /// numbers.
    pub(crate) next_spare: AtomicU32,
    /// The last attempt to make a file found the device full.
    pub(crate) full: AtomicBool,
    /// Memory maps kept for compaction, in case the process reaches its limit.
    pub(crate) maps: MapReserve,
    /// The length of files that are created ahead of their use, in bytes.
    pub(crate) next_len: AtomicU32,
    /// The length of the longest segment in bytes, not counting segments for one long commit.
    pub(crate) longest_len: AtomicU32,
    /// Files kept for deletes and compaction, which free room.
    pub(crate) reserves: Reserves,
    _lock: Box<dyn Lock>,
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

impl Shared {
    pub(crate) fn new(
        dir: Arc<dyn Dir>,
        options: StoreOptions,
        manifest: Manifest,
        lock: Box<dyn Lock>,
    ) -> Result<Self, SegmentError> {
        let mode = match options.appends {
            AppendMode::Auto => {
                let promise = dir.preallocation_is_promise();
                let promise =
                    promise.map_err(|error| SegmentError::io("look up the file system of", dir.path(), error))?;
                if promise { AppendMode::Mapped } else { AppendMode::Positioned }
            }
            forced => forced,
        };
        let sealed_len = |entry: &SegmentEntry| match entry.state {
            SegmentState::Sealed { len_bytes, .. } => len_bytes.min(options.segment_len_bytes),
            SegmentState::Open => 0,
        };
        let longest_len = manifest.segments.iter().map(sealed_len).max().unwrap_or(0);
        let guard = ForkGuard::new().map_err(|error| SegmentError::io("watch for forks of", dir.path(), error))?;
        Ok(Self {
            next_len: AtomicU32::new(options.segment_len_bytes),
            longest_len: AtomicU32::new(longest_len),
            options,
            mode,
            preparing: RankedMutex::new(Rank::Preparing, ()),
            sync_turn: RankedMutex::new(Rank::Syncing, ()),
            next_id: AtomicU32::new(manifest.next_segment_id),
            manifest: RankedMutex::new(Rank::Manifest, ManifestFile::new(manifest)),
            tail: RankedMutex::new(Rank::Tail, TailState::default()),
            poison: FailureLatch::new(guard, dir.path().to_owned()),
            next_spare: AtomicU32::new(FIRST_FREE_SPARE),
            full: AtomicBool::new(false),
            maps: MapReserve::default(),
            reserves: Reserves::default(),
            dir,
            _lock: lock,
        })
    }

    /// The path of a file of the store, for messages.
    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An id that no segment has had.
    pub(crate) fn take_id(&self) -> Result<u32, SegmentError> {
        let taken = self.next_id.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |id| id.checked_add(1));
        taken.map_err(|_| SegmentError::Invalid { what: "the store has used up all segment ids".to_owned() })
    }

    pub(crate) fn random(&self) -> Result<u64, SegmentError> {
        let number = self.options.entropy.next_u64();
        number.map_err(|error| SegmentError::io("draw a random number for", self.dir.path(), error))
    }

    /// Makes the file names in the store's directory durable.
    pub(crate) fn sync_dir(&self) -> Result<(), SegmentError> {
        let synced = retry_interrupted(|| self.dir.sync());
        synced.map_err(|error| SegmentError::io("sync", self.dir.path(), error))
    }

    /// Syncs all commits appended before the call: rolled segments first, then the active one.
    pub(crate) fn sync(&self) -> Result<(), SegmentError> {
        // Also before the lock: in a forked child the thread that holds it may not exist.
        self.poison.check()?;
        let _turn = self.sync_turn.lock();
        self.poison.check()?;
        // Both under one lock: no roll comes in between, so each earlier append is in one of the
        // two.
        let (active, unsynced) = {
            let tail = self.tail.lock();
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
            let mut tail = self.tail.lock();
            if let Some(rolled) = tail.rolled.iter_mut().find(|rolled| rolled.segment.id() == segment.id()) {
                rolled.synced = true;
            }
            // The active segment may count on its predecessors only once all of them are durable.
            if tail.rolled.iter().all(|rolled| rolled.synced)
                && let Some(active) = &tail.active
            {
                active.raise_durable(crate::segment::FIRST_RECORD_AT);
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
                synced.map_err(|error| self.poison.latch_sync(error))?;
            }
        }
        step();
        segment.raise_durable(end);
        Ok(())
    }

    /// Syncs rolled segments and seals them in the manifest. Returns the number of segments sealed.
    pub(crate) fn seal_rolled(&self) -> Result<usize, SegmentError> {
        self.poison.check()?;
        {
            let _turn = self.sync_turn.lock();
            self.poison.check()?;
            let unsynced = self.tail.lock().unsynced();
            if !planted("seal_before_sync") {
                self.sync_rolled(unsynced)?;
            }
        }
        let everything = planted("seal_before_sync") || planted("skip_predecessor_sync");
        let synced: Vec<Rolled> =
            self.tail.lock().rolled.iter().filter(|rolled| rolled.synced || everything).cloned().collect();
        if synced.is_empty() {
            return Ok(0);
        }
        self.edit_manifest(Form::Shortest, |manifest| {
            let sealed = synced.iter().filter_map(|Rolled { segment, records, .. }| {
                let state = SegmentState::Sealed { len_bytes: segment.len_bytes(), records: *records };
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
        self.tail.lock().rolled.retain(|rolled| !rolled.segment.is_sealed());
        Ok(synced.len())
    }
}

impl TailState {
    fn unsynced(&self) -> Vec<Arc<Segment>> {
        self.rolled.iter().filter(|rolled| !rolled.synced).map(|rolled| Arc::clone(&rolled.segment)).collect()
    }
}

/// The largest number of seqs that a segment of this size can hand out.
pub(crate) fn seq_span(capacity_bytes: u32) -> u64 {
    u64::from(capacity_bytes) / SHORTEST_COMMIT_BYTES + 1
}

/// Why a manifest was not replaced.
#[derive(Debug)]
pub(crate) enum NotReplaced {
    /// The old one is in place.
    Unchanged(SegmentError),
    /// Either one may be in place.
    Unknown(SegmentError),
}

impl From<NotReplaced> for SegmentError {
    fn from(failure: NotReplaced) -> Self {
        match failure {
            NotReplaced::Unchanged(error) | NotReplaced::Unknown(error) => error,
        }
    }
}

/// Replaces the manifest, so that a crash leaves either the old or the new one. Returns the new
/// file and its bytes.
pub(crate) fn replace_manifest(dir: &dyn Dir, manifest: &Manifest) -> Result<(Arc<dyn File>, Vec<u8>), NotReplaced> {
    let bytes = manifest.encode();
    // An earlier attempt may have left one.
    remove_if_there(dir, MANIFEST_TMP).map_err(NotReplaced::Unchanged)?;
    let tmp = dir.path().join(MANIFEST_TMP);
    let file = dir
        .create_new(MANIFEST_TMP)
        .map_err(|error| NotReplaced::Unchanged(SegmentError::io_or_full("create", &tmp, bytes.len() as u64, error)))?;
    if let Err(error) = write_manifest(dir, file.as_ref(), &bytes) {
        let is_unchanged = error.is_full() || error.changes_nothing() || error.is_refused_rename();
        if !is_unchanged {
            return Err(NotReplaced::Unknown(error));
        }
        // The old one is in place. If this removal fails, the next attempt or the next open removes
        // the file.
        let _removed = remove_if_there(dir, MANIFEST_TMP);
        return Err(NotReplaced::Unchanged(error));
    }
    if !planted("manifest_dir_not_synced") {
        let synced = retry_interrupted(|| dir.sync());
        synced.map_err(|error| NotReplaced::Unknown(SegmentError::io("sync", dir.path(), error)))?;
    }
    Ok((file, bytes))
}

fn write_manifest(dir: &dyn Dir, file: &dyn File, bytes: &[u8]) -> Result<(), SegmentError> {
    let failed = |operation, error| {
        SegmentError::io_or_full(operation, &dir.path().join(MANIFEST_TMP), bytes.len() as u64, error)
    };
    write_all_at(file, bytes, 0).map_err(|(_, error)| failed("write", error))?;
    if !planted("manifest_not_synced") {
        retry_interrupted(|| file.sync_data()).map_err(|error| failed("sync", error))?;
    }
    dir.rename(MANIFEST_TMP, MANIFEST).map_err(|error| failed("rename", error))
}
