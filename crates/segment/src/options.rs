//! How a store is opened.

use std::sync::Arc;

use hightower_log::limits::MAX_SEGMENT_LEN_BYTES;
use hightower_seams::{Entropy, OsEntropy};

use crate::error::SegmentError;
use crate::tail::AppendMode;

/// The smallest segment: a header, a seal, and some room between them.
pub const MIN_SEGMENT_LEN_BYTES: u32 = 512;

/// How a store is opened for writing. Start from the default and change what differs.
///
/// ```
/// use hightower_segment::StoreOptions;
///
/// let options = StoreOptions { segment_len_bytes: 16 << 20, ..StoreOptions::default() };
/// assert!(options.create_if_missing);
/// ```
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// How long a new segment is, in bytes: 512 to 4,294,967,295. A commit that needs more gets a
    /// segment of its own size. The default is 64 MiB. On a small device segments are shorter: a
    /// 64th of it, and an 8th of what is free, but 16 KiB at least.
    pub segment_len_bytes: u32,
    /// How commits are appended. The default is [`AppendMode::Auto`].
    pub appends: AppendMode,
    /// Where appends are mapped: records of this length, in bytes, on an average of a commit, are
    /// written by a system call if their pages were not
    /// [touched ahead](crate::SegmentStore::prefault_ahead). The default is 32 KiB.
    pub long_record_bytes: u32,
    /// Whether a missing store is made. The default is true.
    pub create_if_missing: bool,
    /// Whether a directory may be opened in which a copy of a store is being made: by the one who
    /// makes it. The default is false.
    pub allow_unfinished: bool,
    /// Where salts and the store's id come from.
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

/// The highest version and the time, at the moment of a call. A new segment counts its versions and
/// timestamps from them, so that its records are short; a seal records them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The highest version that the store has seen.
    pub max_version: u64,
    /// Unix time in milliseconds.
    pub timestamp: i64,
}

/// What space is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// New data. It gets no file unless the reserves are there.
    Grow,
    /// Deletes and compaction, which give space back in the end. They may use up the reserves.
    Reclaim,
}
