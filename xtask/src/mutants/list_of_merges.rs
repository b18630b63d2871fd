//! The planted bugs of merges.

use super::catcher::{Catcher, Mutant, caught, plain};

/// One rule of merges.
const fn rule(filter: &'static str) -> Catcher {
    plain("hightower-engine", "merges", filter)
}

pub(super) const OF_MERGES: &[Mutant] = &[
    caught(
        "merge_keeps_stale_value",
        "a merge is evaluated from the value that the key has at the commit",
        &[
            rule("queued_additions"),
            rule("no_thread_loses"),
            plain("hightower-engine", "linearizability", "every_history"),
        ],
    ),
    caught(
        "merges_of_a_batch_unseen",
        "a merge sees what its batch has done to the key before",
        &[rule("merges_of_a_batch"), plain("hightower-engine", "replay", "replay_equals_state")],
    ),
    caught(
        "operators_write",
        "an operator cannot wait for the lock that its merge may hold",
        &[rule("an_operator_does_not")],
    ),
    caught("counters_wrap", "a sum that does not fit is an error", &[rule("counters_count")]),
    caught("kept_values_written", "a merge that keeps its value writes nothing", &[rule("a_merge_is_logged")]),
    caught(
        "auth_merges_read_unchecked",
        "a merge needs the right to read, because it returns the value",
        &[plain("hightower-auth", "views", "merges_need")],
    ),
    caught(
        "auth_merges_exceed_quotas",
        "a merge cannot exceed a quota",
        &[plain("hightower-auth", "quotas", "merges_of_counted")],
    ),
];
