//! Runs the fuzz targets of `fuzz/`, which needs a nightly compiler.
//!
//! They have the layout of `cargo fuzz`, but are built here: `cargo fuzz` is another tool to
//! install, and builds the targets one by one. libFuzzer needs only the compiler flags below.

mod seeds;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command::{Run, has_nightly, root};

/// Every target but the canary.
const TARGETS: [&str; 12] = [
    "record_decode",
    "manifest_open",
    "segment_open",
    "segment_bytes",
    "wal_open",
    "table",
    "store_table",
    "engine_model",
    "index_model",
    "index_hostile",
    "auth_records",
    "cli_import",
];
/// A target with a planted bug: if the fuzzer does not find it, its results are not trusted.
const CANARY: &str = "canary";
/// Instrumentation of branches and comparisons, which guides libFuzzer.
const COVERAGE: &str = "--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// One target; by default all of them, in sequence
    pub(crate) target: Option<String>,
    /// Total time
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u64,
    /// Maximum number of executions per target; by default only the time limits them
    #[arg(long)]
    pub(crate) runs: Option<u64>,
    /// Seed of the inputs
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Without the address sanitizer: several times as many executions in the same time, but fewer
    /// memory bugs are found
    #[arg(long)]
    pub(crate) plain: bool,
    /// Maximum length of an input, in bytes; by default the fuzzer's choice
    #[arg(long)]
    pub(crate) max_len: Option<u64>,
    /// Run the named target on this input only, with its full output: for an input of a failure in
    /// `fuzz/artifacts`
    #[arg(long, requires = "target")]
    pub(crate) input: Option<PathBuf>,
    /// Regenerate the initial inputs, and do nothing else
    #[arg(long)]
    pub(crate) write_seeds: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: None,
            seconds: 60,
            runs: None,
            seed: 1,
            plain: false,
            max_len: None,
            input: None,
            write_seeds: false,
        }
    }
}

impl Options {
    /// One target for a number of executions, without a time limit.
    pub(crate) fn runs_of(target: &str, runs: u64) -> Self {
        let target = Some(target.to_owned());
        Self { target, runs: Some(runs), seconds: 24 * 3600, plain: true, ..Self::default() }
    }

    /// The options of libFuzzer. The seed is fixed, so that a short run is reproducible and depends
    /// only on the change. Long runs use another seed.
    fn arguments(&self) -> Vec<String> {
        let runs = self.runs.map(|runs| format!("-runs={runs}"));
        let max_len = self.max_len.map(|len| format!("-max_len={len}"));
        [Some(format!("-seed={}", self.seed)), runs, max_len].into_iter().flatten().collect()
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    if options.write_seeds {
        return seeds::write();
    }
    if !has_nightly("fuzz") {
        return Ok(());
    }
    let targets = match &options.target {
        Some(target) => vec![target.as_str()],
        None => TARGETS.to_vec(),
    };
    let programs = build(&[&targets[..], &[CANARY]].concat(), options.plain)?;
    if let (Some(target), Some(input)) = (&options.target, &options.input) {
        return Run::new(&programs.join(target).display().to_string(), &[&input.display().to_string()]).run();
    }
    let canary = Options { target: None, runs: Some(2_000_000), max_len: None, input: None, ..*options };
    ensure!(!fuzz(&programs, CANARY, 60, &canary)?, "the planted bug of the canary was not found");
    println!("canary: the planted bug was found");
    let seconds = (options.seconds / targets.len() as u64).max(1);
    for target in &targets {
        let replay = format!("cargo xtask fuzz {target} --input fuzz/artifacts/{target}/<the newest file>");
        ensure!(
            fuzz(&programs, target, seconds, options)?,
            "{target} failed with seed {}; replay: {replay}",
            options.seed
        );
        println!("{target}: no failure in {seconds} s, or in the requested number of executions");
    }
    println!("{} passed, 0 failed", targets.len() + 1);
    Ok(())
}

/// Builds all targets, and returns their directory.
fn build(targets: &[&str], plain: bool) -> Result<PathBuf> {
    let host = Run::cargo("+nightly -vV").lines_quietly()?;
    let host = host.iter().find_map(|line| line.strip_prefix("host: ")).context("cargo does not print its host")?;
    let (folder, sanitizer) = if plain { ("fuzz-plain", "") } else { ("fuzz", " -Zsanitizer=address") };
    let folder = root().join("target").join(folder);
    // With `--target`, the flags do not apply to build scripts.
    let words = format!("+nightly build --release --locked --manifest-path fuzz/Cargo.toml --target {host}");
    let build = targets.iter().fold(Run::cargo(&words), |build, target| build.and("--bin").and(target));
    let build = build.with("RUSTFLAGS", format!("{COVERAGE}{sanitizer}"));
    build.with("CARGO_TARGET_DIR", folder.display()).run()?;
    Ok(folder.join(host).join("release"))
}

/// Whether the target survived.
fn fuzz(programs: &Path, target: &str, seconds: u64, options: &Options) -> Result<bool> {
    let folder = |kind: &str| root().join("fuzz").join(kind).join(target);
    let (corpus, seeds, artifacts) = (folder("corpus"), folder("seeds"), folder("artifacts"));
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    let mut command = Command::new(programs.join(target));
    command.current_dir(root()).arg(&corpus).args(seeds.is_dir().then_some(&seeds));
    command.args(["-verbosity=0", "-print_final_stats=1"]).arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-artifact_prefix={}/", artifacts.display())).args(options.arguments());
    let output = command.output().with_context(|| format!("start {target}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    for line in told.lines().filter(|line| line.starts_with("stat::number_of_executed_units")) {
        println!("{target}: {line}");
    }
    let is_canary = target == CANARY;
    if !output.status.success() && !is_canary {
        eprintln!("{told}");
    }
    let planted = told.contains("the planted bug");
    ensure!(output.status.success() || !is_canary || planted, "the canary failed, but not by its planted bug:\n{told}");
    Ok(output.status.success())
}
