//! The state of a followed store: its tables, and memtables of the commits behind them.
//!
//! A replica takes a later list of tables over when it has replayed everything that they cover. It
//! then freezes the active memtable. When tables cover the frozen memtable, it goes.

use std::ops::ControlFlow;
use std::sync::Arc;

use hightower_index::pin;
use hightower_log::{CommandRef, SegmentHeader, SegmentKind};
use hightower_segment::{
    CommitHistory, Continuation, CoveredPosition, Dir, FollowedLog, ForkGuard, LogPosition, Manifest, NamedTables,
    Segment, SegmentError, SegmentRecord,
};
use hightower_state::{Change, CommandKind, FrozenMemtable, LeveledKvState, OlderViews};

use crate::components::Components;
use crate::error::{Error, Result};
use crate::feed::FeedLog;
use crate::follower::feed_source::{FeedSource, SeenEnd};
use crate::load::Fold;
use crate::mutants::planted;
use crate::open_index::OpenIndex;
use crate::place::Place;
use crate::read_path::ReadPath;
use crate::tables::{CurrentTables, TableStats, Tables, open_tables};

/// A replica of a store, and its place in the log.
#[derive(Debug)]
pub(super) struct Replica {
    /// What readers use.
    pub(super) read: Arc<ReadPath>,
    state: LeveledKvState<Place>,
    tables: Arc<Tables>,
    log: FollowedLog,
    position: LogPosition,
    /// The identity of the store.
    store_id: [u8; 16],
    /// All commits of the memtables have seqs above this one, and the tables have all others.
    memtables_after: u64,
    /// A memtable that waits for tables that cover it, and the seq of its last commit.
    frozen: Option<(FrozenMemtable<Place>, u64)>,
    /// The seq up to which memtables may point to survivors of compaction.
    relocated_until: u64,
    /// Segments that the manifest no longer names, and the seq of the last commit in a memtable
    /// that may point into each.
    retired: Vec<(u32, u64)>,
    /// Segments that no memtable points into, and the views that may still lead to them.
    unnamed: Vec<(OlderViews, Vec<u32>)>,
    /// Whether the view still leads to segments that are no longer named.
    is_view_old: bool,
    /// The log for feeds, once there is one.
    feed_log: Option<Arc<FeedLog>>,
    log_end: Arc<SeenEnd>,
}

/// Why a replica could not be made of a manifest.
#[derive(Debug)]
pub(super) enum StartFailure {
    /// A table cannot be used.
    Tables(String),
    /// Everything else.
    Other(Error),
}

impl<E: Into<Error>> From<E> for StartFailure {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

impl StartFailure {
    pub(super) fn into_error(self) -> Error {
        match self {
            // The writer rebuilds a damaged table, and names another one then.
            Self::Tables(reason) => {
                Error::Io { action: "cannot use a table".to_owned(), source: Arc::new(std::io::Error::other(reason)) }
            }
            Self::Other(failure) => failure,
        }
    }
}

impl Replica {
    /// Opens what a manifest names: the tables, or without them the whole log, and the log behind
    /// them.
    pub(super) fn start(
        dir: &Arc<dyn Dir>,
        manifest: &Manifest,
        components: &Components,
        fork_guard: ForkGuard,
        uses_tables: bool,
    ) -> Result<Self, StartFailure> {
        let mut log = FollowedLog::open(dir.as_ref(), manifest)?;
        let position = log.read_all(dir.as_ref(), manifest)?;
        let (segments, report) = (log.segments(), log.report());
        let mut go_on = |_| ControlFlow::Continue(());
        let fold = if uses_tables {
            Fold::with_tables(dir.as_ref(), &manifest.tables, &segments, &report, components, &mut go_on)?
                .map_err(StartFailure::Tables)?
        } else {
            Fold::without_tables(&segments, &report, components, &mut go_on)?
        };
        let Fold { state, segments: table, tables, .. } = fold;
        state.writer().resume(position.last_seq).map_err(|error| Error::Internal(error.to_string().into()))?;
        let covered = tables.list.covered;
        let is_moved = |segment: &Arc<Segment>| {
            segment.kind() == SegmentKind::Compacted && covered.end_in(segment.id(), SegmentKind::Compacted) == 0
        };
        let relocated_until = if segments.iter().any(is_moved) { position.last_seq } else { 0 };
        let tables = Arc::new(Tables::new(tables, &Arc::default()));
        let index = OpenIndex::new(state.clone(), fork_guard);
        let read = Arc::new(ReadPath::new(index, table, &tables, dir.path().to_owned(), None));
        Ok(Self {
            read,
            state,
            tables,
            log,
            position,
            store_id: manifest.store_id,
            memtables_after: covered.next_seq.saturating_sub(1),
            frozen: None,
            relocated_until,
            retired: Vec::new(),
            unnamed: Vec::new(),
            is_view_old: false,
            feed_log: None,
            log_end: Arc::default(),
        })
    }

