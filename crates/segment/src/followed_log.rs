//! The log of a store that another process may be writing, read without a lock and without any
//! change.
//!
//! Sealed segments are mapped as a whole, the others as far as their commits are complete. Files
//! that are open or mapped stay readable when the writer removes them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hightower_log::{DecodeError, SegmentKind};

use crate::error::{Damage, SegmentError};
use crate::followed_tail::FollowedTail;
use crate::fs::{Dir, Fs};
use crate::layout::FIRST_RECORD_AT;
use crate::manifest::{Manifest, SegmentEntry, SegmentState};
use crate::manifest_watch::ManifestWatch;
use crate::mutants::planted;
use crate::names::segment_path;
use crate::recovery::{find, mark_sealed};
use crate::report::{RecoveryReport, SegmentOutcome, SegmentReport};
use crate::segment::Segment;
use crate::store::open_dir;
use crate::table_list::CoveredPosition;

/// The directory of a store that another process may be writing.
///
/// ```
/// use std::path::Path;
/// use std::sync::Arc;
/// use hightower_segment::{FollowedDir, FollowedLog, Fs, SegmentStore, Stamp, StoreOptions};
/// use hightower_segment::sim::SimFs;
///
/// let fs: Arc<dyn Fs> = Arc::new(SimFs::new());
/// let options = StoreOptions { segment_len_bytes: 4096, ..StoreOptions::default() };
/// let (_writer, recovery) = SegmentStore::open(Arc::clone(&fs), Path::new("/store"), options)?;
/// let (_appender, _) = recovery.finish(Stamp { max_version: 0, timestamp: 0 })?;
///
/// let mut followed = FollowedDir::open(&fs, Path::new("/store"))?;
/// let manifest = followed.manifest_if_changed()?.expect("it is the first one");
/// let mut log = FollowedLog::open(followed.dir().as_ref(), &manifest)?;
/// let end = log.read_all(followed.dir().as_ref(), &manifest)?;
/// assert_eq!((end.segment, end.next_seq), (1, 1));
/// assert!(followed.manifest_if_changed()?.is_none());
/// # Ok::<(), hightower_segment::SegmentError>(())
/// ```
#[derive(Debug)]
pub struct FollowedDir {
    dir: Arc<dyn Dir>,
    watch: ManifestWatch,
}

/// The segments that a manifest names, as far as their commits are complete.
///
/// Example: [`FollowedDir`].
#[derive(Debug)]
pub struct FollowedLog {
    segments: BTreeMap<u32, FollowedSegment>,
}

/// A segment of a followed log.
#[derive(Debug)]
enum FollowedSegment {
    /// It was sealed when it was opened.
    Sealed { segment: Arc<Segment>, entry: SegmentEntry },
    /// It was read while it could grow.
    Tail(Box<FollowedTail>),
}

/// A place in a followed log: every commit before it was read.
///
/// Example: [`FollowedDir`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogPosition {
    /// The segment of commits.
    pub segment: u32,
    /// The offset in it.
    pub offset: u32,
    /// The seq of the commit that would begin there.
    pub next_seq: u64,
    /// The seq of the last commit before it.
    pub last_seq: u64,
}

/// How a later manifest continues a log, for a reader that has read all commits up to a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// It goes on from there.
    GoesOn,
    /// Commits behind it are only in tables: the reader starts anew, and loses nothing.
    Anew,
    /// The log has lost commits that were read.
    Diverged {
        /// The seq of the last commit that is left.
        last_kept: u64,
    },
}

/// The changes of [`FollowedLog::take_over`].
#[derive(Debug, Default)]
pub struct TakenOver {
    /// New sealed segments.
    pub added: Vec<Arc<Segment>>,
    /// Segments that are no longer named: their ids, and the seq of the last commit that was read
    /// from each; 0 without one.
    pub removed: Vec<(u32, u64)>,
}

