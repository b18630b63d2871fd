//! Planted bugs, each undoing one rule, and the test that must see it. Built with `RUSTFLAGS="--cfg mutants"` only:
//! `RUSTFLAGS="--cfg mutants" cargo test -p hightower-segment --test mutants`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]
#![cfg(mutants)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{DIR, Step, World, options, workload};
use hightower_segment::sim::{CrashPlan, Fault, FaultKind, SimFs};
use hightower_segment::{AppendMode, Fs, SegmentError, SegmentStore, mutants, segment_name};

const PUT: Step = Step::Commit { commands: 1, value_len: 50 };

/// The bugs, and what must see them.
const MUTANTS: [(&str, fn() -> Result<(), String>); 19] = [
    ("manifest-not-synced", crashes),
    ("manifest-dir-not-synced", crashes),
    ("header-not-synced", crashes),
    ("segment-dir-not-synced", crashes),
    ("ack-before-sync", crashes),
    ("skip-predecessor-sync", crashes),
    ("seal-before-sync", crashes),
    ("recovered-tail-not-synced", crashes),
    ("batch-marker-ignored", batches),
    ("keep-later-segments", crashes),
    ("durable-without-predecessors", crashes),
    ("version-floor-ignored", crashes),
    ("seq-not-reserved", crashes),
    ("output-not-synced", crashes),
    ("recycle-keeps-salt", recycling),
    ("recycle-hard-links", hard_links),
    ("witness-ignored", damage),
    ("no-poison-on-failed-sync", failed_syncs),
    ("recovered-tail-not-rewritten", failed_syncs),
];

#[test]
fn every_planted_bug_is_seen() {
    for scenario in [crashes, batches, recycling, hard_links, damage, failed_syncs] {
        mutants::switch("");
        scenario().unwrap_or_else(|error| panic!("a failure without any planted bug: {error}"));
    }
    for (name, scenario) in MUTANTS {
        mutants::switch(name);
        let seen = scenario().err().unwrap_or_else(|| panic!("nobody saw the planted bug {name}"));
        println!("{name}: {seen}");
    }
}

fn crashes() -> Result<(), String> {
    for seed in 0..10 {
        for mode in [AppendMode::Mapped, AppendMode::Positioned] {
            let mut world = World::new(SimFs::new(), options(mode, 1024, seed));
            world.run(&workload(seed, 40)).map_err(|error| error.to_string())?;
            world.explore(CrashPlan { exhaustive_limit: 64, samples: 10, seed })?;
        }
    }
    Ok(())
}

/// Batches that reach over sector boundaries, never synced.
fn batches() -> Result<(), String> {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let mut world = World::new(SimFs::new(), options(mode, 4096, 5));
        world.run(&[Step::Commit { commands: 8, value_len: 100 }; 3]).map_err(|error| error.to_string())?;
        world.explore(CrashPlan::default())?;
    }
    Ok(())
}

/// Commits of one length, so that what is left in a recycled file stands where records may start.
fn recycling() -> Result<(), String> {
    use Step::{Compact, Kill, Prepare, SealPredecessors, Sync};
    let mut world = World::new(SimFs::new(), options(AppendMode::Mapped, 1024, 5));
    let cycle = [[PUT; 12].as_slice(), &[Prepare, SealPredecessors, Compact]].concat();
    let mut steps = cycle.repeat(10);
    steps.push(Sync);
    steps.push(Kill);
    world.run(&steps).map_err(|error| error.to_string())?;
    world.explore(CrashPlan { exhaustive_limit: 16, samples: 4, seed: 1 }).map(drop)
}

/// A second name, such as a backup's, keeps what it had.
fn hard_links() -> Result<(), String> {
    use Step::{Compact, Prepare, SealPredecessors};
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 1024, 5));
    let error = |error: SegmentError| error.to_string();
    world.run(&[PUT; 30]).map_err(error)?;
    world.step(SealPredecessors).map_err(error)?;
    let (file, backup) = (Path::new(DIR).join(segment_name(1)), Path::new("/data/backup.seg"));
    fs.hard_link(&file, backup).map_err(|error| error.to_string())?;
    let before = fs.read_file(backup).map_err(|error| error.to_string())?;
    for _ in 0..4 {
        world.run(&[Compact, Prepare]).map_err(error)?;
        world.run(&[PUT; 20]).map_err(error)?;
        world.step(SealPredecessors).map_err(error)?;
    }
    let after = fs.read_file(backup).map_err(|error| error.to_string())?;
    if before != after { Err("the backup has changed".to_owned()) } else { Ok(()) }
}

/// Damage in what was durable is never taken for a torn tail.
fn damage() -> Result<(), String> {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 4096, 1));
    world.run(&[PUT, PUT, Step::Sync, PUT, PUT]).map_err(|error| error.to_string())?;
    world.open = None;
    fs.settle();
    let path = Path::new(DIR).join(segment_name(1));
    let mut bytes = fs.read_file(&path).map_err(|error| error.to_string())?;
    bytes[70] ^= 1;
    fs.plant(&path, &bytes);
    let fs: Arc<dyn Fs> = Arc::new(fs);
    match SegmentStore::open(fs, Path::new(DIR), world.options) {
        Err(SegmentError::Corrupt { .. }) => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(_) => Err("damaged durable commits were dropped as a torn tail".to_owned()),
    }
}

/// After a failed sync nothing is acknowledged.
fn failed_syncs() -> Result<(), String> {
    for at_call in 0..60 {
        let fs = SimFs::new();
        fs.inject(Fault { kind: FaultKind::Io, at_call, lasting: false });
        let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 4096, 1));
        let mut synced = Ok(());
        // Long enough that no commit writes the sectors of the one before anew.
        let put = Step::Commit { commands: 1, value_len: 700 };
        for step in [put, Step::Sync, put, Step::Sync, put, Step::Sync] {
            synced = world.run(&[step]);
        }
        if synced.is_ok() {
            world.explore_end(CrashPlan::default())?;
        }
        // The next open finds pages that read well and never reached the disk.
        if world.step(Step::Kill).is_ok() {
            world.open = None;
            world.explore_end(CrashPlan::default())?;
        }
    }
    Ok(())
}
