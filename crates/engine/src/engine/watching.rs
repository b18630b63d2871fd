//! Change feeds, and waiting for a commit.

use std::time::Duration;

use crate::bounds::KeyBounds;
use crate::engine::SingleNodeEngine;
use crate::error::{Error, Result};
use crate::feed::{ChangeFeed, FeedReach, FeedStart, LogCursor, WatchedRange};
use crate::keyspace::{KeyspaceId, StoredBounds};
#[cfg(doc)]
use crate::snapshot::Snapshot;

/// # Watching
///
/// The log is the truth, and a [`ChangeFeed`] reads it: what a cache, a replica or a secondary
/// index needs to follow the store.
impl SingleNodeEngine {
    /// The commits after `after_seqno` that change keys in `bounds`, and all later ones.
    ///
    /// Begin with [`latest_seq`](Self::latest_seq) for what is new, with [`Snapshot::seq`] for what
    /// a snapshot lacks, with [`ChangeFeed::seqno`] for what an earlier feed has not returned, with
    /// 0 for everything. The cost is a read of at most one segment's commits before that place.
    ///
    /// The log has old commits until compaction removes their segments.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut feed = engine.watch("a".."b", engine.latest_seq())?;
    /// engine.put("a/1", "one")?;
    /// engine.put("b/1", "not in the range")?;
    /// let commit = feed.next().unwrap()?;
    /// assert_eq!(commit.changes().next().unwrap().key(), b"a/1");
    /// assert!(feed.try_next()?.is_none());
    /// assert_eq!(feed.seqno(), engine.latest_seq());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::HistoryLost`] if the log no longer has all commits after `after_seqno`;
    /// [`Error::Diverged`] if the store has never had such a commit, or a crash has taken it;
    /// [`Error::Closed`].
    pub fn watch(&self, bounds: impl KeyBounds, after_seqno: u64) -> Result<ChangeFeed> {
        self.feed(watched(&bounds), after_seqno, FeedReach::Visible)
    }

    /// As [`watch`](Self::watch), for the keys with a prefix.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("jobs/1", "queued")?;
    /// let mut feed = engine.watch_prefix("jobs/", 0)?;
    /// assert_eq!(feed.next().unwrap()?.seqno(), engine.latest_seq());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub fn watch_prefix(&self, prefix: impl AsRef<[u8]>, after_seqno: u64) -> Result<ChangeFeed> {
        let range = WatchedRange::of(&KeyspaceId::DEFAULT.stored_prefix(prefix.as_ref()));
        self.feed(range, after_seqno, FeedReach::Visible)
    }

    /// As [`watch`](Self::watch), but returns a commit only once no power loss can take it: for
    /// copies of the store that must not be ahead of it. It does not sync: commits come with the
    /// syncs of their durability.
    ///
    /// ```
    /// # use hightower_engine::{Durability, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut feed = engine.watch_durable(.., engine.latest_seq())?;
    /// engine.put_with("key", "value", Durability::Sync)?;
    /// assert_eq!(feed.next().unwrap()?.seqno(), engine.latest_seq());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub fn watch_durable(&self, bounds: impl KeyBounds, after_seqno: u64) -> Result<ChangeFeed> {
        self.feed(watched(&bounds), after_seqno, FeedReach::Durable)
    }

    /// As [`watch`](Self::watch), for the keys of all keyspaces, those of the store itself included,
    /// and [reserved ones](crate::ReservedKeyspace), such as the records of an authentication
    /// service. [`FeedChange::keyspace`](crate::FeedChange::keyspace) distinguishes them.
    ///
    /// ```
    /// # use hightower_engine::{KeyspaceId, KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let jobs = engine.create_keyspace("jobs", KeyspaceOptions::default())?;
    /// let mut feed = engine.watch_all(engine.latest_seq())?;
    /// jobs.put("1", "queued")?;
    /// engine.put("a", "1")?;
    /// let keyspaces: Vec<_> =
    ///     feed.by_ref().take(2).map(|commit| commit.unwrap().changes().next().unwrap().keyspace()).collect();
    /// assert_eq!(keyspaces, [jobs.id(), KeyspaceId::DEFAULT]);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub fn watch_all(&self, after_seqno: u64) -> Result<ChangeFeed> {
        self.feed(WatchedRange::of(&StoredBounds::all()), after_seqno, FeedReach::Visible)
    }

    pub(crate) fn feed(&self, range: WatchedRange, after: u64, reach: FeedReach) -> Result<ChangeFeed> {
        self.feeds.check_open()?;
        // A feed of new commits needs no search for its place.
        let end = match self.log.lock() {
            Ok(log) => {
                let place = LogCursor::at(&log.active.segment, log.appender.position(), log.appender.next_seq());
                (log.last_seq == after).then_some(place)
            }
            Err(Error::ReadOnly) => None,
            Err(error) => return Err(error),
        };
        let visible = self.latest_seq();
        let start = match end {
            Some(end) => FeedStart::End(end),
            None => {
                let segment = self.feeds.log().segment_after(after, visible)?;
                FeedStart::Log(segment.as_ref().map(LogCursor::at_start_of))
            }
        };
        Ok(ChangeFeed::new(&self.feeds, reach, range, after, start))
    }

    /// Waits until reads see the commit with this seqno, or a later one; returns whether they do.
    /// Not longer than `timeout`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let next = engine.latest_seq() + 1;
    /// assert!(!engine.wait_for(next, Duration::from_millis(1))?);
    /// engine.put("key", "value")?;
    /// assert!(engine.wait_for(next, Duration::ZERO)?);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`]; [`Error::Validation`] on the store's own thread, in a waker of a feed.
    pub fn wait_for(&self, seqno: u64, timeout: Duration) -> Result<bool> {
        self.feeds.wait_for(seqno, timeout)
    }
}

fn watched(bounds: &impl KeyBounds) -> WatchedRange {
    let (from, to) = bounds.key_bounds();
    WatchedRange::of(&KeyspaceId::DEFAULT.stored_bounds(from, to))
}
