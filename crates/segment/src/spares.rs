//! Making segment files ready before they are needed.
//!
//! A *spare* is a file with room on the device and nothing in it that counts. A *prepared* segment is a spare with a header of its
//! own that is durable, and that the manifest names: from then on commits may go into it. Freed segments become spares again:
//! their pages are mapped, cached and allocated, which makes them the fastest to write to. What a spare still holds never passes
//! for a record, since every checksum is seeded with a salt that is drawn anew. Only files that were made since the store was
//! opened are used again: others may be mapped by snapshots that have outlived an earlier opening, and are removed.
//!
//! One spare (or the prepared segment, when there is no other) is kept back from new data, so that deletes and compaction can go
//! on when the device is full.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hightower_log::limits::MAX_SEGMENT_LEN_BYTES;
use hightower_log::{SegmentHeader, SegmentKind};

use crate::error::SegmentError;
use crate::fs::{Access, File, remove_if_there, retry_interrupted, write_all_at};
use crate::manifest::{SegmentEntry, SegmentState};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::Form;
use crate::mapping::{MapPermit, Mapping, MappingWriter};
use crate::mutants::planted;
use crate::names::{segment_name, spare_name};
use crate::options::{Purpose, Stamp};
use crate::segment::{FIRST_RECORD_AT, Parts, Segment};
use crate::shared::{OVERHEAD_BYTES, Shared, seq_span};
use crate::tail::AppendMode;

/// A file with room in it, and a map of it; no manifest names it.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) mapping: Mapping,
}

impl Spare {
    pub(crate) fn capacity_bytes(&self) -> u32 {
        crate::segment::to_offset(self.mapping.len())
    }
}

/// A segment that is durable, named in the manifest, and empty.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) segment: Arc<Segment>,
    pub(crate) writer: MappingWriter,
}

impl Prepared {
    fn fits(&self, len_bytes: u32) -> bool {
        self.segment.capacity_bytes() >= len_bytes
    }
}

impl Shared {
    /// How long a segment must be at least to hold a commit of `len_bytes`.
    pub(crate) fn segment_len_for(&self, len_bytes: usize) -> Result<u32, SegmentError> {
        let limit = MAX_SEGMENT_LEN_BYTES - OVERHEAD_BYTES;
        let fits = u32::try_from(len_bytes).ok().filter(|len| *len <= limit);
        let len = fits.ok_or(SegmentError::TooLarge { len_bytes: len_bytes as u64, limit_bytes: limit.into() })?;
        Ok((len + OVERHEAD_BYTES).max(crate::options::MIN_SEGMENT_LEN_BYTES))
    }

    /// Makes a file with room for `len_bytes`.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], or [`SegmentError::Io`] if the process has no more file descriptors or memory. Nothing that counts was touched: it can be
    /// tried again.
    pub(crate) fn create_spare(&self, len_bytes: u32) -> Result<Spare, SegmentError> {
        self.poison.check()?;
        let made = self.try_create_spare(len_bytes);
        self.full.store(matches!(&made, Err(error) if error.is_full()), Ordering::Release);
        if planted("failed_create_poisons") {
            return made.map_err(|error| self.poison.latch(error));
        }
        made
    }

    /// Creates an empty file with the name of a spare. Names that others have taken since the store was opened are passed over.
    pub(crate) fn create_spare_file(&self) -> (String, io::Result<Arc<dyn File>>) {
        loop {
            let number = self.next_spare.fetch_add(1, Ordering::Relaxed);
            let name = spare_name(number);
            match self.dir.create_new(&name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < u32::MAX => {}
                made => return (name, made),
            }
        }
    }

