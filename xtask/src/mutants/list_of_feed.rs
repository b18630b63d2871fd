//! The planted bugs of the change feed.

use super::catcher::{Catcher, ENGINE_CRASHES, Mutant, Shows, caught, plain, within_engine};
use crate::cfgs::Cfgs;

/// One rule of the feed.
const fn rule(filter: &'static str) -> Catcher {
    plain("hightower-engine", "feed", filter)
}

/// Random histories beside a plain model.
const HISTORIES: Catcher = rule("every_history_is_told");

/// Feeds that begin anywhere in what compaction has removed.
const HISTORY: Catcher = rule("a_feed_begins_anywhere");

/// Feeds in thousands of orders of the threads.
const SCHEDULES: Catcher = Catcher { cfgs: Cfgs::Shuttle, ..plain("hightower-engine", "schedules", "feeds_") };

/// Feeds that sleep as the last commit comes.
const SLEEPS: Catcher = Catcher { cfgs: Cfgs::Shuttle, ..plain("hightower-engine", "schedules", "feeds_sleep") };

pub(super) const OF_FEED: &[Mutant] = &[
    caught("feeds_tear_batches", "a commit is returned as a whole", &[HISTORIES]),
    caught("resumed_at_the_commit", "a feed begins after its seqno", &[HISTORIES]),
    caught(
        "follower_begins_late",
        "no commit between reading and following is missed",
        &[rule("a_durable_feed_shows"), SCHEDULES],
    ),
    caught("followers_told_twice", "and none comes twice", &[rule("a_durable_feed_shows")]),
    Mutant {
        name: "bell_rung_before_the_commit",
        rule: "a wake-up comes after the commit is visible",
        shows: Shows::ByHanging,
        caught_by: &[rule("a_stream_is_woken"), SLEEPS],
    },
    Mutant {
        name: "bell_armed_after_looking",
        rule: "a hub that goes to sleep as a commit comes is woken by it",
        shows: Shows::ByHanging,
        caught_by: &[SLEEPS],
    },
    Mutant {
        name: "signal_cleared_after_looking",
        rule: "and so is a feed",
        shows: Shows::ByHanging,
        caught_by: &[SLEEPS],
    },
    caught("overflow_drops", "a feed with a full ring reads on by itself", &[rule("a_feed_with_a_full_ring")]),
    caught("ring_without_bound", "a ring is bounded", &[within_engine("the_memory_of_a_slow_reader")]),
    caught(
        "only_own_end_of_a_range",
        "a key is looked up among all ranges that may hold it",
        &[within_engine("the_index_finds_the_ranges")],
    ),
    caught(
        "removed_feeds_stay_in_the_index",
        "the index of watched ranges forgets feeds that are gone",
        &[within_engine("the_index_stays_small")],
    ),
    caught(
        "subscription_outlives_its_handle",
        "dropping its handle ends a feed that waits",
        &[rule("dropping_the_handle_ends")],
    ),
    caught("durable_feed_shows_all", "a durable feed returns what is durable", &[rule("a_durable_feed_shows")]),
    caught(
        "nothing_kept_for_feeds",
        "compaction keeps what an open feed has not read",
        &[rule("compaction_keeps_what_an_open_feed"), HISTORIES],
    ),
    caught(
        "lag_up_to_the_next_segment",
        "a feed at the end of a segment that is gone has not lost the next one, though seqnos jump",
        &[within_engine("a_reader_at_the_end_of_a_segment")],
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
    caught("history_is_garbage", "what is kept as history stays until it is given up", &[HISTORY]),
    caught("history_without_bound", "the history has a bound in bytes", &[rule("the_history_is_bounded_in_bytes")]),
    caught("history_without_age", "and one in age", &[rule("the_history_is_bounded_in_age")]),
    caught("given_up_history_stays_named", "and then its files go", &[rule("the_history_is_bounded_in_bytes")]),
    caught("history_fills_the_device", "the history gives way", &[rule("a_full_device_and_the_quota")]),
    caught("copies_promise_history", "a copy has the content alone", &[rule("a_copy_has_no_history")]),
    caught(
        "lost_commits_forgotten",
        "and which commits a crash has taken",
        &[rule("a_feed_cannot_resume_at_a_commit"), ENGINE_CRASHES],
    ),
];
