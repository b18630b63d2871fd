//! The end of an open for writing: makes the recovered records durable and begins the first
//! segment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hightower_log::SegmentKind;

use crate::appender::{Appender, Takes};
use crate::error::SegmentError;
use crate::fs::{Access, remove_if_there, retry_interrupted};
use crate::manifest::{SegmentEntry, SegmentState};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::{Form, ManifestFile};
use crate::mutants::planted;
use crate::names::segment_name;
use crate::options::Stamp;
use crate::recovery::Found;
use crate::report::RecoveryReport;
use crate::reserves::ReserveKind;
use crate::segment::{FIRST_RECORD_AT, Segment};
use crate::shared::Shared;
use crate::spares::Spare;

/// A store that was read and found whole, and is unchanged so far. Replay its segments, then call
/// [`finish`](Self::finish).
#[derive(Debug)]
pub struct Recovery {
    pub(crate) shared: Arc<Shared>,
    pub(crate) segments: Vec<Arc<Segment>>,
    /// The segments with the lengths of their files, which may reach past the valid records.
    pub(crate) files: Vec<(Arc<Segment>, Recovered)>,
    pub(crate) dropped: Vec<u32>,
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
    /// The live segments, oldest first. Every command in them counts, in any order: the highest
    /// version of a key wins. Their `Arc`s may be kept, and read from several threads at once.
    #[must_use]
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// What the open found.
    #[must_use]
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// Makes the recovered records durable, seals their segments, removes garbage files and
    /// segments without valid records, and starts a new segment. `stamp` has the highest version of
    /// the replayed records, or the report's `version_floor` if that is higher.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`] or [`SegmentError::Io`]. The store's content is then unchanged, and
    /// it can be opened again.
    pub fn finish(self, stamp: Stamp) -> Result<(Appender, RecoveryReport), SegmentError> {
        let Self { shared, segments, files, dropped, report } = self;
        // The manifest may call only synced pages durable.
        for (segment, _) in files.iter().filter(|(_, recovered)| recovered.newly_sealed.is_some()) {
            if !planted("recovered_tail_not_synced") {
                let file = segment.file()?;
                retry_interrupted(|| file.sync_data())
                    .map_err(|error| SegmentError::io("sync", segment.path(), error))?;
            }
            segment.raise_durable(segment.len_bytes());
        }
        for name in &report.garbage {
            remove_if_there(shared.dir.as_ref(), name)?;
        }
        let sealed = |manifest: &ManifestFile| {
            let newly = files.iter().filter_map(|(segment, recovered)| {
                let state = recovered.newly_sealed?;
                manifest.segment(segment.id()).map(|entry| SegmentEntry { state, ..*entry })
            });
            newly.collect()
        };
        let edit = ManifestEdit {
            remove: dropped.clone(),
            put: sealed(&shared.manifest.lock()),
            checkpoint: report.missing_checkpoint.is_some().then_some(None),
            max_version: report.max_version.max(stamp.max_version),
            ..ManifestEdit::default()
        };
        // First, before other files take the room.
        shared.adopt_reserves()?;
        let lengths = shared.lengths(0)?;
        shared.keep_reserves(lengths)?;
        let len = shared.next_len.load(Ordering::Relaxed).min(lengths.segment);
        let (spare, takes) = match shared.create_spare_within(len, 0) {
            Err(error) if error.is_full() => {
                // Removing dropped segments frees room.
                shared.edit_manifest(Form::Shortest, |_| edit.clone())?;
                dropped.iter().try_for_each(|id| shared.take_back(&segment_name(*id), SegmentKind::Append))?;
                shared.tidy(&files, &dropped)?;
                shared.first_spare(len, error)?
            }
            made => (made?, Takes::Commits),
        };
        let prepared = shared.prepare(spare, stamp, edit)?;
        // All earlier segments are durable, and the manifest says so.
        prepared.segment.raise_durable(FIRST_RECORD_AT);
        for (segment, _) in &files {
            segment.mark_sealed();
            segment.close_file();
        }
        shared.tidy(&files, &dropped)?;
        drop(segments);
        Ok((Appender::new(shared, prepared, takes), report))
    }
}

impl Shared {
    /// A file for the first segment on a full device, and what may go into it.
    fn first_spare(&self, len: u32, error: SegmentError) -> Result<(Spare, Takes), SegmentError> {
        self.keep_reserves(self.lengths(0)?)?;
        match self.create_spare_within(len, 0) {
            Err(full) if full.is_full() => {}
            made => return Ok((made?, Takes::Commits)),
        }
        let in_order = [
            (ReserveKind::Tail, Takes::Commits),
            (ReserveKind::Opening, Takes::Nothing),
            // A store that only shrinks is better than none.
            (ReserveKind::Compaction, Takes::Commits),
        ];
        for (reserve, takes) in in_order {
            if planted("openings_use_up_reserves") && takes == Takes::Nothing {
                continue;
            }
            if let Some(spare) = self.take_reserve(reserve, crate::options::MIN_SEGMENT_LEN_BYTES)? {
                return Ok((spare, takes));
            }
        }
        if self.give_up_room() { Ok((self.create_spare_within(len, 0)?, Takes::Commits)) } else { Err(error) }
    }

    /// Removes the files of segments without valid records.
    fn remove_dropped(&self, dropped: &[u32]) -> Result<(), SegmentError> {
        dropped.iter().try_for_each(|id| remove_if_there(self.dir.as_ref(), &segment_name(*id)))
    }

    /// Removes the files of dropped segments, and gives back the room past the records of sealed
    /// ones.
    fn tidy(&self, files: &[(Arc<Segment>, Recovered)], dropped: &[u32]) -> Result<(), SegmentError> {
        self.remove_dropped(dropped)?;
        for (segment, recovered) in files {
            let len = u64::from(segment.len_bytes());
            if recovered.file_len <= len {
                continue;
            }
            let path = segment.path();
            let file = self.dir.open(&segment_name(segment.id()), Access::Write);
            let file = file.map_err(|error| SegmentError::io("open", path, error))?;
            file.set_len(len).map_err(|error| SegmentError::io("cut", path, error))?;
        }
        Ok(())
    }
}
