//! A user of the log that records the content of the log after each step, and how much of it is
//! durable.

use std::path::Path;
use std::sync::Arc;

use hightower_segment::sim::{Choice, CrashPlan, CrashPoint, SeededEntropy, SimFs};
use hightower_segment::{AppendMode, Fs, SegmentError, StoreOptions, Wal, WalRecovery};

use crate::sweep::{self, draws};

pub const DIR: &str = "/data/log";

/// One step of a workload.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Append {
        len: usize,
    },
    Sync,
    /// Drops `count` entries at the front; if there are fewer, the log restarts `count` positions
    /// past its first.
    TruncateFront {
        count: u64,
    },
    /// Drops `count` entries at the back, or all.
    TruncateBack {
        count: u64,
    },
    /// Close and open again.
    Reopen,
    /// Kill the process and open again.
    Kill,
}

/// The content of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub front: u64,
    pub entries: Vec<Vec<u8>>,
}

impl Content {
    pub fn of(wal: &Wal) -> Result<Self, SegmentError> {
        let front = wal.positions().start;
        let mut entries = Vec::new();
        for entry in wal.read(front)? {
            let entry = entry?;
            assert_eq!(entry.position, front + entries.len() as u64);
            entries.push(entry.bytes.to_vec());
        }
        assert_eq!(wal.positions().end, front + entries.len() as u64);
        Ok(Self { front, entries })
    }

    pub fn end(&self) -> u64 {
        self.front + self.entries.len() as u64
    }

    pub fn truncate_front(&mut self, position: u64) {
        if position > self.front {
            let count = usize::try_from(position - self.front).unwrap().min(self.entries.len());
            self.entries.drain(..count);
            self.front = position;
        }
    }

    pub fn truncate_back(&mut self, position: u64) {
        self.entries.truncate(usize::try_from(position - self.front).unwrap());
    }
}

/// The log after a change, with the numbers of recorded operations at the begin and at the end of
/// the change.
#[derive(Clone, Debug)]
pub struct State {
    pub content: Content,
    pub began: usize,
    pub done: usize,
}

pub struct World {
    pub fs: SimFs,
    pub options: StoreOptions,
    pub wal: Option<Wal>,
    /// The empty log, and the log after each change.
    pub states: Vec<State>,
    /// Pairs: a number of recorded operations, and the number of the state known to be durable
    /// then.
    pub durable: Vec<(usize, usize)>,
    appended: u64,
    /// False while devices lie or flip bits: then durable entries may be lost without a fault of
    /// the log.
    pub is_trusted: bool,
}

pub fn options(mode: AppendMode, seed: u64) -> StoreOptions {
    StoreOptions {
        segment_len_bytes: 1024,
        appends: mode,
        long_record_bytes: 100,
        entropy: Arc::new(SeededEntropy::new(seed)),
        ..StoreOptions::default()
    }
}

pub fn open(fs: &SimFs, options: &StoreOptions) -> Result<(Wal, WalRecovery), SegmentError> {
    Wal::open_with(Arc::new(fs.clone()) as Arc<dyn Fs>, Path::new(DIR), options.clone())
}

impl World {
    pub fn new(fs: SimFs, mode: AppendMode, seed: u64) -> Self {
        let empty = State { content: Content::default(), began: 0, done: 0 };
        Self {
            fs,
            options: options(mode, seed),
            wal: None,
            states: vec![empty],
            durable: vec![(0, 0)],
            appended: 0,
            is_trusted: true,
        }
    }

    pub fn content(&self) -> &Content {
        &self.states.last().unwrap().content
    }

    fn is_durable(&mut self) {
        self.durable.push((self.fs.op_count(), self.states.len() - 1));
    }

    pub fn open(&mut self) -> Result<(), SegmentError> {
        let (wal, recovery) = open(&self.fs, &self.options)?;
        assert_eq!(recovery.positions, wal.positions());
        if let Some(content) = Content::of(&wal).ok().filter(|_| !self.is_trusted) {
            let is_known = |entry| self.states.iter().any(|state| state.content.entries.contains(entry));
            assert!(content.entries.iter().all(is_known), "an entry that nobody appended");
            let now = self.fs.op_count();
            self.states.push(State { content, began: now, done: now });
        }
        self.wal = Some(wal);
        // The recovered content is durable now.
        self.is_durable();
        Ok(())
    }

    pub fn run(&mut self, steps: &[Step]) -> Result<(), SegmentError> {
        if self.wal.is_none() {
            self.open()?;
        }
        steps.iter().try_for_each(|step| self.step(*step))
    }

