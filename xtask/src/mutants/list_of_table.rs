//! The planted bugs of the tables.

use super::catcher::{Catcher, ENGINE_CRASHES, Mutant, caught, plain};

const fn damage(filter: &'static str) -> Catcher {
    plain("hightower-table", "damage", filter)
}

const fn writing(filter: &'static str) -> Catcher {
    plain("hightower-table", "writing", filter)
}

const fn property(filter: &'static str) -> Catcher {
    plain("hightower-table", "properties", filter)
}

const fn crash(filter: &'static str) -> Catcher {
    plain("hightower-table", "crash", filter)
}

const fn real(filter: &'static str) -> Catcher {
    plain("hightower-table", "real", filter)
}

pub(super) const OF_TABLE: &[Mutant] = &[
    caught(
        "mapped_tables_opened_for_writing",
        "the file of a mapped table is not opened for writing",
        &[real("a_mapped_table_is_not_opened_for_writing")],
    ),
    caught("table_block_unverified", "a block is verified at each use", &[damage("every_flipped_bit")]),
    caught(
        "table_offset_ignored",
        "a block is valid only at its own offset",
        &[damage("blocks_count_only_in_their_own_place")],
    ),
    caught(
        "table_damaged_line_is_absent",
        "a damaged line of the point table is never an absent key",
        &[damage("a_damaged_line_is_an_error")],
    ),
    caught("table_features_guessed", "unknown features are refused", &[damage("a_later_version_or_feature")]),
    caught("table_not_synced", "a table is synced before it gets its name", &[crash("every_crash"), ENGINE_CRASHES]),
    caught(
        "table_leftover_kept",
        "a failed writer leaves no file",
        &[writing("keys_that_do_not_rise"), crash("every_fault")],
    ),
    caught(
        "table_order_unchecked",
        "a key that is not above the previous one is refused",
        &[writing("keys_that_do_not")],
    ),
    caught(
        "table_threshold_missing",
        "a line states the rank from which on its keys may be in the next line",
        &[writing("keys_that_share_their_line")],
    ),
    caught(
        "table_next_line_ignored",
        "a key without a slot in its own line is found",
        &[writing("keys_that_share_their_line")],
    ),
    caught("table_scratch_unverified", "scratch bytes are verified when they are read back", &[crash("every_fault")]),
    caught("table_walk_back_ends_early", "a backward walk visits all blocks", &[property("a_table_is_the_map")]),
    caught("table_merge_lowest_wins", "of a key the topmost entry wins", &[property("a_merge_gives")]),
    caught(
        "table_merge_ignores_versions",
        "of a key the highest version wins in a merge by version",
        &[property("a_merge_by_version")],
    ),
    caught(
        "table_runs_pass_other_levels",
        "a run of a merge ends before the next key of another level",
        &[property("runs_of_a_merge")],
    ),
    caught(
        "table_runs_ignore_segments",
        "a run of a merge has only entries whose segment exists",
        &[property("runs_of_a_merge")],
    ),
    caught(
        "table_gone_segments_hide",
        "an entry whose segment does not exist hides nothing",
        &[property("a_merge_gives")],
    ),
];
