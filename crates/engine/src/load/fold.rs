//! Building a store's state from its files: the tables, and the log beyond the position they cover.
//!
//! Threads share all of this work. Each segment is read and verified by one thread. Then the
//! records are partitioned by key range. For each range one thread sorts its records, decodes and
//! verifies the tables' blocks, merges both (the highest version wins), and builds a run of the
//! index. At the end the runs are joined.

use std::collections::HashMap;
use std::sync::Arc;

use hightower_index::pin;
use hightower_log::SegmentHeader;
use hightower_segment::{CoveredPosition, Dir, NamedTables, RecoveryReport, Segment};
use hightower_state::{LeveledKvState, LoadRun, StateError};

use crate::components::Components;
use crate::error::{Error, Result};
use crate::load::merge::{Merged, Plan, Sums, Unusable};
use crate::load::progress::{ABORTED, OpenPhase, OpenProgress, ReplayMeter, Watch};
use crate::load::records::{HELD_MAX, Rest, read};
use crate::mutants::planted;
use crate::parallel::{in_pieces, threads};
use crate::place::Place;
use crate::table::Segments;
use crate::tables::{OpenTables, TableStats};

/// The use of the tables that the manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TablesUse {
    /// The manifest names no table.
    None,
    /// They were loaded, and only the log beyond the position they cover was replayed.
    Loaded {
        /// The number of tables.
        tables: u64,
        /// The number of their entries in existing segments.
        entries: u64,
    },
    /// One of them was unusable, and the whole log was replayed. The next table replaces them.
    Rebuilt {
        /// The file, and what is wrong with it.
        reason: String,
    },
}

/// Approximate number of a table's keys in a range.
const KEYS_PER_RANGE: u64 = 24 << 10;
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
    /// The loaded tables.
    pub(crate) tables: Vec<TableStats>,
}

impl Fold {
    /// Builds the state from all `segments`, and from the tables of a list.
    pub(crate) fn of(
        dir: &dyn Dir,
        list: &NamedTables,
        segments: &[Arc<Segment>],
        report: &RecoveryReport,
        components: &Components,
        watch: Watch<'_>,
    ) -> Result<Self> {
        if list.newest_first.is_empty() {
            return Self::without_tables(segments, report, components, watch);
        }
        let mut fold = Self::empty(segments, report, components)?;
        let loaded = OpenTables::open(dir, list)
            .map_err(Unusable::Because)
            .and_then(|opened| fold.build(segments, &opened, watch).map(|entries| (entries, opened)));
        match loaded {
            Ok((entries, opened)) => {
                fold.tables = opened.stats();
                fold.tables_use = TablesUse::Loaded { tables: fold.tables.len() as u64, entries };
                Ok(fold)
            }
            Err(Unusable::Because(reason)) => {
                let mut fold = Self::without_tables(segments, report, components, watch)?;
                fold.tables_use = TablesUse::Rebuilt { reason };
                Ok(fold)
            }
            Err(Unusable::Failed(error)) => Err(error),
        }
    }

    /// Builds the state from the whole log.
    pub(crate) fn without_tables(
        segments: &[Arc<Segment>],
        report: &RecoveryReport,
        components: &Components,
        watch: Watch<'_>,
    ) -> Result<Self> {
        let mut fold = Self::empty(segments, report, components)?;
        match fold.build(segments, &OpenTables::default(), watch) {
            Ok(_) => Ok(fold),
            Err(Unusable::Failed(error)) => Err(error),
            Err(Unusable::Because(reason)) => Err(Error::Validation(reason.into())),
        }
    }

    fn empty(segments: &[Arc<Segment>], report: &RecoveryReport, components: &Components) -> Result<Self> {
        let table = Segments::default();
        let found: HashMap<u32, u64> = report.segments.iter().map(|found| (found.id, found.records)).collect();
        for segment in segments {
            let records = found.get(&segment.id()).copied().unwrap_or(0);
            table.add(Arc::clone(segment))?.add_records(records);
        }
        Ok(Self {
            state: components.empty_state()?,
            segments: table,
            replayed_records: 0,
            tables_use: TablesUse::None,
            tables: Vec::new(),
        })
    }

    /// Builds the state; returns the number of used entries of the tables.
    fn build(&mut self, segments: &[Arc<Segment>], tables: &OpenTables, watch: Watch<'_>) -> Result<u64, Unusable> {
        let rest = rest_of(segments, &tables.covered);
        let mut meter = ReplayMeter { done: 0, total: rest.iter().map(Rest::len_bytes).sum(), watch };
        let pending = read(&rest, HELD_MAX, &mut meter).map_err(Unusable::Failed)?;
        self.replayed_records = pending.records;
        let cuts = tables.cuts(KEYS_PER_RANGE)?;
        let plan = Plan::new(tables, segments, pending, &cuts);
        let ranges = self.build_ranges(&plan, meter.watch)?;

        let mut entries = 0;
        let mut runs = Vec::with_capacity(ranges.len());
        for Merged { run, live, used_entries } in ranges {
            self.add_live(&plan, &live);
            entries += used_entries;
            runs.push(run);
        }
        self.join(runs)?;
        Ok(entries)
    }

    /// Builds all ranges, adjacent ones in one run.
    fn build_ranges(&self, plan: &Plan<'_>, watch: Watch<'_>) -> Result<Vec<Merged>, Unusable> {
        let total = plan.ranges.len();
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
        runs.ok_or(Unusable::Failed(ABORTED))?.into_iter().collect()
    }

    fn join(&self, runs: Vec<LoadRun<Place>>) -> Result<(), Unusable> {
        let joined = self.state.active_memtable().writer().load_runs(runs, threads());
        joined.map(|_| ()).map_err(|error| match error {
            StateError::KeysOutOfOrder => Unusable::Because("its keys are not in order".into()),
            other => Unusable::Failed(Error::Validation(other.to_string().into())),
        })
    }

    /// Records the live bytes of each segment.
    fn add_live(&self, plan: &Plan<'_>, live: &[(usize, Sums)]) {
        let guard = pin();
        for (at, sums) in live {
            let id = plan.segment_ids.get(*at).copied().unwrap_or_default();
            if let Some(tracked) = self.segments.find(id, &guard) {
                tracked.add_loaded(sums.records, sums.bytes, sums.tombstone_bytes);
            }
        }
    }
}

/// The part of each segment that the tables do not cover.
fn rest_of<'a>(segments: &'a [Arc<Segment>], covered: &CoveredPosition) -> Vec<Rest<'a>> {
    let first_record_at = u32::try_from(SegmentHeader::LEN).unwrap_or(u32::MAX);
    let rest = segments.iter().filter_map(|segment| {
        let is_covered = planted("stale_table_covers_all") && covered.segment > 0;
        let end = if is_covered { u32::MAX } else { covered.end_in(segment.id(), segment.kind()) };
        let from = end.max(first_record_at);
        (from < segment.len_bytes()).then_some(Rest { segment, from })
    });
    rest.collect()
}
