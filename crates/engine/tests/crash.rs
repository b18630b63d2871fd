//! Crashes at every operation boundary, with every subset (or a sample) of what was not synced: afterwards the store holds a prefix of the
//! commits, whole, with everything that was promised; seq does not go back; the next open is clean and finds the same.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of workloads per append mode (default 6); `HIGHTOWER_CRASH=seed:mode:point` replays one crash.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use common::{Step, World, open};
use hightower_engine::{AppendMode, Durability, SnapshotEngine};
use hightower_segment::sim::{CrashPlan, CrashPoint, SimFs};

/// A workload from a seed, without kills: they would forget what was recorded before.
fn workload(seed: u64) -> Vec<Step> {
    let mut random = seed;
    let mut next = move |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let mut byte = move |bound: u64| u8::try_from(next(bound)).unwrap();
    (0..30)
        .map(|_| {
            let durability = if byte(4) == 0 { Durability::Sync } else { Durability::Os };
            match byte(14) {
                0..=5 => Step::Put { key: byte(12), value_len: usize::from(byte(200)), durability },
                6 => Step::Put { key: byte(12), value_len: 1500, durability },
                7 => Step::Delete { key: byte(12), durability },
                8 => Step::Submit { key: byte(12), version: u64::from(byte(60)), is_delete: byte(2) == 0 },
                9 | 10 => Step::Batch {
                    puts: (0..byte(5)).map(|_| byte(12)).collect(),
                    deletes: vec![byte(12)],
                    submits: vec![(byte(12), u64::from(byte(80)))],
                    durability,
                },
                11 => Step::Compact,
                12 => Step::Checkpoint,
                _ if byte(3) == 0 => Step::Close,
                _ => Step::Flush,
            }
        })
        .collect()
}

fn check(world: &World, fs: &SimFs, point: CrashPoint, mode: AppendMode) -> Result<(), String> {
    let engine = open(fs, mode, 99).map_err(|error| format!("does not open: {error}"))?;
    let state = engine.snapshot_state().map_err(|error| format!("cannot be read: {error}"))?;
    let promised = world.synced.iter().filter(|promise| promise.op <= point.op).map(|promise| promise.commits).max();
    let promised = promised.unwrap_or(0);
    let digest = state.digest();
    let Some(found) = world.digests.iter().rposition(|known| *known == digest) else {
        return Err(format!("holds no prefix of the commits: {} keys", state.len()));
    };
    if found < promised {
        return Err(format!("holds {found} commits of {promised} promised"));
    }
    let report = engine.open_report();
    if report.replayed_records > 0 && engine.is_empty() && state.tombstones().count() == 0 {
        return Err("says that it replayed records, and holds none".into());
    }
    if found < world.digests.len() - 1 && engine.latest_seq() > 0 && engine.latest_seq() < found as u64 {
        return Err(format!("seq went back to {}", engine.latest_seq()));
    }
    // A commit now has a seq that none before the crash can have had.
    let handed_out = world.digests.len() as u64 - 1;
    engine.put("after", "the crash").map_err(|error| format!("takes no writes: {error}"))?;
    if point.op == world.fs.op_count() && engine.latest_seq() <= handed_out {
        return Err(format!("seq {} was handed out before the crash", engine.latest_seq()));
    }
    engine.close().map_err(|error| format!("does not close: {error}"))?;
    let again = open(fs, mode, 98).map_err(|error| format!("does not open again: {error}"))?;
    if again.open_report().was_unclean() || again.open_report().dropped_bytes() > 0 {
        return Err("the open after a clean close is not clean".into());
    }
    if again.len() != state.len() + 1 {
        return Err(format!("{} keys and one more became {}", state.len(), again.len()));
    }
    Ok(())
}

fn world(seed: u64, mode: AppendMode) -> World {
    let mut world = World::new(mode, seed);
    world.run(&workload(seed));
    world
}

fn cases() -> u64 {
    std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(6)
}

fn explore(mode: AppendMode) {
    let mut visited = 0;
    for seed in 0..cases() {
        let world = world(seed, mode);
        for state in world.fs.crash_states(CrashPlan { exhaustive_limit: 8, samples: 3, seed }) {
            visited += 1;
            if let Err(error) = check(&world, &state.fs, state.point, mode) {
                panic!(
                    "crash {}: the store {error}\nreplay: HIGHTOWER_CRASH={seed}:{mode:?}:{} cargo test -p hightower-engine --test crash replay",
                    state.point, state.point
                );
            }
        }
    }
    println!("{mode:?}: {visited} crash states");
    assert!(visited > 1000, "{visited}");
}

#[test]
fn every_crash_keeps_the_promises_with_mapped_appends() {
    explore(AppendMode::Mapped);
}

#[test]
fn every_crash_keeps_the_promises_with_positioned_appends() {
    explore(AppendMode::Positioned);
}

#[test]
fn replay() {
    let Ok(wanted) = std::env::var("HIGHTOWER_CRASH") else { return };
    let mut parts = wanted.split(':');
    let seed = parts.next().unwrap().parse().unwrap();
    let mode = if parts.next() == Some("Positioned") { AppendMode::Positioned } else { AppendMode::Mapped };
    let point: CrashPoint = parts.next().unwrap().parse().unwrap();
    let world = world(seed, mode);
    check(&world, &world.fs.crash_at(point), point, mode).unwrap();
}
