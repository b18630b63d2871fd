//! Segments written by compaction. Each is a private file until it is complete and durable; then an
//! edit of the manifest installs it.

use std::sync::Arc;

use hightower_log::limits::MAX_SEGMENT_LEN_BYTES;
use hightower_log::{RecordContext, SegmentHeader, SegmentKind};

use crate::error::SegmentError;
use crate::fs::{Access, remove_if_there, retry_interrupted, write_all_at};
use crate::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::Form;
use crate::mapping::MapPermit;
use crate::mutants::planted;
use crate::names::segment_name;
use crate::options::{Purpose, Stamp};
use crate::parts::StoreParts;
use crate::segment::Segment;
use crate::spares::Spare;
use crate::table_list::NamedTables;

/// Length of the write buffer, in bytes.
const BUFFER_LEN_BYTES: usize = 256 << 10;

/// A writer of one compacted segment. Its memory does not depend on the segment's length. Dropping
/// it before [`finish`](Self::finish) removes the file.
#[derive(Debug)]
pub struct CompactedWriter {
    parts: Arc<StoreParts>,
    /// `None` after the finish.
    spare: Option<Spare>,
    header: SegmentHeader,
    context: RecordContext,
    buffer: Vec<u8>,
    flushed: u64,
    records: u64,
}

/// A complete and durable compacted segment that the manifest does not name yet: see
/// [`SegmentStore::install`](crate::SegmentStore::install).
#[derive(Clone, Debug)]
pub struct CompactedSegment {
    /// The segment, which is readable.
    pub segment: Arc<Segment>,
    /// Number of its commands.
    pub records: u64,
}

/// An atomic change of the set of live segments.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    /// Segments to add.
    pub add: Vec<CompactedSegment>,
    /// Ids of sealed segments to remove. Their files stay until
    /// [`SegmentStore::release`](crate::SegmentStore::release).
    pub remove: Vec<u32>,
    /// Whether removed segments with commits stay in the manifest as history, until
    /// [`SegmentStore::give_up_retained`](crate::SegmentStore::give_up_retained).
    pub retain: bool,
    /// The new list of tables, if it changes with the segments. As for
    /// [`SegmentStore::set_tables`](crate::SegmentStore::set_tables).
    pub tables: Option<NamedTables>,
}

/// The outcome of a release.
#[derive(Debug)]
pub enum Released {
    /// The file is removed.
    Removed,
    /// The segment is still in use: try again later.
    InUse(Arc<Segment>),
}

impl CompactedWriter {
    pub(crate) fn new(
        parts: &Arc<StoreParts>,
        capacity: u32,
        least: u32,
        purpose: Purpose,
        stamp: Stamp,
    ) -> Result<Self, SegmentError> {
        let _preparing = parts.reserves.begin_preparing();
        let file = || parts.reserves.compaction_file(capacity, least, purpose);
        let mut spare = if purpose == Purpose::Reclaim { parts.spares.maps.or_lend(file) } else { file() }?;
        let named = parts.reserves.name_as_segment(&mut spare).and_then(|id| Ok((id, parts.store.random()?)));
        let (id, salt) = match named {
            Ok(named) => named,
            Err(error) => {
                parts.reserves.discard(spare);
                return Err(error);
            }
        };
        let header = SegmentHeader {
            id,
            kind: SegmentKind::Compacted,
            features: 0,
            salt,
            base_seq: 0,
            base_version: stamp.max_version,
            base_timestamp: stamp.timestamp,
            created_ms: stamp.timestamp,
        };
        Ok(Self {
            parts: Arc::clone(parts),
            spare: Some(spare),
            context: header.context(),
            header,
            buffer: header.encode().to_vec(),
            flushed: 0,
            records: 0,
        })
    }

    /// Sets the base seq, before the first record. In a compacted segment, this is a seq above the
    /// commits of all its records. The default is 0, which means unknown.
    #[must_use]
    pub fn with_base_seq(self, base_seq: u64) -> Self {
        let header = SegmentHeader { base_seq, ..self.header };
        self.with_header(header)
    }

    /// Sets the bases of its records' versions and timestamps, before the first record. The default
    /// is the stamp of the creation. A record takes no more bytes here than in another segment with
    /// the same bases.
    #[must_use]
    pub fn with_record_bases(self, base_version: u64, base_timestamp: i64) -> Self {
        let created_ms = if planted("outputs_as_old_as_inputs") { base_timestamp } else { self.header.created_ms };
        let header = SegmentHeader { base_version, base_timestamp, created_ms, ..self.header };
        self.with_header(header)
    }

