//! `import`: put the records of a file into the store.
//!
//! Records are committed in atomic batches. A crash, a Ctrl-C or a malformed line leaves the
//! records of the lines before some point; a repeated import completes it.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hightower_kv::{Batch, SingleNodeEngine};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::lines::Lines;
use crate::progress::Progress;
use crate::reach::Reach;
use crate::records::{Format, check_limits};
use crate::screen::Screen;
use crate::session::Session;
use crate::units;

/// A batch is committed at this number of records, or at this number of bytes of keys and values.
const BATCH_RECORDS: usize = 1000;
const BATCH_LEN_BYTES: usize = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  htkvctl import packages.tsv
  htkvctl import dump.jsonl
  zcat dump.tsv.gz | htkvctl import -
  htkvctl --data-dir A export | htkvctl --data-dir B import -

Formats, by the file's name (.jsonl, .ndjson and .json are JSON Lines, others TSV) or by --format:
  tsv    key, one tab, value. Fields are plain text as it is, backslashes included, or byte-string
         literals b\"...\" (see `htkvctl --help`). Lines end in LF or CR LF; a byte order mark at the
         start of the file is skipped.
  jsonl  {\"key\":\"...\",\"value\":\"...\"}, bytes that are not UTF-8 as {\"base64\":\"...\"}

Records are committed in atomic batches. A malformed line stops the import, with its number in the error; \
the records before it stay. With --auth-records, the users, API keys and roles of an export with --auth-records replace those of the store that have the same keys. \
A repeated import is harmless: it overwrites each record with the same value.";

/// Put the records of a file into the store
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file; `-` for standard input
    file: PathBuf,

    /// Format of the lines
    #[arg(long)]
    format: Option<Format>,

    #[command(flatten)]
    reach: Reach,
}

/// The outcome of an import.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Imported {
    pub(crate) records: u64,
    pub(crate) bytes_read: u64,
    pub(crate) batches: u64,
    #[serde(rename = "elapsed_ms", serialize_with = "units::as_ms")]
    pub(crate) elapsed: Duration,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        let format = self.format.unwrap_or_else(|| Format::of_name(&self.file));
        let (input, len_bytes) = open(&self.file)?;
        let name = if is_stdin(&self.file) { "standard input".into() } else { self.file.display().to_string() };
        let store = session.writer()?;
        let progress = Progress::bytes(session.screen, len_bytes);
        let imported = store.finish(|store| import(store, input, &name, format, &self.reach, &progress))?;
        drop(progress);
        tell(session.screen, &imported)?;
        Ok(Exit::Done)
    }
}

fn tell(screen: Screen, imported: &Imported) -> Result<(), Failure> {
    screen.answer(imported, || {
        format!(
            "imported {} ({}) in {}, {} per second",
            units::counted(imported.records, "record"),
            units::bytes(imported.bytes_read),
            units::duration(imported.elapsed),
            units::count(units::per_second(imported.records, imported.elapsed)),
        )
    })
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The input, and its length if it is known.
fn open(path: &Path) -> Result<(Box<dyn BufRead>, Option<u64>), Failure> {
    if is_stdin(path) {
        return Ok((Box::new(io::stdin().lock()), None));
    }
    let refused = || Failure::file(format!("open {}", path.display()));
    let file = File::open(path).map_err(refused())?;
    let metadata = file.metadata().map_err(refused())?;
    if metadata.is_dir() {
        return Err(Failure::Usage(format!("{} is a directory, not a file of records", path.display())));
    }
    let len_bytes = metadata.is_file().then_some(metadata.len());
    Ok((Box::new(BufReader::with_capacity(256 * 1024, file)), len_bytes))
}

/// Puts all records of `input` into `store`. After an error, the store has the records of the lines
/// before it.
pub(crate) fn import(
    store: &SingleNodeEngine,
    input: impl BufRead,
    name: &str,
    format: Format,
    reach: &Reach,
    progress: &Progress,
) -> Result<Imported, Failure> {
    let started = Instant::now();
    let mut loader = Loader { store, reach, batch: Batch::new(), batch_len_bytes: 0, done: Imported::default() };
    let mut lines = Lines::new(input);
    let result = load(&mut loader, &mut lines, name, format, progress);
    // Commit the records before a malformed line or Ctrl-C.
    loader.commit()?;
    result.map_err(|failure| with_count(failure, loader.done.records))?;
    Ok(Imported { bytes_read: lines.bytes_read(), elapsed: started.elapsed(), ..loader.done })
}

fn load(
    loader: &mut Loader<'_>,
    lines: &mut Lines<impl BufRead>,
    name: &str,
    format: Format,
    progress: &Progress,
) -> Result<(), Failure> {
    loop {
        let line = match lines.next_line() {
            Ok(Some([])) => continue,
            Ok(Some(line)) => line,
            // In a pipe, Ctrl-C ends the writer too, so the end of the input may be premature.
            Ok(None) => return interrupt::check(),
            Err(bad) if bad.kind() == io::ErrorKind::InvalidData => return Err(malformed(name, lines.number(), &bad)),
            Err(source) => return Err(Failure::File { action: format!("read {name}"), source }),
        };
        let added = format.parse(line).map(|record| loader.add(&record.key, &record.value));
        let is_full = added.and_then(|added| added).map_err(|bad| malformed(name, lines.number(), &bad))?;
        if is_full {
            loader.commit()?;
            progress.set(lines.bytes_read());
            interrupt::check()?;
        }
    }
}

fn malformed(name: &str, number: u64, problem: &dyn std::fmt::Display) -> Failure {
    Failure::Usage(format!("{name}, line {number}: {problem}"))
}

/// Adds the number of imported records to the error.
fn with_count(failure: Failure, records: u64) -> Failure {
    let before = format!("imported before it: {}", units::counted(records, "record"));
    match failure {
        Failure::Usage(text) => Failure::Usage(format!("{text}; {before}")),
        Failure::Interrupted { .. } => Failure::Interrupted { so_far: Some(before) },
        other => other,
    }
}

/// Collects records in batches and commits them.
struct Loader<'a> {
    store: &'a SingleNodeEngine,
    reach: &'a Reach,
    batch: Batch,
    batch_len_bytes: usize,
    done: Imported,
}

impl Loader<'_> {
    /// Adds a record; returns whether the batch is full. Refuses a record that the store would
    /// refuse, while its line number is known.
    fn add(&mut self, key: &[u8], value: &[u8]) -> Result<bool, String> {
        check_limits(key, value)?;
        self.batch.put(key, value);
        self.batch_len_bytes += key.len() + value.len();
        Ok(self.batch.len() >= BATCH_RECORDS || self.batch_len_bytes >= BATCH_LEN_BYTES)
    }

    fn commit(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let records = self.batch.len() as u64;
        // Without requirements a batch cannot be rejected.
        self.reach.commit(self.store, &self.batch)?.committed().map_err(hightower_kv::Error::from)?;
        self.batch.clear();
        self.batch_len_bytes = 0;
        self.done.records += records;
        self.done.batches += 1;
        Ok(())
    }
}
