//! The change feed, for its reader.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::iter::FusedIterator;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::feed::commit::{ChangeRecord, FeedCommit};
use crate::feed::cursor::{CommitPlace, LogCursor, read_commit};
use crate::feed::hub::{FeedHub, FeedReach};
use crate::feed::lane::Taken;
use crate::feed::log::FeedLog;
use crate::feed::signal::FeedSignal;
use crate::feed::watched_range::WatchedRange;
use crate::mutants::planted;

/// The commits that change keys of a range, in order: each once, and as a whole. From
/// [`SingleNodeEngine::watch`](crate::SingleNodeEngine::watch).
///
/// The feed reads the log from the segment files. A slow reader costs a writer nothing, and no
/// memory grows. Commits are there at most a millisecond after they were made.
///
/// | to get the next commit | when there is none yet |
/// | --- | --- |
/// | [`try_next`](Self::try_next) | `None` |
/// | [`next`](Iterator::next), as an iterator | waits |
/// | [`next_timeout`](Self::next_timeout) | waits, but not longer |
/// | [`next_async`](Self::next_async), [`poll_next`](Self::poll_next) | a `Future`, which needs no runtime |
/// | [`subscribe`](Self::subscribe), [`subscribe_with`](Self::subscribe_with) | a function is called when there is one |
///
/// An error ends the feed. Remember [`seqno`](Self::seqno), and begin a new feed there, in this
/// process or in a later one. If that is [`Error::HistoryLost`] or [`Error::Diverged`], begin anew
/// with a snapshot: a feed after [`Snapshot::seq`](crate::Snapshot::seq) has each commit that the
/// snapshot lacks, once.
///
/// ```
/// use std::collections::BTreeMap;
/// use hightower_engine::SingleNodeEngine;
///
/// # let dir = tempfile::tempdir().unwrap();
/// # let engine = SingleNodeEngine::open(dir.path())?;
/// engine.put("users/1", "Ada")?;
/// let snapshot = engine.snapshot()?;
/// let mut cache = BTreeMap::new();
/// for entry in snapshot.prefix("users/") {
///     let (key, value) = entry?.into_pair()?;
///     cache.insert(key, value);
/// }
/// let mut feed = engine.watch_prefix("users/", snapshot.seq())?;
/// engine.put("users/2", "Grace")?;
/// engine.delete("users/1")?;
/// while let Some(commit) = feed.try_next()? {
///     for change in commit.changes() {
///         match change.value()? {
///             Some(value) => cache.insert(change.key().to_vec(), value),
///             None => cache.remove(change.key()),
///         };
///     }
/// }
/// assert!(cache.into_iter().eq([(b"users/2".to_vec(), "Grace".into())]));
/// # Ok::<(), hightower_engine::Error>(())
/// ```
pub struct ChangeFeed {
    hub: Arc<FeedHub>,
    reach: FeedReach,
    range: WatchedRange,
    id: u64,
    signal: Arc<FeedSignal>,
    /// Every commit up to this seqno was returned, if it has a change in the range.
    seqno: u64,
    /// The end of the log up to which it reads before it asks for the end again: writers move it.
    limit: u64,
    mode: FeedMode,
}

/// Where a feed begins.
#[derive(Debug)]
pub(crate) enum FeedStart {
    /// Behind every commit.
    End(LogCursor),
    /// In the log. `None` if no commit will ever follow.
    Log(Option<LogCursor>),
}

/// Where the next commit comes from.
#[derive(Debug)]
enum FeedMode {
    /// From the log.
    Reading(LogCursor),
    /// From the hub, which has given these places.
    Following(VecDeque<CommitPlace>),
    /// From nowhere: the feed has ended.
    Ended,
}

