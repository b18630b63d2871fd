//! Runs the workloads: in each round every store in turn, each in a child process. Saves the
//! numbers of every run.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::beyond::{Step, limit_bytes};
use crate::machine::Machine;
use crate::memory_group::{MemoryGroup, empty_page_cache};
use crate::physical;
use crate::rows::BARE_SYNC;
use crate::stores::Entry;
use crate::workload::{Group, Measurement};

/// The plan of the runs.
pub(crate) struct Plan {
    /// The stores.
    pub(crate) stores: Vec<Entry>,
    /// The workloads.
    pub(crate) groups: Vec<Group>,
    /// Number of loaded keys.
    pub(crate) keys: u64,
    /// Number of rounds.
    pub(crate) rounds: u32,
    /// Time limit of a row's operations, in seconds.
    pub(crate) row_seconds: f64,
    /// Directory of the stores.
    pub(crate) dir: PathBuf,
    /// File of the numbers of all runs.
    pub(crate) runs: PathBuf,
}

/// One run of one workload over one store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The store's id.
    pub(crate) store: String,
    /// The workload.
    pub(crate) group: Group,
    /// Number of loaded keys.
    pub(crate) keys: u64,
    /// Time limit of a row's operations, in seconds.
    pub(crate) row_seconds: f64,
    /// The measurements, or the error.
    pub(crate) result: Result<Vec<Measurement>, String>,
}

/// The name of the runs of bare synced appends.
pub(crate) const BARE: &str = "bare";

impl Plan {
    /// Runs everything. The failure of a store is recorded, and the others continue.
    pub(crate) fn run(&self, append: bool) -> Result<()> {
        if let Some(parent) = self.runs.parent() {
            fs::create_dir_all(parent)?;
        }
        let mut options = OpenOptions::new();
        let mut runs = options.create(true).write(true).append(append).truncate(!append).open(&self.runs)?;
        for &group in &self.groups {
            for round in 1..=self.rounds {
                let has_bare = matches!(group, Group::Synced | Group::Beyond);
                let ids = self.stores.iter().map(|entry| entry.id).chain(has_bare.then_some(BARE));
                for id in ids {
                    let started = Instant::now();
                    let results =
                        self.run_one(id, group)?.into_iter().map(|result| result.map_err(|error| format!("{error:#}")));
                    let results: Vec<_> = results.collect();
                    report_progress(id, group, (round, self.rounds), started, &results);
                    for result in results {
                        let (store, keys) = (id.into(), self.keys);
                        let run = Run { store, group, keys, row_seconds: self.row_seconds, result };
                        writeln!(runs, "{}", serde_json::to_string(&run)?)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// One round of a store; a part that fails does not end the others.
    fn run_one(&self, id: &str, group: Group) -> Result<Vec<Result<Vec<Measurement>>>> {
        let dir = self.dir.join(id);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let results = if group == Group::Beyond {
            self.run_beyond(id, &dir)
        } else if id == BARE {
            vec![self.bare_synced(&dir)]
        } else {
            vec![self.run_children(id, group, &dir)]
        };
        fs::remove_dir_all(&dir)?;
        settle_disk(&self.dir)?;
        Ok(results)
    }

    fn bare_synced(&self, dir: &Path) -> Result<Vec<Measurement>> {
        let rate = physical::bare_synced_appends(dir, (self.keys / 250).max(400))?;
        Ok(vec![Measurement { row: BARE_SYNC.into(), value: rate, check: None, stopped: false }])
    }

    fn run_children(&self, id: &str, group: Group, dir: &Path) -> Result<Vec<Measurement>> {
        let mut measurements = Vec::new();
        for step in 0..group.steps() {
            measurements.extend(measurements_of(&mut self.child(id, group, step, dir)?)?);
        }
        Ok(measurements)
    }

    /// The process of a step.
    fn child(&self, id: &str, group: Group, step: u32, dir: &Path) -> Result<Command> {
        let name = group.to_possible_value().context("a workload without a name")?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--stores", id, "--workloads", name.get_name(), "--keys", &self.keys.to_string()])
            .args(["--row-seconds", &self.row_seconds.to_string(), "--child", &step.to_string(), "--dir"])
            .arg(dir)
            .env("RUST_BACKTRACE", "0")
            .stderr(Stdio::piped());
        Ok(command)
    }

    /// The steps of `beyond`. They need the content of the load, so they end with it.
    fn run_beyond(&self, id: &str, dir: &Path) -> Vec<Result<Vec<Measurement>>> {
        let mut results = Vec::new();
        let steps = if id == BARE { &Step::ALL[..1] } else { &Step::ALL[..] };
        for (number, &step) in (0..).zip(steps) {
            let started = Instant::now();
            let result = self.run_beyond_step(id, dir, number, step).with_context(|| format!("{step:?}"));
            eprintln!("{id} {step:?}: {:.1} s", started.elapsed().as_secs_f64());
            let is_unloaded = matches!(step, Step::Load | Step::Rest) && result.is_err();
            results.push(result);
            if is_unloaded {
                break;
            }
        }
        results
    }

    fn run_beyond_step(&self, id: &str, dir: &Path, number: u32, step: Step) -> Result<Vec<Measurement>> {
        ensure!(Machine::here(dir)?.file_system != "tmpfs", "tmpfs has no device behind it: choose another `--dir`");
        let mut command = self.child(id, Group::Beyond, number, dir)?;
        if step == Step::Killed {
            return killed_at_first_line(&mut command);
        }
        settle_disk(dir)?;
        let _group = if step.is_limited() {
            empty_page_cache(dir)?;
            let group = MemoryGroup::new(limit_bytes(self.keys))?;
            command.arg("--memory-group").arg(group.path());
            Some(group)
        } else {
            None
        };
        measurements_of(&mut command)
    }
}

/// Runs a process, whose last line has its measurements.
fn measurements_of(command: &mut Command) -> Result<Vec<Measurement>> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {}", output.status, errors.trim());
    let last = output.stdout.lines().last().context("the child printed nothing")??;
    Ok(serde_json::from_str(&last)?)
}

/// Kills a process by SIGKILL when it has printed a line.
fn killed_at_first_line(command: &mut Command) -> Result<Vec<Measurement>> {
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let first = BufReader::new(child.stdout.take().context("the child has no output")?).lines().next();
    child.kill()?;
    let output = child.wait_with_output()?;
    ensure!(first.transpose()?.is_some(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(Vec::new())
}

/// Waits until the writes of the last store are on disk, so that they do not delay the next one.
fn settle_disk(dir: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(fs::File::open(dir)?)?)
}

fn report_progress(
    id: &str,
    group: Group,
    round: (u32, u32),
    started: Instant,
    results: &[Result<Vec<Measurement>, String>],
) {
    let seconds = started.elapsed().as_secs_f64();
    let (round, rounds) = round;
    eprintln!("{group:?} {round}/{rounds} {id}: {seconds:.1} s");
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        eprintln!("{group:?} {round}/{rounds} {id}: failed: {error}");
    }
}

/// The runs in the file at `path`.
pub(crate) fn read_runs(path: &Path) -> Result<Vec<Run>> {
    let file = fs::File::open(path).with_context(|| format!("no runs at {}", path.display()))?;
    BufReader::new(file).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