impl FollowedDir {
    /// Opens the directory. It takes no lock.
    ///
    /// # Errors
    ///
    /// [`SegmentError::NoStore`], [`SegmentError::Io`].
    pub fn open(fs: &Arc<dyn Fs>, dir: &Path) -> Result<Self, SegmentError> {
        let dir = open_dir(fs.as_ref(), dir)?;
        Ok(Self { watch: ManifestWatch::new(Arc::clone(&dir)), dir })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Arc<dyn Dir> {
        &self.dir
    }

    /// The manifest, if it is not the one that the last call has returned. Costs a few system calls
    /// if it is.
    ///
    /// # Errors
    ///
    /// [`SegmentError::NoStore`], [`SegmentError::Corrupt`], [`SegmentError::VersionUnsupported`],
    /// [`SegmentError::OtherContent`], [`SegmentError::Io`].
    pub fn manifest_if_changed(&mut self) -> Result<Option<Manifest>, SegmentError> {
        self.watch.read_if_changed()
    }

    /// The next call of [`manifest_if_changed`](Self::manifest_if_changed) returns the manifest.
    pub fn forget_manifest(&mut self) {
        self.watch.forget();
    }
}

impl FollowedLog {
    /// Opens every segment that the manifest names.
    ///
    /// # Errors
    ///
    /// [`SegmentError::MissingSegment`]: if the manifest has changed meanwhile, take the new one.
    /// [`SegmentError::Corrupt`], [`SegmentError::Io`].
    pub fn open(dir: &dyn Dir, manifest: &Manifest) -> Result<Self, SegmentError> {
        let opened = manifest.segments.iter().map(|entry| Ok((entry.id, FollowedSegment::open(dir, *entry)?)));
        Ok(Self { segments: opened.collect::<Result<_, SegmentError>>()? })
    }

    /// Reads all complete commits, for the first time. Returns the end of the log.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Corrupt`], also if the log ends before the position that tables cover;
    /// [`SegmentError::Io`].
    pub fn read_all(&mut self, dir: &dyn Dir, manifest: &Manifest) -> Result<LogPosition, SegmentError> {
        let covered = manifest.tables.covered;
        let mut last_seq = covered.next_seq.saturating_sub(1).max(manifest.live_after());
        let CoveredPosition { segment, offset, .. } = covered;
        let mut end = LogPosition { segment, offset, next_seq: last_seq.saturating_add(1), last_seq };
        let mut stop = None;
        for (id, found) in &mut self.segments {
            let Some(base_seq) = found.base_seq() else { continue };
            found.read_on(dir)?;
            let (offset, commits) = found.end();
            last_seq = last_seq.max(found.last_seq());
            end = LogPosition { segment: *id, offset, next_seq: base_seq.saturating_add(commits), last_seq };
            if !found.is_complete() {
                stop = found.stop();
                break;
            }
        }
        if (end.segment, end.offset) < (covered.segment, covered.offset)
            && let Some(source) = stop
        {
            let damage = Damage::CoveredLost { source, segment: covered.segment, offset: covered.offset };
            return Err(SegmentError::corrupt(&segment_path(dir.path(), end.segment), end.offset.into(), damage));
        }
        Ok(end)
    }

    /// Reads on in a segment of commits. Returns the segment, unless it has no commit or is not
    /// named.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Corrupt`] if a sealed segment has an invalid record; [`SegmentError::Io`].
    pub fn read_on(&mut self, dir: &dyn Dir, id: u32) -> Result<Option<&Arc<Segment>>, SegmentError> {
        let Some(found) = self.segments.get_mut(&id) else { return Ok(None) };
        found.read_on(dir)?;
        Ok(found.segment())
    }

    /// The next segment of commits, if the one with this id takes no more: its id and base seq.
    #[must_use]
    pub fn next_if_complete(&self, id: u32) -> Option<(u32, u64)> {
        if self.segments.get(&id).is_some_and(|found| !found.is_complete()) {
            return None;
        }
        let mut later = self.segments.range(id.checked_add(1)?..);
        later.find_map(|(id, found)| Some((*id, found.base_seq()?)))
    }

