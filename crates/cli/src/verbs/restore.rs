//! `restore`: a store out of a backup.

use std::path::PathBuf;

use hightower_kv::{Components, restore_with_progress};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress::watched;
use crate::session::Session;
use crate::units::{bytes, counted};

const EXAMPLES: &str = "\
Examples:
  htkvctl restore /backups/kv --data-dir /var/lib/kv

The directory of the new store, --data-dir, must be empty or not there: move a broken store away first. Every record is verified \
on the way. All is written beside the new directory and moved there at the end, so after Ctrl-C or a crash there is no half a store, at most \
an empty directory NAME.unfinished, which the next attempt uses. The \
backup stays as it is; any store that is not open can be copied the same way.";

/// Make a store out of a backup
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The backup, or any store that is not open
    #[arg(value_name = "BACKUP_DIR")]
    backup: PathBuf,
}

#[derive(Serialize)]
struct Answer {
    restored: String,
    segments: u64,
    records: u64,
    bytes: u64,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let to = session.data_dir();
        let report =
            watched(session.screen, |watch| restore_with_progress(&Components::default(), &self.backup, to, watch))?;
        let restored = to.display().to_string();
        let answer = Answer { restored, segments: report.segments, records: report.records, bytes: report.bytes };
        session.screen.answer(&answer, || {
            format!(
                "restored {}: {}, {}, {}, every checksum right",
                answer.restored,
                counted(answer.segments, "segment"),
                counted(answer.records, "record"),
                bytes(answer.bytes)
            )
        })?;
        Ok(Exit::Done)
    }
}
