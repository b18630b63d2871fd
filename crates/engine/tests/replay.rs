//! The central invariant: the live state equals the model, equals the state after close and reopen,
//! equals the state after a kill.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of histories (default 1,000).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and may say what it did"
)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Step, World};
use hightower_engine::{AppendMode, Durability, KvState};
use hightower_segment::{Fs, ReadOnlyStore, Tolerance};
use proptest::collection::vec;
use proptest::prelude::*;

fn durability() -> impl Strategy<Value = Durability> {
    prop_oneof![4 => Just(Durability::Os), 1 => Just(Durability::Sync)]
}

fn version() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 0_u64..40, 2 => 0_u64..2000, 1 => (1_u64 << 40)..(1 << 41)]
}

fn step() -> impl Strategy<Value = Step> {
    let put = (0_u8..24, 0_usize..120, durability());
    let batch = (vec(0_u8..24, 0..5), vec(0_u8..24, 0..3), vec((0_u8..24, version()), 0..4), durability());
    let merge = (vec(0_u8..24, 0..3), vec((0_u8..24, version()), 0..3), vec(0_u8..24, 0..6), durability());
    prop_oneof![
        8 => put.prop_map(|(key, value_len, durability)| Step::Put { key, value_len, durability }),
        1 => (0_u8..24).prop_map(|key| Step::Put { key, value_len: 5000, durability: Durability::Os }),
        4 => (0_u8..24, durability()).prop_map(|(key, durability)| Step::Delete { key, durability }),
        6 => (0_u8..24, version(), any::<bool>()).prop_map(|(key, version, is_delete)| Step::Submit { key, version, is_delete }),
        4 => batch.prop_map(|(puts, deletes, submits, durability)| Step::Batch { puts, deletes, submits, durability }),
        2 => (0_u8..24).prop_map(|key| Step::Claim { key }),
        1 => (0_u8..24).prop_map(|key| Step::Put { key, value_len: 0, durability: Durability::Os }),
        2 => (0_u8..24, -9_i64..9, durability()).prop_map(|(key, delta, durability)| Step::Add { key, delta, durability }),
        3 => merge.prop_map(|(puts, submits, merged, durability)| Step::Merge { puts, submits, merged, durability }),
        1 => Just(Step::Flush),
        2 => Just(Step::Compact),
        1 => Just(Step::Checkpoint),
        2 => Just(Step::Close),
        2 => Just(Step::Kill),
    ]
}

fn cases() -> u32 {
    std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1000)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replay_equals_state(steps in vec(step(), 1..40), mapped in any::<bool>(), is_tight in any::<bool>(), seed in any::<u64>()) {
        let mode = if mapped { AppendMode::Mapped } else { AppendMode::Positioned };
        // With a few KiB, memtables become tables all the time.
        let world = World::new(mode, seed);
        let mut world = if is_tight { world.with_index_memory(4 << 10) } else { world };
        world.run(&steps);
        world.check();
        prop_assert_eq!(fold_of_log(&world).digest(), world.model.digest(), "the log's fold, before a kill");
        world.step(&Step::Kill);
        world.step(&Step::Close);
        prop_assert_eq!(fold_of_log(&world).digest(), world.model.digest(), "the log's fold, after a close");
    }
}

/// The fold of the log's records, without the engine and without a checkpoint. No tombstone is old
/// enough to be dropped.
fn fold_of_log(world: &World) -> KvState {
    let fs: Arc<dyn Fs> = Arc::new(world.fs.after_kill());
    let store = ReadOnlyStore::open(&fs, Path::new("/store"), Tolerance::Strict).unwrap();
    let entries = store.segments().iter().flat_map(|segment| segment.entries());
    entries.fold(KvState::new(), |mut state, entry| {
        state.apply(entry.unwrap().command);
        state
    })
}
