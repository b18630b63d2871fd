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

The directory of the new store, --data-dir, must be empty or not there: move a broken store away first. A mount point or a \
link to a directory will do. Every record is verified on the way. Ctrl-C leaves the directory empty. After a crash the file \
UNFINISHED stands in it: it is not opened as a store, and the next restore begins anew. The backup stays as it is; any store that is not open can be copied the same way.";

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