    fn try_create_spare(&self, len_bytes: u32) -> Result<Spare, SegmentError> {
        let (name, file) = self.create_spare_file();
        let failed =
            |operation, error| SegmentError::io_or_full(operation, &self.path_of(&name), len_bytes.into(), error);
        let file = file.map_err(|error| failed("create", error))?;
        let access = if self.mode == AppendMode::Mapped { Access::Write } else { Access::Read };
        let mapped = retry_interrupted(|| file.allocate(len_bytes.into()))
            .map_err(|error| failed("allocate", error))
            .and_then(|()| self.map_new(&*file, len_bytes, access).map_err(|error| failed("map", error)));
        match mapped {
            Ok(mapping) => Ok(Spare { name, file, mapping }),
            Err(error) => {
                // If this fails too, the next open removes the file; the first error is the one to tell of.
                let _ = self.dir.remove_file(&name);
                Err(error)
            }
        }
    }

    /// Maps a new file, and leaves maps for compaction.
    fn map_new(&self, file: &dyn File, len_bytes: u32, access: Access) -> io::Result<Mapping> {
        let mapping = file.map(len_bytes as usize, access, MapPermit::of_store())?;
        if mapping.takes_maps() {
            self.maps.keep()?;
        }
        Ok(mapping)
    }

    /// Whether [`prepare_next`](Self::prepare_next) has something to do.
    pub(crate) fn wants_preparation(&self) -> bool {
        let tail = self.tail.lock();
        tail.wants_successor() || tail.wants_reserve()
    }

    /// Prepares the active segment's successor, and a spare behind it.
    pub(crate) fn prepare_next(&self, stamp: Stamp) -> Result<bool, SegmentError> {
        self.poison.check()?;
        let _preparing = self.preparing.lock();
        let (no_successor, no_reserve) = {
            let tail = self.tail.lock();
            (tail.wants_successor(), tail.wants_reserve())
        };
        if no_successor || no_reserve {
            self.require_room()?;
        }
        if no_successor {
            let len = self.next_len.load(Ordering::Relaxed);
            let spare = self.pop_spare(len);
            let spare = spare.map_or_else(|| self.create_spare(len), Ok)?;
            let prepared = self.prepare(spare, stamp, ManifestEdit::default())?;
            self.tail.lock().prepared = Some(prepared);
        }
        // The successor may have taken the one that was there.
        let no_reserve = no_reserve || self.tail.lock().wants_reserve();
        if no_reserve {
            self.add_reserve()?;
        }
        Ok(no_successor || no_reserve)
    }

    fn add_reserve(&self) -> Result<(), SegmentError> {
        let spare = self.create_spare(self.next_len.load(Ordering::Relaxed))?;
        self.tail.lock().pool.push(spare);
        Ok(())
    }

    /// Removes files that are kept ready and are longer than is wanted now: spares, and the prepared segment.
    pub(crate) fn trim(&self) -> Result<(), SegmentError> {
        self.poison.check()?;
        let _preparing = self.preparing.lock();
        let wanted = self.next_len.load(Ordering::Relaxed);
        let is_long = |capacity: u32| capacity / 2 > wanted;
        while let Some(spare) = self.take_spare(|spare| is_long(spare.capacity_bytes())) {
            if let Err(error) = remove_if_there(self.dir.as_ref(), &spare.name) {
                self.tail.lock().pool.push(spare);
                return Err(error);
            }
        }
        let prepared = self.tail.lock().prepared.take_if(|prepared| is_long(prepared.segment.capacity_bytes()));
        let Some(prepared) = prepared else { return Ok(()) };
        let id = prepared.segment.id();
        if let Err(error) = self.edit_manifest(Form::Shortest, |_| ManifestEdit::removing(id)) {
            self.tail.lock().prepared = Some(prepared);
            return Err(error);
        }
        remove_if_there(self.dir.as_ref(), &segment_name(id))
    }

    pub(crate) fn pop_spare(&self, len_bytes: u32) -> Option<Spare> {
        self.take_spare(|spare| spare.capacity_bytes() >= len_bytes)
    }

    fn take_spare(&self, is_wanted: impl Fn(&Spare) -> bool) -> Option<Spare> {
        let mut tail = self.tail.lock();
        let index = tail.pool.iter().position(is_wanted)?;
        Some(tail.pool.swap_remove(index))
    }

