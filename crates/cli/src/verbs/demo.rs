//! `demo`: the store with real data and a crash.
//!
//! It imports the time zones of the tz database, reads them back by key and by prefix, and then
//! lets a [child process](writer) write at full speed. The child acknowledges each completed write
//! over a pipe, until SIGKILL ends it. Then the demo opens the store again, and reads and compares
//! every acknowledged write.

mod acks;
pub(crate) mod writer;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hightower_kv::StoreConfig;
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::notation::show;
use crate::progress::Progress;
use crate::reach::Reach;
use crate::records::Format;
use crate::screen::{BAD, BOLD, DIM, GOOD, Screen, styled};
use crate::session::{Session, Store};
use crate::units::{self, count};
use crate::verbs::demo::acks::Acknowledged;
use crate::verbs::import::{Imported, import};

/// `data/README.md` describes its source.
const ZONES: &[u8] = include_bytes!("../../data/zones.tsv");

const EXAMPLES: &str = "\
Examples:
  htkvctl demo                   two seconds, in a temporary directory
  htkvctl demo --for 10s
  htkvctl demo --keep ./demo     then look at the store: htkvctl --data-dir ./demo shell";

/// Demonstrate the store: import, reads, and a killed writer
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Time until the writer is killed
    #[arg(long = "for", value_name = "DURATION", default_value = "1s", value_parser = units::parse_duration)]
    write_for: Duration,

    /// Use this new directory, and keep it
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

/// The output for programs.
#[derive(Serialize)]
struct Answer {
    imported: Imported,
    acknowledged: u64,
    acknowledged_per_second: u64,
    #[serde(rename = "reopen_ms", serialize_with = "units::as_ms")]
    reopen: Duration,
    found: u64,
    lost: u64,
    beyond_acknowledged: u64,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        match &self.keep {
            Some(dir) if dir.exists() => {
                Err(Failure::Usage(format!("{} exists already: --keep needs a new directory", dir.display())))
            }
            Some(dir) => self.show(session.screen, dir),
            None => {
                let scratch = tempfile::Builder::new()
                    .prefix("htkvctl-demo-")
                    .tempdir()
                    .map_err(Failure::file("create a temporary directory"))?;
                let result = self.show(session.screen, scratch.path());
                scratch.close().map_err(Failure::file("remove the temporary directory"))?;
                result
            }
        }
    }

    fn show(&self, screen: Screen, dir: &Path) -> Result<Exit, Failure> {
        screen.tell(&format!("{} in {}\n", styled(BOLD, "Hightower KV"), dir.display()))?;
        let imported = Store::open(StoreConfig::at(dir))?.finish(|store| show_reads(screen, store))?;
        interrupt::check()?;
        screen.tell(&format!("{} a child process puts keys, and acknowledges completed puts over a pipe", step(4)))?;
        let acknowledged = acks::write_and_kill(dir, self.write_for)?;
        screen.tell(&format!(
            "  killed with SIGKILL after {}: {} puts acknowledged, {} per second",
            units::duration(acknowledged.elapsed),
            count(acknowledged.last),
            count(acknowledged.per_second()),
        ))?;
        let answer = verify(screen, dir, imported, &acknowledged)?;
        screen.answer(&answer, || answer.verdict())?;
        Ok(if answer.lost == 0 { Exit::Done } else { Exit::Negative })
    }
}

fn step(number: u32) -> String {
    styled(BOLD, format!("{number}."))
}

/// Imports the time zones and reads some of them.
fn show_reads(screen: Screen, store: &Store) -> Result<Imported, Failure> {
    let imported = import(store, ZONES, "zones.tsv", Format::Tsv, &Reach::default(), &Progress::hidden())?;
    screen.tell(&format!(
        "{} import the time zones of the tz database: {} records in {}",
        step(1),
        count(imported.records),
        units::duration(imported.elapsed)
    ))?;
    let key = "zone/Europe/Berlin";
    let value = store.get(key)?.unwrap_or_else(|| b"nothing".into());
    screen.tell(&format!("{} get {key}\n  {}", step(2), show(&value)))?;
    let prefix = "zone/America/Argentina/";
    screen.tell(&format!("{} prefix {prefix}", step(3)))?;
    for entry in store.prefix(prefix)? {
        let entry = entry?;
        let (key, value) = (show(entry.key()).into_owned(), entry.value()?);
        screen.tell(&format!("  {key}  {}", styled(DIM, show(&value))))?;
    }
    Ok(imported)
}

/// Opens the store of the killed writer, and compares every acknowledged put.
fn verify(screen: Screen, dir: &Path, imported: Imported, acknowledged: &Acknowledged) -> Result<Answer, Failure> {
    let started = Instant::now();
    let store = Store::open(StoreConfig::at(dir))?;
    let opened = started.elapsed();
    screen.tell(&format!("{} open again: {}", step(5), units::duration(opened)))?;
    store.finish(|store| {
        let mut found = 0;
        for number in 1..=acknowledged.last {
            found += u64::from(store.get(writer::key(number))?.as_deref() == Some(&writer::value(number)[..]));
            if number.is_multiple_of(4096) {
                interrupt::check()?;
            }
        }
        let written = store.prefix(writer::PREFIX)?.try_fold(0_u64, |count, entry| entry.map(|_| count + 1))?;
        Ok(Answer {
            imported,
            acknowledged: acknowledged.last,
            acknowledged_per_second: acknowledged.per_second(),
            reopen: opened,
            found,
            lost: acknowledged.last - found,
            beyond_acknowledged: written.saturating_sub(found),
        })
    })
}

impl Answer {
    fn verdict(&self) -> String {
        let found = format!("{} of {} acknowledged puts", count(self.found), count(self.acknowledged));
        let beyond = match self.beyond_acknowledged {
            0 => String::new(),
            more => format!("; {} more puts were written but not acknowledged", count(more)),
        };
        if self.lost == 0 {
            format!("  {}: {found} read back and compared{beyond}", styled(GOOD, "nothing is lost"))
        } else {
            format!("  {}: only {found} exist", styled(BAD, "LOST WRITES"))
        }
    }
}
