//! Device room kept for operations that free room.
//!
//! Deletes and compaction need room before they free any. Four files reserve this room. They have
//! room on the device, and their content is never read:
//!
//! - for the *manifest*: its replacement is written beside it;
//! - for *compaction*: its output is written before its inputs are removed;
//! - for *opening*: the segment that an open begins with. No commit goes into it, so its whole room
//!   becomes free again after each open;
//! - for the *tail*: the next segment, for the records of deletes.
//!
//! The store creates them before any file for new data, in this order. While one is missing or too
//! short, it creates no file for new data, because that file might take the room permanently. A
//! used-up reserve is created again as soon as room becomes free. The files survive a close and the
//! death of the process, so that an open on a full device finds them.
//!
//! xfs creates a file only while some room is free. The manifest's reserve includes this room, and
//! lends it to the creation of the other reserves.

mod files;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hightower_log::SegmentKind;
use hightower_seams::lock_order::Rank;

use crate::error::{SegmentError, is_full};
use crate::fs::remove_if_there;
use crate::lengths::{FileLengths, Lengths};
use crate::lock::{Mutex, RankedGuard, RankedMutex, step};
use crate::mutants::planted;
use crate::names::segment_name;
use crate::options::{MIN_SEGMENT_LEN_BYTES, Purpose};
use crate::reserves::files::ReserveFiles;
pub(crate) use crate::reserves::files::ReserveKind;
use crate::segment::Segment;
use crate::spares::{Spare, SpareFiles};
use crate::store_dir::StoreDir;

/// The reserves of an open store.
#[derive(Debug)]
pub(crate) struct Reserves {
    store: Arc<StoreDir>,
    lengths: Arc<FileLengths>,
    spares: Arc<SpareFiles>,
    /// Held while files are created ahead of their use, and while a reserve that was taken does not
    /// have a segment's name yet.
    preparing: RankedMutex<()>,
    files: RankedMutex<ReserveFiles>,
    /// Whether each reserve has its needed length.
    is_enough: AtomicBool,
    /// The device's last refusal of a file: the bytes available at that time, and the length of the
    /// file.
    refused: Mutex<Option<(u64, u32)>>,
    /// The length of the manifest in bytes. Held while the manifest changes, so that no other
    /// reserve takes the room that it needs.
    manifest_len_bytes: RankedMutex<u64>,
}

impl Reserves {
    pub(crate) fn new(store: Arc<StoreDir>, lengths: Arc<FileLengths>, spares: Arc<SpareFiles>) -> Self {
        let files = ReserveFiles::new(Arc::clone(&store), Arc::clone(&lengths), Arc::clone(&spares));
        Self {
            store,
            lengths,
            spares,
            preparing: RankedMutex::new(Rank::Preparing, ()),
            files: RankedMutex::new(Rank::Reserves, files),
            is_enough: AtomicBool::new(false),
            refused: Mutex::default(),
            manifest_len_bytes: RankedMutex::new(Rank::ManifestLength, 0),
        }
    }

