//! Every kind of fault at every call of a workload, once and lasting: errors are reported, no
//! failed commit is ever visible, nothing promised is lost, and no sync succeeds after a failed
//! one.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of workloads (default 1), `HIGHTOWER_TEST_SEED` the
//! first.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::sweep::{faults, setting};
use common::{DIR, World, options, workload};
use hightower_segment::sim::{CrashPlan, Fault, FaultKind, SimFs};
use hightower_segment::{AppendMode, Fs, SegmentError, SegmentStore};

const STEPS: usize = 25;

fn calls(seed: u64, mode: AppendMode) -> u64 {
    let mut world = World::new(SimFs::new(), options(mode, 1024, seed));
    world.run(&workload(seed, STEPS)).unwrap();
    world.fs.call_count()
}

/// Runs a workload with one fault; returns the broken promise.
fn run(seed: u64, mode: AppendMode, fault: Fault) -> Result<(), String> {
    let fs = SimFs::new();
    fs.inject(fault);
    let mut world = World::new(fs.clone(), options(mode, 1024, seed));
    let mut poisoned = false;
    for step in workload(seed, STEPS) {
        if world.open.is_none() && world.open().is_err() {
            break;
        }
        let outcome = world.step(step);
        let failed_hard = matches!(
            &outcome,
            Err(SegmentError::Io { .. } | SegmentError::OutOfMaps { .. } | SegmentError::Poisoned { .. })
        );
        if let Some(open) = &world.open {
            if poisoned && outcome.is_ok() && matches!(step, common::Step::Commit { .. } | common::Step::Sync) {
                return Err(format!("{step:?} succeeds after a failed write"));
            }
            poisoned = open.store.is_poisoned();
        } else {
            poisoned = false;
        }
        if failed_hard && !poisoned && world.open.is_none() {
            // The store could not be opened again; a real process would end here.
            break;
        }
    }
    world.open = None;
    fs.heal();
    check(&world, fault.kind)
}

fn check(world: &World, kind: FaultKind) -> Result<(), String> {
    // Lying syncs and flipped bits may lose durable records, but never give a wrong value.
    let trusted = !matches!(kind, FaultKind::LyingSync | FaultKind::FlipBit);
    if trusted {
        return world.explore_end(CrashPlan { exhaustive_limit: 8, samples: 6, seed: 3 });
    }
    no_wrong_values(world)
}

fn no_wrong_values(world: &World) -> Result<(), String> {
    let fs: Arc<dyn Fs> = Arc::new(world.fs.after_kill());
    let Ok((_store, recovery)) = SegmentStore::open(fs, Path::new(DIR), world.options.clone()) else { return Ok(()) };
    for segment in recovery.segments() {
        for entry in segment.entries().map_while(Result::ok) {
            let known = world.commits.iter().flat_map(|commit| &commit.commands);
            if !known.into_iter().any(|command| command.borrow() == entry.command) {
                return Err(format!("a command that nobody wrote: {:?}", entry.command));
            }
        }
    }
    Ok(())
}

fn sweep(kind: FaultKind) {
    faults("segments", kind, calls, run);
}

/// Runs a workload that repeats each failed step.
fn outlive(seed: u64, mode: AppendMode, fault: Fault) -> Result<(), String> {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(mode, 1024, seed));
    fs.inject(fault);
    for step in workload(seed, STEPS) {
        if world.open.is_none()
            && let Err(error) = world.open()
        {
            expect_shortage(&error)?;
            fs.heal();
            world.open().map_err(|error| format!("opening it again: {error}"))?;
        }
        let Err(error) = world.step(step) else { continue };
        expect_shortage(&error)?;
        fs.heal();
        match &world.open {
            Some(open) if open.store.is_poisoned() => return Err(format!("{step:?} has poisoned the store: {error}")),
            Some(_) => world.step(step).map_err(|error| format!("{step:?} again: {error}"))?,
            // The failed step was a close or an open.
            None => {}
        }
    }
    world.open = None;
    fs.heal();
    check(&world, fault.kind)
}

