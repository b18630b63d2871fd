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
                let ids = self.stores.iter().map(|entry| entry.id).chain((group == Group::Synced).then_some(BARE));
                for id in ids {
                    let started = Instant::now();
                    let result = self.run_one(id, group).map_err(|error| format!("{error:#}"));
                    report_progress(id, group, (round, self.rounds), started, &result);
                    let run = Run { store: id.into(), group, keys: self.keys, row_seconds: self.row_seconds, result };
                    writeln!(runs, "{}", serde_json::to_string(&run)?)?;
                }
            }
        }
        Ok(())
    }

    fn run_one(&self, id: &str, group: Group) -> Result<Vec<Measurement>> {
        let dir = self.dir.join(id);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let result = if id == BARE {
            physical::bare_synced_appends(&dir, (self.keys / 250).max(400))
                .map(|rate| vec![Measurement { row: BARE_SYNC.into(), value: rate, check: None, stopped: false }])
        } else {
            self.run_children(id, group, &dir)
        };
        fs::remove_dir_all(&dir)?;
        settle_disk(&self.dir)?;
        result
    }

    fn run_children(&self, id: &str, group: Group, dir: &Path) -> Result<Vec<Measurement>> {
        let name = group.to_possible_value().context("a workload without a name")?;
        let mut measurements = Vec::new();
        for step in 0..group.steps() {
            let output = Command::new(std::env::current_exe()?)
                .args(["--stores", id, "--workloads", name.get_name(), "--keys", &self.keys.to_string()])
                .args(["--row-seconds", &self.row_seconds.to_string(), "--child", &step.to_string(), "--dir"])
                .arg(dir)
                .env("RUST_BACKTRACE", "0")
                .stderr(Stdio::piped())
                .output()?;
            let errors = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{}: {}", output.status, errors.trim());
            let last = output.stdout.lines().last().context("the child printed nothing")??;
            measurements.extend(serde_json::from_str::<Vec<Measurement>>(&last)?);
        }
        Ok(measurements)
    }
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
    result: &Result<Vec<Measurement>, String>,
) {
    let seconds = started.elapsed().as_secs_f64();
    let (round, rounds) = round;
    match result {
        Ok(_) => eprintln!("{group:?} {round}/{rounds} {id}: {seconds:.1} s"),
        Err(error) => eprintln!("{group:?} {round}/{rounds} {id}: failed after {seconds:.1} s: {error}"),
    }
}

/// The runs in the file at `path`.
pub(crate) fn read_runs(path: &Path) -> Result<Vec<Run>> {
    let file = fs::File::open(path).with_context(|| format!("no runs at {}", path.display()))?;
    BufReader::new(file).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
