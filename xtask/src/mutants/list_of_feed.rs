//! The planted bugs of the change feed.

use super::catcher::{Catcher, ENGINE_CRASHES, Mutant, caught, plain, within_engine};
use crate::cfgs::Cfgs;

/// One rule of the feed.
const fn rule(filter: &'static str) -> Catcher {
    plain("hightower-engine", "feed", filter)
}

/// Random histories beside a plain model.
const HISTORIES: Catcher = rule("every_history_is_told");

/// Feeds in thousands of orders of the threads.
const SCHEDULES: Catcher = Catcher { cfgs: Cfgs::Shuttle, ..plain("hightower-engine", "schedules", "feeds_") };

pub(super) const OF_FEED: &[Mutant] = &[
    caught("feeds_tear_batches", "a commit is returned as a whole", &[HISTORIES]),
    caught("resumed_at_the_commit", "a feed begins after its seqno", &[HISTORIES]),
    caught(
        "follower_begins_late",
        "no commit between reading and following is missed",
        &[rule("a_durable_feed_shows"), SCHEDULES],
    ),
    caught("followers_told_twice", "and none comes twice", &[rule("a_durable_feed_shows")]),
    caught("overflow_drops", "a feed with a full ring reads on by itself", &[rule("a_feed_with_a_full_ring")]),
    caught("ring_without_bound", "a ring is bounded", &[within_engine("the_memory_of_a_slow_reader")]),
    caught(
        "only_own_end_of_a_range",
        "a key is looked up among all ranges that may hold it",
        &[within_engine("the_index_finds_the_ranges")],
    ),
    caught("durable_feed_shows_all", "a durable feed returns what is durable", &[rule("a_durable_feed_shows")]),
    caught(
        "nothing_kept_for_feeds",
        "compaction keeps what an open feed has not read",
        &[rule("compaction_keeps_what_an_open_feed"), HISTORIES],
    ),
    caught("lag_without_bound", "but not without bound", &[rule("a_feed_that_lags_too_far")]),
    caught(
        "lost_segments_skipped",
        "a feed never goes on behind a removed segment that it has not read",
        &[rule("a_feed_in_a_removed_segment"), HISTORIES],
    ),
    caught(
        "history_stays_complete",
        "the manifest records which commits compaction has removed",
        &[rule("history_stays_lost_after_an_open"), ENGINE_CRASHES],
    ),
    caught(
        "lost_commits_forgotten",
        "and which commits a crash has taken",
        &[rule("a_feed_cannot_resume_at_a_commit"), ENGINE_CRASHES],
    ),
];