impl ChangeFeed {
    /// A feed after a seqno.
    pub(crate) fn new(hub: &Arc<FeedHub>, reach: FeedReach, range: WatchedRange, after: u64, start: FeedStart) -> Self {
        let (id, signal) = hub.add(reach, range.clone(), after);
        let mode = match start {
            FeedStart::Log(Some(cursor)) => FeedMode::Reading(cursor),
            FeedStart::Log(None) => FeedMode::Ended,
            FeedStart::End(cursor) => {
                hub.follow(reach, id, &cursor);
                FeedMode::Following(VecDeque::new())
            }
        };
        Self { hub: Arc::clone(hub), reach, range, id, signal, seqno: after, limit: 0, mode }
    }

    /// The place of the feed: it has returned every commit up to this seqno, if it has a change in
    /// the range. It also moves over commits without one. A new feed that begins after it continues
    /// this one.
    #[must_use]
    pub fn seqno(&self) -> u64 {
        self.seqno
    }

    /// The next commit, if there is one already. It does not wait. `None` also after the end.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryLost`] if the feed was so slow that compaction has removed what it had to
    /// read: see [`max_feed_lag_bytes`](crate::StoreConfig::max_feed_lag_bytes);
    /// [`Error::Corrupt`], [`Error::Closed`]. An error ends the feed.
    pub fn try_next(&mut self) -> Result<Option<FeedCommit>> {
        let next = self.find_next();
        if next.is_err() {
            self.mode = FeedMode::Ended;
        }
        next
    }

    /// The next commit. Waits for it, but not longer than `timeout`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut feed = engine.watch(.., engine.latest_seq())?;
    /// assert!(feed.next_timeout(Duration::from_millis(1))?.is_none());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next). [`Error::Validation`] on the store's own thread, in a waker
    /// of another feed.
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<FeedCommit>> {
        self.wait_until(self.hub.deadline(timeout), || true)
    }