fn expect_shortage(error: &SegmentError) -> Result<(), String> {
    const ENOMEM: i32 = 12;
    const EMFILE: i32 = 24;
    match error {
        SegmentError::Io { operation, source, .. }
            if *operation != "map" && matches!(source.raw_os_error(), Some(ENOMEM | EMFILE)) =>
        {
            Ok(())
        }
        SegmentError::OutOfMaps { .. } if error.to_string().contains("vm.max_map_count") => Ok(()),
        other => Err(format!("not the failure that was injected: {other}")),
    }
}

/// A call that fails for lack of descriptors or memory has not reached the device, so it changes
/// nothing and can be repeated.
#[test]
fn shortages_pass() {
    let seed = setting("HIGHTOWER_TEST_SEED", 100);
    for kind in [FaultKind::NoDescriptors, FaultKind::NoMemory] {
        sweep(kind);
        for mode in [AppendMode::Mapped, AppendMode::Positioned] {
            for at_call in 0..calls(seed, mode) {
                for lasting in [false, true] {
                    let fault = Fault { kind, at_call, lasting };
                    outlive(seed, mode, fault)
                        .unwrap_or_else(|error| panic!("seed {seed}, {mode:?}, {fault:?}: {error}"));
                }
            }
        }
    }
}

#[test]
fn io_errors() {
    sweep(FaultKind::Io);
}

#[test]
fn no_space() {
    sweep(FaultKind::NoSpace);
}

/// At each call, an exhausted quota counts as a full device.
#[test]
fn no_quota() {
    is_like_a_full_device(FaultKind::NoQuota);
}

/// A limit of the length of files is one, too: shorter files may have room.
#[test]
fn too_long_files() {
    is_like_a_full_device(FaultKind::TooLong);
}

fn is_like_a_full_device(kind: FaultKind) {
    let seed = setting("HIGHTOWER_TEST_SEED", 100);
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let mut full = 0;
        for (at_call, lasting) in (0..calls(seed, mode)).flat_map(|at_call| [(at_call, false), (at_call, true)]) {
            let of = |kind| told(seed, mode, Fault { kind, at_call, lasting });
            let (of_device, of_kind) = (of(FaultKind::NoSpace), of(kind));
            assert_eq!(of_kind, of_device, "{mode:?}, call {at_call}, lasting: {lasting}");
            full += of_kind.0.iter().filter(|told| told.contains("Full")).count();
        }
        assert!(full > 100, "{mode:?}: {full}");
    }
}

/// What the steps of a workload with a fault return, and the number of calls that they make.
fn told(seed: u64, mode: AppendMode, fault: Fault) -> (Vec<String>, u64) {
    let fs = SimFs::new();
    fs.inject(fault);
    let mut world = World::new(fs.clone(), options(mode, 1024, seed));
    let mut told = Vec::new();
    for step in workload(seed, STEPS) {
        if world.open.is_none() {
            let opened = world.open();
            told.push(format!("{:?}", opened.as_ref().map(|_| ())));
            if opened.is_err() {
                break;
            }
        }
        // A failed truncation is not a lack of room: the error has its own cause.
        let of_quota = r#"Os { code: 122, kind: QuotaExceeded, message: "Disk quota exceeded" }"#;
        let step = format!("{:?}", world.step(step)).replace(of_quota, "Kind(StorageFull)");
        told.push(step.replace("Kind(FileTooLarge)", "Kind(StorageFull)"));
        told.extend(world.open.as_ref().map(|open| open.store.is_poisoned().to_string()));
    }
    (told, fs.call_count())
}

#[test]
fn short_writes() {
    sweep(FaultKind::ShortWrite);
}

#[test]
fn interruptions() {
    sweep(FaultKind::Interrupted);
}

#[test]
fn lying_syncs() {
    sweep(FaultKind::LyingSync);
}

#[test]
fn flipped_bits() {
    sweep(FaultKind::FlipBit);
}
