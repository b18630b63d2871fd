//! Recovery: from the files of an earlier writer to the promised state.
//!
//! The manifest names the segments and states which are sealed. The others were at the tail of the
//! log when the writer ended; recovery reads them commit by commit, in the order of their ids. The
//! first incomplete commit ends the log. If a later record proves that this commit had been
//! durable, it is damage. The rules are in the project's `docs/FORMAT.md` under "Recovery", and the
//! cases of an open in `docs/DURABILITY.md`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hightower_log::{RecordContext, SegmentHeader, SegmentKind};

use crate::commit_history::LostCommits;
use crate::error::{Damage, SegmentError};
use crate::file_header::entry_from_header;
use crate::fs::{Access, Dir, File, read_full_at, write_all_at};
use crate::layout::{FIRST_RECORD_AT, seq_span, to_offset};
use crate::manifest::{Content, MAX_LEN_BYTES, Manifest, SegmentEntry, SegmentState};
use crate::manifest_reader::ManifestError;
use crate::mapping::MapPermit;
use crate::mutants::planted;
use crate::names::{
    MANIFEST, UNFINISHED, is_garbage_when_unnamed, is_reserve, segment_id, segment_name, segment_path, table_id,
};
use crate::report::{RecoveryReport, SegmentOutcome, SegmentReport};
use crate::scan::{LogEnd, find_tail, look_beyond};
use crate::segment::Segment;
use crate::table_list::CoveredPosition;

/// A segment of an earlier writer.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) segment: Segment,
    pub(crate) entry: SegmentEntry,
    /// The length of the file, which may be more than that of its valid part.
    pub(crate) file_len: u64,
}

/// The files of an earlier writer, after applying the recovery rules. Nothing has been changed yet.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) live: Vec<Found>,
    /// Segments without a valid part.
    pub(crate) dropped: Vec<SegmentEntry>,
    /// The retained segments, the oldest first.
    pub(crate) retained: Vec<Segment>,
    /// Retained segments that are missing or damaged, and those of earlier commits.
    pub(crate) lost_history: Vec<SegmentEntry>,
    /// The seqs that the crash may have taken.
    pub(crate) lost: Option<LostCommits>,
    pub(crate) report: RecoveryReport,
}

/// Reads the manifest; `None` if the directory has no store.
///
/// # Errors
///
/// [`SegmentError::MissingManifest`] if there are segments; [`SegmentError::Corrupt`] or
/// [`SegmentError::VersionUnsupported`]. Refuses a directory with an incomplete copy of a store.
pub(crate) fn refuse_unfinished(dir: &dyn Dir, names: &[String]) -> Result<(), SegmentError> {
    if names.iter().any(|name| name == UNFINISHED) && !planted("unfinished_ignored") {
        return Err(SegmentError::Unfinished { dir: dir.path().to_owned() });
    }
    Ok(())
}

pub(crate) fn read_manifest(dir: &dyn Dir, names: &[String]) -> Result<Option<Manifest>, SegmentError> {
    let path = dir.path().join(MANIFEST);
    let file = match dir.open(MANIFEST, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let segments = names.iter().any(|name| segment_id(name).is_some());
            return if segments { Err(SegmentError::MissingManifest { path }) } else { Ok(None) };
        }
        Err(error) => return Err(SegmentError::io("open", &path, error)),
    };
    let bytes = manifest_bytes(file.as_ref(), &path)?;
    let manifest = Manifest::decode(&bytes).map_err(|error| manifest_error(&path, error))?;
    if has_lost_an_edit(dir, names, &manifest)? && !planted("lost_edit_unnoticed") {
        let damage = Damage::Manifest("it has lost an edit: it does not name a segment that has commits");
        return Err(SegmentError::corrupt(&path, bytes.len() as u64, damage));
    }
    Ok(Some(manifest))
}

/// All bytes of a manifest's file.
pub(crate) fn manifest_bytes(file: &dyn File, path: &Path) -> Result<Vec<u8>, SegmentError> {
    let len = file.metadata().map_err(|error| SegmentError::io("look at", path, error))?.len_bytes;
    let len = usize::try_from(len).ok().filter(|len| *len <= MAX_LEN_BYTES);
    let len = len.ok_or_else(|| SegmentError::corrupt(path, 0, Damage::Manifest("it is longer than any manifest")))?;
    let mut bytes = vec![0; len];
    let read = read_full_at(file, &mut bytes, 0).map_err(|error| SegmentError::io("read", path, error))?;
    bytes.truncate(read);
    Ok(bytes)
}

