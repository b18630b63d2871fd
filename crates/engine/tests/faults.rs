//! One fault at each file-system call of a workload, of every kind, once and lasting. Each failure
//! is reported, no partial write is ever visible, nothing promised is lost, and after a failed
//! write or sync the store refuses writes while reads still work.
//!
//! Lying syncs and flipped bits may lose promised writes. They are detected or harmless: no value
//! is read that was not written.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of workloads (default 1), `HIGHTOWER_TEST_SEED` the
//! first.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use std::collections::BTreeMap;

use common::{BACKUP_DIR, Step, append, config, key, open_with, setting, workload};
use hightower_engine::{AppendMode, Background, Batch, Durability, Error, MergeOutcome, SingleNodeEngine};
use hightower_segment::sim::{CrashPlan, Fault, FaultKind, SimFs};

const STEPS: usize = 16;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store under test, and its allowed contents.
struct Victim {
    fs: SimFs,
    mode: AppendMode,
    engine: Option<SingleNodeEngine>,
    /// Its content after each returned commit; the first one is empty.
    states: Vec<Content>,
    /// Its content if the failed write took effect after all.
    maybe: Option<Content>,
    /// The number of commits that must survive a power loss.
    durable: usize,
    /// Every value that was ever submitted.
    handed_in: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
}

/// The outcome of a step.
enum Came {
    Through,
    /// It failed without a change.
    ToNothing,
    /// It failed, and the store refuses writes from now on.
    ToAnEnd,
}

impl Victim {
    fn new(fs: SimFs, mode: AppendMode) -> Self {
        Self {
            fs,
            mode,
            engine: None,
            states: vec![Content::new()],
            maybe: None,
            durable: 0,
            handed_in: BTreeMap::new(),
        }
    }

    fn open(&mut self) -> Result<(), Error> {
        self.engine = Some(open_with(&self.fs, config(self.mode), 7, Background::Caller)?);
        // The recovered content was synced.
        self.durable = self.states.len() - 1;
        Ok(())
    }

    /// Runs to the end, or until the store refuses writes. Returns the broken promise, if any.
    fn run(&mut self, steps: &[Step]) -> Result<(), String> {
        if self.open().is_err() {
            return Ok(());
        }
        for (nth, step) in steps.iter().enumerate() {
            match self.step(nth, step)? {
                Came::Through | Came::ToNothing => self.check_live()?,
                Came::ToAnEnd => return self.check_end(),
            }
        }
        Ok(())
    }

    fn step(&mut self, nth: usize, step: &Step) -> Result<Came, String> {
        let Some(engine) = &self.engine else { return Ok(Came::ToAnEnd) };
        let value = |number: u8, len: usize| [&[number, u8::try_from(nth).unwrap()], &vec![b'.'; len][..]].concat();
        match step {
            Step::Put { key: number, value_len, durability } => {
                self.commit(vec![(key(*number), Some(value(*number, *value_len)))], *durability)
            }
            Step::Delete { key: number, durability } => self.commit(vec![(key(*number), None)], *durability),
            Step::Submit { key: number, .. } | Step::Claim { key: number } => {
                self.commit(vec![(key(*number), Some(value(*number, 9)))], Durability::Sync)
            }
            Step::Batch { puts, deletes, durability, .. } => {
                let mut changes: Vec<_> = puts.iter().map(|number| (key(*number), Some(value(*number, 30)))).collect();
                changes.extend(deletes.iter().map(|number| (key(*number), None)));
                self.commit(changes, *durability)
            }
            Step::Add { key: number, durability, .. } => self.merge(&[*number], *durability),
            Step::Merge { merged, durability, .. } => self.merge(merged, *durability),
            Step::Flush => {
                let flushed = engine.flush();
                if flushed.is_ok() {
                    self.durable = self.states.len() - 1;
                }
                Ok(came(flushed))
            }
            Step::Compact => Ok(came(engine.run_compaction_now().map(drop))),
            Step::Checkpoint => Ok(came(engine.checkpoint())),
            Step::Backup => Ok(came(engine.backup_to(BACKUP_DIR).map(drop))),
            Step::Close | Step::Kill => {
                if engine.close().is_ok() {
                    self.durable = self.states.len() - 1;
                }
                self.engine = None;
                // A real process would end here and start again; if the open fails, the workload
                // ends.
                Ok(self.open().map_or(Came::ToAnEnd, |()| Came::Through))
            }
        }
    }

