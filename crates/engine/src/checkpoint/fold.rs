//! Building a store's state from its files: the newest usable checkpoint, and the log beyond it.
//!
//! Threads share all of this work. Each segment is read and verified by one thread. Then the
//! records are partitioned by key range. For each range one thread sorts its records, decodes and
//! verifies the checkpoint's blocks, merges both (the highest version wins), and builds a run of
//! the index. At the end the runs are joined.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use hightower_index::pin;
use hightower_log::SegmentHeader;
use hightower_segment::{Dir, RecoveryReport, Segment};
use hightower_state::{ConcurrentKvState, LoadRun, StateError};

use crate::checkpoint::codec::Covered;
use crate::checkpoint::load::{Account, Mapped, Sums};
use crate::checkpoint::merge::{Merged, Plan};
use crate::checkpoint::records::{HELD_MAX, Rest, read};
use crate::components::Components;
use crate::error::{Error, Result};
use crate::parallel::{in_pieces, threads};
use crate::place::Place;
use crate::table::Segments;

/// A phase of an open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenPhase {
    /// Building the index from the checkpoint and the replayed records.
    Checkpoint,
    /// Reading the log beyond the checkpoint.
    Replay,
}

/// The progress of an open, for
/// [`SingleNodeEngine::open_with_progress`](crate::SingleNodeEngine::open_with_progress).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenProgress {
    /// The phase.
    pub phase: OpenPhase,
    /// The completed work of this phase: key ranges, or bytes of the log.
    pub done: u64,
    /// The total work of this phase.
    pub total: u64,
}

/// A callback for the progress of an open, which may abort it.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(OpenProgress) -> ControlFlow<()>;

/// The use of the checkpoint in the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointUse {
    /// The manifest has no checkpoint.
    None,
    /// The checkpoint was loaded, and only the log beyond it was replayed.
    Loaded {
        /// Its file.
        name: String,
        /// The number of its used entries.
        entries: u64,
    },
    /// The checkpoint was unusable, and the whole log was replayed.
    Rebuilt {
        /// Its file.
        name: String,
        /// The reason.
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
    pub(crate) state: ConcurrentKvState<Place>,
    pub(crate) segments: Segments,
    pub(crate) replayed_records: u64,
    pub(crate) checkpoint: CheckpointUse,
    /// The highest version in the checkpoint.
    pub(crate) max_version: u64,
    /// The length of the checkpoint, in bytes.
    pub(crate) checkpoint_bytes: u64,
}

pub(crate) const ABORTED: Error = Error::Aborted("the open");

/// The reason why the state was not built.
pub(crate) enum Unusable {
    /// The checkpoint is unusable: replay the whole log.
    Because(String),
    /// The log is damaged, or the caller has aborted the open.
    Failed(Error),
}

impl Fold {
    /// Builds the state from all `segments`, and from the checkpoint of this name if one exists.
    pub(crate) fn of(
        dir: &dyn Dir,
        store_id: [u8; 16],
        segments: &[Arc<Segment>],
        report: &RecoveryReport,
        components: &Components,
        watch: Watch<'_>,
    ) -> Result<Self> {
        let Some(name) = report.checkpoint.as_ref().or(report.missing_checkpoint.as_ref()) else {
            return Self::without_checkpoint(segments, report, components, watch);
        };
        let mut fold = Self::empty(segments, report, components)?;
        let loaded = Mapped::open(dir, name, store_id)
            .and_then(|mapped| fold.build(segments, Some(&mapped), watch).map(|entries| (entries, mapped)));
        match loaded {
            Ok((entries, mapped)) => {
                fold.checkpoint = CheckpointUse::Loaded { name: name.clone(), entries };
                fold.max_version = mapped.max_version();
                fold.checkpoint_bytes = mapped.len_bytes();
                Ok(fold)
            }
            Err(Unusable::Because(reason)) => {
                let mut fold = Self::without_checkpoint(segments, report, components, watch)?;
                fold.checkpoint = CheckpointUse::Rebuilt { name: name.clone(), reason };
                Ok(fold)
            }
            Err(Unusable::Failed(error)) => Err(error),
        }
    }

