//! What can go wrong with a store's files, and the way out of it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hightower_log::{DecodeError, EncodeError};
use thiserror::Error;

use crate::manifest::Content;
use crate::mapping::FORKED;

/// Why the system refuses a map, and what helps.
pub const OUT_OF_MAPS: &str = "the process has used up its memory maps (vm.max_map_count) or its address space (ulimit -v): \
    compact the store, close another one, or raise the limit";

/// Why an operation on a store failed. Every message names the file and says what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The operating system refused an operation.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        operation: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The operating system refused to map a file for want of memory. Nothing was changed;
    /// compaction still works and makes maps free.
    #[error(
        "{}: cannot map it: {source}; {OUT_OF_MAPS}",
        path.display()
    )]
    OutOfMaps {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A record, a header or the manifest is not what was written there.
    #[error(
        "{}: damaged at offset {offset}: {reason}; open the store read-only to read what is whole, or restore this file from a backup",
        path.display()
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        reason: Damage,
    },
    /// The manifest names a segment whose file is not there.
    #[error(
        "{}: missing, though the manifest names it; put the file back, or open the store read-only with salvage to read the rest",
        path.display()
    )]
    MissingSegment {
        /// Where it should be.
        path: PathBuf,
    },
    /// There are segments, but no manifest that says which of them count.
    #[error(
        "{}: missing, though there are segment files beside it; put it back, or open the store read-only with salvage",
        path.display()
    )]
    MissingManifest {
        /// Where it should be.
        path: PathBuf,
    },
    /// There is no store in the directory, and the caller did not ask for a new one.
    #[error("{}: no store here", dir.display())]
    NoStore {
        /// The directory.
        dir: PathBuf,
    },
    /// A copy of a store was begun in the directory, by a restore, an import or a salvage, and has
    /// not come to its end.
    #[error(
        "{}: a copy of a store was begun here and is not complete; make it again, or remove the file UNFINISHED to open it as it is",
        dir.display()
    )]
    Unfinished {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory holds files of this format with another content: a write-ahead log where a
    /// key-value store was to be opened, or the reverse.
    #[error("{}: {}", dir.display(), match found {
        Content::KeyValue => "a key-value store, not a write-ahead log; open it as a store",
        Content::Wal => "a write-ahead log, not a key-value store; open it with Wal::open",
    })]
    OtherContent {
        /// The directory.
        dir: PathBuf,
        /// What is there.
        found: Content,
    },
    /// Written by a later format than this build reads.
    #[error("{}: {what} is newer than this build reads; use a newer build", path.display())]
    VersionUnsupported {
        /// The file.
        path: PathBuf,
        /// What is newer.
        what: String,
    },
    /// Another process, or another handle in this one, has the store open.
    #[error("{}: the store is open {}; close it there first", path.display(), if *by_this_process { "elsewhere in this process" } else { "in another process" })]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// Whether it is this process that has it open.
        by_this_process: bool,
    },
    /// The process that opened the store has forked, and this is the child. Nothing was changed;
    /// the store is the parent's.
    #[error("{}: {FORKED}; open the store in the process that uses it", dir.display())]
    Forked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// An earlier write or sync failed: what the file holds is not known, so nothing more is
    /// written.
    #[error("the store takes no writes since an earlier one failed ({cause}); reads go on; reopen it to recover")]
    Poisoned {
        /// The failure.
        cause: Arc<str>,
    },
    /// The device has no room. Nothing was written; reads, deletes and compaction still work.
    #[error("{}: no room for {needed_bytes} more bytes; free some, delete keys, or compact", path.display())]
    Full {
        /// What was to be made larger.
        path: PathBuf,
        /// How much was asked for.
        needed_bytes: u64,
    },
    /// A commit larger than the largest segment.
    #[error("a commit of {len_bytes} bytes is larger than a segment can be ({limit_bytes} bytes); split it")]
    TooLarge {
        /// The commit's length.
        len_bytes: u64,
        /// The most that a segment holds.
        limit_bytes: u64,
    },
    /// The active segment has no room for the commit:
    /// [`Appender::make_room`](crate::Appender::make_room) comes first.
    #[error("a commit of {len_bytes} bytes does not fit the {remaining_bytes} bytes left; call make_room first")]
    DoesNotFit {
        /// The commit's length.
        len_bytes: u64,
        /// What the active segment has left.
        remaining_bytes: u64,
    },
    /// No record was ever published at this offset.
    #[error("{}: no record at offset {offset}: the segment's records end at {end}", path.display())]
    OutOfBounds {
        /// The segment.
        path: PathBuf,
        /// The offset that was asked for.
        offset: u32,
        /// Where the published records end.
        end: u32,
    },
    /// A record that no segment can hold.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An option or argument outside its range.
    #[error("{what}")]
    Invalid {
        /// What is wrong, and which values are right.
        what: String,
    },
}

