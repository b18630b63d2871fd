//! `prefix`: the keys with a prefix.

use hightower_kv::auth::KeyRange;

use crate::failure::{Exit, Failure};
use crate::notation::Text;
use crate::session::Session;
use crate::verbs::list::ListArgs;

const EXAMPLES: &str = "\
Examples:
  htkvctl prefix pods/                     key TAB value, in key order
  htkvctl prefix pods/ --keys-only --limit 10
  htkvctl prefix pods/ --count
  htkvctl prefix log/ --reverse --limit 1  the last one
  htkvctl prefix ''                        everything

The output can be imported; with --json it is JSON Lines.";

/// List the keys with a prefix, in order
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The prefix
    #[arg(value_parser = Text::parser())]
    prefix: Text,

    #[command(flatten)]
    list: ListArgs,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        session.look(|snapshot| self.list.print(session, snapshot, &KeyRange::prefix(&self.prefix.0[..])))
    }
}
