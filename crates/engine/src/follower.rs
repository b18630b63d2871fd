//! A reader of a store that another process writes.

mod config;
mod feed;
mod feed_source;
mod pursuit;
mod refresher;
mod replica;
mod stats;
mod watching;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hightower_index::pin;

use crate::bounds::KeyBounds;
use crate::components::Components;
use crate::error::{Error, Result};
use crate::files::io_error;
use crate::keyspace::with_default_key;
use crate::own_methods::reads_by_own_methods;
use crate::snapshot::{Range, Snapshot};
use crate::value::Value;

pub use config::FollowerConfig;
pub use feed::FollowerFeed;
use pursuit::{Pursuit, WAIT_STEP};
use refresher::Refresher;
pub use stats::FollowerStats;

/// A reader of a store that another process may be writing.
///
/// It needs only permission to read. It writes nothing, takes no lock, and no writer waits for it.
/// The writer may be running, dead, restarted, or compacting.
///
/// A follower shows the state after some commit, and never a part of a batch. It moves forward when
/// it [catches up](Self::catch_up), on demand or at an interval. It shows commits as soon as the
/// writer has written them, also those that a power loss can still take back.
///
/// It has the tables of the store, and in memory the keys of the commits behind them, as the writer
/// has: about 110 bytes for each of these keys. Segments that compaction has removed keep their
/// disk space until the follower has caught up and no snapshot of it needs them.
///
/// ```
/// use hightower_engine::{Follower, SingleNodeEngine};
///
/// # let dir = tempfile::tempdir().unwrap();
/// // In one process:
/// let engine = SingleNodeEngine::open(dir.path())?;
/// engine.put("a", "1")?;
///
/// // In another one:
/// let follower = Follower::open(dir.path())?;
/// assert_eq!(follower.get("a")?.unwrap(), "1");
/// engine.put("a", "2")?;
/// assert_eq!(follower.get("a")?.unwrap(), "1");
/// follower.catch_up()?;
/// assert_eq!(follower.get("a")?.unwrap(), "2");
/// # Ok::<(), hightower_engine::Error>(())
/// ```
pub struct Follower {
    pursuit: Arc<Pursuit>,
    /// Ends with the follower.
    refresher: Option<Refresher>,
}

impl Follower {
    /// Opens a store for following. [`catch_up`](Self::catch_up) moves it forward.
    ///
    /// Costs a read of the log behind the tables, and of the segments that are not sealed.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no store, [`Error::Corrupt`], [`Error::VersionUnsupported`],
    /// [`Error::Io`].
    pub fn open(data_dir: impl AsRef<Path>) -> Result<Self> {
        Self::with_config(FollowerConfig::at(data_dir.as_ref()))
    }

