//! The planted bugs of the state's levels.

use super::catcher::{Catcher, Mutant, caught, plain, within_engine};
use crate::cfgs::Cfgs;

const fn case(filter: &'static str) -> Catcher {
    plain("hightower-state", "levels", filter)
}

const fn budget(filter: &'static str) -> Catcher {
    plain("hightower-engine", "index_memory", filter)
}

const fn model(filter: &'static str) -> Catcher {
    Catcher { cfgs: Cfgs::Loom, ..plain("hightower-state", "lib", filter) }
}

const fn faults(filter: &'static str) -> Catcher {
    plain("hightower-engine", "upkeep_faults", filter)
}

const fn between(filter: &'static str) -> Catcher {
    plain("hightower-engine", "flushes_between", filter)
}

/// Reads and commits of every kind.
const ENGINE_HISTORIES: Catcher = plain("hightower-engine", "levels", "every_read_and_every_commit");
/// Flushes, merges, runs of compaction and rebuilds in any order.
const MOVING: Catcher = within_engine("whatever_is_flushed_merged_and_compacted");
const HALF_DEAD: Catcher = faults("a_full_device_of_half_dead_segments_is_compacted");

const HISTORIES: Catcher = plain("hightower-state", "level_histories", "");

pub(super) const OF_LEVELS: &[Mutant] = &[
    caught(
        "unremoved_files_forgotten",
        "a file that could not be removed goes with the next compaction",
        &[faults("what_could_not_be_removed")],
    ),
    caught(
        "background_failures_not_shown",
        "the statistics show a failure of background work that ends writing",
        &[faults("what_could_not_be_removed")],
    ),
    caught("compaction_of_uncovered_segments", "a compaction's table covers only what tables point to", &[MOVING]),
    caught("overtaken_records_move", "a record is live if the view's entry points to exactly it", &[MOVING]),
    caught("relocations_unnamed", "the manifest that names outputs names the table of their places", &[MOVING]),
    caught("outputs_counted_twice", "what tables cover is not replayed and counted again: outputs", &[MOVING]),
    caught("covered_part_replayed", "what tables cover is not replayed and counted again: the log", &[MOVING]),
    caught("flushed_entries_counted_twice", "a flushed entry is an entry of a table, no more of a memtable", &[MOVING]),
    caught(
        "memtable_tombstones_go",
        "a tombstone of a memtable stays while there is a lower level",
        &[faults("a_tombstone_that_hides_a_put_in_a_table"), MOVING],
    ),
    caught(
        "moves_stay_in_their_tables",
        "after an explicit compaction one table has all keys",
        &[plain("hightower-engine", "levels", "after_an_explicit_compaction")],
    ),
    caught("hidden_counts_stay", "what a merge has left out is not subtracted from the counts", &[MOVING]),
    caught(
        "outputs_covered_no_more",
        "outputs stay covered when a memtable of before their compaction is flushed",
        &[plain("hightower-engine", "rebuild", "outputs_stay_covered"), MOVING],
    ),
    caught("merge_keeps_what_does_not_exist", "a merge leaves out entries of removed segments", &[MOVING]),
    caught("levels_gone_segments_answer", "an entry of a removed segment does not exist", &[MOVING]),
    caught(
        "tombstone_above_an_older_put_goes",
        "a tombstone stays while a lower level has an older put of its key",
        &[MOVING],
    ),
    caught(
        "tombstones_ignore_a_merge",
        "records that a merge has just found dead keep tombstones, too",
        &[within_engine("a_tombstone_stays_when_a_merge")],
    ),
    caught(
        "tombstone_below_a_snapshot_goes",
        "a tombstone stays while a snapshot or a transaction is older",
        &[plain("hightower-engine", "transactions", "a_version_does_not_come_back")],
    ),
    caught(
        "tables_without_bound",
        "after a flush there are at most eight tables",
        &[within_engine("tables_of_similar_length")],
    ),
    caught(
        "full_tables_end_compaction",
        "a compaction whose table has no room works without it",
        &[faults("a_compaction_whose_table_has_no_room")],
    ),
    caught(
        "names_are_not_freed",
        "an explicit compaction joins segments where a device has no free names",
        &[faults("an_explicit_compaction_frees_names")],
    ),
    caught(
        "close_awaits_no_guard",
        "a closed store maps no file once guards of a moment have ended",
        &[plain("hightower-engine", "lifecycle", "no_file_of_a_closed_store_stays_mapped")],
    ),
    caught(
        "flushes_wait_for_a_rebuild",
        "memtables become tables also while a damaged table cannot be rebuilt",
        &[plain("hightower-engine", "rebuild", "a_rebuild_from_a_damaged_log_fails")],
    ),
    caught(
        "rebuild_fills_device",
        "a rebuild begins only with room for its runs",
        &[plain("hightower-engine", "rebuild", "a_rebuild_does_not_fill")],
    ),
    caught(
        "long_log_in_memory",
        "an open replays a log that is long for its budget into a table",
        &[plain("hightower-engine", "rebuild", "a_long_log_without_tables")],
    ),
    caught("flushes_wait_for_compaction", "a flush that is due does not wait for long work", &[between("")]),
    caught(
        "relocations_named_on_top",
        "the manifest names a relocation table below the tables of flushes during the run",
        &[between("a_compaction_flushes")],
    ),
    caught(
        "merge_named_on_top",
        "the manifest names a merged table below the tables of flushes during the merge",
        &[between("a_merge_flushes")],
    ),
    caught("hidden_entries_stay_live", "without room for a merge, what levels hide is dead", &[HALF_DEAD]),
    caught("moves_hide_newer_commits", "a moved record replaces its entry in the memtable", &[HALF_DEAD]),
    caught(
        "levels_view_before_seqno",
        "a snapshot's view has every commit up to its seq",
        &[model("a_snapshot_beside_a_freeze")],
    ),
    caught(
        "levels_seqno_before_view",
        "the tables of a snapshot's view have no commit above its seq",
        &[model("a_snapshot_beside_a_freeze")],
    ),
    caught(
        "levels_unverified_is_mismatch",
        "a record that does not verify is no mismatch of keys",
        &[case("what_does_not_verify")],
    ),
    caught("levels_damage_is_absence", "a damaged line is no absent key", &[case("what_does_not_verify")]),
    caught(
        "levels_mismatch_ends_table",
        "after a record of another key the search goes on in the same table",
        &[case("a_slot_of_another_key")],
    ),
    caught(
        "levels_segments_of_another_view",
        "a view goes with its own set of segments",
        &[case("a_view_goes_with_its_own_segments")],
    ),
    caught(
        "levels_merge_across_mark",
        "tables from both sides of a compaction's mark are not merged",
        &[case("no_merge_crosses_the_mark")],
    ),
    caught(
        "levels_candidates_above_ignored",
        "a record whose key may be in a higher table is the newest only if it is not there",
        &[case("a_record_is_the_newest_until"), HISTORIES],
    ),
    caught(
        "levels_relocations_on_top",
        "a relocation table lies below the tables that came after its compaction began",
        &[case("a_relocation_table_lies_below"), HISTORIES],
    ),
    caught(
        "levels_tombstone_removed",
        "a tombstone stays in the memtable while there is a lower level",
        &[case("a_tombstone_stays_while_a_lower_level")],
    ),
    caught(
        "levels_tombstone_hides_nothing",
        "a tombstone hides what is below it",
        &[case("a_tombstone_stays_while_a_lower_level"), HISTORIES],
    ),
    caught(
        "levels_unpublished_hides",
        "a commit that is not published hides no lower level",
        &[case("an_unpublished_commit_hides_nothing")],
    ),
    caught(
        "levels_change_unnoticed",
        "a look-up below the memtable counts only while the levels are the same",
        &[case("a_look_up_below_ends_with_its_view")],
    ),
    caught(
        "other_keys_record_believed",
        "a record that a table's hash leads to counts only if it has the key",
        &[plain("hightower-engine", "levels", "an_absent_key_is_absent_whatever")],
    ),
    caught(
        "flushed_changes_unseen",
        "a range of a transaction has not changed in levels below the active memtable either",
        &[ENGINE_HISTORIES],
    ),
    caught(
        "flushed_changes_forgotten",
        "a transaction whose range is unchanged commits, also after a freeze",
        &[ENGINE_HISTORIES],
    ),
    caught(
        "levels_flush_out_of_order",
        "memtables become tables in the order of their commits",
        &[case("the_oldest_memtable_is_flushed_first")],
    ),
    caught("levels_tombstones_uncounted", "the bounds of the number of keys hold", &[HISTORIES]),
    caught(
        "log_bytes_not_counted",
        "a flush is due when the log behind the tables is long, whatever memory is used",
        &[budget("a_key_that_is_overwritten_is_flushed")],
    ),
    caught(
        "writers_not_slowed",
        "writers are delayed while flushes are slower than they are",
        &[budget("writers_are_slowed_when_all_memtables")],
    ),
    caught(
        "full_memtables_not_flushed",
        "a flush is due when the active memtable has half of the budget",
        &[budget("the_memory_of_the_index")],
    ),
    caught(
        "failed_flush_not_repeated",
        "a flush that has failed is repeated",
        &[budget("a_memtable_that_a_failed_flush_has_frozen")],
    ),
    caught(
        "unused_memtables_kept",
        "a memtable that has become a table is freed",
        &[budget("the_memory_of_the_index")],
    ),
    caught(
        "frozen_bytes_not_counted",
        "frozen memtables count against the budget of memory",
        &[budget("writers_are_slowed_when_all_memtables")],
    ),
    caught(
        "failed_flushes_repeated_at_once",
        "the background waits before it repeats a failed flush",
        &[budget("a_flush_that_fails_is_not_repeated_all_the_time")],
    ),
    caught(
        "flushes_starve_compaction",
        "flushes that are always due leave every second turn to compaction",
        &[within_engine("flushes_that_are_always_due_leave")],
    ),
    caught(
        "dead_tables_kept",
        "a table without entries in existing segments goes",
        &[plain("hightower-engine", "compaction", "a_table_whose_entries_have_all_moved_goes")],
    ),
    caught(
        "damage_ends_maintenance",
        "maintenance that meets a damaged table rebuilds the tables and goes on",
        &[plain("hightower-engine", "rebuild", "a_compaction_that_meets_damage")],
    ),
];
