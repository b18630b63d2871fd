//! `check`: read everything and verify every checksum.

use hightower_kv::{Error, ErrorKind, Range};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::notation::show;
use crate::progress::{Progress, STEP_RECORDS};
use crate::records::Bytes;
use crate::screen::{BAD, GOOD, styled};
use crate::session::{Session, Store};
use crate::units::{bytes, counted};

const EXAMPLES: &str = "\
Examples:
  htkvctl check
  htkvctl check --json && echo fine

Opens the store for reading, which verifies the manifest, every segment and every record of the log, and then reads
the value of every key. Changes nothing. Exit code 1 if there is damage; each damaged place is named.";

/// Verify the whole store
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {}

#[derive(Default, Serialize)]
struct Answer {
    keys_read: u64,
    value_bytes_read: u64,
    damage: Vec<Damage>,
}

/// One damaged place.
#[derive(Serialize)]
struct Damage {
    /// The key whose value cannot be read, if the damage was found that way.
    key: Option<Bytes<'static>>,
    message: String,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let mut answer = Answer::default();
        match session.reader() {
            Ok(store) => store.finish(|store| verify(session, store, &mut answer))?,
            Err(Failure::Store(error)) if error.kind() == ErrorKind::Corrupt => answer.note(None, &error),
            Err(other) => return Err(other),
        }
        session.screen.answer(&answer, || answer.describe())?;
        Ok(if answer.damage.is_empty() { Exit::Done } else { Exit::Negative })
    }
}

/// Reads the value of every key; damage is noted, and the reading goes on behind it.
fn verify(session: &Session, store: &Store, answer: &mut Answer) -> Result<(), Failure> {
    let progress = Progress::records(session.screen, store.len() as u64);
    let everything: Range = store.prefix(b"");
    for entry in everything {
        match entry.value() {
            Ok(value) => answer.value_bytes_read += value.len() as u64,
            Err(error) if error.kind() == ErrorKind::Corrupt => answer.note(Some(entry.key()), &error),
            Err(error) => return Err(error.into()),
        }
        answer.keys_read += 1;
        if answer.keys_read.is_multiple_of(STEP_RECORDS) {
            progress.set(answer.keys_read);
            interrupt::check()?;
        }
    }
    Ok(())
}

impl Answer {
    fn note(&mut self, key: Option<&[u8]>, error: &Error) {
        let key = key.map(|key| Bytes(key.to_vec().into()));
        self.damage.push(Damage { key, message: error.to_string() });
    }

    fn describe(&self) -> String {
        let read = format!("{}, {} of values read", counted(self.keys_read, "key"), bytes(self.value_bytes_read));
        if self.damage.is_empty() {
            return format!("{}: {read}", styled(GOOD, "no damage"));
        }
        let mut lines = vec![format!("{}: {read}", styled(BAD, counted(self.damage.len() as u64, "damaged place")))];
        lines.extend(self.damage.iter().map(|damage| match &damage.key {
            Some(Bytes(key)) => format!("  {}: {}", show(key), damage.message),
            None => format!("  {}", damage.message),
        }));
        lines.join("\n")
    }
}
