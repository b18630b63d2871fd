//! What the state refuses.

/// Why the state refused a call. Nothing has changed then.
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
    /// A key is not above the key before it, or a run does not begin above the end of the run
    /// before it.
    #[error("keys must rise, within a run and from run to run")]
    KeysOutOfOrder,
    /// Runs can only be loaded into a state that has seen no key.
    #[error("runs can only be loaded into an empty state: replay the changes instead")]
    NotEmpty,
    /// A run was begun for another state.
    #[error("the run was begun for another state")]
    OtherState,
}
