//! Errors of a store's files.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hightower_log::{DecodeError, EncodeError};
use thiserror::Error;

use crate::manifest::Content;
use crate::mapping::FORKED;

/// The cause of a refused map, and the remedy.
pub const OUT_OF_MAPS: &str = "the process has used up its memory maps (vm.max_map_count) or its address space (ulimit -v): \
    compact the store, close another one, or raise the limit";

/// The error of an operation on a store. Every message names the file and the remedy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// The operating system refused an operation.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The operating system refused to map a file for lack of memory or maps. Nothing was changed;
    /// compaction still works and frees maps.
    #[error(
        "{}: cannot map it: {source}; {OUT_OF_MAPS}",
        path.display()
    )]
    OutOfMaps {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A record, a header or the manifest is damaged.
    #[error(
        "{}: damaged at offset {offset}: {reason}; open the store read-only to read the intact records, or restore this file from a backup",
        path.display()
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// The offset in the file.
        offset: u64,
        /// The kind of damage.
        reason: Damage,
    },
    /// The manifest names a segment whose file is missing.
    #[error(
        "{}: missing, though the manifest names it; put the file back, or open the store read-only with salvage to read the rest",
        path.display()
    )]
    MissingSegment {
        /// The expected path.
        path: PathBuf,
    },
    /// Segments exist, but no manifest that names them.
    #[error(
        "{}: missing, though there are segment files beside it; put it back, or open the store read-only with salvage",
        path.display()
    )]
    MissingManifest {
        /// The expected path.
        path: PathBuf,
    },
    /// The directory has no store, and the options do not allow a new one.
    #[error("{}: no store here", dir.display())]
    NoStore {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory has an incomplete copy of a store, from a restore, an import or a salvage.
    #[error(
        "{}: a copy of a store was begun here and is not complete; make it again, or remove the file UNFINISHED to open it as it is",
        dir.display()
    )]
    Unfinished {
        /// The directory.
        dir: PathBuf,
    },
    /// The directory has files of this format with another content: a write-ahead log instead of a
    /// key-value store, or the reverse.
    #[error("{}: {}", dir.display(), match found {
        Content::KeyValue => "a key-value store, not a write-ahead log; open it as a store",
        Content::Wal => "a write-ahead log, not a key-value store; open it with Wal::open",
    })]
    OtherContent {
        /// The directory.
        dir: PathBuf,
        /// The found content.
        found: Content,
    },
    /// The file has a newer format than this build reads.
    #[error("{}: {what} is newer than this build reads; use a newer build", path.display())]
    VersionUnsupported {
        /// The file.
        path: PathBuf,
        /// The newer part.
        what: String,
    },
    /// Another process, or another handle in this one, has the store open.
    #[error("{}: the store is open {}; close it there first", path.display(), if *by_this_process { "elsewhere in this process" } else { "in another process" })]
    Locked {
        /// The store's directory.
        path: PathBuf,
        /// Whether this process has it open.
        by_this_process: bool,
    },
    /// This process is a forked child of the process that opened the store. Nothing was changed;
    /// the store belongs to the parent.
    #[error("{}: {FORKED}; open the store in the process that uses it", dir.display())]
    Forked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// An earlier write or sync failed. The content of the file is unknown, so the store accepts no
    /// more writes.
    #[error(
        "the store accepts no writes since an earlier one failed ({cause}); reads still work; reopen it to recover"
    )]
    Poisoned {
        /// The failure.
        cause: Arc<str>,
    },
    /// The device has no room. Nothing was written; reads, deletes and compaction still work.
    #[error("{}: no room for {needed_bytes} more bytes; free some, delete keys, or compact", path.display())]
    Full {
        /// The file that needed room.
        path: PathBuf,
        /// The requested number of bytes.
        needed_bytes: u64,
    },
    /// A commit larger than the largest segment.
    #[error("a commit of {len_bytes} bytes is larger than a segment can be ({limit_bytes} bytes); split it")]
    TooLarge {
        /// The commit's length.
        len_bytes: u64,
        /// The maximum length in a segment.
        limit_bytes: u64,
    },
    /// The active segment has no room for the commit:
    /// [`Appender::make_room`](crate::Appender::make_room) comes first.
    #[error("a commit of {len_bytes} bytes does not fit the {remaining_bytes} bytes left; call make_room first")]
    DoesNotFit {
        /// The commit's length.
        len_bytes: u64,
        /// The remaining room of the active segment.
        remaining_bytes: u64,
    },
    /// No record was ever published at this offset.
    #[error("{}: no record at offset {offset}: the segment's records end at {end}", path.display())]
    OutOfBounds {
        /// The segment.
        path: PathBuf,
        /// The requested offset.
        offset: u32,
        /// The end of the published records.
        end: u32,
    },
    /// A record that no segment can hold.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// An option or argument outside its range.
    #[error("{what}")]
    Invalid {
        /// The invalid value, and the valid ones.
        what: String,
    },
}

