//! The planted bugs of followers.

use super::catcher::{Catcher, Mutant, caught, plain};

/// Random histories of a writer, with a follower beside it.
const AFTER_STEPS: Catcher = plain("hightower-engine", "follower", "prefix_after_each_step");
const BETWEEN_CALLS: Catcher = plain("hightower-engine", "follower", "prefix_before_each_call");

const fn feeds(test: &'static str) -> Catcher {
    plain("hightower-engine", "follower", test)
}

pub(super) const OF_FOLLOWERS: &[Mutant] = &[
    caught(
        "follower_adopts_tables_early",
        "a follower takes tables over when it has replayed what they cover",
        &[BETWEEN_CALLS],
    ),
    caught("follower_counts_incomplete_commits", "a commit counts when all of it is in the log", &[BETWEEN_CALLS]),
    caught(
        "follower_keeps_the_old_view",
        "segments that compaction has removed are readable while a view leads to them",
        &[AFTER_STEPS],
    ),
    caught(
        "followers_skip_retained",
        "a follower starts anew if commits that it lacks are only in survivors and in history",
        &[AFTER_STEPS],
    ),
    caught(
        "follower_keeps_nothing_for_feeds",
        "a follower keeps what its feeds have not read",
        &[feeds("keeps_what_its_feeds")],
    ),
    caught(
        "follower_feed_leaves_its_log_early",
        "a new start of a follower loses nothing that it has kept for a feed",
        &[feeds("a_new_start")],
    ),
    caught(
        "follower_keeps_replaced_logs",
        "what feeds keep is bounded, also in the log of before a new start",
        &[feeds("a_new_start")],
    ),
    caught("follower_feed_told_twice", "a follower's feed returns each commit once", &[AFTER_STEPS]),
    caught(
        "follower_feed_of_another_store",
        "a feed of a store that was replaced has diverged",
        &[feeds("a_feed_of_another_store")],
    ),
    caught(
        "follower_feed_forgets_losses",
        "no feed begins at a commit that a crash has taken",
        &[feeds("no_feed_begins_at_a_commit")],
    ),
    caught("follower_ignores_divergence", "a follower says when the store has lost what it shows", &[AFTER_STEPS]),
];
