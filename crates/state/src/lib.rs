//! Versioned, ordered maps for a log-structured store: the apply rules, a plain model, and a concurrent state with snapshots.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
// The models use the protocols alone, not what the map makes of them.
#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(loom))]
mod bounds;
mod clock;
#[cfg(not(loom))]
mod commit;
#[cfg(not(loom))]
mod counters;
mod entry;
mod error;
mod flight;
mod location;
#[cfg(not(loom))]
mod model;
#[cfg(all(test, loom))]
mod models;
mod mutants;
mod older;
mod outcome;
#[cfg(not(loom))]
mod range;
#[cfg(not(loom))]
mod records;
mod registry;
#[cfg(not(loom))]
mod retained;
#[cfg(not(loom))]
mod snapshot;
#[cfg(not(loom))]
mod state;
#[cfg(not(loom))]
mod stats;
mod sync;
mod undo;
mod version;
#[cfg(not(loom))]
mod walk;
#[cfg(not(loom))]
mod writer;

pub use clock::{Clock, SystemClock};
pub use error::StateError;
pub use location::{Location, LocationBits};
pub use outcome::{ApplyOutcome, CommandKind};

#[cfg(not(loom))]
pub use {
    commit::Commit,
    hightower_index::{Guard, pin},
    model::{KvState, StateRecord},
    range::{Entries, Range},
    records::{Applied, Change, EntryRecord, Replaced, Versioned},
    snapshot::Snapshot,
    state::ConcurrentKvState,
    stats::{SnapshotAge, StateStats},
    writer::StateWriter,
};