    /// Builds the state from the whole log, without a checkpoint.
    pub(crate) fn without_checkpoint(
        segments: &[Arc<Segment>],
        report: &RecoveryReport,
        components: &Components,
        watch: Watch<'_>,
    ) -> Result<Self> {
        let mut fold = Self::empty(segments, report, components)?;
        match fold.build(segments, None, watch) {
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
            checkpoint: CheckpointUse::None,
            max_version: 0,
            checkpoint_bytes: 0,
        })
    }

    /// Builds the state; returns the number of used entries of the checkpoint.
    fn build(&mut self, segments: &[Arc<Segment>], mapped: Option<&Mapped>, watch: Watch<'_>) -> Result<u64, Unusable> {
        let checkpoint = mapped.map(Mapped::checkpoint).transpose()?;
        let accounts = match &checkpoint {
            Some(checkpoint) => self.accounts(checkpoint.segments())?,
            None => Vec::new(),
        };
        let rest = rest_of(segments, &accounts);
        let mut meter = ReplayMeter { done: 0, total: rest.iter().map(Rest::len_bytes).sum(), watch };
        let pending = read(&rest, HELD_MAX, &mut meter).map_err(Unusable::Failed)?;
        self.replayed_records = pending.records;
        let plan = Plan::new(checkpoint, &accounts, pending)?;
        let ranges = self.build_ranges(&plan, meter.watch)?;

        let mut entries = 0;
        let mut booked_in_all = vec![Sums::default(); accounts.len()];
        let mut runs = Vec::with_capacity(ranges.len());
        for Merged { run, booked, live, counted } in ranges {
            for (at, booked) in &booked {
                booked_in_all[*at].add(booked);
            }
            self.add_live(&plan, &live);
            entries += counted;
            runs.push(run);
        }
        let wrong = accounts.iter().zip(&booked_in_all).find(|(account, booked)| !account.agrees(booked));
        if let Some((account, _)) = wrong {
            let reason = format!("its entries for segment {} do not add up", account.covered.id);
            return Err(Unusable::Because(reason));
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
            |run| plan.build(run * per_run..total.min((run + 1) * per_run), self.state.load_run()),
            || {
                done = total.min(done + per_run);
                watch(OpenProgress { phase: OpenPhase::Checkpoint, done: done as u64, total: total as u64 })
            },
        );
        runs.ok_or(Unusable::Failed(ABORTED))?.into_iter().collect()
    }

    fn join(&self, runs: Vec<LoadRun<Place>>) -> Result<(), Unusable> {
        let joined = self.state.writer().load_runs(runs, threads());
        joined.map(|_| ()).map_err(|error| match error {
            StateError::KeysOutOfOrder => Unusable::Because("its keys are not in order".into()),
            other => Unusable::Failed(Error::Validation(other.to_string().into())),
        })
    }

    /// A tally for each covered segment, in the checkpoint's order.
    fn accounts(&self, covered: impl Iterator<Item = Covered>) -> Result<Vec<Account>, Unusable> {
        let guard = pin();
        let mut accounts = Vec::new();
        for covered in covered {
            let tracked = self.segments.find(covered.id, &guard);
            let tracked = tracked.filter(|tracked| tracked.segment.header().salt == covered.salt);
            if tracked.is_some_and(|tracked| tracked.segment.len_bytes() < covered.len_bytes) {
                let reason = format!("it covers more of segment {} than there is", covered.id);
                return Err(Unusable::Because(reason));
            }
            accounts.push(Account::new(covered, tracked.is_some()));
        }
        Ok(accounts)
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

/// The part of each segment that is not in the checkpoint.
fn rest_of<'a>(segments: &'a [Arc<Segment>], accounts: &[Account]) -> Vec<Rest<'a>> {
    let first_record_at = u32::try_from(SegmentHeader::LEN).unwrap_or(u32::MAX);
    let there = accounts.iter().filter(|account| account.is_there);
    let covered: HashMap<u32, u32> = there.map(|account| (account.covered.id, account.covered.len_bytes)).collect();
    let rest = segments.iter().filter_map(|segment| {
        let from = covered.get(&segment.id()).copied().unwrap_or(first_record_at);
        (from < segment.len_bytes()).then_some(Rest { segment, from })
    });
    rest.collect()
}

/// Counts bytes of the log for the progress callback.
pub(crate) struct ReplayMeter<'a> {
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) watch: Watch<'a>,
}

impl ReplayMeter<'_> {
    /// Sets the total number of completed bytes.
    pub(crate) fn set(&mut self, done: u64) -> ControlFlow<()> {
        self.done = done;
        (self.watch)(OpenProgress { phase: OpenPhase::Replay, done, total: self.total })
    }
}
