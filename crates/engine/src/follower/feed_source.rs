//! What a follower and its feeds share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::feed::FeedLog;

/// The place of a feed, for the follower: the feed has read all commits up to this seqno.
#[derive(Debug)]
pub(super) struct FeedPlace(AtomicU64);

/// The log of a follower's replica.
#[derive(Clone, Debug)]
pub(super) struct FeedSource {
    pub(super) log: Arc<FeedLog>,
    /// The end of the log, as far as the follower has seen it.
    pub(super) end: Arc<SeenEnd>,
    /// The identity of the store.
    pub(super) store_id: [u8; 16],
}

/// The seqno of the last commit of a log that a follower has seen.
#[derive(Debug, Default)]
pub(super) struct SeenEnd(AtomicU64);

impl SeenEnd {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, seqno: u64) {
        self.0.store(seqno, Ordering::Release);
    }
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

    /// The feed reads no more.
    pub(super) fn end(&self) {
        self.set(u64::MAX);
    }
}

/// What a new feed begins with.
#[derive(Debug)]
pub(super) struct NewFeed {
    pub(super) place: Arc<FeedPlace>,
    pub(super) source: FeedSource,
    /// The seq of the last commit that the follower has seen.
    pub(super) last_seq: u64,
    /// The seq before that of the next commit, which may be higher: seqs jump at an open.
    pub(super) latest_seq: u64,
}