    /// A segment for commits that has room for `least` bytes, header and seal included. Fast if one is prepared.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], and nothing has changed.
    pub(crate) fn take_successor(&self, least: u32, purpose: Purpose, stamp: Stamp) -> Result<Prepared, SegmentError> {
        if purpose == Purpose::Grow {
            self.require_room()?;
        }
        if let Some(prepared) = self.tail.lock().take_prepared(least, purpose) {
            return Ok(prepared);
        }
        // Whoever prepares in the background may be about to finish.
        let _preparing = self.preparing.lock();
        if let Some(prepared) = self.tail.lock().take_prepared(least, purpose) {
            return Ok(prepared);
        }
        if purpose == Purpose::Grow && self.tail.lock().pool.is_empty() && !planted("growth_takes_the_last_room") {
            // New data must leave a spare behind, and there is none yet.
            self.add_reserve()?;
            if let Some(prepared) = self.tail.lock().take_prepared(least, purpose) {
                return Ok(prepared);
            }
        }
        let spare = self.spare_for(least, purpose)?;
        self.replace_prepared(spare, stamp)
    }

    /// A successor was taken, and the roll to it failed with nothing written. The manifest names it, so it has to come next.
    pub(crate) fn give_successor_back(&self, successor: Prepared, error: &SegmentError) {
        let mut tail = self.tail.lock();
        if planted("successor_lost") {
            return;
        }
        if tail.prepared.is_none() {
            tail.prepared = Some(successor);
        } else {
            // One behind it was made meanwhile: an empty segment would stay in the midst of the log.
            self.poison.set(&error.to_string());
        }
    }

    /// What [`take_successor`](Self::take_successor) would make for new data.
    pub(crate) fn room_for_roll(&self, len_bytes: usize) -> Result<u64, SegmentError> {
        let least = self.segment_len_for(len_bytes)?;
        let whole = self.options.segment_len_bytes.max(least);
        let tail = self.tail.lock();
        let reserve = if tail.pool.is_empty() { self.next_len.load(Ordering::Relaxed) } else { 0 };
        let is_ready = tail.prepared.as_ref().is_some_and(|prepared| prepared.fits(least))
            || tail.pool.len() > 1 && tail.pool.iter().any(|spare| spare.capacity_bytes() >= whole);
        Ok(u64::from(reserve) + if is_ready { 0 } else { u64::from(whole) })
    }

    /// A spare that may be used up for `purpose`. New data that comes faster than files are made ready gets a whole segment.
    pub(crate) fn spare_for(&self, least: u32, purpose: Purpose) -> Result<Spare, SegmentError> {
        let len = match purpose {
            Purpose::Grow => self.options.segment_len_bytes,
            Purpose::Reclaim => self.next_len.load(Ordering::Relaxed),
        };
        let len = len.max(least);
        if purpose == Purpose::Grow && self.tail.lock().pool.len() > 1 {
            return self.pop_spare(len).map_or_else(|| self.create_spare(len), Ok);
        }
        match self.create_spare(len) {
            Err(error) if error.is_full() && purpose == Purpose::Reclaim => self.pop_spare(least).ok_or(error),
            made => made,
        }
    }

    /// Prepares `spare` in place of the prepared segment, if there is one: ids must follow the order of use.
    fn replace_prepared(&self, spare: Spare, stamp: Stamp) -> Result<Prepared, SegmentError> {
        let old = self.tail.lock().prepared.take();
        let without_old = old.as_ref().map(|prepared| ManifestEdit::removing(prepared.segment.id()));
        let made = self.prepare(spare, stamp, without_old.unwrap_or_default());
        match (made, old) {
            (Ok(prepared), Some(old)) => match self.keep_or_remove(old.segment) {
                Ok(_) => Ok(prepared),
                Err(error) => {
                    // The manifest names it, so it must be the next, or an empty segment would stay in the midst of the log.
                    self.tail.lock().prepared = Some(prepared);
                    Err(error)
                }
            },
            (Err(error), old) => {
                self.tail.lock().prepared = old;
                Err(error)
            }
            (made, None) => made,
        }
    }

