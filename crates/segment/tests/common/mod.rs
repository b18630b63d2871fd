//! A small user of the store that records its promises: it runs a workload on the simulated file
//! system, and then checks whether a state of the disk keeps them.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(clippy::panic, clippy::print_stdout, reason = "a test that cannot go on ends here, and says what it saw")]

pub mod sweep;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hightower_log::{Command, Placement, encode};
use hightower_segment::sim::{Choice, CrashPlan, CrashPoint, SeededEntropy, SimFs};
use hightower_segment::{
    AppendMode, Appender, Edit, Fs, Purpose, Recovery, Segment, SegmentError, SegmentState, SegmentStore, Stamp,
    StoreOptions,
};

use sweep::draws;

pub const DIR: &str = "/data/store";
const EXTRA_KEY: &[u8] = b"extra";

/// One step of a workload.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A commit of `commands` commands with values of `value_len` bytes.
    Commit {
        commands: usize,
        value_len: usize,
    },
    /// A sync by the engine's background thread.
    Sync,
    Prepare,
    SealPredecessors,
    /// Merges sealed segments into one.
    Compact,
    /// Close and open again.
    Reopen,
    /// Kill the process and open again.
    Kill,
}

/// An acknowledged commit, or one in progress.
#[derive(Clone, Debug)]
pub struct Commit {
    pub commands: Vec<Command>,
    pub seq: u64,
    /// Numbers of recorded operations at its begin and at its end.
    pub began: usize,
    pub done: usize,
}

pub struct World {
    pub fs: SimFs,
    pub options: StoreOptions,
    pub commits: Vec<Commit>,
    /// Pairs: a number of recorded operations, and the number of commits known to be durable then.
    pub durable: Vec<(usize, usize)>,
    /// Assigned versions and seqs, each with its operation.
    pub handed_out: Vec<(usize, u64, u64)>,
    pub version: u64,
    pub open: Option<Open>,
    /// Failed commits, which must never be visible.
    pub failed: Vec<u64>,
}

pub struct Open {
    pub store: SegmentStore,
    pub appender: Appender,
    pub segments: Vec<Arc<Segment>>,
}

pub fn options(mode: AppendMode, segment_len_bytes: u32, seed: u64) -> StoreOptions {
    StoreOptions {
        segment_len_bytes,
        appends: mode,
        // So that some commits are long records, and some are not.
        long_record_bytes: 100,
        entropy: Arc::new(SeededEntropy::new(seed)),
        ..StoreOptions::default()
    }
}

impl World {
    pub fn new(fs: SimFs, options: StoreOptions) -> Self {
        Self {
            fs,
            options,
            commits: Vec::new(),
            durable: vec![(0, 0)],
            handed_out: Vec::new(),
            version: 0,
            open: None,
            failed: Vec::new(),
        }
    }

    pub fn stamp(&self) -> Stamp {
        Stamp { max_version: self.version, timestamp: 1_700_000_000_000 }
    }

    pub fn open(&mut self) -> Result<(), SegmentError> {
        let fs: Arc<dyn Fs> = Arc::new(self.fs.clone());
        let (store, recovery) = SegmentStore::open(fs, Path::new(DIR), self.options.clone())?;
        self.version = self.version.max(recovery.report().version_floor);
        let mut segments = recovery.segments().to_vec();
        let (appender, _) = recovery.finish(self.stamp())?;
        segments.push(Arc::clone(appender.segment()));
        self.open = Some(Open { store, appender, segments });
        // The recovered content is durable now.
        self.durable.push((self.fs.op_count(), self.commits.len()));
        Ok(())
    }

    pub fn run(&mut self, steps: &[Step]) -> Result<(), SegmentError> {
        if self.open.is_none() {
            self.open()?;
        }
        steps.iter().try_for_each(|step| self.step(*step))
    }

    pub fn step(&mut self, step: Step) -> Result<(), SegmentError> {
        match step {
            Step::Commit { commands, value_len } => self.commit(commands, value_len, Purpose::Grow),
            Step::Sync => self.sync(),
            Step::Prepare => self.with(|open, stamp| open.store.prepare_next(stamp).map(drop)),
            Step::SealPredecessors => self.with(|open, _| open.store.sync_predecessors().map(drop)),
            Step::Compact => self.with(compact),
            Step::Reopen => self.reopen(),
            Step::Kill => {
                self.open = None;
                self.open()
            }
        }
    }

    fn with(&mut self, work: impl FnOnce(&mut Open, Stamp) -> Result<(), SegmentError>) -> Result<(), SegmentError> {
        let stamp = self.stamp();
        match &mut self.open {
            Some(open) => work(open, stamp),
            None => Ok(()),
        }
    }

    pub fn sync(&mut self) -> Result<(), SegmentError> {
        let count = self.commits.len();
        self.with(|open, _| open.store.sync_point().sync())?;
        self.durable.push((self.fs.op_count(), count));
        Ok(())
    }

