//! Crashes at every operation boundary, with every subset (or a sample) of the unsynced writes.
//! Afterwards the store has a prefix of the commits, each complete, with everything that was
//! promised; seq and version do not go back; the open report is true; the next open finds the same.
//! Returned backups are complete. Feeds have each kept commit, or say which are gone. Every
//! sixteenth recovery is itself crashed at every operation.
//!
//! `HIGHTOWER_TEST_STATES` sets the number of visited crash states (default 3,000 per append mode),
//! `HIGHTOWER_TEST_SEED` the first workload; `HIGHTOWER_CRASH=seed:mode:point` replays one crash.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use std::process::Command;

use common::{BACKUP_DIR, World, config, open_with, setting, workload};
use hightower_engine::{AppendMode, Background, Error, SingleNodeEngine, SnapshotEngine, StoreConfig, TablesUse};
use hightower_segment::sim::{Choice, CrashPlan, CrashPoint, SimFs};

fn reopen(fs: &SimFs, mode: AppendMode, seed: u64) -> Result<SingleNodeEngine, String> {
    open_with(fs, config(mode), seed, Background::Caller).map_err(|error| format!("does not open: {error}"))
}

/// The number of commits in the store, and the number that it must have.
fn found_and_promised(world: &World, digest: u64, point: CrashPoint) -> Result<(usize, usize), String> {
    let kept = world.synced.iter().filter(|promise| promise.op <= point.op).map(|promise| promise.commits).max();
    // A death of the process alone loses no returned commit, so at most the one in progress.
    let begun = world.handed_out.iter().filter(|commit| commit.began < point.op).count();
    let promised = match point.choice {
        Choice::Everything => begun.saturating_sub(1),
        _ => kept.unwrap_or(0),
    };
    let known = &world.digests[..=begun];
    let found = known.iter().rposition(|known| *known == digest).ok_or("holds no prefix of the commits")?;
    if found < promised {
        return Err(format!("holds {found} commits of {promised} promised"));
    }
    Ok((found, promised))
}

/// Visits one crash. Returns the number of visited states, because its recovery may be crashed,
/// too.
fn check(
    world: &World,
    fs: &SimFs,
    point: CrashPoint,
    mode: AppendMode,
    written: usize,
    nth: u64,
) -> Result<u64, String> {
    let engine = reopen(fs, mode, 99)?;
    let state = engine.snapshot_state().map_err(|error| format!("cannot be read: {error}"))?;
    let (found, promised) = found_and_promised(world, state.digest(), point)?;
    check_report(world, &engine, point, found)?;
    check_feeds(world, &engine, point)?;
    let mut visited = 1;
    if nth.is_multiple_of(16) {
        visited += crash_the_recovery(world, fs, point, mode, promised)?;
    }
    check_handed_out(world, &engine, point, written)?;
    if nth.is_multiple_of(4) {
        check_backup(world, fs, point)?;
    }
    let expected = engine.snapshot_state().map_err(|error| format!("cannot be read: {error}"))?.digest();
    let is_closed = nth.is_multiple_of(2);
    let again = if is_closed {
        engine.close().map_err(|error| format!("does not close: {error}"))?;
        reopen(fs, mode, 98)?
    } else {
        reopen(&fs.after_kill(), mode, 98)?
    };
    if again.open_report().was_unclean() == is_closed || again.open_report().dropped_bytes() > 0 {
        return Err(format!("the open after a close ({is_closed}) reports {:?}", again.open_report().recovery));
    }
    if again.snapshot_state().map_err(|error| error.to_string())?.digest() != expected {
        return Err("holds something else at the second open".into());
    }
    Ok(visited)
}

/// Checks that the open report is true.
fn check_report(world: &World, engine: &SingleNodeEngine, point: CrashPoint, found: usize) -> Result<(), String> {
    let report = engine.open_report();
    let is_open = world.lives.iter().any(|life| life.opened <= point.op && point.op < life.closing);
    if is_open && !report.was_unclean() {
        return Err("calls a crash a clean close".into());
    }
    let all = world.handed_out.iter().filter(|commit| commit.began < point.op).count();
    // No commit was in progress and none was lost, so the open cannot have dropped anything.
    let is_between = !world.handed_out.iter().any(|commit| commit.began == point.op);
    if point.choice == Choice::Everything && is_between && found == all && report.dropped_bytes() > 0 && is_open {
        let last = world.fs.crash_at(CrashPoint { op: point.op, choice: Choice::Everything });
        return Err(format!("says it dropped {} bytes of {:?}", report.dropped_bytes(), last.used_bytes()));
    }
    if let TablesUse::Rebuilt { reason } = &report.tables {
        return Err(format!("a crash has cost a table: {reason}"));
    }
    if report.tables == TablesUse::None && report.replayed_records != report.recovery.records() {
        return Err(format!("replayed {} of {} records", report.replayed_records, report.recovery.records()));
    }
    Ok(())
}

