//! The last steps of an open for writing: make the recovered records durable, and start a new
//! segment.

use std::sync::Arc;

use hightower_log::SegmentKind;

use crate::appender::{Appender, Takes};
use crate::commit_history::LostCommits;
use crate::error::SegmentError;
use crate::fs::{Access, remove_if_there, retry_interrupted};
use crate::layout::FIRST_RECORD_AT;
use crate::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::Form;
use crate::mutants::planted;
use crate::names::segment_name;
use crate::options::{MIN_SEGMENT_LEN_BYTES, Stamp};
use crate::parts::StoreParts;
use crate::recovery::Found;
use crate::report::RecoveryReport;
use crate::reserves::ReserveKind;
use crate::segment::Segment;
use crate::spares::Spare;

/// A store that was read and found whole, but not changed yet. Replay its segments, then call
/// [`finish`](Self::finish).
#[derive(Debug)]
pub struct Recovery {
    pub(crate) parts: Arc<StoreParts>,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The segments, and the lengths of their files, which may reach past the valid records.
    pub(crate) files: Vec<(Arc<Segment>, Recovered)>,
    pub(crate) dropped: Vec<u32>,
    pub(crate) retained: Vec<Arc<Segment>>,
    pub(crate) lost_history: Vec<SegmentEntry>,
    pub(crate) lost: Option<LostCommits>,
    pub(crate) report: RecoveryReport,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Recovered {
    newly_sealed: Option<SegmentState>,
    file_len: u64,
}

pub(crate) fn recovered(found: Found, before: Option<SegmentState>) -> (Arc<Segment>, Recovered) {
    let newly_sealed = (before == Some(SegmentState::Open)).then_some(found.entry.state);
    (Arc::new(found.segment), Recovered { newly_sealed, file_len: found.file_len })
}

impl Recovery {
    /// The live segments, oldest first. Replay every command in them, in any order: the highest
    /// version of a key wins. The `Arc`s may be kept and read from several threads at once.
    #[must_use]
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// The segments that compaction has removed and that are kept as history, the oldest first.
    /// They must not be replayed.
    #[must_use]
    pub fn retained(&self) -> &[Arc<Segment>] {
        &self.retained
    }

    /// The report of the recovery.
    #[must_use]
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Makes the recovered records durable, seals their segments, removes garbage files and
    /// segments without valid records, and starts a new segment. `stamp` has the maximum of the
    /// highest replayed version and the report's `version_floor`.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`] or [`SegmentError::Io`]. The store's content is then unchanged, and
    /// it can be opened again.
    pub fn finish(self, stamp: Stamp) -> Result<(Appender, RecoveryReport), SegmentError> {
        let Self { parts, segments, files, dropped, lost_history, lost, report, .. } = self;
        // The manifest may state only synced pages as durable.
        for (segment, _) in files.iter().filter(|(_, recovered)| recovered.newly_sealed.is_some()) {
            if !planted("recovered_tail_not_synced") {
                let file = segment.file()?;
                retry_interrupted(|| file.sync_data())
                    .map_err(|error| SegmentError::io("sync", segment.path(), error))?;
            }
            segment.raise_durable(segment.len_bytes());
        }
        for name in &report.garbage {
            remove_if_there(parts.store.dir.as_ref(), name)?;
        }
        let sealed = |manifest: &Manifest| {
            let newly = files.iter().filter_map(|(segment, recovered)| {
                let state = recovered.newly_sealed?;
                manifest.segment(segment.id()).map(|entry| SegmentEntry { state, ..*entry })
            });
            newly.collect()
        };
        let edit = ManifestEdit {
            remove: dropped.iter().copied().chain(lost_history.iter().map(|entry| entry.id)).collect(),
            complete_after: lost_history.iter().filter_map(SegmentEntry::last_seq).max().unwrap_or(0),
            put: sealed(&parts.manifest.lock()),
            lost,
            max_version: report.max_version.max(stamp.max_version),
            ..ManifestEdit::default()
        };
        // This comes first, before other files take the room.
        parts.reserves.adopt_all()?;
        let lengths = parts.lengths.now(0)?;
        parts.reserves.keep_segments(lengths)?;
        let len = parts.lengths.next().min(lengths.segment);
        let (spare, takes) = match parts.spares.create_spare_within(len, 0) {
            Err(error) if error.is_full() => {
                // Removes dropped segments first, which frees room.
                parts.manifest.edit(Form::Shortest, |_| edit.clone())?;
                dropped.iter().try_for_each(|id| parts.reserves.take_back(&segment_name(*id), SegmentKind::Append))?;
                tidy(&parts, &files, &dropped)?;
                first_spare(&parts, len, error)?
            }
            made => (made?, Takes::Commits),
        };
        let prepared = parts.successors.prepare(spare, stamp, edit)?;
        // All earlier segments are durable, and sealed in the manifest.
        prepared.segment.raise_durable(FIRST_RECORD_AT);
        for (segment, _) in &files {
            segment.mark_sealed();
            segment.close_file();
        }
        tidy(&parts, &files, &dropped)?;
        drop(segments);
        Ok((Appender::new(parts, prepared, takes), report))
    }
}

/// A file for the first segment on a full device, and the commits that it takes.
fn first_spare(parts: &StoreParts, len: u32, error: SegmentError) -> Result<(Spare, Takes), SegmentError> {
    parts.reserves.keep_segments(parts.lengths.now(0)?)?;
    match parts.spares.create_spare_within(len, 0) {
        Err(full) if full.is_full() => {}
        made => return Ok((made?, Takes::Commits)),
    }
    let in_order = [
        (ReserveKind::Tail, Takes::Commits),
        (ReserveKind::Opening, Takes::Nothing),
        // A store that can only shrink is better than none.
        (ReserveKind::Compaction, Takes::Commits),
    ];
    for (reserve, takes) in in_order {
        if planted("openings_use_up_reserves") && takes == Takes::Nothing {
            continue;
        }
        if let Some(spare) = parts.reserves.take_reserve(reserve, MIN_SEGMENT_LEN_BYTES)? {
            return Ok((spare, takes));
        }
    }
    if parts.reserves.give_up_room() {
        Ok((parts.spares.create_spare_within(len, 0)?, Takes::Commits))
    } else {
        Err(error)
    }
}

/// Removes the files of segments without valid records.
fn remove_dropped(parts: &StoreParts, dropped: &[u32]) -> Result<(), SegmentError> {
    dropped.iter().try_for_each(|id| remove_if_there(parts.store.dir.as_ref(), &segment_name(*id)))
}

/// Removes the files of dropped segments, and frees the room after the records of sealed ones.
fn tidy(parts: &StoreParts, files: &[(Arc<Segment>, Recovered)], dropped: &[u32]) -> Result<(), SegmentError> {
    remove_dropped(parts, dropped)?;
    for (segment, recovered) in files {
        let len = u64::from(segment.len_bytes());
        if recovered.file_len <= len {
            continue;
        }
        let path = segment.path();
        let file = parts.store.dir.open(&segment_name(segment.id()), Access::Write);
        let file = file.map_err(|error| SegmentError::io("open", path, error))?;
        file.set_len(len).map_err(|error| SegmentError::io("cut", path, error))?;
    }
    Ok(())
}
