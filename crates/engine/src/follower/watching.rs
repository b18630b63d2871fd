//! Change feeds of a follower.

use crate::bounds::KeyBounds;
use crate::error::Result;
use crate::feed::WatchedRange;
use crate::follower::feed_source::NewFeed;
use crate::follower::{Follower, FollowerFeed};
use crate::keyspace::{CatalogueRecord, KeyspaceId, StoredBounds};

/// # Watching
///
/// As in a [`SingleNodeEngine`](crate::SingleNodeEngine#watching), but a process that reads.
impl Follower {
    /// The commits after `after_seqno` that change keys in `bounds`, and all later ones. Begin with
    /// [`latest_seq`](Self::latest_seq) for what is new, with [`Snapshot::seq`] for what a snapshot
    /// lacks, with [`FollowerFeed::seqno`] for what an earlier feed has not returned.
    ///
    /// Catches up. The first feed opens the segments that the writer keeps as history.
    ///
    /// Example: [`FollowerFeed`].
    ///
    /// [`Snapshot::seq`]: crate::Snapshot::seq
    ///
    /// # Errors
    ///
    /// [`Error::HistoryLost`](crate::Error::HistoryLost) if the log no longer has all commits after
    /// `after_seqno`; [`Error::Diverged`](crate::Error::Diverged) if `after_seqno` lies behind the end
    /// of the log, or a crash has taken that commit; as [`catch_up`](Self::catch_up).
    pub fn watch(&self, bounds: impl KeyBounds, after_seqno: u64) -> Result<FollowerFeed> {
        let (from, to) = bounds.key_bounds();
        self.feed(&KeyspaceId::DEFAULT.stored_bounds(from, to), after_seqno)
    }

    /// As [`watch`](Self::watch), for the keys with a prefix.
    ///
    /// Example: [`FollowerFeed`].
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub fn watch_prefix(&self, prefix: impl AsRef<[u8]>, after_seqno: u64) -> Result<FollowerFeed> {
        self.feed(&KeyspaceId::DEFAULT.stored_prefix(prefix.as_ref()), after_seqno)
    }

    /// As [`watch`](Self::watch), for the keys of the keyspace that has this name now.
    ///
    /// ```
    /// # use hightower_engine::{Follower, KeyspaceOptions, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let jobs = engine.create_keyspace("jobs", KeyspaceOptions::default())?;
    /// let follower = Follower::open(dir.path())?;
    /// let mut feed = follower.watch_keyspace("jobs", .., follower.latest_seq())?;
    /// engine.put("1", "of the default keyspace")?;
    /// jobs.put("1", "queued")?;
    /// let commit = feed.try_next()?.unwrap();
    /// assert_eq!(commit.changes().next().unwrap().keyspace(), jobs.id());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::KeyspaceNotFound`](crate::Error::KeyspaceNotFound), and as [`watch`](Self::watch).
    pub fn watch_keyspace(&self, name: &str, bounds: impl KeyBounds, after_seqno: u64) -> Result<FollowerFeed> {
        let feed = self.pursuit.add_feed(after_seqno)?;
        // The follower has caught up.
        let system = self.snapshot()?.of(KeyspaceId::SYSTEM);
        let keyspace = CatalogueRecord::find(name, |key| system.get(key))?.id;
        let (from, to) = bounds.key_bounds();
        self.feed_of(feed, &keyspace.stored_bounds(from, to))
    }

    /// As [`watch`](Self::watch), for the keys of all keyspaces, those of the store itself included,
    /// and [reserved ones](crate::ReservedKeyspace), such as the records of an authentication
    /// service.
    ///
    /// # Errors
    ///
    /// As [`watch`](Self::watch).
    pub fn watch_all(&self, after_seqno: u64) -> Result<FollowerFeed> {
        self.feed(&StoredBounds::all(), after_seqno)
    }

    fn feed(&self, bounds: &StoredBounds<'_>, after_seqno: u64) -> Result<FollowerFeed> {
        self.feed_of(self.pursuit.add_feed(after_seqno)?, bounds)
    }

    fn feed_of(&self, feed: NewFeed, bounds: &StoredBounds<'_>) -> Result<FollowerFeed> {
        FollowerFeed::new(&self.pursuit, WatchedRange::of(bounds), feed)
    }
}
