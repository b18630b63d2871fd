//! The state of a store from its files: the tables as levels, and the log beyond the position that
//! they cover in the active memtable.
//!
//! Threads share the work on the log. Each segment is read and verified by one thread. Then the
//! records are partitioned by key range. For each range one thread sorts its records, takes the
//! newest of each key, and builds a run of the index. At the end the runs are joined.

use std::collections::HashMap;
use std::sync::Arc;

use hightower_index::pin;
use hightower_log::SegmentHeader;
use hightower_segment::{CoveredPosition, Dir, NamedTables, RecoveryReport, Segment};
use hightower_state::LeveledKvState;
use hightower_table::{SegmentCounts, TableReader};

use crate::components::Components;
use crate::error::{Error, Result};
use crate::load::merge::{Merged, Plan};
use crate::load::progress::{ABORTED, OpenPhase, OpenProgress, ReplayMeter, Watch};
use crate::load::records::{HELD_MAX, Rest, read};
use crate::mutants::planted;
use crate::parallel::{in_pieces, threads};
use crate::place::Place;
use crate::table::Segments;
use crate::tables::{CurrentTables, TableStats, open_tables};

/// The use of the tables that the manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TablesUse {
    /// The manifest names no table.
    None,
    /// They are in use, and only the log beyond the position they cover was replayed.
    Loaded {
        /// The number of tables.
        tables: u64,
        /// The number of their entries in existing segments.
        entries: u64,
    },
    /// The log behind them was long for the memory budget of the index: in a copy, which has no
    /// tables, or after flushes have failed. One table of the log has replaced all.
    Built {
        /// Bytes of the log that no table covered.
        log_bytes: u64,
    },
    /// One of them was unusable. All were rebuilt from the log; without room for that, or without
    /// the right to write, the whole log was replayed into memory.
    Rebuilt {
        /// The file, and what is wrong with it.
        reason: String,
    },
}

/// Number of runs per thread: enough that a slow thread delays the others little, and few, because
/// each run leaves a part of its last huge page unused.
const RUNS_PER_THREAD: usize = 4;
/// Maximum length of a run, so that a caller who aborts the open does not wait too long for the
/// next callback.
const MAX_RANGES_PER_RUN: usize = 32;

/// The state and the segment table during their construction.
pub(crate) struct Fold {
    pub(crate) state: LeveledKvState<Place>,
    pub(crate) segments: Segments,
    pub(crate) replayed_records: u64,
    pub(crate) tables_use: TablesUse,
    /// The tables in use.
    pub(crate) tables: CurrentTables,
}

impl Fold {
    /// Builds the state from all `segments`, and from the tables of a list if all of them are
    /// usable.
    pub(crate) fn of(
        dir: &dyn Dir,
        list: &NamedTables,
        segments: &[Arc<Segment>],
        report: &RecoveryReport,
        components: &Components,
        watch: Watch<'_>,
    ) -> Result<Self> {
        match Self::with_tables(dir, list, segments, report, components, watch)? {
            Ok(fold) => Ok(fold),
            Err(reason) => {
                let mut fold = Self::without_tables(segments, report, components, watch)?;
                fold.tables_use = TablesUse::Rebuilt { reason };
                Ok(fold)
            }
        }
    }

    /// Builds the state from the tables of a list and the segments behind the position that they
    /// cover. The inner error is the reason why a table cannot be used.
    pub(crate) fn with_tables(
        dir: &dyn Dir,
        list: &NamedTables,
        segments: &[Arc<Segment>],
        report: &RecoveryReport,
        components: &Components,
        watch: Watch<'_>,
    ) -> Result<Result<Self, String>> {
        if list.newest_first.is_empty() {
            return Self::without_tables(segments, report, components, watch).map(Ok);
        }
        let mut fold = Self::empty(segments, report, components)?;
        let entries = match open_tables(dir, list, &[]).and_then(|tables| fold.use_tables(&tables, list)) {
            Ok(entries) => entries,
            Err(reason) => return Ok(Err(reason)),
        };
        fold.tables_use = TablesUse::Loaded { tables: list.newest_first.len() as u64, entries };
        fold.replay(segments, &list.covered, watch)?;
        Ok(Ok(fold))
    }

