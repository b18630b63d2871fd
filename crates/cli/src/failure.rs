//! The errors of verbs, and their exit codes.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use hightower_kv::Error;
use hightower_kv::auth;

/// The remedy for a table that cannot be used.
pub(crate) const TABLE_REMEDY: &str = "the log has all that a table has: remove the file while nobody uses the store, and \
    the next open for writing, such as by `htkvctl compact`, rebuilds the tables";

/// The outcome of a verb that ran to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// The key was not found, a condition did not hold, or damage was found.
    Negative,
}

impl Exit {
    pub(crate) fn code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Done => 0,
            Self::Negative => 1,
        })
    }
}

/// The error that stopped a verb.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Invalid arguments, or an invalid file that they name.
    Usage(String),
    /// A file other than the store's could not be read or written.
    File { action: String, source: io::Error },
    /// The directory contains no store.
    NoStore(PathBuf),
    /// An error of the store.
    Store(Error),
    /// An error of the authentication service.
    Auth(auth::Error),
    /// Ctrl-C or an equivalent signal, with a note on the completed work, if any.
    Interrupted { so_far: Option<String> },
    /// The reader closed the pipe, as in `export | head`. Not an error.
    OutputClosed,
}

impl Failure {
    /// Ctrl-C, without a note.
    pub(crate) const INTERRUPTED: Self = Self::Interrupted { so_far: None };

    /// Wraps an error of reading or writing a file outside the store.
    pub(crate) fn file(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        |source| Self::File { action: action.into(), source }
    }

    /// Maps the error of work that Ctrl-C stopped to an interrupt, and other errors to those of the
    /// store.
    pub(crate) fn or_interrupted(error: Error) -> Self {
        if matches!(error, Error::Aborted(_)) { Self::INTERRUPTED } else { Self::Store(error) }
    }

    /// The exit code: 1 not found or taken, 2 usage, 3 store, 130 interrupted.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::OutputClosed => 0,
            Self::Usage(_) | Self::File { .. } => 2,
            Self::Store(Error::Validation(_) | Error::LimitExceeded { .. }) => 2,
            Self::Store(
                Error::KeyspaceNotFound { .. }
                | Error::KeyspaceExists { .. }
                | Error::NotACounter { .. }
                | Error::CounterOverflow { .. },
            ) => 1,
            Self::Store(_) | Self::NoStore(_) => 3,
            Self::Auth(error) => auth_code(error),
            Self::Interrupted { .. } => 130,
        }
    }

    /// The kind of the error, for programs that read `--json`.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Usage(_) => "usage".into(),
            Self::File { .. } => "file".into(),
            Self::NoStore(_) => "not_found".into(),
            Self::Store(error) => error.code().into(),
            Self::Auth(error) => error.code().into(),
            Self::Interrupted { .. } => "interrupted".into(),
            Self::OutputClosed => "output_closed".into(),
        }
    }

    /// The message for people, with all causes.
    pub(crate) fn message(&self) -> String {
        match self {
            Self::Usage(text) => text.clone(),
            Self::File { action, source } => format!("{action}: {source}"),
            Self::NoStore(dir) => format!(
                "{} contains no store: set --data-dir or HTKV_DATA_DIR; `put`, `import` and `shell` create one",
                dir.display()
            ),
            Self::Store(error) => match error {
                Error::Corrupt { path, .. } if path.extension().is_some_and(|end| end == "tbl") => {
                    format!("{error}; {TABLE_REMEDY}")
                }
                _ => error.to_string(),
            },
            Self::Auth(error) => error.to_string(),
            Self::Interrupted { so_far: None } => "interrupted".into(),
            Self::Interrupted { so_far: Some(done) } => format!("interrupted; {done}"),
            Self::OutputClosed => "the output was closed".into(),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl From<auth::Error> for Failure {
    fn from(error: auth::Error) -> Self {
        match error {
            auth::Error::Engine(error) => Self::Store(error),
            error => Self::Auth(error),
        }
    }
}

fn auth_code(error: &auth::Error) -> u8 {
    match error {
        auth::Error::NotFound(_) | auth::Error::Conflict(_) | auth::Error::Denied(_) => 1,
        auth::Error::Validation(_) | auth::Error::LimitExceeded(_) | auth::Error::KeyFile { .. } => 2,
        _ => 3,
    }
}

/// For writes to standard output, where a closed pipe means that the reader wants no more.
impl From<io::Error> for Failure {
    fn from(source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::File { action: "write the output".into(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::Failure;
    use hightower_kv::{Error, auth};

    #[test]
    fn codes_and_kinds() {
        for (failure, code, kind) in [
            (Failure::Usage("x".into()), 2, "usage"),
            (Failure::Store(Error::Closed), 3, "closed"),
            (Failure::NoStore("dir".into()), 3, "not_found"),
            (Failure::Store(Error::ReadOnly), 3, "read_only"),
            (Failure::Store(Error::Validation("empty".into())), 2, "validation"),
            (Failure::from(auth::Error::NotFound("x")), 1, "not_found"),
            (Failure::from(auth::Error::LimitExceeded("x")), 2, "limit_exceeded"),
            (Failure::from(auth::Error::Crypto("x")), 3, "crypto"),
            (Failure::from(auth::Error::Engine(Error::Closed)), 3, "closed"),
            (Failure::INTERRUPTED, 130, "interrupted"),
            (Failure::OutputClosed, 0, "output_closed"),
        ] {
            assert_eq!((failure.code(), &*failure.kind()), (code, kind));
        }
    }
}