/// What is wrong at a damaged place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Damage {
    /// The bytes are not a record or header.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// A place that was known to be durable holds no valid commit any more.
    #[error("{source}, and a later record knew this place to be durable (up to offset {durable} of segment {witness})")]
    DurableLost {
        /// What stands there.
        source: DecodeError,
        /// How far it was durable.
        durable: u32,
        /// The segment that holds the record which knew.
        witness: u32,
    },
    /// A sealed segment ends before its records do.
    #[error("{expected} bytes expected, {found} found")]
    Short {
        /// The length the manifest gives.
        expected: u64,
        /// The file's length.
        found: u64,
    },
    /// A file that belongs in another place: its header does not say what the manifest says.
    #[error("the header has {field} {found:#x} where the manifest has {expected:#x}: a file of another place")]
    Misplaced {
        /// Which field differs.
        field: &'static str,
        /// What the manifest says.
        expected: u64,
        /// What the header says.
        found: u64,
    },
    /// The manifest's bytes make no sense.
    #[error("manifest: {0}")]
    Manifest(&'static str),
    /// A record that has no place in a segment of this kind.
    #[error("{0}")]
    Structure(&'static str),
}

impl SegmentError {
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let is_out_of_memory = rustix::io::Errno::from_io_error(&source) == Some(rustix::io::Errno::NOMEM);
        if operation == "map" && is_out_of_memory && !crate::mutants::planted("limit_of_maps_unnamed") {
            return Self::OutOfMaps { path: path.to_owned(), source };
        }
        Self::Io { operation, path: path.to_owned(), source }
    }

    /// Out of space as its own error; anything else as [`SegmentError::Io`].
    pub(crate) fn io_or_full(operation: &'static str, path: &Path, needed_bytes: u64, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::Full { path: path.to_owned(), needed_bytes };
        }
        Self::io(operation, path, source)
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, reason: impl Into<Damage>) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, reason: reason.into() }
    }

    /// A decode error as the damage it is, or as a newer format.
    pub(crate) fn decode(path: &Path, offset: u64, source: DecodeError) -> Self {
        match source {
            DecodeError::UnsupportedVersion { .. } | DecodeError::UnsupportedFeatures { .. } => {
                Self::VersionUnsupported { path: path.to_owned(), what: source.to_string() }
            }
            _ => Self::corrupt(path, offset, source),
        }
    }

    /// Whether the process or the system had too little of something, such as file descriptors or
    /// memory; see [`is_shortage`].
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Self::Io { source, .. } | Self::OutOfMaps { source, .. } if is_shortage(source))
            && !crate::mutants::planted("shortage_poisons")
    }

    /// Whether what was asked for has changed nothing: for a shortage, or since something that is
    /// not the store's has the name.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.is_shortage() || matches!(self, Self::Io { source, .. } if is_in_the_way(source))
    }

    /// Whether the system has refused to change a name, before it began: the file has lost its
    /// name, or nothing in the directory may be changed.
    pub(crate) fn is_refused_rename(&self) -> bool {
        use io::ErrorKind::{NotFound, PermissionDenied, ReadOnlyFilesystem};
        matches!(self, Self::Io { operation: "rename", source, .. }
            if matches!(source.kind(), NotFound | PermissionDenied | ReadOnlyFilesystem))
    }

    /// Whether this is [`SegmentError::OutOfMaps`].
    pub(crate) fn is_out_of_maps(&self) -> bool {
        matches!(self, Self::OutOfMaps { .. })
    }

    /// Whether this is [`SegmentError::Full`].
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// Whether the system says that the device or the quota is used up.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a name is that of something else than a file of the store's: a directory, say. Neither
/// was touched.
fn is_in_the_way(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty
    ) && !crate::mutants::planted("strangers_poison")
}

/// Whether the process or the system had too little of something to begin with what was asked: file
/// descriptors, memory, threads. The device was not asked, and the same call may succeed later. (Of
/// a sync that is not known.)
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| known.contains(&errno))
}
