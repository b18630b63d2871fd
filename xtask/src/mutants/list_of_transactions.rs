//! The planted bugs of transactions and of batches that require ranges unchanged.

use super::catcher::{Catcher, Mutant, caught, plain, within_engine};
use crate::cfgs::Cfgs;

/// One rule of transactions.
const fn rule(filter: &'static str) -> Catcher {
    plain("hightower-engine", "transactions", filter)
}

/// One rule of required ranges.
const fn range_rule(filter: &'static str) -> Catcher {
    plain("hightower-engine", "range_requirements", filter)
}

const fn schedule(filter: &'static str) -> Catcher {
    Catcher { cfgs: Cfgs::Shuttle, ..plain("hightower-engine", "schedules", filter) }
}

/// Random transactions of threads, checked for anomalies.
const HISTORIES: Catcher = plain("hightower-engine", "serializability", "every_history");

pub(super) const OF_TRANSACTIONS: &[Mutant] = &[
    caught("reads_not_validated", "a commit validates all reads", &[HISTORIES, rule("a_key_that_was_read_must")]),
    caught(
        "absent_reads_forgotten",
        "a key that was read as absent must not appear",
        &[rule("a_key_that_was_read_as_absent")],
    ),
    caught(
        "range_reads_forgotten",
        "a range that was read must not change: no phantoms",
        &[rule("no_key_appears_disappears_or_changes")],
    ),
    caught("end_of_range_unread", "a range that ended was read to its end", &[rule("no_key_appears_disappears")]),
    caught(
        "deletes_unnoticed_in_ranges",
        "a delete changes a range, also for write skew by deletes",
        &[rule("write_skew_is_a_conflict"), rule("no_key_appears_disappears_or_changes")],
    ),
    caught(
        "deletes_untold",
        "a watch is told the deletes of later commits",
        &[within_engine("a_watch_is_told_later_commits")],
    ),
    caught(
        "ranges_checked_before_the_lock_only",
        "ranges are valid under the commit lock, not only before",
        &[schedule("transactions"), HISTORIES],
    ),
    caught("walk_before_watch", "a watch begins before the walk over its ranges", &[schedule("transactions")]),
    caught("forgotten_changes_ignored", "the store never takes a forgotten change for none", &[range_rule("")]),
    caught("range_requirement_ignored", "a batch with a changed range is rejected", &[range_rule("")]),
    caught(
        "ranges_unchanged_since_the_future",
        "no range is unchanged since a seqno above the latest",
        &[range_rule("a_range_cannot_be_unchanged_since_the_future")],
    ),
    caught(
        "last_begun_range_only",
        "a watch finds the range of a key among many that overlap",
        &[within_engine("a_key_violates_the_first_requirement")],
    ),
    caught(
        "many_keys_under_the_lock",
        "a commit looks at most at 256 keys under the commit lock",
        &[rule("a_transaction_may_read_many_keys")],
    ),
    caught(
        "update_keeps_stale_reads",
        "an update runs again with new reads after a conflict",
        &[rule("update_repeats_until")],
    ),
    caught("own_write_unseen", "a transaction sees its own writes", &[rule("own_writes_are_seen")]),
    caught("own_writes_unseen_in_ranges", "also in ranges", &[rule("own_writes_are_seen")]),
    caught("own_deletes_unseen_in_ranges", "and its own deletes", &[rule("own_writes_are_seen")]),
    caught("merged_forwards_only", "ranges merge own writes from both ends", &[rule("own_writes_are_seen")]),
    caught("rollback_drops_reads", "a rollback keeps the reads", &[rule("savepoints_take_writes_back")]),
    caught("rollback_forgets_deletes", "a rollback brings own deletes back", &[rule("savepoints_take_writes_back")]),
    caught("transaction_without_limit", "a transaction's memory is bounded", &[rule("memory_is_bounded")]),
    caught(
        "forgotten_reads_committed",
        "a transaction that has forgotten its reads writes nothing",
        &[rule("memory_is_bounded")],
    ),
    caught(
        "tombstones_not_kept_for_transactions",
        "a queued transaction keeps the tombstones that its validation needs",
        &[rule("a_version_does_not_come_back_while_a_transaction_is_queued")],
    ),
    caught(
        "tombstone_not_kept_for_an_update",
        "an update of one key keeps the tombstone that its validation needs",
        &[plain("hightower-engine", "writes", "an_update_is_not_fooled")],
    ),
    caught(
        "auth_range_requirements_unchecked",
        "a required range needs the right to read it",
        &[plain("hightower-auth", "service", "")],
    ),
];
