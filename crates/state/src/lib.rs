//! Versioned, ordered maps for a log-structured store: the apply rules, a plain model, and a
//! concurrent state with snapshots.
//!
//! For one key the state is the command with the highest version; the order of arrival, repeats and
//! grouping don't matter ([`ApplyOutcome::decide`]). Two types keep such a state:
//!
//! * [`KvState`] holds keys and values in a `BTreeMap`: plain, ordered, comparable, with a digest.
//!   It is the model that the rest is tested against.
//! * [`ConcurrentKvState`] holds keys and, for each, the *location* of its value: a place in a
//!   file, a slot in a slab, any 62 bits. One writer at a time; readers take no lock and never
//!   retry; snapshots cost the same however many keys there are.
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
//! let keys = |range: hightower_state::Range<u32>| range.map(|(key, _)| key).collect::<Vec<_>>();
//! assert_eq!(keys(state.prefix(b"pods/")), [b"pods/web-1".to_vec()]);
//! assert_eq!(keys(before.prefix(b"pods/")), [b"pods/web-0".to_vec()]);
//! # Ok(())
//! # }
//! ```
//!
//! # How it works
//!
//! Each key has one entry, in place in the leaf of a [`hightower_index`] map: location, seq,
//! version, and the older versions that a snapshot needs. The seq is the number of the commit; the
//! newest published seq is what readers see. In short:
//!
//! * A reader at a snapshot takes the entry if its seq isn't above the snapshot's, and else an
//!   older version.
//! * A writer marks what it stores as *pending* until the commit is published, so that plain reads,
//!   which look at nothing shared but the entry, see a batch whole or not at all.
//! * What an overwrite replaces goes into an *undo slot* first. After publishing, the writer asks
//!   which snapshots are alive and keeps the old version only if one of them needs it; an overwrite
//!   without snapshots allocates nothing.
//! * Snapshots claim a slot in a table without waiting. An old version is on the list of the newest
//!   snapshot that needs it; after that snapshot has ended, each commit examines a few versions of
//!   the list.
//!
//! The modules `entry`, `in_flight`, `undo`, `snapshot_registry` and `gc_queue` tell the protocols
//! in full, and why they hold.
//!
//! # Locations that move or are reused
//!
//! A location is good while the [`Guard`] lives under which it was read. A caller that moves
//! records calls [`relocate`](StateWriter::relocate) for each, then
//! [`retire_locations`](ConcurrentKvState::retire_locations), and gives the old places up once no
//! guard from before is alive.
//!
//! # What it is not
//!
//! It holds no values, reads no files, and has one writer at a time. Commands of the same key and
//! version but different content are the caller's mistake: the first one stays.
//!
//! # At a glance
//!
//! | | |
//! | --- | --- |
//! | limits | locations of 62 bits; keys as the index takes them, up to 65,535 bytes where records hold them; 64-bit machines |
//! | durability | none: it lives in memory, and a replay of commands in any order builds it again |
//! | memory | a key costs its index leaf: the key, 40 bytes of entry, and the index's own overhead; a live snapshot keeps an old version of each key that is overwritten meanwhile |
//! | threads | one writer at a time, behind the state's own lock; readers, snapshots and iterators on any thread, without locks or retries |
//! | features | none |
//! | format | none: nothing of it is written |
#![forbid(unsafe_code)]
#![deny(missing_docs)]
// The models use the protocols alone, not what the map makes of them.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(loom))]
mod bounds;
#[cfg(not(loom))]
mod change;
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
#[cfg(not(loom))]
mod liveness;
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
mod snapshot;
mod snapshot_registry;
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
    change::{Applied, Change, EntryRecord, Replaced, Versioned},
    commit::Commit,
    hightower_index::{Awaited, Guard, HINT_BITS, SeededHasher, pin},
    liveness::{RecordLiveness, Relocated},
    load::LoadRun,
    model::{KvState, StateRecord},
    range::{Entries, Range},
    range_scan::Visited,
    snapshot::Snapshot,
    state::ConcurrentKvState,
    stats::{SnapshotAge, StateStats},
    writer::StateWriter,
};

/// The README's example, run as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