pub(crate) fn manifest_error(path: &Path, error: ManifestError) -> SegmentError {
    match error {
        ManifestError::Damaged { offset, reason } => SegmentError::corrupt(path, offset, Damage::Manifest(reason)),
        newer => SegmentError::VersionUnsupported { path: path.to_owned(), what: newer.to_string() },
    }
}

/// Whether the manifest has lost an edit at its end that named a segment with commits. The edit
/// that names a segment also raises the next seq, and comes before the segment's first commit. So
/// if a segment's base seq is not below the manifest's next seq, it has commits only if that edit
/// was lost.
///
/// Only a manifest that names an open segment has edits. A manifest without one is complete: its
/// store was closed, or it is a backup, whose directory may have files of the next backup.
fn has_lost_an_edit(dir: &dyn Dir, names: &[String], manifest: &Manifest) -> Result<bool, SegmentError> {
    if manifest.segments.iter().all(|entry| entry.state != SegmentState::Open) {
        return Ok(false);
    }
    let unnamed = names.iter().filter_map(|name| segment_id(name)).filter(|id| !manifest.names_segment(*id));
    for id in unnamed {
        let entry = entry_from_header(dir, id)?;
        let begins_there =
            |entry: &SegmentEntry| entry.kind == SegmentKind::Append && entry.base_seq >= manifest.next_seq;
        let Some(entry) = entry.filter(begins_there) else { continue };
        match find(dir, entry, true) {
            Ok(found) if found.segment.record_at(FIRST_RECORD_AT).is_ok() => return Ok(true),
            Err(error) if error.is_shortage() => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// The purpose of a survey.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Writing: recovered bytes will be rewritten.
    Write,
    /// Reading only; damage is an error.
    Look,
    /// Reading only; damage goes into the report.
    Salvage,
}

/// Opens every segment that the manifest names and applies the recovery rules.
///
/// # Errors
///
/// [`SegmentError::MissingSegment`], [`SegmentError::Corrupt`],
/// [`SegmentError::VersionUnsupported`] or [`SegmentError::Io`].
pub(crate) fn survey(
    dir: &dyn Dir,
    names: &[String],
    manifest: &Manifest,
    intent: Intent,
) -> Result<Survey, SegmentError> {
    let salvage = intent == Intent::Salvage;
    let report = RecoveryReport {
        generation: manifest.generation,
        max_version: manifest.max_version,
        garbage: garbage(names, manifest),
        ..RecoveryReport::default()
    };
    let mut survey = Survey {
        live: Vec::new(),
        dropped: Vec::new(),
        retained: Vec::new(),
        lost_history: Vec::new(),
        lost: None,
        report,
    };
    let mut open = Vec::new();
    for entry in &manifest.segments {
        let found = match find(dir, *entry, salvage) {
            Ok(found) => found,
            // A segment that could not be read for lack of memory or descriptors is not damaged.
            Err(error) if salvage && (!error.is_shortage() || planted("shortage_is_damage")) => {
                survey.report.damage.push(error);
                continue;
            }
            Err(SegmentError::MissingSegment { .. }) if planted("missing_segment_ignored") => continue,
            Err(error) => return Err(error),
        };
        match entry.state {
            SegmentState::Open => open.push(found),
            SegmentState::Sealed { .. } => survey.keep_sealed(found),
            SegmentState::Retained { .. } => {}
        }
    }
    if !salvage {
        survey.find_retained(dir, &manifest.retained)?;
    }
    survey.report.unclean = !open.is_empty();
    survey.recover(dir, open, manifest, intent)?;
    // Open segments were added last; the order is oldest first.
    survey.live.sort_by_key(|found| found.entry.id);
    survey.report.segments.sort_by_key(|segment| segment.id);
    Ok(survey)
}

fn garbage(names: &[String], manifest: &Manifest) -> Vec<String> {
    let is_table = |id: u32| manifest.tables.newest_first.iter().any(|table| table.id == id);
    let named = |name: &String| {
        segment_id(name).is_some_and(|id| manifest.names_segment(id)) || table_id(name).is_some_and(is_table)
    };
    let is_garbage =
        |name: &&String| is_garbage_when_unnamed(name) && !is_reserve(name) && !named(name) && !planted("garbage_kept");
    names.iter().filter(is_garbage).cloned().collect()
}

/// Opens, maps and identifies one segment. The published length of a sealed segment is the
/// manifest's, of an open one the file's.
pub(crate) fn find(dir: &dyn Dir, entry: SegmentEntry, salvage: bool) -> Result<Found, SegmentError> {
    let path = segment_path(dir.path(), entry.id);
    let file = match dir.open(&segment_name(entry.id), Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(SegmentError::MissingSegment { path }),
        Err(error) => return Err(SegmentError::io("open", &path, error)),
    };
    let file_len = file.metadata().map_err(|error| SegmentError::io("look at", &path, error))?.len_bytes;
    let len = match entry.state {
        SegmentState::Open => u32::try_from(file_len).unwrap_or(u32::MAX),
        SegmentState::Sealed { len_bytes, .. } | SegmentState::Retained { len_bytes, .. }
            if file_len < len_bytes.into() && !salvage =>
        {
            let damage = Damage::Short { expected: len_bytes.into(), found: file_len };
            return Err(SegmentError::corrupt(&path, file_len, damage));
        }
        SegmentState::Sealed { len_bytes, .. } | SegmentState::Retained { len_bytes, .. } => {
            len_bytes.min(to_offset(usize::try_from(file_len).unwrap_or(usize::MAX)))
        }
    };
    let header = match read_header(file.as_ref(), &path, &entry) {
        Ok(header) => header,
        // The manifest has all fields of the header.
        Err(_) if salvage => header_of(&entry),
        Err(error) => return Err(error),
    };
    let mapping = file
        .map(len as usize, Access::Read, MapPermit::of_store())
        .map_err(|error| SegmentError::io("map", &path, error))?;
    let segment = Segment::new(path, header, None, mapping).published(len)?;
    Ok(Found { segment, entry, file_len })
}

pub(crate) fn read_header(file: &dyn File, path: &Path, entry: &SegmentEntry) -> Result<SegmentHeader, SegmentError> {
    let mut bytes = [0; SegmentHeader::LEN];
    let read = read_full_at(file, &mut bytes, 0).map_err(|error| SegmentError::io("read", path, error))?;
    let header = SegmentHeader::decode(bytes.get(..read).unwrap_or_default())
        .map_err(|error| SegmentError::decode(path, 0, error))?;
    let expected = header_of(entry);
    let fields = [
        ("id", expected.id.into(), u64::from(header.id)),
        ("salt", expected.salt, header.salt),
        ("kind", u64::from(expected.kind == SegmentKind::Compacted), u64::from(header.kind == SegmentKind::Compacted)),
        ("base seq", expected.base_seq, header.base_seq),
        ("base version", expected.base_version, header.base_version),
        ("base timestamp", expected.base_timestamp.cast_unsigned(), header.base_timestamp.cast_unsigned()),
        ("time of creation", expected.created_ms.cast_unsigned(), header.created_ms.cast_unsigned()),
    ];
    match fields.into_iter().find(|(_, expected, found)| expected != found && !planted("header_unchecked")) {
        Some((field, expected, found)) => {
            Err(SegmentError::corrupt(path, 0, Damage::Misplaced { field, expected, found }))
        }
        None => Ok(header),
    }
}

fn header_of(entry: &SegmentEntry) -> SegmentHeader {
    SegmentHeader {
        id: entry.id,
        kind: entry.kind,
        features: 0,
        salt: entry.salt,
        base_seq: entry.base_seq,
        base_version: entry.base_version,
        base_timestamp: entry.base_timestamp,
        created_ms: entry.created_ms,
    }
}

/// Notes in a segment that its entry is sealed.
pub(crate) fn mark_sealed(segment: &Segment, entry: &SegmentEntry) {
    let (SegmentState::Sealed { commits, .. } | SegmentState::Retained { commits, .. }) = entry.state else { return };
    if entry.kind == SegmentKind::Append {
        segment.end_with(commits);
    }
    segment.raise_durable(segment.len_bytes());
    segment.mark_sealed();
}

impl Survey {
    fn keep_sealed(&mut self, found: Found) {
        let SegmentState::Sealed { records, .. } = found.entry.state else { return };
        let len_bytes = found.segment.len_bytes();
        mark_sealed(&found.segment, &found.entry);
        self.report.segments.push(SegmentReport {
            id: found.entry.id,
            kind: found.entry.kind,
            outcome: SegmentOutcome::Sealed,
            records,
            len_bytes,
            dropped_bytes: 0,
            reason: None,
        });
        self.live.push(found);
    }

    /// Opens the retained segments. The history begins behind one that is missing or damaged.
    fn find_retained(&mut self, dir: &dyn Dir, entries: &[SegmentEntry]) -> Result<(), SegmentError> {
        for entry in entries {
            match find(dir, *entry, false) {
                Ok(Found { segment, .. }) => {
                    mark_sealed(&segment, entry);
                    self.retained.push(segment);
                }
                Err(error) if error.is_shortage() => return Err(error),
                Err(error) => {
                    self.report.history_damage = Some(error);
                    let end = entries.partition_point(|other| other.id <= entry.id);
                    self.lost_history = entries.get(..end).unwrap_or_default().to_vec();
                    self.retained.clear();
                }
            }
        }
        let names = self.lost_history.iter().map(|entry| segment_name(entry.id));
        self.report.garbage.extend(names);
        Ok(())
    }

    /// Finds the end of the log in the unsealed segments, which are in the order of their ids.
    fn recover(
        &mut self,
        dir: &dyn Dir,
        open: Vec<Found>,
        manifest: &Manifest,
        intent: Intent,
    ) -> Result<(), SegmentError> {
        for found in &open {
            // The whole segment will be read, parts of it twice.
            found.segment.mapping().read_in_order();
        }
        let tails: Vec<LogEnd> =
            open.iter().map(|found| find_tail(found.segment.bytes_from(0), found.segment.context())).collect();
        let end = tails.iter().position(|tail| !tail.sealed).unwrap_or(tails.len());
        let witness = witness(&open, &tails, end).or_else(|| lost_below(&open, &tails, end, manifest.tables.covered));
        if let Some(error) = witness {
            if intent != Intent::Salvage {
                return Err(error);
            }
            self.report.damage.push(error);
        }
        self.lost = open.get(end).zip(tails.get(end)).and_then(|(found, tail)| {
            // The last seq that a segment can hand out is below the next one's base seq less 1.
            let (from, to) = (found.entry.base_seq.saturating_add(tail.commits), manifest.next_seq.saturating_sub(1));
            (from < to && manifest.content == Content::KeyValue).then_some(LostCommits { from, to })
        });
        // An upper bound of the lost commits, whose seqs and versions must not be used again: the
        // number that fits after the valid part.
        let mut undone = 0;
        for (index, (found, tail)) in open.into_iter().zip(tails).enumerate() {
            self.report.max_version = self.report.max_version.max(if index <= end { tail.max_version } else { 0 });
            let room = u32::try_from(found.file_len).unwrap_or(u32::MAX);
            undone += seq_span(if index <= end { room.saturating_sub(tail.end) } else { room });
            let counts = index <= end || planted("keep_later_segments");
            self.settle(dir, found, &tail, counts, intent)?;
        }
        // If the numbers run out, the store can assign no more, which is better than a duplicate.
        let undone = if planted("version_floor_ignored") { 0 } else { undone };
        self.report.version_floor = self.report.max_version.saturating_add(undone);
        Ok(())
    }

    /// Keeps the valid part of an unsealed segment, or drops the segment.
    fn settle(
        &mut self,
        dir: &dyn Dir,
        found: Found,
        tail: &LogEnd,
        counts: bool,
        intent: Intent,
    ) -> Result<(), SegmentError> {
        let bytes = found.segment.bytes_from(0);
        let context = found.segment.context();
        let end = if counts { tail.end } else { FIRST_RECORD_AT };
        let beyond = look_beyond(bytes, context, end, end);
        let kept = counts && tail.commits > 0;
        self.report.segments.push(SegmentReport {
            id: found.entry.id,
            kind: found.entry.kind,
            outcome: if kept { SegmentOutcome::Recovered } else { SegmentOutcome::Dropped },
            records: if counts { tail.records } else { 0 },
            len_bytes: end,
            dropped_bytes: beyond.end.saturating_sub(end),
            reason: (beyond.end > end).then(|| tail.stop.1.clone()),
        });
        if intent == Intent::Salvage {
            // The whole file stays readable for a scan.
            self.live.push(found);
            return Ok(());
        }
        if !kept {
            self.dropped.push(found.entry);
            return Ok(());
        }
        let commits = u32::try_from(tail.commits).unwrap_or(u32::MAX);
        let state = SegmentState::Sealed { len_bytes: end, records: tail.records, commits };
        let entry = SegmentEntry { state, ..found.entry };
        let (path, header) = (found.segment.path().to_owned(), *found.segment.header());
        drop(found.segment);
        let to_write = intent == Intent::Write;
        let file = if to_write { rewrite(dir, &path, header.id, end) } else { open(dir, header.id, Access::Read) }?;
        // Mapped again, with the valid part only.
        let mapping = file
            .map(end as usize, Access::Read, MapPermit::of_store())
            .map_err(|error| SegmentError::io("map", &path, error))?;
        let segment = Segment::new(path, header, to_write.then_some(file), mapping).published(end)?;
        segment.end_with(commits);
        self.live.push(Found { segment, entry, file_len: found.file_len });
        Ok(())
    }
}

fn open(dir: &dyn Dir, id: u32, access: Access) -> Result<Arc<dyn File>, SegmentError> {
    dir.open(&segment_name(id), access).map_err(|error| SegmentError::io("open", &segment_path(dir.path(), id), error))
}

/// Rewrites the first `end` bytes of a file in place.
///
/// If an earlier sync of the file failed, the kernel may treat pages as clean that never reached
/// the disk. They are readable, but another sync would not write them. Rewritten pages are dirty,
/// so the next sync writes them.
fn rewrite(dir: &dyn Dir, path: &Path, id: u32, end: u32) -> Result<Arc<dyn File>, SegmentError> {
    const STEP: usize = 1 << 20;
    let file = open(dir, id, Access::Write)?;
    if planted("recovered_tail_not_rewritten") {
        return Ok(file);
    }
    let mut buffer = vec![0; STEP.min(end as usize)];
    let mut at = 0;
    while at < end as usize {
        let step = STEP.min(end as usize - at);
        let chunk = buffer.get_mut(..step).unwrap_or_default();
        let read =
            read_full_at(file.as_ref(), chunk, at as u64).map_err(|error| SegmentError::io("read", path, error))?;
        if read < step {
            let damage = Damage::Short { expected: end.into(), found: (at + read) as u64 };
            return Err(SegmentError::corrupt(path, (at + read) as u64, damage));
        }
        write_all_at(file.as_ref(), chunk, at as u64)
            .map_err(|(_, error)| SegmentError::io_or_full("write", path, end.into(), error))?;
        at += step;
    }
    Ok(file)
}

/// The error of a log that ends before the position that tables cover: the log was durable up to
/// there when the manifest named them.
fn lost_below(open: &[Found], tails: &[LogEnd], end: usize, covered: CoveredPosition) -> Option<SegmentError> {
    let (found, tail) = (open.get(end)?, tails.get(end)?);
    let CoveredPosition { segment, offset, .. } = covered;
    if (found.entry.id, tail.end) >= (segment, offset) || planted("covered_log_may_end") {
        return None;
    }
    let damage = Damage::CoveredLost { source: tail.stop.1.clone(), segment, offset };
    Some(SegmentError::corrupt(found.segment.path(), tail.end.into(), damage))
}

/// Searches for a record whose durable offset lies beyond the end of the log, which is in segment
/// `end`.
fn witness(open: &[Found], tails: &[LogEnd], end: usize) -> Option<SegmentError> {
    if planted("witness_ignored") {
        return None;
    }
    let (found, tail) = (open.get(end)?, tails.get(end)?);
    let look = |found: &Found, from: u32, known: u32| {
        let context: &RecordContext = found.segment.context();
        look_beyond(found.segment.bytes_from(0), context, from, known).witness.map(|durable| (durable, found.entry.id))
    };
    let later = open.get(end + 1..).unwrap_or_default();
    let known = if planted("holes_are_damage") { 0 } else { tail.end };
    let (durable, witness) =
        look(found, tail.end, known).or_else(|| later.iter().find_map(|found| look(found, FIRST_RECORD_AT, 0)))?;
    let damage = Damage::DurableLost { source: tail.stop.1.clone(), durable, witness };
    Some(SegmentError::corrupt(found.segment.path(), tail.end.into(), damage))
}
