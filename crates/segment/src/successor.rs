//! The active segment's successor: it is prepared ahead of its use, and a roll takes it.
//!
//! A file for new data is created only while the [reserves](crate::reserves) are complete, so that
//! deletes and compaction still work on a full device. If little room is free, files are shorter.

use std::sync::Arc;

use hightower_log::limits::MAX_SEGMENT_LEN_BYTES;
use hightower_log::{SegmentHeader, SegmentKind};

use crate::error::SegmentError;
use crate::fs::{remove_if_there, retry_interrupted, write_all_at};
use crate::layout::{FIRST_RECORD_AT, OVERHEAD_BYTES, seq_span};
use crate::lengths::{FileLengths, Lengths};
use crate::log_tail::{LogTail, Prepared};
use crate::manifest::{SegmentEntry, SegmentState};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::{Form, ManifestFile};
use crate::mapping::MappingWriter;
use crate::mutants::planted;
use crate::names::segment_name;
use crate::options::{MIN_SEGMENT_LEN_BYTES, Purpose, Stamp};
use crate::reserves::{ReserveKind, Reserves};
use crate::segment::Segment;
use crate::spares::{Spare, SpareFiles};
use crate::store_dir::StoreDir;

/// Prepares segments for commits.
#[derive(Debug)]
pub(crate) struct Successors {
    pub(crate) store: Arc<StoreDir>,
    pub(crate) lengths: Arc<FileLengths>,
    pub(crate) spares: Arc<SpareFiles>,
    pub(crate) reserves: Arc<Reserves>,
    pub(crate) manifest: Arc<ManifestFile>,
    pub(crate) tail: Arc<LogTail>,
}

/// The minimum length of a segment that can hold a commit of `len_bytes`.
pub(crate) fn segment_len_for(len_bytes: usize) -> Result<u32, SegmentError> {
    let limit = MAX_SEGMENT_LEN_BYTES - OVERHEAD_BYTES;
    let fits = u32::try_from(len_bytes).ok().filter(|len| *len <= limit);
    let len = fits.ok_or(SegmentError::TooLarge { len_bytes: len_bytes as u64, limit_bytes: limit.into() })?;
    Ok((len + OVERHEAD_BYTES).max(MIN_SEGMENT_LEN_BYTES))
}

impl Successors {
    /// Whether [`prepare_next`](Self::prepare_next) has work to do.
    pub(crate) fn wants_preparation(&self) -> bool {
        let tail = self.tail.lock();
        tail.wants_successor() || (tail.active.is_some() && !self.reserves.is_enough())
    }

    /// Creates the reserves, and prepares the active segment's successor.
    pub(crate) fn prepare_next(&self, stamp: Stamp) -> Result<bool, SegmentError> {
        self.store.poison.check()?;
        let _preparing = self.reserves.begin_preparing();
        let wants_successor = self.tail.lock().wants_successor();
        if !wants_successor && !self.wants_preparation() {
            return Ok(false);
        }
        let lengths = self.lengths.now(0)?;
        let len = self.lengths.next().min(lengths.segment);
        self.reserves.grow(lengths, 0, || {
            if wants_successor {
                let spare = self.spares.create_spare_within(len, 0)?;
                let prepared = self.prepare(spare, stamp, ManifestEdit::default())?;
                self.tail.lock().prepared = Some(prepared);
            }
            Ok(())
        })?;
        Ok(true)
    }

    /// Frees room if files are longer than needed now: shortens the reserves, and removes the
    /// prepared segment.
    pub(crate) fn trim(&self) -> Result<(), SegmentError> {
        self.store.poison.check()?;
        let _preparing = self.reserves.begin_preparing();
        self.reserves.trim(self.lengths.now(0)?)?;
        let wanted = self.lengths.next();
        let is_long = |capacity: u32| capacity / 2 > wanted;
        let prepared = self.tail.lock().prepared.take_if(|prepared| is_long(prepared.segment.capacity_bytes()));
        let Some(prepared) = prepared else { return Ok(()) };
        let id = prepared.segment.id();
        if let Err(error) = self.manifest.edit(Form::Shortest, |_| ManifestEdit::removing(id)) {
            self.tail.lock().prepared = Some(prepared);
            return Err(error);
        }
        remove_if_there(self.store.dir.as_ref(), &segment_name(id))
    }

    /// A segment for commits with room for `least` bytes, including header and seal. Fast if one is
    /// prepared.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], and nothing has changed.
    pub(crate) fn take_successor(&self, least: u32, purpose: Purpose, stamp: Stamp) -> Result<Prepared, SegmentError> {
        if let Some(prepared) = self.take_prepared(least, purpose) {
            return Ok(prepared);
        }
        // A background thread may be about to finish a successor.
        let _preparing = self.reserves.begin_preparing();
        let made = self.make_successor(least, purpose, stamp)?;
        self.tail.lock().is_rolling = true;
        Ok(made)
    }

