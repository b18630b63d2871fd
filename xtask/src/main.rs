//! Tasks of the workspace: `cargo xtask <verb>`. Each verb has a module of its own.

#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program that says what it runs")]

mod crash;
mod fuzz;
mod peers;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks of the Hightower KV workspace")]
struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Kill a writer process at random moments, again and again, and look for what it was promised (50 cycles: about 20 s)
    Crash(crash::Options),
    /// The writer that is killed
    #[command(hide = true)]
    CrashWriter(crash::WriterOptions),
    /// Feed damaged and random input to decoders, to open, and to the engine and index beside their models
    Fuzz(fuzz::Options),
    /// Measure the store beside others, and write tables and plots to docs/benchmarks
    Peers(peers::Options),
}

fn main() -> anyhow::Result<()> {
    match Options::parse().verb {
        Verb::Crash(options) => crash::run(&options),
        Verb::CrashWriter(options) => crash::write(&options),
        Verb::Fuzz(options) => fuzz::run(&options),
        Verb::Peers(options) => peers::run(&options),
    }
}
