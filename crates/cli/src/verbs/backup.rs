//! `backup`: a copy of the store in another directory.

use std::path::PathBuf;

use hightower_kv::BackupReport;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress::watched;
use crate::session::Session;
use crate::units::{bytes, counted};

const EXAMPLES: &str = "\
Examples:
  htkvctl backup /backups/kv           the whole store
  htkvctl backup /backups/kv           later, into the same directory: only new files
  htkvctl check --data-dir /backups/kv
  htkvctl restore /backups/kv --data-dir /var/lib/kv

A backup is a complete store: it can be read, checked and copied like any other. Complete segments are hard-linked if the file \
system supports it, and then need no additional space; copy the directory to another disk to survive the loss of this one. The previous backup stays intact until the new \
one is complete. After Ctrl-C run it again: it reuses the copied files.

This opens the store for writing, so no other process may have it open. A program that has the store open makes backups itself, \
during normal use: SingleNodeEngine::backup_to.";

/// Copy the store into a directory; a repeated backup copies only new files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The directory of the backup: missing, empty, or with an earlier backup of this store
    #[arg(value_name = "BACKUP_DIR")]
    backup: PathBuf,
}

#[derive(Serialize)]
struct Answer {
    backup: String,
    seq: u64,
    segments: u64,
    kept_segments: u64,
    linked_segments: u64,
    copied_segments: u64,
    copied_bytes: u64,
    removed_files: u64,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let report = session
            .existing_writer()?
            .finish(|store| watched(session.screen, |watch| store.backup_with_progress(&self.backup, watch)))?;
        session.screen.answer(&self.answer(&report), || self.describe(&report))?;
        Ok(Exit::Done)
    }

    fn answer(&self, report: &BackupReport) -> Answer {
        Answer {
            backup: self.backup.display().to_string(),
            seq: report.seq,
            segments: report.segments,
            kept_segments: report.kept_segments,
            linked_segments: report.linked_segments,
            copied_segments: report.copied_segments,
            copied_bytes: report.copied_bytes,
            removed_files: report.removed_files,
        }
    }

    fn describe(&self, report: &BackupReport) -> String {
        format!(
            "{} has all commits up to {}: {}, {} reused, {} linked, {} copied ({})",
            self.backup.display(),
            report.seq,
            counted(report.segments, "segment"),
            report.kept_segments,
            report.linked_segments,
            report.copied_segments,
            bytes(report.copied_bytes)
        )
    }
}
