//! The error of the engine and the layers above, with the caller's remedy.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hightower_segment::{OUT_OF_MAPS, SegmentError};
use hightower_table::{MAX_TABLE_SEGMENTS, TableError};
use thiserror::Error;

use crate::conflict::Conflict;
use crate::expect::Rejected;

/// The result of fallible calls of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a call of the store.
///
/// [`remedy`](Error::remedy) classifies the error by the caller's possible reaction. Match on the
/// variant for details. Messages are for people and may change.
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused an operation, and nothing has changed: a read or write outside
    /// the commit path, or the creation of a file for lack of file descriptors or memory. Retrying
    /// may help.
    #[error("{action}: {source}")]
    Io {
        /// The operation and its file.
        action: String,
        /// The operating system's error; shared, so that several callers can get one failure.
        source: Arc<io::Error>,
    },
    /// Bytes on disk are damaged. The store can be opened read-only, and salvaged.
    #[error("{} is damaged at offset {offset}: {detail}", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The offset in the file.
        offset: u64,
        /// The expected and found content, and the remedy.
        detail: String,
    },
    /// Another process, or another engine of this process, has the store open.
    #[error(
        "{} is in use by {}: close it there first, or read a backup of it",
        path.display(),
        if *by_this_process { "this process" } else { "another process" }
    )]
    Locked {
        /// The directory of the store.
        path: PathBuf,
        /// Whether this process has it open.
        by_this_process: bool,
    },
    /// This process is a forked child of the process that opened the store, and only the parent may
    /// use it. Nothing was changed.
    #[error("this process is a forked child of the process that opened the store: only the parent can use this handle")]
    Forked,
    /// An earlier write or sync failed, so no new write is accepted until the store is opened
    /// again. Reads still work.
    #[error("the store refuses writes after an earlier failure; open it again to continue: {reason}")]
    Poisoned {
        /// The first failure.
        reason: Arc<str>,
    },
    /// No room: the disk, the quota or the memory cap is exhausted. Reads, deletes and compaction
    /// still work.
    #[error("no room: {detail}")]
    Full {
        /// The kind of room, its amount, and how to get more.
        detail: String,
    },
    /// A key, value or batch is larger than the limit, or a submitted version is higher.
    #[error("{what} of {found} is over the limit of {limit}")]
    LimitExceeded {
        /// The measured quantity, with its unit.
        what: &'static str,
        /// The found amount.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// The request is invalid.
    #[error("{0}")]
    Validation(Cow<'static, str>),
    /// The store was opened for reading only.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// The files have a newer version or features that this build does not know.
    #[error("{}: {detail}", path.display())]
    VersionUnsupported {
        /// The file.
        path: PathBuf,
        /// The needed version or features.
        detail: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A change feed needs commits that the log no longer has, because compaction has removed
    /// their segments. Begin anew with a snapshot.
    #[error("the log has only the commits after seqno {oldest}: begin anew with a snapshot, and watch after its seqno")]
    HistoryLost {
        /// The lowest seqno from which a feed can begin.
        oldest: u64,
    },
    /// A change feed was to continue after a commit that the store does not have: a crash has taken
    /// it, or an older copy of the store is in its place. Undo what the feed has returned of it:
    /// begin anew with a snapshot.
    #[error(
        "the store has no such commit: what it has kept before it ends at seqno {last_kept}; begin anew with a snapshot"
    )]
    Diverged {
        /// The highest seqno before it from which a feed can begin.
        last_kept: u64,
    },
    /// The store has no keyspace of this name: create it.
    #[error("there is no keyspace {name}")]
    KeyspaceNotFound {
        /// The name.
        name: String,
    },
    /// The store has a keyspace of this name already.
    #[error("there is a keyspace {name} already")]
    KeyspaceExists {
        /// The name.
        name: String,
    },
    /// The keyspace was dropped or cleared after this handle was made. If there is one of this name
    /// again, open it anew.
    #[error("the keyspace {name} was dropped or cleared: open it anew")]
    KeyspaceDropped {
        /// The name that it had.
        name: String,
    },
    /// The commit would exceed a quota of a keyspace, and nothing was committed. Delete keys, or
    /// raise the quota with [`alter_keyspace`](crate::SingleNodeEngine::alter_keyspace).
    #[error(
        "the quota of the keyspace {name} allows {limit} {what}, and the commit would make it {next}: delete some or raise the quota"
    )]
    KeyspaceFull {
        /// The name of the keyspace.
        name: String,
        /// What the quota limits: `keys` or `bytes`.
        what: &'static str,
        /// The quota.
        limit: u64,
        /// What the keyspace would hold after the commit.
        next: u64,
    },
    /// A requirement of a batch did not hold, and nothing was committed. Read the key again and
    /// decide again.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Another commit has changed what a transaction had read, and nothing was committed. Run the
    /// transaction again, as [`SingleNodeEngine::update`](crate::SingleNodeEngine::update) does.
    #[error(transparent)]
    TransactionConflict(#[from] Conflict),
    /// The value of the key is no counter, so nothing can be added to it; nothing has changed. A
    /// counter is a decimal number as text, from -2^63 to 2^63 - 1.
    #[error("the value of the key {} is no counter: a decimal number as text, of 64 bits", key.escape_ascii())]
    NotACounter {
        /// The key.
        key: Vec<u8>,
    },
    /// The sum does not fit 64 bits; nothing has changed.
    #[error("the counter {} is {value}: adding {added} would exceed 64 bits", key.escape_ascii())]
    CounterOverflow {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: i64,
        /// What was to be added.
        added: i64,
    },
    /// A [`MergeOperator`](crate::MergeOperator) has refused to merge; nothing has changed.
    #[error("the merge operator {operator} has refused: {reason}")]
    MergeRefused {
        /// The name of the operator.
        operator: String,
        /// Its reason.
        reason: String,
    },
    /// A bug of the store, to be reported. The call changed nothing.
    #[error("internal error, please report it: {0}")]
    Internal(Cow<'static, str>),
    /// The requested item exists already or changed concurrently, for instance a name that must be
    /// unique.
    #[error("conflict: {0}")]
    Conflict(Cow<'static, str>),
    /// The named item does not exist.
    #[error("not found: {0}")]
    NotFound(Cow<'static, str>),
    /// A signature, checksum or ciphertext is invalid, or a key is missing. The message contains no
    /// secrets.
    #[error("crypto error: {0}")]
    Crypto(Cow<'static, str>),
    /// The caller aborted the operation.
    #[error("the caller aborted {0}")]
    Aborted(&'static str),
    /// The caller has no permission for this.
    #[error("permission denied: {0}")]
    Denied(Cow<'static, str>),
    /// The caller's code, such as a compaction policy or a merge operator, panicked. The store is
    /// unchanged.
    #[error("{what} panicked: {message}")]
    Panicked {
        /// The code that panicked.
        what: &'static str,
        /// The panic's message.
        message: String,
    },
}

/// The possible reaction to an [`Error`](enum@Error).
///
/// ```
/// use std::time::Duration;
/// use hightower_engine::{Error, Remedy, SingleNodeEngine};
///
/// # let dir = tempfile::tempdir().unwrap();
/// fn put_patiently(engine: &SingleNodeEngine) -> Result<(), Error> {
///     for _ in 0..3 {
///         match engine.put("key", "value") {
///             Err(error) if error.remedy() == Remedy::Retry => std::thread::sleep(Duration::from_millis(10)),
///             outcome => return outcome.map(drop),
///         }
///     }
///     engine.put("key", "value").map(drop)
/// }
/// # let engine = SingleNodeEngine::open(dir.path())?;
/// # put_patiently(&engine)?;
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Remedy {
    /// Try again later: nothing has changed, and the cause may be temporary. [`Error::Io`],
    /// [`Error::Locked`].
    Retry,
    /// Read again and decide again: another change came first. [`Error::Rejected`],
    /// [`Error::TransactionConflict`], [`Error::Conflict`]; for a change feed
    /// [`Error::HistoryLost`], [`Error::Diverged`].
    DecideAnew,
    /// Delete, compact, or raise the limit in the message. Reads, deletes and compaction still
    /// work. [`Error::Full`].
    MakeRoom,
    /// Open the store again, in this process and for writing: this handle can no longer serve the
    /// call. [`Error::Closed`], [`Error::Forked`], [`Error::ReadOnly`], [`Error::Poisoned`] (the
    /// open recovers durable writes).
    Reopen,
    /// Correct the argument or the setting in the message: the same call fails again.
    /// [`Error::Validation`], [`Error::LimitExceeded`], [`Error::NotFound`],
    /// [`Error::NotACounter`], [`Error::CounterOverflow`], [`Error::MergeRefused`].
    FixCall,
    /// Use other rights or other keys. [`Error::Denied`], [`Error::Crypto`].
    GainAccess,
    /// Restore a backup, or salvage intact records. The store can be opened for reading.
    /// [`Error::Corrupt`].
    Repair,
    /// Use a newer build of this program. [`Error::VersionUnsupported`].
    Upgrade,
    /// Check the caller's code: a callback or a component ended the call. [`Error::Aborted`],
    /// [`Error::Panicked`].
    FixCallback,
    /// Report a bug of the store. [`Error::Internal`].
    ReportBug,
}

impl Error {
    /// The caller's possible reaction.
    ///
    /// ```
    /// use hightower_engine::{Error, Remedy};
    ///
    /// assert_eq!(Error::ReadOnly.remedy(), Remedy::Reopen);
    /// ```
    #[must_use]
    pub fn remedy(&self) -> Remedy {
        match self {
            Self::Io { .. } | Self::Locked { .. } => Remedy::Retry,
            Self::Rejected(_)
            | Self::TransactionConflict(_)
            | Self::Conflict(_)
            | Self::HistoryLost { .. }
            | Self::KeyspaceDropped { .. }
            | Self::Diverged { .. } => Remedy::DecideAnew,
            Self::Full { .. } | Self::KeyspaceFull { .. } => Remedy::MakeRoom,
            Self::Closed | Self::Forked | Self::ReadOnly | Self::Poisoned { .. } => Remedy::Reopen,
            Self::Validation(_)
            | Self::LimitExceeded { .. }
            | Self::NotFound(_)
            | Self::NotACounter { .. }
            | Self::CounterOverflow { .. }
            | Self::MergeRefused { .. }
            | Self::KeyspaceNotFound { .. }
            | Self::KeyspaceExists { .. } => Remedy::FixCall,
            Self::Denied(_) | Self::Crypto(_) => Remedy::GainAccess,
            Self::Corrupt { .. } => Remedy::Repair,
            Self::VersionUnsupported { .. } => Remedy::Upgrade,
            Self::Aborted(_) | Self::Panicked { .. } => Remedy::FixCallback,
            Self::Internal(_) => Remedy::ReportBug,
        }
    }

    /// A stable code for logs, metrics and scripts: the variant's name in snake case.
    ///
    /// ```
    /// use hightower_engine::Error;
    ///
    /// assert_eq!(Error::ReadOnly.code(), "read_only");
    /// ```
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::Corrupt { .. } => "corrupt",
            Self::Locked { .. } => "locked",
            Self::Forked => "forked",
            Self::Poisoned { .. } => "poisoned",
            Self::Full { .. } => "full",
            Self::LimitExceeded { .. } => "limit_exceeded",
            Self::Validation(_) => "validation",
            Self::ReadOnly => "read_only",
            Self::VersionUnsupported { .. } => "version_unsupported",
            Self::Closed => "closed",
            Self::HistoryLost { .. } => "history_lost",
            Self::Diverged { .. } => "diverged",
            Self::KeyspaceNotFound { .. } => "keyspace_not_found",
            Self::KeyspaceExists { .. } => "keyspace_exists",
            Self::KeyspaceDropped { .. } => "keyspace_dropped",
            Self::KeyspaceFull { .. } => "keyspace_full",
            Self::Rejected(_) => "rejected",
            Self::NotACounter { .. } => "not_a_counter",
            Self::CounterOverflow { .. } => "counter_overflow",
            Self::MergeRefused { .. } => "merge_refused",
            Self::TransactionConflict(_) => "transaction_conflict",
            Self::Internal(_) => "internal",
            Self::Conflict(_) => "conflict",
            Self::NotFound(_) => "not_found",
            Self::Crypto(_) => "crypto",
            Self::Aborted(_) => "aborted",
            Self::Denied(_) => "denied",
            Self::Panicked { .. } => "panicked",
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
                missing(path, "the manifest names this segment, but its file is missing")
            }
            SegmentError::MissingManifest { path } => missing(path, "segments exist, but the manifest is missing"),
            SegmentError::Unfinished { .. } => Self::NotFound(error.to_string().into()),
            SegmentError::NoStore { dir } => Self::NotFound(format!("{} holds no store", dir.display()).into()),
            SegmentError::VersionUnsupported { path, what } => Self::VersionUnsupported {
                path,
                detail: format!("{what} is newer than this build can read; use a newer build"),
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

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Io { operation, path, source } => {
                Self::Io { action: format!("cannot {operation} {}", path.display()), source: source.into() }
            }
            TableError::Full { .. } => Self::Full { detail: error.to_string() },
            TableError::Corrupt { path, offset, what } => Self::Corrupt { path, offset, detail: what.to_owned() },
            TableError::VersionUnsupported { path, what } => Self::VersionUnsupported {
                path,
                detail: format!("{what} is newer than this build reads; use a newer build"),
            },
            TableError::TooManySegments { segments } => Self::LimitExceeded {
                what: "number of segments in a table",
                found: segments as u64,
                limit: MAX_TABLE_SEGMENTS as u64,
            },
            TableError::Exists { .. } => Self::Conflict(error.to_string().into()),
            TableError::Canceled => Self::Aborted("writing a table"),
            other => Self::Internal(other.to_string().into()),
        }
    }
}

fn missing(path: PathBuf, what: &str) -> Error {
    Error::Corrupt { path, offset: 0, detail: format!("{what}; put it back, restore the store, or salvage the rest") }
}