    fn with_header(mut self, header: SegmentHeader) -> Self {
        if self.records == 0 {
            (self.header, self.context) = (header, header.context());
            self.buffer = header.encode().to_vec();
        }
        self
    }

    /// The context for encoding its records.
    #[must_use]
    pub fn context(&self) -> &RecordContext {
        &self.context
    }

    /// The id of the segment.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.header.id
    }

    /// The offset of the next record.
    #[must_use]
    pub fn position(&self) -> u32 {
        u32::try_from(self.flushed + self.buffer.len() as u64).unwrap_or(MAX_SEGMENT_LEN_BYTES)
    }

    /// The remaining room of the file, in bytes.
    #[must_use]
    pub fn remaining_bytes(&self) -> u32 {
        let capacity = self.spare.as_ref().map_or(0, Spare::capacity_bytes);
        capacity.saturating_sub(self.position())
    }

    /// Adds one record: the concatenation of `parts`, encoded as relocated for
    /// [`position`](Self::position). Returns its offset.
    ///
    /// # Errors
    ///
    /// [`SegmentError::DoesNotFit`], without a change; [`SegmentError::Io`] if the device fails,
    /// which poisons the store.
    pub fn append(&mut self, parts: &[&[u8]]) -> Result<u32, SegmentError> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > self.remaining_bytes() as usize {
            let remaining_bytes = self.remaining_bytes().into();
            return Err(SegmentError::DoesNotFit { len_bytes: len as u64, remaining_bytes });
        }
        if self.buffer.len() + len > BUFFER_LEN_BYTES {
            self.flush()?;
        }
        let offset = self.position();
        parts.iter().for_each(|part| self.buffer.extend_from_slice(part));
        self.records += 1;
        Ok(offset)
    }

    fn flush(&mut self) -> Result<(), SegmentError> {
        self.parts.store.poison.check()?;
        let Some(spare) = &self.spare else { return Ok(()) };
        write_all_at(spare.file.as_ref(), &self.buffer, self.flushed).map_err(|(_, error)| {
            let error = SegmentError::io_or_full(
                "write",
                &self.parts.store.path_of(&spare.name),
                self.buffer.len() as u64,
                error,
            );
            self.parts.store.poison.latch(error)
        })?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the segment durable and readable.
    /// [`SegmentStore::install`](crate::SegmentStore::install) makes it part of the store.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`], [`SegmentError::Full`] or [`SegmentError::Poisoned`]; this call or the
    /// next open then removes the file.
    pub fn finish(mut self) -> Result<CompactedSegment, SegmentError> {
        self.flush()?;
        let Some(spare) = self.spare.take() else {
            return Err(SegmentError::Invalid { what: "the segment is finished".to_owned() });
        };
        let name = spare.name.clone();
        self.seal(spare).inspect_err(|_| self.remove(&name))
    }

    fn seal(&self, Spare { name, file, mapping }: Spare) -> Result<CompactedSegment, SegmentError> {
        drop(mapping);
        let len = self.position();
        let parts = &self.parts;
        let path = parts.store.path_of(&name);
        let io = |operation, error| SegmentError::io(operation, &path, error);
        file.set_len(len.into())
            .map_err(|error| parts.store.poison.latch(SegmentError::io_or_full("cut", &path, len.into(), error)))?;
        if !planted("output_not_synced") {
            let synced = retry_interrupted(|| file.sync_data()).map_err(|error| io("sync", error));
            synced.and_then(|()| parts.store.sync()).map_err(|error| parts.store.poison.latch_sync(error))?;
        }
        parts.lengths.note_segment(len);
        let mapping = parts.spares.maps.or_lend(|| {
            let mapping = file.map(len as usize, Access::Read, MapPermit::of_store());
            mapping.map_err(|error| SegmentError::io("map", &path, error))
        })?;
        let segment = Segment::new(path, self.header, None, mapping).published(len)?;
        segment.raise_durable(len);
        Ok(CompactedSegment { segment: Arc::new(segment), records: self.records })
    }
}

impl CompactedWriter {
    /// Removes the file, which no manifest names. Its room may be needed, first for the reserve
    /// that it may have been. If this fails, the next open removes the file, and the caller returns
    /// the first error.
    fn remove(&self, name: &str) {
        let _preparing = self.parts.reserves.begin_preparing();
        let _taken = self.parts.reserves.take_back(name, SegmentKind::Compacted);
        let _refilled = self.parts.reserves.refill_while_preparing();
    }
}

impl Drop for CompactedWriter {
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            let Spare { name, file, mapping } = spare;
            drop((file, mapping));
            self.remove(&name);
        }
    }
}

