//! The files of a Hightower KV store: append-only segments, a manifest that names them, and the
//! rules of their recovery after a crash.
//!
//! A store is a directory of *segments*, each an append-only file of records (see
//! [`hightower_log`]), and a *manifest* that names them. This crate does not interpret keys and
//! versions. It stores commits in order, makes them durable, recovers them, and distinguishes
//! damage from a crash.
//!
//! * [`SegmentStore::open`] takes the lock and recovers; [`Recovery`] provides the segments for
//!   replay and an [`Appender`].
//! * [`Appender`] is the one writer: bytes go through a map or by positioned writes, see
//!   [`AppendMode`].
//! * [`Segment`] is for readers: [`Segment::record_at`] is a bounds check and a decode.
//! * [`SyncPoint`] makes commits durable without the appender's lock.
//! * [`SegmentStore::prepare_next`], [`prefault_ahead`](SegmentStore::prefault_ahead) and
//!   [`sync_predecessors`](SegmentStore::sync_predecessors) are for a background thread of the
//!   layer above.
//! * [`CompactedWriter`], [`SegmentStore::install`] and [`SegmentStore::release`] are for
//!   compaction.
//! * [`Wal`] is a write-ahead log of byte strings on the same files, for programs that need no
//!   store.
//! * [`Fs`] is the seam to the outside: [`RealFs`], and with the feature `sim` a simulated file
//!   system with a page cache, a disk and crashes.
//!
//! The project's `docs/DURABILITY.md` describes each case of an open, `docs/FORMAT.md` the bytes.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use hightower_log::{Command, Placement, encode};
//! use hightower_segment::{Purpose, RealFs, SegmentStore, Stamp, StoreOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! let stamp = Stamp { max_version: 0, timestamp: 1_700_000_000_000 };
//! let options = StoreOptions { segment_len_bytes: 1 << 20, ..StoreOptions::default() };
//! let (store, recovery) = SegmentStore::open(Arc::new(RealFs), dir.path(), options)?;
//! let (mut appender, _report) = recovery.finish(stamp)?;
//!
//! let command = Command::Set { key: b"key".to_vec(), value: b"value".to_vec(), version: 1, timestamp: 1_700_000_000_001 };
//! appender.make_room(64, Purpose::Grow, stamp)?;
//! let mut record = Vec::new();
//! let placement = Placement::Appended { durable: appender.durable(), continues: false };
//! encode(&mut record, appender.context(), appender.position(), &command.borrow(), placement)?;
//! let appended = appender.append(&[&record], 1)?;
//! store.sync_point().sync()?;
//!
//! let segment = Arc::clone(appender.segment());
//! assert_eq!(segment.record_at(appended.offset)?.command(), Some(command.borrow()));
//! appender.close(Stamp { max_version: 1, ..stamp })?;
//! # Ok(())
//! # }
//! ```
//!
//! # What it is not
//!
//! It does not interpret keys and versions, has no index, and starts no thread; the layers above
//! do. (A [`Wal`] keeps the places of its entries, and starts a thread for callbacks.)
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | segments from 512 bytes to below 4 GiB; one writing process, by a lock on the directory; files are named by numbers up to 2³² - 1 |
//! | durability | an append is in the page cache when it returns, a sync covers all appends before it: see `docs/DURABILITY.md` |
//! | memory | address space for the maps of segments; the process's heap does not grow with the records |
//! | threads | one appender; `Segment`, `SyncPoint` and `SegmentStore` are shared, and reading takes no lock |
//! | features | `sim`: the simulated file system, with a page cache, a disk, crashes and faults |
//! | format | version 1 of segments and of the manifest, byte by byte in `docs/FORMAT.md`; an unknown version is refused |

#![deny(missing_docs)]
#![deny(unsafe_code)]

mod access;
mod appender;
mod commit_history;
mod compacted;
pub mod conformance;
mod error;
mod file_header;
mod first_segment;
mod followed_log;
mod followed_tail;
mod fs;
mod layout;
mod lengths;
mod lock;
mod log_tail;
mod manifest;
mod manifest_edit;
mod manifest_file;
mod manifest_reader;
mod manifest_watch;
mod map_reserve;
mod mapped_file;
#[allow(unsafe_code, reason = "maps; every block says why it is sound")]
mod mapping;
mod names;
mod options;
mod parts;
mod poison;
mod read_ahead;
mod read_only;
mod recovery;
mod report;
mod reserves;
mod scan;
mod segment;
#[cfg(feature = "sim")]
pub mod sim;
mod spares;
mod store;
mod store_dir;
mod successor;
mod sync;
mod table_list;
mod tail;
mod wal;

use hightower_seams::mutants;
pub use hightower_seams::{Entropy, OsEntropy};

pub use appender::{Appended, Appender};
pub use commit_history::{CommitHistory, LostCommits};
pub use compacted::{CompactedSegment, CompactedWriter, Edit, Released};
pub use error::{Damage, OUT_OF_MAPS, SegmentError, is_full};
pub use first_segment::Recovery;
pub use followed_log::{Continuation, FollowedDir, FollowedLog, LogPosition, TakenOver};
pub use fs::{
    Access, DeviceRoom, Dir, File, Fs, Lock, LockKind, Metadata, RealFs, read_full_at, retry_interrupted, write_all_at,
};
pub use manifest::{Content, Manifest, SegmentEntry, SegmentState};
pub use manifest_reader::{MANIFEST_VERSION, ManifestError};
pub use mapped_file::map_table;
pub use mapping::{
    ForkGuard, Frozen, HUGE_PAGE_BYTES, MapPermit, Mapping, MappingError, MappingWriter, MemoryObserver, Pages,
    SharedMemory,
};
pub use names::{MANIFEST, TABLE_SUFFIX, UNFINISHED, is_garbage_when_unnamed, is_table_name, segment_name, table_name};
pub use options::{AppendMode, MIN_SEGMENT_LEN_BYTES, Purpose, Stamp, StoreOptions};
pub use read_ahead::{InOrder, ReadAhead};
pub use read_only::{ReadOnlyStore, Tolerance};
pub use report::{RecoveryReport, SegmentOutcome, SegmentReport};
pub use scan::{Finding, Scan, SegmentEntries, SegmentRecord};
pub use segment::Segment;
pub use store::{SegmentStore, TailProgress, TailStats};
pub use sync::SyncPoint;
pub use table_list::{CoveredPosition, NamedTable, NamedTables};
pub use wal::{Wal, WalEntries, WalEntry, WalRecovery, WalSync};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
