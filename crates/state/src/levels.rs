//! The levels of a state, from the top: the active memtable, which is the only one that changes,
//! frozen memtables, and tables.
//!
//! The rules are in the section "Levels" of the project's `docs/ARCHITECTURE.md`.

mod counts;
mod lookup;
mod merged_scan;
mod older_views;
mod pointer;
mod range;
mod segment_set;
mod snapshot;
mod spare;
mod state;
pub(crate) mod table_list;
pub(crate) mod view;
mod writer;

pub use counts::{KeyCountBounds, LevelStats};
pub use lookup::{LookedBelow, Lookup, TableSearch};
pub use merged_scan::MemtableSource;
pub use older_views::OlderViews;
pub use range::LeveledRange;
pub use segment_set::SegmentSet;
pub use snapshot::LeveledSnapshot;
pub use spare::SpareMemtable;
pub use state::LeveledKvState;
pub use table_list::TableMark;
pub use writer::{FrozenMemtable, LeveledWriter, ViewChanged};
