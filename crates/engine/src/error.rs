//! One error for everything above the log, sorted by what a caller can do about it.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hightower_segment::{OUT_OF_MAPS, SegmentError};
use thiserror::Error;

use crate::expect::Rejected;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the store did not do what it was asked to.
///
/// What a caller can do about it:
///
/// | variants | what to do |
/// | --- | --- |
/// | `Io`, `Conflict` | try again, perhaps later |
/// | `Rejected` | read the key again and decide anew |
/// | `Full` | delete, compact, or raise the limit that the text names; reads and deletes go on |
/// | `Locked`, `Forked`, `Closed`, `ReadOnly` | use the store where it is open, or open it so |
/// | `Poisoned` | close the store and open it again: what was promised is recovered |
/// | `LimitExceeded`, `Validation` | mend the call or the setting that the text names |
/// | `Corrupt`, `VersionUnsupported` | open read-only, restore a backup, salvage; or use a later version |
/// | `NotFound`, `Denied`, `Crypto` | ask for something else, or with other rights or keys |
/// | `Aborted`, `Panicked` | look at the callback or the component that did it |
/// | `Internal` | report it: the store has broken a rule of its own |
///
/// Match on the variant, or compare the [`kind`](Error::kind), which has the same names without
/// details. Messages are for people and may change.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something, and nothing has changed: a read or write outside the
    /// commit path, or the making of a file for want of file descriptors or memory. Retrying
    /// may help.
    #[error("{action}: {source}")]
    Io {
        /// What was being done, and to which file.
        action: String,
        /// What the operating system said; shared, so that one failure can be told to several
        /// callers.
        source: Arc<io::Error>,
    },
    /// Bytes on disk are not what was written. The store can be opened read-only, and salvaged.
    #[error("{} is damaged at offset {offset}: {detail}", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file.
        offset: u64,
        /// What was expected and found, and the way out.
        detail: String,
    },
    /// Another process, or another engine of this process, has the store open.
    #[error(
        "{} is in use by {}: close it there first, or read a backup that it makes",
        path.display(),
        if *by_this_process { "this process" } else { "another process" }
    )]
    Locked {
        /// The directory of the store.
        path: PathBuf,
        /// Whether it is this process that has it open.
        by_this_process: bool,
    },
    /// The store was opened by the process that this one was forked from, and only that one may use
    /// it. Nothing was changed.
    #[error(
        "the store belongs to the process that opened it, and this one was forked since: open it in the process that uses it"
    )]
    Forked,
    /// An earlier write or sync failed, so nothing can be promised for new writes until the store
    /// is opened again. Reads go on.
    #[error("the store refuses writes since an earlier failure; open it again to go on: {reason}")]
    Poisoned {
        /// The failure that came first.
        reason: Arc<str>,
    },
    /// No room: the disk, the quota or the memory cap is used up. Reads, deletes and compaction
    /// still work.
    #[error("no room: {detail}")]
    Full {
        /// Which room, how much of it there is, and how to get more.
        detail: String,
    },
    /// A key, value or batch is larger than the limit, or a submitted version is higher.
    #[error("{what} of {found} is over the limit of {limit}")]
    LimitExceeded {
        /// What was measured, with its unit.
        what: &'static str,
        /// How much it was.
        found: u64,
        /// How much it may be.
        limit: u64,
    },
    /// The request makes no sense as it is.
    #[error("{0}")]
    Validation(Cow<'static, str>),
    /// The store was opened for reading only.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// The files were written by a later version, or use features that this build does not know.
    #[error("{}: {detail}", path.display())]
    VersionUnsupported {
        /// The file that could not be read.
        path: PathBuf,
        /// What it needs.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A requirement of a batch did not hold, and nothing was committed. Read the key again and
    /// decide anew.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The store has broken a rule of its own: a bug, to be reported. Nothing was changed by the
    /// call.
    #[error("internal error, please report it: {0}")]
    Internal(Cow<'static, str>),
    /// Something else has what was asked for, such as a name that must be unique.
    #[error("conflict: {0}")]
    Conflict(Cow<'static, str>),
    /// There is nothing by that name.
    #[error("not found: {0}")]
    NotFound(Cow<'static, str>),
    /// A signature, checksum or ciphertext did not verify, or a key is missing. Says nothing about
    /// secrets.
    #[error("crypto: {0}")]
    Crypto(Cow<'static, str>),
    /// The caller ended the operation before it was done.
    #[error("ended before it was done: {0}")]
    Aborted(&'static str),
    /// Whoever asked may not do this.
    #[error("permission denied: {0}")]
    Denied(Cow<'static, str>),
    /// Code that the caller brought, such as a compaction policy, panicked. The store is as it was
    /// before.
    #[error("{what} panicked: {message}")]
    Panicked {
        /// Which code.
        what: &'static str,
        /// The panic's message.
        message: String,
    },
}

/// The class of an [`Error`](enum@Error): what a program decides by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// [`Error::Io`]
    Io,
    /// [`Error::Corrupt`]
    Corrupt,
    /// [`Error::Locked`]
    Locked,
    /// [`Error::Forked`]
    Forked,
    /// [`Error::Poisoned`]
    Poisoned,
    /// [`Error::Full`]
    Full,
    /// [`Error::LimitExceeded`]
    LimitExceeded,
    /// [`Error::Validation`]
    Validation,
    /// [`Error::ReadOnly`]
    ReadOnly,
    /// [`Error::VersionUnsupported`]
    VersionUnsupported,
    /// [`Error::Closed`]
    Closed,
    /// [`Error::Rejected`]
    Rejected,
    /// [`Error::Internal`]
    Internal,
    /// [`Error::Conflict`]
    Conflict,
    /// [`Error::NotFound`]
    NotFound,
    /// [`Error::Crypto`]
    Crypto,
    /// [`Error::Aborted`]
    Aborted,
    /// [`Error::Denied`]
    Denied,
    /// [`Error::Panicked`]
    Panicked,
}

impl Error {
    /// The class of this error.
    ///
    /// ```
    /// use hightower_engine::{Error, ErrorKind};
    ///
    /// assert_eq!(Error::ReadOnly.kind(), ErrorKind::ReadOnly);
    /// ```
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } => ErrorKind::Io,
            Self::Corrupt { .. } => ErrorKind::Corrupt,
            Self::Locked { .. } => ErrorKind::Locked,
            Self::Forked => ErrorKind::Forked,
            Self::Poisoned { .. } => ErrorKind::Poisoned,
            Self::Full { .. } => ErrorKind::Full,
            Self::LimitExceeded { .. } => ErrorKind::LimitExceeded,
            Self::Validation(_) => ErrorKind::Validation,
            Self::ReadOnly => ErrorKind::ReadOnly,
            Self::VersionUnsupported { .. } => ErrorKind::VersionUnsupported,
            Self::Closed => ErrorKind::Closed,
            Self::Rejected(_) => ErrorKind::Rejected,
            Self::Internal(_) => ErrorKind::Internal,
            Self::Conflict(_) => ErrorKind::Conflict,
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Crypto(_) => ErrorKind::Crypto,
            Self::Aborted(_) => ErrorKind::Aborted,
            Self::Denied(_) => ErrorKind::Denied,
            Self::Panicked { .. } => ErrorKind::Panicked,
        }
    }
}

impl From<SegmentError> for Error {
    fn from(error: SegmentError) -> Self {
        match error {
            SegmentError::Io { operation, path, source } => {
                Self::Io { action: format!("cannot {operation} {}", path.display()), source: source.into() }
            }
            SegmentError::OutOfMaps { path, source } => {
                Self::Io { action: format!("cannot map {}: {OUT_OF_MAPS}", path.display()), source: source.into() }
            }
            SegmentError::Corrupt { path, offset, reason } => Self::Corrupt {
                path,
                offset,
                detail: format!(
                    "{reason}; open the store read-only to read the intact records, restore it, or salvage it"
                ),
            },
            SegmentError::MissingSegment { path } => {
                missing(path, "the manifest names this segment, but its file is not there")
            }
            SegmentError::MissingManifest { path } => {
                missing(path, "there are segments, but no manifest that names them")
            }
            SegmentError::Unfinished { .. } => Self::NotFound(error.to_string().into()),
            SegmentError::NoStore { dir } => Self::NotFound(format!("{} holds no store", dir.display()).into()),
            SegmentError::VersionUnsupported { path, what } => Self::VersionUnsupported {
                path,
                detail: format!("{what} is newer than this build reads; use a newer build"),
            },
            SegmentError::Locked { path, by_this_process } => Self::Locked { path, by_this_process },
            SegmentError::Forked { .. } => Self::Forked,
            SegmentError::Poisoned { cause } => Self::Poisoned { reason: cause },
            SegmentError::Full { .. } => Self::Full { detail: error.to_string() },
            SegmentError::TooLarge { len_bytes, limit_bytes } => {
                Self::LimitExceeded { what: "commit (bytes)", found: len_bytes, limit: limit_bytes }
            }
            other => Self::Validation(other.to_string().into()),
        }
    }
}

fn missing(path: PathBuf, what: &str) -> Error {
    Error::Corrupt { path, offset: 0, detail: format!("{what}; put it back, restore the store, or salvage the rest") }
}