    /// As [`open`](Self::open), with settings.
    ///
    /// ```
    /// use std::time::Duration;
    /// use hightower_engine::{Follower, FollowerConfig, SingleNodeEngine};
    ///
    /// # let dir = tempfile::tempdir().unwrap();
    /// let engine = SingleNodeEngine::open(dir.path())?;
    /// let config = FollowerConfig::at(dir.path()).with_refresh_interval(Duration::from_millis(2));
    /// let follower = Follower::with_config(config)?;
    /// engine.put("a", "1")?;
    /// assert!(follower.wait_for(engine.latest_seq(), Duration::from_secs(10))?);
    /// assert_eq!(follower.get("a")?.unwrap(), "1");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn with_config(config: FollowerConfig) -> Result<Self> {
        Self::with_components(config, Components::default())
    }

    /// As [`with_config`](Self::with_config), with other components. It uses the file system, the
    /// clock and the random numbers.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn with_components(config: FollowerConfig, components: Components) -> Result<Self> {
        let pursuit = Arc::new(Pursuit::start(&config, components)?);
        let refresher = if config.refresh_interval.is_zero() {
            None
        } else {
            let started = Refresher::start(&pursuit, config.refresh_interval);
            Some(started.map_err(|source| io_error("start a thread for", &config.data_dir, source))?)
        };
        Ok(Self { pursuit, refresher })
    }

    /// Moves forward to the last complete commit in the files, and returns its seqno. A commit that
    /// the writer has returned before the call is included.
    ///
    /// Costs a few system calls if nothing has changed; otherwise a read and a replay of what was
    /// appended.
    ///
    /// # Errors
    ///
    /// [`Error::Diverged`] if the store no longer has the commits that the follower has shown: a
    /// power loss has taken them, or another store is in its place. The follower has then started
    /// anew, and already shows the store as it is now. With a
    /// [`refresh_interval`](FollowerConfig::refresh_interval), the next call returns the error.
    ///
    /// [`Error::Corrupt`], [`Error::Io`]: the follower still shows what it did, and can try again.
    pub fn catch_up(&self) -> Result<u64> {
        self.pursuit.catch_up()
    }

    /// Catches up until the follower shows the commit with this seqno, such as the
    /// [`latest_seq`](crate::SingleNodeEngine::latest_seq) of the writer after a write. `false` if
    /// it does not within `timeout`.
    ///
    /// # Errors
    ///
    /// As [`catch_up`](Self::catch_up).
    pub fn wait_for(&self, seqno: u64, timeout: Duration) -> Result<bool> {
        let deadline = self.pursuit.elapsed().saturating_add(timeout);
        loop {
            if self.catch_up()? >= seqno {
                return Ok(true);
            }
            let left = deadline.saturating_sub(self.pursuit.elapsed());
            if left.is_zero() {
                return Ok(false);
            }
            self.pursuit.pause(left.min(WAIT_STEP));
        }
    }

    /// The seqno of the last commit that it shows.
    ///
    /// ```
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// engine.put("a", "1")?;
    /// assert_eq!(Follower::open(dir.path())?.latest_seq(), engine.latest_seq());
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn latest_seq(&self) -> u64 {
        self.pursuit.read(&pin()).index.visible_seq()
    }

    /// The value of `key`. It takes no lock, and costs as much as
    /// [`SingleNodeEngine::get`](crate::SingleNodeEngine::get).
    ///
    /// Example: [`Follower`].
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if the record is damaged, [`Error::Forked`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>> {
        self.get_with(key, |value| Value::from(value))
    }

    /// Calls `use_value` with the value of `key`, without copying it.
    ///
    /// ```
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # SingleNodeEngine::open(dir.path())?.put("a", "12345")?;
    /// let follower = Follower::open(dir.path())?;
    /// assert_eq!(follower.get_with("a", |value| value.len())?, Some(5));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_with<R>(&self, key: impl AsRef<[u8]>, use_value: impl FnOnce(&[u8]) -> R) -> Result<Option<R>> {
        with_default_key(key.as_ref(), |key| self.pursuit.read(&pin()).read_latest(key, |value, _| use_value(value)))
    }

    /// The value of `key`, and its version.
    ///
    /// ```
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// let version = SingleNodeEngine::open(dir.path())?.put_versioned("a", "1")?;
    /// let follower = Follower::open(dir.path())?;
    /// assert_eq!(follower.get_versioned("a")?, Some(("1".into(), version)));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<(Value, u64)>> {
        with_default_key(key.as_ref(), |key| {
            self.pursuit.read(&pin()).read_latest(key, |value, version| (Value::from(value), version))
        })
    }

    /// Whether `key` has a value. It reads no value.
    ///
    /// ```
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # SingleNodeEngine::open(dir.path())?.put("a", "1")?;
    /// let follower = Follower::open(dir.path())?;
    /// assert!(follower.contains_key("a")? && !follower.contains_key("b")?);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub fn contains_key(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        with_default_key(key.as_ref(), |key| {
            let guard = pin();
            let read = self.pursuit.read(&guard);
            let found = read.index.state(&guard)?.get(key, &guard);
            Ok(read.version_of(key, &guard, found)?.is_some())
        })
    }

    /// The keys in `bounds`, in key order, from either end, as of one commit.
    ///
    /// ```
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// # ["a", "b", "c"].iter().try_for_each(|key| engine.put(key, "").map(drop))?;
    /// let follower = Follower::open(dir.path())?;
    /// assert_eq!(follower.range("b"..)?.rev().next().unwrap()?.key(), b"c");
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn range(&self, bounds: impl KeyBounds) -> Result<Range> {
        Ok(self.snapshot()?.range(bounds))
    }

    /// The keys with the prefix `prefix`, otherwise as [`range`](Self::range).
    ///
    /// ```
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # SingleNodeEngine::open(dir.path())?.put("jobs/1", "queued")?;
    /// let follower = Follower::open(dir.path())?;
    /// assert_eq!(follower.prefix("jobs/")?.count(), 1);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// As [`range`](Self::range).
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Range> {
        Ok(self.snapshot()?.prefix(prefix))
    }

    /// A snapshot of what the follower shows now. It stays as it is when the follower catches up,
    /// and outlives it.
    ///
    /// ```
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// let follower = Follower::open(dir.path())?;
    /// let before = follower.snapshot()?;
    /// engine.put("a", "1")?;
    /// follower.catch_up()?;
    /// assert!(follower.contains_key("a")? && !before.contains_key("a")?);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Forked`].
    pub fn snapshot(&self) -> Result<Snapshot> {
        Snapshot::new(&self.pursuit.read_path())
    }

    /// The number of keys with a value. It costs a pass over all keys, but reads no value.
    ///
    /// ```
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # SingleNodeEngine::open(dir.path())?.put("a", "1")?;
    /// assert_eq!(Follower::open(dir.path())?.len()?, 1);
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] if a table is damaged, [`Error::Forked`].
    pub fn len(&self) -> Result<u64> {
        self.snapshot()?.iter().count_keys()
    }

    /// Whether no key has a value. It looks for the first key only.
    ///
    /// # Errors
    ///
    /// As [`len`](Self::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.snapshot()?.iter().next().transpose()?.is_none())
    }

    /// What the follower holds, and how far it has come. It waits while a
    /// [`catch_up`](Self::catch_up) runs.
    ///
    /// ```
    /// # use hightower_engine::{Follower, SingleNodeEngine};
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let engine = SingleNodeEngine::open(dir.path())?;
    /// # engine.put("a", "1")?;
    /// let stats = Follower::open(dir.path())?.stats();
    /// assert_eq!((stats.seqno, stats.divergences), (engine.latest_seq(), 0));
    /// # Ok::<(), hightower_engine::Error>(())
    /// ```
    #[must_use]
    pub fn stats(&self) -> FollowerStats {
        self.pursuit.stats()
    }
}

reads_by_own_methods!({} Follower);

impl fmt::Debug for Follower {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Follower")
            .field("seqno", &self.latest_seq())
            .field("refreshes", &self.refresher.is_some())
            .finish_non_exhaustive()
    }
}

/// Callers may send it to other threads and share it.
const _: () = {
    const fn is_shared<T: Send + Sync + ?Sized>() {}
    is_shared::<Follower>();
    is_shared::<Error>();
};
