//! Hightower KV side by side with other embedded stores.
//!
//! Every store gets the same keys, the same values and the same guarantee, runs in a child process
//! of its own over a fresh directory, and takes turns with the others; every read is checked, and
//! the work is compared at the end. `cargo xtask peers` is the way in.

#![deny(unsafe_code)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of keys, shares and nanoseconds here are far from the limits of their types"
)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints results and progress")]

mod data;
mod execute;
mod kill;
mod machine;
mod operation;
mod physical;
mod plot;
mod report;
mod rounds;
mod rows;
mod store;
mod stores;
mod table;
mod workload;
mod wrap;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::{Parser, ValueEnum};

use crate::rounds::Plan;
use crate::stores::Entry;
use crate::workload::{Group, Task};

/// Measures Hightower KV beside other embedded stores, and writes the table, the numbers and the
/// plots.
///
/// Seven stores take some 15 to 20 minutes a round on a machine with two cores that does nothing
/// else, so three rounds about an hour; the slow stores are most of it, each for four minutes a
/// round at most. Half the `--row-seconds` takes little more than half the time.
#[derive(Parser)]
#[command(name = "hightower-peers")]
struct Options {
    /// Stores to measure, by id. If absent, all that were compiled in but `sled-1.0-alpha`: that is
    /// a pre-release of a store whose newest stable version takes part, and needs minutes more.
    #[arg(long, value_delimiter = ',')]
    stores: Vec<String>,

    /// Workloads to run; all if absent.
    #[arg(long, value_delimiter = ',', value_enum)]
    workloads: Vec<Group>,

    /// Keys that are loaded; rounded up to whole thousands.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,

    /// How often every store runs every workload; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,

    /// Seconds that the operations of a row may take. A store that needs longer is stopped at the
    /// end of an operation; its rate counts from what it did, and the table marks it.
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = seconds)]
    row_seconds: f64,

    /// Where the table, the numbers and the plots go.
    #[arg(long, default_value = "docs/benchmarks")]
    out: PathBuf,

    /// Where the stores live while they are measured: choose the file system by it. Removed
    /// afterwards.
    #[arg(long, default_value = "target/peers/data")]
    dir: PathBuf,

    /// Where the number of every single run goes.
    #[arg(long, default_value = "target/peers/runs.jsonl")]
    runs: PathBuf,

    /// Add to the runs that are there, instead of starting anew; both then count.
    #[arg(long)]
    append: bool,

    /// Run nothing; write the report over the runs that are there.
    #[arg(long)]
    report_only: bool,

    /// Run nothing; draw the plots again, from the numbers of peers.json beside them.
    #[arg(long, conflicts_with = "report_only")]
    redraw: bool,

    /// Run and keep the numbers, and write no report.
    #[arg(long, conflicts_with = "report_only")]
    no_report: bool,

    /// A tenth of the keys and one round: to see that it works, not to quote.
    #[arg(long)]
    quick: bool,

    /// Measure the limits of the machine instead: memory, page cache and disk.
    #[arg(long)]
    physical: bool,

    /// Kill a writer of each store instead, and count the returned writes that are gone: what the
    /// mark † in the table stands for.
    #[arg(long)]
    kill_check: bool,

    /// Write to one store until killed.
    #[arg(long, hide = true)]
    kill_writer: bool,

    /// Run one step of one workload here, and print the numbers: what the children do.
    #[arg(long, hide = true, value_name = "STEP")]
    child: Option<u32>,
}

impl Options {
    fn keys(&self) -> u64 {
        let keys = if self.quick { self.keys / 10 } else { self.keys };
        keys.max(10_000).next_multiple_of(1000)
    }

    /// The stores that are named, or all that take part by default.
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
        if self.workloads.is_empty() { Group::value_variants().to_vec() } else { self.workloads.clone() }
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
    let plan = Plan {
        stores,
        groups: options.groups(),
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
    let task = Task { entry: stores::entry(id)?, dir: &options.dir, keys: options.keys, budget: options.budget()? };
    println!("{}", serde_json::to_string(&task.run(group, step)?)?);
    Ok(())
}