/// The kind of damage at a place.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Damage {
    /// The bytes are not a record or header.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// A place that was known to be durable has no valid commit any more.
    #[error("{source}, and a later record knew this place to be durable (up to offset {durable} of segment {witness})")]
    DurableLost {
        /// The error of the bytes at the place.
        source: DecodeError,
        /// The durable offset.
        durable: u32,
        /// The segment of the record with this durable offset.
        witness: u32,
    },
    /// A part of the log that tables cover, and that was durable when they were named, has no valid
    /// commit any more.
    #[error("{source}, and tables cover the log up to offset {offset} of segment {segment}")]
    CoveredLost {
        /// The error of the bytes at the place.
        source: DecodeError,
        /// The segment of the covered position.
        segment: u32,
        /// The offset of the covered position in it.
        offset: u32,
    },
    /// A sealed segment ends before its records do.
    #[error("{expected} bytes expected, {found} found")]
    Short {
        /// The length in the manifest.
        expected: u64,
        /// The file's length.
        found: u64,
    },
    /// A misplaced file: header and manifest differ.
    #[error("the header has {field} {found:#x} where the manifest has {expected:#x}: a file of another place")]
    Misplaced {
        /// The differing field.
        field: &'static str,
        /// The value in the manifest.
        expected: u64,
        /// The value in the header.
        found: u64,
    },
    /// The manifest's bytes are invalid.
    #[error("manifest: {0}")]
    Manifest(&'static str),
    /// A record that is not allowed in a segment of this kind.
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

    /// [`SegmentError::Full`] for lack of space; otherwise [`SegmentError::Io`].
    pub(crate) fn io_or_full(operation: &'static str, path: &Path, needed_bytes: u64, source: io::Error) -> Self {
        if is_full(&source) {
            return Self::Full { path: path.to_owned(), needed_bytes };
        }
        Self::io(operation, path, source)
    }

    pub(crate) fn corrupt(path: &Path, offset: u64, reason: impl Into<Damage>) -> Self {
        Self::Corrupt { path: path.to_owned(), offset, reason: reason.into() }
    }

    /// A decode error as damage, or as a newer format.
    pub(crate) fn decode(path: &Path, offset: u64, source: DecodeError) -> Self {
        match source {
            DecodeError::UnsupportedVersion { .. } | DecodeError::UnsupportedFeatures { .. } => {
                Self::VersionUnsupported { path: path.to_owned(), what: source.to_string() }
            }
            _ => Self::corrupt(path, offset, source),
        }
    }

    /// Whether the process or the system lacked a resource, such as file descriptors or memory; see
    /// [`is_shortage`].
    pub(crate) fn is_shortage(&self) -> bool {
        matches!(self, Self::Io { source, .. } | Self::OutOfMaps { source, .. } if is_shortage(source))
            && !crate::mutants::planted("shortage_poisons")
    }

    /// Whether the operation changed nothing, because of a shortage or because a foreign file has
    /// the name.
    pub(crate) fn changes_nothing(&self) -> bool {
        self.is_shortage() || matches!(self, Self::Io { source, .. } if is_in_the_way(source))
    }

    /// Whether the system refused to change a name before it began: the file has no such name any
    /// more, or the directory is read-only.
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

/// Whether a call has failed for lack of room: the device or a quota is full, or the file would be
/// longer than the process or the file system allows, so that a shorter file may have room.
///
/// ```
/// assert!(hightower_segment::is_full(&std::io::ErrorKind::StorageFull.into()));
/// assert!(!hightower_segment::is_full(&std::io::ErrorKind::NotFound.into()));
/// ```
#[must_use]
pub fn is_full(error: &io::Error) -> bool {
    let kind = error.kind();
    let is_over_quota = kind == io::ErrorKind::QuotaExceeded && !crate::mutants::planted("quota_is_an_io_error");
    let is_too_long = kind == io::ErrorKind::FileTooLarge && !crate::mutants::planted("length_limit_is_an_io_error");
    kind == io::ErrorKind::StorageFull || is_over_quota || is_too_long
}

/// Whether a name belongs to something else than a file of the store, for instance a directory.
/// Nothing was changed.
fn is_in_the_way(error: &io::Error) -> bool {
    use io::ErrorKind;
    matches!(
        error.kind(),
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::AlreadyExists | ErrorKind::DirectoryNotEmpty
    ) && !crate::mutants::planted("strangers_poison")
}

/// Whether the process or the system lacked a resource for the call: file descriptors, memory,
/// threads. The device was not involved, and the same call may succeed later. (For a sync this is
/// unknown.)
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let known = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::AGAIN, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| known.contains(&errno))
}
