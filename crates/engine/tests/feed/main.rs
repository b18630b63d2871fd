//! The change feed beside a plain model: every commit once, in order, and whole.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::cast_possible_truncation, reason = "a test")]

#[path = "../common/mod.rs"]
mod common;
mod histories;
mod retention;
mod rules;
mod subscriptions;
mod threads;
mod waits;

use hightower_engine::{ChangeFeed, ChangeKind, FeedCommit, Result};

/// A change: key, value unless it is a delete, and version.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>, u64);

/// A commit as the model knows it.
pub(crate) type Commit = (u64, Vec<Change>);

/// A commit of a feed, with all values.
pub(crate) fn seen(commit: &FeedCommit) -> Commit {
    assert!(!commit.is_empty());
    let change = |change: hightower_engine::FeedChange<'_>| {
        let value = change.value().unwrap().map(|value| value.to_vec());
        assert_eq!(value.is_some(), change.kind() == ChangeKind::Set);
        (change.key().to_vec(), value, change.version())
    };
    (commit.seqno(), commit.changes().map(change).collect())
}

/// All commits that the feed has now.
pub(crate) fn drain(feed: &mut ChangeFeed) -> Result<Vec<Commit>> {
    let mut commits = Vec::new();
    while let Some(commit) = feed.try_next()? {
        commits.push(seen(&commit));
    }
    Ok(commits)
}
