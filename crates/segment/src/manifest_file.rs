//! The manifest on disk and in memory, and the one function that changes both.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{SegmentError, is_full};
use crate::fs::{File, retry_interrupted, write_all_at};
use crate::manifest::{MAX_LEN_BYTES, Manifest};
use crate::manifest_edit::{self, Heading, ManifestEdit};
use crate::mutants::planted;
use crate::names::MANIFEST;
use crate::shared::{NotReplaced, Shared, replace_manifest};

/// Edits are appended to the manifest until they are longer than it and than this.
const LEAST_EDITS_BYTES: u64 = manifest_edit::MAX_LEN_BYTES as u64;

/// The current manifest, and the place of the next edit.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    now: Manifest,
    /// `None` until this open has written the manifest: an earlier one may have failed to sync its
    /// end.
    log: Option<EditLog>,
}

/// The file of a manifest, with edits behind it.
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
    /// As an appended edit, if that is shorter.
    Shortest,
    /// As the last change: the manifest is written anew, so that one checksum covers all of it, and
    /// its file is closed. Without a new file for that, the change is appended after all.
    Last,
}

impl Deref for ManifestFile {
    type Target = Manifest;

    fn deref(&self) -> &Manifest {
        &self.now
    }
}

impl ManifestFile {
    pub(crate) fn new(now: Manifest) -> Self {
        Self { now, log: None }
    }
}

impl EditLog {
    /// The file that was just written, with this manifest in it.
    pub(crate) fn new(file: Arc<dyn File>, path: PathBuf, encoded: &[u8]) -> Self {
        let check = encoded.last_chunk().map_or(0, |check| u32::from_le_bytes(*check));
        let whole_bytes = encoded.len() as u64;
        Self { file, path, check, whole_bytes, end: whole_bytes }
    }

    /// Appends a change, durably. `Ok(false)`: this file cannot take it, and nothing has changed.
    fn append(&mut self, after: Heading, edit: &ManifestEdit) -> Result<bool, NotAppended> {
        let Some(bytes) = edit.encode(after, self.check, self.end) else { return Ok(false) };
        let end = self.end + bytes.len() as u64;
        if end - self.whole_bytes > self.whole_bytes.max(LEAST_EDITS_BYTES) || end > MAX_LEN_BYTES as u64 {
            return Ok(false);
        }
        // The file has lost its name, or has a second one, whose owner expects that it does not
        // change.
        if self.file.metadata().map_or(true, |found| found.links != 1 && !planted("edit_in_a_linked_manifest")) {
            return Ok(false);
        }
        if let Err((written, error)) = write_all_at(self.file.as_ref(), &bytes, self.end) {
            let failed = SegmentError::io_or_full("write", &self.path, bytes.len() as u64, error);
            // An edit with a missing part is no edit.
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

/// The error after which an edit may count or not.
#[derive(Debug)]
struct NotAppended {
    failed: SegmentError,
    /// Writing the manifest anew removes the doubt.
    may_be_replaced: bool,
}

impl Shared {
    /// Changes the manifest: on disk first, then in memory. `edit` returns the change for the
    /// current manifest. On a full device, reserves are removed to make room.
    ///
    /// # Errors
    ///
    /// Any; then either nothing has changed, or the store is poisoned.
    pub(crate) fn edit_manifest(
        &self,
        form: Form,
        edit: impl FnOnce(&Manifest) -> ManifestEdit,
    ) -> Result<(), SegmentError> {
        self.poison.check()?;
        let mut file = self.manifest.lock();
        let edit = edit(&file.now);
        let ManifestFile { now, log } = &mut *file;
        now.next_segment_id = self.next_id.load(Ordering::Relaxed);
        self.keep_manifest_reserve(now.encoded_len_after(&edit))?;
        let mut in_doubt = None;
        if let Some(log) = log.as_mut().filter(|_| form == Form::Shortest && !planted("manifest_always_whole")) {
            match log.append(now.heading_after(&edit), &edit) {
                Ok(true) => {
                    now.apply(&edit);
                    return Ok(());
                }
                Ok(false) => {}
                Err(NotAppended { failed, may_be_replaced: true }) => in_doubt = Some(failed),
                Err(NotAppended { failed, .. }) => return Err(self.poison.latch_sync(failed)),
            }
        }
        let mut next = now.clone();
        next.apply(&edit);
        let written = match (self.write_whole(&next, in_doubt), log.as_mut().filter(|_| form == Form::Last)) {
            // Nothing has changed: for example, the process had no file descriptor left. The open
            // file takes the edit.
            (Err(failure), Some(log)) if !self.poison.is_set() && !planted("last_edit_needs_a_file") => {
                let appended = log.append(now.heading_after(&edit), &edit);
                if !appended.map_err(|NotAppended { failed, .. }| self.poison.latch_sync(failed))? {
                    return Err(failure);
                }
                now.apply(&edit);
                return Ok(());
            }
            (written, _) => written?,
        };
        *log = (form == Form::Shortest).then_some(written);
        *now = next;
        // The old file's room is free from here on, and becomes the reserve before other files take
        // it. If that fails, the next creation of a file for new data returns the error.
        let _made_later = self.keep_manifest_reserve(now.encoded_len() as u64);
        Ok(())
    }

    /// Writes all of a manifest. `in_doubt` is the error that left the content of the replaced file
    /// unknown.
    fn write_whole(&self, next: &Manifest, in_doubt: Option<SegmentError>) -> Result<EditLog, SegmentError> {
        let mut written = replace_manifest(self.dir.as_ref(), next);
        while matches!(&written, Err(NotReplaced::Unchanged(error)) if error.is_full()) && self.give_up_room() {
            written = replace_manifest(self.dir.as_ref(), next);
        }
        match written {
            Ok((file, encoded)) => Ok(EditLog::new(file, self.dir.path().join(MANIFEST), &encoded)),
            Err(NotReplaced::Unchanged(error)) => Err(match in_doubt {
                None => error,
                Some(doubt) => self.poison.latch_sync(doubt),
            }),
            Err(NotReplaced::Unknown(error)) => Err(self.poison.latch_sync(error)),
        }
    }
}
