//! Versioned, ordered maps for a log-structured store: the apply rules, a plain model, and a
//! concurrent state with snapshots.
//!
//! For one key the state is the command with the highest version; the order of arrival, repeats and
//! grouping don't matter ([`ApplyOutcome::decide`]). Three types keep such a state:
//!
//! * [`KvState`] holds keys and values in a `BTreeMap`: plain, ordered, comparable, with a digest.
//!   It is the model for the tests of the other two.
//! * [`ConcurrentKvState`] holds keys and, for each, the *location* of its value: a place in a
//!   file, a slot in a slab, any 62 bits. One writer at a time; readers take no lock and never
//!   retry; the cost of a snapshot does not depend on the number of keys.
//! * [`LeveledKvState`] does the same for keys that need not fit in memory: memtables above tables
//!   of [`hightower_table`].
//!
//! # Example: a versioned map in memory
//!
//! ```
//! use hightower_state::{Change, CommandKind, ConcurrentKvState, pin};
//!
//! # fn main() -> Result<(), hightower_state::StateError> {
//! let state = ConcurrentKvState::<u32>::new();
//! state.set(b"pods/web-0", 1, 7)?;
//! let before = state.snapshot();
//!
//! // A batch: readers see both changes or neither.
//! let guard = pin();
//! let mut writer = state.writer();
//! let mut commit = writer.begin(2, &guard)?;
//! commit.apply(&Change { key: b"pods/web-0", version: 2, kind: CommandKind::Delete, location: 0, len_bytes: 0 });
//! commit.apply(&Change { key: b"pods/web-1", version: 2, kind: CommandKind::Set, location: 8, len_bytes: 0 });
//! commit.publish();
//!
//! let keys = |range: hightower_state::StateRange<u32>| range.map(|(key, _)| key).collect::<Vec<_>>();
//! assert_eq!(keys(state.prefix(b"pods/")), [b"pods/web-1".to_vec()]);
//! assert_eq!(keys(before.prefix(b"pods/")), [b"pods/web-0".to_vec()]);
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! Each key has one entry, in place in the leaf of a [`hightower_index`] map: location, seq,
//! version, and the older versions that a snapshot needs. The seq is the number of the commit;
//! readers see the newest published seq. In short:
//!
//! * A reader at a snapshot takes the entry if its seq is not above the snapshot's, otherwise an
//!   older version.
//! * A writer marks its stores as *pending* until the commit is published. Plain reads read only
//!   the entry; the mark lets them see batches atomically.
//! * An overwrite first copies the replaced version into an *undo slot*. After publishing, the
//!   writer reads the live snapshots and keeps the old version only if one of them needs it. An
//!   overwrite without snapshots allocates nothing.
//! * Snapshots claim a slot in a table without waiting. An old version is on the list of the newest
//!   snapshot that needs it. After that snapshot has ended, each commit examines a few versions of
//!   its list.
//!
//! The modules `entry`, `in_flight`, `undo`, `snapshot_registry` and `gc_queue` describe the
//! protocols in full, with their proofs.
//!
//! # Locations that move or are reused
//!
//! A location is valid during the lifetime of the [`Guard`] under which it was read. A caller that
//! moves records calls [`relocate`](StateWriter::relocate) for each, then
//! [`retire_locations`](ConcurrentKvState::retire_locations), and frees the old places once no
//! earlier guard is alive.
//!
//! # What it is not
//!
//! It stores no values, writes no files, and has one writer at a time. Different commands with the
//! same key and version are an error of the caller: the first one stays.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | locations of 62 bits; keys of up to 65,535 bytes in records, otherwise with the limits of the index; 64-bit machines |
//! | durability | none: it is in memory, and a replay of commands in any order rebuilds it |
//! | memory | a key costs its index leaf: the key, 40 bytes of entry, and the index's own overhead; a live snapshot keeps one old version of each overwritten key |
//! | threads | one writer at a time, under the state's lock; readers, snapshots and iterators on any thread, without locks or retries |
//! | features | none |
//! | format | none: it writes no files, and reads those of [`hightower_table`] |
#![forbid(unsafe_code)]
#![deny(missing_docs)]
// The models use the protocols without the map.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(loom))]
mod bounds;
#[cfg(not(loom))]
mod change;
#[cfg(not(loom))]
mod changes;
#[cfg(not(loom))]
mod commit;
#[cfg(not(loom))]
mod counters;
mod entry;
mod error;
#[cfg(not(loom))]
mod gc_queue;
mod in_flight;
#[cfg(not(loom))]
mod inner;
#[cfg(all(test, loom))]
mod level_models;
#[cfg(not(loom))]
mod levels;
#[cfg(not(loom))]
mod load;
mod location;
#[cfg(not(loom))]
mod lock;
#[cfg(not(loom))]
mod model;
#[cfg(all(test, loom))]
mod models;
mod mvcc;
mod outcome;
#[cfg(not(loom))]
mod range;
#[cfg(not(loom))]
mod range_scan;
#[cfg(not(loom))]
mod relocation;
#[cfg(not(loom))]
mod snapshot;
mod snapshot_registry;
mod snapshot_view;
#[cfg(not(loom))]
mod state;
#[cfg(not(loom))]
mod stats;
mod sync;
mod undo;
mod version;
mod version_chain;
#[cfg(not(loom))]
mod writer;

use hightower_seams::mutants;
pub use hightower_seams::{Clock, SystemClock};

pub use error::StateError;
pub use location::{Location, LocationBits};
pub use outcome::{ApplyOutcome, CommandKind};

#[cfg(not(loom))]
pub use {
    bounds::prefix_end,
    change::{Applied, Change, EntryRecord, NewestCommand, NewestRecord, Replaced, Versioned},
    changes::ChangeSince,
    commit::Commit,
    hightower_index::{Awaited, Guard, HINT_BITS, SeededHasher, pin},
    hightower_table::TableError,
    levels::{
        FrozenMemtable, KeyCountBounds, LevelStats, LeveledKvState, LeveledRange, LeveledSnapshot, LeveledWriter,
        LookedBelow, Lookup, MemtableSource, OlderViews, SegmentSet, SpareMemtable, TableMark, TableSearch,
        ViewChanged,
    },
    load::LoadRun,
    model::{KvState, StateRecord},
    range::{EntryRange, StateRange},
    range_scan::{EntryInPlace, Visited},
    relocation::Relocated,
    snapshot::StateSnapshot,
    state::ConcurrentKvState,
    stats::{SnapshotAge, StateStats},
    writer::StateWriter,
};

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