/// The log has each kept commit above the seqno from which it is complete, in order. A feed that
/// resumes at a commit that was seen before the crash has exactly the kept ones after it; if that
/// commit is lost, or one after it is gone, the feed says so.
fn check_feeds(world: &World, engine: &SingleNodeEngine, point: CrashPoint) -> Result<(), String> {
    const RESUMED_MAX: usize = 8;
    let after = |seqno: u64| -> Result<Vec<u64>, Error> {
        let mut feed = engine.watch(.., seqno)?;
        std::iter::from_fn(|| feed.try_next().transpose()).map(|commit| Ok(commit?.seqno())).collect()
    };
    let oldest = engine.stats().feeds.oldest_seqno;
    let kept = after(oldest).map_err(|error| format!("has no feed after {oldest}: {error}"))?;
    let begun = world.handed_out.iter().filter(|commit| commit.began <= point.op);
    let begun: Vec<u64> = begun.map(|commit| commit.seq).collect();
    let expected = begun.iter().filter(|seq| **seq > oldest);
    if !kept.iter().eq(expected.take(kept.len())) {
        return Err(format!("has the commits {kept:?} after {oldest} in its feed, of {begun:?}"));
    }
    let last_kept = kept.last().copied().unwrap_or(oldest);
    let seen = world.handed_out.iter().filter(|commit| commit.done <= point.op).map(|commit| commit.seq);
    for seq in seen.rev().take(RESUMED_MAX) {
        let is_right = match after(seq) {
            Ok(found) => {
                (oldest..=last_kept).contains(&seq) && found.iter().eq(kept.iter().filter(|kept| **kept > seq))
            }
            Err(Error::HistoryLost { oldest: told }) => seq < oldest && told == oldest,
            Err(Error::Diverged { last_kept: told }) => (last_kept..seq).contains(&told),
            Err(_) => false,
        };
        if !is_right {
            let found = after(seq);
            return Err(format!("resumes after {seq} with {found:?}; it has {kept:?} after {oldest}"));
        }
    }
    Ok(())
}

/// A new commit has a seq and a version that no earlier one had. Others may know those of a
/// returned commit, and those of a written record, because reads see it before its sync. A commit
/// whose record was not yet written (it made room first) had none.
fn check_handed_out(world: &World, engine: &SingleNodeEngine, point: CrashPoint, written: usize) -> Result<(), String> {
    engine.put("after", "the crash").map_err(|error| format!("takes no writes: {error}"))?;
    let (seq, version) = (engine.latest_seq(), engine.latest_version());
    let has_submits = world.given_versions;
    for (nth, commit) in (1..).zip(&world.handed_out) {
        if commit.done > point.op && nth > written {
            continue;
        }
        if seq <= commit.seq {
            return Err(format!("hands out seq {seq}, though {} was before the crash", commit.seq));
        }
        if !has_submits && version <= commit.version {
            return Err(format!("hands out version {version}, though {} was before the crash", commit.version));
        }
    }
    Ok(())
}

/// The number of commits whose records were written after `op` operations: those that a kill of the
/// process at that point preserves.
fn written_by(world: &World, op: usize, mode: AppendMode) -> Result<usize, String> {
    let engine = reopen(&world.fs.crash_at(CrashPoint { op, choice: Choice::Everything }), mode, 95)?;
    let digest = engine.snapshot_state().map_err(|error| format!("cannot be read: {error}"))?.digest();
    let begun = world.handed_out.iter().filter(|commit| commit.began < op).count();
    let known = &world.digests[..=begun];
    let last = known.iter().rposition(|known| *known == digest).ok_or("holds no prefix of the commits")?;
    // A commit without a visible change may or may not be included.
    Ok(known[..last].iter().rposition(|known| *known != digest).map_or(0, |other| other + 1))
}

/// A crash during recovery loses nothing more.
fn crash_the_recovery(
    world: &World,
    fs: &SimFs,
    point: CrashPoint,
    mode: AppendMode,
    promised: usize,
) -> Result<u64, String> {
    let mut visited = 0;
    for state in fs.crash_states(CrashPlan { exhaustive_limit: 2, samples: 1, seed: point.op as u64 }) {
        visited += 1;
        let told = |error: String| format!("crashed again at {}: {error}", state.point);
        let engine = reopen(&state.fs, mode, 97).map_err(told)?;
        let digest = engine.snapshot_state().map_err(|error| told(error.to_string()))?.digest();
        let (found, _) = found_and_promised(world, digest, point).map_err(told)?;
        if found < promised {
            return Err(told(format!("holds {found} commits of {promised} promised")));
        }
    }
    Ok(visited)
}

