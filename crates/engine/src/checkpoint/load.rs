//! Folding a store's files into its state: the newest checkpoint if it can be used, then what the log has beyond it.
//!
//! One thread reads and verifies ahead, another folds: reading blocks or records costs about as much as putting them into the index.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use hightower_index::pin;
use hightower_log::SegmentHeader;
use hightower_segment::{Access, Entry as LogEntry, Fs, Mapping, RecoveryReport, Segment, SegmentError};
use hightower_state::{Change, CommandKind, ConcurrentKvState, StateWriter};

use crate::checkpoint::codec::{Block, Checkpoint, CheckpointError, Covered, Entry};
use crate::error::{Error, Result};
use crate::place::Place;
use crate::table::Segments;

/// So many blocks of a checkpoint go from thread to thread at once.
const BLOCKS_PER_BATCH: u64 = 32;
/// So many records of the log go from thread to thread at once.
const RECORDS_PER_BATCH: usize = 1024;
/// Batches that wait between the threads.
const BATCHES_AHEAD: usize = 8;
/// The index is asked for a key so many records before it is needed.
const PREFETCH_AHEAD: usize = 12;

/// What opening is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenPhase {
    /// Loading the index checkpoint.
    Checkpoint,
    /// Replaying the log beyond it.
    Replay,
}

/// How far opening has come, for [`SingleNodeEngine::open_with_progress`](crate::SingleNodeEngine::open_with_progress).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenProgress {
    /// What is being done.
    pub phase: OpenPhase,
    /// How much of this phase's work is done: entries of the checkpoint, or bytes of the log.
    pub done: u64,
    /// How much work this phase has.
    pub total: u64,
}

/// Is told how far opening has come, and may end it.
pub(crate) type Watch<'a> = &'a mut dyn FnMut(OpenProgress) -> ControlFlow<()>;

/// What became of the checkpoint that the manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointUse {
    /// The manifest names none.
    None,
    /// It was loaded, and only the log beyond it was replayed.
    Loaded {
        /// Its file.
        name: String,
        /// How many entries of it counted.
        entries: u64,
    },
    /// It could not be used, and all of the log was replayed.
    Rebuilt {
        /// Its file.
        name: String,
        /// What was wrong with it.
        reason: String,
    },
}

/// The state and the segment table, while files are folded into them.
pub(crate) struct Fold {
    pub(crate) state: ConcurrentKvState<Place>,
    pub(crate) segments: Segments,
    pub(crate) replayed_records: u64,
    pub(crate) checkpoint: CheckpointUse,
    /// The highest version that the checkpoint knows of.
    pub(crate) max_version: u64,
    /// How long the checkpoint is.
    pub(crate) checkpoint_bytes: u64,
}

/// Why a checkpoint was not loaded.
enum Unusable {
    /// It is not what it should be: replay instead.
    Because(String),
    /// The caller ended the opening.
    Aborted,
}

impl From<CheckpointError> for Unusable {
    fn from(error: CheckpointError) -> Self {
        Self::Because(error.to_string())
    }
}

const ABORTED: Error = Error::Aborted("opening the store");

impl Fold {
    /// Folds all of `segments`, by way of the checkpoint of this name if there is one.
    pub(crate) fn of(
        fs: &dyn Fs,
        dir: &Path,
        store_id: [u8; 16],
        segments: &[Arc<Segment>],
        report: &RecoveryReport,
        watch: Watch<'_>,
    ) -> Result<Self> {
        let mut fold = Self::empty(segments, report)?;
        let mut covered = Vec::new();
        match report.checkpoint.as_ref().or(report.missing_checkpoint.as_ref()) {
            None => {}
            Some(name) => match fold.load(fs, &dir.join(name), store_id, watch) {
                Ok((entries, loaded)) => {
                    fold.checkpoint = CheckpointUse::Loaded { name: name.clone(), entries };
                    covered = loaded;
                }
                Err(Unusable::Aborted) => return Err(ABORTED),
                Err(Unusable::Because(reason)) => {
                    fold = Self::empty(segments, report)?;
                    fold.checkpoint = CheckpointUse::Rebuilt { name: name.clone(), reason };
                }
            },
        }
        fold.replay(segments, &covered, watch)?;
        Ok(fold)
    }

