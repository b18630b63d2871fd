//! What a follower and its feeds share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::feed::FeedLog;
use crate::mutants::planted;

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

/// The needs of the feeds of a follower.
#[derive(Debug)]
pub(super) struct FeedNeeds {
    /// They have read all commits up to these seqs.
    pub(super) read_up_to: Vec<u64>,
    pub(super) max_lag_bytes: u64,
}

impl FeedNeeds {
    /// Gives up the removed segments of a log that neither a feed nor the history needs, which is
    /// above this seq.
    pub(super) fn give_up_removed(&self, log: &FeedLog, history_after: u64) {
        let near = log.within(self.max_lag_bytes);
        let by_feeds = self.read_up_to.iter().copied().filter(|after| *after >= near).min().unwrap_or(u64::MAX);
        let needed_after =
            if planted("follower_keeps_nothing_for_feeds") { u64::MAX } else { by_feeds.min(history_after) };
        log.give_up_to(needed_after);
        // Their files are the writer's.
        drop(log.take_given_up());
    }
}
