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
}

impl FollowerConfig {
    /// The default settings for a directory.
    ///
    /// Example: [`FollowerConfig`].
    #[must_use]
    pub fn at(data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), refresh_interval: Duration::ZERO }
    }

    /// The same with [`refresh_interval`](Self::refresh_interval).
    ///
    /// Example: [`FollowerConfig`].
    #[must_use]
    pub fn with_refresh_interval(mut self, refresh_interval: Duration) -> Self {
        self.refresh_interval = refresh_interval;
        self
    }
}
