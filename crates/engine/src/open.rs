//! From the files on disk to an open store: recover the log, fold it into the state, start a new
//! segment.

use std::sync::Arc;
use std::time::Duration;

use hightower_segment::{ReadOnlyStore, Recovery, RecoveryReport, SegmentStore, Stamp, StoreOptions, Tolerance};

use crate::checkpoint::{CheckpointUse, Fold, Watch};
use crate::commit::CommitLog;
use crate::components::Components;
use crate::config::{RecoveryMode, StoreConfig};
use crate::core::{Core, ReadingLock};
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::time::StoreTime;

/// What opening a store found and did.
#[derive(Debug)]
#[non_exhaustive]
pub struct OpenReport {
    /// What was found in the files, and what was dropped.
    pub recovery: RecoveryReport,
    /// What became of the index checkpoint.
    pub checkpoint: CheckpointUse,
    /// How many commands were replayed: those that the checkpoint does not cover.
    pub replayed_records: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl OpenReport {
    /// Whether the last writer ended without closing: by a crash, a kill, or a failure.
    #[must_use]
    pub fn was_unclean(&self) -> bool {
        self.recovery.unclean
    }

    /// How many bytes of unfinished tail were dropped.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.recovery.dropped_bytes()
    }
}

/// Opens a store, for writing or for reading as the settings say. `is_copy`: it is being made, as a
/// copy of another.
pub(crate) fn open(
    config: StoreConfig,
    components: Components,
    is_copy: bool,
    watch: Watch<'_>,
) -> Result<(Core, OpenReport)> {
    config.validate()?;
    let panics = Arc::default();
    let components = components.guarded(&panics);
    let started = components.clock.elapsed();
    let (core, mut report) = if config.read_only {
        open_for_reading(config, components, watch)?
    } else {
        open_for_writing(config, components, is_copy, watch)?
    };
    report.elapsed = core.components.clock.elapsed().saturating_sub(started);
    Ok((core.showing(panics), report))
}

fn open_for_writing(
    config: StoreConfig,
    components: Components,
    is_copy: bool,
    watch: Watch<'_>,
) -> Result<(Core, OpenReport)> {
    let options = StoreOptions {
        segment_len_bytes: config.segment_len_bytes(),
        appends: config.append_mode,
        allow_unfinished: is_copy,
        entropy: Arc::clone(&components.entropy),
        ..StoreOptions::default()
    };
    let (store, recovery) = SegmentStore::open(Arc::clone(&components.fs), &config.data_dir, options)?;
    refuse_loss(&config, recovery.report())?;
    let store_id = store.manifest().store_id;
    let fold = Fold::of(store.dir().as_ref(), store_id, recovery.segments(), recovery.report(), &components, watch)?;
    start(config, components, store, recovery, fold)
}

/// Seals what was recovered and starts a new segment.
fn start(
    config: StoreConfig,
    components: Components,
    store: SegmentStore,
    recovery: Recovery,
    fold: Fold,
) -> Result<(Core, OpenReport)> {
    let max_version = fold.state.max_version().max(fold.max_version).max(recovery.report().version_floor);
    let time = StoreTime::resume(Arc::clone(&components.clock), &fold.segments);
    let stamp = Stamp { max_version, timestamp: time.stamp_ms() };
    store.set_next_len(config.idle_segment_len(fold.segments.live_bytes()));
    let (appender, report) = recovery.finish(stamp)?;
    let last_seq = appender.next_seq().saturating_sub(1);
    fold.state.writer().resume(last_seq).map_err(|error| Error::Validation(error.to_string().into()))?;
    let active = fold.segments.add(Arc::clone(appender.segment()))?;
    let log = CommitLog::new(appender, active, last_seq, max_version);
    let report = OpenReport {
        recovery: report,
        checkpoint: fold.checkpoint.clone(),
        replayed_records: fold.replayed_records,
        elapsed: Duration::ZERO,
    };
    let core = Core::new(config, components, time, fold.state, fold.segments, Some((store, log)))?;
    core.upkeep.set_checkpoint_bytes(fold.checkpoint_bytes);
    let mut turn = core.upkeep.turn.lock()?;
    turn.checkpoint = match fold.checkpoint {
        // Nothing was replayed: it says all there is to say.
        CheckpointUse::Loaded { name, .. } if fold.replayed_records == 0 => Some((name, last_seq, 0)),
        CheckpointUse::Loaded { name, .. } | CheckpointUse::Rebuilt { name, .. } => Some((name, 0, 0)),
        CheckpointUse::None => None,
    };
    drop(turn);
    Ok((core, report))
}

fn open_for_reading(config: StoreConfig, components: Components, watch: Watch<'_>) -> Result<(Core, OpenReport)> {
    // Declared first, to be dropped last.
    let reading;
    let store = ReadOnlyStore::open(&components.fs, &config.data_dir, Tolerance::Strict)?;
    reading = ReadingLock(Arc::clone(store.lock()));
    refuse_loss(&config, store.report())?;
    let store_id = store.manifest().store_id;
    let fold = Fold::of(store.dir().as_ref(), store_id, store.segments(), store.report(), &components, watch)?;
    let seq = store.manifest().next_seq.saturating_sub(1);
    fold.state.writer().resume(seq).map_err(|error| Error::Validation(error.to_string().into()))?;
    let lock = Some(reading).filter(|_| !planted("reading_lock_dropped"));
    let report = OpenReport {
        recovery: store.into_report(),
        checkpoint: fold.checkpoint,
        replayed_records: fold.replayed_records,
        elapsed: Duration::ZERO,
    };
    let time = StoreTime::resume(Arc::clone(&components.clock), &fold.segments);
    Ok((Core::new(config, components, time, fold.state, fold.segments, None)?.reading(lock), report))
}

/// Refuses to go on if anything would be dropped and the settings forbid that. Nothing was changed
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
            "a crash left {} bytes of unfinished commits, and the recovery mode is to refuse their loss; open with RecoveryMode::DropTail to drop them",
            report.dropped_bytes()
        ),
    })
}
