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
        "a snapshot's claim is visible before it reads the seq",
        &[model_of_state("a_snapshot_is_never_older_than_what_was_read_before_it")],
    ),
    caught(
        "retain_without_fence",
        "a commit is visible before the writer reads the claims",
        &[model_of_state("a_snapshot_reads_its_own_seq_through_two_commits")],
    ),
    caught(
        "undo_unchecked",
        "an undo slot's label is checked again after the read",
        &[model_of_state("a_snapshot_reads_its_own_seq_through_two_commits")],
    ),
    caught("undo_ignored", "a reader of an earlier snapshot finds the old version in the undo slot", &[HISTORY]),
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
    caught("pending_unchecked", "a plain read accepts only published versions", &[HISTORY]),
    caught("never_pending", "an unpublished version is marked", &[HISTORY]),
    caught(
        "settled_before_published",
        "the mark is removed only after the seq is published",
        &[model_of_state("a_snapshot_is_never_older_than_what_was_read_before_it")],
    ),
    caught("retention_missed", "an old version stays while a snapshot reads it", &[HISTORY]),
    caught("needs_off_by_one", "the last snapshot before a version reads its predecessor", &[HISTORY]),
    caught("tombstone_removed_early", "a tombstone stays while a snapshot reads the previous version", &[HISTORY]),
    caught("list_forgotten", "the list of an ended snapshot is processed", &[HISTORY]),
    caught("older_not_relocated", "compaction moves older versions too", &[HISTORY]),
    caught("retirement_ignored", "an iterator returns no retired location", &[HISTORY]),
    caught(
        "cursor_given_again",
        "a page after a cursor does not repeat the cursor's key",
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
        "a node is published after its children are stored",
        &[model_of_index("a_walk_sees_a_node_replaced_whole")],
    ),
    caught("slot_lost", "no leaf is lost when a bucket grows", &[INDEX_MODEL]),
    caught("any_leaf_replaced", "the tree replaces exactly the given leaf, or none", &[hostile("whatever_a_hasher")]),
    caught(
        "any_leaf_removed",
        "the tree removes exactly the given leaf, or none",
        &[hostile("a_leaf_is"), hostile("whatever_a_hasher")],
    ),
    caught("bulk_published_early", "a bulk build appears whole or not at all", &[hostile("a_bulk_build_is")]),
    caught(
        "pin_panics",
        "taking a guard does not panic for a value that it frees",
        &[plain("hightower-index", "drops", "a_guard_or_the_end_of_a_thread")],
    ),
    caught("panic_leaks_a_batch", "a panicking drop does not leak other values", &[hostile("a_drop_that")]),
    caught("hint_lost", "a leaf keeps its hint when a bucket grows", &[INDEX_MODEL]),
    caught(
        "relocation_keeps_hint",
        "a hint follows a record that compaction moves",
        &[plain("hightower-state", "hints", "moved"), within_engine("hints_are_right")],
    ),
    caught("hint_not_renewed", "a hint is updated with its location", &[plain("hightower-state", "hints", "")]),
    caught(
        "others_actions_not_awaited",
        "whoever waits until memory is freed also waits for the threads that free it",
        &[plain("hightower-index", "synchronize", "")],
    ),
    caught("bulk_slot_lost", "no leaf is lost when a table is filled in bulk", &[plain("hightower-index", "bulk", "")]),
    caught(
        "bulk_in_small_pages",
        "a bulk build takes its memory in regions, which can be huge pages",
        &[plain("hightower-index", "lib", "bulk")],
    ),
    caught(
        "tag_emptied",
        "a removed slot stays marked as deleted while a probe may continue behind it",
        &[plain("hightower-index", "model_check", "")],
    ),
    caught(
        "guard_without_fence",
        "a guard is announced before anything is read under it",
        &[model_in_index("collector")],
    ),
    caught("freed_a_step_early", "sealed garbage waits for two steps of the epoch", &[model_in_index("collector")]),
    caught(
        "halves_stay_large",
        "a split leaves no large bucket that nothing would shrink",
        &[plain("hightower-index", "model_check", "hashes_that_begin_alike_leave_nothing_behind")],
    ),
];
