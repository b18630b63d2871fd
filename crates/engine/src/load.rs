//! Loading a store's state into the index: from the tables that the manifest names, and from the
//! log behind the position that they cover.
//!
//! Tables are disposable. If one is missing or damaged, or belongs elsewhere, the whole log is
//! read, and the open report says why.
//!
//! An entry of a table counts only while its segment exists. If compaction moved the record after
//! the table was written, its copy is in a segment that the tables do not cover; if compaction
//! dropped the record, it is nowhere. So even an old table never brings a deleted key back.

mod deal;
mod fold;
mod item;
mod merge;
mod progress;
mod records;

pub(crate) use fold::Fold;
pub use fold::TablesUse;
pub(crate) use progress::Watch;
pub use progress::{OpenPhase, OpenProgress};
