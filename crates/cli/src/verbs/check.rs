//! `check`: search for damage, at a chosen level.

use clap::ValueEnum;
use hightower_kv::{CheckLevel, CheckReport, Components, TablesUse, check};
use serde::Serialize;

use crate::failure::{Exit, Failure, TABLE_REMEDY};
use crate::progress::watched;
use crate::screen::{BAD, DIM, GOOD, styled};
use crate::session::Session;
use crate::units::{bytes, counted};
use crate::verbs::damage::Damage;

const EXAMPLES: &str = "\
Examples:
  htkvctl check
  htkvctl check --level structure      files, headers and lengths; fast
  htkvctl check --level tables         also verifies the tables, and compares them with the log
  htkvctl check --json && echo fine

`--level tables` also builds the state of the whole log, in about 250 bytes of memory per key. The check changes nothing, and continues behind damage. Exit code 1 if there is damage: each damaged place is printed, with \
the neighbouring keys if they are known. Then restore a backup, or copy the intact records with `htkvctl salvage`. A table \
that cannot be used is no damage, because the log has all of it.";

/// Search for damage
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Level of the check
    #[arg(long, value_enum, default_value_t = Level::Checksums, value_name = "LEVEL")]
    level: Level,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    /// the manifest, the segments' headers and lengths, the end of the log
    Structure,
    /// also the checksum of every record
    Checksums,
    /// also the tables: every byte of them, compared with the log
    Tables,
}

#[derive(Serialize)]
struct Answer {
    level: &'static str,
    segments: u64,
    records: u64,
    bytes: u64,
    unfinished_bytes: u64,
    tables: Option<&'static str>,
    tables_trouble: Option<String>,
    damage: Vec<Damage>,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        session.needs_the_store_for_itself("check")?;
        let (level, name) = match self.level {
            Level::Structure => (CheckLevel::Structure, "structure"),
            Level::Checksums => (CheckLevel::Checksums, "checksums"),
            Level::Tables => (CheckLevel::Tables, "tables"),
        };
        let report = watched(session.screen, |watch| check(&Components::default(), session.data_dir(), level, watch))
            .map_err(|failure| session.unless_missing(failure))?;
        session.screen.answer(&Answer::of(&report, name), || describe(&report, name))?;
        Ok(if report.is_whole() { Exit::Done } else { Exit::Negative })
    }
}

impl Answer {
    fn of(report: &CheckReport, level: &'static str) -> Self {
        let (tables, tables_trouble) = match &report.tables {
            None => (None, None),
            Some(TablesUse::Loaded { .. }) => (Some("whole"), None),
            Some(TablesUse::Rebuilt { reason, .. }) => (Some("useless"), Some(reason.clone())),
            Some(_) => (Some("none"), None),
        };
        Self {
            level,
            segments: report.segments,
            records: report.records,
            bytes: report.bytes,
            unfinished_bytes: report.unfinished_bytes,
            tables,
            tables_trouble,
            damage: report.damage.iter().map(Damage::of).collect(),
        }
    }
}

fn describe(report: &CheckReport, level: &str) -> String {
    let looked = match level {
        "structure" => format!("{} checked, no record read", counted(report.segments, "segment")),
        _ => format!(
            "{}, {}, {} verified",
            counted(report.segments, "segment"),
            counted(report.records, "record"),
            bytes(report.bytes)
        ),
    };
    let verdict = if report.is_whole() {
        styled(GOOD, "no damage")
    } else {
        styled(BAD, counted(report.damage.len() as u64, "damaged place"))
    };
    let mut lines = vec![format!("{verdict}: {looked}")];
    lines.extend(report.damage.iter().map(|place| Damage::of(place).describe()));
    if report.unfinished_bytes > 0 {
        let unfinished = bytes(report.unfinished_bytes);
        lines.push(format!("a crash left {unfinished} of unfinished writes; the next open drops them"));
    }
    match &report.tables {
        Some(TablesUse::Loaded { tables, entries, .. }) => {
            let (tables, keys) = (counted(*tables, "table"), counted(*entries, "key"));
            lines.push(styled(DIM, format!("{tables}, {keys}, the same as the log")));
        }
        Some(TablesUse::Rebuilt { reason, .. }) => {
            lines.push(format!("a table cannot be used: {reason}"));
            lines.push(TABLE_REMEDY.to_owned());
        }
        Some(_) => lines.push(styled(DIM, "there is no table; the next open reads the log")),
        None => {}
    }
    lines.join("\n")
}
