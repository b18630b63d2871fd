//! `cargo xtask hostile`: storms over the whole public interface of the store, with hostile
//! surroundings: callers, their callbacks and numbers, other processes, the directory, descriptors,
//! memory, devices, foreign files.
//!
//! Each round is a separate process, drawn from a seed, with a model of the store's possible
//! content ([`model`]). A round fails by a result that the model or the promises of
//! `docs/DURABILITY.md` exclude, by a panic, by a signal, or by a call that does not return
//! ([`watch`]). After a failure smaller rounds are tried, and the smallest failing round is printed
//! with the command that replays it.

mod child;
mod kind;
mod kinds;
mod model;
mod mounts;
mod operations;
mod plan;
mod random;
mod round;
mod store;
mod storm;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};

pub(crate) use child::{RoundOptions, enter};
use kind::Kind;
use plan::Plan;
use random::Random;
use round::Outcome;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Time during which rounds are started
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Seed of the rounds; by default the time
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Only these kinds, by comma: callers, callbacks, numbers, held, directory, processes, limits,
    /// devices, foreign
    #[arg(long, value_delimiter = ',')]
    pub(crate) kinds: Vec<Kind>,
    /// One round, in the form printed for a failure
    #[arg(long)]
    pub(crate) replay: Option<Plan>,
    /// Number of replays: thread interleavings differ each time
    #[arg(long, default_value_t = 1)]
    pub(crate) times: u64,
    /// Operations that no round calls, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub(crate) without: Vec<String>,
    /// Continue after a failure, and do not try smaller rounds
    #[arg(long)]
    pub(crate) go_on: bool,
    /// Time for smaller rounds after a failure
    #[arg(long, default_value_t = 60)]
    pub(crate) shrink_seconds: u64,
    /// Directory of the stores; by default a temporary one
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seconds: 60,
            seed: None,
            kinds: Vec::new(),
            replay: None,
            times: 1,
            without: Vec::new(),
            go_on: false,
            shrink_seconds: 60,
            dir: None,
        }
    }
}

impl Options {
    /// For the gate: one seed, and all kinds.
    pub(crate) fn of_gate() -> Self {
        Self { seed: Some(1), ..Self::default() }
    }
}

/// The sums over all rounds.
#[derive(Default)]
struct Figures {
    rounds: BTreeMap<String, u64>,
    operations: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    reopenings: u64,
    skipped: BTreeMap<String, String>,
}

impl Figures {
    fn add(&mut self, plan: &Plan, lines: &[String]) {
        *self.rounds.entry(plan.kind.to_string()).or_default() += 1;
        for line in lines {
            let words: Vec<&str> = line.splitn(3, ' ').collect();
            let [what, name, rest] = words[..] else { continue };
            let count = || rest.parse::<u64>().unwrap_or(0);
            match what {
                "operation" => *self.operations.entry(name.to_owned()).or_default() += count(),
                "error" => *self.errors.entry(name.to_owned()).or_default() += count(),
                "reopening" => self.reopenings += count(),
                "skipped" => drop(self.skipped.insert(name.to_owned(), rest.to_owned())),
                _ => {}
            }
        }
    }

    fn print(&self) {
        let list = |of: &BTreeMap<String, u64>| {
            of.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
        };
        for (what, why) in &self.skipped {
            println!("SKIPPED {what}: {why}");
        }
        println!("rounds: {}", list(&self.rounds));
        println!("operations: {}", list(&self.operations));
        println!("errors that the promises allow: {}", list(&self.errors));
        println!(
            "{} rounds, {} operations, {} errors, {} openings",
            self.rounds.values().sum::<u64>(),
            self.operations.values().sum::<u64>(),
            self.errors.values().sum::<u64>(),
            self.reopenings
        );
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    if let Some(plan) = &options.replay {
        return replay(plan, options.times, &parent);
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = options.seed.unwrap_or(since_epoch.as_secs());
    println!("seed {seed}");
    let kinds = if options.kinds.is_empty() { Kind::ALL.to_vec() } else { options.kinds.clone() };
    let mut random = Random::new(seed);
    let mut figures = Figures::default();
    let mut findings = Vec::new();
    let started = Instant::now();
    // Each kind runs at least once, independent of the time.
    for turn in 0.. {
        if started.elapsed() >= Duration::from_secs(options.seconds) && turn >= kinds.len() {
            break;
        }
        let kind = kinds[turn % kinds.len()];
        let mut plan = Plan::draw(kind, &mut random);
        plan.without.extend(options.without.iter().cloned());
        println!("round {turn}: {plan}");
        match round::run(&plan, &parent)? {
            Outcome::Passed(lines) => figures.add(&plan, &lines),
            Outcome::Failed(told) => {
                println!("{told}");
                figures.add(&plan, &[]);
                let time = if options.go_on { 0 } else { options.shrink_seconds };
                let smallest = shrink(&plan, &parent, Duration::from_secs(time))?;
                println!(
                    "FOUND by round {turn} of seed {seed}; replay: cargo xtask hostile --times 20 --replay {smallest}"
                );
                findings.push(smallest.to_string());
                if !options.go_on {
                    break;
                }
            }
        }
    }
    figures.print();
    ensure!(findings.is_empty(), "{} findings: {}", findings.len(), findings.join(" "));
    Ok(())
}

fn replay(plan: &Plan, times: u64, parent: &std::path::Path) -> Result<()> {
    let mut failures = 0;
    for time in 0..times {
        match round::run(plan, parent)? {
            Outcome::Passed(lines) => println!("{plan} passes: {}", lines.join(", ")),
            Outcome::Failed(told) => {
                println!("{told}");
                println!("{plan} fails at time {} of {times}", time + 1);
                failures += 1;
                break;
            }
        }
    }
    ensure!(failures == 0, "{plan} fails");
    println!("{plan} passes {times} times");
    Ok(())
}

/// The smallest round that still fails, as far as the time reaches. Threads do not meet in the same
/// way each time, so each is tried twice.
fn shrink(plan: &Plan, parent: &std::path::Path, time: Duration) -> Result<Plan> {
    let started = Instant::now();
    let mut smallest = plan.clone();
    'smaller: loop {
        for smaller in smallest.smaller() {
            for _ in 0..2 {
                if started.elapsed() >= time {
                    return Ok(smallest);
                }
                if let Outcome::Failed(_) = round::run(&smaller, parent)? {
                    println!("  also {smaller}");
                    smallest = smaller;
                    continue 'smaller;
                }
            }
        }
        return Ok(smallest);
    }
}
