//! The planted bugs of keyspaces.

use super::catcher::{Catcher, Mutant, caught, plain, within_engine};
use crate::cfgs::Cfgs;

/// One rule of keyspaces.
const fn rule(filter: &'static str) -> Catcher {
    plain("hightower-engine", "keyspace_rules", filter)
}

const fn schedule(filter: &'static str) -> Catcher {
    Catcher { cfgs: Cfgs::Shuttle, ..plain("hightower-engine", "schedules", filter) }
}

const fn quota(filter: &'static str) -> Catcher {
    plain("hightower-engine", "keyspace_quotas", filter)
}

/// Random histories of keyspaces, beside plain maps.
const HISTORIES: Catcher = plain("hightower-engine", "keyspace_histories", "keyspaces_have_what");

pub(super) const OF_KEYSPACES: &[Mutant] = &[
    caught(
        "default_keys_reach_other_keyspaces",
        "a key of the default keyspace is never one of another keyspace",
        &[within_engine("keyspace::stored_key")],
    ),
    caught(
        "default_range_shows_other_keyspaces",
        "a range of the default keyspace ends before the keys of others",
        &[within_engine("keyspace::stored_key"), HISTORIES],
    ),
    caught(
        "writes_to_dropped_keyspaces",
        "nothing is written into a dropped keyspace",
        &[rule("nothing_reads_or_writes_a_dropped")],
    ),
    caught(
        "drop_noted_after_the_commit",
        "a keyspace is dropped for writers from the commit on that drops it",
        &[schedule("drops_of_keyspaces_against_writers")],
    ),
    caught(
        "keyspaces_of_transactions_forgotten",
        "a transaction commits only if no keyspace that it has used was dropped",
        &[rule("nothing_reads_or_writes_a_dropped")],
    ),
    caught(
        "keyspaces_of_other_stores",
        "an id means a keyspace of its own store only",
        &[rule("a_keyspace_of_another_store")],
    ),
    caught("ids_used_again", "an id is never used again", &[HISTORIES]),
    caught(
        "dropped_keyspaces_forgotten",
        "the commit that drops a keyspace asks for the removal of its keys",
        &[HISTORIES, rule("a_removal_goes_on")],
    ),
    caught(
        "removal_ends_early",
        "a removal ends with the last key of the keyspace",
        &[rule("a_removal_goes_on"), rule("the_background_removes")],
    ),
    caught(
        "removal_of_others_not_awaited",
        "a full compaction removes dropped keys that the background is about to remove",
        &[rule("writers_beside_a_drop")],
    ),
    caught(
        "auth_keyspaces_unchecked",
        "a principal's rights are about one keyspace",
        &[plain("hightower-auth", "service", "the_authorized_engine_checks")],
    ),
    caught(
        "reserved_keyspace_is_the_default_one",
        "no key of a user reaches the records of a layer",
        &[plain("hightower-auth", "views", "no_key_of_a_user_reaches_the_records"), rule("names_are_short_text")],
    ),
    caught(
        "reserved_keyspaces_cleared",
        "a reserved keyspace is not cleared or dropped",
        &[rule("names_are_short_text")],
    ),
    caught(
        "quota_trusts_the_first_look",
        "a commit under a quota is counted against the keys as they are at its commit",
        &[quota("of_racing_writers"), schedule("counts_of_keyspaces_against_writers")],
    ),
    caught(
        "quota_forgets_commits_of_a_count",
        "the commits after the snapshot that a count scans are counted",
        &[schedule("counts_of_keyspaces_against_writers")],
    ),
    caught(
        "quota_keeps_damaged_values",
        "a delete under a quota needs no look-up",
        &[quota("a_damaged_value_under_a_quota")],
    ),
    caught("quota_of_the_first_key_only", "each key of a batch counts", &[quota("quotas_hold_as_in_plain_maps")]),
    caught(
        "quota_refuses_what_shrinks",
        "a quota refuses only what grows",
        &[quota("what_exceeds_is_refused_whole"), quota("quotas_hold_as_in_plain_maps")],
    ),
    caught(
        "ranges_of_keyspaces_merged",
        "neighbouring ranges of two keyspaces are two requirements",
        &[rule("a_refusal_names_the_keyspace")],
    ),
];