    /// Folds all of the log, as if there were no checkpoint.
    pub(crate) fn without_checkpoint(
        segments: &[Arc<Segment>],
        report: &RecoveryReport,
        watch: Watch<'_>,
    ) -> Result<Self> {
        let mut fold = Self::empty(segments, report)?;
        fold.replay(segments, &[], watch)?;
        Ok(fold)
    }

    fn empty(segments: &[Arc<Segment>], report: &RecoveryReport) -> Result<Self> {
        let table = Segments::default();
        for segment in segments {
            let records =
                report.segments.iter().find(|found| found.id == segment.id()).map_or(0, |found| found.records);
            table.add(Arc::clone(segment))?.add_records(records);
        }
        Ok(Self {
            state: ConcurrentKvState::new(),
            segments: table,
            replayed_records: 0,
            checkpoint: CheckpointUse::None,
            max_version: 0,
            checkpoint_bytes: 0,
        })
    }

    /// Loads a checkpoint; gives how many entries counted, and what it covers of the segments that are there.
    fn load(
        &mut self,
        fs: &dyn Fs,
        path: &Path,
        store_id: [u8; 16],
        watch: Watch<'_>,
    ) -> Result<(u64, Vec<Covered>), Unusable> {
        let mapping = map(fs, path).map_err(|error| Unusable::Because(error.to_string()))?;
        let bytes = mapping.published_from(0).unwrap_or_default();
        let checkpoint = Checkpoint::open(bytes)?;
        if checkpoint.header.store_id != store_id {
            return Err(Unusable::Because("it belongs to another store".into()));
        }
        let mut accounts = self.accounts(&checkpoint)?;
        let mut trouble = None;
        let loaded = thread::scope(|scope| {
            let (sender, receiver) = bounded(BATCHES_AHEAD);
            scope.spawn(move || verify_blocks(checkpoint, &sender));
            let mut entries = Loaded::new(receiver, &mut accounts, checkpoint.header.entries, watch);
            let loaded = self.state.writer().load(&mut entries);
            trouble = entries.trouble.take();
            loaded
        });
        if let Some(trouble) = trouble {
            return Err(trouble);
        }
        self.settle(&accounts)?;
        self.max_version = checkpoint.header.max_version;
        self.checkpoint_bytes = bytes.len() as u64;
        let covered = accounts.into_iter().filter(|account| account.is_there).map(|account| account.covered);
        Ok((loaded as u64, covered.collect()))
    }

    /// An account for each segment that the checkpoint covers, by id.
    fn accounts(&self, checkpoint: &Checkpoint<'_>) -> Result<Vec<Account>, Unusable> {
        let guard = pin();
        let mut accounts = Vec::new();
        for covered in checkpoint.segments() {
            let tracked = self.segments.find(covered.id, &guard);
            let tracked = tracked.filter(|tracked| tracked.segment.header().salt == covered.salt);
            if tracked.is_some_and(|tracked| tracked.segment.len_bytes() < covered.len_bytes) {
                let reason = format!("it covers more of segment {} than there is", covered.id);
                return Err(Unusable::Because(reason));
            }
            accounts.push(Account { covered, is_there: tracked.is_some(), ..Account::of(covered) });
        }
        accounts.sort_by_key(|account| account.covered.id);
        Ok(accounts)
    }

    /// Takes over what is live in each segment, if the entries add up to what the checkpoint says.
    fn settle(&self, accounts: &[Account]) -> Result<(), Unusable> {
        let guard = pin();
        for account in accounts.iter().filter(|account| account.is_there) {
            let Covered { id, live_records, live_bytes, tombstone_bytes, .. } = account.covered;
            if (live_records, live_bytes, tombstone_bytes) != (account.records, account.bytes, account.tombstone_bytes)
            {
                return Err(Unusable::Because(format!("its entries for segment {id} do not add up")));
            }
            if let Some(tracked) = self.segments.find(id, &guard) {
                tracked.load_live(live_records, live_bytes, tombstone_bytes);
            }
        }
        Ok(())
    }