    /// Makes the tables levels of the state; returns the number of their entries in existing
    /// segments. The error is the reason why they cannot be used.
    fn use_tables(&mut self, tables: &[Arc<TableReader>], list: &NamedTables) -> Result<u64, String> {
        let replaced = self.state.writer().replace_all_tables(tables.to_vec(), self.segments.set());
        replaced.map_err(|error| error.to_string())?;
        let counts = self.state.table_counts();
        let guard = pin();
        for counts in &counts {
            // Each record has at most one entry.
            let records = self.segments.find(counts.segment, &guard).map_or(0, |tracked| tracked.records());
            if counts.entries > records {
                let SegmentCounts { segment, entries, .. } = counts;
                return Err(format!("tables with {entries} entries for the {records} records of segment {segment}"));
            }
        }
        self.segments.set_table_counts(&counts);
        let stats = tables.iter().map(|table| TableStats::of(table)).collect();
        self.tables = CurrentTables { list: list.clone(), stats };
        Ok(counts.iter().map(|counts| counts.entries).sum())
    }

    /// Builds the state from the whole log.
    pub(crate) fn without_tables(
        segments: &[Arc<Segment>],
        report: &RecoveryReport,
        components: &Components,
        watch: Watch<'_>,
    ) -> Result<Self> {
        let mut fold = Self::empty(segments, report, components)?;
        fold.replay(segments, &CoveredPosition::default(), watch)?;
        Ok(fold)
    }

    fn empty(segments: &[Arc<Segment>], report: &RecoveryReport, components: &Components) -> Result<Self> {
        let found: HashMap<u32, u64> = report.segments.iter().map(|found| (found.id, found.records)).collect();
        let records_of = |segment: &Arc<Segment>| found.get(&segment.id()).copied().unwrap_or(0);
        let table = Segments::of(segments.iter().map(|segment| (Arc::clone(segment), records_of(segment))))?;
        Ok(Self {
            state: components.empty_state()?,
            segments: table,
            replayed_records: 0,
            tables_use: TablesUse::None,
            tables: CurrentTables::default(),
        })
    }

    /// Fills the active memtable from the log beyond a position.
    fn replay(&mut self, segments: &[Arc<Segment>], covered: &CoveredPosition, watch: Watch<'_>) -> Result<()> {
        let rest = rest_of(segments, covered);
        let mut meter = ReplayMeter { done: 0, total: rest.iter().map(Rest::len_bytes).sum(), watch };
        let pending = read(&rest, HELD_MAX, &mut meter)?;
        self.replayed_records = pending.records;
        let plan = Plan::new(pending);
        let guard = pin();
        let mut runs = Vec::new();
        for Merged { run, counts } in self.build_ranges(&plan, meter.watch)? {
            for counts in &counts {
                if let Some(tracked) = self.segments.find(counts.segment, &guard) {
                    tracked.add_loaded(counts);
                }
            }
            runs.push(run);
        }
        let joined = self.state.active_memtable().writer().load_runs(runs, threads());
        joined.map(drop).map_err(|error| Error::Internal(error.to_string().into()))
    }

    /// Builds all ranges, adjacent ones in one run.
    fn build_ranges(&self, plan: &Plan<'_>, watch: Watch<'_>) -> Result<Vec<Merged>> {
        let total = plan.ranges;
        let per_run = (total / (RUNS_PER_THREAD * threads())).clamp(1, MAX_RANGES_PER_RUN);
        let mut done = 0;
        let runs = in_pieces(
            total.div_ceil(per_run),
            |run| plan.build(run * per_run..total.min((run + 1) * per_run), self.state.active_memtable().load_run()),
            || {
                done = total.min(done + per_run);
                watch(OpenProgress { phase: OpenPhase::Index, done: done as u64, total: total as u64 })
            },
        );
        runs.ok_or(ABORTED)?.into_iter().collect()
    }
}

/// The part of each segment that the tables do not cover.
fn rest_of<'a>(segments: &'a [Arc<Segment>], covered: &CoveredPosition) -> Vec<Rest<'a>> {
    let first_record_at = u32::try_from(SegmentHeader::LEN).unwrap_or(u32::MAX);
    let rest = segments.iter().filter_map(|segment| {
        let is_covered = planted("stale_table_covers_all") && covered.segment > 0;
        let end = if is_covered { u32::MAX } else { covered.end_in(segment.id(), segment.kind()) };
        let end = if planted("covered_part_replayed") && end < u32::MAX { 0 } else { end };
        let from = end.max(first_record_at);
        (from < segment.len_bytes()).then_some(Rest { segment, from })
    });
    rest.collect()
}
