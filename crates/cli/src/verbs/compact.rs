//! `compact`: free the space of overwritten and deleted records.

use std::time::Duration;

use hightower_kv::CompactionReport;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress::Progress;
use crate::session::Session;
use crate::units::{as_ms, bytes, counted, duration};

const EXAMPLES: &str = "\
Examples:
  htkvctl segments          shows the space that can be freed
  htkvctl compact

An open store compacts automatically in the background; this verb compacts all of it now. It is safe to interrupt: a partly \
compacted store is valid.";

/// Free the space of overwritten and deleted records
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Answer {
    removed_segments: u64,
    written_segments: u64,
    moved_records: u64,
    forgotten_tombstones: u64,
    read_bytes: u64,
    written_bytes: u64,
    freed_bytes: u64,
    #[serde(rename = "elapsed_ms", serialize_with = "as_ms")]
    elapsed: Duration,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let report = session.existing_writer()?.finish(|store| {
            let _bar = Progress::spinner(session.screen, "compacting");
            Ok(store.run_compaction_now()?)
        })?;
        session.screen.answer(&Answer::of(&report), || describe(&report))?;
        Ok(Exit::Done)
    }
}

impl Answer {
    fn of(report: &CompactionReport) -> Self {
        Self {
            removed_segments: report.removed_segments,
            written_segments: report.written_segments,
            moved_records: report.moved_records,
            forgotten_tombstones: report.forgotten_tombstones,
            read_bytes: report.read_bytes,
            written_bytes: report.written_bytes,
            freed_bytes: report.freed_bytes,
            elapsed: report.elapsed,
        }
    }
}

fn describe(report: &CompactionReport) -> String {
    if report.removed_segments == 0 {
        return "nothing to free".into();
    }
    format!(
        "freed {} in {}: {} removed, {} moved into {} new",
        bytes(report.freed_bytes),
        duration(report.elapsed),
        counted(report.removed_segments, "segment"),
        counted(report.moved_records, "record"),
        report.written_segments
    )
}
