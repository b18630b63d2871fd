//! `cargo xtask mutants`: tests of the tests, by planted bugs.
//!
//! Each bug of [`list`] undoes one rule. All of them are compiled in; the environment activates
//! one. Only the tests named to catch it run. They must fail with the bug and pass without it. A
//! hanging test has not caught the bug, unless the list names hanging as its symptom.

mod catcher;
mod list;
mod list_of_auth;
mod list_of_feed;
mod list_of_followers;
mod list_of_index;
mod list_of_keyspaces;
mod list_of_levels;
mod list_of_merges;
mod list_of_segments;
mod list_of_table;
mod list_of_transactions;
mod run;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::cfgs::Cfgs;
use catcher::{Catcher, HOSTILE, Mutant, Shows};
use list::mutants;
use run::TestOutcome;

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only these; all of them if none is named
    names: Vec<String>,
    /// Run every catcher of each bug, not only up to the first that catches it
    #[arg(long)]
    every: bool,
}

/// Test programs by package and target.
type Programs = BTreeMap<(String, String), PathBuf>;
type Builds = BTreeMap<Cfgs, Programs>;
/// The time limit of each catcher, from its time without a planted bug.
type Limits<'a> = BTreeMap<&'a Catcher, Duration>;

pub(crate) fn run(options: &Options) -> Result<()> {
    let is_wanted = |mutant: &&Mutant| options.names.is_empty() || options.names.iter().any(|name| name == mutant.name);
    let wanted: Vec<&Mutant> = mutants().filter(is_wanted).collect();
    ensure!(!wanted.is_empty(), "no planted bug is called {}", options.names.join(", "));
    let mut builds = Builds::new();
    for catcher in wanted.iter().flat_map(|mutant| mutant.caught_by) {
        if let Entry::Vacant(place) = builds.entry(catcher.cfgs) {
            place.insert(build(catcher.cfgs, &wanted)?);
        }
    }
    let limits = check_healthy(&wanted, &builds)?;
    println!("\n{:<32} {:<78} caught by", "planted bug", "rule that it undoes");
    let missed = side_by_side(&wanted, |mutant| {
        let tried = catch(mutant, &builds, &limits, options.every)?;
        println!("{:<32} {:<78} {tried}", mutant.name, mutant.rule);
        std::io::stdout().flush()?;
        Ok(tried.caught.is_empty().then_some((mutant.name, tried.hung.is_empty())))
    })?;
    let hung = missed.iter().filter(|(_, only_passed)| !only_passed).count();
    println!(
        "\n{} planted bugs, {} caught, {hung} hung, {} missed",
        wanted.len(),
        wanted.len() - missed.len(),
        missed.len() - hung
    );
    let names: Vec<&str> = missed.iter().map(|(name, _)| *name).collect();
    ensure!(missed.is_empty(), "no test catches {}", names.join(", "));
    Ok(())
}

/// The result of the catchers of a planted bug, for the output.
#[derive(Default)]
struct Tried {
    caught: Vec<String>,
    hung: Vec<String>,
}

impl std::fmt::Display for Tried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.caught.is_empty() {
            f.write_str("NOBODY")?;
        }
        f.write_str(&self.caught.join(", "))?;
        if !self.hung.is_empty() {
            write!(f, "; HUNG: {}", self.hung.join(", "))?;
        }
        Ok(())
    }
}

/// The catchers that catch it: the first one, or all of them.
fn catch(mutant: &Mutant, builds: &Builds, limits: &Limits<'_>, every: bool) -> Result<Tried> {
    let mut tried = Tried::default();
    for catcher in mutant.caught_by {
        let started = Instant::now();
        let limit = limits.get(catcher).copied().unwrap_or(run::LEAST_LIMIT);
        let outcome = run::run(catcher, program(catcher, builds)?, Some(mutant.name), limit)?;
        let told = |how: &str| format!("{} {how} ({:.1} s)", catcher.package, started.elapsed().as_secs_f64());
        match outcome {
            TestOutcome::Passed => continue,
            TestOutcome::Failed(test) => tried.caught.push(told(&test)),
            TestOutcome::Hung if mutant.shows == Shows::ByHanging => {
                tried.caught.push(told(&format!("{}, which hangs", catcher.filter)));
            }
            TestOutcome::Hung => {
                tried.hung.push(told(catcher.filter));
                continue;
            }
        }
        if !every {
            break;
        }
    }
    Ok(tried)
}

/// Runs as many at once as there are processors, because most tests use one. Returns the results;
/// the first error ends it.
fn side_by_side<T: Sync, U: Send>(items: &[T], work: impl Fn(&T) -> Result<Option<U>> + Sync) -> Result<Vec<U>> {
    let (next, has_failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let take = || -> Result<Vec<U>> {
        let mut found = Vec::new();
        while !has_failed.load(Ordering::Relaxed) {
            let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            found.extend(work(item).inspect_err(|_| has_failed.store(true, Ordering::Relaxed))?);
        }
        Ok(found)
    };
    std::thread::scope(|scope| {
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(take)).collect();
        let mut all = Vec::new();
        for worker in workers {
            all.extend(worker.join().map_err(|_| anyhow!("a worker panicked"))??);
        }
        Ok(all)
    })
}

