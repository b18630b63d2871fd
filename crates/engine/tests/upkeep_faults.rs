//! Faults during compaction and checkpoints: reads stay correct, nothing is lost, and errors are
//! reported.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use common::{config, open, open_with};
use hightower_engine::{AppendMode, Background, SingleNodeEngine, SnapshotEngine};
use hightower_segment::sim::{Fault, FaultKind, SimFs};

fn key(number: u32) -> String {
    format!("key/{number:04}")
}

fn fill(engine: &SingleNodeEngine) {
    for round in 0..3 {
        for number in 0..60 {
            engine.put(key(number), vec![round; 60]).unwrap();
        }
    }
    for number in 0..20 {
        engine.delete(key(number)).unwrap();
    }
    engine.flush().unwrap();
}

fn check_reads(engine: &SingleNodeEngine) {
    for number in 0..60 {
        let expected = (number >= 20).then(|| vec![2; 60]);
        assert_eq!(engine.get(key(number)).unwrap().as_deref(), expected.as_deref());
    }
}

/// A filled store, and the numbers of the file-system calls of its compaction.
fn filled(mode: AppendMode) -> (SimFs, SingleNodeEngine) {
    let fs = SimFs::new();
    let engine = open(&fs, mode, 1).unwrap();
    fill(&engine);
    (fs, engine)
}

fn strike_everywhere(kind: FaultKind, lasting: bool, mode: AppendMode) -> usize {
    let calls = {
        let (fs, engine) = filled(mode);
        let before = fs.call_count();
        engine.run_compaction_now().unwrap();
        fs.call_count() - before
    };
    assert!(calls > 10, "{calls}");
    let mut failures = 0;
    for at in 0..calls + 4 {
        let (fs, engine) = filled(mode);
        let digest = engine.snapshot_state().unwrap().digest();
        fs.inject(Fault { kind, at_call: fs.call_count() + at, lasting });
        failures += usize::from(engine.run_compaction_now().is_err());
        check_reads(&engine);
        fs.heal();
        let reopened = open(&fs.after_kill(), mode, 2).unwrap();
        check_reads(&reopened);
        assert_eq!(reopened.snapshot_state().unwrap().digest(), digest, "{kind:?} at call {at}");
        reopened.run_compaction_now().unwrap();
        check_reads(&reopened);
        assert_eq!(reopened.snapshot_state().unwrap().digest(), digest);
    }
    failures
}

#[test]
fn an_io_error_anywhere_loses_nothing() {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        assert!(strike_everywhere(FaultKind::Io, false, mode) > 5);
        assert!(strike_everywhere(FaultKind::Io, true, mode) > 5);
    }
}

#[test]
fn a_full_device_anywhere_loses_nothing_and_poisons_nothing() {
    assert!(strike_everywhere(FaultKind::NoSpace, true, AppendMode::Mapped) > 0);
    let (fs, engine) = filled(AppendMode::Mapped);
    fs.inject(Fault { kind: FaultKind::NoSpace, at_call: fs.call_count(), lasting: true });
    if let Err(error) = engine.run_compaction_now() {
        assert_eq!(error.code(), "full", "{error}");
    }
    fs.heal();
    engine.put("after", "all").unwrap();
    engine.run_compaction_now().unwrap();
    check_reads(&engine);
}

#[test]
fn interruptions_and_short_writes_are_nothing() {
    for kind in [FaultKind::Interrupted, FaultKind::ShortWrite] {
        for lasting in [false, true] {
            assert_eq!(strike_everywhere(kind, lasting, AppendMode::Positioned), 0, "{kind:?}");
        }
    }
}

