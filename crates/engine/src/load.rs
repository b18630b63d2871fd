//! Opening a store's state: the tables that the manifest names become levels, and the log behind
//! the position that they cover is replayed into the active memtable.
//!
//! Tables are disposable. If one is missing or damaged, or belongs elsewhere, they are rebuilt from
//! the log, and the open report says why. A reader may not write: it replays the whole log into
//! memory.
//!
//! An entry of a table counts only while its segment exists. So even an old table never brings a
//! deleted key back.

mod deal;
mod fold;
mod item;
mod merge;
mod progress;
mod records;

pub(crate) use fold::Fold;
pub use fold::TablesUse;
pub(crate) use progress::{ABORTED, Watch};
pub use progress::{OpenPhase, OpenProgress};
