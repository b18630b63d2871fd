//! An open store: opening it, its handle, and the work of background threads.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::compacted::{self, CompactedSegment, CompactedWriter, Edit, Released};
use crate::error::SegmentError;
use crate::first_segment::{Recovery, recovered};
use crate::fs::{Dir, Fs, Lock, LockKind, retry_interrupted};
use crate::layout::{BLOCK_LEN_BYTES, FIRST_RECORD_AT};
use crate::manifest::{Content, Manifest};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::{Form, replace_manifest};
use crate::mapping::Pages;
use crate::mutants::planted;
use crate::options::{AppendMode, Purpose, Stamp, StoreOptions};
use crate::parts::StoreParts;
use crate::recovery::{Intent, Survey, read_manifest, refuse_unfinished, survey};
use crate::segment::Segment;
use crate::sync::SyncPoint;
use crate::table_list::NamedTables;

/// An open store: the state that the appender, readers, background threads and the compactor share.
/// Clones are cheap. The store stays locked until the last clone, the [`Appender`](crate::Appender)
/// and all [`SyncPoint`]s are dropped.
#[derive(Clone, Debug)]
pub struct SegmentStore {
    parts: Arc<StoreParts>,
}

/// The state of the tail of the log, for statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailStats {
    /// How commits are appended: [`AppendMode::Mapped`] or [`AppendMode::Positioned`].
    pub appends: AppendMode,
    /// Number of live segments in the manifest, including the prepared one.
    pub segments: usize,
    /// Number of rolled segments that are not sealed in the manifest yet.
    pub rolled: usize,
    /// Whether the active segment's successor is ready.
    pub prepared: bool,
    /// Number of existing segment reserves, at most three: for compaction, for opening and for the
    /// tail.
    pub reserves: usize,
    /// Bytes on the device that hold no records yet: the unused ends of the active and the prepared
    /// segment, and these reserves.
    pub reserved_bytes: u64,
    /// Whether the last attempt to create a file found the device full.
    pub full: bool,
    /// Whether the store refuses writes because one has failed.
    pub poisoned: bool,
}

/// The ends of the log: of its commits, and of its durable part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TailProgress {
    /// The id of the active segment.
    pub segment: u32,
    /// Its length in bytes.
    pub len_bytes: u32,
    /// The offset of the end of its durable commits; 0 if none is known to be durable.
    pub durable_bytes: u32,
    /// Number of its bytes that positioned writes appended because their commit [was
    /// long](crate::StoreOptions::long_record_bytes). They need no prefault.
    pub written_bytes: u32,
}

impl SegmentStore {
    /// Opens a store for writing, or creates one. Takes the lock, reads the manifest, and applies
    /// the recovery rules to the segments that are not sealed. It changes nothing before
    /// [`Recovery::finish`].
    ///
    /// Costs one pass over the segments that are not sealed, usually one or two.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Locked`], [`NoStore`](SegmentError::NoStore),
    /// [`MissingManifest`](SegmentError::MissingManifest),
    /// [`MissingSegment`](SegmentError::MissingSegment), [`Corrupt`](SegmentError::Corrupt),
    /// [`VersionUnsupported`](SegmentError::VersionUnsupported), [`Full`](SegmentError::Full),
    /// [`Io`](SegmentError::Io), or [`Invalid`](SegmentError::Invalid) for options outside
    /// their ranges.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use hightower_segment::{RealFs, SegmentStore, Stamp, StoreOptions};
    ///
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let stamp = Stamp { max_version: 0, timestamp: 1_700_000_000_000 };
    /// let options = StoreOptions { segment_len_bytes: 1 << 20, ..StoreOptions::default() };
    /// let (store, recovery) = SegmentStore::open(Arc::new(RealFs), dir.path(), options)?;
    /// for segment in recovery.segments() {
    ///     for entry in segment.entries() {
    ///         println!("{:?}", entry?.command);
    ///     }
    /// }
    /// let (appender, report) = recovery.finish(stamp)?;
    /// assert!(report.created);
    /// appender.close(stamp)?;
    /// # drop(store);
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(fs: Arc<dyn Fs>, dir: &Path, options: StoreOptions) -> Result<(Self, Recovery), SegmentError> {
        Self::open_as(Content::KeyValue, fs, dir, options)
    }

