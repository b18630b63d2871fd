//! The change feed of a follower.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::feed::{FeedCommit, LogCursor, WatchedRange, next_commit};
use crate::follower::feed_source::{FeedPlace, FeedSource, NewFeed};
use crate::follower::pursuit::{Pursuit, WAIT_STEP};
use crate::mutants::planted;

/// The commits that change keys of a range, in order: each once, and as a whole. From
/// [`Follower::watch`](crate::Follower::watch).
///
/// It has commits as soon as the writer has written them, also those that a power loss can still
/// take back. When it has returned everything that the follower knows, it lets the follower catch
/// up. A slow reader costs the writer nothing.
///
/// A follower keeps what its own feeds have not read, unless a feed lags more than
/// [`max_feed_lag_bytes`](crate::FollowerConfig::max_feed_lag_bytes) behind. It cannot keep what compaction
/// has removed before it looked: a writer that serves feeds in other processes keeps
/// [history](crate::StoreConfig::history_bytes).
///
/// An error ends the feed. Remember [`seqno`](Self::seqno), and begin a new feed there. If that is
/// [`Error::HistoryLost`] or [`Error::Diverged`], begin anew with a snapshot.
///
/// ```
/// use hightower_engine::{Follower, SingleNodeEngine};
///
/// # let dir = tempfile::tempdir().unwrap();
/// let engine = SingleNodeEngine::open(dir.path())?;
/// // In another process:
/// let follower = Follower::open(dir.path())?;
/// let mut feed = follower.watch_prefix("jobs/", follower.latest_seq())?;
/// engine.put("jobs/1", "queued")?;
/// engine.put("users/1", "Ada")?;
/// let commit = feed.try_next()?.unwrap();
/// assert_eq!(commit.changes().next().unwrap().key(), b"jobs/1");
/// assert!(feed.try_next()?.is_none());
/// assert_eq!(feed.seqno(), engine.latest_seq());
/// # Ok::<(), hightower_engine::Error>(())
/// ```
pub struct FollowerFeed {
    pursuit: Arc<Pursuit>,
    range: WatchedRange,
    source: FeedSource,
    /// `None` if the log has no segment behind the place of the feed yet.
    cursor: Option<LogCursor>,
    /// The follower knows the commits up to this one.
    limit: u64,
    /// Every commit up to this seqno was returned, if it has a change in the range.
    seqno: u64,
    place: Arc<FeedPlace>,
    has_ended: bool,
}

impl FollowerFeed {
    pub(super) fn new(pursuit: &Arc<Pursuit>, range: WatchedRange, feed: NewFeed) -> Result<Self> {
        let NewFeed { place, source, last_seq: limit, latest_seq } = feed;
        let (pursuit, seqno) = (Arc::clone(pursuit), place.get());
        let mut feed = Self { pursuit, range, source, cursor: None, limit, seqno, place, has_ended: false };
        feed.find_place(latest_seq)?;
        Ok(feed)
    }

    /// The place of the feed: it has returned every commit up to this seqno, if it has a change in
    /// the range. A new feed that begins after it continues this one.
    #[must_use]
    pub fn seqno(&self) -> u64 {
        self.seqno
    }

    /// The next commit, if there is one already. It waits for none, but lets the follower catch up.
    /// `None` also after an error.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryLost`] if compaction has removed what the feed had to read;
    /// [`Error::Diverged`] if the store has lost what it has returned, unless compaction has
    /// removed that place, too; as [`Follower::catch_up`](crate::Follower::catch_up). An error ends the feed.
    pub fn try_next(&mut self) -> Result<Option<FeedCommit>> {
        let next = self.find_next();
        if next.is_err() {
            self.has_ended = true;
            self.place.end();
        }
        next
    }

    /// The next commit. Waits for it, but not longer than `timeout`: looks every millisecond.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let follower = Follower::open(dir.path())?;
    /// let mut feed = follower.watch(.., follower.latest_seq())?;
    /// assert!(feed.next_timeout(Duration::from_millis(3))?.is_none());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<FeedCommit>> {
        let deadline = self.pursuit.elapsed().saturating_add(timeout);
        loop {
            let next = self.try_next()?;
            let left = deadline.saturating_sub(self.pursuit.elapsed());
            if next.is_some() || self.has_ended || left.is_zero() {
                return Ok(next);
            }
            self.pursuit.pause(left.min(WAIT_STEP));
        }
    }

    fn find_next(&mut self) -> Result<Option<FeedCommit>> {
        if self.has_ended {
            return Ok(None);
        }
        self.pursuit.check_not_forked()?;
        if let Some(commit) = self.read_next()? {
            return Ok(Some(commit));
        }
        self.look()?;
        self.read_next()
    }

    /// Lets the follower catch up. It may have started anew, with another log.
    fn look(&mut self) -> Result<()> {
        let (source, last_seq, latest_seq) = self.pursuit.feed_source()?;
        if !Arc::ptr_eq(&source.log, &self.source.log) {
            // First, what the follower has seen of the log that the feed reads.
            let end = self.source.end.get();
            if end > self.limit && !planted("follower_feed_leaves_its_log_early") {
                self.limit = end;
                return if self.cursor.is_none() { self.find_place(end) } else { Ok(()) };
            }
            if source.store_id != self.source.store_id && !planted("follower_feed_of_another_store") {
                return Err(Error::Diverged { last_kept: 0 });
            }
            (self.source, self.cursor) = (source, None);
        }
        self.limit = last_seq;
        if self.cursor.is_none() { self.find_place(latest_seq) } else { Ok(()) }
    }

    /// Finds the place of the feed in a log whose next commit has a seq above `latest_seq`.
    fn find_place(&mut self, latest_seq: u64) -> Result<()> {
        let segment = self.source.log.segment_after(self.seqno, latest_seq)?;
        self.cursor = segment.as_ref().map(LogCursor::at_start_of);
        Ok(())
    }

    /// Reads the log up to the next commit with a change in the range, or to the limit.
    fn read_next(&mut self) -> Result<Option<FeedCommit>> {
        let Some(cursor) = &mut self.cursor else { return Ok(None) };
        while let Some(commit) = next_commit(cursor, &self.source.log, self.limit, &self.range)? {
            // The first segment may begin with commits that were returned.
            if commit.seqno() <= self.seqno && !planted("follower_feed_told_twice") {
                continue;
            }
            self.seqno = commit.seqno();
            self.place.set(self.seqno);
            if !commit.is_empty() {
                return Ok(Some(commit));
            }
        }
        self.seqno = self.seqno.max(self.limit);
        self.place.set(self.seqno);
        Ok(None)
    }
}

/// Waits for each commit, and looks every millisecond. `None` after an error.
impl Iterator for FollowerFeed {
    type Item = Result<FeedCommit>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = self.try_next().transpose();
            if next.is_some() || self.has_ended {
                return next;
            }
            self.pursuit.pause(WAIT_STEP);
        }
    }
}

impl std::iter::FusedIterator for FollowerFeed {}

impl fmt::Debug for FollowerFeed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FollowerFeed").field("seqno", &self.seqno()).finish_non_exhaustive()
    }
}
