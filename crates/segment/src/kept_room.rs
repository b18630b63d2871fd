//! The room that is kept for a manifest.
//!
//! A store on a full device must be able to record that it has freed something, and a manifest is replaced by writing a new one beside it. A small file
//! keeps the room for that, and is given up when it is needed; as soon as the new manifest is in place it is made again, in the room of the old one.
//! While it is missing, or too short for the manifest as it is now, nothing is made that new data would go into: that might take the room for good.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{SegmentError, is_full};
use crate::fs::{Access, File, remove_if_there, retry_interrupted};
use crate::lock::Mutex;
use crate::mutants::planted;
use crate::names::spare_name;
use crate::shared::Shared;

/// File systems hand out room in blocks.
const BLOCK_LEN_BYTES: u64 = 4096;
/// By so much a manifest may grow with what deletes and compaction do: the entries of 16 segments.
const GROWTH_BYTES: u64 = 16 * 56;

/// What is known of the file.
#[derive(Debug, Default)]
pub(crate) struct KeptRoom {
    file: Mutex<Option<KeptFile>>,
    /// Whether it is there, and long enough.
    is_enough: AtomicBool,
}

#[derive(Debug)]
struct KeptFile {
    /// The name of spare 0, unless others have taken it.
    name: String,
    len_bytes: u64,
}

impl KeptFile {
    fn is_at_least(this: Option<&Self>, len_bytes: u64) -> bool {
        this.is_some_and(|kept| kept.len_bytes >= len_bytes)
    }
}

impl Shared {
    /// Sees to it that the file is there and long enough for a manifest of this length, better for one of twice that. If the device has no room for that,
    /// [`require_room`](Self::require_room) says so when it matters.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for other reasons than a full device.
    pub(crate) fn keep_room(&self, manifest_len: u64) -> Result<(), SegmentError> {
        if planted("no_room_for_manifests") {
            self.kept_room.is_enough.store(true, Ordering::Release);
            return Ok(());
        }
        let ample = (2 * manifest_len).next_multiple_of(BLOCK_LEN_BYTES);
        let enough = (manifest_len + GROWTH_BYTES).next_multiple_of(BLOCK_LEN_BYTES);
        let mut kept = self.kept_room.file.lock();
        let mut made = Ok(());
        for wanted in [ample.max(enough), enough] {
            made = self.lengthen(&mut kept, wanted);
            if KeptFile::is_at_least(kept.as_ref(), wanted) {
                break;
            }
        }
        self.kept_room.is_enough.store(KeptFile::is_at_least(kept.as_ref(), enough), Ordering::Release);
        made
    }

    fn lengthen(&self, kept: &mut Option<KeptFile>, wanted: u64) -> Result<(), SegmentError> {
        if KeptFile::is_at_least(kept.as_ref(), wanted) {
            return Ok(());
        }
        let (name, made) = match &*kept {
            Some(KeptFile { name, .. }) => (name.clone(), self.dir.open(name, Access::Write)),
            None => self.create_kept_file()?,
        };
        let made = made.and_then(|file| retry_interrupted(|| file.allocate(wanted)));
        if kept.is_some() && made.as_ref().is_err_and(is_full) {
            // Better too little than nothing, which is what whatever grows would leave of it.
            return Ok(());
        }
        *kept = made.is_ok().then(|| KeptFile { name: name.clone(), len_bytes: wanted });
        let Err(error) = made else { return Ok(()) };
        remove_if_there(self.dir.as_ref(), &name)?;
        if is_full(&error) { Ok(()) } else { Err(SegmentError::io("make", &self.path_of(&name), error)) }
    }

    fn create_kept_file(&self) -> Result<(String, io::Result<Arc<dyn File>>), SegmentError> {
        let name = spare_name(0);
        // An attempt that failed may have left one.
        remove_if_there(self.dir.as_ref(), &name)?;
        match self.dir.create_new(&name) {
            // A directory of others.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(self.create_spare_file()),
            made => Ok((name, made)),
        }
    }

    /// Before room is taken for new data: there is room for a manifest, or it can be made now.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`] if not; deletes and compaction may go on, and make room again. [`SegmentError::Io`] or [`SegmentError::Poisoned`] otherwise.
    pub(crate) fn require_room(&self) -> Result<(), SegmentError> {
        if self.kept_room.is_enough.load(Ordering::Acquire) || planted("growth_without_kept_room") {
            return Ok(());
        }
        self.poison.check()?;
        let manifest = self.manifest.lock();
        let needed_bytes = manifest.encoded_len() as u64;
        self.keep_room(needed_bytes)?;
        if self.kept_room.is_enough.load(Ordering::Acquire) {
            return Ok(());
        }
        self.full.store(true, Ordering::Release);
        Err(SegmentError::Full { path: self.path_of(&spare_name(0)), needed_bytes })
    }

    /// Removes what is kept for this, or else a spare file, to make room. Tells whether there was anything.
    pub(crate) fn give_up_room(&self) -> bool {
        if let Some(kept) = self.kept_room.file.lock().take() {
            self.kept_room.is_enough.store(false, Ordering::Release);
            return self.dir.remove_file(&kept.name).is_ok();
        }
        let Some(spare) = self.tail.lock().pool.pop() else { return false };
        self.dir.remove_file(&spare.name).is_ok()
    }

    /// Removes the file, at the end.
    pub(crate) fn remove_kept_room(&self) -> Result<(), SegmentError> {
        let kept = self.kept_room.file.lock().take();
        kept.map_or(Ok(()), |kept| remove_if_there(self.dir.as_ref(), &kept.name))
    }
}
