//! One test for each rule that random workloads seldom exercise. `cargo xtask mutants` lists the
//! planted bugs that break these rules.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{DIR, Open, Step, World, options};
use hightower_segment::sim::{CrashPlan, Fault, FaultKind, SimFs};
use hightower_segment::{
    AppendMode, CompactedWriter, Edit, Fs, Purpose, SegmentError, SegmentStore, Stamp, segment_name,
};

const PUT: Step = Step::Commit { commands: 1, value_len: 50 };

/// An open store with one commit, its next segment and all its reserves.
fn prepared_world() -> Result<World, String> {
    let mut world = World::new(SimFs::new(), options(AppendMode::Mapped, 1024, 1));
    world.run(&[PUT, Step::Prepare]).map_err(|error| error.to_string())?;
    Ok(world)
}

/// Batches across sector boundaries, never synced.
#[test]
fn a_batch_is_whole_or_absent() -> Result<(), String> {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let mut world = World::new(SimFs::new(), options(mode, 4096, 5));
        world.run(&[Step::Commit { commands: 8, value_len: 100 }; 3]).map_err(|error| error.to_string())?;
        world.explore(CrashPlan::default())?;
    }
    Ok(())
}

/// A second name, such as a backup's, keeps its content.
#[test]
fn a_second_name_keeps_what_it_had() -> Result<(), String> {
    use Step::{Compact, Prepare, SealPredecessors};
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 1024, 5));
    let error = |error: SegmentError| error.to_string();
    world.run(&[PUT; 30]).map_err(error)?;
    world.step(SealPredecessors).map_err(error)?;
    let (parent, backup) = (Path::new("/data"), Path::new("/data/backup.seg"));
    let linked = fs
        .open_dir(Path::new(DIR))
        .and_then(|dir| dir.hard_link(&segment_name(1), &*fs.open_dir(parent)?, "backup.seg"));
    linked.map_err(|error| error.to_string())?;
    let before = fs.read_file(backup).map_err(|error| error.to_string())?;
    for _ in 0..4 {
        world.run(&[Compact, Prepare]).map_err(error)?;
        world.run(&[PUT; 20]).map_err(error)?;
        world.step(SealPredecessors).map_err(error)?;
    }
    let after = fs.read_file(backup).map_err(|error| error.to_string())?;
    if before != after { Err("the backup has changed".to_owned()) } else { Ok(()) }
}

