//! Runs the fuzz targets of `fuzz/`, which needs a nightly compiler and `cargo-fuzz`.

mod seeds;

use std::process::Command;

use anyhow::{Result, ensure};

use crate::command::{has_nightly, install, root};

/// Every target but the canary.
const TARGETS: [&str; 9] = [
    "record_decode",
    "manifest_open",
    "segment_open",
    "segment_bytes",
    "checkpoint",
    "engine_model",
    "index_model",
    "auth_records",
    "cli_import",
];
/// A target with a planted bug: if it is not found, the fuzzers are not trusted.
const CANARY: &str = "canary";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// One target; all of them, one after the other, if none is named
    pub(crate) target: Option<String>,
    /// How long, in all
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// How many executions of each target, at most; as many as there is time for, if it is not said
    #[arg(long)]
    pub(crate) runs: Option<u64>,
    /// What the inputs are drawn from
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Write the inputs that the fuzzers begin with anew, and do nothing else
    #[arg(long)]
    pub(crate) write_seeds: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { target: None, seconds: 60, runs: None, seed: 1, write_seeds: false }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.write_seeds {
        return seeds::write();
    }
    if !has_nightly("fuzz") {
        return Ok(());
    }
    install("fuzz")?;
    let targets = match &options.target {
        Some(target) => vec![target.as_str()],
        None => TARGETS.to_vec(),
    };
    let seconds = (options.seconds / targets.len() as u64).max(1);
    ensure!(!fuzz(CANARY, 60, options.seed, &["-runs=2000000"])?, "the planted bug of the canary was not found");
    println!("canary: the planted bug was found");
    let runs: Vec<String> = options.runs.iter().map(|runs| format!("-runs={runs}")).collect();
    let runs: Vec<&str> = runs.iter().map(String::as_str).collect();
    for target in &targets {
        let replay = format!("cargo +nightly fuzz run {target} fuzz/artifacts/{target}/<the newest file>");
        ensure!(
            fuzz(target, seconds, options.seed, &runs)?,
            "{target} failed with seed {}; replay: {replay}",
            options.seed
        );
        println!("{target}: no failure in {seconds} s, or as many executions as were asked for");
    }
    println!("{} passed, 0 failed", targets.len() + 1);
    Ok(())
}

/// Whether the target survived.
fn fuzz(target: &str, seconds: u64, seed: u64, arguments: &[&str]) -> Result<bool> {
    let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
    std::fs::create_dir_all(root().join(&corpus))?;
    let mut command = Command::new("cargo");
    command.current_dir(root()).args(["+nightly", "fuzz", "run", target, &corpus]);
    if root().join(&seeds).is_dir() {
        command.arg(&seeds);
    }
    command.args(["--", "-verbosity=0", "-print_final_stats=1"]);
    // One seed: a short run does the same each time, so that a change is judged by itself. Long runs name another.
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-seed={seed}")).args(arguments);
    let output = command.output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    for line in told.lines().filter(|line| line.starts_with("stat::number_of_executed_units")) {
        println!("{target}: {line}");
    }
    let is_canary = target == CANARY;
    if !output.status.success() && !is_canary {
        eprintln!("{told}");
    }
    let planted = told.contains("the planted bug");
    ensure!(
        output.status.success() || !is_canary || planted,
        "the canary failed otherwise than by its planted bug:\n{told}"
    );
    Ok(output.status.success())
}
