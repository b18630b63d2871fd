//! The manifest on disk and in memory, and the one function that changes both.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use hightower_seams::lock_order::Rank;

use crate::error::{SegmentError, is_full};
use crate::fs::{Dir, File, remove_if_there, retry_interrupted, write_all_at};
use crate::lock::{RankedGuard, RankedMutex};
use crate::manifest::{MAX_LEN_BYTES, Manifest};
use crate::manifest_edit::{self, Heading, ManifestEdit};
use crate::mutants::planted;
use crate::names::{MANIFEST, MANIFEST_TMP};
use crate::reserves::Reserves;
use crate::store_dir::StoreDir;

/// Edits are appended to the manifest until they are longer than both the manifest and this.
const LEAST_EDITS_BYTES: u64 = manifest_edit::MAX_LEN_BYTES as u64;

/// The manifest of an open store.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    store: Arc<StoreDir>,
    reserves: Arc<Reserves>,
    /// Held while the file is replaced.
    current: RankedMutex<CurrentManifest>,
}

/// The current manifest, and the place of the next edit.
#[derive(Debug)]
pub(crate) struct CurrentManifest {
    now: Manifest,
    /// `None` until this open has written the manifest, because an earlier open may have failed to
    /// sync the manifest's end.
    log: Option<EditLog>,
}

/// The file of a manifest with edits after it.
#[derive(Debug)]
pub(crate) struct EditLog {
    file: Arc<dyn File>,
    path: PathBuf,
    /// The checksum of the manifest before the edits.
    check: u32,
    whole_bytes: u64,
    end: u64,
}

/// How a change is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As an appended edit, if that is shorter than a whole manifest.
    Shortest,
    /// As the last change: the whole manifest is written, so that one checksum covers all of it,
    /// and its file is closed. If no new file can be created, the change is appended after all.
    Last,
}

impl Deref for CurrentManifest {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        &self.now
    }
}

impl EditLog {
    /// The file that was just written with this manifest.
    pub(crate) fn new(file: Arc<dyn File>, path: PathBuf, encoded: &[u8]) -> Self {
        let check = encoded.last_chunk().map_or(0, |check| u32::from_le_bytes(*check));
        let whole_bytes = encoded.len() as u64;
        Self { file, path, check, whole_bytes, end: whole_bytes }
    }

    /// Appends a change durably. `Ok(false)` means that this file cannot take it, and that nothing
    /// has changed.
    fn append(&mut self, after: Heading, edit: &ManifestEdit) -> Result<bool, NotAppended> {
        let Some(bytes) = edit.encode(after, self.check, self.end) else { return Ok(false) };
        let end = self.end + bytes.len() as u64;
        if end - self.whole_bytes > self.whole_bytes.max(LEAST_EDITS_BYTES) || end > MAX_LEN_BYTES as u64 {
            return Ok(false);
        }
        // The file has lost its name, or has a second name, under which it must not change.
        if self.file.metadata().map_or(true, |found| found.links != 1 && !planted("edit_in_a_linked_manifest")) {
            return Ok(false);
        }
        if let Err((written, error)) = write_all_at(self.file.as_ref(), &bytes, self.end) {
            let failed = SegmentError::io_or_full("write", &self.path, bytes.len() as u64, error);
            // An incomplete edit has no effect.
            let is_harmless = (failed.is_full() || failed.is_shortage()) && written < bytes.len() as u64;
            return if is_harmless { Ok(false) } else { Err(NotAppended { failed, may_be_replaced: false }) };
        }
        if !planted("edit_not_synced") {
            retry_interrupted(|| self.file.sync_data()).map_err(|error| NotAppended {
                may_be_replaced: is_full(&error),
                failed: SegmentError::io_or_full("sync", &self.path, bytes.len() as u64, error),
            })?;
        }
        self.end = end;
        Ok(true)
    }
}

/// An error that leaves it open whether the edit takes effect.
#[derive(Debug)]
struct NotAppended {
    failed: SegmentError,
    /// Whether writing the whole manifest removes the doubt.
    may_be_replaced: bool,
}

impl ManifestFile {
    pub(crate) fn new(store: Arc<StoreDir>, reserves: Arc<Reserves>, now: Manifest) -> Self {
        *reserves.begin_edit() = now.encoded_len() as u64;
        let current = RankedMutex::new(Rank::Manifest, CurrentManifest { now, log: None });
        Self { store, reserves, current }
    }

