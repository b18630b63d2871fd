//! `cargo xtask ci`: the gate, step by step. `.ci/run` calls it.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{Run, root, steps};
use crate::{counts, crash, fuzz, hostile, mutants, proofs, schedules, structure, workflows};

/// A step of the gate.
type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 16] = [
    ("tests", tests),
    ("format", format),
    ("lints", lints),
    ("structure", || structure::run(&structure::Options::default())),
    ("documentation", documentation),
    ("examples", examples),
    ("demo", demo),
    ("counts", || counts::run(&counts::Options::default())),
    ("crash", || crash::run(&crash::Options::default())),
    ("hostile", || hostile::run(&hostile::Options::of_gate())),
    ("sim", || proofs::sim(&proofs::SimOptions::default())),
    ("props", || proofs::props(&proofs::PropsOptions::default())),
    ("lin", || proofs::lin(&proofs::LinOptions::default())),
    ("schedules", || schedules::run(&schedules::Options::default())),
    ("mutants", || mutants::run(&mutants::Options::default())),
    ("fuzz", || fuzz::run(&fuzz::Options::default())),
];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these: tests, format, lints, structure, documentation, examples, demo, counts, crash,
    /// hostile, sim, props, lin, schedules, mutants, fuzz
    steps: Vec<String>,
}

/// The names of all steps.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|(name, _)| *name)
}

/// Checks that every requested step exists.
pub(crate) fn check(options: &Options) -> Result<()> {
    if let Some(unknown) = options.steps.iter().find(|name| !names().any(|known| known == name.as_str())) {
        bail!("there is no step {unknown}; the steps are {}", STEPS.map(|(name, _)| name).join(", "));
    }
    Ok(())
}

pub(crate) fn run(options: &Options) -> Result<()> {
    check(options)?;
    let is_wanted = |name: &str| options.steps.is_empty() || options.steps.iter().any(|wanted| wanted == name);
    let wanted: Vec<(&str, &dyn Fn() -> Result<()>)> =
        STEPS.iter().filter(|(name, _)| is_wanted(name)).map(|(name, step)| (*name, step as &dyn Fn() -> _)).collect();
    tell_room();
    steps(&wanted, false).inspect_err(|_| tell_room())
}

/// Checks the free space of the devices that the steps write to: the builds take about 20 GB.
fn tell_room() {
    let devices = [root(), std::env::temp_dir()];
    // Without this program nothing is printed.
    let _told = Command::new("df").args(["-P", "-h"]).args(devices).status();
}

/// The test command of the README.
pub(crate) fn tests() -> Result<()> {
    Run::cargo("test --workspace --locked").run()
}

fn format() -> Result<()> {
    Run::cargo("fmt --all --check").run()
}

fn lints() -> Result<()> {
    workflows::lint()?;
    Run::cargo("clippy --workspace --all-targets --locked -- -D warnings").run()
}

pub(crate) fn documentation() -> Result<()> {
    Run::cargo("doc --workspace --no-deps --locked").with("RUSTDOCFLAGS", "-D warnings").run()
}

/// Every example of the facade runs to its end.
fn examples() -> Result<()> {
    for entry in std::fs::read_dir(root().join("crates/kv/examples")).context("list the examples")? {
        let path = entry?.path();
        let name = path.file_stem().and_then(|name| name.to_str()).context("an example without a name")?;
        Run::cargo("run --quiet --locked --package hightower-kv --example").and(name).run()?;
    }
    Ok(())
}

/// The main command of the README.
fn demo() -> Result<()> {
    Run::cargo("run --locked -- demo").run()
}
