//! Immutable sorted tables, one mapped file each, that map keys to the places of records in other
//! files.
//!
//! A table holds, for each key in ascending order, the newest command's version and kind, and the
//! place of its record: segment, offset and length. It holds no values. There are two ways to find
//! a key's record:
//!
//! * by hash: [`TableReader::candidates`] reads one cache line and returns the places where the
//!   record may be. The caller compares the key in the record;
//! * in key order: [`TableReader::get`], [`TableCursor`] and [`TableRange`] read blocks of up to 32
//!   front-coded keys, which they find through an index in the same file.
//!
//! Opening verifies header and footer, and loads no block: it takes microseconds at any length.
//! Each block and each line has a checksum, which every use verifies. [`LevelMerge`] merges several
//! tables and memtables into one sequence.
//!
//! The project's `docs/FORMAT.md` specifies the bytes.
//!
//! # Example
//!
//! ```
//! use hightower_segment::{Fs, OsEntropy, RealFs};
//! use hightower_table::{EntryKind, RecordPointer, TableEntry, TableOptions, TableReader, TableWriter};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let scratch = tempfile::tempdir()?;
//! let dir = RealFs.open_dir(scratch.path())?;
//! let mut writer = TableWriter::create(&dir, "0000000001.tbl", TableOptions::random(1, &OsEntropy)?)?;
//! for number in 0..1000_u32 {
//!     let entry = TableEntry {
//!         version: number.into(),
//!         kind: EntryKind::Set,
//!         pointer: RecordPointer { segment: 1, offset: 64 + 130 * number },
//!         len_bytes: 130,
//!     };
//!     writer.push(format!("pods/{number:06}").as_bytes(), entry)?;
//! }
//! writer.finish()?;
//!
//! let table = TableReader::open(dir.as_ref(), "0000000001.tbl")?;
//! let hasher = table.hasher();
//! let found = table.candidates(hasher.hash(b"pods/000007"))?.next().transpose()?;
//! assert_eq!(found, Some(RecordPointer { segment: 1, offset: 64 + 130 * 7 }));
//! assert_eq!(table.get(b"pods/000007")?.map(|entry| entry.version), Some(7));
//! # Ok(())
//! # }
//! ```
//!
//! # What it is not
//!
//! It holds no values, deletes no keys, and does not compare versions: the caller pushes each key
//! once. It keeps no list of tables, and starts no thread.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | keys of 0 to 65,535 bytes, in ascending order; 2^48 bytes ([`MAX_TABLE_LEN_BYTES`]); entries into 2^24 segments ([`MAX_TABLE_SEGMENTS`]) |
//! | durability | a table is synced, and so is its name, before [`TableWriter::finish`] returns; until then it has another name |
//! | memory | a reader: 32 bytes for each segment that entries point into; a cursor: a block and its keys; a writer: 32 MiB, or as asked |
//! | threads | none; a [`TableReader`] is shared by any number of threads, and reading takes no lock |
//! | features | none |
//! | format | version 1, byte by byte in `docs/FORMAT.md`; an unknown version or feature is refused |

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod append_file;
mod block;
mod candidates;
mod check;
mod checksum;
mod column;
mod cursor;
mod cuts;
mod entry;
mod error;
mod footer;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod hash;
mod header;
mod index_writer;
mod leaf;
mod limits;
mod line;
mod list_line;
mod merge;
mod node;
mod point_entry;
mod point_writer;
mod range;
mod reader;
mod run;
mod spill;
mod writer;

use hightower_seams::mutants::planted;

pub use candidates::Candidates;
pub use cursor::{SeekTo, TableCursor};
pub use entry::{EntryKind, RecordPointer, SegmentCounts, TableEntry};
pub use error::TableError;
pub use hash::TableHasher;
pub use header::TABLE_VERSION;
pub use hightower_log::limits::MAX_KEY_LEN_BYTES;
pub use limits::{MAX_TABLE_LEN_BYTES, MAX_TABLE_SEGMENTS};
pub use merge::{LevelMerge, MergeSource};
pub use range::TableRange;
pub use reader::TableReader;
pub use run::{EntryRun, ScanDirection};
pub use writer::{MAX_TABLE_NAME_LEN_BYTES, TableOptions, TableProgress, TableSummary, TableWriter, UNFINISHED_SUFFIX};

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
