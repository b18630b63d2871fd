//! `auth purge`: remove expired sessions, API keys and tokens.

use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use crate::units::counted;
use crate::verbs::auth::service::Context;

const EXAMPLES: &str = "\
Example:
  htkvctl auth purge

They are refused anyway; this frees their space, and their share of a user's limits.";

/// Remove sessions, API keys and single-use tokens that have expired
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {}

#[derive(Serialize)]
struct Answer {
    sessions: u64,
    api_keys: u64,
    tokens: u64,
}

impl Args {
    #[allow(clippy::unused_self, reason = "every verb is run alike")]
    pub(super) fn run(&self, context: &Context<'_>) -> Result<Exit, Failure> {
        let purged = context.change(|auth| {
            let _bar = Progress::spinner(context.session.screen, "searching expired records");
            Ok(auth.purge_expired()?)
        })?;
        let answer = Answer { sessions: purged.sessions, api_keys: purged.api_keys, tokens: purged.tokens };
        let text = || {
            let (sessions, api_keys) = (counted(purged.sessions, "session"), counted(purged.api_keys, "API key"));
            format!("removed {sessions}, {api_keys} and {}", counted(purged.tokens, "single-use token"))
        };
        context.session.screen.answer(&answer, text)?;
        Ok(Exit::Done)
    }
}
