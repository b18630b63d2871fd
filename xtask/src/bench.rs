//! `cargo xtask bench`: the criterion benchmarks of every layer.

use anyhow::Result;
use clap::ValueEnum;

use crate::command::{Run, steps};

/// The benchmarks of the layers, bottom up.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layer {
    /// Records and segment headers: encoding, decoding, checksums
    Codec,
    /// Segment files: appending, reading a record, syncing
    Append,
    /// The ordered map, beside other maps, 1 M keys
    Index,
    /// Tables of 2 M keys: building, lookups, walks, merging, opening
    Table,
    /// Versions and snapshots over it, 1 K and 1 M keys
    State,
    /// Compaction's policies and its loop, in memory
    Compaction,
    /// Puts, gets, prefixes, compaction of a store, puts with 0 to 8 workers
    Engine,
    /// Opening a store: clean with and without a table, and after a kill
    Recovery,
    /// Authentication by API key, permission checks
    Auth,
}

impl Layer {
    /// The package, and the benchmark in it.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Codec => ("hightower-log", "codec"),
            Self::Append => ("hightower-segment", "segment"),
            Self::Index => ("hightower-index", "maps"),
            Self::Table => ("hightower-table", "table"),
            Self::State => ("hightower-state", "state"),
            Self::Compaction => ("hightower-compactor", "compaction"),
            Self::Engine => ("hightower-engine", "engine"),
            Self::Recovery => ("hightower-engine", "recovery"),
            Self::Auth => ("hightower-auth", "auth"),
        }
    }

    fn run(self, options: &Options) -> Result<()> {
        let (package, bench) = self.place();
        let mut run = Run::cargo(&format!("bench --locked -p {package} --bench {bench} --"));
        if options.quick {
            run = run.and("--quick");
        }
        options.rest.iter().fold(run, |run, argument| run.and(argument)).run()
    }
}

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these; without one, all
    layers: Vec<Layer>,
    /// Few samples, to check that they run, not to compare (3 min)
    #[arg(long)]
    quick: bool,
    /// Options of criterion, such as a part of a name, or `--save-baseline NAME`
    #[arg(last = true, value_name = "OPTIONS")]
    rest: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let is_wanted = |layer: &Layer| options.layers.is_empty() || options.layers.contains(layer);
    let layers: Vec<Layer> = Layer::value_variants().iter().copied().filter(is_wanted).collect();
    let runs: Vec<_> = layers.iter().map(|layer| (layer.place(), move || layer.run(options))).collect();
    let named: Vec<(&str, &dyn Fn() -> Result<()>)> =
        runs.iter().map(|((_, bench), run)| (*bench, run as &dyn Fn() -> Result<()>)).collect();
    steps(&named, true)
}