    /// Gives a spare a header and has the manifest name it, with `edit` in the same step. Where that fails and has changed nothing, the spare goes back.
    pub(crate) fn prepare(&self, mut spare: Spare, stamp: Stamp, edit: ManifestEdit) -> Result<Prepared, SegmentError> {
        let old_salt = spare.mapping.published_from(0).and_then(|bytes| SegmentHeader::decode(bytes).ok());
        let named = self.name_as_segment(&mut spare);
        let header = named.and_then(|id| self.next_header(id, stamp, old_salt.map(|header| header.salt)));
        let written = header.and_then(|header| {
            let writer = self.write_header(&mut spare, &header).map_err(|error| self.poison.latch(error))?;
            Ok((header, writer))
        });
        let (header, writer) = match written {
            Ok(written) => written,
            Err(error) => {
                self.put_back(spare, &error);
                return Err(error);
            }
        };
        let entry = entry_of(&header, SegmentState::Open);
        let span = seq_span(spare.capacity_bytes());
        let next_seq = header.base_seq.saturating_add(if planted("seq_not_reserved") { 1 } else { span });
        let named = self.edit_manifest(Form::Shortest, |_| ManifestEdit {
            next_seq: Some(next_seq),
            max_version: edit.max_version.max(stamp.max_version),
            put: [edit.put, vec![entry]].concat(),
            ..edit
        });
        if let Err(error) = named {
            self.put_back(spare, &error);
            return Err(error);
        }
        let segment = Segment::new(self.path_of(&spare.name), header, Some(spare.file), spare.mapping);
        Ok(Prepared { segment: Arc::new(segment), writer })
    }

    /// Gives a spare the name of a segment, and with it the next id whose name no directory of others has.
    pub(crate) fn name_as_segment(&self, spare: &mut Spare) -> Result<u32, SegmentError> {
        loop {
            let id = self.take_id()?;
            let name = segment_name(id);
            match self.dir.rename(&spare.name, &name) {
                Ok(()) => {
                    spare.name = name;
                    return Ok(id);
                }
                Err(error)
                    if error.kind() == io::ErrorKind::IsADirectory
                        && !planted("taken_names_refuse")
                        && !planted("strangers_poison") => {}
                Err(error) => {
                    let error = SegmentError::io("rename", &self.path_of(&spare.name), error);
                    return Err(self.poison.latch_rename(error));
                }
            }
        }
    }

    /// A spare of which no use was made, for the next one; unless its file has lost its name, or nothing is known any more.
    pub(crate) fn put_back(&self, spare: Spare, error: &SegmentError) {
        let is_gone = matches!(error, SegmentError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound);
        if !is_gone && !self.poison.is_set() {
            self.tail.lock().pool.push(spare);
        }
    }

    fn next_header(&self, id: u32, stamp: Stamp, old_salt: Option<u64>) -> Result<SegmentHeader, SegmentError> {
        let salt = match old_salt {
            Some(salt) if planted("recycle_keeps_salt") => salt,
            _ => self.random()?,
        };
        Ok(SegmentHeader {
            id,
            kind: SegmentKind::Append,
            features: 0,
            salt,
            base_seq: self.manifest.lock().next_seq,
            base_version: stamp.max_version,
            base_timestamp: stamp.timestamp,
        })
    }

    /// Makes the header durable, and the segment's name.
    fn write_header(&self, spare: &mut Spare, header: &SegmentHeader) -> Result<MappingWriter, SegmentError> {
        let in_use = |_| SegmentError::Invalid { what: "a spare file is still in use".to_owned() };
        if !spare.mapping.reset() {
            return Err(in_use(()));
        }
        let mut writer = spare.mapping.writer().ok_or_else(|| in_use(()))?;
        let len = spare.mapping.len() as u64;
        write_all_at(spare.file.as_ref(), &header.encode(), 0)
            .map_err(|(_, error)| SegmentError::io_or_full("write", &self.path_of(&spare.name), len, error))?;
        if !planted("header_not_synced") {
            retry_interrupted(|| spare.file.sync_data())
                .map_err(|error| SegmentError::io("sync", &self.path_of(&spare.name), error))
                .map_err(|error| self.poison.latch_sync(error))?;
        }
        if !planted("segment_dir_not_synced") {
            self.sync_dir().map_err(|error| self.poison.latch_sync(error))?;
        }
        spare
            .mapping
            .publish(&mut writer, FIRST_RECORD_AT as usize)
            .map_err(|error| SegmentError::Invalid { what: error.to_string() })?;
        Ok(writer)
    }

