//! `salvage`: copy the intact records of a damaged store.

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
  htkvctl check                        shows the damage
  htkvctl salvage /var/lib/kv-saved    copies the intact records into a new store
  htkvctl check --data-dir /var/lib/kv-saved

Reads the damaged store and changes nothing in it. A key whose newest record is damaged gets an older value or is lost, and a \
deleted key may reappear. So restore a backup if one exists, and salvage only if none does. Exit code 1 if a record could not be saved: each \
damaged place is printed, with the neighbouring keys if they are known.";

/// Copy the intact records of a damaged store
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The directory of the new store: missing or empty
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
            0 => format!("{}: {saved}", styled(GOOD, "no damage")),
            places => {
                format!("{saved}; {}", styled(BAD, counted(places as u64, "damaged place") + " could not be read:"))
            }
        }];
        lines.extend(damage.iter().map(Damage::describe));
        if report.without_manifest {
            lines.push(
                "the manifest could not be read, so every segment file was used: deleted keys may reappear".into(),
            );
        }
        lines.join("\n")
    }
}
