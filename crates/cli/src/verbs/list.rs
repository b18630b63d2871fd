//! Shared parts of `prefix`, `scan` and `export`: keys in order, one line each.

use std::io::Write;
use std::ops::ControlFlow;

use hightower_kv::auth::KeyRange;
use hightower_kv::{Range, Snapshot};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::progress::{Progress, STEP_RECORDS};
use crate::reach::Reach;
use crate::records::Format;
use crate::session::Session;

/// Options of a list of keys.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Maximum number of keys
    #[arg(long, value_name = "N")]
    limit: Option<u64>,

    /// Print keys only; values are not read
    #[arg(long)]
    keys_only: bool,

    /// From the last key to the first
    #[arg(long)]
    reverse: bool,

    /// Print only the number of keys
    #[arg(long, conflicts_with = "keys_only")]
    count: bool,

    #[command(flatten)]
    reach: Reach,
}

#[derive(Serialize)]
struct Count {
    count: u64,
}

impl ListArgs {
    /// Prints the keys of `range` in the format of `session`.
    pub(crate) fn print(&self, session: &Session, snapshot: &Snapshot, range: &KeyRange) -> Result<Exit, Failure> {
        let range = self.reach.range(snapshot, range)?;
        if self.count {
            let count = self.count(range)?;
            session.screen.answer(&Count { count }, || count.to_string())?;
            return Ok(Exit::Done);
        }
        let format = if session.screen.json { Format::Jsonl } else { Format::Tsv };
        let mut out = session.screen.records();
        self.write(range, format, &mut out)?;
        out.flush()?;
        Ok(Exit::Done)
    }

    fn count(&self, range: Range) -> Result<u64, Failure> {
        let mut count = 0;
        for entry in range.take(self.take()) {
            entry?;
            count += 1;
            check_now_and_then(count)?;
        }
        Ok(count)
    }

    fn write(&self, mut range: Range, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
        if !self.keys_only && !self.reverse {
            write_pairs(&mut range, self.limit, format, out, &Progress::hidden())?;
            return Ok(());
        }
        for done in 1..=self.limit.unwrap_or(u64::MAX) {
            let next = if self.reverse { range.next_back() } else { range.next() };
            let Some(entry) = next.transpose()? else { break };
            if self.keys_only {
                format.write_key(out, entry.key())?;
            } else {
                format.write(out, entry.key(), &entry.value()?)?;
            }
            check_now_and_then(done)?;
        }
        Ok(())
    }

    fn take(&self) -> usize {
        self.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
    }
}

/// Writes keys with their values, up to `limit`; returns their number.
pub(crate) fn write_pairs(
    range: &mut Range,
    limit: Option<u64>,
    format: Format,
    out: &mut dyn Write,
    progress: &Progress,
) -> Result<u64, Failure> {
    let limit = limit.unwrap_or(u64::MAX);
    if limit == 0 {
        return Ok(0);
    }
    let mut written = 0_u64;
    let mut failure = None;
    range.for_each_pair(|key, value| {
        let step = format.write(out, key, value).map_err(Failure::from).and_then(|()| {
            written += 1;
            if written.is_multiple_of(STEP_RECORDS) {
                progress.set(written);
            }
            check_now_and_then(written)
        });
        match step {
            Ok(()) if written < limit => ControlFlow::Continue(()),
            Ok(()) => ControlFlow::Break(()),
            Err(stopped) => {
                failure = Some(stopped);
                ControlFlow::Break(())
            }
        }
    })?;
    failure.map_or(Ok(written), Err)
}

fn check_now_and_then(done: u64) -> Result<(), Failure> {
    if done.is_multiple_of(STEP_RECORDS) { interrupt::check() } else { Ok(()) }
}