#[test]
fn deletes_and_compaction_make_room_on_a_full_device() {
    // The caller does the background work, so the progress of that work at the end decides which
    // room is left.
    let fs = SimFs::new();
    let engine = open_with(&fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap();
    for number in 0..200 {
        engine.put(key(number), [1; 100]).unwrap();
    }
    engine.flush().unwrap();
    fs.set_capacity_bytes(Some(fs.used_bytes() + 6000));
    let mut more = 200;
    let error = loop {
        match engine.put(key(more), [1; 100]) {
            Ok(_) => more += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code(), "full", "{error}");
    // These deletes fit in their reserve, which is one segment.
    let deleted = more / 4;
    for number in 0..deleted {
        engine.delete(key(number)).unwrap();
    }
    engine.run_compaction_now().unwrap();
    engine.put("room", [1; 100]).unwrap();
    let left = (more - deleted + 1) as usize;
    assert_eq!(engine.len(), left);
    drop(engine);
    assert_eq!(open(&fs, AppendMode::Mapped, 3).unwrap().len(), left);
}

/// All segments are half dead and no room is free: each run uses the reserve, frees room, and
/// restores the reserve.
#[test]
fn a_full_device_of_half_dead_segments_is_compacted() {
    for is_killed in [false, true] {
        let fs = SimFs::new();
        let engine = open_with(&fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap();
        (0..400).for_each(|number| assert!(engine.put(key(number), [1; 100]).unwrap().changed()));
        (0..400).step_by(2).for_each(|number| assert!(engine.delete(key(number)).unwrap().changed()));
        engine.flush().unwrap();
        // Others take the remaining room.
        let (fs, engine) = if is_killed {
            let fs = fs.after_kill();
            fs.set_capacity_bytes(Some(fs.used_bytes()));
            let engine = open_with(&fs, config(AppendMode::Mapped), 2, Background::Caller).unwrap();
            (fs, engine)
        } else {
            fs.set_capacity_bytes(Some(fs.used_bytes()));
            (fs, engine)
        };
        let report = engine.run_compaction_now().unwrap();
        let dead_bytes = engine.stats().dead_bytes;
        assert!(report.freed_bytes > 15_000 && dead_bytes < 10_000, "{dead_bytes} bytes are dead: {report:?}");
        engine.put("room", [1; 100]).unwrap();
        (1..400).step_by(2).for_each(|number| assert!(engine.delete(key(number)).unwrap().changed()));
        engine.run_compaction_now().unwrap();
        assert_eq!(engine.len(), 1);
        drop(engine);
        assert_eq!(open(&fs, AppendMode::Mapped, 3).unwrap().len(), 1);
    }
}

/// Deletes have used up their reserve, and others take all freed room: after any number of opens
/// compaction works, and then deletes do.
#[test]
fn a_full_device_is_compacted_after_any_number_of_openings() {
    for (mode, is_killed) in [AppendMode::Mapped, AppendMode::Positioned]
        .into_iter()
        .flat_map(|mode| [false, true].map(|is_killed| (mode, is_killed)))
    {
        let mut fs = SimFs::new();
        let mut engine = open_with(&fs, config(mode), 1, Background::Caller).unwrap();
        (0..2000).for_each(|number| assert!(engine.put(key(number), [1; 100]).unwrap().changed()));
        engine.flush().unwrap();
        let mut deleted = 0;
        for opening in 2..6 {
            fs.set_capacity_bytes(Some(fs.used_bytes()));
            let now = (deleted..2000).take_while(|number| engine.delete(key(*number)).is_ok()).count();
            deleted += u32::try_from(now).unwrap();
            if is_killed {
                fs = fs.after_kill();
            } else {
                engine.close().unwrap();
            }
            drop(engine);
            fs.set_capacity_bytes(Some(fs.used_bytes()));
            engine = open_with(&fs, config(mode), opening, Background::Caller).unwrap();
        }
        assert!((50..1900).contains(&deleted), "{deleted}");
        let report = engine.run_compaction_now().unwrap();
        assert!(report.freed_bytes > 2000, "{report:?}");
        assert_eq!(engine.len(), 2000 - deleted as usize);
        (deleted..2000).for_each(|number| {
            if engine.delete(key(number)).is_err() {
                engine.run_compaction_now().unwrap();
                assert!(engine.delete(key(number)).unwrap().changed());
            }
        });
        engine.run_compaction_now().unwrap();
        assert_eq!(engine.len(), 0);
        engine.put("room", [1; 100]).unwrap();
    }
}
