//! `scan`: the keys between two bounds.

use hightower_kv::auth::KeyRange;

use crate::failure::{Exit, Failure};
use crate::notation::Text;
use crate::session::Session;
use crate::verbs::list::ListArgs;

const EXAMPLES: &str = "\
Examples:
  htkvctl scan                                 everything, in key order
  htkvctl scan --from pods/ --to pods0         from pods/ (inclusive) to pods0 (exclusive)
  htkvctl scan --from log/2026-01 --limit 100
  htkvctl scan --to m --reverse                backwards from the last key below m

Keys are ordered by their bytes. The output can be imported; with --json it is JSON Lines.";

/// List the keys between two bounds, in order
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The inclusive start; without it, from the first key
    #[arg(long, value_name = "KEY", value_parser = Text::parser())]
    from: Option<Text>,

    /// The exclusive end; without it, to the last key
    #[arg(long, value_name = "KEY", value_parser = Text::parser())]
    to: Option<Text>,

    #[command(flatten)]
    list: ListArgs,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let from = self.from.as_ref().map(|from| from.0.clone()).unwrap_or_default();
        let range = KeyRange::new(from, self.to.as_ref().map(|to| to.0.clone()));
        session.look(|snapshot| self.list.print(session, snapshot, &range))
    }
}