/// A returned backup is complete; an interrupted one is the previous one, or none.
fn check_backup(world: &World, fs: &SimFs, point: CrashPoint) -> Result<(), String> {
    let promised = world.backups.iter().filter(|backup| backup.op <= point.op).map(|backup| backup.commits).max();
    let config = StoreConfig::at(BACKUP_DIR).with_read_only(true);
    let opened = open_with(fs, config, 96, Background::Caller);
    let backup = match (opened, promised) {
        (Ok(backup), _) => backup,
        (Err(_), None) => return Ok(()),
        (Err(error), Some(_)) => return Err(format!("has a backup that does not open: {error}")),
    };
    let digest =
        backup.snapshot_state().map_err(|error| format!("has a backup that cannot be read: {error}"))?.digest();
    let found = world.digests.iter().rposition(|known| *known == digest).ok_or("has a backup of no state it was in")?;
    if promised.is_some_and(|promised| found < promised) {
        return Err(format!("has a backup of {found} commits that should have {promised:?}"));
    }
    Ok(())
}

/// The seeds from here on stand for workloads with a memory budget of 4 KiB: memtables become
/// tables all the time.
const TIGHT: u64 = 1 << 32;

fn world(seed: u64, mode: AppendMode) -> World {
    let world = World::repeatable(mode, seed);
    let (mut world, steps) = if seed < TIGHT { (world, 30) } else { (world.with_index_memory(4 << 10), 15) };
    world.run(&workload(seed, steps));
    world
}

fn explore(mode: AppendMode, first: u64) {
    let wanted = setting("HIGHTOWER_TEST_STATES", 6000).div_ceil(2);
    let first = first + setting("HIGHTOWER_TEST_SEED", 0);
    let (mut visited, mut workloads) = (0, 0);
    for seed in first.. {
        let world = world(seed, mode);
        workloads += 1;
        let mut written = (usize::MAX, Ok(0));
        for (nth, state) in (0..).zip(world.fs.crash_states(CrashPlan { exhaustive_limit: 4, samples: 2, seed })) {
            if written.0 != state.point.op {
                written = (state.point.op, written_by(&world, state.point.op, mode));
            }
            // The number decides which checks run, so the replay needs it, too.
            let checked =
                written.1.clone().and_then(|written| check(&world, &state.fs, state.point, mode, written, nth));
            visited += checked.unwrap_or_else(|error| {
                panic!(
                    "crash {}: the store {error}\nreplay: HIGHTOWER_CRASH={seed}:{mode:?}:{} cargo test -p hightower-engine --test crash replay",
                    state.point, state.point
                )
            });
        }
        if visited >= wanted {
            break;
        }
    }
    println!("engine, {mode:?}: {visited} crash states of {workloads} workloads from seed {first}, 0 violations");
}

#[test]
fn every_crash_keeps_the_promises_with_mapped_appends() {
    explore(AppendMode::Mapped, 0);
}

#[test]
fn every_crash_keeps_the_promises_with_positioned_appends() {
    explore(AppendMode::Positioned, 0);
}

#[test]
fn every_crash_keeps_the_promises_with_little_memory() {
    explore(AppendMode::Positioned, TIGHT);
}

/// Failures can be replayed only if this holds. It runs in a separate process, as a replay does: a
/// reader of another store in the same process could delay the freeing of memory and files, because
/// all stores of a process share the epochs.
#[test]
fn a_seed_gives_the_same_operations_each_time() {
    if std::env::var_os("HIGHTOWER_ALONE").is_none() {
        let mut alone = Command::new(std::env::current_exe().unwrap());
        let name = "a_seed_gives_the_same_operations_each_time";
        assert!(alone.args(["--exact", name]).env("HIGHTOWER_ALONE", "1").status().unwrap().success());
        return;
    }
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        for seed in 0..4 {
            let (one, other) = (world(seed, mode), world(seed, mode));
            assert_eq!((one.fs.op_count(), one.fs.call_count()), (other.fs.op_count(), other.fs.call_count()));
            assert_eq!(one.digests, other.digests);
        }
    }
}

#[test]
fn replay() {
    let Ok(wanted) = std::env::var("HIGHTOWER_CRASH") else { return };
    let mut parts = wanted.split(':');
    let seed = parts.next().unwrap().parse().unwrap();
    let mode = if parts.next() == Some("Positioned") { AppendMode::Positioned } else { AppendMode::Mapped };
    let point: CrashPoint = parts.next().unwrap().parse().unwrap();
    let world = world(seed, mode);
    let written = written_by(&world, point.op, mode).unwrap();
    // All checks that the number selects.
    for nth in [0, 1] {
        check(&world, &world.fs.crash_at(point), point, mode, written, nth).unwrap();
    }
}
