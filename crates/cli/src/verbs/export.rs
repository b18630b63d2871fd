//! `export`: all records, sorted by key, as lines.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hightower_kv::auth::KeyRange;
use serde::Serialize;
use tempfile::NamedTempFile;

use crate::failure::{Exit, Failure};
use crate::notation::Text;
use crate::progress::Progress;
use crate::reach::Reach;
use crate::records::Format;
use crate::session::{Session, Store};
use crate::units;
use crate::verbs::list::write_pairs;

const EXAMPLES: &str = "\
Examples:
  htkvctl export                          to standard output, as TSV
  htkvctl export -o dump.jsonl            the file's name, or --format, sets the format
  htkvctl export --prefix pods/ | head
  htkvctl export | gzip > dump.tsv.gz

Records are sorted by the bytes of their keys and form one snapshot. A file is written under a temporary name and \
renamed when complete, so an incomplete file never appears. `import` restores all records byte for byte. Users, sessions, \
API keys and roles are excluded; --auth-records exports only them, to a file that is readable by its owner only.";

/// Write all records as lines, sorted by key
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Format of the lines
    #[arg(long)]
    format: Option<Format>,

    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Only keys with this prefix
    #[arg(long, value_name = "PREFIX", value_parser = Text::parser())]
    prefix: Option<Text>,

    #[command(flatten)]
    reach: Reach,
}

#[derive(Serialize)]
struct Exported {
    records: u64,
    #[serde(rename = "elapsed_ms", serialize_with = "units::as_ms")]
    elapsed: Duration,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        session.reader()?.finish(|store| match self.output.as_deref() {
            Some(path) if path.as_os_str() != "-" => self.to_file(session, store, path),
            _ => self.to_stdout(session, store),
        })
    }

    fn to_stdout(&self, session: &Session, store: &Store) -> Result<Exit, Failure> {
        let default = if session.screen.json { Format::Jsonl } else { Format::Tsv };
        let format = self.format.unwrap_or(default);
        // A bar would mix with the records.
        let progress = if session.screen.is_terminal() { Progress::hidden() } else { self.progress(session, store) };
        let mut out = session.screen.records();
        self.write(store, format, &mut out, &progress)?;
        out.flush()?;
        Ok(Exit::Done)
    }

    fn to_file(&self, session: &Session, store: &Store, path: &Path) -> Result<Exit, Failure> {
        let started = Instant::now();
        let format = self.format.unwrap_or_else(|| Format::of_name(path));
        let progress = self.progress(session, store);
        let named = |failure| name_file(failure, path);
        let mut target = Target::create(path, self.reach.is_secret())
            .map_err(Failure::file(format!("create {}", path.display())))?;
        let records = self.write(store, format, target.writer(), &progress).map_err(named)?;
        target.complete(path).map_err(Failure::file(format!("write {}", path.display())))?;
        drop(progress);
        let elapsed = started.elapsed();
        session.screen.answer(&Exported { records, elapsed }, || {
            let (records, elapsed) = (units::counted(records, "record"), units::duration(elapsed));
            format!("exported {records} to {} in {elapsed}", path.display())
        })?;
        Ok(Exit::Done)
    }

    fn write(&self, store: &Store, format: Format, out: &mut dyn Write, progress: &Progress) -> Result<u64, Failure> {
        let prefix = self.prefix.as_ref().map(|prefix| &prefix.0[..]).unwrap_or_default();
        let mut range = self.reach.range(&store.snapshot()?, &KeyRange::prefix(prefix))?;
        write_pairs(&mut range, None, format, out, progress)
    }

    fn progress(&self, session: &Session, store: &Store) -> Progress {
        match &self.prefix {
            None if self.reach.is_default() => Progress::records(session.screen, store.len() as u64),
            _ => Progress::hidden(),
        }
    }
}

/// Write errors are those of the file, not of standard output.
fn name_file(failure: Failure, path: &Path) -> Failure {
    match failure {
        Failure::File { source, .. } => Failure::File { action: format!("write {}", path.display()), source },
        other => other,
    }
}

fn create_new(path: &Path, private: bool) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if private {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    #[cfg(not(unix))]
    let _nothing_to_set = private;
    options.open(path)
}

#[cfg(unix)]
fn make_private(file: &File) -> io::Result<()> {
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
}

#[cfg(not(unix))]
fn make_private(_file: &File) -> io::Result<()> {
    Ok(())
}

/// An output file.
enum Target {
    /// Gets its name when it is complete.
    Staged(BufWriter<NamedTempFile>),
    /// Written in place: a device, a pipe, or a file in a read-only directory.
    InPlace(BufWriter<File>),
}

impl Target {
    /// `private`: readable by the owner only, because it contains password hashes.
    fn create(path: &Path, private: bool) -> io::Result<Self> {
        match fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => {
                Ok(Self::InPlace(BufWriter::new(File::options().write(true).open(path)?)))
            }
            Ok(metadata) => Self::replacing(&path.canonicalize()?, &metadata, private),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Self::staged(path, private),
            Err(error) => Err(error),
        }
    }

    /// The file keeps its mode. In a read-only directory it is written in place.
    fn replacing(path: &Path, metadata: &fs::Metadata, private: bool) -> io::Result<Self> {
        let staged = Self::staged(path, private).and_then(|target| {
            if let (Self::Staged(file), false) = (&target, private) {
                file.get_ref().as_file().set_permissions(metadata.permissions())?;
            }
            Ok(target)
        });
        match staged {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                let file = File::options().write(true).truncate(true).open(path)?;
                if private {
                    make_private(&file)?;
                }
                Ok(Self::InPlace(BufWriter::with_capacity(256 * 1024, file)))
            }
            other => other,
        }
    }

    fn staged(path: &Path, private: bool) -> io::Result<Self> {
        let dir = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // Created without a special mode, so that the user's umask sets its permissions.
        let file = tempfile::Builder::new()
            .prefix(".htkvctl-")
            .suffix(".partial")
            .make_in(dir, |path| create_new(path, private))?;
        Ok(Self::Staged(BufWriter::with_capacity(256 * 1024, file)))
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Staged(writer) => writer,
            Self::InPlace(writer) => writer,
        }
    }

    fn complete(self, path: &Path) -> io::Result<()> {
        match self {
            Self::InPlace(mut writer) => writer.flush(),
            Self::Staged(writer) => {
                let file = writer.into_inner()?;
                file.as_file().sync_all()?;
                let name = if path.exists() { path.canonicalize()? } else { path.to_path_buf() };
                file.persist(name).map_err(|failed| failed.error)?;
                Ok(())
            }
        }
    }
}