    /// The seq of the last commit.
    pub(super) fn last_seq(&self) -> u64 {
        self.position.last_seq
    }

    /// The seq before that of the next commit. It may be above that of the last one, because seqs
    /// jump at an open.
    pub(super) fn latest_seq(&self) -> u64 {
        self.position.last_seq.max(self.position.next_seq.saturating_sub(1))
    }

    pub(super) fn table_stats(&self) -> Vec<TableStats> {
        self.tables.stats()
    }

    pub(super) fn state(&self) -> &LeveledKvState<Place> {
        &self.state
    }

    /// The log for feeds. The replica has read on to its end, under this manifest.
    pub(super) fn feed_source(&mut self, dir: &dyn Dir, manifest: &Manifest) -> Result<FeedSource> {
        let log = match &self.feed_log {
            Some(log) => Arc::clone(log),
            None => {
                let (retained, complete_after) = FollowedLog::open_history(dir, manifest)?;
                let history = CommitHistory { complete_after, lost: manifest.history.lost.clone() };
                let segments = self.log.segments().into_iter();
                let read = segments.filter(|segment| segment.id() <= self.position.segment);
                let log = Arc::new(FeedLog::new(history, read, retained));
                self.feed_log = Some(Arc::clone(&log));
                log
            }
        };
        let end = Arc::clone(&self.log_end);
        Ok(FeedSource { log, end, store_id: self.store_id })
    }

    /// The log for feeds, if there is one.
    pub(super) fn feed_log(&self) -> Option<&Arc<FeedLog>> {
        self.feed_log.as_ref()
    }

    /// How a later manifest continues this replica.
    pub(super) fn continuation(&self, manifest: &Manifest) -> Continuation {
        if manifest.store_id != self.store_id {
            return Continuation::Diverged { last_kept: 0 };
        }
        let continuation = self.log.continuation(manifest, &self.position);
        // Commits between the tables and the memtables would be in neither.
        let has_gap = manifest.tables.covered.next_seq.saturating_sub(1) < self.memtables_after;
        // A power loss may have taken back the removal of segments.
        let is_back = self.held_ids().any(|id| manifest.segment(id).is_some());
        if continuation == Continuation::GoesOn && (has_gap || is_back) { Continuation::Anew } else { continuation }
    }

    /// Takes over the segments of a later manifest that continues this replica. Reads are the same
    /// until [`adopt_tables`](Self::adopt_tables).
    pub(super) fn take_over(&mut self, dir: &dyn Dir, manifest: &Manifest) -> Result<()> {
        let taken = self.log.take_over(dir, manifest)?;
        let removed: Vec<u32> = taken.removed.iter().map(|(id, _)| *id).collect();
        self.is_view_old |= !removed.is_empty();
        for (id, last_seq) in taken.removed {
            // A memtable points to survivors only after an open that has replayed them.
            self.retired.push((id, last_seq.max(self.relocated_until)));
        }
        self.read.segments.retire(&removed);
        if let Some(log) = &self.feed_log {
            let (retained, gone): (Vec<u32>, Vec<u32>) =
                removed.iter().partition(|id| manifest.retained(**id).is_some());
            log.note_removed(&retained, true);
            log.note_removed(&gone, false);
            if !planted("follower_feed_forgets_losses") {
                log.note_lost(&manifest.history.lost);
            }
        }
        for segment in taken.added {
            self.read.segments.add(segment)?;
        }
        Ok(())
    }

    /// Replays what was appended to the log, commit by commit.
    pub(super) fn read_on(&mut self, dir: &dyn Dir) -> Result<()> {
        let read_on = self.read_to_end(dir);
        self.log_end.set(self.position.last_seq);
        read_on
    }

    fn read_to_end(&mut self, dir: &dyn Dir) -> Result<()> {
        loop {
            let id = self.position.segment;
            if let Some(segment) = self.log.read_on(dir, id)?.cloned() {
                self.replay(&segment)?;
            }
            let Some((segment, base_seq)) = self.log.next_if_complete(id) else { return Ok(()) };
            let offset = u32::try_from(SegmentHeader::LEN).unwrap_or(u32::MAX);
            self.position = LogPosition { segment, offset, next_seq: base_seq, last_seq: self.position.last_seq };
        }
    }

    /// Replays the published commits of a segment from the position on.
    fn replay(&mut self, segment: &Arc<Segment>) -> Result<()> {
        if segment.len_bytes() <= self.position.offset {
            return Ok(());
        }
        self.read.segments.add(Arc::clone(segment))?;
        if let Some(log) = &self.feed_log {
            log.add(segment);
        }
        let mut commit: Vec<SegmentRecord<'_>> = Vec::new();
        for record in segment.entries_from(self.position.offset, self.position.next_seq) {
            let record = match record {
                Err(SegmentError::Corrupt { .. }) if planted("follower_counts_incomplete_commits") => break,
                record => record?,
            };
            commit.push(record);
            if !record.continues {
                self.apply(segment.id(), &commit)?;
                commit.clear();
            }
        }
        if planted("follower_counts_incomplete_commits") && !commit.is_empty() {
            self.apply(segment.id(), &commit)?;
        }
        // A seal may follow the last commit.
        self.position.offset = segment.len_bytes();
        Ok(())
    }