    /// Like [`open`](Self::open), for records with another meaning.
    pub(crate) fn open_as(
        content: Content,
        fs: Arc<dyn Fs>,
        dir: &Path,
        options: StoreOptions,
    ) -> Result<(Self, Recovery), SegmentError> {
        options.check()?;
        if options.create_if_missing {
            // A new directory takes a block.
            fs.create_dir_all(dir).map_err(|error| SegmentError::io_or_full("create", dir, BLOCK_LEN_BYTES, error))?;
        }
        let path = dir;
        let dir = open_dir(fs.as_ref(), path)?;
        let kind = if planted("writers_share") { LockKind::Shared } else { LockKind::Exclusive };
        let lock = lock(dir.as_ref(), kind)?;
        let names = list(dir.as_ref())?;
        if !options.allow_unfinished {
            refuse_unfinished(dir.as_ref(), &names)?;
        }
        let found = read_manifest(dir.as_ref(), &names)?;
        let created = found.is_none();
        let manifest = match found {
            Some(manifest) => expect_content(manifest, content, path)?,
            None if !options.create_if_missing => return Err(SegmentError::NoStore { dir: path.to_owned() }),
            None => create(fs.as_ref(), dir.as_ref(), &options, content)?,
        };
        let Survey { live, dropped, retained, lost_history, lost, mut report } =
            survey(dir.as_ref(), &names, &manifest, Intent::Write)?;
        report.created = created;
        let before: Vec<_> =
            live.iter().map(|found| manifest.segment(found.entry.id).map(|entry| entry.state)).collect();
        let parts = Arc::new(StoreParts::new(dir, &options, manifest, lock)?);
        live.iter().for_each(|found| parts.lengths.note_recovered(found.segment.len_bytes()));
        let files: Vec<_> = live.into_iter().zip(before).map(|(found, before)| recovered(found, before)).collect();
        let recovery = Recovery {
            parts: Arc::clone(&parts),
            segments: files.iter().map(|(segment, _)| Arc::clone(segment)).collect(),
            files,
            dropped: dropped.into_iter().map(|entry| entry.id).collect(),
            retained: retained.into_iter().map(Arc::new).collect(),
            lost_history,
            lost,
            report,
        };
        Ok((Self { parts }, recovery))
    }

    /// A handle for syncing from any thread.
    #[must_use]
    pub fn sync_point(&self) -> SyncPoint {
        SyncPoint { tail: Arc::clone(&self.parts.tail) }
    }

    /// Whether it is time for [`prepare_next`](Self::prepare_next): there is no successor, or a
    /// reserve is missing. Cheap.
    #[must_use]
    pub fn wants_preparation(&self) -> bool {
        self.parts.successors.wants_preparation()
    }

    /// Creates the reserves for deletes and compaction, and then the active segment's successor,
    /// for a background thread. The successor has the length that
    /// [`set_next_len`](Self::set_next_len) has set, or less on a small device. Returns whether
    /// there was work.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], and nothing has changed: appends succeed while the active segment
    /// has room. [`SegmentError::Io`] or [`SegmentError::Poisoned`] otherwise. Unless the store [is
    /// poisoned](Self::is_poisoned), nothing has changed, and the caller can try again: the process
    /// may have run out of file descriptors or memory.
    pub fn prepare_next(&self, stamp: Stamp) -> Result<bool, SegmentError> {
        self.parts.successors.prepare_next(stamp)
    }

    /// Sets the length of files that are created ahead of their use. The initial value and the
    /// upper limit are [`StoreOptions::segment_len_bytes`]. Under a small write load, a small value
    /// keeps the store little larger than its data. A writer that outruns
    /// [`prepare_next`](Self::prepare_next) gets segments of full length in any case. A value set
    /// before [`Recovery::finish`] also holds for the first segment.
    pub fn set_next_len(&self, len_bytes: u32) {
        self.parts.lengths.set_next(len_bytes);
    }

    /// The end of the log: the id of the active segment, and its length. Cheap.
    #[must_use]
    pub fn end(&self) -> Option<(u32, u32)> {
        self.parts.tail.lock().active.as_ref().map(|active| (active.id(), active.len_bytes()))
    }

