//! Tasks of the workspace: `cargo xtask <verb>`. Each verb has a module of its own.

#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a program that says what it runs")]

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
    /// Measure the store beside others, and write tables and plots to docs/benchmarks
    Peers(peers::Options),
}

fn main() -> anyhow::Result<()> {
    match Options::parse().verb {
        Verb::Peers(options) => peers::run(&options),
    }
}
