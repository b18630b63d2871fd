//! What `prefix`, `scan` and `export` share: keys in order, one line each.

use std::io::Write;
use std::ops::ControlFlow;

use hightower_kv::Range;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::progress::{Progress, STEP_RECORDS};
use crate::records::Format;
use crate::session::Session;

/// How to list keys.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u64>,

    /// Only the keys; values are not read
    #[arg(long)]
    keys_only: bool,

    /// From the last key to the first
    #[arg(long)]
    reverse: bool,

    /// Only how many there are
    #[arg(long, conflicts_with = "keys_only")]
    count: bool,
}

#[derive(Serialize)]
struct Count {
    count: u64,
}

impl ListArgs {
    /// Prints what is in `range` as `session` wants it.
    pub(crate) fn print(&self, session: &Session, range: Range) -> Result<Exit, Failure> {
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
        for _ in range.take(self.take()) {
            count += 1;
            check_now_and_then(count)?;
        }
        Ok(count)
    }

    fn write(&self, range: Range, format: Format, out: &mut dyn Write) -> Result<(), Failure> {
        let mut range = range;
        if !self.keys_only && !self.reverse {
            write_pairs(&mut range, self.limit, format, out, &Progress::hidden())?;
            return Ok(());
        }
        for done in 1..=self.limit.unwrap_or(u64::MAX) {
            let Some(entry) = (if self.reverse { range.next_back() } else { range.next() }) else { break };
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

/// Writes keys with their values, up to `limit`; gives how many.
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
