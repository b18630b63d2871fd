//! Crashes and faults: a table exists whole or not at all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod common;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{Model, NAME, cases, dir_of, numbered, options};
use hightower_segment::Dir;
use hightower_segment::sim::{CrashPlan, Fault, FaultKind, SimFs};
use hightower_table::{TableError, TableReader, TableWriter, UNFINISHED_SUFFIX};

fn write(dir: &Arc<dyn Dir>, model: &Model) -> Result<(), TableError> {
    // Little memory, so that the writer spills.
    let mut writer = TableWriter::create(dir, NAME, options().with_memory_bytes(1 << 10))?;
    for (key, entry) in model {
        writer.push(key, *entry)?;
    }
    writer.finish_with(&mut |_| ControlFlow::Continue(())).map(drop)
}

/// Whether the table exists; if so, it must be whole.
fn is_whole(dir: &Arc<dyn Dir>, model: &Model) -> bool {
    match TableReader::open(dir.as_ref(), NAME) {
        Ok(table) => {
            table.check().unwrap();
            assert_eq!(table.len(), model.len() as u64);
            for (key, entry) in model {
                assert_eq!(table.get(key).unwrap(), Some(*entry));
            }
            true
        }
        Err(TableError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => false,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn every_crash_leaves_a_whole_table_or_none() {
    let model = numbered(300);
    let fs = SimFs::new();
    let dir = dir_of(&fs);
    fs.settle();
    write(&dir, &model).unwrap();
    let done = fs.op_count();
    let samples = u64::from(cases(60));
    let (mut states, mut whole) = (0, 0);
    for state in fs.crash_states(CrashPlan { exhaustive_limit: 256, samples, seed: 5 }) {
        let is_there = is_whole(&dir_of(&state.fs), &model);
        assert!(is_there || state.point.op < done, "lost after it was finished: {}", state.point);
        for name in state.fs.names_in(Path::new("/db")).unwrap() {
            assert!(name == NAME || name.ends_with(UNFINISHED_SUFFIX), "{name}");
        }
        states += 1;
        whole += u64::from(is_there);
    }
    assert!(states > 100 && whole > 0 && whole < states, "{whole} of {states}");
}

#[test]
fn every_fault_at_every_call_is_an_error_without_a_file_or_harmless() {
    let model = numbered(300);
    let fs = SimFs::new();
    let dir = dir_of(&fs);
    let begin = fs.call_count();
    write(&dir, &model).unwrap();
    let calls = fs.call_count() - begin;
    assert!(calls > 12, "{calls}");
    for kind in FaultKind::ALL {
        for lasting in [false, true] {
            let mut failures = 0;
            for call in 0..calls {
                let fs = SimFs::new();
                let dir = dir_of(&fs);
                fs.inject(Fault { kind, at_call: fs.call_count() + call, lasting });
                let written = write(&dir, &model);
                fs.heal();
                let names = fs.names_in(Path::new("/db")).unwrap();
                match written {
                    // A flipped bit is detected at the read.
                    Ok(()) if kind == FaultKind::FlipBit => match TableReader::open(dir.as_ref(), NAME) {
                        Ok(table) => drop(table.check()),
                        Err(error) => assert!(
                            matches!(error, TableError::Corrupt { .. } | TableError::VersionUnsupported { .. }),
                            "{error}"
                        ),
                    },
                    Ok(()) => assert!(is_whole(&dir, &model)),
                    Err(error) => {
                        failures += 1;
                        assert!(!error.to_string().is_empty());
                        assert!(
                            !matches!(kind, FaultKind::NoSpace | FaultKind::NoQuota | FaultKind::TooLong)
                                || error.is_full(),
                            "{error}"
                        );
                        // A file that cannot be removed stays: with a name that nobody opens, or as
                        // a whole table.
                        let may_stay = lasting && matches!(kind, FaultKind::Io | FaultKind::NoMemory);
                        assert!(may_stay || names.is_empty(), "{kind:?} at {call}: {names:?}");
                        is_whole(&dir, &model);
                        assert!(names.iter().all(|name| name == NAME || name.ends_with(UNFINISHED_SUFFIX)));
                    }
                }
            }
            let harmless = matches!(kind, FaultKind::Interrupted | FaultKind::ShortWrite | FaultKind::LyingSync);
            assert!(harmless && failures == 0 || !harmless && failures > 0, "{kind:?}: {failures}");
        }
    }
}

#[test]
fn a_device_of_any_size_that_is_too_small_is_an_error_without_a_file() {
    let model = numbered(2000);
    let fs = SimFs::new();
    write(&dir_of(&fs), &model).unwrap();
    let needed = fs.used_bytes();
    for capacity in (0..needed).step_by(997) {
        let fs = SimFs::new();
        let dir = dir_of(&fs);
        fs.set_capacity_bytes(Some(capacity));
        let written = write(&dir, &model);
        assert!(matches!(&written, Err(error) if error.is_full()), "{capacity}: {written:?}");
        assert!(fs.names_in(Path::new("/db")).unwrap().is_empty());
        fs.set_capacity_bytes(None);
        write(&dir, &model).unwrap();
        assert!(is_whole(&dir, &model));
    }
}
