//! The child process of one round.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::kinds;
use super::plan::Plan;
use super::round::Round;
use super::watch;

/// A call that takes longer counts as one that never returns.
const CALL_LIMIT: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct RoundOptions {
    plan: Plan,
    dir: PathBuf,
    /// What a child of a round is for
    #[arg(long)]
    role: Option<String>,
}

/// Runs the round, prints its figures or its finding, and ends the process.
pub(crate) fn enter(options: &RoundOptions) -> Result<()> {
    watch::start(CALL_LIMIT)?;
    let round = Round { plan: options.plan.clone(), dir: options.dir.clone(), role: options.role.clone() };
    let outcome = kinds::run(&round).and_then(|()| watch::check_panics());
    if let Err(error) = outcome {
        eprintln!("FINDING: {error:#}");
        std::process::exit(1);
    }
    watch::figures().iter().for_each(|line| println!("{line}"));
    // This ends whatever a storm has leaked on purpose.
    std::process::exit(0);
}
