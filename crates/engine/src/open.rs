//! From the files on disk to an open store: recover the log, fold it into the state, start a new segment.

use std::sync::Arc;
use std::time::Duration;

use hightower_index::pin;
use hightower_log::CommandRef;
use hightower_segment::{
    ReadOnlyStore, Recovery, RecoveryReport, Segment, SegmentStore, Stamp, StoreOptions, Tolerance,
};
use hightower_state::{Change, CommandKind, ConcurrentKvState, StateWriter};

use crate::commit::CommitLog;
use crate::components::Components;
use crate::config::{RecoveryMode, StoreConfig};
use crate::core::Core;
use crate::error::{Error, Result};
use crate::place::Place;
use crate::table::Segments;

/// What opening a store found and did.
#[derive(Debug)]
#[non_exhaustive]
pub struct OpenReport {
    /// What was found in the files, and what was dropped.
    pub recovery: RecoveryReport,
    /// How many commands were replayed.
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

/// The state and the segment table, while the log is folded into them.
struct Fold {
    state: ConcurrentKvState<Place>,
    segments: Segments,
    replayed_records: u64,
}

impl Fold {
    fn new() -> Self {
        Self { state: ConcurrentKvState::new(), segments: Segments::default(), replayed_records: 0 }
    }

    /// Folds in all of a segment.
    fn add(&mut self, segment: &Arc<Segment>) -> Result<()> {
        self.segments.add(Arc::clone(segment))?;
        let mut writer = self.state.writer();
        for entry in segment.entries() {
            let entry = entry?;
            let location = Place { segment: segment.id(), offset: entry.offset };
            replay(&mut writer, &self.segments, &entry.command, location, entry.len_bytes);
            self.replayed_records += 1;
        }
        Ok(())
    }
}

fn replay(
    writer: &mut StateWriter<'_, Place>,
    segments: &Segments,
    command: &CommandRef<'_>,
    location: Place,
    len_bytes: u32,
) {
    let kind = if command.value().is_some() { CommandKind::Set } else { CommandKind::Delete };
    let change = Change { key: command.key(), version: command.version(), kind, location, len_bytes };
    let applied = writer.replay(&change);
    if !applied.outcome.changed() {
        return;
    }
    let guard = pin();
    if let Some(tracked) = segments.find(location.segment, &guard) {
        tracked.add_live(len_bytes);
    }
    if let Some(replaced) = applied.replaced
        && let Some(tracked) = segments.find(replaced.location.segment, &guard)
    {
        tracked.remove_live(replaced.len_bytes);
    }
}

/// Opens a store, for writing or for reading as the settings say.
pub(crate) fn open(config: StoreConfig, components: Components) -> Result<(Core, OpenReport)> {
    config.validate()?;
    let started = components.clock.elapsed();
    let (core, mut report) =
        if config.read_only { open_for_reading(config, components)? } else { open_for_writing(config, components)? };
    report.elapsed = core.components.clock.elapsed().saturating_sub(started);
    Ok((core, report))
}

fn open_for_writing(config: StoreConfig, components: Components) -> Result<(Core, OpenReport)> {
    let options = StoreOptions {
        // Within the range that `validate` allows.
        segment_len_bytes: u32::try_from(config.max_segment_size).unwrap_or(u32::MAX),
        appends: config.append_mode,
        entropy: Arc::clone(&components.entropy),
        ..StoreOptions::default()
    };
    let (store, recovery) = SegmentStore::open(Arc::clone(&components.fs), &config.data_dir, options)?;
    refuse_loss(&config, recovery.report())?;
    let mut fold = Fold::new();
    for segment in recovery.segments() {
        fold.add(segment)?;
    }
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
    let max_version = fold.state.max_version().max(recovery.report().version_floor);
    let stamp = Stamp { max_version, timestamp: components.clock.now_ms() };
    let (appender, report) = recovery.finish(stamp)?;
    let last_seq = appender.next_seq().saturating_sub(1);
    fold.state.writer().resume(last_seq).map_err(|error| Error::Validation(error.to_string().into()))?;
    let active = fold.segments.add(Arc::clone(appender.segment()))?;
    let log = CommitLog::new(appender, active, last_seq, max_version);
    let report = OpenReport { recovery: report, replayed_records: fold.replayed_records, elapsed: Duration::ZERO };
    Ok((Core::new(config, components, fold.state, fold.segments, Some((store, log))), report))
}

fn open_for_reading(config: StoreConfig, components: Components) -> Result<(Core, OpenReport)> {
    let store = ReadOnlyStore::open(&components.fs, &config.data_dir, Tolerance::Strict)?;
    refuse_loss(&config, store.report())?;
    let mut fold = Fold::new();
    for segment in store.segments() {
        fold.add(segment)?;
    }
    let seq = store.manifest().next_seq.saturating_sub(1);
    fold.state.writer().resume(seq).map_err(|error| Error::Validation(error.to_string().into()))?;
    let replayed_records = fold.replayed_records;
    let core = Core::new(config, components, fold.state, fold.segments, None);
    Ok((core, OpenReport { recovery: store.into_report(), replayed_records, elapsed: Duration::ZERO }))
}

/// Refuses to go on if anything would be dropped and the settings forbid that. Nothing was changed yet.
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