    fn commit(&mut self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>, durability: Durability) -> Result<Came, String> {
        let Some(engine) = &self.engine else { return Ok(Came::ToAnEnd) };
        let mut next = self.states.last().unwrap().clone();
        let mut batch = Batch::new();
        for (key, value) in &changes {
            match value {
                Some(value) => {
                    batch.put(key, value);
                    next.insert(key.clone(), value.clone());
                    self.handed_in.entry(key.clone()).or_default().push(value.clone());
                }
                None => {
                    batch.delete(key);
                    next.remove(key);
                }
            }
        }
        self.finish(engine.commit_with(&batch, durability).map(drop), next, durability)
    }

    /// One batch of merges.
    fn merge(&mut self, numbers: &[u8], durability: Durability) -> Result<Came, String> {
        let Some(engine) = &self.engine else { return Ok(Came::ToAnEnd) };
        let mut next = self.states.last().unwrap().clone();
        let mut batch = Batch::new();
        for key in numbers.iter().map(|number| key(*number)) {
            batch.merge(&key, "append", "+");
            match append(next.get(&key).map(Vec::as_slice), b"+") {
                MergeOutcome::Put(value) => {
                    self.handed_in.entry(key.clone()).or_default().push(value.clone());
                    next.insert(key, value);
                }
                MergeOutcome::Delete => drop(next.remove(&key)),
                MergeOutcome::Keep => {}
            }
        }
        let result = engine.commit_with(&batch, durability).map(drop);
        // What it needs may be damaged.
        if result.as_ref().is_err_and(|failure| failure.code() == "corrupt") {
            return Ok(Came::ToNothing);
        }
        self.finish(result, next, durability)
    }

    fn finish(&mut self, result: Result<(), Error>, next: Content, durability: Durability) -> Result<Came, String> {
        match result {
            Ok(()) => {
                self.states.push(next);
                if durability == Durability::Sync {
                    self.durable = self.states.len() - 1;
                }
                Ok(Came::Through)
            }
            // No room, or a file could not be created.
            Err(error) if matches!(error.code(), "full" | "io") => Ok(Came::ToNothing),
            Err(error) if error.code() == "poisoned" => {
                self.maybe = Some(next);
                Ok(Came::ToAnEnd)
            }
            Err(error) => {
                Err(format!("a commit fails with {error}, which neither leaves things as they were nor ends writing"))
            }
        }
    }

    fn last(&self) -> &Content {
        self.states.last().unwrap()
    }

    fn may_hold(&self, content: &Content) -> bool {
        content == self.last() || self.maybe.as_ref() == Some(content)
    }

    /// Reads of the open store are correct; a failed read is an error.
    fn check_live(&self) -> Result<(), String> {
        let Some(engine) = &self.engine else { return Ok(()) };
        let Ok(content) = content(engine) else { return Ok(()) };
        if self.may_hold(&content) {
            Ok(())
        } else {
            Err("the open store holds something else than was committed".into())
        }
    }

    /// The store refuses writes with an error each time, and reads still work.
    fn check_end(&self) -> Result<(), String> {
        let Some(engine) = &self.engine else { return Ok(()) };
        for _ in 0..2 {
            match engine.put_with("more", "of it", Durability::Os) {
                Err(error) if error.code() == "poisoned" => {}
                Err(error) => return Err(format!("after a failed write the next gets {error}")),
                Ok(_) => return Err("a write is taken after one has failed".into()),
            }
        }
        self.check_live()
    }
}

fn came(result: Result<(), Error>) -> Came {
    match result {
        Ok(()) => Came::Through,
        Err(error) if error.code() == "poisoned" => Came::ToAnEnd,
        Err(_) => Came::ToNothing,
    }
}

fn content(engine: &SingleNodeEngine) -> Result<Content, Error> {
    Ok(engine.get_prefix("")?.into_iter().map(|(key, value)| (key, value.to_vec())).collect())
}

