//! Tasks of the workspace: `cargo xtask <verb>`. Each verb has a module of its own; what is proved
//! is proved in the crates' tests, which the verbs drive.

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
    /// Everything that must pass before a change lands, or the named steps of it; Miri and
    /// sanitizers, which build everything anew in other ways, are in the nightly profile
    Ci(gate::Options),
    /// No type name twice, no circles between files, no file over 600 lines, no line of text over
    /// 100 columns, except what `xtask/structure-known.txt` lists (2 s)
    Structure(structure::Options),
    /// All tests of all crates, as the README says it (3 min)
    Test,
    /// Kill a writer process at random moments, again and again: every acknowledged write is there
    /// afterwards (50 cycles: 20 s)
    Crash(crash::Options),
    /// The writer that is killed
    #[command(hide = true)]
    CrashWriter(crash::WriterOptions),
    /// Callers, callbacks, numbers, directories, processes, limits, devices and foreign files that
    /// are hostile, in rounds drawn from a seed, beside a model (as long as `--seconds` says)
    Hostile(hostile::Options),
    /// One round of them, in a process of its own
    #[command(hide = true)]
    HostileRound(hostile::RoundOptions),
    /// Power loss at every operation with every subset of what was not synced; every fault at every
    /// call; every bit of an image flipped: the promises hold (100,000 crash states: 90 s)
    Sim(proofs::SimOptions),
    /// Feed damaged and random input to decoders, to open, and to the engine and index beside their
    /// models: no panic, no wrong value (as long as `--seconds` says)
    Fuzz(fuzz::Options),
    /// Random histories: live state, model, replay and what compaction leaves are the same (1,000
    /// cases: 1 min)
    Props(proofs::PropsOptions),
    /// The engine's threads in thousands of orders (shuttle), the lock-free protocols in every
    /// order with their memory orderings (loom) (3 min)
    Schedules(schedules::Options),
    /// Histories of concurrent callers are linearizable, by two checkers (200 histories: 5 s)
    Lin(proofs::LinOptions),
    /// Miri over log, index and state: no undefined behaviour; valgrind's memcheck where Miri is
    /// not (10 min)
    Miri,
    /// Thread and address sanitizer over the engine's and the index's concurrent tests: no data
    /// race, no stray access (5 min)
    Sanitize,
    /// Plant each bug of the list, one at a time: some test sees every one (5 min, most of it
    /// building)
    Mutants(mutants::Options),
    /// The benchmarks of every layer, in criterion's words (20 min)
    Bench(bench::Options),
    /// Count instructions and cache lines of the hot paths under callgrind; one that is 3 % dearer
    /// than the baseline is an error (2 min)
    Counts(counts::Options),
    /// Measure the store beside others, and write tables and plots to docs/benchmarks (all peers,
    /// three rounds: about an hour)
    Peers(peers::Options),
    /// Build the documentation; a broken link is an error (1 min)
    Docs,
    /// Every crate is complete for the registry, and builds from what its package holds, in the
    /// order of the layers (3 min)
    Package(package::Options),
    /// The public interfaces break nothing that an earlier revision promised, or have the version
    /// that says so (10 min)
    Semver(api::SemverOptions),
    /// The public interfaces show types of no other crates than the root manifest's
    /// `public-dependencies` names (1 min)
    ExternalTypes,
    /// Every crate builds with every set of its features, without a warning (2 min)
    Features,
    /// Every crate builds with the oldest dependencies that its manifest allows (2 min)
    MinimalVersions,
    /// Every crate builds with the oldest compiler that it names (1 min)
    Msrv,
    /// The long profile of all proofs, one after the other; failures are told at the end (some
    /// hours)
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
