//! Opening a store: recover the log, map the tables or rebuild them, replay the log behind them,
//! start a new segment.

use std::sync::Arc;
use std::time::Duration;

use hightower_log::SegmentKind;
use hightower_segment::{
    CommitHistory, CoveredPosition, ForkGuard, Manifest, NamedTables, ReadOnlyStore, Recovery, RecoveryReport, Segment,
    SegmentState, SegmentStore, StoreOptions, Tolerance,
};
use hightower_state::LeveledKvState;

use crate::commit_log::CommitLog;
use crate::components::Components;
use crate::config::{RecoveryMode, StoreConfig};
use crate::error::{Error, Result};
use crate::files::io_error;
use crate::guarded::Panics;
use crate::load::{Fold, TablesUse, Watch};
use crate::mutants::planted;
use crate::place::Place;
use crate::read_path::ReadingLock;
use crate::rebuild::{RUN_BYTES, TableRebuild};
use crate::table::Segments;
use crate::table_files::remove_unnamed;
use crate::tables::CurrentTables;
use crate::time::StoreTime;

/// A log is long if it has this many times the memory budget of the index. What kills leave is
/// shorter.
const LONG_LOG_TIMES: u64 = 8;

/// The report of an open.
#[derive(Debug)]
#[non_exhaustive]
pub struct OpenReport {
    /// The report of the recovery: the files that it found, and the bytes that it dropped.
    pub recovery: RecoveryReport,
    /// The use of the tables.
    pub tables: TablesUse,
    /// Number of replayed commands, which the tables do not cover.
    pub replayed_records: u64,
    /// The duration of the open.
    pub elapsed: Duration,
}

impl OpenReport {
    /// Whether the last writer ended without a close: by a crash, a kill, or a failure.
    #[must_use]
    pub fn was_unclean(&self) -> bool {
        self.recovery.unclean
    }

    /// Number of dropped bytes of the unfinished tail.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.recovery.dropped_bytes()
    }
}

/// The data of a recovered store, for its parts.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) config: StoreConfig,
    /// Wrapped in guards; `panics` records their panics.
    pub(crate) components: Components,
    pub(crate) panics: Arc<Panics>,
    pub(crate) fork_guard: ForkGuard,
    pub(crate) time: StoreTime,
    pub(crate) state: LeveledKvState<Place>,
    pub(crate) segments: Segments,
    /// The tail of the log, if the store is open for writing.
    pub(crate) log: Option<(SegmentStore, CommitLog)>,
    /// The commits that the log holds.
    pub(crate) history: CommitHistory,
    /// The segments that are kept as history, the oldest first.
    pub(crate) retained: Vec<Arc<Segment>>,
    /// The lock, if the store is open for reading.
    pub(crate) lock: Option<ReadingLock>,
    /// The tables in use.
    pub(crate) tables: CurrentTables,
    pub(crate) report: OpenReport,
}

/// Opens a store, for writing or for reading according to the settings. `is_copy`: the store is
/// under construction as a copy of another.
pub(crate) fn open(config: StoreConfig, components: Components, is_copy: bool, watch: Watch<'_>) -> Result<Opened> {
    config.validate()?;
    let fork_guard = ForkGuard::new().map_err(|source| io_error("watch for forks of", &config.data_dir, source))?;
    let panics = Arc::default();
    let components = components.guarded(&panics);
    let started = components.clock.elapsed();
    let surroundings = Surroundings { config, components, panics, fork_guard };
    let mut opened = if surroundings.config.read_only {
        open_for_reading(surroundings, watch)?
    } else {
        open_for_writing(surroundings, is_copy, watch)?
    };
    opened.report.elapsed = opened.components.clock.elapsed().saturating_sub(started);
    Ok(opened)
}

/// The components before the files are read.
struct Surroundings {
    config: StoreConfig,
    components: Components,
    panics: Arc<Panics>,
    fork_guard: ForkGuard,
}

