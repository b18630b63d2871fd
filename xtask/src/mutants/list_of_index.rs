//! The planted bugs of the index and of the state.

use super::catcher::{Catcher, Mutant, caught, engine, plain, within_engine};
use crate::cfgs::Cfgs;

const HISTORY: Catcher =
    Catcher { variables: &[("HIGHTOWER_TEST_CASES", "400")], ..plain("hightower-state", "history", "every_snapshot") };
const INDEX_THREADS: Catcher = plain("hightower-index", "threads", "");
/// Hashers that collide, lie and panic.
const fn hostile(filter: &'static str) -> Catcher {
    plain("hightower-index", "hostile", filter)
}
const INDEX_MODEL: Catcher = plain("hightower-index", "model_check", "every_node_grows_and_shrinks");
const fn model_of_state(filter: &'static str) -> Catcher {
    Catcher { cfgs: Cfgs::Loom, ..plain("hightower-state", "lib", filter) }
}
const fn model_of_index(filter: &'static str) -> Catcher {
    Catcher { cfgs: Cfgs::Loom, ..plain("hightower-index", "loom", filter) }
}
const fn model_in_index(filter: &'static str) -> Catcher {
    Catcher { cfgs: Cfgs::Loom, ..plain("hightower-index", "lib", filter) }
}

pub(super) const OF_INDEX_AND_STATE: &[Mutant] = &[
    // The state.
    caught(
        "equal_version_wins",
        "an equal version is stale",
        &[plain("hightower-state", "model", ""), engine("versions_decide_whatever_the_order")],
    ),
    caught(
        "register_without_fence",
        "a snapshot's claim is seen before it reads the seq",
        &[model_of_state("a_snapshot_is_never_older_than_what_was_read_before_it")],
    ),
    caught(
        "retain_without_fence",
        "a commit is seen before the claims are read",
        &[model_of_state("a_snapshot_reads_its_own_seq_through_two_commits")],
    ),
    caught(
        "undo_unchecked",
        "an undo slot is read again before it is believed",
        &[model_of_state("a_snapshot_reads_its_own_seq_through_two_commits")],
    ),
    caught("undo_ignored", "a reader that is too early finds the old version", &[HISTORY]),
    caught(
        "version_unchecked",
        "a plain read never mixes two versions",
        &[model_of_state("plain_reads_never_go_back")],
    ),
    caught(
        "seq_first",
        "a reader loads the location before the seq",
        &[model_of_state("a_snapshot_reads_its_own_seq_through_two_commits")],
    ),
    caught(
        "location_before_seq",
        "a writer stores the seq before the location",
        &[model_of_state("a_snapshot_reads_its_own_seq_through_two_commits")],
    ),
    caught("pending_unchecked", "a plain read takes only what is published", &[HISTORY]),
    caught("never_pending", "what is not published is marked", &[HISTORY]),
    caught(
        "settled_before_published",
        "the mark goes after the seq is published",
        &[model_of_state("a_snapshot_is_never_older_than_what_was_read_before_it")],
    ),
    caught("retention_missed", "an old version stays while a snapshot reads it", &[HISTORY]),
    caught("needs_off_by_one", "the last snapshot before a version counts as its predecessor's reader", &[HISTORY]),
    caught("tombstone_removed_early", "a tombstone stays while a snapshot reads what was before it", &[HISTORY]),
    caught("list_forgotten", "what an ended snapshot kept is gone through", &[HISTORY]),
    caught("older_not_relocated", "compaction moves older versions too", &[HISTORY]),
    caught("retirement_ignored", "an iterator hands out no place that was retired", &[HISTORY]),
    caught(
        "cursor_given_again",
        "what comes after a cursor leaves the cursor out",
        &[plain("hightower-engine", "ranges", "cursor"), plain("hightower-engine", "ranges", "pages")],
    ),
    caught(
        "update_without_look",
        "no update is lost",
        &[plain("hightower-engine", "writes", "no_update_is_lost"), plain("hightower-engine", "writes", "takers")],
    ),
    // The index.
    caught(
        "missed_publish",
        "a leaf is put into its slot with release",
        &[model_of_index("a_lookup_sees_a_whole_leaf_or_none")],
    ),
    caught("early_free", "garbage waits for the epochs", &[INDEX_THREADS]),
    caught(
        "visible_too_soon",
        "a node is published after its children are in it",
        &[model_of_index("a_walk_sees_a_node_replaced_whole")],
    ),
    caught("slot_lost", "no leaf is left behind when a segment grows", &[INDEX_MODEL]),
    caught(
        "any_leaf_replaced",
        "the tree replaces the leaf that it was sent for, or none",
        &[hostile("whatever_a_hasher")],
    ),
    caught(
        "any_leaf_removed",
        "the tree removes the leaf that it was sent for, or none",
        &[hostile("a_leaf_is"), hostile("whatever_a_hasher")],
    ),
    caught("bulk_published_early", "a bulk build is there as a whole or not at all", &[hostile("a_bulk_build_is")]),
    caught(
        "pin_panics",
        "whoever takes a guard does not panic for what it frees",
        &[plain("hightower-index", "drops", "whoever_takes_a_guard")],
    ),
    caught("panic_leaks_a_batch", "a drop that panics keeps no other value alive", &[hostile("a_drop_that")]),
    caught("hint_lost", "a leaf takes its hint along when a segment grows", &[INDEX_MODEL]),
    caught(
        "relocation_keeps_hint",
        "a hint follows a record that compaction moves",
        &[plain("hightower-state", "hints", "moved"), within_engine("hints_are_right")],
    ),
    caught("hint_not_renewed", "a hint follows the location that it is of", &[plain("hightower-state", "hints", "")]),
    caught(
        "bulk_slot_lost",
        "no leaf is left behind when a table is filled at once",
        &[plain("hightower-index", "bulk", "")],
    ),
    caught(
        "bulk_in_small_pages",
        "a bulk build takes its memory in regions, which can be huge pages",
        &[plain("hightower-index", "lib", "bulk")],
    ),
    caught(
        "tag_emptied",
        "a removed slot stays a grave while something may lie behind it",
        &[plain("hightower-index", "model_check", "")],
    ),
    caught(
        "guard_without_fence",
        "a guard is announced before anything is read under it",
        &[model_in_index("collector")],
    ),
    caught("freed_a_step_early", "what is sealed waits two steps of the epoch", &[model_in_index("collector")]),
    caught(
        "halves_stay_large",
        "a split leaves no large segment that nothing would make smaller",
        &[plain("hightower-index", "model_check", "hashes_that_begin_alike_leave_nothing_behind")],
    ),
];