    /// The ends of the log's commits and of its durable part. Cheap.
    #[must_use]
    pub fn progress(&self) -> Option<TailProgress> {
        let tail = self.parts.tail.lock();
        let active = tail.active.as_ref()?;
        let durable = active.durable();
        Some(TailProgress {
            segment: active.id(),
            len_bytes: active.len_bytes(),
            durable_bytes: if durable > FIRST_RECORD_AT { durable } else { 0 },
            written_bytes: active.written_bytes(),
        })
    }

    /// The value of [`set_next_len`](Self::set_next_len).
    #[must_use]
    pub fn next_len(&self) -> u32 {
        self.parts.lengths.next()
    }

    /// The device room, in bytes, that a roll for a commit of `len_bytes` of new data would take:
    /// the length of the files that [`Appender::make_room`](crate::Appender::make_room) would
    /// create first. 0 if a successor and the reserves are ready. Cheap.
    ///
    /// # Errors
    ///
    /// [`SegmentError::TooLarge`] if no segment can hold such a commit.
    pub fn room_for_roll(&self, len_bytes: usize) -> Result<u64, SegmentError> {
        self.parts.successors.room_for_roll(len_bytes)
    }

    /// The device room, in bytes, that [`prepare_next`](Self::prepare_next) would take, at most.
    /// Cheap.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] if the free room of the device cannot be read.
    pub fn room_to_prepare(&self) -> Result<u64, SegmentError> {
        self.parts.successors.room_to_prepare()
    }

    /// Creates used-up reserves again, as far as there is room. Returns whether all are complete.
    /// While one is not, a caller that takes more room may take the room that compaction needs.
    /// Cheap if all are complete.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`], and nothing has changed.
    pub fn refill_reserves(&self) -> Result<bool, SegmentError> {
        self.parts.reserves.refill()
    }

    /// Removes the prepared segment if it is more than twice as long as a new file would be, and
    /// shortens reserves that are. For a background thread, while there are no writes.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], and nothing has changed; [`SegmentError::Io`] or
    /// [`SegmentError::Poisoned`] otherwise.
    pub fn trim(&self) -> Result<(), SegmentError> {
        self.parts.successors.trim()
    }

    /// Touches up to `len_bytes` of pages ahead of the tail, in the active segment and the prepared
    /// one, so that appends cause no page fault; for a background thread. The pages become dirty,
    /// so touch only pages that will soon be written. Returns the number of bytes touched; always 0
    /// with positioned appends.
    ///
    /// From now on, all touched bytes of these segments are in pages of the kind `pages`, including
    /// bytes that a writer touches ahead of this call.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`]. It affects only speed.
    pub fn prefault_ahead(&self, len_bytes: u32, pages: Pages) -> Result<u32, SegmentError> {
        let (active, prepared) = {
            let tail = self.parts.tail.lock();
            (tail.active.clone(), tail.prepared.as_ref().map(|prepared| Arc::clone(&prepared.segment)))
        };
        let (AppendMode::Mapped, Some(active)) = (self.parts.spares.mode, active) else { return Ok(0) };
        let end = active.len_bytes().saturating_add(len_bytes);
        let touched = active.prefault_to(end, pages)?;
        let left = end.saturating_sub(active.capacity_bytes());
        let Some(prepared) = prepared else { return Ok(touched) };
        let left = if left > 0 { prepared.len_bytes().saturating_add(left) } else { 0 };
        Ok(touched + prepared.prefault_to(left, pages)?)
    }

    /// Syncs rolled segments and seals them in the manifest; for a background thread. Returns the
    /// number of segments sealed.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], and the caller can try again; [`SegmentError::Io`] or
    /// [`SegmentError::Poisoned`] otherwise.
    pub fn sync_predecessors(&self) -> Result<usize, SegmentError> {
        self.parts.tail.seal_rolled()
    }

    /// Whether rolled segments wait for [`sync_predecessors`](Self::sync_predecessors). Cheap.
    #[must_use]
    pub fn has_predecessors(&self) -> bool {
        !self.parts.tail.lock().rolled.is_empty()
    }

    /// Begins a segment of up to `capacity_bytes` for compaction. `stamp` has the time of its
    /// creation. Relocated records are encoded with the context of the segment.
    ///
    /// If the device lacks that room, the segment is shorter, but has room for one record of
    /// `least_bytes`. With [`Purpose::Reclaim`] on a full device, it uses the reserve for
    /// compaction. [`CompactedWriter::remaining_bytes`] returns the segment's room.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], [`SegmentError::Io`] or [`SegmentError::Poisoned`].
    pub fn create_compacted(
        &self,
        capacity_bytes: u32,
        least_bytes: u32,
        purpose: Purpose,
        stamp: Stamp,
    ) -> Result<CompactedWriter, SegmentError> {
        let least = least_bytes.saturating_add(FIRST_RECORD_AT);
        CompactedWriter::new(&self.parts, capacity_bytes, least, purpose, stamp)
    }

