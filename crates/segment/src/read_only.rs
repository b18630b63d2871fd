//! Read-only opens, also of damaged stores, without any change.

use std::path::Path;
use std::sync::Arc;

use crate::error::SegmentError;
use crate::file_header::entry_from_header;
use crate::fs::{Dir, Fs, Lock, LockKind};
use crate::manifest::{Content, Manifest, SegmentEntry};
use crate::mutants::planted;
use crate::names::segment_id;
use crate::recovery::{Intent, Survey, read_manifest, refuse_unfinished, survey};
use crate::report::RecoveryReport;
use crate::segment::Segment;
use crate::store::{expect_content, list, lock, open_dir};

/// The handling of damage by a read-only open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// The same rules as an open for writing: damage is an error.
    Strict,
    /// The report lists damage; [`Segment::scan`] reads all intact records. Without a readable
    /// manifest all segment files in the directory are used, so deleted keys may reappear.
    Salvage,
}

/// A store opened for reading only. Its directory is unchanged.
#[derive(Debug)]
pub struct ReadOnlyStore {
    segments: Vec<Arc<Segment>>,
    retained: Vec<Arc<Segment>>,
    report: RecoveryReport,
    manifest: Manifest,
    lock: Arc<dyn Lock>,
    dir: Arc<dyn Dir>,
}

impl ReadOnlyStore {
    /// Opens a store for reading. It excludes writers while it or any of its segments lives.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Locked`] if a writer has the store open; [`SegmentError::NoStore`];
    /// [`SegmentError::OtherContent`] for a write-ahead log; and with [`Tolerance::Strict`] those
    /// of [`SegmentStore::open`](crate::SegmentStore::open).
    pub fn open(fs: &Arc<dyn Fs>, dir: &Path, tolerance: Tolerance) -> Result<Self, SegmentError> {
        let salvage = tolerance == Tolerance::Salvage;
        let opened = open_dir(fs.as_ref(), dir)?;
        let lock: Arc<dyn Lock> = lock(opened.as_ref(), LockKind::Shared)?.into();
        let names = list(opened.as_ref())?;
        refuse_unfinished(opened.as_ref(), &names)?;
        let (mut manifest, damage) = match read_manifest(opened.as_ref(), &names) {
            Ok(Some(manifest)) => (expect_content(manifest, Content::KeyValue, dir)?, None),
            Ok(None) => return Err(SegmentError::NoStore { dir: dir.to_owned() }),
            // A read that failed for lack of memory or descriptors is not damage.
            Err(error) if salvage && !error.is_shortage() => {
                (manifest_from_headers(opened.as_ref(), &names)?, Some(error))
            }
            Err(error) => return Err(error),
        };
        let Survey { live, retained, lost_history, lost, mut report, .. } =
            survey(opened.as_ref(), &names, &manifest, if salvage { Intent::Salvage } else { Intent::Look })?;
        report.damage.extend(damage);
        if let Some(lost) = lost {
            manifest.history.note_lost(lost);
        }
        manifest.history.raise(lost_history.iter().filter_map(SegmentEntry::last_seq).max().unwrap_or(0));
        let is_held = !planted("reading_lock_dropped") && !planted("segments_outlive_the_lock");
        let hold = |segment: Segment| if is_held { segment.holding(&lock) } else { segment };
        let segments = live.into_iter().map(|found| Arc::new(hold(found.segment))).collect();
        let retained = retained.into_iter().map(|segment| Arc::new(hold(segment))).collect();
        Ok(Self { dir: opened, segments, retained, report, manifest, lock })
    }

    /// The segments, oldest first.
    #[must_use]
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// The segments that compaction has removed and that are kept as history, the oldest first. In
    /// a salvage there are none.
    #[must_use]
    pub fn retained(&self) -> &[Arc<Segment>] {
        &self.retained
    }

    /// The lock against writers, which every segment also holds.
    #[must_use]
    pub fn lock(&self) -> &Arc<dyn Lock> {
        &self.lock
    }

    /// The store's directory.
    #[must_use]
    pub fn dir(&self) -> &Arc<dyn Dir> {
        &self.dir
    }

    /// The report.
    #[must_use]
    pub fn report(&self) -> &RecoveryReport {
        &self.report
    }

    /// The report, without the rest.
    #[must_use]
    pub fn into_report(self) -> RecoveryReport {
        self.report
    }

    /// The manifest; in a salvage without a readable one, a manifest from the segments' headers.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// A replacement of an unreadable manifest: every file that begins with a segment header.
fn manifest_from_headers(dir: &dyn Dir, names: &[String]) -> Result<Manifest, SegmentError> {
    let mut manifest = Manifest::new([0; 16]);
    for id in names.iter().filter_map(|name| segment_id(name)) {
        if let Some(entry) = entry_from_header(dir, id)? {
            manifest.insert(entry);
        }
    }
    Ok(manifest)
}