/// Builds the programs of the catchers once, and returns their paths.
fn build(cfgs: Cfgs, wanted: &[&Mutant]) -> Result<Programs> {
    let catchers = || wanted.iter().flat_map(|mutant| mutant.caught_by).filter(|catcher| catcher.cfgs == cfgs);
    // The index has a test of this name, too.
    let tests = || catchers().filter(|catcher| catcher.package != "xtask");
    let mut programs = Programs::new();
    if catchers().count() > tests().count() {
        let words = ["build", "--locked", "--profile", "proof", "-p", "xtask", "--message-format=json"];
        for (message, program) in cargo(cfgs, &words)? {
            if message["target"]["name"] == "xtask" {
                programs.insert(("xtask".to_owned(), HOSTILE.to_owned()), program);
            }
        }
    }
    if tests().next().is_none() {
        return Ok(programs);
    }
    let mut words: Vec<String> =
        ["test", "--locked", "--profile", "proof", "--no-run", "--message-format=json"].map(str::to_owned).into();
    let mut add = |pair: [&str; 2]| {
        if !words.chunks(2).any(|known| known == pair) && !words.windows(2).any(|known| known == pair) {
            words.extend(pair.map(str::to_owned));
        }
    };
    tests().for_each(|catcher| add(["-p", catcher.package]));
    tests().filter(|catcher| catcher.test != "lib").for_each(|catcher| add(["--test", catcher.test]));
    if tests().any(|catcher| catcher.test == "lib") {
        words.push("--lib".to_owned());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for (message, program) in cargo(cfgs, &words)? {
        let Some(package) = message["manifest_path"].as_str() else { continue };
        let package = format!("hightower-{}", folder_of(package));
        let is_lib = message["target"]["kind"][0] == "lib";
        let target = if is_lib { "lib" } else { message["target"]["name"].as_str().unwrap_or_default() };
        programs.insert((package, target.to_owned()), program);
    }
    Ok(programs)
}

/// Runs cargo, and returns its message for each built program.
fn cargo(cfgs: Cfgs, words: &[&str]) -> Result<Vec<(Value, PathBuf)>> {
    let run = cfgs.cargo(words)?;
    println!("$ {}", run.text());
    let output = run.command().stderr(Stdio::inherit()).output().context("start cargo")?;
    ensure!(output.status.success(), "the tests do not build with {cfgs:?}");
    let mut built = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line)?;
        if let Some(program) = message["executable"].as_str().map(PathBuf::from) {
            built.push((message, program));
        }
    }
    Ok(built)
}

/// `log` for `.../crates/log/Cargo.toml`.
fn folder_of(manifest: &str) -> String {
    let parent = PathBuf::from(manifest).parent().and_then(|dir| dir.file_name().map(ToOwned::to_owned));
    parent.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Checks that every catcher passes without a planted bug. Returns the time limit of each with one.
fn check_healthy<'a>(wanted: &[&'a Mutant], builds: &Builds) -> Result<Limits<'a>> {
    let started = Instant::now();
    let mut catchers: Vec<&Catcher> = wanted.iter().flat_map(|mutant| mutant.caught_by).collect();
    catchers.sort();
    catchers.dedup();
    let limits = Mutex::new(Limits::new());
    side_by_side(&catchers, |catcher| {
        let started = Instant::now();
        match run::run(catcher, program(catcher, builds)?, None, run::HEALTHY_LIMIT)? {
            TestOutcome::Passed => {}
            TestOutcome::Failed(test) => bail!("{} {test} fails without any planted bug: {catcher:?}", catcher.package),
            TestOutcome::Hung => bail!("{} hangs without any planted bug: {catcher:?}", catcher.package),
        }
        let mut limits = limits.lock().map_err(|_| anyhow!("a worker panicked"))?;
        limits.insert(*catcher, run::limit_after(started.elapsed()));
        Ok(None::<()>)
    })?;
    println!("without a planted bug all {} catchers pass ({:.0} s)", catchers.len(), started.elapsed().as_secs_f64());
    limits.into_inner().map_err(|_| anyhow!("a worker panicked"))
}

fn program<'a>(catcher: &Catcher, builds: &'a Builds) -> Result<&'a PathBuf> {
    let key = (catcher.package.to_owned(), catcher.test.to_owned());
    let program = builds.get(&catcher.cfgs).and_then(|programs| programs.get(&key));
    program.with_context(|| format!("{} has no test {}", catcher.package, catcher.test))
}
