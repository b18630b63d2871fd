//! The errors of a table, each with the action to take.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// The error of an operation on a table. Each message names the file or the invalid key, and the
/// action to take.
///
/// ```
/// use std::path::Path;
/// use hightower_segment::{Fs, RealFs};
/// use hightower_table::{TableError, TableReader};
///
/// let dir = RealFs.open_dir(&std::env::temp_dir())?;
/// let missing = TableReader::open(dir.as_ref(), "no-such-table.tbl");
/// assert!(matches!(missing, Err(TableError::Io { operation: "map", .. })));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TableError {
    /// The operating system refused an operation.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Io {
        /// The attempted operation, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The device has no room. The unfinished table was removed.
    #[error("{}: cannot {operation}: no room on the device; free some and write the table again", path.display())]
    Full {
        /// The attempted operation, as a verb.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The bytes differ from those that the writer wrote. No result is based on them.
    #[error("{}: damaged at offset {offset}: {what}; rebuild the table from the log, or restore it", path.display())]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The offset of the damage, in bytes.
        offset: u64,
        /// The damage.
        what: &'static str,
    },
    /// The table has a later format, or a feature that this build does not know.
    #[error("{}: {what} is newer than this build reads; use a newer build", path.display())]
    VersionUnsupported {
        /// The file.
        path: PathBuf,
        /// The newer part.
        what: String,
    },
    /// A table with this name exists, finished or not. Nothing was changed.
    #[error("{}: a table with this name exists; give each table its own name", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A key is not above the one before it. The unfinished table was removed.
    #[error("key {position} of the table is {}; give each key once, in ascending order", if *is_duplicate { "the key before it again" } else { "below the key before it" })]
    OutOfOrder {
        /// The number of the key, counted from 0.
        position: u64,
        /// Whether it equals the key before it.
        is_duplicate: bool,
    },
    /// A key is longer than [`MAX_KEY_LEN_BYTES`](crate::MAX_KEY_LEN_BYTES).
    #[error("a key of {len_bytes} bytes is longer than the longest, 65,535 bytes")]
    KeyTooLong {
        /// Its length.
        len_bytes: usize,
    },
    /// Entries point into more segments than a table can name,
    /// [`MAX_TABLE_SEGMENTS`](crate::MAX_TABLE_SEGMENTS). The unfinished table was removed.
    #[error("the entries point into {segments} segments, more than a table can name; compact them first")]
    TooManySegments {
        /// The number of segments.
        segments: usize,
    },
    /// The table is longer than [`MAX_TABLE_LEN_BYTES`](crate::MAX_TABLE_LEN_BYTES). The unfinished
    /// table was removed.
    #[error("{}: it would be longer than {max_len_bytes} bytes; make several tables of its keys", path.display())]
    TooLong {
        /// The table that was written.
        path: PathBuf,
        /// The limit.
        max_len_bytes: u64,
    },
    /// An earlier call to this writer failed. The unfinished table was removed; begin a new one.
    #[error("{}: an earlier call failed and removed the unfinished table; begin a new one", path.display())]
    Abandoned {
        /// The table that was written.
        path: PathBuf,
    },
    /// The caller's progress callback stopped the call. The unfinished table was removed.
    #[error("stopped by the caller")]
    Canceled,
}

impl From<Infallible> for TableError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl TableError {
    /// Whether the device had no room.
    ///
    /// ```
    /// assert!(!hightower_table::TableError::Canceled.is_full());
    /// ```
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether the table is damaged, so that it must be rebuilt.
    ///
    /// ```
    /// assert!(!hightower_table::TableError::Canceled.is_corrupt());
    /// ```
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        if hightower_segment::is_full(&source) {
            return Self::Full { operation, path, source };
        }
        Self::Io { operation, path, source }
    }

    pub(crate) fn corrupt(path: &Path, damage: Damaged) -> Self {
        Self::Corrupt { path: path.to_owned(), offset: damage.offset, what: damage.what }
    }
}

/// Damage as reported by the decoders, without the name of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damaged {
    pub(crate) offset: u64,
    pub(crate) what: &'static str,
}

pub(crate) const fn damaged(offset: u64, what: &'static str) -> Damaged {
    Damaged { offset, what }
}
