//! `get`: the value of a key.

use std::io::Write;

use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::notation::{Text, named, show};
use crate::reach::Reach;
use crate::records::Bytes;
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  htkvctl get pods/web-0
  htkvctl get page --raw > page.html     byte for byte, without a line feed at the end
  htkvctl get pods/web-0 --json          with the version, for `put --if`
  htkvctl get 17 --keyspace sessions     from a keyspace: see `htkvctl help keyspace`

Exit code 1 if the key has no value.";

/// Print the value of a key
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The key
    #[arg(value_parser = Text::parser())]
    key: Text,

    /// Print the raw bytes: nothing escaped, no line feed added
    #[arg(long, conflicts_with = "json")]
    raw: bool,

    #[command(flatten)]
    reach: Reach,
}

#[derive(Serialize)]
struct Answer<'a> {
    key: Bytes<'a>,
    value: Bytes<'a>,
    version: u64,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let key = &self.key.0[..];
        let found = session.look(|snapshot| Ok(self.reach.of(snapshot)?.get_versioned(key)?))?;
        let Some((value, version)) = found else {
            session.screen.error("not_found", &format!("{} has no value", named(key)));
            return Ok(Exit::Negative);
        };
        if self.raw {
            let mut out = session.screen.records();
            out.write_all(&value)?;
            out.flush()?;
        } else {
            let answer = Answer { key: Bytes::of(key), value: Bytes::of(&value), version };
            session.screen.answer(&answer, || show(&value).into_owned())?;
        }
        Ok(Exit::Done)
    }
}
