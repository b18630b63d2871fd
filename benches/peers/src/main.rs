//! Hightower KV side by side with other embedded stores.
//!
//! Every store gets the same keys, the same values and the same guarantee, and runs in its own
//! child process over a fresh directory. The stores alternate. Every read is checked, and the work
//! of the stores is compared at the end. Run it by `cargo xtask peers`.

#![deny(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of keys, shares and nanoseconds here are far from the limits of their types"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints results and progress")]

mod beyond;
mod data;
mod execute;
mod histogram;
mod kill;
mod machine;
mod memory_group;
mod operation;
mod physical;
mod plot;
mod report;
mod rounds;
mod rows;
mod store;
mod stores;
mod table;
mod transactions;
mod workload;
mod wrap;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};

use crate::beyond::{Beyond, Step};
use crate::rounds::{BARE, Plan};
use crate::stores::Entry;
use crate::workload::{Group, Task};

/// Measures Hightower KV beside other embedded stores, and writes the table, the numbers and the
/// plots.
///
/// Seven stores take 15 to 20 minutes per round on an otherwise idle machine with two cores, so
/// three rounds take about an hour. The slow stores take most of it, each up to four minutes per
/// round. With half the `--row-seconds` a run takes little more than half the time.
#[derive(Parser)]
#[command(name = "hightower-peers")]
struct Options {
    /// Stores to measure, by id. By default all compiled ones except `sled-1.0-alpha`, a
    /// pre-release that takes minutes more; the newest stable sled takes part.
    #[arg(long, value_delimiter = ',')]
    stores: Vec<String>,

    /// Workloads to run; by default all but `beyond`, which has keys that its memory limit does not
    /// hold, and needs root and a disk. It runs by itself; try `--keys 1000000` and `20000000`.
    #[arg(long, value_delimiter = ',', value_enum)]
    workloads: Vec<Group>,

    /// Number of loaded keys; rounded up to whole thousands.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,

    /// Number of runs of every workload per store; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,

    /// Time limit of a row's operations, in seconds. A slower store is stopped at the end of an
    /// operation; its rate is that of the operations done, and the table marks it.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    row_seconds: f64,

    /// Directory of the table, the numbers and the plots.
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,

    /// Directory of the measured stores, which decides the file system. Removed afterwards.
    #[arg(long, default_value = "target/peers/data")]
    dir: PathBuf,

    /// File of the numbers of all runs.
    #[arg(long, default_value = "target/peers/runs.jsonl")]
    runs: PathBuf,

    /// Add to the existing runs instead of replacing them; all of them count.
    #[arg(long)]
    append: bool,

    /// Run nothing; write the report from the existing runs.
    #[arg(long)]
    report_only: bool,

    /// Run nothing; draw the plots again, from peers.json in the same directory.
    #[arg(long, conflicts_with = "report_only")]
    redraw: bool,

    /// Run and save the numbers, without a report.
    #[arg(long, conflicts_with = "report_only")]
    no_report: bool,

    /// A tenth of the keys and one round: a test of the benchmark, not for publication.
    #[arg(long)]
    quick: bool,

    /// Measure the limits of the machine instead: memory, page cache and disk.
    #[arg(long)]
    physical: bool,

    /// Kill a writer of each store instead, and count the lost returned writes: the meaning of the
    /// mark † in the table.
    #[arg(long)]
    kill_check: bool,

    /// Write to one store until killed.
    #[arg(long, hide = true)]
    kill_writer: bool,

    /// Run one step of one workload in this process, and print the numbers: for child processes.
    #[arg(long, hide = true, value_name = "STEP")]
    child: Option<u32>,

    /// The memory cgroup of a child process.
    #[arg(long, hide = true, value_name = "DIR")]
    memory_group: Option<PathBuf>,
}

impl Options {
    fn keys(&self) -> u64 {
        let keys = if self.quick { self.keys / 10 } else { self.keys };
        keys.max(10_000).next_multiple_of(1000)
    }

    /// The named stores, or all that take part by default.
    fn stores(&self) -> Result<Vec<Entry>> {
        if self.stores.is_empty() {
            return Ok(stores::entries().into_iter().filter(|entry| entry.by_default).collect());
        }
        self.stores.iter().map(|id| stores::entry(id)).collect()
    }

    fn budget(&self) -> Result<Duration> {
        Ok(Duration::try_from_secs_f64(self.row_seconds)?)
    }

    fn groups(&self) -> Vec<Group> {
        if self.workloads.is_empty() {
            return Group::value_variants().iter().copied().filter(|group| *group != Group::Beyond).collect();
        }
        self.workloads.clone()
    }
}

/// Reads a number of seconds that a duration can hold.
fn seconds(text: &str) -> Result<f64> {
    let seconds: f64 = text.parse()?;
    Duration::try_from_secs_f64(seconds)?;
    Ok(seconds)
}

fn main() -> Result<()> {
    let options = Options::parse();
    if let Some(step) = options.child {
        return child(&options, step);
    }
    if options.redraw {
        return report::redraw(&options.out);
    }
    std::fs::create_dir_all(&options.dir)?;
    if options.physical {
        return physical::measure(&options.dir, &options.out);
    }
    let stores = options.stores()?;
    ensure!(!stores.is_empty(), "no store was compiled in: build with `--features all-peers`");
    if options.kill_writer {
        return kill::write(&stores[0], &options.dir);
    }
    if options.kill_check {
        return kill::check(&stores, &options.dir);
    }
    let groups = options.groups();
    ensure!(
        groups == [Group::Beyond] || !groups.contains(&Group::Beyond),
        "`beyond` has a table of its own: run it without other workloads"
    );
    let plan = Plan {
        stores,
        groups,
        keys: options.keys(),
        rounds: if options.quick { 1 } else { options.rounds },
        row_seconds: options.row_seconds,
        dir: options.dir.clone(),
        runs: options.runs.clone(),
    };
    if !options.report_only {
        plan.run(options.append)?;
    }
    if options.no_report {
        return Ok(());
    }
    report::write(&plan.runs, &options.dir, &options.out)
}

fn child(options: &Options, step: u32) -> Result<()> {
    let (Some(id), Some(&group)) = (options.stores.first(), options.workloads.first()) else {
        anyhow::bail!("a child needs one store and one workload");
    };
    if let Some(group) = &options.memory_group {
        memory_group::join(group)?;
    }
    if group == Group::Beyond {
        let rows = if id == BARE {
            beyond::bare_appends(&options.dir, options.keys)?
        } else {
            let step = *Step::ALL.get(step as usize).context("no such step")?;
            Beyond::new(stores::entry(id)?, &options.dir, options.keys, options.budget()?).run(step)?
        };
        println!("{}", serde_json::to_string(&rows)?);
        return Ok(());
    }
    let task = Task { entry: stores::entry(id)?, dir: &options.dir, keys: options.keys, budget: options.budget()? };
    println!("{}", serde_json::to_string(&task.run(group, step)?)?);
    Ok(())
}
