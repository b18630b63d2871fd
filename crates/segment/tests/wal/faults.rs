//! Every kind of fault at every call of a workload, once and lasting: errors are reported, no
//! failed append is ever visible, nothing synced is lost, and after a failed write or sync the log
//! refuses writes and can still be read.

use hightower_segment::sim::{CrashPlan, Fault, FaultKind, SimFs};
use hightower_segment::{AppendMode, SegmentError};

use crate::sweep::faults;
use crate::world::{Content, Step, World, open, workload};

const STEPS: usize = 25;

fn calls(seed: u64, mode: AppendMode) -> u64 {
    let mut world = World::new(SimFs::new(), mode, seed);
    world.run(&workload(seed, STEPS)).unwrap();
    world.fs.call_count()
}

/// Runs a workload with one fault; returns the broken promise.
fn run(seed: u64, mode: AppendMode, fault: Fault) -> Result<(), String> {
    let fs = SimFs::new();
    fs.inject(fault);
    let mut world = World::new(fs.clone(), mode, seed);
    let trusted = !matches!(fault.kind, FaultKind::LyingSync | FaultKind::FlipBit);
    world.is_trusted = trusted;
    let mut is_poisoned = false;
    for step in workload(seed, STEPS) {
        if world.wal.is_none() {
            if world.open().is_err() {
                break;
            }
            is_poisoned = false;
        }
        let outcome = world.step(step);
        if is_poisoned && outcome.is_ok() && matches!(step, Step::Append { .. } | Step::Sync) {
            return Err(format!("{step:?} succeeds after a failed write"));
        }
        is_poisoned |= matches!(outcome, Err(SegmentError::Poisoned { .. }));
        // It was opened again.
        is_poisoned &= !(matches!(step, Step::Kill | Step::Reopen) && outcome.is_ok());
        if let Some(wal) = &world.wal
            && trusted
        {
            let found = Content::of(wal).map_err(|error| format!("the log cannot be read after {step:?}: {error}"))?;
            if found != *world.content() {
                return Err(format!("the log is another after {step:?}"));
            }
        }
    }
    world.wal = None;
    fs.heal();
    check(&world, fault.kind)
}

fn check(world: &World, kind: FaultKind) -> Result<(), String> {
    // Lying syncs and flipped bits may lose durable entries, but never give a wrong one.
    if !matches!(kind, FaultKind::LyingSync | FaultKind::FlipBit) {
        return world.explore_end(CrashPlan { exhaustive_limit: 8, samples: 6, seed: 3 });
    }
    let Ok((wal, _)) = open(&world.fs.after_kill(), &world.options) else { return Ok(()) };
    let front = wal.positions().start;
    for entry in wal.read(front).map_err(|error| error.to_string())?.map_while(Result::ok) {
        let is_known = world.states.iter().any(|state| state.content.entries.iter().any(|known| known == entry.bytes));
        if !is_known {
            return Err(format!("an entry that nobody appended, at {}", entry.position));
        }
    }
    Ok(())
}

fn sweep(kind: FaultKind) {
    faults("log", kind, calls, run);
}

#[test]
fn io_errors() {
    sweep(FaultKind::Io);
}

#[test]
fn no_space() {
    sweep(FaultKind::NoSpace);
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
fn shortages() {
    sweep(FaultKind::NoDescriptors);
    sweep(FaultKind::NoMemory);
}

#[test]
fn lying_syncs() {
    sweep(FaultKind::LyingSync);
}

#[test]
fn flipped_bits() {
    sweep(FaultKind::FlipBit);
}

/// After a failed sync no sync succeeds, for waiting callers and for callbacks, and the log can
/// still be read.
#[test]
fn a_failed_sync_poisons_and_reads_go_on() {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), AppendMode::Mapped, 5);
    world.run(&[Step::Append { len: 10 }, Step::Sync, Step::Append { len: 20 }]).unwrap();
    let mut wal = world.wal.take().unwrap();
    let (sender, outcomes) = std::sync::mpsc::channel();
    fs.inject(Fault { kind: FaultKind::Io, at_call: fs.call_count(), lasting: false });
    wal.sync_then(move |synced| sender.send(synced).unwrap()).unwrap();
    let failed = outcomes.recv().unwrap();
    assert!(matches!(failed.as_ref().map_err(AsRef::as_ref), Err(SegmentError::Io { .. })), "{failed:?}");
    let poisoned = |outcome: Result<(), SegmentError>| {
        assert!(matches!(outcome, Err(SegmentError::Poisoned { .. })), "{outcome:?}");
    };
    poisoned(wal.sync());
    poisoned(wal.sync_then(|_| panic!("it is not called")));
    poisoned(wal.append(b"more").map(drop));
    poisoned(wal.truncate_front(1));
    poisoned(wal.truncate_back(0));
    assert_eq!(&Content::of(&wal).unwrap(), world.content());
    drop(wal);
    world.open().unwrap();
    assert_eq!(&Content::of(world.wal.as_ref().unwrap()).unwrap(), world.content());
}
