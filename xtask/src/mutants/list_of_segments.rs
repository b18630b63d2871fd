//! Planted bugs of segment files and of the write-ahead log, which the tests of segments catch.

use super::catcher::{Catcher, Mutant, caught, plain, storms};

const fn life_of_segments(filter: &'static str) -> Catcher {
    plain("hightower-segment", "life", filter)
}
pub(super) const fn read_ahead(filter: &'static str) -> Catcher {
    plain("hightower-segment", "read_ahead", filter)
}
pub(super) const fn surroundings_of_segments(filter: &'static str) -> Catcher {
    plain("hightower-segment", "surroundings", filter)
}
/// The write-ahead log.
const fn wal(filter: &'static str) -> Catcher {
    plain("hightower-segment", "wal", filter)
}

pub(super) const OF_SEGMENTS: &[Mutant] = &[
    caught(
        "seen_bytes_survive_a_reset",
        "a mapping that is used again lends no byte before it is appended",
        &[plain("hightower-segment", "lib", "readers_see_each_append")],
    ),
    caught(
        "edit_in_a_linked_manifest",
        "no edit is appended to a manifest with a second name",
        &[life_of_segments("a_manifest_with_a_second_name")],
    ),
    caught(
        "manifest_always_whole",
        "the bytes written by a rotation do not grow with the number of segments",
        &[life_of_segments("a_roll_does_not_write_all")],
    ),
    caught("lookups_read_ahead", "a lookup reads only the pages of its record", &[read_ahead("only_who_reads_all")]),
    caught(
        "nobody_reads_ahead",
        "the system reads ahead for a reader of a whole segment",
        &[read_ahead("only_who_reads_all")],
    ),
    caught(
        "long_scans_ask_for_windows",
        "for a long scan the system reads ahead in large pages",
        &[read_ahead("a_long_scan_has")],
    ),
    caught(
        "short_scans_ask_for_windows",
        "a scan of a few pages requests no read-ahead",
        &[plain("hightower-segment", "lib", "windows_grow_and_stay_ahead")],
    ),
    caught(
        "pages_in_memory_are_read",
        "nobody asks for pages that are in memory",
        &[plain("hightower-segment", "lib", "only_pages_that_are_not_in_memory")],
    ),
    caught(
        "missing_pages_are_not_read",
        "pages that are not in memory are read ahead",
        &[plain("hightower-segment", "lib", "only_pages_that_are_not_in_memory")],
    ),
    caught(
        "wishes_are_cut",
        "a read-ahead request is not longer than the kernel's limit",
        &[plain("hightower-segment", "lib", "no_wish_is_longer")],
    ),
    caught(
        "failed_create_poisons",
        "a failed creation of a file does not end writing",
        &[storms("limits"), life_of_segments("a_file_that_cannot_be_made_poisons_nothing")],
    ),
    caught(
        "leftovers_count_as_lost",
        "the earlier content of a reused file does not count as lost",
        &[plain("hightower-segment", "lib", "what_a_file_held_before")],
    ),
    caught(
        "ancestors_not_synced",
        "the name of a new store's directory is durable",
        &[life_of_segments("directories_above_that_sync_nothing")],
    ),
    caught(
        "content_unchecked",
        "a log is not opened as a store, nor a store as a log",
        &[wal("other_content_is_refused")],
    ),
    caught("wal_files_go_first", "a log's files are removed only after the cut is durable", &[wal("crash::")]),
    caught("wal_cut_without_record", "a cut at the back is a record", &[wal("model::"), wal("crash::")]),
    caught("wal_bounds_not_kept", "the file with the last bounds of a log is kept", &[wal("an_empty_log_keeps")]),
    caught(
        "wal_gap_unnoticed",
        "a log whose first entries are missing is refused",
        &[plain("hightower-segment", "lib", "wal::index::tests")],
    ),
    caught(
        "wal_callback_before_sync",
        "a callback comes after the sync that covers it",
        &[wal("a_failed_sync_poisons_and_reads_go_on")],
    ),
    caught(
        "path_resolved_again",
        "a store stays with the directory that it opened",
        &[
            storms("directory"),
            surroundings_of_segments("a_store_stays_with_its_directory"),
            surroundings_of_segments("a_relative_path"),
        ],
    ),
    caught(
        "unlocked_by_closing",
        "a forked child does not keep the lock of a closed store",
        &[surroundings_of_segments("a_child_that_lives_on_does_not_keep_the_lock")],
    ),
    caught(
        "child_unlocks",
        "a forked child does not release its parent's lock",
        &[storms("processes"), surroundings_of_segments("a_child_of_fork_leaves_the_store_alone")],
    ),
    caught(
        "forks_unnoticed",
        "a forked child writes nothing",
        &[surroundings_of_segments("a_child_of_fork_leaves_the_store_alone")],
    ),
    caught(
        "segments_outlive_the_lock",
        "a segment in use by a reader keeps the lock",
        &[surroundings_of_segments("a_segment_that_is_read_keeps_writers_out")],
    ),
    caught(
        "shortage_poisons",
        "a failure before the device is involved does not end writing",
        &[plain("hightower-segment", "faults", "shortages_pass")],
    ),
    caught("directory_opened_to_sync", "a sync of the directory needs no descriptor", &[storms("limits")]),
    caught(
        "taken_names_refuse",
        "a name that others have taken is skipped",
        &[surroundings_of_segments("directories_with_the_names_of_coming_files_are_passed_over")],
    ),
    caught(
        "last_edit_needs_a_file",
        "a store can be closed when no file can be created",
        &[surroundings_of_segments("a_store_is_closed_without_descriptors")],
    ),
    caught(
        "prepares_during_a_roll",
        "a roll that could not begin leaves its successor to the next one",
        &[life_of_segments("a_roll_without_room_for_its_seal")],
    ),
    caught(
        "quota_is_an_io_error",
        "a quota that is used up is a full device",
        &[plain("hightower-segment", "faults", "no_quota")],
    ),
    caught(
        "length_limit_is_an_io_error",
        "a limit of the length of files is a full device",
        &[plain("hightower-segment", "faults", "too_long_files")],
    ),
    caught(
        "successor_lost",
        "a failed rotation leaves its prepared segment to the next one",
        &[plain("hightower-segment", "faults", "shortages_pass")],
    ),
    caught(
        "sealed_files_stay_open",
        "a sealed segment uses no file descriptor",
        &[life_of_segments("sealed_segments_hold_no_file_open")],
    ),
];