    /// How a later manifest continues this log, for a reader at this position.
    #[must_use]
    pub fn continuation(&self, manifest: &Manifest, position: &LogPosition) -> Continuation {
        let last_seq = position.last_seq;
        if let Some(lost) = manifest.history.lost_at(last_seq) {
            return Continuation::Diverged { last_kept: lost.from - 1 };
        }
        if last_seq >= manifest.next_seq {
            return Continuation::Diverged { last_kept: manifest.next_seq.saturating_sub(1) };
        }
        for (id, found) in &self.segments {
            let Some(entry) = manifest.segment(*id) else { continue };
            if entry.salt != found.entry().salt {
                return Continuation::Anew;
            }
            // A seal that was read and is lost is no loss.
            if let (SegmentState::Sealed { commits, .. }, SegmentKind::Append) = (entry.state, entry.kind)
                && found.end().1 > commits.into()
            {
                let last_kept = entry.base_seq.saturating_add(commits.into()).saturating_sub(1);
                return Continuation::Diverged { last_kept };
            }
        }
        // What is retained is not read: its commits are in tables and survivors.
        let live_after =
            if planted("followers_skip_retained") { manifest.history.complete_after } else { manifest.live_after() };
        let has_gap = last_seq < live_after;
        // Survivors that no table covers are not replayed. An earlier segment of commits that is
        // named again: a power loss has taken its removal back.
        let is_expected = |entry: &SegmentEntry| match entry.kind {
            _ if self.segments.contains_key(&entry.id) => true,
            SegmentKind::Compacted => manifest.tables.covered.end_in(entry.id, entry.kind) > 0,
            SegmentKind::Append => entry.id > position.segment,
        };
        if has_gap || !manifest.segments.iter().all(is_expected) {
            return Continuation::Anew;
        }
        Continuation::GoesOn
    }

    /// Takes over a later manifest that [goes on](Continuation::GoesOn): opens new segments, and
    /// forgets those that are no longer named. After an error nothing has changed.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn take_over(&mut self, dir: &dyn Dir, manifest: &Manifest) -> Result<TakenOver, SegmentError> {
        let mut taken = TakenOver::default();
        let unknown = manifest.segments.iter().filter(|entry| !self.segments.contains_key(&entry.id));
        let opened = unknown.map(|entry| Ok((entry.id, FollowedSegment::open(dir, *entry)?)));
        let opened: Vec<(u32, FollowedSegment)> = opened.collect::<Result<_, SegmentError>>()?;
        for (id, found) in opened {
            taken.added.extend(found.segment().cloned());
            self.segments.insert(id, found);
        }
        self.segments.retain(|id, found| match manifest.segment(*id) {
            Some(entry) => {
                found.set_entry(*entry);
                true
            }
            None => {
                found.note_end();
                taken.removed.push((*id, found.last_seq()));
                false
            }
        });
        Ok(taken)
    }

    /// Opens the segments that are retained as history, the oldest first. Returns also the seq
    /// above which every commit is in them and in the live ones. The history begins behind a
    /// segment that is missing or damaged: the writer may have given it up meanwhile.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`].
    pub fn open_history(dir: &dyn Dir, manifest: &Manifest) -> Result<(Vec<Arc<Segment>>, u64), SegmentError> {
        let (mut retained, mut complete_after) = (Vec::new(), manifest.history.complete_after);
        for entry in &manifest.retained {
            match find(dir, *entry, false) {
                Ok(found) => {
                    mark_sealed(&found.segment, entry);
                    retained.push(Arc::new(found.segment));
                }
                Err(error @ SegmentError::Io { .. }) => return Err(error),
                Err(_) => {
                    retained.clear();
                    complete_after = complete_after.max(entry.last_seq().unwrap_or(0));
                }
            }
        }
        Ok((retained, complete_after))
    }

