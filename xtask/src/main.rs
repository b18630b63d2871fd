//! Tasks of the workspace: `cargo xtask <verb>`. Each verb has a module. The proofs are tests of
//! the crates, which the verbs run.

#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a program that says what it runs")]

mod api;
mod bench;
mod cfgs;
mod command;
mod counts;
mod crash;
mod fuzz;
mod gate;
mod hostile;
mod memory;
mod mutants;
mod nightly;
mod package;
mod peers;
mod proofs;
mod published;
mod schedules;
mod structure;
mod workflows;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Tasks of the Hightower KV workspace. Times are of a machine with two cores, once things are built."
)]
struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run the gate for each change, or its named steps; Miri and the sanitizers, which rebuild
    /// everything, are in the nightly profile
    Ci(gate::Options),
    /// Check for duplicate type names, circular dependencies of files, files over 600 lines and
    /// lines of text over 100 columns, except those in `xtask/structure-known.txt` (2 s)
    Structure(structure::Options),
    /// Run all tests of all crates, with the command of the README (3 min)
    Test,
    /// Kill a writer process repeatedly at random moments: every acknowledged write must exist
    /// afterwards (50 cycles: 20 s)
    Crash(crash::Options),
    /// The writer process of `crash`
    #[command(hide = true)]
    CrashWriter(crash::WriterOptions),
    /// Attack the store by hostile callers, callbacks, numbers, directories, processes, limits,
    /// devices and foreign files, in rounds drawn from a seed, checked by a model (`--seconds`)
    Hostile(hostile::Options),
    /// One round of `hostile`, in a separate process
    #[command(hide = true)]
    HostileRound(hostile::RoundOptions),
    /// Simulate power loss at every operation with every subset of unsynced writes, every fault at
    /// every call, and a flip of every bit of an image (100,000 crash states: 90 s)
    Sim(proofs::SimOptions),
    /// Fuzz the decoders, open, and the engine and index beside their models: no panic, no wrong
    /// value (`--seconds`)
    Fuzz(fuzz::Options),
    /// Check random histories: live state, model, replay and the result of compaction are equal
    /// (1,000 cases: 1 min)
    Props(proofs::PropsOptions),
    /// Run the store's threads in thousands of schedules (shuttle), and the lock-free protocols in
    /// every order with their memory orderings (loom) (3 min)
    Schedules(schedules::Options),
    /// Check that histories of concurrent callers are linearizable, with two checkers (200
    /// histories: 5 s)
    Lin(proofs::LinOptions),
    /// Run Miri on log, index and state: no undefined behaviour; without Miri, valgrind's memcheck
    /// (10 min)
    Miri,
    /// Run the thread and address sanitizers on the concurrent tests of engine and index: no data
    /// race, no invalid access (5 min)
    Sanitize,
    /// Plant each bug of the list, one at a time: a test must catch each (5 min, mostly building)
    Mutants(mutants::Options),
    /// Run the criterion benchmarks of every layer (20 min)
    Bench(bench::Options),
    /// Count instructions and cache lines of the hot paths under callgrind; more than 3 % above the
    /// baseline is an error (2 min)
    Counts(counts::Options),
    /// Compare the store with others, and write tables and plots to docs/benchmarks (all peers,
    /// three rounds: about an hour)
    Peers(peers::Options),
    /// Build the documentation; a broken link is an error (1 min)
    Docs,
    /// Check that every crate is complete for the registry, and builds from its package, in the
    /// order of the layers (3 min)
    Package(package::Options),
    /// Check that the public interfaces have no breaking change since an earlier revision, or the
    /// matching version (10 min)
    Semver(api::SemverOptions),
    /// Check that the public interfaces have foreign types only of crates in the root manifest's
    /// `public-dependencies` (1 min)
    ExternalTypes,
    /// Build every crate with every set of its features, without a warning (2 min)
    Features,
    /// Build every crate with the oldest dependencies that its manifest allows (2 min)
    MinimalVersions,
    /// Build every crate with the oldest compiler that it names (1 min)
    Msrv,
    /// Run the long profile of all proofs in sequence, and report failures at the end (some hours)
    Nightly(nightly::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    if let Some(code) = cfgs::compile() {
        return Ok(code);
    }
    run(Options::parse().verb).map(|()| ExitCode::SUCCESS)
}

fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Ci(options) => gate::run(&options),
        Verb::Structure(options) => structure::run(&options),
        Verb::Test => gate::tests(),
        Verb::Crash(options) => crash::run(&options),
        Verb::CrashWriter(options) => crash::write(&options),
        Verb::Hostile(options) => hostile::run(&options),
        Verb::HostileRound(options) => hostile::enter(&options),
        Verb::Sim(options) => proofs::sim(&options),
        Verb::Fuzz(options) => fuzz::run(&options),
        Verb::Props(options) => proofs::props(&options),
        Verb::Schedules(options) => schedules::run(&options),
        Verb::Lin(options) => proofs::lin(&options),
        Verb::Miri => memory::miri(),
        Verb::Sanitize => memory::sanitize(),
        Verb::Mutants(options) => mutants::run(&options),
        Verb::Bench(options) => bench::run(&options),
        Verb::Counts(options) => counts::run(&options),
        Verb::Peers(options) => peers::run(&options),
        Verb::Docs => gate::documentation(),
        Verb::Package(options) => package::run(&options),
        Verb::Semver(options) => api::semver(&options),
        Verb::ExternalTypes => api::external_types(),
        Verb::Features => api::features(),
        Verb::MinimalVersions => api::minimal_versions(),
        Verb::Msrv => api::msrv(),
        Verb::Nightly(options) => nightly::run(&options),
    }
}
