//! What a follower and its feeds share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::feed::FeedLog;

/// The place of a feed, for the follower: it has read all commits up to this seqno.
#[derive(Debug)]
pub(super) struct FeedPlace(AtomicU64);

/// The log of a follower's replica.
#[derive(Clone, Debug)]
pub(super) struct FeedSource {
    pub(super) log: Arc<FeedLog>,
    /// The identity of the store.
    pub(super) store_id: [u8; 16],
}

impl FeedPlace {
    pub(super) fn new(after: u64) -> Self {
        Self(AtomicU64::new(after))
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, seqno: u64) {
        self.0.store(seqno, Ordering::Release);
    }
}