    /// The current manifest, which does not change while the guard lives.
    pub(crate) fn lock(&self) -> RankedGuard<'_, CurrentManifest> {
        self.current.lock()
    }

    /// Changes the manifest: on disk first, then in memory. `edit` returns the change for the
    /// current manifest. On a full device, it removes reserves to make room.
    ///
    /// # Errors
    ///
    /// After any error, either nothing has changed, or the store is poisoned.
    pub(crate) fn edit(&self, form: Form, edit: impl FnOnce(&Manifest) -> ManifestEdit) -> Result<(), SegmentError> {
        self.store.poison.check()?;
        let mut current = self.current.lock();
        let mut len_bytes = self.reserves.begin_edit();
        let edited = self.edit_current(&mut current, form, edit);
        *len_bytes = current.encoded_len() as u64;
        edited
    }

    fn edit_current(
        &self,
        current: &mut CurrentManifest,
        form: Form,
        edit: impl FnOnce(&Manifest) -> ManifestEdit,
    ) -> Result<(), SegmentError> {
        let CurrentManifest { now, log } = current;
        let edit = edit(now);
        now.next_segment_id = self.store.next_id();
        self.reserves.keep_manifest_reserve(now.encoded_len_after(&edit))?;
        let mut in_doubt = None;
        if let Some(log) = log.as_mut().filter(|_| form == Form::Shortest && !planted("manifest_always_whole")) {
            match log.append(now.heading_after(&edit), &edit) {
                Ok(true) => {
                    now.apply(&edit);
                    return Ok(());
                }
                Ok(false) => {}
                Err(NotAppended { failed, may_be_replaced: true }) => in_doubt = Some(failed),
                Err(NotAppended { failed, .. }) => return Err(self.store.poison.latch_sync(failed)),
            }
        }
        let mut next = now.clone();
        next.apply(&edit);
        let written = match (self.write_whole(&next, in_doubt), log.as_mut().filter(|_| form == Form::Last)) {
            // Nothing has changed; for example, the process had no file descriptor left. The edit
            // goes to the open file.
            (Err(failure), Some(log)) if !self.store.poison.is_set() && !planted("last_edit_needs_a_file") => {
                let appended = log.append(now.heading_after(&edit), &edit);
                if !appended.map_err(|NotAppended { failed, .. }| self.store.poison.latch_sync(failed))? {
                    return Err(failure);
                }
                now.apply(&edit);
                return Ok(());
            }
            (written, _) => written?,
        };
        *log = (form == Form::Shortest).then_some(written);
        *now = next;
        // The old file's room is free now, and becomes the reserve before other files take it. If
        // that fails, the next creation of a file for new data returns the error.
        let _made_later = self.reserves.keep_manifest_reserve(now.encoded_len() as u64);
        Ok(())
    }

    /// Writes a whole manifest. `in_doubt` is the error, if any, that left the content of the
    /// replaced file unknown.
    fn write_whole(&self, next: &Manifest, in_doubt: Option<SegmentError>) -> Result<EditLog, SegmentError> {
        let mut written = replace_manifest(self.store.dir.as_ref(), next);
        while matches!(&written, Err(NotReplaced::Unchanged(error)) if error.is_full()) && self.reserves.give_up_room()
        {
            written = replace_manifest(self.store.dir.as_ref(), next);
        }
        match written {
            Ok((file, encoded)) => Ok(EditLog::new(file, self.store.path_of(MANIFEST), &encoded)),
            Err(NotReplaced::Unchanged(error)) => Err(match in_doubt {
                None => error,
                Some(doubt) => self.store.poison.latch_sync(doubt),
            }),
            Err(NotReplaced::Unknown(error)) => Err(self.store.poison.latch_sync(error)),
        }
    }
}

/// The reason why a manifest was not replaced.
#[derive(Debug)]
pub(crate) enum NotReplaced {
    /// The old manifest is in place.
    Unchanged(SegmentError),
    /// The old or the new manifest is in place.
    Unknown(SegmentError),
}

impl From<NotReplaced> for SegmentError {
    fn from(failure: NotReplaced) -> Self {
        match failure {
            NotReplaced::Unchanged(error) | NotReplaced::Unknown(error) => error,
        }
    }
}

/// Replaces the manifest atomically: a crash leaves the old or the new one. Returns the new file
/// and its bytes.
pub(crate) fn replace_manifest(dir: &dyn Dir, manifest: &Manifest) -> Result<(Arc<dyn File>, Vec<u8>), NotReplaced> {
    let bytes = manifest.encode();
    // An earlier attempt may have left a file.
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
        // The old manifest is in place. If this removal fails, the next attempt or the next open
        // removes the file.
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
