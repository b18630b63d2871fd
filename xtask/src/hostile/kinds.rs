//! The kinds of hostility, one file each.

mod callbacks;
mod callers;
mod devices;
mod directory;
mod foreign;
mod held;
mod limits;
mod numbers;
mod processes;

use anyhow::Result;

use super::kind::Kind;
use super::round::Round;

/// Runs a round of the plan's kind.
pub(super) fn run(round: &Round) -> Result<()> {
    match round.plan.kind {
        Kind::Callers => callers::run(round),
        Kind::Numbers => numbers::run(round),
        Kind::Held => held::run(round),
        Kind::Callbacks => callbacks::run(round),
        Kind::Directory => directory::run(round),
        Kind::Processes => processes::run(round),
        Kind::Limits => limits::run(round),
        Kind::Devices => devices::run(round),
        Kind::Foreign => foreign::run(round),
    }
}
