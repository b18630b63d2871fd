//! `restore`: create a store from a backup.

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

The directory of the new store, --data-dir, must be empty or missing: move a damaged store away first. A mount point or a \
link to a directory is allowed. Every record is verified during the copy. Ctrl-C leaves the directory empty. After a crash the \
directory has the file UNFINISHED: it cannot be opened as a store, and the next restore starts again. The backup does not change. Any closed store can be copied in the same way.";

/// Create a store from a backup
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
                "restored {}: {}, {}, {}, all checksums correct",
                answer.restored,
                counted(answer.segments, "segment"),
                counted(answer.records, "record"),
                bytes(answer.bytes)
            )
        })?;
        Ok(Exit::Done)
    }
}