    /// Replays what the log has beyond `covered`.
    fn replay(&mut self, segments: &[Arc<Segment>], covered: &[Covered], watch: Watch<'_>) -> Result<()> {
        let rest = segments.iter().filter_map(|segment| {
            let covered = covered.iter().find(|covered| covered.id == segment.id());
            let from = covered.map_or(SegmentHeader::LEN as u64, |covered| covered.len_bytes.into());
            let from = u32::try_from(from).unwrap_or(u32::MAX);
            (from < segment.len_bytes()).then_some((segment, from))
        });
        let rest: Vec<_> = rest.collect();
        let total = rest.iter().map(|(segment, from)| u64::from(segment.len_bytes() - from)).sum();
        let mut done = 0;
        thread::scope(|scope| {
            let (sender, receiver) = bounded(BATCHES_AHEAD);
            let rest = &rest;
            scope.spawn(move || read_ahead(rest, &sender));
            let mut writer = self.state.writer();
            for batch in receiver {
                let (id, entries) = batch?;
                for (at, entry) in entries.iter().enumerate() {
                    if let Some(ahead) = entries.get(at + PREFETCH_AHEAD) {
                        self.state.prefetch(ahead.command.key());
                    }
                    replay(&mut writer, &self.segments, id, entry);
                    done += u64::from(entry.len_bytes);
                }
                self.replayed_records += entries.len() as u64;
                if watch(OpenProgress { phase: OpenPhase::Replay, done, total }).is_break() {
                    return Err(ABORTED);
                }
            }
            Ok(())
        })
    }
}

/// The file, mapped and readable.
fn map(fs: &dyn Fs, path: &Path) -> std::io::Result<Mapping> {
    let file = fs.open(path, Access::Read)?;
    let len = usize::try_from(file.metadata()?.len_bytes).map_err(std::io::Error::other)?;
    let mapping = file.map(len, Access::Read)?;
    let mut writer = mapping.writer().ok_or_else(|| std::io::Error::other("the map is in use"))?;
    mapping.publish(&mut writer, len).map_err(std::io::Error::other)?;
    Ok(mapping)
}

/// Checks that the point table of a checkpoint is whole and finds every key. Says what is wrong.
pub(crate) fn verify_points(fs: &dyn Fs, path: &Path) -> Result<(), String> {
    let mapping = map(fs, path).map_err(|error| error.to_string())?;
    let checkpoint =
        Checkpoint::open(mapping.published_from(0).unwrap_or_default()).map_err(|error| error.to_string())?;
    checkpoint.verify_points().map_err(|error| error.to_string())?;
    for number in 0..checkpoint.header.blocks() {
        let block = checkpoint.block(number).map_err(|error| error.to_string())?;
        // One key of each block stands for the others, whose numbers the checksum vouches for.
        let entry = block.entry(0).map_err(|error| error.to_string())?;
        if checkpoint.find(entry.key).map_err(|error| error.to_string())? != Some(entry) {
            return Err(format!("the point table does not find the key {}", entry.key.escape_ascii()));
        }
    }
    Ok(())
}

/// Verifies block after block, ahead of who loads them. Ends when nobody listens.
fn verify_blocks<'a>(checkpoint: Checkpoint<'a>, sender: &Sender<Result<Vec<Block<'a>>, CheckpointError>>) {
    let blocks = checkpoint.header.blocks();
    let mut first = 0;
    while first < blocks {
        let end = blocks.min(first + BLOCKS_PER_BATCH);
        let batch: Result<Vec<_>, _> = (first..end).map(|number| checkpoint.block(number)).collect();
        let is_bad = batch.is_err();
        if sender.send(batch).is_err() || is_bad {
            return;
        }
        first = end;
    }
}

/// A batch of one segment's records.
type Batch<'a> = Result<(u32, Vec<LogEntry<'a>>), SegmentError>;

/// Reads and verifies segment after segment, ahead of who replays them. Ends when nobody listens.
fn read_ahead<'a>(segments: &[(&'a Arc<Segment>, u32)], sender: &Sender<Batch<'a>>) {
    for (segment, from) in segments {
        let mut entries = segment.entries_from(*from, 0);
        loop {
            let batch: Result<Vec<_>, _> = entries.by_ref().take(RECORDS_PER_BATCH).collect();
            let is_last = batch.as_ref().map_or(true, |batch| batch.len() < RECORDS_PER_BATCH);
            let is_bad = batch.is_err();
            if sender.send(batch.map(|batch| (segment.id(), batch))).is_err() || is_bad {
                return;
            }
            if is_last {
                break;
            }
        }
    }
}