/// Checks the store after the workload. Background work may have poisoned the store, so the last
/// write may have failed as well.
fn check(mut victim: Victim, kind: FaultKind) -> Result<(), String> {
    drop(victim.engine.take());
    victim.fs.heal();
    if matches!(kind, FaultKind::LyingSync | FaultKind::FlipBit) {
        return no_wrong_values(&victim);
    }
    let end = victim.fs.op_count();
    let plan = CrashPlan { exhaustive_limit: 4, samples: 3, seed: 11 };
    for state in victim.fs.crash_states_at(end, plan) {
        let engine = open_with(&state.fs, config(victim.mode), 8, Background::Caller)
            .map_err(|error| format!("after a power loss at {}: {error}", state.point))?;
        let found = content(&engine).map_err(|error| format!("cannot be read after a power loss: {error}"))?;
        let is_known = victim.states[victim.durable..].contains(&found) || victim.maybe.as_ref() == Some(&found);
        if !is_known {
            return Err(format!("after a power loss at {} something promised is gone", state.point));
        }
    }
    let engine = open_with(&victim.fs.after_kill(), config(victim.mode), 8, Background::Caller)
        .map_err(|error| format!("after the process's death: {error}"))?;
    let found = content(&engine).map_err(|error| format!("cannot be read after the process's death: {error}"))?;
    if !victim.may_hold(&found) {
        return Err("after the process's death it holds something else than was committed".into());
    }
    engine.put("on", "it goes").map_err(|error| format!("takes no writes after it was opened again: {error}"))?;
    engine.close().map_err(|error| format!("cannot be closed after it was opened again: {error}"))
}

fn no_wrong_values(victim: &Victim) -> Result<(), String> {
    let Ok(engine) = open_with(&victim.fs.after_kill(), config(victim.mode), 8, Background::Caller) else {
        return Ok(());
    };
    for entry in engine.range(..).unwrap() {
        let Ok(entry) = entry else { break };
        let Ok(value) = entry.value() else { continue };
        if !victim.handed_in.get(entry.key()).is_some_and(|values| values.iter().any(|known| value == known[..])) {
            return Err(format!("a value that nobody wrote: {entry:?}"));
        }
    }
    Ok(())
}

fn strike(seed: u64, mode: AppendMode, fault: Option<Fault>) -> Result<SimFs, String> {
    let fs = SimFs::new();
    fault.into_iter().for_each(|fault| fs.inject(fault));
    let mut victim = Victim::new(fs.clone(), mode);
    victim.run(&workload(seed, STEPS))?;
    check(victim, fault.map_or(FaultKind::Io, |fault| fault.kind))?;
    Ok(fs)
}

fn sweep(kind: FaultKind) {
    let (first, cases) = (setting("HIGHTOWER_TEST_SEED", 0), setting("HIGHTOWER_TEST_CASES", 1));
    let mut runs = 0;
    for seed in first..first + cases {
        let mode = if seed.is_multiple_of(2) { AppendMode::Mapped } else { AppendMode::Positioned };
        let calls = strike(seed, mode, None).unwrap().call_count();
        for (at_call, lasting) in (0..calls).flat_map(|at| [(at, false), (at, true)]) {
            let fault = Fault { kind, at_call, lasting };
            runs += 1;
            strike(seed, mode, Some(fault)).unwrap_or_else(|error| {
                panic!("seed {seed}, {mode:?}, {fault:?}: {error}\nreplay: HIGHTOWER_TEST_SEED={seed} cargo test -p hightower-engine --test faults")
            });
        }
    }
    println!("engine, {kind:?}: {runs} single faults in {cases} workloads from seed {first}, 0 violations");
}

#[test]
fn io_errors() {
    sweep(FaultKind::Io);
}

/// A panic of the caller's file system is a failure of that call, for all work of the store.
#[test]
fn panics() {
    report_no_requested_panics();
    sweep(FaultKind::Panic);
}

/// A run has thousands of them, whose reports would hide all others.
fn report_no_requested_panics() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let is_requested = panic.payload().downcast_ref().is_some_and(|text: &&str| text.ends_with("as requested"));
        if !is_requested {
            report(panic);
        }
    }));
}

#[test]
fn no_space() {
    sweep(FaultKind::NoSpace);
}

#[test]
fn no_quota() {
    sweep(FaultKind::NoQuota);
}

#[test]
fn too_long_files() {
    sweep(FaultKind::TooLong);
}

#[test]
fn short_writes() {
    sweep(FaultKind::ShortWrite);
}

#[test]
fn interruptions() {
    sweep(FaultKind::Interrupted);
}

#[test]
fn lying_syncs() {
    sweep(FaultKind::LyingSync);
}

#[test]
fn flipped_bits() {
    sweep(FaultKind::FlipBit);
}
