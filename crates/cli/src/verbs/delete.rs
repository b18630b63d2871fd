//! `delete`: delete a key.

use hightower_kv::{Batch, BatchOutcome, Committed, Expect};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::notation::{Text, named, show};
use crate::reach::Reach;
use crate::records::Bytes;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  htkvctl delete pods/web-0

Exit code 1 if the key has no value. Then nothing is written.";

/// Delete a key
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The key
    #[arg(value_parser = Text::parser())]
    key: Text,

    #[command(flatten)]
    reach: Reach,
}

#[derive(Serialize)]
struct Answer<'a> {
    outcome: &'static str,
    key: Bytes<'a>,
    version: u64,
    seq: u64,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let key = &self.key.0[..];
        let mut batch = Batch::new();
        batch.delete(key).require(key, Expect::Present);
        match session.existing_writer()?.finish(|store| self.reach.commit(store, &batch))? {
            BatchOutcome::Committed(Committed { seq, versions, .. }) => {
                let version = versions.first().copied().unwrap_or_default();
                let answer = Answer { outcome: "removed", key: Bytes::of(key), version, seq };
                session.screen.answer(&answer, || format!("deleted {}", show(key)))?;
                Ok(Exit::Done)
            }
            BatchOutcome::Rejected(_) => {
                session.screen.error("not_found", &format!("{} has no value", named(key)));
                Ok(Exit::Negative)
            }
        }
    }
}