    pub fn step(&mut self, step: Step) -> Result<(), SegmentError> {
        let mut next = self.content().clone();
        let Some(mut wal) = self.wal.take() else { return Ok(()) };
        let began = self.fs.op_count();
        let outcome = match step {
            Step::Append { len } => {
                self.appended += 1;
                let entry = entry(self.appended, len);
                wal.append(&entry).map(|position| {
                    assert!(!self.is_trusted || position == next.end(), "{position} is not {}", next.end());
                    next.entries.push(entry);
                })
            }
            Step::Sync => wal.sync(),
            Step::TruncateFront { count } => {
                let position = next.front + count;
                let outcome = wal.truncate_front(position);
                // The log shows whether the cut took effect: files may remain.
                if wal.positions().start == position {
                    next.truncate_front(position);
                }
                outcome
            }
            Step::TruncateBack { count } => {
                let position = next.end().saturating_sub(count).max(next.front);
                wal.truncate_back(position).map(|()| next.truncate_back(position))
            }
            Step::Reopen => {
                wal.close()?;
                self.is_durable();
                return self.open();
            }
            Step::Kill => {
                drop(wal);
                return self.open();
            }
        };
        let found = Content::of(&wal);
        self.wal = Some(wal);
        if next != *self.content() {
            self.states.push(State { content: next, began, done: self.fs.op_count() });
        }
        if outcome.is_ok() && matches!(step, Step::Sync | Step::TruncateFront { .. }) {
            self.is_durable();
        }
        outcome?;
        if self.is_trusted {
            assert_eq!(&found?, self.content(), "after {step:?}");
        }
        Ok(())
    }

    /// Checks that the state of the disk after a crash at `point` keeps all promises; returns the
    /// broken one.
    pub fn check(&self, fs: &SimFs, point: CrashPoint, deep: bool) -> Result<(), String> {
        let begun = self.states.iter().rposition(|state| state.began < point.op || state.began == 0).unwrap_or(0);
        let promised = match point.choice {
            Choice::Everything => self.states.iter().rposition(|state| state.done <= point.op),
            _ => self.durable.iter().filter(|(op, _)| *op <= point.op).map(|(_, state)| *state).max(),
        };
        let promised = promised.unwrap_or(0);
        let (mut wal, _) =
            open(fs, &self.options).map_err(|error| format!("open fails after a plain crash: {error}"))?;
        let found = Content::of(&wal).map_err(|error| format!("the log cannot be read: {error}"))?;
        let allowed = self.states.get(promised..=begun).unwrap_or_default();
        if !allowed.iter().any(|state| state.content == found) {
            return Err(format!(
                "the log is {}..{}, which is none of the states {promised} to {begun}",
                found.front,
                found.end()
            ));
        }
        if !deep {
            return Ok(());
        }
        // The log accepts appends, and a kill of the process changes nothing.
        let mut expected = found;
        expected.entries.push(b"extra".to_vec());
        let at = wal.append(b"extra").map_err(|error| format!("no append after recovery: {error}"))?;
        if at + 1 != expected.end() {
            return Err(format!("the entry after recovery has position {at}"));
        }
        let again = fs.after_kill();
        drop(wal);
        let (wal, _) = open(&again, &self.options).map_err(|error| format!("the second open fails: {error}"))?;
        let found = Content::of(&wal).map_err(|error| format!("the log cannot be read again: {error}"))?;
        if found != expected { Err("the second open finds another log".to_owned()) } else { Ok(()) }
    }

    /// Visits crash states until one breaks a promise. Returns the number of visited ones.
    pub fn explore(&self, plan: CrashPlan) -> Result<u64, String> {
        sweep::explore(&self.fs, plan, |fs, point, deep| self.check(fs, point, deep))
    }

    /// Visits the crash states at the end of the workload.
    pub fn explore_end(&self, plan: CrashPlan) -> Result<(), String> {
        sweep::explore_end(&self.fs, plan, |fs, point, deep| self.check(fs, point, deep))
    }
}

/// An entry that differs from all others.
fn entry(number: u64, len: usize) -> Vec<u8> {
    let number = number.to_le_bytes();
    let filled = number.into_iter().chain((0..len).map(|index| (index % 251) as u8));
    filled.collect()
}

/// A workload drawn from a seed.
pub fn workload(seed: u64, steps: usize) -> Vec<Step> {
    let mut draw = draws(seed);
    (0..steps)
        .map(|_| match draw(32) {
            0..18 => Step::Append { len: draw(120) as usize },
            18..19 => Step::Append { len: 1500 },
            19..23 => Step::Sync,
            23..26 => Step::TruncateFront { count: draw(8) },
            26..30 => Step::TruncateBack { count: draw(5) },
            30..31 => Step::Reopen,
            _ => Step::Kill,
        })
        .collect()
}
