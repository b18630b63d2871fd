//! `salvage`: what is whole of a damaged store.

use std::path::PathBuf;

use hightower_kv::{Components, SalvageReport, salvage};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::progress::watched;
use crate::screen::{BAD, GOOD, styled};
use crate::session::Session;
use crate::units::counted;
use crate::verbs::damage::Damage;

const EXAMPLES: &str = "\
Examples:
  htkvctl check                        what is damaged?
  htkvctl salvage /var/lib/kv-saved    all that can be proven good, as a new store
  htkvctl check --data-dir /var/lib/kv-saved

Reads the damaged store and changes nothing in it. A key whose newest record is damaged comes back with an older value, or not at all, and a \
deleted one may come back: so restore a backup if there is one, and salvage if there is none. Exit code 1 if something could not be saved; each \
such place is named, with the keys that it lies between where that is known.";

/// Copy what is whole out of a damaged store
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The directory of the new store: not there yet, or empty
    #[arg(value_name = "NEW_DIR")]
    to: PathBuf,
}

#[derive(Serialize)]
struct Answer {
    salvaged: String,
    records: u64,
    keys: u64,
    without_manifest: bool,
    damage: Vec<Damage>,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let report =
            watched(session.screen, |watch| salvage(&Components::default(), session.data_dir(), &self.to, watch))
                .map_err(|failure| session.unless_missing(failure))?;
        let answer = Answer {
            salvaged: self.to.display().to_string(),
            records: report.records,
            keys: report.keys,
            without_manifest: report.without_manifest,
            damage: report.damage.iter().map(Damage::of).collect(),
        };
        session.screen.answer(&answer, || self.describe(&report, &answer.damage))?;
        Ok(if report.damage.is_empty() { Exit::Done } else { Exit::Negative })
    }

    fn describe(&self, report: &SalvageReport, damage: &[Damage]) -> String {
        let saved = format!(
            "{} out of {} in {}",
            counted(report.keys, "key"),
            counted(report.records, "record"),
            self.to.display()
        );
        let mut lines = vec![match damage.len() {
            0 => format!("{}: {saved}", styled(GOOD, "everything was whole")),
            places => {
                format!("{saved}; {}", styled(BAD, counted(places as u64, "damaged place") + " could not be read:"))
            }
        }];
        lines.extend(damage.iter().map(Damage::describe));
        if report.without_manifest {
            lines
                .push("the manifest could not be read, so every segment file counted: deleted keys may be back".into());
        }
        lines.join("\n")
    }
}
