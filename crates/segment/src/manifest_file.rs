//! The manifest as it is on disk and in memory, and the one way to change both.

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

/// Edits are gathered behind the manifest until they are as long as it is, or this long.
const LEAST_EDITS_BYTES: u64 = manifest_edit::MAX_LEN_BYTES as u64;

/// The manifest that counts, and where the next edit goes.
#[derive(Debug)]
pub(crate) struct ManifestFile {
    now: Manifest,
    /// `None` until this opening has written the manifest: an earlier one may have failed to sync
    /// what stands there.
    log: Option<EditLog>,
}

/// The file of a manifest, with edits behind it.
#[derive(Debug)]
pub(crate) struct EditLog {
    file: Arc<dyn File>,
    path: PathBuf,
    /// The check of the manifest before the edits.
    check: u32,
    whole_bytes: u64,
    end: u64,
}

/// Whether a change may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As an edit, if that is shorter.
    Shortest,
    /// It is the last one: the manifest is written anew, so that one check covers all of it, and
    /// its file is closed. If no file can be made for that, it is appended after all.
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

    /// Appends a change, durably. `Ok(false)`: not in this file, and nothing has changed.
    fn append(&mut self, after: Heading, edit: &ManifestEdit) -> Result<bool, NotAppended> {
        let Some(bytes) = edit.encode(after, self.check, self.end) else { return Ok(false) };
        let end = self.end + bytes.len() as u64;
        if end - self.whole_bytes > self.whole_bytes.max(LEAST_EDITS_BYTES) || end > MAX_LEN_BYTES as u64 {
            return Ok(false);
        }
        // The file has lost its name, or has got a second one, whose owner expects that it stays as it is.
        if self.file.metadata().map_or(true, |found| found.links != 1 && !planted("edit_in_a_linked_manifest")) {
            return Ok(false);
        }
        if let Err((written, error)) = write_all_at(self.file.as_ref(), &bytes, self.end) {
            let failed = SegmentError::io_or_full("write", &self.path, bytes.len() as u64, error);
            // What stands there is no edit, so long as a part is missing.
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

/// Why it is not known whether an edit counts.
#[derive(Debug)]
struct NotAppended {
    failed: SegmentError,
    /// Once the manifest has been written anew, it is.
    may_be_replaced: bool,
}

impl Shared {
    /// Changes the manifest: on disk first, then here. `edit` says how, by what it is now. If the
    /// device is full, reserves are given up for it.
    ///
    /// # Errors
    ///
    /// Any, and nothing has changed, or the store is poisoned.
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
            // Nothing has changed, for want of a descriptor, say. The file that is open will do.
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
        // The old file's room is free from here on: it is kept before anything else takes it. If that
        // fails, whatever would grow next is told.
        let _made_later = self.keep_manifest_reserve(now.encoded_len() as u64);
        Ok(())
    }

    /// Writes all of a manifest. `in_doubt`: why it is not known what the file holds that this
    /// replaces.
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