    /// The next commit, as a `Future` without a runtime; `None` after the end. Dropping the future
    /// loses no commit.
    ///
    /// ```
    /// # use hightower_engine::SingleNodeEngine;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let mut feed = engine.watch_prefix("jobs/", engine.latest_seq())?;
    /// let serve = async move {
    ///     while let Some(commit) = feed.next_async().await? {
    ///         for change in commit.changes() {
    ///             println!("{} at {}", change.key().escape_ascii(), commit.seqno());
    ///         }
    ///     }
    ///     Ok::<(), hightower_engine::Error>(())
    /// };
    /// # drop(serve);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    pub async fn next_async(&mut self) -> Result<Option<FeedCommit>> {
        poll_fn(|context| self.poll_next(context)).await.transpose()
    }

    /// The next commit, for an asynchronous stream: `futures::stream::poll_fn(move |context|
    /// feed.poll_next(context))` is one. `None` after the end.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<FeedCommit>>> {
        self.signal.clear_for(context.waker());
        match self.try_next().transpose() {
            None if !self.has_ended() => Poll::Pending,
            next => Poll::Ready(next),
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.mode, FeedMode::Ended)
    }

    /// The signal that ends a wait.
    pub(crate) fn signal(&self) -> &Arc<FeedSignal> {
        &self.signal
    }

    /// Waits for the next commit while `goes_on`; the signal lets it ask again.
    pub(crate) fn next_while(&mut self, goes_on: impl Fn() -> bool) -> Result<Option<FeedCommit>> {
        self.wait_until(None, goes_on)
    }

    fn wait_until(&mut self, deadline: Option<Duration>, goes_on: impl Fn() -> bool) -> Result<Option<FeedCommit>> {
        loop {
            self.signal.clear();
            if !goes_on() {
                return Ok(None);
            }
            let next = self.try_next()?;
            if next.is_some() || self.has_ended() {
                return Ok(next);
            }
            if planted("signal_cleared_after_looking") {
                self.signal.clear();
            }
            self.hub.refuse_own_thread()?;
            let left = deadline.map(|deadline| self.hub.time_to(deadline));
            if left == Some(Duration::ZERO) || !self.signal.wait(left) {
                return self.try_next();
            }
        }
    }

    fn find_next(&mut self) -> Result<Option<FeedCommit>> {
        loop {
            if self.has_ended() {
                return Ok(None);
            }
            self.hub.check_open()?;
            match &mut self.mode {
                FeedMode::Ended => return Ok(None),
                FeedMode::Reading(_) => {
                    let next = self.read_next()?;
                    if next.is_some() || self.has_ended() {
                        return Ok(next);
                    }
                }
                FeedMode::Following(places) => {
                    if let Some(place) = places.pop_front() {
                        return self.read_place(&place).map(Some);
                    }
                    match self.hub.take(self.reach, self.id, places) {
                        (Taken::Places, _) => {}
                        (Taken::Overflow(cursor), _) => self.mode = FeedMode::Reading(cursor),
                        (Taken::Nothing, examined) => {
                            self.seqno = self.seqno.max(examined);
                            return Ok(None);
                        }
                    }
                }
            }
        }
    }

    /// Reads the log up to the next commit with a change in the range. `None` when it has begun to
    /// follow, or has ended.
    fn read_next(&mut self) -> Result<Option<FeedCommit>> {
        let FeedMode::Reading(cursor) = &mut self.mode else { return Ok(None) };
        loop {
            if cursor.next_seq() > self.limit {
                self.limit = self.hub.limit(self.reach);
            }
            let (segment_before, limit) = (cursor.base_seq(), self.limit);
            let Some(commit) = next_commit(cursor, self.hub.log(), limit, &self.range)? else {
                self.seqno = self.seqno.max(limit);
                if self.hub.is_read_only() {
                    self.mode = FeedMode::Ended;
                    return Ok(None);
                }
                self.hub.follow(self.reach, self.id, cursor);
                self.mode = FeedMode::Following(VecDeque::new());
                return Ok(None);
            };
            let seq = commit.seqno();
            if cursor.base_seq() != segment_before {
                self.hub.note_read(self.reach, self.id, seq - 1);
            }
            if seq <= self.seqno && !planted("resumed_at_the_commit") {
                continue;
            }
            self.seqno = seq;
            if !commit.is_empty() {
                return Ok(Some(commit));
            }
        }
    }

    /// The commit at a place that the hub has found.
    fn read_place(&mut self, place: &CommitPlace) -> Result<FeedCommit> {
        let segment = place.segment();
        let segment = segment.ok_or_else(|| Error::HistoryLost { oldest: self.hub.log().complete_after() })?;
        let mut changes = Vec::new();
        read_commit(&segment, place.offset, |offset, command| {
            if self.range.contains(command.key()) {
                changes.push(ChangeRecord::of(offset, command));
            }
        })?;
        self.seqno = place.seq;
        Ok(FeedCommit::new(place.seq, segment, changes))
    }
}

/// Reads the next commit up to `limit`, with its changes in the range; there may be none.
pub(crate) fn next_commit(
    cursor: &mut LogCursor,
    log: &FeedLog,
    limit: u64,
    range: &WatchedRange,
) -> Result<Option<FeedCommit>> {
    let mut changes = Vec::new();
    let next = cursor.next(log, limit, |offset, command| {
        if range.contains(command.key()) {
            changes.push(ChangeRecord::of(offset, command));
        }
    })?;
    Ok(next.map(|(seq, _, segment)| FeedCommit::new(seq, segment, changes)))
}

/// Waits for each commit. After an error or the end it returns `None`. In a store that is open for
/// reading only, the feed ends with the log.
impl Iterator for ChangeFeed {
    type Item = Result<FeedCommit>;

    fn next(&mut self) -> Option<Self::Item> {
        self.wait_until(None, || true).transpose()
    }
}

impl FusedIterator for ChangeFeed {}

impl fmt::Debug for ChangeFeed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ChangeFeed")
            .field("seqno", &self.seqno)
            .field("reach", &self.reach)
            .finish_non_exhaustive()
    }
}

impl Drop for ChangeFeed {
    fn drop(&mut self) {
        self.hub.remove(self.reach, self.id);
    }
}
