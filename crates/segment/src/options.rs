//! Options of an open.

use std::sync::Arc;

use hightower_log::limits::MAX_SEGMENT_LEN_BYTES;
use hightower_seams::{Entropy, OsEntropy};

use crate::error::SegmentError;

/// Minimum length of a segment: a header, a seal, and some room in between.
pub const MIN_SEGMENT_LEN_BYTES: u32 = 512;

/// The method of appends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendMode {
    /// Mapped if the file system keeps preallocated room, otherwise positioned.
    #[default]
    Auto,
    /// By a writable map. On a file system that does not keep preallocated room, a full disk kills
    /// the process.
    Mapped,
    /// By positioned writes.
    Positioned,
}

/// Options of an open for writing. Start from the default and change fields.
///
/// ```
/// use hightower_segment::StoreOptions;
///
/// let options = StoreOptions { segment_len_bytes: 16 << 20, ..StoreOptions::default() };
/// assert!(options.create_if_missing);
/// ```
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Length of a new segment, in bytes: 512 to 4,294,967,295. A longer commit gets a segment of
    /// its length. The default is 64 MiB. On a small device segments are shorter: at most a 64th of
    /// it and an 8th of the free room, but at least 16 KiB.
    pub segment_len_bytes: u32,
    /// The method of appends. The default is [`AppendMode::Auto`].
    pub appends: AppendMode,
    /// For mapped appends: the average record length of a commit, in bytes, from which it is
    /// written by a system call if its pages were not [touched
    /// ahead](crate::SegmentStore::prefault_ahead). The default is 32 KiB.
    pub long_record_bytes: u32,
    /// Whether a missing store is created. The default is true.
    pub create_if_missing: bool,
    /// Whether a directory with an incomplete copy of a store may be opened; only the process that
    /// creates the copy sets this. The default is false.
    pub allow_unfinished: bool,
    /// The source of salts and of the store's id.
    pub entropy: Arc<dyn Entropy>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            segment_len_bytes: 64 << 20,
            appends: AppendMode::Auto,
            long_record_bytes: 32 << 10,
            create_if_missing: true,
            allow_unfinished: false,
            entropy: Arc::new(OsEntropy),
        }
    }
}

impl StoreOptions {
    pub(crate) fn check(&self) -> Result<(), SegmentError> {
        if self.segment_len_bytes < MIN_SEGMENT_LEN_BYTES {
            let what = format!(
                "segment_len_bytes is {}: {MIN_SEGMENT_LEN_BYTES} to {MAX_SEGMENT_LEN_BYTES} expected",
                self.segment_len_bytes
            );
            return Err(SegmentError::Invalid { what });
        }
        Ok(())
    }
}

/// The highest version and the time of a call. They are the base version and base timestamp of a
/// new segment, so that its records are short; a seal records them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The highest version seen by the store.
    pub max_version: u64,
    /// Unix time in milliseconds.
    pub timestamp: i64,
}

/// The purpose of requested space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// New data. It gets a file only while the reserves exist.
    Grow,
    /// Deletes and compaction, which free space in the end. They may use the reserves.
    Reclaim,
}