fn open_for_writing(surroundings: Surroundings, is_copy: bool, watch: Watch<'_>) -> Result<Opened> {
    let Surroundings { config, components, .. } = &surroundings;
    let options = StoreOptions {
        segment_len_bytes: config.segment_len_bytes(),
        appends: config.append_mode,
        allow_unfinished: is_copy,
        entropy: Arc::clone(&components.entropy),
        ..StoreOptions::default()
    };
    let (store, recovery) = SegmentStore::open(Arc::clone(&components.fs), &config.data_dir, options)?;
    refuse_loss(config, recovery.report())?;
    let manifest = store.manifest();
    let (dir, segments, report) = (store.dir().as_ref(), recovery.segments(), recovery.report());
    let folded = match long_log(&manifest, config.index_memory_bytes) {
        Some((covered, log_bytes)) => Err((TablesUse::Built { log_bytes }, covered)),
        None => Fold::with_tables(dir, &manifest.tables, segments, report, components, watch)?
            .map_err(|reason| (TablesUse::Rebuilt { reason }, manifest.tables.covered)),
    };
    let fold = match folded {
        Ok(fold) => fold,
        Err((tables_use, covered)) => rebuilt(&store, &recovery, components, tables_use, covered, watch)?,
    };
    start(surroundings, store, recovery, fold)
}

/// The end of the sealed segments, and the number of their bytes that no table covers, if that is
/// long and at least half of them: in a copy of a store, which has no tables, or after failed
/// flushes. All of them are then read.
fn long_log(manifest: &Manifest, budget_bytes: u64) -> Option<(CoveredPosition, u64)> {
    let mut end = None;
    let (mut len_bytes, mut all_bytes) = (0, 0_u64);
    let mut compacted_below = 1;
    let mut are_sealed = true;
    for entry in &manifest.segments {
        let SegmentState::Sealed { len_bytes: len, commits, .. } = entry.state else {
            are_sealed = false;
            continue;
        };
        match entry.kind {
            SegmentKind::Append if !are_sealed => continue,
            SegmentKind::Append => {
                let next_seq = entry.base_seq.saturating_add(commits.into());
                end = Some(CoveredPosition { segment: entry.id, offset: len, next_seq, compacted_below });
            }
            SegmentKind::Compacted => compacted_below = entry.id.saturating_add(1),
        }
        all_bytes += u64::from(len);
        len_bytes += u64::from(len.saturating_sub(manifest.tables.covered.end_in(entry.id, entry.kind)));
    }
    let end = end.map(|end| CoveredPosition { compacted_below, ..end });
    let is_long =
        len_bytes > budget_bytes.saturating_mul(LONG_LOG_TIMES).max(all_bytes / 2) && !planted("long_log_in_memory");
    end.filter(|end| is_long && end.next_seq >= manifest.tables.covered.next_seq).map(|end| (end, len_bytes))
}

/// Builds a table from the log up to a position, in place of all tables, and the state from it.
/// Without room for it, builds the state from the usable tables, or in memory.
fn rebuilt(
    store: &SegmentStore,
    recovery: &Recovery,
    components: &Components,
    tables_use: TablesUse,
    covered: CoveredPosition,
    watch: Watch<'_>,
) -> Result<Fold> {
    let (dir, segments, report) = (store.dir().as_ref(), recovery.segments(), recovery.report());
    let mut fold = match rebuild_tables(store, segments, components, covered, report.records(), watch) {
        Ok(list) => Fold::with_tables(dir, &list, segments, report, components, watch)?
            .map_err(|reason| Error::Internal(format!("a rebuilt table is unusable: {reason}").into()))?,
        Err(Error::Full { .. }) => {
            return Fold::of(dir, &store.manifest().tables, segments, report, components, watch);
        }
        Err(failure) => return Err(failure),
    };
    fold.tables_use = tables_use;
    Ok(fold)
}

/// Replaces all tables by one from the log up to a position.
fn rebuild_tables(
    store: &SegmentStore,
    segments: &[Arc<Segment>],
    components: &Components,
    covered: CoveredPosition,
    records: u64,
    watch: Watch<'_>,
) -> Result<NamedTables> {
    let before = store.manifest().tables;
    let rebuild = TableRebuild {
        dir: store.dir(),
        entropy: &*components.entropy,
        segments,
        list: &NamedTables { covered, ..before.clone() },
        records,
        take_id: &|| Ok(store.take_table_id()?),
        hash_seed: None,
        run_bytes: RUN_BYTES,
    };
    let written = rebuild.run(watch)?;
    let list = NamedTables { newest_first: vec![written.named], covered };
    if let Err(failure) = store.set_tables(list.clone(), written.reader.max_version()) {
        if !store.is_poisoned() {
            remove_unnamed(store.dir().as_ref(), &written.named);
        }
        return Err(failure.into());
    }
    // What cannot be removed now is garbage for the next open.
    before.newest_first.iter().for_each(|table| remove_unnamed(store.dir().as_ref(), table));
    Ok(list)
}