fn replay(writer: &mut StateWriter<'_, Place>, segments: &Segments, segment: u32, entry: &LogEntry<'_>) {
    let command = entry.command;
    let kind = if command.value().is_some() { CommandKind::Set } else { CommandKind::Delete };
    let location = Place { segment, offset: entry.offset };
    let change = Change { key: command.key(), version: command.version(), kind, location, len_bytes: entry.len_bytes };
    let applied = writer.replay(&change);
    if !applied.outcome.changed() {
        return;
    }
    let guard = pin();
    if let Some(tracked) = segments.find(segment, &guard) {
        tracked.add_live(entry.len_bytes, kind == CommandKind::Delete);
    }
    if let Some(replaced) = applied.replaced
        && let Some(tracked) = segments.find(replaced.location.segment, &guard)
    {
        tracked.remove_live(replaced.len_bytes, replaced.was_tombstone);
    }
}

/// What the entries of one segment add up to.
struct Account {
    covered: Covered,
    is_there: bool,
    records: u64,
    bytes: u64,
    tombstone_bytes: u64,
}

impl Account {
    fn of(covered: Covered) -> Self {
        Self { covered, is_there: false, records: 0, bytes: 0, tombstone_bytes: 0 }
    }
}

/// The entries of a checkpoint that count, as the state loads them.
struct Loaded<'a, 'r> {
    batches: Receiver<Result<Vec<Block<'a>>, CheckpointError>>,
    batch: std::vec::IntoIter<Block<'a>>,
    block: Option<(Block<'a>, usize)>,
    accounts: &'r mut [Account],
    /// The key before.
    last: &'a [u8],
    done: u64,
    total: u64,
    watch: Watch<'r>,
    trouble: Option<Unusable>,
}

impl<'a, 'r> Loaded<'a, 'r> {
    fn new(
        batches: Receiver<Result<Vec<Block<'a>>, CheckpointError>>,
        accounts: &'r mut [Account],
        total: u64,
        watch: Watch<'r>,
    ) -> Self {
        Self {
            batches,
            batch: Vec::new().into_iter(),
            block: None,
            accounts,
            last: b"",
            done: 0,
            total,
            watch,
            trouble: None,
        }
    }

    /// The next entry, whether it counts or not; `None` at the end.
    fn step(&mut self) -> Result<Option<Entry<'a>>, Unusable> {
        loop {
            if let Some((block, at)) = &mut self.block
                && *at < block.len()
            {
                *at += 1;
                return Ok(Some(block.entry(*at - 1)?));
            }
            if let Some(block) = self.batch.next() {
                self.done += block.len() as u64;
                self.block = Some((block, 0));
                continue;
            }
            let Ok(batch) = self.batches.recv() else { return Ok(None) };
            self.batch = batch?.into_iter();
            let progress = OpenProgress { phase: OpenPhase::Checkpoint, done: self.done, total: self.total };
            if (self.watch)(progress).is_break() {
                return Err(Unusable::Aborted);
            }
        }
    }

    /// Books an entry; says whether it counts.
    fn book(&mut self, entry: &Entry<'_>) -> Result<bool, Unusable> {
        let found = self.accounts.binary_search_by_key(&entry.segment, |account| account.covered.id);
        let account = found.ok().and_then(|at| self.accounts.get_mut(at));
        let account =
            account.ok_or_else(|| Unusable::Because("an entry in a segment that it does not cover".into()))?;
        if entry.offset.checked_add(entry.len_bytes).is_none_or(|end| end > account.covered.len_bytes) {
            return Err(Unusable::Because("an entry beyond what it covers".into()));
        }
        account.records += 1;
        account.bytes += u64::from(entry.len_bytes);
        account.tombstone_bytes += if entry.is_tombstone { u64::from(entry.len_bytes) } else { 0 };
        Ok(account.is_there)
    }

    fn next_that_counts(&mut self) -> Result<Option<Change<'a, Place>>, Unusable> {
        while let Some(entry) = self.step()? {
            if entry.key <= self.last {
                return Err(Unusable::Because("its keys are not in order".into()));
            }
            self.last = entry.key;
            if self.book(&entry)? {
                let kind = if entry.is_tombstone { CommandKind::Delete } else { CommandKind::Set };
                let location = Place { segment: entry.segment, offset: entry.offset };
                let Entry { key, version, len_bytes, .. } = entry;
                return Ok(Some(Change { key, version, kind, location, len_bytes }));
            }
        }
        Ok(None)
    }
}

impl<'a> Iterator for Loaded<'a, '_> {
    type Item = Change<'a, Place>;

    fn next(&mut self) -> Option<Change<'a, Place>> {
        if self.trouble.is_some() {
            return None;
        }
        self.next_that_counts().unwrap_or_else(|trouble| {
            self.trouble = Some(trouble);
            None
        })
    }
}
