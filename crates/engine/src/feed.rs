//! The change feed: the commits of the log in order, for readers that follow it.
//!
//! | file | content |
//! | --- | --- |
//! | `change_feed.rs`, `subscription.rs`, `commit.rs` | the feed, as a function that it calls, and its commits |
//! | `hub.rs`, `lane.rs`, `watched_range.rs` | new commits are read once for all feeds that have caught up |
//! | `log.rs`, `cursor.rs` | the segments of commits in order, and reading them |
//! | `bell.rs`, `signal.rs` | the signals from writers to the hub, and from the hub to a waiting feed |

mod bell;
mod change_feed;
mod commit;
mod cursor;
mod hub;
mod lane;
mod log;
mod signal;
mod subscription;
mod watched_range;

pub(crate) use bell::FeedBell;
pub use change_feed::ChangeFeed;
pub(crate) use change_feed::{FeedStart, next_commit};
pub use commit::{ChangeKind, FeedChange, FeedCommit};
pub(crate) use cursor::LogCursor;
pub use hub::FeedStats;
pub(crate) use hub::{FeedHub, FeedParts, FeedReach};
pub(crate) use log::FeedLog;
pub use subscription::FeedSubscription;
pub(crate) use watched_range::WatchedRange;