/// Damage in durable commits never counts as a torn tail.
#[test]
fn damage_of_durable_commits_is_no_torn_tail() -> Result<(), String> {
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
#[test]
fn nothing_is_acknowledged_after_a_failed_sync() -> Result<(), String> {
    for at_call in 0..60 {
        let fs = SimFs::new();
        fs.inject(Fault { kind: FaultKind::Io, at_call, lasting: false });
        let mut world = World::new(fs.clone(), options(AppendMode::Mapped, 4096, 1));
        let mut synced = Ok(());
        // Long enough that no commit rewrites sectors of the previous one.
        let put = Step::Commit { commands: 1, value_len: 700 };
        for step in [put, Step::Sync, put, Step::Sync, put, Step::Sync] {
            synced = world.run(&[step]);
        }
        if synced.is_ok() {
            world.explore_end(CrashPlan::default())?;
        }
        // The next open finds pages that can be read but never reached the disk.
        if world.step(Step::Kill).is_ok() {
            world.open = None;
            world.explore_end(CrashPlan::default())?;
        }
    }
    Ok(())
}

/// The tail's reserve becomes a segment for deletes; the manifest that names it needs room, which
/// nothing else may take.
#[test]
fn a_manifest_finds_room_on_a_full_device() -> Result<(), String> {
    let mut world = prepared_world()?;
    world.fs.set_capacity_bytes(Some(world.fs.used_bytes()));
    let active = |world: &World| world.open.as_ref().map_or(0, |open| open.appender.segment().id());
    let first = active(&world);
    let full = loop {
        match world.commit(1, 0, Purpose::Reclaim) {
            Ok(()) => {}
            Err(error) => break error,
        }
    };
    assert!(full.is_full(), "{full}");
    let used = active(&world) - first;
    assert!(used >= 2, "{used}: the successor, and then the reserve");
    let store = world.open.as_ref().ok_or("it is not open")?.store.clone();
    let stamp = Stamp { max_version: 0, timestamp: 0 };
    let made = store.create_compacted(1024, 900, Purpose::Reclaim, stamp).map(drop);
    made.map_err(|error| format!("the reserve for compaction is not whole: {error}"))?;
    drop(store);
    world.explore_end(CrashPlan { exhaustive_limit: 8, samples: 6, seed: 3 })
}

/// The reserves for deletes and compaction on a full device survive a close or a kill there.
#[test]
fn reserves_outlive_the_store_on_a_full_device() -> Result<(), String> {
    for (closes, mode) in [true, false]
        .into_iter()
        .flat_map(|closes| [AppendMode::Mapped, AppendMode::Positioned].map(|mode| (closes, mode)))
    {
        let error = |error: SegmentError| format!("closes: {closes}, {mode:?}: {error}");
        let mut world = World::new(SimFs::new(), options(mode, 1024, 1));
        world.run(&[PUT; 60]).map_err(error)?;
        world.step(Step::Prepare).map_err(error)?;
        world.fs.set_capacity_bytes(Some(world.fs.used_bytes() + 300));
        while world.step(PUT).is_ok() {}
        if closes {
            let open = world.open.take().ok_or("it is not open")?;
            open.appender.close(Stamp { max_version: world.version, timestamp: 0 }).map_err(error)?;
        }
        world.open = None;
        // Others take the remaining room.
        world.fs.set_capacity_bytes(Some(world.fs.used_bytes()));
        world.open().map_err(error)?;
        for _ in 0..12 {
            world.commit(1, 0, Purpose::Reclaim).map_err(error)?;
        }
        world.step(Step::SealPredecessors).map_err(error)?;
        let open = world.open.as_mut().ok_or("it is not open")?;
        let stamp = Stamp { max_version: 0, timestamp: 0 };
        let output = open.store.create_compacted(1024, 100, Purpose::Reclaim, stamp);
        let output = output.and_then(CompactedWriter::finish).map_err(error)?;
        open.store.install(&Edit { add: vec![output], remove: Vec::new(), ..Edit::default() }).map_err(error)?;
    }
    Ok(())
}

/// Deletes have used up their reserve. After any number of opens, compaction has its room, however
/// long the manifest is: it grows into its reserve, of which the rest stays.
#[test]
fn openings_leave_compaction_its_room() -> Result<(), String> {
    let kinds = [true, false]
        .into_iter()
        .flat_map(|closes| [AppendMode::Mapped, AppendMode::Positioned].map(|mode| (closes, mode)));
    for (puts, (closes, mode)) in (5..150).step_by(5).flat_map(|puts| kinds.clone().map(move |kind| (puts, kind))) {
        let error = |error: SegmentError| format!("{puts} puts, closes: {closes}, {mode:?}: {error}");
        let mut world = World::new(SimFs::new(), options(mode, 1024, 1));
        world.run(&vec![PUT; puts]).map_err(error)?;
        world.step(Step::Prepare).map_err(error)?;
        world.fs.set_capacity_bytes(Some(world.fs.used_bytes()));
        for _ in 0..4 {
            while world.commit(1, 0, Purpose::Reclaim).is_ok() {}
            let Open { appender, .. } = world.open.take().ok_or("it is not open")?;
            if closes {
                appender.close(world.stamp()).map_err(error)?;
            } else {
                drop(appender);
            }
            // Others take all freed room.
            world.fs.set_capacity_bytes(Some(world.fs.used_bytes()));
            world.open().map_err(error)?;
        }
        let open = world.open.as_ref().ok_or("it is not open")?;
        let stamp = Stamp { max_version: 0, timestamp: 0 };
        open.store.create_compacted(1024, 900, Purpose::Reclaim, stamp).map(drop).map_err(error)?;
    }
    Ok(())
}

/// A delete that uses the reserve gets a segment from it. New data does not go into this segment,
/// so that further deletes have room.
#[test]
fn new_data_leaves_a_used_reserve_to_deletes() -> Result<(), String> {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let error = |error: SegmentError| format!("{mode:?}: {error}");
        let mut world = World::new(SimFs::new(), options(mode, 1024, 1));
        world.run(&[PUT; 60]).map_err(error)?;
        world.step(Step::Prepare).map_err(error)?;
        world.fs.set_capacity_bytes(Some(world.fs.used_bytes() + 300));
        while world.step(PUT).is_ok() {}
        world.fs.set_capacity_bytes(Some(world.fs.used_bytes()));
        // Deletes, until one uses the reserve; later ones fit in its segment.
        for _ in 0..30 {
            world.commit(1, 0, Purpose::Reclaim).map_err(error)?;
            let put = world.step(PUT);
            assert!(matches!(put, Err(SegmentError::Full { .. })), "{mode:?}: {put:?}");
        }
        world.fs.set_capacity_bytes(None);
        world.step(PUT).map_err(error)?;
    }
    Ok(())
}