    /// A freed segment's file becomes a spare, or is removed if nobody needs it. Gives whether it was kept.
    pub(crate) fn keep_or_remove(&self, segment: Arc<Segment>) -> Result<bool, SegmentError> {
        let name = segment_name(segment.id());
        let parts = Arc::into_inner(segment).map(Segment::into_parts);
        if let Some(parts) = parts
            && let Some(spare) = self.as_spare(parts)?
        {
            self.tail.lock().pool.push(spare);
            return Ok(true);
        }
        remove_if_there(self.dir.as_ref(), &name)?;
        Ok(false)
    }

    /// Only mapped appends gain by using a file again. A file with a second name is somebody's backup, and is never written to. Nor is one that was
    /// opened for reading, as are all that an earlier opening has left: its readers of that time may map the file still, and nothing here knows of them.
    fn as_spare(&self, parts: Parts) -> Result<Option<Spare>, SegmentError> {
        let Parts { name, mapping, has_hole, .. } = &parts;
        // A larger one would take room that is not needed now, and a hole is no room at all.
        let wanted_len = self.next_len.load(Ordering::Relaxed) as usize;
        let right_size = !*has_hole && mapping.len() <= wanted_len && mapping.len() >= wanted_len / 2;
        let own = mapping.is_writable() || planted("recycle_earlier_files");
        let wanted = self.tail.lock().pool.len() < self.options.recycle_limit;
        if self.mode != AppendMode::Mapped || !own || !right_size || !wanted {
            return Ok(None);
        }
        let metadata =
            self.dir.metadata(name).map_err(|error| SegmentError::io("look at", &self.path_of(name), error))?;
        if metadata.links != 1 && !planted("recycle_hard_links") {
            return Ok(None);
        }
        self.spare_of(parts).map(Some)
    }

    /// A segment's file as a spare, opened again if it was closed.
    pub(crate) fn spare_of(&self, parts: Parts) -> Result<Spare, SegmentError> {
        let Parts { name, file, mapping, .. } = parts;
        let opened = file.map_or_else(|| self.dir.open(&name, Access::Write), Ok);
        let file = opened.map_err(|error| SegmentError::io("open", &self.path_of(&name), error))?;
        Ok(Spare { name, file, mapping })
    }
}

impl crate::shared::TailState {
    /// The successor is made ready at once. Made when the active segment is nearly full, it might find the device full; deletes and compaction,
    /// which make room again, would then have none to begin with.
    pub(crate) fn wants_successor(&self) -> bool {
        self.active.is_some() && self.prepared.is_none()
    }

    /// So is the spare behind it.
    pub(crate) fn wants_reserve(&self) -> bool {
        self.active.is_some() && self.pool.is_empty()
    }

    fn take_prepared(&mut self, len_bytes: u32, purpose: Purpose) -> Option<Prepared> {
        let allowed = purpose == Purpose::Reclaim || !self.pool.is_empty() || planted("growth_takes_the_last_room");
        self.prepared.take_if(|prepared| allowed && prepared.fits(len_bytes))
    }
}

/// What the manifest says of a segment with this header.
pub(crate) fn entry_of(header: &SegmentHeader, state: SegmentState) -> SegmentEntry {
    SegmentEntry {
        id: header.id,
        kind: header.kind,
        salt: header.salt,
        base_seq: header.base_seq,
        base_version: header.base_version,
        base_timestamp: header.base_timestamp,
        state,
    }
}
