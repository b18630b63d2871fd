//! `cargo xtask mutants`: the tests are tested.
//!
//! Each bug of [`list`] undoes one rule. All of them are compiled in; the environment says which one is active. Only the tests
//! that are named to catch it run. They must fail with it and pass without.

mod list;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;

use crate::cfgs::Cfgs;
use crate::command::root;
use list::{Catcher, MUTANTS, Mutant};

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only these; all of them if none is named
    names: Vec<String>,
    /// Run every catcher of each, not just until the first has caught it
    #[arg(long)]
    every: bool,
}

/// Test programs by package and target.
type Programs = BTreeMap<(String, String), PathBuf>;

pub(crate) fn run(options: &Options) -> Result<()> {
    let is_wanted = |mutant: &&Mutant| options.names.is_empty() || options.names.iter().any(|name| name == mutant.name);
    let wanted: Vec<&Mutant> = MUTANTS.iter().filter(is_wanted).collect();
    ensure!(!wanted.is_empty(), "no planted bug is called {}", options.names.join(", "));
    let mut builds: BTreeMap<Cfgs, Programs> = BTreeMap::new();
    for catcher in wanted.iter().flat_map(|mutant| mutant.caught_by) {
        if let Entry::Vacant(place) = builds.entry(catcher.cfgs) {
            place.insert(build(catcher.cfgs, &wanted)?);
        }
    }
    check_healthy(&wanted, &builds)?;
    println!("\n{:<32} {:<78} caught by", "planted bug", "rule that it undoes");
    let missed = side_by_side(&wanted, |mutant| {
        let caught = catch(mutant, &builds, options.every)?;
        let by = if caught.is_empty() { "NOBODY".to_owned() } else { caught.join(", ") };
        println!("{:<32} {:<78} {by}", mutant.name, mutant.rule);
        std::io::stdout().flush()?;
        Ok(caught.is_empty().then_some(mutant.name))
    })?;
    println!("\n{} planted bugs, {} caught", wanted.len(), wanted.len() - missed.len());
    ensure!(missed.is_empty(), "nobody catches {}", missed.join(", "));
    Ok(())
}

/// Who catches it: the first of its catchers that does, or every one.
fn catch(mutant: &Mutant, builds: &BTreeMap<Cfgs, Programs>, every: bool) -> Result<Vec<String>> {
    let mut caught = Vec::new();
    for catcher in mutant.caught_by {
        let started = Instant::now();
        if let Some(test) = fails(catcher, builds, Some(mutant.name))? {
            caught.push(format!("{} {test} ({:.1} s)", catcher.package, started.elapsed().as_secs_f64()));
            if !every {
                break;
            }
        }
    }
    Ok(caught)
}

/// As many at once as there are processors: most tests use one. Gives what was found; the first error ends it.
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

/// Builds the tests that a build is needed for, once, and tells where they are.
fn build(cfgs: Cfgs, wanted: &[&Mutant]) -> Result<Programs> {
    let catchers = || wanted.iter().flat_map(|mutant| mutant.caught_by).filter(|catcher| catcher.cfgs == cfgs);
    let mut words: Vec<String> =
        ["test", "--locked", "--profile", "proof", "--no-run", "--message-format=json"].map(str::to_owned).into();
    let mut add = |pair: [&str; 2]| {
        if !words.chunks(2).any(|known| known == pair) && !words.windows(2).any(|known| known == pair) {
            words.extend(pair.map(str::to_owned));
        }
    };
    catchers().for_each(|catcher| add(["-p", catcher.package]));
    catchers().filter(|catcher| catcher.test != "lib").for_each(|catcher| add(["--test", catcher.test]));
    if catchers().any(|catcher| catcher.test == "lib") {
        words.push("--lib".to_owned());
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let run = cfgs.cargo(&words)?;
    println!("$ {}", run.text());
    let output = run.command().stderr(Stdio::inherit()).output().context("start cargo")?;
    ensure!(output.status.success(), "the tests do not build with {cfgs:?}");
    let mut programs = Programs::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: Value = serde_json::from_str(line)?;
        let (Some(program), Some(package)) = (message["executable"].as_str(), message["manifest_path"].as_str()) else {
            continue;
        };
        let package = format!("hightower-{}", folder_of(package));
        let is_lib = message["target"]["kind"][0] == "lib";
        let target = if is_lib { "lib" } else { message["target"]["name"].as_str().unwrap_or_default() };
        programs.insert((package, target.to_owned()), program.into());
    }
    Ok(programs)
}

/// `.../crates/log/Cargo.toml` gives `log`.
fn folder_of(manifest: &str) -> String {
    let parent = PathBuf::from(manifest).parent().and_then(|dir| dir.file_name().map(ToOwned::to_owned));
    parent.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// With no bug planted, every catcher passes.
fn check_healthy(wanted: &[&Mutant], builds: &BTreeMap<Cfgs, Programs>) -> Result<()> {
    let started = Instant::now();
    let mut catchers: Vec<&Catcher> = wanted.iter().flat_map(|mutant| mutant.caught_by).collect();
    catchers.sort();
    catchers.dedup();
    side_by_side(&catchers, |catcher| {
        let failed = fails(catcher, builds, None)?;
        ensure!(failed.is_none(), "{} {catcher:?} fails without any planted bug", catcher.package);
        Ok(None::<()>)
    })?;
    println!("without a planted bug all {} catchers pass ({:.0} s)", catchers.len(), started.elapsed().as_secs_f64());
    Ok(())
}

/// The name of the test that failed, if one did.
fn fails(catcher: &Catcher, builds: &BTreeMap<Cfgs, Programs>, mutant: Option<&str>) -> Result<Option<String>> {
    const LONGEST: Duration = Duration::from_secs(240);
    let key = (catcher.package.to_owned(), catcher.test.to_owned());
    let program = builds.get(&catcher.cfgs).and_then(|programs| programs.get(&key));
    let program = program.with_context(|| format!("{} has no test {}", catcher.package, catcher.test))?;
    let output_file = tempfile::NamedTempFile::new()?;
    let mut command = Command::new(program);
    command.arg(catcher.filter).envs(catcher.variables.iter().copied()).current_dir(root());
    // What a planted bug breaks is nothing to remember.
    command.env("PROPTEST_DISABLE_FAILURE_PERSISTENCE", "1");
    command.env_remove("HIGHTOWER_MUTANT").envs(mutant.map(|name| ("HIGHTOWER_MUTANT", name)));
    command.stdin(Stdio::null()).stdout(output_file.reopen()?).stderr(Stdio::null());
    let mut child = command.spawn().with_context(|| format!("start {}", program.display()))?;
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if started.elapsed() > LONGEST {
            child.kill()?;
            child.wait()?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let told = std::fs::read(output_file.path())?;
    let told = String::from_utf8_lossy(&told);
    if told.contains("running 0 tests") {
        bail!("{} has no test like {}", catcher.test, catcher.filter);
    }
    let failed = told.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
    Ok(match status {
        Some(status) if status.success() => None,
        // A planted bug may hang or abort as well as fail.
        Some(_) => Some(failed.unwrap_or(catcher.filter).to_owned()),
        None => Some(format!("{} (hangs)", catcher.filter)),
    })
}
