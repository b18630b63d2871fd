//! `add`: add to a counter.

use hightower_kv::Batch;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::notation::{Text, show};
use crate::reach::Reach;
use crate::records::{Bytes, check_limits};
use crate::session::Session;

const EXAMPLES: &str = "\
Examples:
  htkvctl add visits 1
  htkvctl add stock/apples -3
  htkvctl add visits 0                              shows the counter; a new one is 0

A counter is a decimal number of 64 bits, as text: `get` shows it and `put` sets it. Additions by others at the same time \
are not lost. It is an error, and changes nothing, if the value is no counter or if the sum does not fit.";

/// Add a number to a counter
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The key; without a value it counts as 0
    #[arg(value_parser = Text::parser())]
    key: Text,

    /// The number to add, from -2^63 to 2^63 - 1
    #[arg(allow_negative_numbers = true)]
    number: i64,

    #[command(flatten)]
    reach: Reach,
}

#[derive(Serialize)]
struct Sum<'a> {
    key: Bytes<'a>,
    value: i64,
    version: u64,
    seq: u64,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        check_limits(&self.key.0, &[]).map_err(Failure::Usage)?;
        let mut batch = Batch::new();
        batch.add(&self.key.0, self.number);
        let committed = session.writer()?.finish(|store| self.reach.commit(store, &batch))?;
        let committed = committed.committed().map_err(hightower_kv::Error::from)?;
        let value = committed.merged.first().and_then(Option::as_ref);
        let value = value.and_then(|value| value.as_str().ok()?.parse().ok()).unwrap_or_default();
        let version = committed.versions.first().copied().unwrap_or_default();
        let answer = Sum { key: Bytes::of(&self.key.0), value, version, seq: committed.seq };
        session.screen.answer(&answer, || format!("{} is {value}", show(&self.key.0)))?;
        Ok(Exit::Done)
    }
}