/// Seals the recovered segments and starts a new one.
fn start(surroundings: Surroundings, store: SegmentStore, recovery: Recovery, fold: Fold) -> Result<Opened> {
    let Surroundings { config, components, panics, fork_guard } = surroundings;
    let max_version = fold.state.max_version().max(recovery.report().version_floor);
    let time = StoreTime::resume(Arc::clone(&components.clock), &fold.segments);
    let stamp = time.stamp(max_version);
    store.set_next_len(config.idle_segment_len(fold.segments.live_bytes()));
    let retained = recovery.retained().to_vec();
    let (appender, report) = recovery.finish(stamp)?;
    let last_seq = appender.next_seq().saturating_sub(1);
    fold.state.writer().resume(last_seq).map_err(|error| Error::Validation(error.to_string().into()))?;
    let active = fold.segments.add(Arc::clone(appender.segment()))?;
    let log = CommitLog::new(appender, active, last_seq, max_version);
    let report = OpenReport {
        recovery: report,
        tables: fold.tables_use,
        replayed_records: fold.replayed_records,
        elapsed: Duration::ZERO,
    };
    Ok(Opened {
        tables: fold.tables,
        state: fold.state,
        segments: fold.segments,
        history: store.manifest().history,
        retained,
        log: Some((store, log)),
        lock: None,
        config,
        components,
        panics,
        fork_guard,
        time,
        report,
    })
}

fn open_for_reading(surroundings: Surroundings, watch: Watch<'_>) -> Result<Opened> {
    let Surroundings { config, components, .. } = &surroundings;
    // Declared first so that it is dropped last.
    let reading;
    let store = ReadOnlyStore::open(&components.fs, &config.data_dir, Tolerance::Strict)?;
    reading = ReadingLock(Arc::clone(store.lock()));
    refuse_loss(config, store.report())?;
    let fold =
        Fold::of(store.dir().as_ref(), &store.manifest().tables, store.segments(), store.report(), components, watch)?;
    let seq = store.manifest().next_seq.saturating_sub(1);
    fold.state.writer().resume(seq).map_err(|error| Error::Validation(error.to_string().into()))?;
    let (history, retained) = (store.manifest().history.clone(), store.retained().to_vec());
    let lock = Some(reading).filter(|_| !planted("reading_lock_dropped"));
    let report = OpenReport {
        recovery: store.into_report(),
        tables: fold.tables_use,
        replayed_records: fold.replayed_records,
        elapsed: Duration::ZERO,
    };
    let time = StoreTime::resume(Arc::clone(&components.clock), &fold.segments);
    let Surroundings { config, components, panics, fork_guard } = surroundings;
    Ok(Opened {
        state: fold.state,
        segments: fold.segments,
        log: None,
        history,
        retained,
        tables: fold.tables,
        config,
        components,
        panics,
        fork_guard,
        time,
        lock,
        report,
    })
}

/// Refuses the open if anything would be dropped and the settings forbid that. Nothing is changed
/// yet.
fn refuse_loss(config: &StoreConfig, report: &RecoveryReport) -> Result<()> {
    if config.recovery_mode == RecoveryMode::DropTail || report.dropped_bytes() == 0 {
        return Ok(());
    }
    let first = report.segments.iter().find(|segment| segment.dropped_bytes > 0);
    let (id, offset) = first.map_or((0, 0), |segment| (segment.id, segment.len_bytes));
    Err(Error::Corrupt {
        path: config.data_dir.join(hightower_segment::segment_name(id)),
        offset: offset.into(),
        detail: format!(
            "a crash left {} bytes of unfinished commits, and the recovery mode refuses their loss; open with RecoveryMode::DropTail to drop them",
            report.dropped_bytes()
        ),
    })
}
