//! The errors of the service, grouped by the caller's possible reaction.

use hightower_engine::Remedy;

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

const RANDOMNESS: &str = "the random generator failed";
const OUTPUT: &str = "the output could not be written";

/// Why a call of the authentication service failed.
///
/// A wrong password, an unknown user and a revoked key are answers (`false`, `None`), not errors.
/// No message holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument is invalid; the message names the rule.
    #[error("{0}")]
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
    #[error("{RANDOMNESS}: {0}")]
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
    #[error("{OUTPUT}: {0}")]
    Output(#[source] std::io::Error),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] hightower_engine::Error),
}

impl Error {
    /// What the caller can do about it.
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Validation(_) | Self::NotFound(_) => Remedy::FixCall,
            Self::Conflict(_) => Remedy::DecideAnew,
            Self::LimitExceeded(_) => Remedy::MakeRoom,
            Self::Denied(_) | Self::StepUpRequired | Self::Crypto(_) => Remedy::GainAccess,
            Self::VersionUnsupported { .. } => Remedy::Upgrade,
            Self::Randomness(_) | Self::KeyFile { .. } | Self::Output(_) => Remedy::Retry,
            Self::Engine(error) => error.remedy(),
        }
    }

    /// The error in one word that stays the same, for logs and scripts. An error of the engine has
    /// the engine's [`code`](hightower_engine::Error::code).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Validation(_) => "validation",
            Self::Conflict(_) => "conflict",
            Self::NotFound(_) => "not_found",
            Self::LimitExceeded(_) => "limit_exceeded",
            Self::Denied(_) => "denied",
            Self::StepUpRequired => "step_up_required",
            Self::Crypto(_) => "crypto",
            Self::VersionUnsupported { .. } => "version_unsupported",
            Self::Randomness(_) | Self::KeyFile { .. } | Self::Output(_) => "io",
            Self::Engine(error) => error.code(),
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
            Error::LimitExceeded(_) => Self::Validation(error.to_string().into()),
            Error::Denied(text) => Self::Denied(text.into()),
            Error::StepUpRequired => Self::Denied(error.to_string().into()),
            Error::Crypto(text) => Self::Crypto(text.into()),
            Error::VersionUnsupported { .. } => Self::Crypto(error.to_string().into()),
            Error::Randomness(source) => Self::Io { action: RANDOMNESS.into(), source: source.into() },
            Error::Output(source) => Self::Io { action: OUTPUT.into(), source: source.into() },
            Error::KeyFile { path, source } => {
                Self::Io { action: format!("the file of secrets {}", path.display()), source: source.into() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A view of an engine returns the engine's errors, so both must have the same text.
    #[test]
    fn an_error_has_one_wording_here_and_in_the_engine() {
        let io = || std::io::Error::other("the cause");
        let errors: [fn(std::io::Error) -> Error; 9] = [
            |_| Error::Validation("a rule"),
            |_| Error::Conflict("a rule"),
            |_| Error::NotFound("a user"),
            |_| Error::LimitExceeded("a rule"),
            |_| Error::Denied("a right"),
            |_| Error::Crypto("a record"),
            Error::Randomness,
            Error::Output,
            |source| Error::KeyFile { path: "/keys".into(), source },
        ];
        for error in errors {
            assert_eq!(error(io()).to_string(), hightower_engine::Error::from(error(io())).to_string());
        }
    }
}
