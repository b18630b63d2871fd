//! Index checkpoints: the whole index as one file, so that an open need not read the whole log.
//!
//! A checkpoint is disposable. It says which segments it covers, and how far; opening takes it if
//! it is whole and fits them, and reads the rest from the log. If it is missing, damaged or of
//! another store, the log is read from the start, and the open report says why.
//!
//! An entry counts only while its segment is there. Whatever compaction moved out of a segment, or
//! dropped with it, after the checkpoint was taken, is found in segments that the checkpoint does
//! not cover, or nowhere: so no checkpoint, however old, brings a deleted key back.

mod block;
pub(crate) mod codec;
mod column;
mod deal;
mod fold;
mod load;
mod merge;
mod numbers;
mod records;
#[cfg(test)]
mod tests;
mod write;

pub use fold::{CheckpointUse, OpenPhase, OpenProgress};
pub(crate) use fold::{Fold, Watch};
pub(crate) use load::verify_order;
pub(crate) use write::{CheckpointParts, CheckpointWriter};
