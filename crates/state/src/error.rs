//! The errors of the state.

/// The error of a call. The state is unchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A commit's seq must be above every seq before it, and below 2^64 - 2.
    #[error("seq {seq} can't follow seq {visible}: give each commit a higher one, below 2^64 - 2")]
    SeqOutOfRange {
        /// The requested seq.
        seq: u64,
        /// The newest published seq.
        visible: u64,
    },
    /// A key is not above the previous key, or a run does not begin above the end of the previous
    /// run.
    #[error("keys must rise, within a run and from run to run")]
    KeysOutOfOrder,
    /// Runs can be loaded only into a new state.
    #[error("runs can only be loaded into an empty state: replay the changes instead")]
    NotEmpty,
    /// Only the lowest frozen memtable can become a table: the table of another one would lie below
    /// older memtables.
    #[error("an older frozen memtable exists: flush the oldest one first")]
    NotLowestMemtable,
    /// The tables are not neighbours in the list, newest first.
    #[error("the tables to replace don't follow each other in the list: take neighbours, newest first")]
    NotAdjacent,
    /// The mark of a running compaction lies between the tables.
    #[error("the mark of a running compaction lies between the tables: replace them after it ends")]
    AcrossMark,
    /// The mark has been used or removed.
    #[error("the mark is not in the list of tables: each mark serves one installation")]
    UnknownMark,
    /// Another table has this id.
    #[error("a table with this id is in use: give each table a new id")]
    TableIdInUse,
    /// A run belongs to another state.
    #[error("the run was begun for another state")]
    OtherState,
}
