//! `put`: set the value of a key.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::ArgGroup;
use hightower_kv::{Batch, BatchOutcome, Committed, Expect, Rejected};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::notation::{Text, show};
use crate::reach::Reach;
use crate::records::{Bytes, check_limits};
use crate::session::Session;
use crate::units;

/// The largest value, in bytes. One more byte is read, to detect a longer one.
const MAX_VALUE_LEN_BYTES: u64 = hightower_kv::limits::MAX_VALUE_LEN_BYTES as u64;

const USAGE: &str = "htkvctl put [OPTIONS] <KEY> <VALUE>\n       htkvctl put [OPTIONS] <KEY> --file <FILE>";

const EXAMPLES: &str = "\
Examples:
  htkvctl put pods/web-0 running
  htkvctl put pods/web-0 --file manifest.json       the raw bytes of the file
  curl -s https://example.com | htkvctl put page --file -
  htkvctl put lock/leader me --if absent            only if the key is absent; else exit code 1
  htkvctl put pods/web-0 stopped --if 42            only over version 42, from `get --json`
  htkvctl put 'b\"bin\\xff\"' 'b\"\\0\\x01\"'             any bytes";

/// Set the value of a key
#[derive(Debug, clap::Args)]
#[command(override_usage = USAGE, after_help = EXAMPLES, group = ArgGroup::new("source").required(true))]
pub(crate) struct Args {
    /// The key
    #[arg(value_parser = Text::parser())]
    key: Text,

    /// The value
    #[arg(value_parser = Text::parser(), group = "source", allow_negative_numbers = true)]
    value: Option<Text>,

    /// Read the value from this file, byte for byte; `-` for standard input
    #[arg(long, value_name = "FILE", group = "source")]
    file: Option<PathBuf>,

    /// Put only if the key is `absent`, is `present`, or has this version
    #[arg(long = "if", value_name = "CONDITION", value_parser = parse_condition)]
    condition: Option<Expect>,

    #[command(flatten)]
    reach: Reach,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
enum Answer<'a> {
    Applied { key: Bytes<'a>, version: u64, seq: u64 },
    Rejected { key: Bytes<'a>, found_version: Option<u64> },
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let value = self.read_value()?;
        check_limits(&self.key.0, &value).map_err(Failure::Usage)?;
        let mut batch = Batch::new();
        batch.put(&self.key.0, &value);
        if let Some(condition) = self.condition {
            batch.require(&self.key.0, condition);
        }
        let outcome = session.writer()?.finish(|store| self.reach.commit(store, &batch))?;
        self.tell(session, &outcome, value.len() as u64)
    }

    fn read_value(&self) -> Result<Vec<u8>, Failure> {
        match (&self.value, &self.file) {
            (Some(value), _) => Ok(value.0.clone()),
            (None, Some(file)) => read_file(file).map_err(Failure::file(format!("read {}", file.display()))),
            (None, None) => Err(Failure::Usage("put needs a value, or --file".into())),
        }
    }

    fn tell(&self, session: &Session, outcome: &BatchOutcome, len_bytes: u64) -> Result<Exit, Failure> {
        let key = Bytes::of(&self.key.0);
        match outcome {
            BatchOutcome::Committed(Committed { seq, versions, .. }) => {
                let version = versions.first().copied().unwrap_or_default();
                let answer = Answer::Applied { key, version, seq: *seq };
                let text = || format!("put {} ({})", show(&self.key.0), units::bytes(len_bytes));
                session.screen.answer(&answer, text)?;
                Ok(Exit::Done)
            }
            BatchOutcome::Rejected(Rejected { found, .. }) => {
                let text = || format!("not put: {} {}", show(&self.key.0), describe(*found));
                session.screen.answer(&Answer::Rejected { key, found_version: *found }, text)?;
                Ok(Exit::Negative)
            }
        }
    }
}

fn describe(found: Option<u64>) -> String {
    found.map_or_else(|| "is absent".into(), |version| format!("has a value, of version {version}"))
}

fn parse_condition(text: &str) -> Result<Expect, String> {
    match text {
        "absent" => Ok(Expect::Absent),
        "present" => Ok(Expect::Present),
        version => version
            .parse()
            .map(Expect::Version)
            .map_err(|_| format!("{version:?} is not a condition: absent, present, or the number of a version")),
    }
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let limit = MAX_VALUE_LEN_BYTES + 1;
    let mut value = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().lock().take(limit).read_to_end(&mut value)?;
    } else {
        File::open(path)?.take(limit).read_to_end(&mut value)?;
    }
    Ok(value)
}