    /// Waits until no other thread creates files ahead of their use, and excludes others until the
    /// guard is dropped.
    pub(crate) fn begin_preparing(&self) -> RankedGuard<'_, ()> {
        self.preparing.lock()
    }

    /// Whether new data may take room. Cheap.
    pub(crate) fn is_enough(&self) -> bool {
        self.is_enough.load(Ordering::Acquire)
    }

    /// Changes the files, and notes whether they are enough.
    fn change<T>(&self, change: impl FnOnce(&mut ReserveFiles) -> T) -> T {
        let mut files = self.files.lock();
        let changed = change(&mut files);
        self.is_enough.store(files.is_enough(), Ordering::Release);
        changed
    }

    /// The number of segment reserves, and the sum of their lengths in bytes.
    pub(crate) fn kept(&self) -> (usize, u64) {
        self.files.lock().of_segments()
    }

    /// Turns a file that no manifest names and nothing holds into a reserve, if one is missing;
    /// otherwise removes it. The room is never free in between, because on a full device others
    /// could take it, and compaction or a later open would lack it.
    pub(crate) fn take_back(&self, name: &str, kind: SegmentKind) -> Result<(), SegmentError> {
        if !self.is_enough() && self.change(|files| files.take_back(name, kind)) {
            return Ok(());
        }
        remove_if_there(self.store.dir.as_ref(), name)
    }

    /// Takes over the reserves of an earlier open. The lengths that they need are not known yet.
    pub(crate) fn adopt_all(&self) -> Result<(), SegmentError> {
        self.files.lock().adopt_all()
    }

    /// Creates or lengthens the reserves, as far as there is room. Returns whether new data may
    /// take the rest.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for other reasons than a full device.
    pub(crate) fn keep_segments(&self, lengths: Lengths) -> Result<bool, SegmentError> {
        self.keep_in_order(lengths, &[ReserveKind::Compaction, ReserveKind::Opening, ReserveKind::Tail])?;
        Ok(self.is_enough())
    }

    /// Like [`keep_segments`](Self::keep_segments), without the reserve for the tail. Returns
    /// whether the reserves for compaction and for opening are complete.
    pub(crate) fn keep_all_but_the_tail(&self, lengths: Lengths) -> Result<bool, SegmentError> {
        self.keep_in_order(lengths, &[ReserveKind::Compaction, ReserveKind::Opening])
    }

    fn keep_in_order(&self, lengths: Lengths, which: &[ReserveKind]) -> Result<bool, SegmentError> {
        let manifest_len = *self.manifest_len_bytes.lock();
        self.change(|files| files.keep_in_order(lengths, which, manifest_len))
    }

    /// Excludes the creation of reserves while the manifest changes. The returned guard holds the
    /// length of the manifest, in bytes.
    pub(crate) fn begin_edit(&self) -> RankedGuard<'_, u64> {
        self.manifest_len_bytes.lock()
    }

    /// Keeps room for a manifest of this length. The caller may hold the manifest's lock.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`] for other reasons than a full device.
    pub(crate) fn keep_manifest_reserve(&self, manifest_len: u64) -> Result<(), SegmentError> {
        self.change(|files| files.keep_manifest(manifest_len))
    }

    /// Completes all reserves before new data takes room.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`] if a reserve stays incomplete; deletes and compaction still work, and
    /// free room. [`SegmentError::Io`] or [`SegmentError::Poisoned`] otherwise.
    fn require(&self, lengths: Lengths) -> Result<(), SegmentError> {
        self.store.poison.check()?;
        if self.keep_segments(lengths)? {
            return Ok(());
        }
        self.spares.note_full(true);
        Err(SegmentError::Full { path: self.store.path().to_owned(), needed_bytes: lengths.reserve.into() })
    }

    /// Creates a file for new data, besides the reserves. Refuses without asking the device if the
    /// last attempt has shown that there is no room for `least` bytes: a full device takes
    /// milliseconds to refuse, and each write would wait for that.
    pub(crate) fn grow<T>(
        &self,
        lengths: Lengths,
        least: u32,
        make: impl FnOnce() -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        let full = || SegmentError::Full { path: self.store.path().to_owned(), needed_bytes: least.max(1).into() };
        let refused = *self.refused.lock();
        if refused.is_some_and(|(available, len)| lengths.available_bytes <= available && least >= len) {
            self.spares.note_full(true);
            return Err(full());
        }
        let made = self.require(lengths).and_then(|()| make());
        let is_refused = made.as_ref().is_err_and(SegmentError::is_full) && lengths.available_bytes != u64::MAX;
        *self.refused.lock() = is_refused.then_some((lengths.available_bytes, least));
        made
    }

    /// Completes the reserves before new data goes into a segment that has used up a reserve. Like
    /// [`grow`](Self::grow), but creates no file.
    #[cold]
    pub(crate) fn require_again(&self) -> Result<(), SegmentError> {
        let _preparing = self.begin_preparing();
        self.grow(self.lengths.now(0)?, 0, || Ok(()))
    }

    /// Creates used-up reserves again. Call it when room has become free, before other files take
    /// it.
    pub(crate) fn refill(&self) -> Result<bool, SegmentError> {
        if self.is_enough() {
            *self.refused.lock() = None;
            return Ok(true);
        }
        // A reserve in use keeps its name until it gets a segment's name. Until then, no thread may
        // create a new reserve under its name.
        let _preparing = self.begin_preparing();
        self.refill_while_preparing()
    }

    /// Like [`refill`](Self::refill), for a caller that holds `preparing` or has exclusive use of
    /// the store.
    pub(crate) fn refill_while_preparing(&self) -> Result<bool, SegmentError> {
        *self.refused.lock() = None;
        if self.is_enough() || planted("reserve_not_put_back") {
            return Ok(true);
        }
        self.keep_segments(self.lengths.now(0)?)
    }

    /// The bytes that [`keep_segments`](Self::keep_segments) would take for segment reserves.
    pub(crate) fn missing_bytes(&self, lengths: Lengths) -> u64 {
        let files = self.files.lock();
        let missing = |reserve, wanted: u32| u64::from(wanted).saturating_sub(files.len_bytes(reserve));
        missing(ReserveKind::Compaction, lengths.reserve)
            + missing(ReserveKind::Opening, lengths.opening)
            + missing(ReserveKind::Tail, lengths.tail)
    }

    /// The length of the reserve for compaction.
    pub(crate) fn compaction_reserve_len(&self) -> u32 {
        u32::try_from(self.files.lock().len_bytes(ReserveKind::Compaction)).unwrap_or(u32::MAX)
    }

    /// Takes a reserve as a spare if it has room for `least` bytes.
    pub(crate) fn take_reserve(&self, reserve: ReserveKind, least: u32) -> Result<Option<Spare>, SegmentError> {
        self.change(|files| files.take(reserve, least))
    }

    /// Removes a reserve to make room for a manifest: the manifest's own if it exists, otherwise
    /// another one. Returns whether there was one.
    pub(crate) fn give_up_room(&self) -> bool {
        let order = [ReserveKind::Manifest, ReserveKind::Tail, ReserveKind::Opening, ReserveKind::Compaction];
        self.change(|files| order.into_iter().any(|reserve| files.give_up(reserve)))
    }

    /// Frees room for a new name in the directory, which may need a block, by removing the
    /// manifest's reserve. Syncs the removal, because some file systems reuse the room only then.
    ///
    /// # Errors
    ///
    /// A failed sync; the store is then poisoned.
    pub(crate) fn make_room_for_name(&self) -> Result<bool, SegmentError> {
        if planted("names_need_no_room") || !self.change(|files| files.give_up(ReserveKind::Manifest)) {
            return Ok(false);
        }
        self.store.sync().map_err(|error| self.store.poison.latch_sync(error))?;
        Ok(true)
    }

    /// Shortens reserves to the wanted length if they are more than twice as long.
    pub(crate) fn trim(&self, lengths: Lengths) -> Result<(), SegmentError> {
        *self.refused.lock() = None;
        self.change(|files| files.trim(lengths))
    }

    /// A file for compaction's output: a new file or the reserve. It has room for at least one
    /// record of `least` bytes.
    pub(crate) fn compaction_file(&self, capacity: u32, least: u32, purpose: Purpose) -> Result<Spare, SegmentError> {
        let lengths = self.lengths.now(least)?;
        let least = least.max(MIN_SEGMENT_LEN_BYTES);
        let capacity = capacity.min(lengths.output).max(least);
        if purpose == Purpose::Grow {
            return self.grow(lengths, least, || self.spares.create_spare(capacity));
        }
        // If a new file would be shorter than the reserve, the reserve is as good.
        let shortest = self.compaction_reserve_len().clamp(least, capacity);
        match self.spares.create_spare_within(capacity, shortest) {
            Err(error) if error.is_full() => {
                // The room that compaction frees refills both reserves.
                match self.take_reserve(ReserveKind::Compaction, least)? {
                    Some(spare) => Ok(spare),
                    None => self.take_reserve(ReserveKind::Tail, least)?.ok_or(error),
                }
            }
            made => made,
        }
    }

    /// Renames a spare to a segment, with the next id whose name no foreign directory has.
    pub(crate) fn name_as_segment(&self, spare: &mut Spare) -> Result<u32, SegmentError> {
        loop {
            let id = self.store.take_id()?;
            let name = segment_name(id);
            step();
            match self.store.dir.rename(&spare.name, &name) {
                Ok(()) => {
                    spare.name = name;
                    return Ok(id);
                }
                Err(error) if is_full(&error) => {
                    if !self.make_room_for_name()? {
                        return Err(SegmentError::io_or_full("rename", &self.store.path_of(&spare.name), 0, error));
                    }
                }
                Err(error)
                    if error.kind() == io::ErrorKind::IsADirectory
                        && !planted("taken_names_refuse")
                        && !planted("strangers_poison") => {}
                Err(error) => {
                    let error = SegmentError::io("rename", &self.store.path_of(&spare.name), error);
                    return Err(self.store.poison.latch_rename(error));
                }
            }
        }
    }

    /// Removes an unused file, and gives its room to the reserves first. If the store is poisoned,
    /// the manifest may name the file, so it stays. The caller holds `preparing`.
    pub(crate) fn discard(&self, spare: Spare) {
        let Spare { name, file, mapping } = spare;
        drop((file, mapping));
        if !self.store.poison.is_set() {
            // If these calls fail, the next open removes the file and refills the reserves.
            let _taken = self.take_back(&name, SegmentKind::Append);
            let _refilled = self.refill_while_preparing();
        }
    }

    /// Removes or reuses the file of a segment that no manifest names any more and that has no
    /// records in use.
    pub(crate) fn end_unnamed(&self, segment: Arc<Segment>) -> Result<(), SegmentError> {
        let (name, kind) = (segment_name(segment.id()), segment.kind());
        // If something else holds the segment, it may read its bytes, so the file must not be
        // reused.
        if Arc::into_inner(segment).is_some() {
            return self.take_back(&name, kind);
        }
        remove_if_there(self.store.dir.as_ref(), &name)
    }
}