    /// Changes the set of live segments durably in one step. After a crash, an open finds the old
    /// set or the new one; once this has returned, always the new one.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Invalid`] if a segment to remove is not sealed, or one to add is not new; or
    /// [`SegmentError::Full`]; then nothing has changed. [`SegmentError::Io`] or
    /// [`SegmentError::Poisoned`] otherwise.
    pub fn install(&self, edit: &Edit) -> Result<(), SegmentError> {
        compacted::install(&self.parts, edit)
    }

    /// Whether the removed segment with this id is [retained](Edit::retain).
    #[must_use]
    pub fn is_retained(&self, id: u32) -> bool {
        self.parts.manifest.lock().retained(id).is_some()
    }

    /// Gives up retained segments. Their files stay until [`release`](Self::release). The log no
    /// longer has all commits up to the last one of them.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], without a change; [`SegmentError::Io`] or
    /// [`SegmentError::Poisoned`].
    pub fn give_up_retained(&self, ids: &[u32]) -> Result<(), SegmentError> {
        self.parts.manifest.edit(Form::Shortest, |manifest| {
            let given_up: Vec<_> = ids.iter().filter_map(|id| manifest.retained(*id)).collect();
            ManifestEdit {
                complete_after: given_up.iter().filter_map(|entry| entry.last_seq()).max().unwrap_or(0),
                remove: given_up.iter().map(|entry| entry.id).collect(),
                ..ManifestEdit::default()
            }
        })
    }

    /// The length of the reserve for compaction: of the longest output on a full device.
    #[must_use]
    pub fn compaction_reserve_len(&self) -> u32 {
        self.parts.reserves.compaction_reserve_len()
    }

    /// Releases a segment that [`install`](Self::install) has removed from the set. If this is the
    /// last reference, removes the file, and creates used-up reserves again from its room.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Invalid`] if the manifest still names it; [`SegmentError::Io`].
    pub fn release(&self, segment: Arc<Segment>) -> Result<Released, SegmentError> {
        compacted::release(&self.parts, segment)
    }

    /// Abandons a segment that was written but not [installed](Self::install). Its file becomes a
    /// reserve if one is missing, and is removed otherwise.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Invalid`] if the manifest names it; [`SegmentError::Io`].
    pub fn abandon(&self, output: CompactedSegment) -> Result<(), SegmentError> {
        compacted::abandon(&self.parts, output)
    }

    /// An id for a new table. No table has had it, and no other call returns it.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Invalid`] after 4 billion of them.
    pub fn take_table_id(&self) -> Result<u32, SegmentError> {
        self.parts.store.take_table_id()
    }

    /// Replaces the list of tables in the manifest durably in one step. The tables' files must
    /// already be durable, and so must the log up to the position that they cover. `max_version` is
    /// the highest version of the log up to that position. The file of a table that is no longer in
    /// the list is garbage: the caller or the next open removes it.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Invalid`] for a table that is not in the current list and whose id is not
    /// from [`take_table_id`](Self::take_table_id), and for a position that the log does not have;
    /// [`SegmentError::Full`], [`SegmentError::Io`] or [`SegmentError::Poisoned`].
    pub fn set_tables(&self, tables: NamedTables, max_version: u64) -> Result<(), SegmentError> {
        compacted::check_tables(&self.parts, &tables)?;
        let edit = ManifestEdit { tables: Some(tables), max_version, ..ManifestEdit::default() };
        self.parts.manifest.edit(Form::Shortest, |_| edit)
    }