    fn reopen(&mut self) -> Result<(), SegmentError> {
        let stamp = self.stamp();
        if let Some(open) = self.open.take() {
            open.appender.close(stamp)?;
            self.durable.push((self.fs.op_count(), self.commits.len()));
        }
        self.open()
    }

    pub fn commit(&mut self, count: usize, value_len: usize, purpose: Purpose) -> Result<(), SegmentError> {
        let stamp = self.stamp();
        let first = self.version + 1;
        let commands: Vec<Command> = (first..).take(count).map(|version| command(version, value_len)).collect();
        let Some(open) = &mut self.open else { return Ok(()) };
        let most = commands.len() * (value_len + 34 + 24);
        open.appender.make_room(most, purpose, stamp).inspect(|rolled| {
            if *rolled {
                open.segments.push(Arc::clone(open.appender.segment()));
            }
        })?;
        let bytes = encode_commit(&open.appender, &commands)?;
        self.version += count as u64;
        let began = self.fs.op_count();
        match open.appender.append(&[&bytes], u32::try_from(count).unwrap_or(u32::MAX)) {
            Ok(appended) => {
                self.handed_out.push((began, self.version, appended.seq));
                self.commits.push(Commit { commands, seq: appended.seq, began, done: self.fs.op_count() });
                Ok(())
            }
            Err(error) => {
                self.failed.extend(commands.iter().map(Command::version));
                Err(error)
            }
        }
    }

    /// Checks that the state of the disk after a crash at `point` keeps all promises; returns the
    /// broken one.
    pub fn check(&self, fs: &SimFs, point: CrashPoint, deep: bool) -> Result<(), String> {
        let done_by = |op: usize| self.commits.iter().filter(|commit| commit.done <= op).count();
        let began_by = self.commits.iter().filter(|commit| commit.began < point.op).count();
        let promised = match point.choice {
            Choice::Everything => done_by(point.op),
            _ => self.durable.iter().filter(|(op, _)| *op <= point.op).map(|(_, count)| *count).max().unwrap_or(0),
        };
        let found = self.check_open(fs, promised, began_by, point.op, deep)?;
        if deep {
            // A second recovery, after a kill of the first one's process, finds the same commits.
            let again = self.check_open(&fs.after_kill(), found, found, point.op, false)?;
            if again != found {
                return Err(format!("the first open found {found} commits, the second {again}"));
            }
        }
        Ok(())
    }

    /// Opens the store, and returns the number of its commits.
    fn check_open(&self, fs: &SimFs, least: usize, most: usize, op: usize, deep: bool) -> Result<usize, String> {
        let shared: Arc<dyn Fs> = Arc::new(fs.clone());
        let (_store, recovery) = SegmentStore::open(shared, Path::new(DIR), self.options.clone())
            .map_err(|error| format!("open fails after a plain crash: {error}"))?;
        let found = self.check_content(&recovery, least, most)?;
        let floor = recovery.report().version_floor;
        let handed_out = self.handed_out.iter().filter(|(began, _, _)| *began < op);
        let (version, seq) = handed_out.fold((0, 0), |(v, s), (_, version, seq)| (v.max(*version), s.max(*seq)));
        if floor < version && !recovery.report().created {
            return Err(format!("version {version} was handed out, the floor is {floor}"));
        }
        let stamp = Stamp { max_version: floor, timestamp: 0 };
        let (mut appender, report) = recovery.finish(stamp).map_err(|error| format!("finish fails: {error}"))?;
        if appender.next_seq() <= seq {
            return Err(format!("seq {seq} was handed out, the next is {}", appender.next_seq()));
        }
        if deep && !report.created {
            self.go_on(fs, &mut appender, found)?;
            drop(appender);
        }
        Ok(found)
    }

    /// The found commits are a prefix of all commits: complete, in order, once, unchanged.
    fn check_content(&self, recovery: &Recovery, least: usize, most: usize) -> Result<usize, String> {
        let mut found = BTreeMap::new();
        for segment in recovery.segments() {
            let mut last_seq = 0;
            for entry in segment.entries() {
                let entry = entry.map_err(|error| format!("a live segment cannot be read: {error}"))?;
                if entry.seq < last_seq {
                    return Err("seqs go back".to_owned());
                }
                last_seq = entry.seq;
                // Added by an earlier check.
                if entry.command.key() == EXTRA_KEY {
                    continue;
                }
                if found.insert(entry.command.version(), entry.command.to_owned()).is_some() {
                    return Err(format!("version {} is there twice", entry.command.version()));
                }
            }
        }
        let mut count = 0;
        for commit in &self.commits {
            let there = commit.commands.iter().filter(|command| found.get(&command.version()) == Some(command)).count();
            if there == 0 {
                break;
            }
            if there < commit.commands.len() {
                return Err(format!("{there} of the {} commands of commit {count} are there", commit.commands.len()));
            }
            commit.commands.iter().for_each(|command| {
                found.remove(&command.version());
            });
            count += 1;
        }
        if !found.is_empty() {
            let versions: Vec<_> = found.keys().collect();
            return Err(format!("after {count} commits there are strange versions: {versions:?}"));
        }
        if count < least || count > most {
            return Err(format!("{count} commits are there; {least} were promised and {most} begun"));
        }
        Ok(count)
    }