    /// The segments with commits or survivors, by id.
    #[must_use]
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.values().filter_map(FollowedSegment::segment).cloned().collect()
    }

    /// The numbers of their records, as the report of a recovery.
    #[must_use]
    pub fn report(&self) -> RecoveryReport {
        let segments = self.segments.values().filter(|found| found.segment().is_some());
        let segments = segments.map(FollowedSegment::report).collect();
        RecoveryReport { segments, ..RecoveryReport::default() }
    }
}

impl FollowedSegment {
    fn open(dir: &dyn Dir, entry: SegmentEntry) -> Result<Self, SegmentError> {
        if entry.state == SegmentState::Open {
            return Ok(Self::Tail(Box::new(FollowedTail::open(dir, entry)?)));
        }
        let found = find(dir, entry, false)?;
        mark_sealed(&found.segment, &entry);
        Ok(Self::Sealed { segment: Arc::new(found.segment), entry })
    }

    fn entry(&self) -> &SegmentEntry {
        match self {
            Self::Sealed { entry, .. } => entry,
            Self::Tail(tail) => tail.entry(),
        }
    }

    fn set_entry(&mut self, later: SegmentEntry) {
        if let Self::Tail(tail) = self {
            tail.set_entry(later);
        }
    }

    /// `None` for a compacted segment.
    fn base_seq(&self) -> Option<u64> {
        let entry = self.entry();
        (entry.kind == SegmentKind::Append).then_some(entry.base_seq)
    }

    fn segment(&self) -> Option<&Arc<Segment>> {
        match self {
            Self::Sealed { segment, .. } => Some(segment),
            Self::Tail(tail) => tail.segment(),
        }
    }

    fn read_on(&mut self, dir: &dyn Dir) -> Result<(), SegmentError> {
        match self {
            Self::Sealed { .. } => Ok(()),
            Self::Tail(tail) if tail.is_complete() => Ok(()),
            Self::Tail(tail) => tail.read_on(dir),
        }
    }

    fn is_complete(&self) -> bool {
        match self {
            Self::Sealed { .. } => true,
            Self::Tail(tail) => tail.is_complete(),
        }
    }

    /// The end of the read commits, and their number.
    fn end(&self) -> (u32, u64) {
        match self {
            Self::Sealed { segment, .. } => (segment.len_bytes(), segment.commits().unwrap_or(0).into()),
            Self::Tail(tail) => (tail.end().end.max(FIRST_RECORD_AT), tail.end().commits),
        }
    }

    /// Why reading stopped.
    fn stop(&self) -> Option<DecodeError> {
        match self {
            Self::Sealed { .. } => None,
            Self::Tail(tail) => Some(tail.end().stop.1.clone()),
        }
    }

    /// The seq of the last commit that was read; 0 without one.
    fn last_seq(&self) -> u64 {
        let commits = self.end().1;
        match self.base_seq() {
            // Seqs jump, so its base seq may be above those of all commits.
            Some(base_seq) if commits > 0 => base_seq.saturating_add(commits).saturating_sub(1),
            _ => 0,
        }
    }

    /// Notes that it takes no more commits.
    fn note_end(&self) {
        if let (Self::Tail(_), Some(segment)) = (self, self.segment()) {
            segment.end_with(u32::try_from(self.end().1).unwrap_or(u32::MAX));
        }
    }

    fn report(&self) -> SegmentReport {
        let entry = self.entry();
        let (outcome, records) = match (self, entry.state) {
            (Self::Sealed { .. }, SegmentState::Sealed { records, .. }) => (SegmentOutcome::Sealed, records),
            (Self::Sealed { .. }, SegmentState::Open | SegmentState::Retained { .. }) => (SegmentOutcome::Sealed, 0),
            (Self::Tail(tail), _) => (SegmentOutcome::Recovered, tail.end().records),
        };
        let (len_bytes, kind, id) = (self.end().0, entry.kind, entry.id);
        SegmentReport { id, kind, outcome, records, len_bytes, dropped_bytes: 0, reason: None }
    }
}
