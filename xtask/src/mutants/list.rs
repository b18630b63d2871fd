//! The planted bugs: the rule that each undoes, and the tests that must catch it.

use super::catcher::{Catcher, ENGINE_CRASHES, Mutant, Shows, caught, engine, plain, storms, within_engine};
use super::list_of_auth::OF_AUTH;
use super::list_of_feed::OF_FEED;
use super::list_of_followers::OF_FOLLOWERS;
use super::list_of_index::OF_INDEX_AND_STATE;
use super::list_of_keyspaces::OF_KEYSPACES;
use super::list_of_levels::OF_LEVELS;
use super::list_of_merges::OF_MERGES;
use super::list_of_segments::{OF_SEGMENTS, read_ahead, surroundings_of_segments};
use super::list_of_table::OF_TABLE;
use super::list_of_transactions::OF_TRANSACTIONS;
use crate::cfgs::Cfgs;

/// All planted bugs.
pub(super) fn mutants() -> impl Iterator<Item = &'static Mutant> {
    let store = OF_STORE.iter().chain(OF_SEGMENTS);
    store
        .chain(OF_INDEX_AND_STATE)
        .chain(OF_LEVELS)
        .chain(OF_TABLE)
        .chain(OF_TRANSACTIONS)
        .chain(OF_MERGES)
        .chain(OF_FEED)
        .chain(OF_KEYSPACES)
        .chain(OF_FOLLOWERS)
        .chain(OF_AUTH)
}

/// Crashes of many workloads of the segment layer.
const CRASHES: Catcher =
    Catcher { variables: &[("HIGHTOWER_TEST_STATES", "30000")], ..plain("hightower-segment", "crash", "every_crash") };
const fn rule_of_segments(filter: &'static str) -> Catcher {
    plain("hightower-segment", "rules", filter)
}
/// What open does for each state of the files.
const fn opening(filter: &'static str) -> Catcher {
    plain("hightower-segment", "startup", filter)
}
const fn compaction(filter: &'static str) -> Catcher {
    plain("hightower-engine", "compaction", filter)
}
/// Histories with damaged tables, beside the plain model.
const DAMAGED_TABLES: Catcher = plain("hightower-engine", "tables", "histories_with_damaged_tables");
/// Versions, timestamps and clocks with any value.
const fn callers_numbers(filter: &'static str) -> Catcher {
    plain("hightower-engine", "callers_numbers", filter)
}
const LIN: Catcher = Catcher {
    variables: &[("HIGHTOWER_TEST_CASES", "400")],
    ..plain("hightower-engine", "linearizability", "every_history")
};
const LOG: Catcher = plain("hightower-log", "properties", "a_record_counts_only_in_its_place");
const HALF_DEAD: Catcher =
    plain("hightower-engine", "upkeep_faults", "a_full_device_of_half_dead_segments_is_compacted");
const OPENED_AGAIN: Catcher =
    plain("hightower-engine", "upkeep_faults", "a_full_device_is_compacted_after_any_number_of_openings");
const COMPACTOR: Catcher = plain("hightower-compactor", "model", "no_key_is_lost");
const fn schedule(filter: &'static str) -> Catcher {
    Catcher { cfgs: Cfgs::Shuttle, ..plain("hightower-engine", "schedules", filter) }
}