    fn make_successor(&self, least: u32, purpose: Purpose, stamp: Stamp) -> Result<Prepared, SegmentError> {
        if let Some(prepared) = self.take_prepared(least, purpose) {
            return Ok(prepared);
        }
        let lengths = self.lengths.now(least)?;
        match purpose {
            Purpose::Grow => self.reserves.grow(lengths, least, || match self.take_prepared(least, purpose) {
                Some(prepared) => Ok(prepared),
                None => {
                    let spare = self.spares.create_spare_within(self.lengths.whole_segment(lengths, least), least)?;
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

    /// A file for deletes: a new one if the other reserves are complete, otherwise the tail's
    /// reserve.
    fn spare_for_deletes(&self, lengths: Lengths, least: u32) -> Result<Spare, SegmentError> {
        let full = SegmentError::Full { path: self.store.path().to_owned(), needed_bytes: least.into() };
        let made = if self.reserves.keep_all_but_the_tail(lengths)? {
            self.spares.create_spare_within(self.lengths.next().min(lengths.segment), least)
        } else {
            Err(full)
        };
        match made {
            Err(error) if error.is_full() => self.reserves.take_reserve(ReserveKind::Tail, least)?.ok_or(error),
            made => made,
        }
    }

    /// Gives a successor back after a roll that failed before its first write. The manifest names
    /// it, so it must be the next segment; no other was prepared meanwhile.
    pub(crate) fn give_successor_back(&self, successor: Prepared) {
        let mut tail = self.tail.lock();
        tail.is_rolling = false;
        if !planted("successor_lost") {
            tail.prepared = Some(successor);
        }
    }

    /// The bytes that [`take_successor`](Self::take_successor) would allocate for new data.
    pub(crate) fn room_for_roll(&self, len_bytes: usize) -> Result<u64, SegmentError> {
        let least = segment_len_for(len_bytes)?;
        let is_ready = self.tail.lock().prepared.as_ref().is_some_and(|prepared| prepared.fits(least));
        if is_ready && self.reserves.is_enough() {
            return Ok(0);
        }
        let lengths = self.lengths.now(least)?;
        let whole = if is_ready { 0 } else { self.lengths.whole_segment(lengths, least) };
        Ok(self.reserves.missing_bytes(lengths) + u64::from(whole))
    }

    /// The bytes that [`prepare_next`](Self::prepare_next) would allocate.
    pub(crate) fn room_to_prepare(&self) -> Result<u64, SegmentError> {
        let lengths = self.lengths.now(0)?;
        let successor = self.lengths.next().min(lengths.segment);
        let wants_successor = self.tail.lock().wants_successor();
        Ok(self.reserves.missing_bytes(lengths) + if wants_successor { successor.into() } else { 0 })
    }

    /// Prepares `spare`. Replaces the prepared segment, if there is one, because ids must follow
    /// the order of use.
    fn replace_prepared(&self, spare: Spare, stamp: Stamp) -> Result<Prepared, SegmentError> {
        let old = self.tail.lock().prepared.take();
        let without_old = old.as_ref().map(|prepared| ManifestEdit::removing(prepared.segment.id()));
        let made = self.prepare(spare, stamp, without_old.unwrap_or_default());
        match (made, old) {
            (Ok(prepared), Some(old)) => {
                match remove_if_there(self.store.dir.as_ref(), &segment_name(old.segment.id())) {
                    Ok(()) => Ok(prepared),
                    Err(error) => {
                        // The manifest names it, so it must be the next segment; otherwise an empty
                        // segment would stay in the middle of the log.
                        self.tail.lock().prepared = Some(prepared);
                        Err(error)
                    }
                }
            }
            (Err(error), old) => {
                self.tail.lock().prepared = old;
                Err(error)
            }
            (made, None) => made,
        }
    }

    /// Writes a header to a spare and adds it to the manifest, in one step with `edit`. If that
    /// fails without a change, removes the file.
    pub(crate) fn prepare(&self, mut spare: Spare, stamp: Stamp, edit: ManifestEdit) -> Result<Prepared, SegmentError> {
        let named = self.reserves.name_as_segment(&mut spare);
        let header = named.and_then(|id| self.next_header(id, stamp));
        let written = header.and_then(|header| {
            let writer = self.write_header(&mut spare, &header).map_err(|error| self.store.poison.latch(error))?;
            Ok((header, writer))
        });
        let (header, writer) = match written {
            Ok(written) => written,
            Err(error) => {
                self.reserves.discard(spare);
                return Err(error);
            }
        };
        let entry = SegmentEntry::of(&header, SegmentState::Open);
        let span = seq_span(spare.capacity_bytes());
        let next_seq = header.base_seq.saturating_add(if planted("seq_not_reserved") { 1 } else { span });
        let named = self.manifest.edit(Form::Shortest, |_| ManifestEdit {
            next_seq: Some(next_seq),
            max_version: edit.max_version.max(stamp.max_version),
            put: [edit.put, vec![entry]].concat(),
            ..edit
        });
        if let Err(error) = named {
            self.reserves.discard(spare);
            return Err(error);
        }
        self.lengths.note_segment(spare.capacity_bytes());
        let segment = Segment::new(self.store.path_of(&spare.name), header, Some(spare.file), spare.mapping);
        Ok(Prepared { segment: Arc::new(segment), writer })
    }

    fn next_header(&self, id: u32, stamp: Stamp) -> Result<SegmentHeader, SegmentError> {
        let salt = self.store.random()?;
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
            .map_err(|(_, error)| SegmentError::io_or_full("write", &self.store.path_of(&spare.name), len, error))?;
        if !planted("header_not_synced") {
            retry_interrupted(|| spare.file.sync_data())
                .map_err(|error| SegmentError::io("sync", &self.store.path_of(&spare.name), error))
                .map_err(|error| self.store.poison.latch_sync(error))?;
        }
        if !planted("segment_dir_not_synced") {
            self.store.sync().map_err(|error| self.store.poison.latch_sync(error))?;
        }
        spare
            .mapping
            .publish(&mut writer, FIRST_RECORD_AT as usize)
            .map_err(|error| SegmentError::Invalid { what: error.to_string() })?;
        Ok(writer)
    }
}
