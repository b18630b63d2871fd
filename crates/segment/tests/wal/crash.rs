//! Crashes at every operation boundary of many workloads, with every subset (or a sample) of the
//! unsynced writes. Afterwards the log is that after a prefix of the appends and cuts, which
//! includes everything synced.
//!
//! `HIGHTOWER_TEST_STATES` sets the number of visited crash states, `HIGHTOWER_TEST_SEED` the first
//! workload.

use hightower_segment::AppendMode;
use hightower_segment::sim::{CrashPlan, SimFs};

use crate::sweep::crashes;
use crate::world::{Step, World, workload};

const STEPS: usize = 40;

fn explore(mode: AppendMode) {
    crashes("log", mode, 20_000, |seed, plan| {
        let mut world = World::new(SimFs::new(), mode, seed);
        world.run(&workload(seed, STEPS)).unwrap();
        world.explore(plan)
    });
}

#[test]
fn every_crash_leaves_a_prefix_with_mapped_appends() {
    explore(AppendMode::Mapped);
}

#[test]
fn every_crash_leaves_a_prefix_with_positioned_appends() {
    explore(AppendMode::Positioned);
}

/// All subsets around the removal of files at the front, and around a cut at the back with a
/// rotation behind it.
#[test]
fn all_subsets_around_cuts() {
    use Step::{Append, Reopen, Sync, TruncateBack, TruncateFront};
    const LONG: Step = Append { len: 300 };
    let front = [[LONG; 6].as_slice(), &[Sync, LONG, TruncateFront { count: 6 }, LONG, Sync]].concat();
    let back = [[LONG; 4].as_slice(), &[Sync, TruncateBack { count: 3 }, LONG, LONG, LONG, Sync, LONG]].concat();
    let anew = [LONG, LONG, TruncateFront { count: 9 }, Reopen, LONG, Sync, TruncateFront { count: 1 }, Reopen, LONG];
    for steps in [front, back, anew.to_vec()] {
        for mode in [AppendMode::Mapped, AppendMode::Positioned] {
            let mut world = World::new(SimFs::new(), mode, 7);
            world.run(&steps).unwrap();
            let visited = world.explore(CrashPlan { exhaustive_limit: 2048, samples: 500, seed: 1 }).unwrap();
            println!("log, {mode:?}, around cuts: {visited} crash states, 0 violations");
            assert!(visited > 100, "only {visited} states");
        }
    }
}
