//! The planted bugs of keyspaces.

use super::catcher::{Mutant, caught, within_engine};

pub(super) const OF_KEYSPACES: &[Mutant] = &[
    caught(
        "default_keys_reach_other_keyspaces",
        "a key of the default keyspace is never one of another keyspace",
        &[within_engine("keyspace::stored_key")],
    ),
    caught(
        "default_range_shows_other_keyspaces",
        "a range of the default keyspace ends before the keys of others",
        &[within_engine("keyspace::stored_key")],
    ),
];
