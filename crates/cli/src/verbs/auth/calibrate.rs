//! `auth calibrate`: find hash parameters for this machine.

use std::time::Duration;

use hightower_kv::auth::crypto::calibrate;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use crate::units::parse_duration;
use crate::verbs::auth::service::Context;

const EXAMPLES: &str = "\
Examples:
  htkvctl auth calibrate                               at most 250 ms and 256 MiB per hash
  htkvctl auth calibrate --goal 500ms --memory-mib 64
  export HTKV_ARGON2=$(htkvctl auth calibrate)         for new passwords, and old ones at a login

Run it alone on the machine that will check passwords. The answer is never weaker than the default (19 MiB, 2 \
iterations), even if the default takes longer. Each concurrent login takes this memory and time.";

/// Find the strongest password hash that this machine computes in a given time
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Maximum time of a hash
    #[arg(long, value_name = "TIME", default_value = "250ms", value_parser = parse_duration)]
    goal: Duration,

    /// Maximum memory of a hash, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    memory_mib: u32,
}

#[derive(Serialize)]
struct Answer {
    argon2: String,
    memory_kib: u32,
    iterations: u32,
    lanes: u32,
}

impl Args {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let bar = Progress::spinner(context.session.screen, "hashing");
        let params = calibrate(self.goal, self.memory_mib.saturating_mul(1024))?;
        drop(bar);
        let answer = Answer {
            argon2: params.to_string(),
            memory_kib: params.memory_kib(),
            iterations: params.iterations(),
            lanes: params.lanes(),
        };
        context.session.screen.answer(&answer, || params.to_string())?;
        Ok(Exit::Done)
    }
}