const OF_STORE: &[Mutant] = &[
    // The log.
    caught("salt_ignored", "a checksum is seeded with the segment's salt", &[LOG]),
    caught("offset_ignored", "a checksum is seeded with the record's offset", &[LOG]),
    // Segments.
    caught("manifest_not_synced", "a manifest is synced before it is renamed", &[CRASHES]),
    caught("manifest_dir_not_synced", "a manifest counts once its directory is synced", &[CRASHES]),
    caught("edit_not_synced", "an edit of the manifest is synced before it counts", &[CRASHES]),
    caught(
        "damaged_edit_is_an_end",
        "a damaged edit of the manifest with valid edits behind it is damage",
        &[opening("row_05_an_edit")],
    ),
    caught(
        "lost_edit_unnoticed",
        "a segment with commits that no manifest names proves that an edit was lost",
        &[opening("row_05_an_edit")],
    ),
    caught(
        "range_deletion_skips_a_key",
        "the deletion of a range deletes each key of it",
        &[plain("hightower-engine", "range_deletes", "each_key_of_the_range")],
    ),
    caught(
        "range_deletion_without_end",
        "the deletion of a range does not follow a writer that appends",
        &[plain("hightower-engine", "range_deletes", "it_ends_beside_a_writer")],
    ),
    caught(
        "range_deletion_holds_a_snapshot",
        "the deletion of a range holds no snapshot between its steps",
        &[plain("hightower-engine", "range_deletes", "no_snapshot_is_held")],
    ),
    caught(
        "range_deletion_in_full_steps",
        "a full device makes the steps of a range's deletion shorter",
        &[plain("hightower-engine", "upkeep_faults", "a_range_is_deleted_on_a_full_device")],
    ),
    caught(
        "scans_follow_one_segment",
        "a scan that alternates between many segments reads ahead in each",
        &[within_engine("a_scan_that_goes_through_many")],
    ),
    caught(
        "readers_stay_at_the_end",
        "the system's read-ahead in a segment ends when its reader has read it",
        &[read_ahead("a_long_scan_has"), plain("hightower-engine", "ranges", "a_scan_through_many_segments_has")],
    ),
    caught(
        "every_stream_reads_all",
        "a scan that alternates between many segments uses the system's read-ahead in few of them",
        &[plain("hightower-engine", "ranges", "a_scan_of_many_segments_in_turn")],
    ),
    caught(
        "scans_lose_their_order",
        "a scan that prefetches records again keeps its order",
        &[within_engine("a_scan_that_asks_for_records_again"), plain("hightower-engine", "ranges", "a_long_scan_has")],
    ),
    caught("header_not_synced", "a segment's header is durable before its first commit", &[CRASHES]),
    caught("segment_dir_not_synced", "a segment's name is durable before its first commit", &[CRASHES]),
    caught("ack_before_sync", "no write is acknowledged before its sync has returned", &[CRASHES]),
    caught("skip_predecessor_sync", "rolled segments are synced before the active one", &[CRASHES]),
    caught("seal_before_sync", "a segment is synced before the manifest calls it sealed", &[CRASHES]),
    caught("recovered_tail_not_synced", "a recovered tail is synced before it is sealed", &[CRASHES]),
    caught(
        "recovered_tail_not_rewritten",
        "recovery rewrites pages that a failed sync left in the cache",
        &[rule_of_segments("nothing_is_acknowledged_after_a_failed_sync")],
    ),
    caught(
        "batch_marker_ignored",
        "a batch counts only with its last record",
        &[rule_of_segments("a_batch_is_whole_or_absent"), CRASHES],
    ),
    caught("keep_later_segments", "nothing behind a hole counts", &[CRASHES]),
    caught(
        "durable_without_predecessors",
        "a record's durable offset is 0 while an earlier segment is not durable",
        &[CRASHES],
    ),
    caught(
        "any_version_submitted",
        "only the store assigns versions from 2^63 on",
        &[storms("numbers"), callers_numbers("a_version_from")],
    ),
    caught(
        "outputs_as_old_as_inputs",
        "a compacted segment is as old as its compaction",
        &[callers_numbers("an_output_of_compaction")],
    ),
    caught(
        "outputs_count_from_now",
        "the records of one segment do not grow by a compaction",
        &[plain("hightower-engine", "upkeep_faults", "a_full_device_is_compacted_whatever_its_numbers")],
    ),
    caught("clock_may_go_back", "the store's time does not go back", &[callers_numbers("a_clock_that_steps_back")]),
    caught(
        "seal_of_before_ignored",
        "the store's time does not go back after a crash",
        &[callers_numbers("a_crash_takes_back_no_time")],
    ),
    caught(
        "idle_time_stands_still",
        "a grace ends also without writes",
        &[callers_numbers("a_grace_ends_while_the_clock_is_behind")],
    ),
    caught(
        "elapsed_unbounded",
        "times can be added for every reading of a clock",
        &[within_engine("whatever_a_clock_says_has_elapsed")],
    ),
    caught(
        "time_begins_anew",
        "the store's time does not go back when it is opened",
        &[callers_numbers("a_clock_that_steps_back")],
    ),
    caught("version_floor_ignored", "a version that a crash lost is not assigned again", &[CRASHES]),
    caught("seq_not_reserved", "a seq that a crash lost is not assigned again", &[CRASHES]),
    caught("output_not_synced", "an output of compaction is synced before its inputs are removed", &[CRASHES]),
    caught(
        "reserves_go_with_a_close",
        "the reserves of a full device exist after the store is opened again",
        &[rule_of_segments("reserves_outlive_the_store_on_a_full_device")],
    ),
    caught(
        "openings_use_up_reserves",
        "an open on a full device uses a file that becomes a reserve again",
        &[rule_of_segments("openings_leave_compaction_its_room")],
    ),
    caught(
        "names_need_no_room",
        "a file's new name has room on a full device",
        &[rule_of_segments("a_name_finds_room_on_a_full_device")],
    ),
    caught(
        "new_files_need_no_room",
        "on a full device that creates a file only beside free room, compaction still works",
        &[HALF_DEAD, OPENED_AGAIN],
    ),
    caught(
        "manifest_growth_lost",
        "what a longer manifest leaves of its reserve stays reserved",
        &[rule_of_segments("openings_leave_compaction_its_room")],
    ),
    caught(
        "segments_ignore_the_device",
        "a segment is at most a small part of its device",
        &[rule_of_segments("segments_fit_a_small_device")],
    ),
    caught("reserve_not_put_back", "a used reserve is created again from the first free room", &[HALF_DEAD]),
    caught(
        "long_deletes_need_no_room",
        "the tail's reserve has room for the delete of the longest key",
        &[plain("hightower-engine", "upkeep_faults", "keys_longer_than_a_segment")],
    ),
    caught(
        "outputs_not_read_back",
        "compaction verifies its outputs before it removes its inputs",
        &[plain("hightower-engine", "upkeep_faults", "a_bit_that_flips")],
    ),
    caught(
        "readers_not_awaited",
        "a compaction waits for readers that are about to end",
        &[plain("hightower-engine", "upkeep_faults", "compaction_waits_for_readers")],
    ),
    caught(
        "full_runs_are_not_made_smaller",
        "a compaction that finds no room takes fewer segments",
        &[storms("devices"), HALF_DEAD],
    ),
    caught(
        "witness_ignored",
        "damage of durable bytes is not taken for a torn tail",
        &[rule_of_segments("damage_of_durable_commits_is_no_torn_tail")],
    ),
    caught(
        "no_poison_on_failed_sync",
        "after a failed sync nothing is written or acknowledged",
        &[rule_of_segments("nothing_is_acknowledged_after_a_failed_sync")],
    ),
    caught(
        "damage_is_an_end",
        "a bad record in a sealed segment is damage, never the end of the log",
        &[opening("row_13_sealed_segment_damaged")],
    ),
    caught("holes_are_damage", "leftovers of a crash are not damage", &[CRASHES]),
    caught("inputs_go_first", "an input is removed only after the manifest no longer names it", &[CRASHES]),
    caught(
        "half_a_commit_written_over",
        "after a partial write nothing is written",
        &[rule_of_segments("after_a_write_that_got_half_way_nothing_is_written")],
    ),
    caught("missing_segment_ignored", "a missing segment that the manifest names is an error", &[opening("row_14")]),
    caught("header_unchecked", "a segment's header agrees with the manifest", &[opening("row_15_segments_swapped")]),
    caught("garbage_kept", "open removes files that the manifest does not name", &[opening("row_16_unnamed_files")]),
    caught("manifest_unverified", "a manifest has a checksum", &[opening("row_05_damaged_manifest")]),
    caught("features_guessed", "unknown features are refused", &[opening("row_06_newer_manifest")]),
    Mutant {
        name: "pipes_opened",
        rule: "an open does not wait for a named pipe",
        shows: Shows::ByHanging,
        caught_by: &[surroundings_of_segments("pipes_with_the_names_of_files_are_not_waited_for")],
    },
    caught(
        "copy_opened_by_path",
        "a copy stays in the directory that it began in",
        &[within_engine("a_copy_stays_in_its_directory")],
    ),
    caught("writers_share", "of two writers the second is refused", &[opening("row_18_locked")]),
    caught(
        "no_room_for_manifests",
        "a reserve keeps room for a manifest on a full device",
        &[rule_of_segments("a_name_finds_room_on_a_full_device")],
    ),
    caught(
        "quota_not_locked",
        "a quota's check and the creation of the file are under one lock",
        &[schedule("a_quota_against_")],
    ),
    // The engine.
    caught(
        "table_copied_by_each_add",
        "the cost of adding a segment does not grow with their number",
        &[within_engine("adding_copies_the_table")],
    ),
    caught(
        "each_roll_looks_at_all_segments",
        "the cost of a rotation does not grow with the number of segments",
        &[within_engine("the_more_segments")],
    ),
    caught(
        "sync_under_the_lock",
        "only callers that request a sync wait for one",
        &[plain("hightower-engine", "waits", "readers_and_other_writers")],
    ),
    caught(
        "failure_told_to_one",
        "a failed sync reaches every waiting caller",
        &[within_engine("a_failed_sync_reaches_every_waiter")],
    ),
    caught(
        "interval_counts_anew",
        "a write during a sync waits no longer than its interval",
        &[within_engine("what_is_asked_for_during_a_slow_sync")],
    ),
    caught(
        "interval_starts_anew",
        "ever shorter intervals do not delay an earlier write",
        &[within_engine("ever_shorter_requests_hold_up")],
    ),
    caught("interval_forgotten", "a write is synced within its interval", &[engine("the_interval_syncs_by_itself")]),
    caught(
        "given_version_forgotten",
        "the engine assigns versions above all that it has seen",
        &[engine("versions_decide_whatever_the_order")],
    ),
    caught("scratch_kept", "the memory of a large batch is freed", &[within_engine("large_batch")]),
    caught(
        "reserve_without_bound",
        "batches that revoke access have a bounded reserve above the cap",
        &[engine("the_memory_cap_refuses")],
    ),
    caught("cap_ignored", "above the cap of the index new keys are refused", &[engine("the_memory_cap_refuses")]),
    caught("limits_unchecked", "limits are checked at the API", &[engine("limits_are_refused")]),
    caught(
        "queue_not_drained",
        "closing commits all queued writes",
        &[within_engine("closing_waits_for_all_that_was_handed_in")],
    ),
    Mutant {
        name: "outcome_awaited_again",
        rule: "an outcome that was taken is not waited for again",
        shows: Shows::ByHanging,
        caught_by: &[plain("hightower-engine", "tickets", "not_waited_for_again")],
    },
    caught(
        "stale_before_sync",
        "a stale write with Sync waits for the write that made it stale",
        &[plain("hightower-engine", "writes", "a_stale_write_at_sync")],
    ),
    caught(
        "data_fills_the_reserve",
        "new data leaves a used reserve to deletes",
        &[rule_of_segments("new_data_leaves_a_used_reserve")],
    ),
    caught(
        "committer_waits",
        "a callback on the commit thread gets an error for a call that would wait for itself",
        &[plain("hightower-engine", "tickets", "would_wait_for_itself")],
    ),
    caught(
        "table_named_before_log_sync",
        "the log is synced before a table that covers it is named",
        &[ENGINE_CRASHES],
    ),
    caught(
        "table_covers_later_commits",
        "a table covers the log up to its own moment, not that of its end",
        &[compaction("what_is_written_during_a_flush")],
    ),
    caught(
        "stale_table_covers_all",
        "the log behind what a table covers is read",
        &[compaction("a_table_from_before_a_compaction"), DAMAGED_TABLES, ENGINE_CRASHES],
    ),
    caught(
        "other_table_believed",
        "a table counts only if it is the one that the manifest names",
        &[compaction("deleted_keys_stay_deleted"), DAMAGED_TABLES],
    ),
    caught(
        "rebuild_merges_in_order",
        "a rebuild decides by version, not by the order of records and runs",
        &[within_engine("rebuild::"), DAMAGED_TABLES],
    ),
    caught(
        "rebuild_reads_beyond_covered",
        "a rebuilt table has nothing that the tables did not cover",
        &[within_engine("rebuild::")],
    ),
    caught(
        "rebuild_misses_the_last_segment",
        "a rebuild reads all records up to the covered position",
        &[within_engine("rebuild::"), DAMAGED_TABLES],
    ),
    caught(
        "table_damage_not_noted",
        "the next maintenance after a read that meets damage rebuilds the tables",
        &[plain("hightower-engine", "rebuild", "the_next_maintenance"), DAMAGED_TABLES],
    ),
    caught(
        "covered_log_may_end",
        "the log does not end before what tables cover",
        &[opening("row_17_a_log_that_ends")],
    ),
    caught(
        "compaction_without_sync",
        "the commits that made records dead are durable before the records are removed",
        &[plain("hightower-engine", "rebuild", "no_power_loss_after_a_compaction")],
    ),
    caught(
        "covered_read_after_sync",
        "a sync covers only commits that were published before it began",
        &[schedule("group_commit")],
    ),
    caught("requirement_before_lock", "requirements are checked under the commit lock", &[LIN]),
    caught(
        "backup_names_not_synced",
        "the names of a backup's files are durable before its manifest",
        &[plain("hightower-engine", "copies_crash", "a_backup_into_an_earlier_one")],
    ),
    caught(
        "shortage_is_damage",
        "a shortage of memory or descriptors is an error, not damage",
        &[opening("a_shortage_is_no_damage")],
    ),
    caught(
        "backup_removes_others",
        "a backup removes only files with the store's exact names",
        &[plain("hightower-engine", "foreign_files", "a_backup_leaves_files_of_others_alone")],
    ),
    caught(
        "backup_over_a_store",
        "a backup that was opened for writing is not replaced",
        &[plain("hightower-engine", "foreign_files", "a_backup_that_became_a_store")],
    ),
    caught(
        "copy_over_others",
        "a copy needs an empty directory, or one of an earlier attempt",
        &[plain("hightower-engine", "foreign_files", "a_copy_touches_nothing_else")],
    ),
    caught(
        "unfinished_ignored",
        "an incomplete copy is not opened as a store",
        &[plain("hightower-engine", "foreign_files", "an_unfinished_copy")],
    ),
    caught(
        "copy_names_not_synced",
        "the names of a copy's files are durable before it counts as a store",
        &[plain("hightower-engine", "copies_crash", "is_whole_or_absent")],
    ),
    caught(
        "reading_lock_dropped",
        "a store that is open for reading excludes writers",
        &[plain("hightower-engine", "engine", "readers_share_and_keep_a_writer_out")],
    ),
    caught(
        "close_fails_waiters",
        "a commit beside a close is durable or refused as closed",
        &[plain("hightower-engine", "lib", "a_store_that_is_closed_meanwhile_has_not_failed")],
    ),
    // Life.
    caught(
        "close_again_closes_again",
        "a later closer gets the outcome of the first",
        &[plain("hightower-engine", "lifecycle", "closers_at_once_are_all_told_the_same")],
    ),
    caught(
        "closed_index_kept",
        "a closed store returns `Closed` and frees its index",
        &[within_engine("a_closed_store_frees_its_index")],
    ),
    Mutant {
        name: "reentry_not_seen",
        rule: "a call that would wait for itself is an error",
        shows: Shows::ByHanging,
        caught_by: &[storms("callbacks"), within_engine("its_holder_is_refused_and_others_wait")],
    },
    Mutant {
        name: "backup_keeps_the_turn",
        rule: "a close does not wait for a backup",
        shows: Shows::ByHanging,
        caught_by: &[plain("hightower-engine", "lifecycle", "the_watcher_of_a_backup_may_call")],
    },
    caught(
        "closed_while_in_use",
        "the store can be opened once a close has returned",
        &[within_engine("closing_waits_for_those_who_work_with_it")],
    ),
    caught(
        "background_not_reported",
        "an explicit compaction reports all work since its call",
        &[plain("hightower-engine", "lifecycle", "an_explicit_run_reports_what_the_background_did")],
    ),
    caught(
        "panics_pass",
        "a panic of a caller's component fails that call only",
        &[plain("hightower-engine", "panics", "a_policy_that_panics_fails_its_run")],
    ),
    Mutant {
        name: "panic_keeps_the_lead",
        rule: "after a panic of a leader no caller waits forever",
        shows: Shows::ByHanging,
        caught_by: &[within_engine("a_leader_that_panics_leaves_nobody_waiting")],
    },
    caught(
        "destructor_poisons",
        "a destructor may use the store while its thread panics",
        &[plain("hightower-engine", "panics", "a_destructor_that_uses_a_store")],
    ),
    caught(
        "panic_ends_the_range",
        "a range whose visitor panics returns the remaining entries",
        &[plain("hightower-engine", "panics", "a_range_whose_visitor_panics")],
    ),
    caught(
        "locks_out_of_order",
        "a thread takes locks in the order of their ranks",
        &[plain("hightower-engine", "backup", "a_backup_is_a_store")],
    ),
    // Compaction.
    caught("tombstone_unblocked", "a tombstone stays while another segment may have an older command", &[COMPACTOR]),
    caught(
        "runs_of_any_length",
        "a run is no longer than memory is likely to hold",
        &[plain("hightower-compactor", "lib", "a_run_is_no_longer")],
    ),
    caught("partial_input_removed", "an input is removed only after all its live records are copied", &[COMPACTOR]),
    caught(
        "install_without_comparing",
        "a move is installed only if the index still points to the old location",
        &[plain("hightower-state", "hints", "moved"), schedule("compaction_against_overwrites_and_deletes")],
    ),
    caught("grace_ignored", "a tombstone stays for its grace", &[compaction("a_submitted_timestamp_neither_shortens")]),
    caught(
        "live_rewritten",
        "background compaction does not rewrite fully live segments",
        &[plain("hightower-compactor", "lib", "garbage_and_age_decide")],
    ),
    caught("pace_ignored", "compaction keeps to its rate", &[plain("hightower-compactor", "lib", "the_rate_is_kept")]),
    // What surrounds the store.
    caught("lock_until_dropped", "a closed store can be opened while handles exist", &[storms("callers")]),
    caught(
        "strangers_poison",
        "foreign files with the store's names do not end writing",
        &[plain("hightower-engine", "foreign_files", "a_name_that_others_have_taken"), storms("foreign")],
    ),
    caught("files_go_before_their_views", "a held entry is readable after its record has moved", &[storms("held")]),
    caught(
        "no_maps_are_kept",
        "a process without memory maps keeps some for compaction",
        &[plain("hightower-engine", "maps", "")],
    ),
    caught(
        "limit_of_maps_unnamed",
        "the error of a refused map names vm.max_map_count",
        &[plain("hightower-segment", "faults", "shortages_pass"), plain("hightower-engine", "maps", "")],
    ),
];
