//! Crashes during restore, import and salvage: the source is unchanged, the destination is complete
//! or no store, and the next attempt succeeds. A backup into an earlier one is the earlier one or
//! the new one. (`crash.rs` crashes backups, too.)

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::ops::ControlFlow;
use std::sync::Arc;

use common::{config, open_with};
use hightower_engine::{
    AppendMode, Background, Components, Result, SingleNodeEngine, SnapshotEngine, StoreConfig, import_snapshot,
    restore, salvage,
};
use hightower_segment::sim::{CrashPlan, SeededEntropy, SimFs};

const TO: &str = "/copies/new";

fn components(fs: &SimFs) -> Components {
    Components::default()
        .with_fs(Arc::new(fs.clone()))
        .with_entropy(Arc::new(SeededEntropy::new(5)))
        .with_background(Background::Caller)
}

fn read(fs: &SimFs, dir: &str) -> Result<u64> {
    let config = StoreConfig::at(dir).with_read_only(true);
    Ok(open_with(fs, config, 1, Background::Caller)?.snapshot_state()?.digest())
}

/// A closed, durable store with several segments; returns its directory.
fn source(fs: &SimFs) -> std::path::PathBuf {
    let config = config(AppendMode::Positioned);
    let dir = config.data_dir.clone();
    let engine: SingleNodeEngine = open_with(fs, config, 2, Background::Caller).unwrap();
    for number in 0..120_u32 {
        engine.put(format!("key/{:03}", number % 70), number.to_string().repeat(9)).unwrap();
    }
    for number in 0..20 {
        engine.delete(format!("key/{number:03}")).unwrap();
    }
    engine.close().unwrap();
    dir
}

fn explore(what: &str, copy: impl Fn(&SimFs) -> Result<()>) {
    let fs = SimFs::new();
    let dir = source(&fs);
    let dir = dir.to_str().unwrap();
    fs.settle();
    let expected = read(&fs, dir).unwrap();
    copy(&fs).unwrap();
    assert_eq!(read(&fs, TO).unwrap(), expected);
    let mut seen = [0, 0];
    for state in fs.crash_states(CrashPlan { exhaustive_limit: 8, samples: 4, seed: 7 }) {
        let point = state.point;
        assert_eq!(read(&state.fs, dir).unwrap(), expected, "{what}, {point}: the source has changed");
        let is_there = match read(&state.fs, TO) {
            Ok(found) => {
                assert_eq!(found, expected, "{what}, {point}: half a destination");
                true
            }
            Err(error) => {
                assert_eq!(error.code(), "not_found", "{what}, {point}: {error}");
                false
            }
        };
        seen[usize::from(is_there)] += 1;
        match copy(&state.fs) {
            Ok(()) => assert!(!is_there, "{what}, {point}: written over"),
            Err(error) => assert!(is_there && error.code() == "conflict", "{what}, {point}: {error}"),
        }
        assert_eq!(read(&state.fs, TO).unwrap(), expected, "{what}, {point}: the second attempt");
    }
    assert!(seen[0] > 20 && seen[1] > 0, "{what}: {seen:?}");
}

#[test]
fn a_restore_is_whole_or_absent() {
    explore("restore", |fs| restore(&components(fs), config(AppendMode::Positioned).data_dir, TO).map(drop));
}

#[test]
fn a_salvage_is_whole_or_absent() {
    explore("salvage", |fs| {
        let from = config(AppendMode::Positioned).data_dir;
        salvage(&components(fs), from, TO, &mut |_| ControlFlow::Continue(())).map(drop)
    });
}

#[test]
fn an_import_is_whole_or_absent() {
    explore("import", |fs| {
        let from = config(AppendMode::Positioned).with_read_only(true);
        let mut stream = Vec::new();
        open_with(fs, from, 3, Background::Caller)?.export_snapshot(&mut stream)?;
        import_snapshot(&components(fs), &mut &stream[..], TO).map(drop)
    });
}

#[test]
fn a_backup_into_an_earlier_one_is_that_one_or_the_new_one() {
    const BACKUP: &str = "/copies/backup";
    let fs = SimFs::new();
    let engine = open_with(&fs, config(AppendMode::Positioned), 2, Background::Caller).unwrap();
    let mut returned = Vec::new();
    for round in 0..3_u32 {
        for number in 0..40_u32 {
            engine.put(format!("key/{number:03}"), format!("{round}").repeat(40)).unwrap();
        }
        engine.backup_to(BACKUP).unwrap();
        returned.push((fs.op_count(), read(&fs, BACKUP).unwrap()));
    }
    let (first_op, mut seen) = (returned[0].0, 0);
    let states = fs.crash_states(CrashPlan { exhaustive_limit: 10, samples: 16, seed: 3 });
    for state in states.filter(|state| state.point.op >= first_op) {
        let point = state.point;
        let found = read(&state.fs, BACKUP).unwrap_or_else(|error| panic!("{point}: {error}"));
        let last = returned.iter().rposition(|(op, _)| *op <= point.op).unwrap();
        let next = returned.get(last + 1).map(|(_, digest)| *digest);
        assert!(found == returned[last].1 || Some(found) == next, "{point}: neither the old backup nor the new one");
        seen += 1;
    }
    assert!(seen > 500, "{seen}");
}