    /// A copy of the manifest on disk.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        Manifest::clone(&self.parts.manifest.lock())
    }

    /// The store's directory: the one that was opened, even if it has been renamed.
    #[must_use]
    pub fn dir(&self) -> &Arc<dyn Dir> {
        &self.parts.store.dir
    }

    /// Whether the store refuses writes because one has failed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.parts.store.poison.is_set()
    }

    /// The failure because of which the store accepts no writes.
    #[must_use]
    pub fn poison_cause(&self) -> Option<&str> {
        self.parts.store.poison.cause()
    }

    /// # Errors
    ///
    /// [`SegmentError::Poisoned`] or [`SegmentError::Forked`] if the store takes no writes.
    pub(crate) fn check_writable(&self) -> Result<(), SegmentError> {
        self.parts.store.poison.check()
    }

    /// Refuses all writes from now on. For a caller whose state in memory may no longer match the
    /// files.
    pub fn poison(&self, cause: &str) {
        self.parts.store.poison.set(cause);
    }

    /// The state of the tail of the log.
    #[must_use]
    pub fn tail_stats(&self) -> TailStats {
        let manifest = self.parts.manifest.lock();
        let segments = manifest.segments.len() + manifest.retained.len();
        drop(manifest);
        let (reserves, reserve_bytes) = self.parts.reserves.kept();
        let tail = self.parts.tail.lock();
        let left = |segment: &Segment| u64::from(segment.capacity_bytes().saturating_sub(segment.len_bytes()));
        let active = tail.active.as_deref().map_or(0, left);
        let prepared = tail.prepared.as_ref().map_or(0, |prepared| left(&prepared.segment));
        TailStats {
            appends: self.parts.spares.mode,
            segments,
            rolled: tail.rolled.len(),
            prepared: tail.prepared.is_some(),
            reserves,
            reserved_bytes: active + prepared + reserve_bytes,
            full: self.parts.spares.is_full(),
            poisoned: self.parts.store.poison.is_set(),
        }
    }
}

/// Opens the directory of a store.
pub(crate) fn open_dir(fs: &dyn Fs, path: &Path) -> Result<Arc<dyn Dir>, SegmentError> {
    fs.open_dir(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => SegmentError::NoStore { dir: path.to_owned() },
        _ => SegmentError::io("open", path, error),
    })
}

pub(crate) fn lock(dir: &dyn Dir, kind: LockKind) -> Result<Box<dyn Lock>, SegmentError> {
    match dir.try_lock(kind) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => {
            let by_this_process = dir.is_locked_by_this_process();
            Err(SegmentError::Locked { path: dir.path().to_owned(), by_this_process })
        }
        Err(error) => Err(SegmentError::io("lock", dir.path(), error)),
    }
}

pub(crate) fn list(dir: &dyn Dir) -> Result<Vec<String>, SegmentError> {
    let mut names = dir.list().map_err(|error| SegmentError::io("list", dir.path(), error))?;
    names.sort();
    Ok(names)
}

/// Refuses a directory whose records have another meaning.
pub(crate) fn expect_content(manifest: Manifest, expected: Content, dir: &Path) -> Result<Manifest, SegmentError> {
    if manifest.content == expected || planted("content_unchecked") {
        return Ok(manifest);
    }
    Err(SegmentError::OtherContent { dir: dir.to_owned(), found: manifest.content })
}

/// Creates an empty store. The manifest comes first: segments without one are an error.
fn create(fs: &dyn Fs, dir: &dyn Dir, options: &StoreOptions, content: Content) -> Result<Manifest, SegmentError> {
    sync_ancestors(fs, dir.path())?;
    let random =
        || options.entropy.next_u64().map_err(|error| SegmentError::io("draw a random number for", dir.path(), error));
    let id = u128::from(random()?) << 64 | u128::from(random()?);
    let manifest = Manifest { content, ..Manifest::new(id.to_le_bytes()) };
    replace_manifest(dir, &manifest)?;
    Ok(manifest)
}

/// Makes the names of the directory and of its ancestors durable: an earlier attempt to create them
/// may have failed after they had become visible.
fn sync_ancestors(fs: &dyn Fs, path: &Path) -> Result<(), SegmentError> {
    if planted("ancestors_not_synced") {
        return Ok(());
    }
    for ancestor in path.ancestors().skip(1) {
        let synced = fs.open_dir(ancestor).and_then(|dir| retry_interrupted(|| dir.sync()));
        match synced {
            Err(error) if !is_beyond_reach(&error) => return Err(SegmentError::io("sync", ancestor, error)),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a failed sync of an ancestor can be ignored. This process cannot have created an entry
/// in a directory that it may not open, or on a read-only file system. If the file system cannot
/// sync directories, no other call would help; if the store is on the same file system, writing its
/// first manifest fails.
fn is_beyond_reach(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported)
}