    /// The store accepts commits after recovery, and they survive.
    fn go_on(&self, fs: &SimFs, appender: &mut Appender, found: usize) -> Result<(), String> {
        let extra = Command::Delete { key: EXTRA_KEY.to_vec(), version: u64::MAX, timestamp: 1 };
        let error = |error: SegmentError| format!("the store takes no commit after recovery: {error}");
        let bytes = encode_commit(appender, std::slice::from_ref(&extra)).map_err(error)?;
        appender.append(&[&bytes], 1).map_err(error)?;
        let shared: Arc<dyn Fs> = Arc::new(fs.after_kill());
        let (_store, recovery) = SegmentStore::open(shared, Path::new(DIR), self.options.clone()).map_err(error)?;
        let count: usize =
            recovery.segments().iter().map(|segment| segment.entries().filter(Result::is_ok).count()).sum();
        let expected: usize = self.commits.iter().take(found).map(|commit| commit.commands.len()).sum();
        if count != expected + 1 {
            return Err(format!("{count} commands after recovery and one more commit, {} expected", expected + 1));
        }
        Ok(())
    }

    /// Visits the crash states at the end of the workload.
    pub fn explore_end(&self, plan: CrashPlan) -> Result<(), String> {
        sweep::explore_end(&self.fs, plan, |fs, point, deep| self.check(fs, point, deep))
    }

    /// Visits crash states until one breaks a promise. Returns the number of visited ones.
    pub fn explore(&self, plan: CrashPlan) -> Result<u64, String> {
        sweep::explore(&self.fs, plan, |fs, point, deep| self.check(fs, point, deep))
    }
}

pub fn command(version: u64, value_len: usize) -> Command {
    let key = format!("key-{version}").into_bytes();
    let timestamp = 1_700_000_000_000 + i64::try_from(version % 100_000).unwrap_or(0);
    if version.is_multiple_of(5) {
        return Command::Delete { key, version, timestamp };
    }
    let value = (0..value_len).map(|index| u8::try_from((version + index as u64) % 251).unwrap_or(0)).collect();
    Command::Set { key, value, version, timestamp }
}

pub fn encode_commit(appender: &Appender, commands: &[Command]) -> Result<Vec<u8>, SegmentError> {
    let mut bytes = Vec::new();
    let durable = appender.durable();
    for (index, command) in commands.iter().enumerate() {
        let offset = appender.position() + u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let placement = Placement::Appended { durable, continues: index + 1 < commands.len() };
        encode(&mut bytes, appender.context(), offset, &command.borrow(), placement)?;
    }
    Ok(bytes)
}

/// Merges up to three sealed segments into one.
fn compact(open: &mut Open, stamp: Stamp) -> Result<(), SegmentError> {
    let manifest = open.store.manifest();
    let sealed = manifest.segments.iter().filter(|entry| matches!(entry.state, SegmentState::Sealed { .. }));
    let ids: Vec<u32> = sealed.map(|entry| entry.id).take(3).collect();
    if ids.len() < 2 {
        return Ok(());
    }
    let inputs: Vec<Arc<Segment>> =
        open.segments.iter().filter(|segment| ids.contains(&segment.id())).map(Arc::clone).collect();
    let len: u32 = inputs.iter().map(|input| input.len_bytes()).sum();
    let mut output = open.store.create_compacted(len + 512, len + 200, Purpose::Reclaim, stamp)?;
    for input in &inputs {
        for entry in input.entries() {
            let entry = entry?;
            let mut bytes = Vec::new();
            encode(&mut bytes, output.context(), output.position(), &entry.command, Placement::Relocated)?;
            output.append(&[&bytes])?;
        }
    }
    let output = output.finish()?;
    let added = Arc::clone(&output.segment);
    open.store.install(&Edit { add: vec![output], remove: ids.clone(), ..Edit::default() })?;
    open.segments.retain(|segment| !ids.contains(&segment.id()));
    open.segments.push(added);
    for input in inputs {
        open.store.release(input)?;
    }
    Ok(())
}

/// A workload drawn from a seed.
pub fn workload(seed: u64, steps: usize) -> Vec<Step> {
    let mut draw = draws(seed);
    (0..steps)
        .map(|_| match draw(32) {
            0..15 => Step::Commit { commands: 1, value_len: draw(120) as usize },
            15..18 => Step::Commit { commands: 2 + draw(4) as usize, value_len: draw(40) as usize },
            18..19 => Step::Commit { commands: 1, value_len: 1500 },
            19..23 => Step::Sync,
            23..26 => Step::Prepare,
            26..28 => Step::SealPredecessors,
            28..30 => Step::Compact,
            30..31 => Step::Reopen,
            _ => Step::Kill,
        })
        .collect()
}