/// A file's new name may need room in the directory.
#[test]
fn a_name_finds_room_on_a_full_device() -> Result<(), String> {
    let world = prepared_world()?;
    let store = world.open.as_ref().ok_or("it is not open")?.store.clone();
    for at in 0..8 {
        let at_call = world.fs.call_count() + at;
        world.fs.inject(Fault { kind: FaultKind::NoSpace, at_call, lasting: false });
        let stamp = Stamp { max_version: 0, timestamp: 0 };
        let made = store.create_compacted(1024, 100, Purpose::Reclaim, stamp).map(drop);
        made.map_err(|error| format!("call {at}: {error}"))?;
        store.prepare_next(stamp).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// A reserve that a failed compaction has used is available to the next one.
#[test]
fn a_reserve_that_was_used_in_vain_is_put_back() -> Result<(), String> {
    let world = prepared_world()?;
    world.fs.set_capacity_bytes(Some(world.fs.used_bytes()));
    let store = world.open.as_ref().ok_or("it is not open")?.store.clone();
    let stamp = Stamp { max_version: 0, timestamp: 0 };
    for _ in 0..3 {
        let output = store.create_compacted(1024, 100, Purpose::Reclaim, stamp);
        let output = output.map_err(|error| error.to_string())?;
        assert_eq!(store.tail_stats().reserves, 2);
        drop(output);
        assert_eq!(store.tail_stats().reserves, 3);
    }
    Ok(())
}

/// With less room segments are shorter, down to the length of a record.
#[test]
fn segments_fit_a_small_device() -> Result<(), String> {
    for (capacity, used_min) in [(1_u64 << 20, 850_000), (4 << 20, 3_700_000)] {
        let fs = SimFs::new();
        fs.set_capacity_bytes(Some(capacity));
        let mut world = World::new(fs.clone(), options(AppendMode::Positioned, 64 << 20, 1));
        world.run(&[Step::Commit { commands: 1, value_len: 100_000 }]).map_err(|error| error.to_string())?;
        let mut bytes = 100_000;
        for value_len in [4000, 1000] {
            let put = Step::Commit { commands: 1, value_len };
            let full = loop {
                // Every fifth commit is a delete, which has no value.
                match world.step(put) {
                    Ok(()) => bytes += if world.version.is_multiple_of(5) { 0 } else { value_len as u64 },
                    Err(error) => break error,
                }
            };
            if !full.is_full() {
                return Err(format!("{capacity}: {full}"));
            }
        }
        if bytes < used_min {
            return Err(format!("a device of {capacity} bytes is full with {bytes} bytes of values"));
        }
    }
    Ok(())
}

/// The rest of a partial write could remain behind a later, shorter commit.
#[test]
fn after_a_write_that_got_half_way_nothing_is_written() -> Result<(), String> {
    let mut world = World::new(SimFs::new(), options(AppendMode::Positioned, 4096, 1));
    world.run(&[PUT]).map_err(|error| error.to_string())?;
    let at_call = world.fs.call_count();
    world.fs.inject(Fault { kind: FaultKind::ShortWrite, at_call, lasting: false });
    world.fs.inject(Fault { kind: FaultKind::NoSpace, at_call: at_call + 1, lasting: true });
    assert!(world.step(PUT).is_err());
    world.fs.heal();
    match world.step(PUT) {
        Err(SegmentError::Poisoned { .. }) => world.explore_end(CrashPlan::default()),
        other => Err(format!("the next write comes to {other:?}")),
    }
}
