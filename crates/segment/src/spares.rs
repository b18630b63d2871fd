//! Creation of segment files ahead of their use.
//!
//! A *spare* is a file with room on the device and no valid content. A *prepared* segment is a
//! spare with a durable header that the manifest names: from then on commits may go into it. Old
//! content of a spare never passes for a record, since a fresh random salt seeds every checksum.
//!
//! New data gets a file only if the [reserves](crate::reserves) are complete, so that deletes and
//! compaction still work on a full device. With less free room, files are shorter.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hightower_log::limits::MAX_SEGMENT_LEN_BYTES;
use hightower_log::{SegmentHeader, SegmentKind};

use crate::error::{SegmentError, is_full};
use crate::fs::{Access, File, remove_if_there, retry_interrupted, write_all_at};
use crate::lock::step;
use crate::manifest::{SegmentEntry, SegmentState};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::Form;
use crate::mapping::{MapPermit, Mapping, MappingWriter};
use crate::mutants::planted;
use crate::names::{segment_name, spare_name};
use crate::options::{Purpose, Stamp};
use crate::reserves::{Lengths, ReserveKind, SHORT_LEN_BYTES};
use crate::segment::{FIRST_RECORD_AT, Segment};
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
    /// The least length of a segment that can hold a commit of `len_bytes`.
    pub(crate) fn segment_len_for(&self, len_bytes: usize) -> Result<u32, SegmentError> {
        let limit = MAX_SEGMENT_LEN_BYTES - OVERHEAD_BYTES;
        let fits = u32::try_from(len_bytes).ok().filter(|len| *len <= limit);
        let len = fits.ok_or(SegmentError::TooLarge { len_bytes: len_bytes as u64, limit_bytes: limit.into() })?;
        Ok((len + OVERHEAD_BYTES).max(crate::options::MIN_SEGMENT_LEN_BYTES))
    }

    /// Creates a file with room for `len_bytes`.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], or [`SegmentError::Io`] if the process has no more file descriptors
    /// or memory. The store is unchanged, and the caller can try again.
    pub(crate) fn create_spare(&self, len_bytes: u32) -> Result<Spare, SegmentError> {
        self.poison.check()?;
        let made = self.try_create_spare(len_bytes);
        self.full.store(matches!(&made, Err(error) if error.is_full()), Ordering::Release);
        if planted("failed_create_poisons") {
            return made.map_err(|error| self.poison.latch(error));
        }
        made
    }

    /// Creates an empty file with the name of a spare. Skips names that other programs have taken
    /// since the open.
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
        let allocated =
            retry_interrupted(|| file.allocate(len_bytes.into())).map_err(|error| failed("allocate", error));
        allocated.and_then(|()| self.map_spare(name.clone(), file, len_bytes)).inspect_err(|_| {
            // If this fails too, the next open removes the file; the caller gets the first error.
            let _removed = self.dir.remove_file(&name);
        })
    }

    /// Maps a file with room for `len_bytes` as a spare.
    pub(crate) fn map_spare(&self, name: String, file: Arc<dyn File>, len_bytes: u32) -> Result<Spare, SegmentError> {
        let access = if self.mode == AppendMode::Mapped { Access::Write } else { Access::Read };
        let mapping = self
            .map_new(&*file, len_bytes, access)
            .map_err(|error| SegmentError::io("map", &self.path_of(&name), error))?;
        Ok(Spare { name, file, mapping })
    }

    /// Creates a file of `len_bytes`, or without room for that, of a half, a quarter and so on, but
    /// never shorter than `least` bytes.
    pub(crate) fn create_spare_within(&self, len_bytes: u32, least: u32) -> Result<Spare, SegmentError> {
        let least = least.max(len_bytes.min(SHORT_LEN_BYTES));
        let mut len = len_bytes.max(least);
        loop {
            match self.create_spare(len) {
                Err(error) if error.is_full() && len > least => {
                    len = (len / 2).max(least);
                }
                made => return made,
            }
        }
    }

    /// Maps a new file, and keeps memory maps in reserve for compaction.
    fn map_new(&self, file: &dyn File, len_bytes: u32, access: Access) -> io::Result<Mapping> {
        let mapping = file.map(len_bytes as usize, access, MapPermit::of_store())?;
        if mapping.takes_maps() {
            self.maps.keep()?;
        }
        Ok(mapping)
    }

    /// Whether [`prepare_next`](Self::prepare_next) has work to do.
    pub(crate) fn wants_preparation(&self) -> bool {
        let tail = self.tail.lock();
        tail.wants_successor() || (tail.active.is_some() && !self.reserves.is_enough())
    }

    /// Creates the reserves, and prepares the active segment's successor.
    pub(crate) fn prepare_next(&self, stamp: Stamp) -> Result<bool, SegmentError> {
        self.poison.check()?;
        let _preparing = self.preparing.lock();
        let wants_successor = self.tail.lock().wants_successor();
        if !wants_successor && !self.wants_preparation() {
            return Ok(false);
        }
        let lengths = self.lengths(0)?;
        let len = self.next_len.load(Ordering::Relaxed).min(lengths.segment);
        self.grow(lengths, 0, || {
            if wants_successor {
                let spare = self.create_spare_within(len, 0)?;
                let prepared = self.prepare(spare, stamp, ManifestEdit::default())?;
                self.tail.lock().prepared = Some(prepared);
            }
            Ok(())
        })?;
        Ok(true)
    }

    /// Shortens files that are longer than wanted now: cuts the reserves, and removes the prepared
    /// segment.
    pub(crate) fn trim(&self) -> Result<(), SegmentError> {
        self.poison.check()?;
        let _preparing = self.preparing.lock();
        self.trim_reserves(self.lengths(0)?)?;
        let wanted = self.next_len.load(Ordering::Relaxed);
        let is_long = |capacity: u32| capacity / 2 > wanted;
        let prepared = self.tail.lock().prepared.take_if(|prepared| is_long(prepared.segment.capacity_bytes()));
        let Some(prepared) = prepared else { return Ok(()) };
        let id = prepared.segment.id();
        if let Err(error) = self.edit_manifest(Form::Shortest, |_| ManifestEdit::removing(id)) {
            self.tail.lock().prepared = Some(prepared);
            return Err(error);
        }
        remove_if_there(self.dir.as_ref(), &segment_name(id))
    }

    /// A segment for commits that has room for `least` bytes, header and seal included. Fast if one
    /// is prepared.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], and nothing has changed.
    pub(crate) fn take_successor(&self, least: u32, purpose: Purpose, stamp: Stamp) -> Result<Prepared, SegmentError> {
        if let Some(prepared) = self.take_prepared(least, purpose) {
            return Ok(prepared);
        }
        // A background thread may be about to finish a successor.
        let _preparing = self.preparing.lock();
        let made = self.make_successor(least, purpose, stamp)?;
        self.tail.lock().is_rolling = true;
        Ok(made)
    }

    fn make_successor(&self, least: u32, purpose: Purpose, stamp: Stamp) -> Result<Prepared, SegmentError> {
        if let Some(prepared) = self.take_prepared(least, purpose) {
            return Ok(prepared);
        }
        let lengths = self.lengths(least)?;
        match purpose {
            Purpose::Grow => self.grow(lengths, least, || match self.take_prepared(least, purpose) {
                Some(prepared) => Ok(prepared),
                None => {
                    let spare = self.create_spare_within(self.whole_len(lengths, least), least)?;
                    self.replace_prepared(spare, stamp)
                }
            }),
            Purpose::Reclaim => self.replace_prepared(self.spare_for_deletes(lengths, least)?, stamp),
        }
    }

    fn take_prepared(&self, least: u32, purpose: Purpose) -> Option<Prepared> {
        let allowed = purpose == Purpose::Reclaim || self.reserves.is_enough();
        let mut tail = self.tail.lock();
        let taken = tail.prepared.take_if(|prepared| allowed && prepared.fits(least))?;
        tail.is_rolling = true;
        Some(taken)
    }

    /// Commits that outrun the creation of files get a segment of full length.
    fn whole_len(&self, lengths: Lengths, least: u32) -> u32 {
        self.options.segment_len_bytes.min(lengths.segment).max(least)
    }

    /// A file for deletes: a new one if the other reserves are complete, or else the tail's
    /// reserve.
    fn spare_for_deletes(&self, lengths: Lengths, least: u32) -> Result<Spare, SegmentError> {
        let full = SegmentError::Full { path: self.dir.path().to_owned(), needed_bytes: least.into() };
        let made = if self.keep_all_but_the_tail(lengths)? {
            self.create_spare_within(self.next_len.load(Ordering::Relaxed).min(lengths.segment), least)
        } else {
            Err(full)
        };
        match made {
            Err(error) if error.is_full() => self.take_reserve(ReserveKind::Tail, least)?.ok_or(error),
            made => made,
        }
    }

    /// A file for compaction's output: a new one, or the reserve. One record takes up to `least`
    /// bytes.
    pub(crate) fn compaction_file(&self, capacity: u32, least: u32, purpose: Purpose) -> Result<Spare, SegmentError> {
        let lengths = self.lengths(least)?;
        let least = least.max(crate::options::MIN_SEGMENT_LEN_BYTES);
        let capacity = capacity.min(lengths.output).max(least);
        if purpose == Purpose::Grow {
            return self.grow(lengths, least, || self.create_spare(capacity));
        }
        // A new file shorter than the reserve would be no better than the reserve.
        let shortest = self.compaction_reserve_len().clamp(least, capacity);
        match self.create_spare_within(capacity, shortest) {
            Err(error) if error.is_full() => {
                // The room that compaction frees refills both.
                match self.take_reserve(ReserveKind::Compaction, least)? {
                    Some(spare) => Ok(spare),
                    None => self.take_reserve(ReserveKind::Tail, least)?.ok_or(error),
                }
            }
            made => made,
        }
    }

    /// Returns a successor after a roll that failed before it wrote. The manifest names it, so it
    /// must come next: none was prepared meanwhile.
    pub(crate) fn give_successor_back(&self, successor: Prepared) {
        let mut tail = self.tail.lock();
        tail.is_rolling = false;
        if !planted("successor_lost") {
            tail.prepared = Some(successor);
        }
    }

    /// The bytes that [`take_successor`](Self::take_successor) would allocate for new data.
    pub(crate) fn room_for_roll(&self, len_bytes: usize) -> Result<u64, SegmentError> {
        let least = self.segment_len_for(len_bytes)?;
        let is_ready = self.tail.lock().prepared.as_ref().is_some_and(|prepared| prepared.fits(least));
        if is_ready && self.reserves.is_enough() {
            return Ok(0);
        }
        let lengths = self.lengths(least)?;
        let whole = if is_ready { 0 } else { self.whole_len(lengths, least) };
        Ok(self.missing_reserve_bytes(lengths) + u64::from(whole))
    }

    /// The bytes that [`prepare_next`](Self::prepare_next) would allocate.
    pub(crate) fn room_to_prepare(&self) -> Result<u64, SegmentError> {
        let lengths = self.lengths(0)?;
        let successor = self.next_len.load(Ordering::Relaxed).min(lengths.segment);
        let wants_successor = self.tail.lock().wants_successor();
        Ok(self.missing_reserve_bytes(lengths) + if wants_successor { successor.into() } else { 0 })
    }

    /// Prepares `spare` in place of the prepared segment, if there is one: ids must follow the
    /// order of use.
    fn replace_prepared(&self, spare: Spare, stamp: Stamp) -> Result<Prepared, SegmentError> {
        let old = self.tail.lock().prepared.take();
        let without_old = old.as_ref().map(|prepared| ManifestEdit::removing(prepared.segment.id()));
        let made = self.prepare(spare, stamp, without_old.unwrap_or_default());
        match (made, old) {
            (Ok(prepared), Some(old)) => match remove_if_there(self.dir.as_ref(), &segment_name(old.segment.id())) {
                Ok(()) => Ok(prepared),
                Err(error) => {
                    // The manifest names it, so it must come next, or an empty segment would stay
                    // in the middle of the log.
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

    /// Writes a header to a spare and adds it to the manifest, with `edit` in the same step. If
    /// that fails without a change, the file is removed.
    pub(crate) fn prepare(&self, mut spare: Spare, stamp: Stamp, edit: ManifestEdit) -> Result<Prepared, SegmentError> {
        let named = self.name_as_segment(&mut spare);
        let header = named.and_then(|id| self.next_header(id, stamp));
        let written = header.and_then(|header| {
            let writer = self.write_header(&mut spare, &header).map_err(|error| self.poison.latch(error))?;
            Ok((header, writer))
        });
        let (header, writer) = match written {
            Ok(written) => written,
            Err(error) => {
                self.discard(spare);
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
            self.discard(spare);
            return Err(error);
        }
        self.longest_len.fetch_max(spare.capacity_bytes(), Ordering::Relaxed);
        let segment = Segment::new(self.path_of(&spare.name), header, Some(spare.file), spare.mapping);
        Ok(Prepared { segment: Arc::new(segment), writer })
    }

    /// Renames a spare to a segment, with the next id whose name no foreign directory has.
    pub(crate) fn name_as_segment(&self, spare: &mut Spare) -> Result<u32, SegmentError> {
        loop {
            let id = self.take_id()?;
            let name = segment_name(id);
            step();
            match self.dir.rename(&spare.name, &name) {
                Ok(()) => {
                    spare.name = name;
                    return Ok(id);
                }
                Err(error) if is_full(&error) => {
                    if !self.make_room_for_name()? {
                        return Err(SegmentError::io_or_full("rename", &self.path_of(&spare.name), 0, error));
                    }
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

    /// Removes an unused file; the reserves get its room first. If the store is poisoned, the
    /// manifest may name the file, and it stays. The caller holds `preparing`.
    pub(crate) fn discard(&self, spare: Spare) {
        let Spare { name, file, mapping } = spare;
        drop((file, mapping));
        if !self.poison.is_set() {
            // The caller reports the earlier error. If these fail, the next open removes the file,
            // and the next creation of a file for new data refills the reserves.
            let _taken = self.take_back(&name, SegmentKind::Append);
            let _refilled = self.refill_reserves_while_preparing();
        }
    }

    fn next_header(&self, id: u32, stamp: Stamp) -> Result<SegmentHeader, SegmentError> {
        let salt = self.random()?;
        Ok(SegmentHeader {
            id,
            kind: SegmentKind::Append,
            features: 0,
            salt,
            base_seq: self.manifest.lock().next_seq,
            base_version: stamp.max_version,
            base_timestamp: stamp.timestamp,
            created_ms: stamp.timestamp,
        })
    }

    /// Makes the header and the segment's name durable.
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
}

impl crate::shared::TailState {
    /// The successor is wanted as soon as there is none. If the store waited until the active
    /// segment is nearly full, the device might be full by then, and deletes and compaction, which
    /// free room, would have none to begin with.
    pub(crate) fn wants_successor(&self) -> bool {
        let is_rolling = self.is_rolling && !planted("prepares_during_a_roll");
        self.active.is_some() && self.prepared.is_none() && !is_rolling
    }
}

/// The manifest's entry for a segment with this header.
pub(crate) fn entry_of(header: &SegmentHeader, state: SegmentState) -> SegmentEntry {
    SegmentEntry {
        id: header.id,
        kind: header.kind,
        salt: header.salt,
        base_seq: header.base_seq,
        base_version: header.base_version,
        base_timestamp: header.base_timestamp,
        created_ms: header.created_ms,
        state,
    }
}
