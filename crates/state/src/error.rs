//! What the state refuses.

/// Why the state refused a call. Nothing has changed then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A commit's seq must be above every seq before it, and below 2^64 - 2.
    #[error("seq {seq} can't follow seq {visible}: give each commit a higher one, below 2^64 - 2")]
    SeqOutOfRange {
        /// The seq that was asked for.
        seq: u64,
        /// The newest published seq.
        visible: u64,
    },
}
