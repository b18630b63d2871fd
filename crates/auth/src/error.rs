//! The errors of the service, grouped by the caller's possible reaction.

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call of the authentication service failed.
///
/// A wrong password, an unknown user and a revoked key are answers (`false`, `None`), not errors.
/// No message holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is invalid; the message names the rule.
    #[error("validation failed: {0}")]
    Validation(&'static str),
    /// The item exists already, or concurrent changes of the same records kept winning.
    #[error("conflict: {0}")]
    Conflict(&'static str),
    /// The user, key, session or role does not exist.
    #[error("not found: {0}")]
    NotFound(&'static str),
    /// A limit is reached: delete items or raise the limit.
    #[error("limit exceeded: {0}")]
    LimitExceeded(&'static str),
    /// The principal may not do this.
    #[error("permission denied: {0}")]
    Denied(&'static str),
    /// The session needs another factor first, or a fresh use of the same one.
    #[error("the session must be authenticated again for this")]
    StepUpRequired,
    /// A stored record was not written by the service, or its key is missing or wrong.
    #[error("crypto error: {0}")]
    Crypto(&'static str),
    /// A record was written by a newer version of this crate; update the program.
    #[error("{what} has format version {found}, this build knows up to {known}: update the program")]
    VersionUnsupported {
        /// The kind of the record.
        what: &'static str,
        /// The version found.
        found: u8,
        /// The newest version that this build reads.
        known: u8,
    },
    /// The random generator failed. Nothing was changed.
    #[error("the random generator failed")]
    Randomness(#[source] std::io::Error),
    /// A file of master keys or peppers could not be read or written.
    #[error("the file of secrets {path}: {source}")]
    KeyFile {
        /// The file.
        path: std::path::PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The output could not be written.
    #[error("writing the output failed")]
    Output(#[source] std::io::Error),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] hightower_engine::Error),
}

/// The kind of an [`Error`], to branch on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// See [`Error::Validation`].
    Validation,
    /// See [`Error::Conflict`].
    Conflict,
    /// See [`Error::NotFound`].
    NotFound,
    /// See [`Error::LimitExceeded`].
    LimitExceeded,
    /// See [`Error::Denied`].
    Denied,
    /// See [`Error::StepUpRequired`].
    StepUpRequired,
    /// See [`Error::Crypto`].
    Crypto,
    /// See [`Error::VersionUnsupported`].
    VersionUnsupported,
    /// See [`Error::Randomness`], [`Error::KeyFile`] and [`Error::Output`].
    Io,
    /// See [`Error::Engine`]; the engine's error has its own kind.
    Engine,
}

impl Error {
    /// The kind of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Validation(_) => ErrorKind::Validation,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::LimitExceeded(_) => ErrorKind::LimitExceeded,
            Self::Denied(_) => ErrorKind::Denied,
            Self::StepUpRequired => ErrorKind::StepUpRequired,
            Self::Crypto(_) => ErrorKind::Crypto,
            Self::VersionUnsupported { .. } => ErrorKind::VersionUnsupported,
            Self::Randomness(_) | Self::KeyFile { .. } | Self::Output(_) => ErrorKind::Io,
            Self::Engine(_) => ErrorKind::Engine,
        }
    }
}

impl From<Error> for hightower_engine::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Engine(error) => error,
            Error::Validation(text) => Self::Validation(text.into()),
            Error::Conflict(text) => Self::Conflict(text.into()),
            Error::NotFound(text) => Self::NotFound(text.into()),
            Error::LimitExceeded(text) => Self::Validation(text.into()),
            Error::Denied(text) => Self::Denied(text.into()),
            Error::StepUpRequired => Self::Denied(error.to_string().into()),
            Error::Crypto(text) => Self::Crypto(text.into()),
            Error::VersionUnsupported { .. } | Error::Randomness(_) => Self::Crypto(error.to_string().into()),
            Error::Output(source) => Self::Io { action: "writing the output".into(), source: source.into() },
            Error::KeyFile { path, source } => {
                Self::Io { action: format!("using the file of secrets {}", path.display()), source: source.into() }
            }
        }
    }
}
