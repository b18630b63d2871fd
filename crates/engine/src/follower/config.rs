//! The settings of a follower.

use std::path::PathBuf;
use std::time::Duration;

/// The settings of a [`Follower`](crate::Follower).
///
/// ```
/// use std::time::Duration;
/// use hightower_engine::FollowerConfig;
///
/// let config = FollowerConfig::at("store").with_refresh_interval(Duration::from_millis(5));
/// assert_eq!(config.refresh_interval, Duration::from_millis(5));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FollowerConfig {
    /// The directory of the store.
    pub data_dir: PathBuf,
    /// A thread catches up again and again, with this pause. Catching up costs a few system calls
    /// if nothing has changed. Default: zero, which means no thread: only
    /// [`catch_up`](crate::Follower::catch_up) moves the follower.
    pub refresh_interval: Duration,
    /// Maximum number of bytes of the log that the follower keeps for its own
    /// [feeds](crate::Follower::watch) after the writer has removed it. A slower feed ends with
    /// [`Error::HistoryLost`](crate::Error::HistoryLost). Default: 256 MiB.
    pub max_feed_lag_bytes: u64,
}

impl FollowerConfig {
    /// The default settings for a directory.
    ///
    /// Example: [`FollowerConfig`].
    #[must_use]
    pub fn at(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), refresh_interval: Duration::ZERO, max_feed_lag_bytes: 256 << 20 }
    }

    /// The same with [`refresh_interval`](Self::refresh_interval).
    ///
    /// Example: [`FollowerConfig`].
    #[must_use]
    pub fn with_refresh_interval(mut self, refresh_interval: Duration) -> Self {
        self.refresh_interval = refresh_interval;
        self
    }

    /// The same with [`max_feed_lag_bytes`](Self::max_feed_lag_bytes).
    ///
    /// ```
    /// # use hightower_engine::FollowerConfig;
    /// assert_eq!(FollowerConfig::at("store").with_max_feed_lag_bytes(0).max_feed_lag_bytes, 0);
    /// ```
    #[must_use]
    pub fn with_max_feed_lag_bytes(mut self, max_feed_lag_bytes: u64) -> Self {
        self.max_feed_lag_bytes = max_feed_lag_bytes;
        self
    }
}
