//! `cargo xtask schedules`: variation of the order of threads.
//!
//! Two tools for two sizes. Shuttle runs the segment store and the whole engine on the simulated
//! file system, and draws the order of their threads from a seed. Loom runs the lock-free protocols
//! of the index and the state, small programs with few threads, in every order, with every outcome
//! that their memory orderings allow.

use anyhow::Result;

use crate::cfgs::Cfgs;

const TEST: &[&str] = &["test", "--locked", "--profile", "proof"];

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Number of schedules of each program
    #[arg(long, default_value_t = 1000)]
    pub(crate) iterations: u64,
    /// Seed of the schedules
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { iterations: 1000, seed: 1 }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    for krate in ["hightower-segment", "hightower-engine"] {
        Cfgs::Shuttle
            .cargo(&[TEST, &["-p", krate, "--test", "schedules", "--", "--nocapture"]].concat())?
            .with("HIGHTOWER_TEST_CASES", options.iterations)
            .with("HIGHTOWER_TEST_SEED", options.seed)
            .run()?;
    }
    for models in [
        &["-p", "hightower-state", "--lib"][..],
        &["-p", "hightower-index", "--test", "loom"],
        &["-p", "hightower-index", "--lib", "collector"],
    ] {
        Cfgs::Loom.cargo(&[TEST, models].concat())?.run()?;
    }
    Ok(())
}
