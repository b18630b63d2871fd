//! Faults during compaction and flushes: reads stay correct, nothing is lost, and errors are
//! reported.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{config, open, open_with};
use hightower_engine::{AppendMode, Background, Command, SingleNodeEngine, SnapshotEngine, TablesUse};
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
    for kind in [FaultKind::NoSpace, FaultKind::NoQuota, FaultKind::TooLong] {
        assert!(strike_everywhere(kind, true, AppendMode::Mapped) > 0);
        let (fs, engine) = filled(AppendMode::Mapped);
        fs.inject(Fault { kind, at_call: fs.call_count(), lasting: true });
        if let Err(error) = engine.run_compaction_now() {
            assert_eq!(error.code(), "full", "{error}");
        }
        fs.heal();
        engine.put("after", "all").unwrap();
        engine.run_compaction_now().unwrap();
        check_reads(&engine);
    }
}

#[test]
fn interruptions_and_short_writes_are_nothing() {
    for kind in [FaultKind::Interrupted, FaultKind::ShortWrite] {
        for lasting in [false, true] {
            assert_eq!(strike_everywhere(kind, lasting, AppendMode::Positioned), 0, "{kind:?}");
        }
    }
}

/// Outputs are read back before their inputs are removed.
#[test]
fn a_bit_that_flips_on_the_way_to_an_output_ends_the_compaction() {
    let half_dead = || {
        let fs = SimFs::new();
        let engine = open_with(&fs, config(AppendMode::Positioned), 1, Background::Caller).unwrap();
        (0..100).for_each(|number| assert!(engine.put(key(number), [1; 60]).unwrap().changed()));
        (0..100).step_by(2).for_each(|number| assert!(engine.put(key(number), [2; 60]).unwrap().changed()));
        engine.flush().unwrap();
        (fs, engine)
    };
    let (fs, engine) = half_dead();
    let before = fs.call_count();
    assert!(engine.run_compaction_now().unwrap().moved_records > 50);
    let calls = fs.call_count() - before;
    let (mut failures, mut rebuilds) = (0, 0);
    for at in 0..calls {
        let (fs, engine) = half_dead();
        fs.inject(Fault { kind: FaultKind::FlipBit, at_call: fs.call_count() + at, lasting: false });
        if let Err(error) = engine.run_compaction_now() {
            assert_eq!(error.code(), "corrupt", "at call {at}: {error}");
            failures += 1;
        }
        let read_all = || {
            for number in 0..100 {
                let written = if number % 2 == 0 { 2 } else { 1 };
                match engine.get(key(number)) {
                    Ok(value) => assert_eq!(value.unwrap(), [written; 60], "at call {at}"),
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        // A table of the compaction may be damaged. The log can replace it, so it is not read back
        // before it is used, but the first read that meets the damage has it rebuilt: the merge at
        // the end of the compaction, or a get.
        if let Err(error) = read_all() {
            assert_eq!(error.code(), "corrupt", "at call {at}: {error}");
            engine.checkpoint().unwrap();
            read_all().unwrap();
        }
        rebuilds += engine.stats().compaction.rebuilds;
    }
    assert!(failures > 0 && rebuilds > 0, "{failures} failures, {rebuilds} rebuilds");
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

#[test]
fn compaction_waits_for_readers_that_are_about_to_end() {
    let fs = SimFs::new();
    let engine = open_with(&fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap();
    fill(&engine);
    let has_guard = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            let guard = hightower_index::pin();
            has_guard.store(true, Ordering::Release);
            while engine.stats().compaction.runs == 0 {
                thread::yield_now();
            }
            // It ends while the compaction waits.
            thread::sleep(Duration::from_millis(10));
            drop(guard);
        });
        while !has_guard.load(Ordering::Acquire) {
            thread::yield_now();
        }
        engine.run_compaction_now().unwrap()
    });
    assert!(report.removed_segments > 0, "{report:?}");
    assert_eq!(report.waiting_segments, 0, "{report:?}");
}

/// The reserve for deletes has room for a few keys only, and compaction refills it.
#[test]
fn a_range_is_deleted_on_a_full_device() {
    for key_len in [16, 200, 1000] {
        let fs = SimFs::new();
        let engine = open_with(&fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap();
        let long = |number: u32| format!("{number:0key_len$}");
        fs.set_capacity_bytes(Some(600_000));
        let written = (0_u32..).find(|&number| engine.put(long(number), vec![1; 2 * key_len]).is_err()).unwrap();
        fs.set_capacity_bytes(Some(fs.used_bytes()));
        let mut deleted = 0;
        loop {
            let before = deleted;
            let deletion = engine.delete_range_with_progress(.., |_| {
                deleted = u64::from(written) - engine.len() as u64;
                ControlFlow::Continue(())
            });
            match deletion {
                Ok(deletion) => break assert!(deletion.is_complete),
                Err(error) => assert_eq!(error.code(), "full", "{error}"),
            }
            assert!(deleted > before, "{key_len}: {deleted} of {written}");
            engine.run_compaction_now().unwrap();
        }
        assert!(engine.is_empty());
    }
}

/// The room that xfs needs before it creates a file, in proportion to these files.
const FOR_NAME_BYTES: u64 = 20_000;

/// All segments are half dead and no room is free: each run uses the reserve, frees room, and
/// restores the reserve.
#[test]
fn a_full_device_of_half_dead_segments_is_compacted() {
    let ways = [(false, 0), (true, 0), (false, FOR_NAME_BYTES), (true, FOR_NAME_BYTES)];
    for ((is_killed, for_name_bytes), is_flushed) in ways.into_iter().flat_map(|way| [(way, false), (way, true)]) {
        let fs = SimFs::new();
        fs.set_for_name_bytes(for_name_bytes);
        let engine = open_with(&fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap();
        (0..400).for_each(|number| assert!(engine.put(key(number), [1; 100]).unwrap().changed()));
        if is_flushed {
            // What is dead is hidden by a higher level.
            engine.checkpoint().unwrap();
        }
        (0..400).step_by(2).for_each(|number| assert!(engine.delete(key(number)).unwrap().changed()));
        engine.flush().unwrap();
        // Others take the remaining room.
        let (fs, engine) = if is_killed {
            let fs = fs.after_kill();
            fs.set_for_name_bytes(for_name_bytes);
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
        for number in 0..400 {
            let expected = (number % 2 == 1).then(|| vec![1; 100]);
            assert_eq!(engine.get(key(number)).unwrap().as_deref(), expected.as_deref(), "{number}");
        }
        engine.put("room", [1; 100]).unwrap();
        (1..400).step_by(2).for_each(|number| assert!(engine.delete(key(number)).unwrap().changed()));
        engine.run_compaction_now().unwrap();
        assert_eq!(engine.len(), 1);
        drop(engine);
        assert_eq!(open(&fs, AppendMode::Mapped, 3).unwrap().len(), 1);
    }
}

/// Whatever versions and timestamps callers have chosen, a segment's live records need no more room
/// than they had: each segment with one dead byte is rewritten within its own length.
#[test]
fn a_full_device_is_compacted_whatever_its_numbers() {
    const VERSIONS: [u64; 6] = [0, 1, 300, 1 << 40, 1 << 62, (1 << 63) - 1];
    const TIMESTAMPS: [i64; 7] = [i64::MIN, -1, 0, 1_700_000_000_001, 1_700_000_100_000, 1 << 60, i64::MAX];
    for seed in 0..60_u64 {
        let mut state = seed;
        let mut draw = |bound: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 33).unwrap() % bound
        };
        let fs = SimFs::new();
        let engine = open_with(&fs, config(AppendMode::Mapped), seed, Background::Caller).unwrap();
        // Some stores have usual numbers but for a few commands.
        let usual = [0, 4, 20][draw(3)];
        for number in 0..600 {
            let wild = draw(24) >= usual;
            let command = Command::Set {
                key: key(number).into_bytes(),
                value: vec![1; 90 + draw(20)],
                version: if wild { VERSIONS[draw(6)] } else { engine.latest_version() + 1 },
                timestamp: if wild { TIMESTAMPS[draw(7)] } else { 1_700_000_000_000 + i64::from(number) },
            };
            match engine.submit(command) {
                Ok(outcome) => assert!(outcome.changed()),
                // Above the callers' versions, only the engine gives one.
                Err(error) => {
                    assert!(error.to_string().contains("version"), "{error}");
                    engine.put(key(number), vec![1; 100]).unwrap();
                }
            }
            if number % 16 == 0 {
                engine.put("k", "").unwrap();
            }
        }
        let has_dead = |engine: &SingleNodeEngine| {
            let segments = engine.stats().segments;
            segments.iter().filter(|segment| segment.is_sealed && segment.dead_records > 0).count()
        };
        // A second time, of what the first has moved, with tombstones beside it.
        for round in 0..2 {
            assert!(has_dead(&engine) > 10 - 6 * round, "seed {seed}, round {round}: {}", has_dead(&engine));
            engine.flush().unwrap();
            fs.set_capacity_bytes(Some(fs.used_bytes()));
            // Other tests of this process may delay the removal of its inputs, and with it the next
            // run.
            let is_done = (0..100).any(|_| {
                let ran = engine.run_compaction_now();
                thread::yield_now();
                ran.is_ok() && has_dead(&engine) == 0
            });
            assert!(is_done, "seed {seed}, round {round}: {:?}", engine.stats());
            (0..600).step_by(24).for_each(|number| assert!(engine.delete(key(number)).unwrap().changed()));
        }
    }
}

/// Deletes have used up their reserve, and others take all freed room: after any number of opens
/// compaction works, and then deletes do.
#[test]
fn a_full_device_is_compacted_after_any_number_of_openings() {
    for (mode, is_killed, for_name_bytes) in [AppendMode::Mapped, AppendMode::Positioned].into_iter().flat_map(|mode| {
        [(mode, false, 0), (mode, true, 0), (mode, false, FOR_NAME_BYTES), (mode, true, FOR_NAME_BYTES)]
    }) {
        let mut fs = SimFs::new();
        fs.set_for_name_bytes(for_name_bytes);
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
                fs.set_for_name_bytes(for_name_bytes);
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

/// The record of a delete is as long as a segment, or longer, so that each needs a file of its own:
/// the reserve for the tail has its length, also after a close or a kill.
#[test]
fn keys_longer_than_a_segment_are_deleted_on_a_full_device() {
    for (key_len, ends) in [(2500, "stays"), (4000, "stays"), (4000, "closes"), (20_000, "dies"), (65_520, "dies")] {
        let mut fs = SimFs::new();
        let config = config(AppendMode::Auto).with_max_segment_size(4096).with_min_segment_size(4096);
        let mut engine = open_with(&fs, config.clone(), 1, Background::Caller).unwrap();
        let long_key = |number: usize| format!("{number:0>key_len$}");
        fs.set_capacity_bytes(Some(fs.used_bytes() + (1 << 20)));
        let put = (0..1000).take_while(|number| engine.put(long_key(*number), [1; 100]).is_ok()).count();
        assert!((8..500).contains(&put), "{put} keys of {key_len} bytes");
        fs.set_capacity_bytes(Some(fs.used_bytes()));
        if ends != "stays" {
            if ends == "closes" {
                engine.close().unwrap();
            } else {
                fs = fs.after_kill();
            }
            drop(engine);
            fs.set_capacity_bytes(Some(fs.used_bytes()));
            engine = open_with(&fs, config, 2, Background::Caller).unwrap();
        }
        for number in 0..put {
            if engine.delete(long_key(number)).is_err() {
                let report = engine.run_compaction_now().unwrap();
                let deleted = engine.delete(long_key(number));
                assert!(deleted.is_ok(), "{number} of {put} keys of {key_len} bytes: {deleted:?} after {report:?}");
            }
        }
        assert!(engine.is_empty());
    }
}

/// The names of the files of tables, unfinished ones included.
fn table_files(fs: &SimFs) -> Vec<String> {
    let names = fs.names_in(Path::new("/store")).unwrap();
    names.into_iter().filter(|name| name.contains(".tbl")).collect()
}

/// A flush that fails at any call leaves the old table alone named, and the store at work; the next
/// one writes the new table.
#[test]
fn a_flush_that_fails_anywhere_leaves_the_old_table() {
    let begun = || {
        let (fs, engine) = filled(AppendMode::Positioned);
        engine.checkpoint().unwrap();
        engine.put(key(60), "behind the table").unwrap();
        engine.flush().unwrap();
        (fs, engine)
    };
    let calls = {
        let (fs, engine) = begun();
        let before = fs.call_count();
        engine.checkpoint().unwrap();
        fs.call_count() - before
    };
    assert!(calls > 5, "{calls}");
    let kinds = [
        (FaultKind::NoSpace, true),
        (FaultKind::NoDescriptors, false),
        (FaultKind::NoMemory, false),
        (FaultKind::Io, false),
    ];
    for (kind, lasting) in kinds {
        let mut failures = 0;
        for at in 0..calls {
            let (fs, engine) = begun();
            let old = engine.stats().tables;
            fs.inject(Fault { kind, at_call: fs.call_count() + at, lasting });
            let failed = engine.checkpoint().err();
            failures += usize::from(failed.is_some());
            fs.heal();
            check_reads(&engine);
            let may_poison = kind == FaultKind::Io;
            if let Some(error) = failed.filter(|_| !may_poison) {
                // Whoever needs the table may have tried again.
                let stats = engine.stats();
                assert!(stats.tables.ends_with(&old) && stats.poisoned.is_none(), "{kind:?} at {at}: {error}");
                assert_eq!(error.code(), if kind == FaultKind::NoSpace { "full" } else { "io" }, "{error}");
                let files = table_files(&fs);
                assert_eq!(files.len(), stats.tables.len(), "{kind:?} at {at}: {files:?}");
                engine.checkpoint().unwrap();
                assert_eq!(engine.stats().tables.len(), 2);
            }
            let reopened = open(&fs.after_kill(), AppendMode::Positioned, 2).unwrap();
            let use_of = &reopened.open_report().tables;
            assert!(matches!(use_of, TablesUse::Loaded { tables: 1 | 2, .. }), "{kind:?} at {at}: {use_of:?}");
            check_reads(&reopened);
            assert_eq!(reopened.get(key(60)).unwrap().unwrap(), "behind the table");
        }
        assert!(failures > 0, "{kind:?}");
    }
}

/// The new places are written to a table; if it finds no room after all, they go to the memtable.
#[test]
fn a_compaction_whose_table_has_no_room_works_without_it() {
    let long_key = |number: u32| format!("{number:x<1000}");
    // A table is expected to take less for each key than these keys are long.
    for free_bytes in (0..12_000).step_by(500) {
        let fs = SimFs::new();
        let engine = open_with(&fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap();
        (0..60).for_each(|number| assert!(engine.put(long_key(number), [1; 10]).unwrap().changed()));
        (0..60).step_by(3).for_each(|number| assert!(engine.put(long_key(number), [2; 10]).unwrap().changed()));
        engine.checkpoint().unwrap();
        fs.set_capacity_bytes(Some(fs.used_bytes() + free_bytes));
        let report = engine.run_compaction_now().unwrap();
        assert!(report.moved_records > 10 && report.freed_bytes > 10_000, "{free_bytes}: {report:?}");
        let check = |engine: &SingleNodeEngine| {
            for number in 0..60 {
                let written = if number % 3 == 0 { 2 } else { 1 };
                assert_eq!(engine.get(long_key(number)).unwrap().unwrap(), [written; 10], "{number}");
            }
            assert_eq!(engine.len(), 60);
        };
        check(&engine);
        check(&open(&fs.after_kill(), AppendMode::Mapped, 2).unwrap());
    }
}

/// The device has room, but no free names.
#[test]
fn an_explicit_compaction_frees_names_where_nothing_is_dead() {
    let fs = SimFs::new();
    for number in 0..16 {
        let engine = open_with(&fs, config(AppendMode::Mapped), 1, Background::Caller).unwrap();
        engine.put(key(number), [1; 100]).unwrap();
        engine.close().unwrap();
    }
    let engine = open_with(&fs, config(AppendMode::Mapped), 2, Background::Caller).unwrap();
    fs.set_more_files(Some(0));
    let written = (16..1000).find(|number| engine.put(key(*number), [1; 100]).is_err()).unwrap();
    engine.run_compaction_now().unwrap();
    (written..written + 50).for_each(|number| assert!(engine.put(key(number), [1; 100]).unwrap().changed()));
    (0..written + 50).for_each(|number| assert_eq!(engine.get(key(number)).unwrap().unwrap(), [1; 100]));
}

/// Tombstones of the memtable hide puts in a table, also from a snapshot, whose view keeps the
/// segments of the puts. Without room for a flush, compaction changes the memtable that the
/// snapshot reads.
#[test]
fn a_tombstone_that_hides_a_put_in_a_table_stays_in_the_memtable() {
    let mut config = config(AppendMode::Mapped);
    config.compaction.tombstone_grace = Duration::ZERO;
    let fs = SimFs::new();
    let engine = open_with(&fs, config, 1, Background::Caller).unwrap();
    (0..60).for_each(|number| assert!(engine.put(key(number), [1; 100]).unwrap().changed()));
    engine.checkpoint().unwrap();
    for number in 0..60 {
        engine.delete(key(number)).unwrap();
        // So that the segments of the deletes have dead records, too.
        engine.put("counter", [1; 60]).unwrap();
    }
    let snapshot = engine.snapshot().unwrap();
    fs.set_capacity_bytes(Some(fs.used_bytes()));
    let report = engine.run_compaction_now().unwrap();
    assert!(report.removed_segments > 2, "{report:?}");
    for number in 0..60 {
        assert_eq!(snapshot.get(key(number)).unwrap(), None, "{number}");
        assert_eq!(engine.get(key(number)).unwrap(), None, "{number}");
    }
    assert_eq!(engine.snapshot_state().unwrap().len(), 1);
}

/// A file that could not be removed goes with the next compaction, and so do those behind it.
#[test]
fn what_could_not_be_removed_goes_with_the_next_compaction() {
    let begun = || {
        let (fs, engine) = filled(AppendMode::Positioned);
        for round in 0..2 {
            engine.put(key(60), [round; 60]).unwrap();
            engine.checkpoint().unwrap();
        }
        (fs, engine)
    };
    let calls = {
        let (fs, engine) = begun();
        assert!(engine.stats().tables.len() > 1);
        let before = fs.call_count();
        engine.run_compaction_now().unwrap();
        fs.call_count() - before
    };
    let mut failures = 0;
    for at in 0..calls {
        let (fs, engine) = begun();
        fs.inject(Fault { kind: FaultKind::Io, at_call: fs.call_count() + at, lasting: false });
        let first = engine.run_compaction_now();
        let is_failed = first.is_err();
        fs.heal();
        assert_eq!(engine.stats().poisoned.is_some(), engine.put("more", "of it").is_err(), "call {at}: {first:?}");
        if engine.stats().poisoned.is_some() {
            continue;
        }
        failures += usize::from(is_failed);
        // Other tests of this process may hold what is to be freed for a while.
        let is_freed = (0..20).any(|_| {
            engine.run_compaction_now().unwrap();
            let stats = engine.stats();
            table_files(&fs).len() == stats.tables.len() && stats.compaction.waiting_segments == 0
        });
        assert!(is_freed, "call {at}: {first:?}: {:?} {:?}", table_files(&fs), engine.stats().tables);
    }
    assert!(failures > 10, "{failures}");
}