/// See [`SegmentStore::install`](crate::SegmentStore::install).
pub(crate) fn install(parts: &StoreParts, edit: &Edit) -> Result<(), SegmentError> {
    check_edit(parts, edit)?;
    if let Some(tables) = &edit.tables {
        check_tables(parts, tables)?;
    }
    if planted("inputs_go_first") {
        edit.remove.iter().try_for_each(|id| remove_if_there(parts.store.dir.as_ref(), &segment_name(*id)))?;
    }
    let added = edit.add.iter().map(|CompactedSegment { segment, records }| {
        let state = SegmentState::Sealed { len_bytes: segment.len_bytes(), records: *records, commits: 0 };
        SegmentEntry::of(segment.header(), state)
    });
    parts.manifest.edit(Form::Shortest, |manifest| {
        let (mut given_up, mut put) = (Vec::new(), added.collect::<Vec<_>>());
        let mut complete_after = 0;
        for entry in edit.remove.iter().filter_map(|id| manifest.segment(*id)) {
            match entry.to_retained().filter(|_| edit.retain) {
                Some(retained) => put.push(retained),
                None => {
                    given_up.push(entry.id);
                    complete_after = complete_after.max(last_seq(entry).unwrap_or(0));
                }
            }
        }
        ManifestEdit { complete_after, remove: given_up, put, tables: edit.tables.clone(), ..ManifestEdit::default() }
    })?;
    edit.add.iter().for_each(|added| added.segment.mark_sealed());
    Ok(())
}

fn last_seq(entry: &SegmentEntry) -> Option<u64> {
    entry.last_seq().filter(|_| !planted("history_stays_complete"))
}

/// Checks that a list of tables can follow the current one.
pub(crate) fn check_tables(parts: &StoreParts, tables: &NamedTables) -> Result<(), SegmentError> {
    let mut after = Manifest::clone(&parts.manifest.lock());
    let known = |id: u32| after.tables.newest_first.iter().any(|table| table.id == id);
    let unknown =
        tables.newest_first.iter().find(|table| !known(table.id) && !parts.store.has_taken_table_id(table.id));
    if let Some(table) = unknown {
        return Err(SegmentError::Invalid { what: format!("table id {} is not a new one of this store", table.id) });
    }
    after.next_segment_id = parts.store.next_id();
    after.apply(&ManifestEdit { tables: Some(tables.clone()), ..ManifestEdit::default() });
    after.check_tables().map_err(|what| SegmentError::Invalid { what: what.to_owned() })
}

fn check_edit(parts: &StoreParts, edit: &Edit) -> Result<(), SegmentError> {
    let manifest = parts.manifest.lock();
    for id in &edit.remove {
        let sealed = manifest.segment(*id).is_some_and(|entry| entry.state != SegmentState::Open);
        if !sealed {
            return Err(SegmentError::Invalid { what: format!("segment {id} is not a sealed segment of this store") });
        }
    }
    for added in &edit.add {
        let id = added.segment.id();
        if added.segment.kind() != SegmentKind::Compacted || manifest.names_segment(id) {
            return Err(SegmentError::Invalid {
                what: format!("segment {id} cannot be added: it is not a new compacted segment"),
            });
        }
    }
    Ok(())
}

/// See [`SegmentStore::abandon`](crate::SegmentStore::abandon).
pub(crate) fn abandon(parts: &StoreParts, output: CompactedSegment) -> Result<(), SegmentError> {
    let id = output.segment.id();
    if parts.manifest.lock().names_segment(id) {
        return Err(SegmentError::Invalid { what: format!("segment {id} is named in the manifest") });
    }
    let _preparing = parts.reserves.begin_preparing();
    parts.reserves.end_unnamed(output.segment)?;
    let _refilled = parts.reserves.refill_while_preparing();
    Ok(())
}

/// See [`SegmentStore::release`](crate::SegmentStore::release).
pub(crate) fn release(parts: &StoreParts, segment: Arc<Segment>) -> Result<Released, SegmentError> {
    if parts.manifest.lock().names_segment(segment.id()) {
        let what = format!("segment {} is still named in the manifest: install its removal first", segment.id());
        return Err(SegmentError::Invalid { what });
    }
    if Arc::strong_count(&segment) != 1 {
        return Ok(Released::InUse(segment));
    }
    let name = segment_name(segment.id());
    // Its room becomes free when both its map and its name are removed.
    drop(segment);
    remove_if_there(parts.store.dir.as_ref(), &name)?;
    // The file is removed even if the reserves cannot be created; the next growth creates them.
    let _refilled = parts.reserves.refill();
    Ok(Released::Removed)
}