    fn apply(&mut self, segment: u32, commit: &[SegmentRecord<'_>]) -> Result<()> {
        let Some(last) = commit.last() else { return Ok(()) };
        let guard = pin();
        let mut writer = self.state.writer();
        // What is in the log has won when it was written, so nothing is looked up.
        let mut changes = writer.begin(last.seq, &guard).map_err(|error| Error::Internal(error.to_string().into()))?;
        for record in commit {
            let command = &record.command;
            let kind = match command {
                CommandRef::Set { .. } => CommandKind::Set,
                CommandRef::Delete { .. } => CommandKind::Delete,
            };
            let location = Place { segment, offset: record.offset };
            let (key, version, len_bytes) = (command.key(), command.version(), record.len_bytes);
            changes.apply(&Change { key, version, kind, location, len_bytes });
        }
        changes.publish();
        let offset = last.offset.saturating_add(last.len_bytes);
        let next_seq = last.seq.saturating_add(1);
        self.position = LogPosition { segment, offset, next_seq, last_seq: last.seq };
        Ok(())
    }

    /// Whether everything that tables cover was replayed.
    pub(super) fn has_reached(&self, covered: &CoveredPosition) -> bool {
        let LogPosition { segment, offset, last_seq, .. } = self.position;
        last_seq.saturating_add(1) >= covered.next_seq
            || (segment, offset) >= (covered.segment, covered.offset)
            || planted("follower_adopts_tables_early")
    }

    /// Takes over the tables of a manifest whose covered position it [has
    /// reached](Self::has_reached), and forgets the memtables that they cover. The error of a table
    /// that cannot be used is its reason.
    pub(super) fn adopt_tables(&mut self, dir: &dyn Dir, list: &NamedTables) -> Result<(), StartFailure> {
        if self.tables.current().list == *list && !self.is_view_old {
            return Ok(());
        }
        let known = self.state.tables();
        let tables = open_tables(dir, list, &known).map_err(StartFailure::Tables)?;
        let stats = tables.iter().map(|table| TableStats::of(table)).collect();
        let internal = |error: hightower_state::StateError| Error::Internal(error.to_string().into());
        let (segments, spare, guard) = (self.read.segments.set(), self.state.spare_memtable(), pin());
        let mut writer = self.state.writer();
        if !planted("follower_keeps_the_old_view") {
            writer.replace_all_tables(tables, segments.clone()).map_err(internal)?;
        }
        self.tables.replace(CurrentTables { list: list.clone(), stats });
        let covered_seq = list.covered.next_seq.saturating_sub(1);
        if let Some((memtable, last_seq)) = self.frozen.take_if(|(_, last_seq)| *last_seq <= covered_seq) {
            writer.install_flushed(&memtable, None, segments.clone()).map_err(internal)?;
            self.memtables_after = last_seq;
        }
        if self.frozen.is_none() && covered_seq > self.memtables_after {
            let last_seq = self.position.last_seq;
            match writer.freeze(spare, &guard) {
                Some(memtable) if last_seq <= covered_seq => {
                    writer.install_flushed(&memtable, None, segments).map_err(internal)?;
                    self.memtables_after = last_seq;
                }
                Some(memtable) => self.frozen = Some((memtable, last_seq)),
                None => self.memtables_after = last_seq.min(covered_seq),
            }
        }
        let older = writer.older_views();
        drop(writer);
        self.is_view_old = false;
        let memtables_after = self.memtables_after;
        let unused = self
            .retired
            .extract_if(.., |(_, last_seq)| *last_seq <= memtables_after || planted("follower_keeps_the_old_view"));
        let unused: Vec<u32> = unused.map(|(id, _)| id).collect();
        if !unused.is_empty() {
            self.unnamed.push((older, unused));
        }
        Ok(())
    }

    /// Frees memtables and maps that no reader uses any more.
    pub(super) fn free_unused(&mut self) {
        self.state.reclaim();
        if self.unnamed.is_empty() {
            return;
        }
        // What was replaced is freed when the last guards of its time have ended.
        pin().flush();
        let is_unused =
            |(views, _): &mut (OlderViews, Vec<u32>)| !views.are_in_use() || planted("follower_keeps_the_old_view");
        let unused: Vec<_> = self.unnamed.extract_if(.., is_unused).flat_map(|(_, ids)| ids).collect();
        if !unused.is_empty() {
            self.read.segments.remove(&unused);
        }
    }

    /// The segments that only memtables and earlier views need.
    pub(super) fn held_ids(&self) -> impl Iterator<Item = u32> {
        let unnamed = self.unnamed.iter().flat_map(|(_, ids)| ids.iter().copied());
        self.retired.iter().map(|(id, _)| *id).chain(unnamed)
    }
}
