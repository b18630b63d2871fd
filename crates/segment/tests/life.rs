//! The normal operation of a store: rotation, full disks, compaction, removed files; on the
//! simulated file system and the real one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

mod common;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use common::{DIR, Open, Step, World, command, encode_commit, options};
use hightower_log::{Placement, encode};
use hightower_segment::sim::{CrashPlan, Fault, FaultKind, FsHook, HookedFs, SimFs};
use hightower_segment::{
    AppendMode, Appender, CompactedWriter, Edit, Fs, MANIFEST, Manifest, Pages, Purpose, RealFs, Released, Segment,
    SegmentEntry, SegmentError, SegmentState, SegmentStore, Stamp, StoreOptions, segment_name,
};

const PUT: Step = Step::Commit { commands: 1, value_len: 50 };
const STAMP: Stamp = Stamp { max_version: 1_000, timestamp: 1_700_000_000_000 };

fn world(mode: AppendMode) -> World {
    World::new(SimFs::new(), options(mode, 1024, 1))
}

fn open_of(world: &mut World) -> &mut Open {
    world.open.as_mut().unwrap()
}

/// The room that a rotation says it needs equals the room that it takes on the device, with or
/// without prepared files and for every length of the commit.
#[test]
fn a_roll_takes_the_room_that_it_announces() {
    let mut world = world(AppendMode::Mapped);
    world.run(&[PUT]).unwrap();
    let files_len = |world: &World| {
        let names = world.fs.names_in(Path::new(DIR)).unwrap();
        let files = names.iter().filter(|name| name.ends_with(".seg") || name.ends_with(".spare"));
        files.map(|name| world.fs.read_file(&Path::new(DIR).join(name)).unwrap().len() as u64).sum::<u64>()
    };
    // The third commit is too long for the prepared segment, which is removed once a longer one
    // exists, and for the tail's reserve.
    let longer = 5098 - 1024;
    let rolls =
        [(false, 10, 1024, 1024), (true, 10, 0, 0), (true, 5000, 5098 + longer, 2 * longer), (false, 3000, 3098, 3098)];
    for (is_ready, len_bytes, needed, taken) in rolls {
        if is_ready {
            world.step(Step::Prepare).unwrap();
        }
        let before = files_len(&world);
        assert_eq!(open_of(&mut world).store.room_for_roll(len_bytes).unwrap(), needed, "{is_ready} {len_bytes}");
        open_of(&mut world).appender.roll(len_bytes, Purpose::Grow, STAMP).unwrap();
        assert_eq!(files_len(&world) - before, taken, "{is_ready} {len_bytes}");
    }
    let too_long = open_of(&mut world).store.room_for_roll(usize::MAX);
    assert!(matches!(too_long, Err(SegmentError::TooLarge { .. })), "{too_long:?}");
}

/// New data gets a clear error; deletes, compaction and reads still work; new data can use the
/// freed room.
#[test]
fn full_disk() {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let mut world = world(mode);
        world.run(&[PUT; 40]).unwrap();
        world.fs.set_capacity_bytes(Some(world.fs.used_bytes() + 300));
        let full = loop {
            match world.step(PUT) {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        assert!(full.is_full(), "{full}");
        let put = world.commits.len();
        assert!(world.step(PUT).unwrap_err().is_full(), "and again, for it is no poison");
        assert_eq!(world.commits.len(), put);
        assert!(open_of(&mut world).store.tail_stats().full);
        // Deletes still work, with the reserve.
        for _ in 0..12 {
            world.commit(1, 0, Purpose::Reclaim).unwrap();
        }
        world.step(Step::Sync).unwrap();
        // Reads still work.
        let readable = open_of(&mut world).segments.iter().flat_map(|segment| segment.entries());
        assert_eq!(readable.filter(Result::is_ok).count(), world.commits.len());
        // Fully dead segments are dropped without a write.
        world.step(Step::SealPredecessors).unwrap();
        let open = open_of(&mut world);
        let ids: Vec<u32> = open.store.manifest().segments.iter().map(|entry| entry.id).take(3).collect();
        open.store.install(&Edit { add: Vec::new(), remove: ids.clone(), ..Edit::default() }).unwrap();
        let (gone, kept): (Vec<_>, Vec<_>) = open.segments.drain(..).partition(|segment| ids.contains(&segment.id()));
        open.segments = kept;
        for segment in gone {
            open.store.release(segment).unwrap();
        }
        world.step(PUT).unwrap();
    }
}

/// With any order of the background work, and any remaining room: when new data has no room,
/// deletes and compaction do, and new data can use the freed room.
#[test]
fn a_full_disk_keeps_room_for_deletes_and_compaction_in_every_order() {
    const ORDERS: [&[Step]; 5] = [
        &[],
        &[Step::Prepare],
        &[Step::SealPredecessors],
        &[Step::Prepare, Step::SealPredecessors],
        &[Step::SealPredecessors, Step::Prepare],
    ];
    for (puts, left) in (200..340).step_by(20).flat_map(|puts| (0..10_000).step_by(400).map(move |left| (puts, left))) {
        for (order, deletes) in ORDERS.into_iter().flat_map(|order| [(order, false), (order, true)]) {
            full_disk_in_order(puts, left, order, deletes).unwrap_or_else(|what| {
                panic!("{puts} puts, {left} bytes left, {order:?}, deletes: {deletes}: {what}");
            });
        }
    }
}

/// Fills the remaining room of a disk, with the background work `order` after each put. Then
/// deletes or a compaction use the reserve.
fn full_disk_in_order(puts: usize, left: u64, order: &[Step], deletes: bool) -> Result<(), String> {
    let mut world = world(AppendMode::Mapped);
    // The manifest is nearly at the length from which its reserve must grow.
    world.run(&vec![PUT; puts]).unwrap();
    world.fs.set_capacity_bytes(Some(world.fs.used_bytes() + left));
    let background = |world: &mut World| {
        let failed = order.iter().filter_map(|step| world.step(*step).err()).find(|error| !error.is_full());
        failed.map_or(Ok(()), |error| Err(format!("in the background: {error}")))
    };
    while let Ok(()) = world.step(PUT) {
        background(&mut world)?;
    }
    let error = world.step(PUT).err().ok_or("it is not full")?;
    if !error.is_full() {
        return Err(format!("a put on a full disk: {error}"));
    }
    for _ in 0..if deletes { 12 } else { 0 } {
        world.commit(1, 0, Purpose::Reclaim).map_err(|error| format!("a delete: {error}"))?;
        background(&mut world)?;
    }
    world.step(Step::SealPredecessors).map_err(|error| format!("sealing: {error}"))?;
    let open = open_of(&mut world);
    let mut edit = Edit::default();
    if !deletes {
        let output = open.store.create_compacted(1024, 100, Purpose::Reclaim, STAMP);
        edit.add.push(output.and_then(CompactedWriter::finish).map_err(|error| format!("compacting: {error}"))?);
    }
    let sealed = |entry: &&SegmentEntry| matches!(entry.state, SegmentState::Sealed { .. });
    let ids: Vec<u32> = open.store.manifest().segments.iter().filter(sealed).map(|entry| entry.id).take(16).collect();
    edit.remove.clone_from(&ids);
    open.store.install(&edit).map_err(|error| format!("installing the compaction: {error}"))?;
    let (gone, kept): (Vec<_>, Vec<_>) = open.segments.drain(..).partition(|segment| ids.contains(&segment.id()));
    open.segments = kept;
    for segment in gone {
        open.store.release(segment).map_err(|error| format!("releasing a segment: {error}"))?;
    }
    world.step(PUT).map_err(|error| format!("a put into the freed room: {error}"))
}

/// With only the reserve left, compaction can still write.
#[test]
fn compaction_on_a_full_disk() {
    let mut world = world(AppendMode::Mapped);
    world.run(&[PUT; 40]).unwrap();
    world.step(Step::SealPredecessors).unwrap();
    world.step(Step::Prepare).unwrap();
    // The room for a replacement of the manifest, while both files exist.
    world.fs.set_capacity_bytes(Some(world.fs.used_bytes() + 1000));
    while world.step(PUT).is_ok() {}
    world.fs.set_capacity_bytes(Some(world.fs.used_bytes()));
    let store = open_of(&mut world).store.clone();
    assert!(store.create_compacted(1024, 100, Purpose::Grow, STAMP).unwrap_err().is_full());
    let writer = store.create_compacted(1024, 100, Purpose::Reclaim, STAMP).unwrap();
    assert!(writer.remaining_bytes() > 900);
}

/// The outputs of a run over the last segments of the log have the highest base: no commit limits
/// it. Their records are read back all the same.
#[test]
fn a_compacted_segment_with_the_highest_base_is_read() {
    let mut world = world(AppendMode::Mapped);
    world.run(&[PUT]).unwrap();
    let store = open_of(&mut world).store.clone();
    let mut output = store.create_compacted(1024, 100, Purpose::Reclaim, STAMP).unwrap().with_base_seq(u64::MAX);
    for number in 0..3 {
        let (command, mut bytes) = (command(number, 10), Vec::new());
        encode(&mut bytes, output.context(), output.position(), &command.borrow(), Placement::Relocated).unwrap();
        output.append(&[&bytes]).unwrap();
    }
    let output = output.finish().unwrap();
    assert_eq!(output.segment.entries().map(Result::unwrap).count(), 3);
}

/// The seal of a roll finds the device full, while a background thread prepares segments.
#[derive(Debug, Default)]
struct FullAtTheSeal {
    is_armed: AtomicBool,
    store: OnceLock<SegmentStore>,
}

impl FsHook for FullAtTheSeal {
    fn before_write(&self, _: &str) -> io::Result<()> {
        match self.store.get() {
            Some(store) if self.is_armed.swap(false, Ordering::SeqCst) => {
                store.prepare_next(STAMP).unwrap();
                Err(io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

/// A roll that finds no room for its seal changes nothing, whatever the background does meanwhile.
#[test]
fn a_roll_without_room_for_its_seal_can_be_tried_again() {
    let (sim, hook) = (SimFs::new(), Arc::new(FullAtTheSeal::default()));
    let fs: Arc<dyn Fs> = Arc::new(HookedFs::new(Arc::new(sim.clone()), Arc::clone(&hook) as Arc<_>));
    let options = options(AppendMode::Positioned, 1024, 1);
    let (store, recovery) = SegmentStore::open(fs, Path::new(DIR), options.clone()).unwrap();
    let (mut appender, _) = recovery.finish(STAMP).unwrap();
    hook.store.set(store.clone()).unwrap();
    put(&mut appender, 1);
    store.prepare_next(STAMP).unwrap();
    hook.is_armed.store(true, Ordering::SeqCst);
    let rolled = appender.roll(10, Purpose::Reclaim, STAMP);
    assert_eq!((rolled.unwrap_err().is_full(), store.is_poisoned()), (true, false));
    assert_eq!(store.manifest().segments.len(), 2, "the active one and its successor");
    appender.roll(10, Purpose::Grow, STAMP).unwrap();
    put(&mut appender, 2);
    let ids: Vec<_> = store.manifest().segments.iter().map(|entry| entry.id).collect();
    assert_eq!(ids.last(), Some(&appender.segment().id()), "no empty one is left behind: {ids:?}");
    assert!(store.prepare_next(STAMP).unwrap(), "the next is prepared again");
    drop((appender, store, hook));
    let fs: Arc<dyn Fs> = Arc::new(sim.after_kill());
    let (_store, recovery) = SegmentStore::open(fs, Path::new(DIR), options).unwrap();
    assert_eq!(recovery.segments().iter().map(|segment| segment.entries().count()).sum::<usize>(), 2);
}

#[test]
fn commits_larger_than_a_segment_get_their_own() {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let mut world = world(mode);
        let long = Step::Commit { commands: 1, value_len: 100_003 };
        world.run(&[PUT, Step::Prepare, long, PUT, long, Step::Kill, PUT, Step::Reopen]).unwrap();
        let count: usize = open_of(&mut world).segments.iter().map(|segment| segment.entries().count()).sum();
        assert_eq!(count, 5);
    }
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let mut world = world(AppendMode::Mapped);
    world.run(&[PUT]).unwrap();
    let appender = &mut open_of(&mut world).appender;
    let position = appender.position();
    let error = appender.append(&[&[0; 2000]], 1).unwrap_err();
    assert!(matches!(error, SegmentError::DoesNotFit { len_bytes: 2000, .. }), "{error}");
    let error = appender.append(&[b"short"], 1).unwrap_err();
    assert!(matches!(error, SegmentError::Invalid { .. }), "{error}");
    let too_large = usize::try_from(Appender::max_commit_len_bytes() + 1).unwrap();
    let error = appender.make_room(too_large, Purpose::Grow, STAMP).unwrap_err();
    assert!(matches!(error, SegmentError::TooLarge { .. }), "{error}");
    assert_eq!(appender.position(), position);
    let segment = Arc::clone(appender.segment());
    assert!(matches!(segment.record_at(position), Err(SegmentError::OutOfBounds { .. })));
    assert!(matches!(segment.record_at(0), Err(SegmentError::OutOfBounds { .. })));
    assert!(matches!(segment.record_at(65), Err(SegmentError::Corrupt { .. })));
    assert!(segment.record_at(64).is_ok());
}

/// A segment's file is removed when no reader holds it and the manifest no longer names it.
#[test]
fn freed_files_are_removed() {
    let mut world = world(AppendMode::Mapped);
    world.run(&[PUT; 30]).unwrap();
    world.step(Step::SealPredecessors).unwrap();
    let fs = world.fs.clone();
    let has_first = || fs.names_in(Path::new(DIR)).unwrap().contains(&segment_name(1));
    let open = open_of(&mut world);
    let at = open.segments.iter().position(|segment| segment.id() == 1).unwrap();
    let first = open.segments.remove(at);
    assert!(matches!(open.store.release(Arc::clone(&first)), Err(SegmentError::Invalid { .. })), "still named");
    open.store.install(&Edit { add: Vec::new(), remove: vec![first.id()], ..Edit::default() }).unwrap();
    let reader = Arc::clone(&first);
    let Released::InUse(first) = open.store.release(first).unwrap() else { panic!("it has a reader") };
    assert_eq!(reader.entries().filter(Result::is_ok).count(), reader.entries().count());
    drop(reader);
    assert!(has_first());
    assert!(matches!(open.store.release(first).unwrap(), Released::Removed));
    assert!(!has_first());
    assert!(open.store.install(&Edit { add: Vec::new(), remove: vec![99], ..Edit::default() }).is_err());
}

#[test]
fn the_real_file_system() {
    for mode in [AppendMode::Auto, AppendMode::Mapped, AppendMode::Positioned] {
        let dir = tempfile::tempdir().unwrap();
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        let options = StoreOptions { segment_len_bytes: 64 << 10, appends: mode, ..StoreOptions::default() };
        let mut version = 0;
        for round in 0..4 {
            let (store, recovery) = SegmentStore::open(Arc::clone(&fs), dir.path(), options.clone()).unwrap();
            let count: u64 = recovery
                .segments()
                .iter()
                .map(|segment| segment.entries().map(|e| e.map(|_| 1).unwrap()).sum::<u64>())
                .sum();
            assert_eq!(count, version);
            let again = SegmentStore::open(Arc::clone(&fs), dir.path(), options.clone());
            assert!(matches!(again, Err(SegmentError::Locked { .. })));
            let (mut appender, report) = recovery.finish(STAMP).unwrap();
            assert_eq!(report.unclean, round > 0 && round % 2 == 0, "closed in every second round");
            for _ in 0..2000 {
                version += 1;
                put(&mut appender, version);
                if version % 100 == 0 {
                    store.prefault_ahead(16 << 10, Pages::Small).unwrap();
                    store.prepare_next(STAMP).unwrap();
                    store.sync_point().sync().unwrap();
                    assert_eq!(appender.durable(), appender.position());
                    store.sync_predecessors().unwrap();
                }
            }
            if round % 2 == 0 {
                appender.close(STAMP).unwrap();
            }
        }
        assert!(dir.path().join(MANIFEST).exists());
        let manifest = Manifest::decode(&std::fs::read(dir.path().join(MANIFEST)).unwrap()).unwrap();
        assert!(manifest.segments.iter().all(|entry| dir.path().join(segment_name(entry.id)).exists()));
    }
}

/// Without file descriptors or memory, a process cannot create a file. This does not end writing,
/// because nothing was written yet.
#[test]
fn a_file_that_cannot_be_made_poisons_nothing() {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let mut failed = BTreeSet::new();
        for at in 0..24 {
            let mut world = world(mode);
            world.run(&[PUT]).unwrap();
            let at_call = world.fs.call_count() + at;
            world.fs.inject(Fault { kind: FaultKind::Io, at_call, lasting: false });
            let Err(SegmentError::Io { operation, path, .. }) = world.step(Step::Prepare) else { continue };
            if !["create", "allocate", "map"].contains(&operation) {
                continue;
            }
            failed.insert((operation, path.extension().and_then(|end| end.to_str()).unwrap_or_default().to_owned()));
            assert!(!open_of(&mut world).store.is_poisoned(), "{operation} {}", path.display());
            world.run(&[Step::Prepare]).unwrap();
            world.run(&[PUT; 40]).unwrap();
            world.run(&[Step::Sync, Step::SealPredecessors, Step::Compact]).unwrap();
            world.explore_end(CrashPlan { exhaustive_limit: 8, samples: 6, seed: 3 }).unwrap();
        }
        for (operation, kind) in [("create", "spare"), ("allocate", "spare"), ("map", "spare")] {
            assert!(failed.contains(&(operation, kind.to_owned())), "{operation} {kind} did not fail: {failed:?}");
        }
    }
}

/// The total number of bytes that `rolls` rotations write to the manifest's file.
fn manifest_bytes(rolls: usize) -> usize {
    let fs = SimFs::new();
    let mut world = World::new(fs.clone(), options(AppendMode::Positioned, 512, 1));
    world.open().unwrap();
    let manifest = || fs.read_file(&Path::new(DIR).join(MANIFEST)).unwrap();
    let mut written = 0;
    let mut last = manifest();
    for _ in 0..rolls {
        world.run(&[Step::Commit { commands: 1, value_len: 300 }, Step::Sync, Step::SealPredecessors]).unwrap();
        let now = manifest();
        written += if now.starts_with(&last) { now.len() - last.len() } else { now.len() };
        last = now;
    }
    written
}

/// The cost of a rotation does not grow with the number of segments.
#[test]
fn a_roll_does_not_write_all_of_the_manifest() {
    let (few, many) = (manifest_bytes(100) / 100, manifest_bytes(3000) / 3000);
    assert!(few > 100 && many < few * 2, "{few} bytes a roll with 100 segments, {many} with 3,000");
}

/// A second name of the manifest, such as a backup's, must keep its content.
#[test]
fn a_manifest_with_a_second_name_is_written_anew() {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let fails_to_create = (0..24).filter(|at| {
            let mut world = world(mode);
            world.run(&[PUT]).unwrap();
            let (path, second) = (Path::new(DIR).join(MANIFEST), Path::new(DIR).join("kept"));
            let dir = world.fs.open_dir(Path::new(DIR)).unwrap();
            dir.hard_link(MANIFEST, &*dir, "kept").unwrap();
            let before = world.fs.read_file(&second).unwrap();
            let at_call = world.fs.call_count() + at;
            world.fs.inject(Fault { kind: FaultKind::Io, at_call, lasting: false });
            let outcome = world.step(Step::Prepare);
            world.fs.heal();
            let is_create = matches!(&outcome, Err(SegmentError::Io { operation: "create", path, .. })
                if path.extension().is_some_and(|end| end == "tmp"));
            assert!(!is_create || !open_of(&mut world).store.is_poisoned(), "no manifest was touched");
            if is_create || outcome.is_ok() {
                world.run(&[Step::Prepare]).unwrap();
                world.run(&[PUT; 40]).unwrap();
                world.run(&[Step::Sync, Step::SealPredecessors]).unwrap();
                assert_ne!(world.fs.read_file(&path).unwrap(), before);
            }
            assert_eq!(world.fs.read_file(&second).unwrap(), before, "call {at}: {outcome:?}");
            is_create
        });
        assert_eq!(fails_to_create.count(), 1);
    }
}

/// A file that cannot be removed stays usable, and so do all others.
#[test]
fn a_trim_that_fails_loses_nothing() {
    let mut world = World::new(SimFs::new(), options(AppendMode::Mapped, 4096, 1));
    world.run(&[PUT, Step::Prepare]).unwrap();
    let store = open_of(&mut world).store.clone();
    let before = store.tail_stats();
    assert!(before.prepared && before.reserves == 3, "{before:?}");
    store.set_next_len(512);
    world.fs.inject(Fault { kind: FaultKind::Io, at_call: world.fs.call_count(), lasting: false });
    assert!(matches!(store.trim(), Err(SegmentError::Io { .. })));
    assert_eq!(store.tail_stats(), before);
    store.trim().unwrap();
    let after = store.tail_stats();
    assert!(!after.prepared && after.reserves == 3, "{after:?}");
    drop(store);
    world.run(&[PUT; 60]).unwrap();
    world.explore_end(CrashPlan { exhaustive_limit: 8, samples: 6, seed: 3 }).unwrap();
}

/// The syncs of all directories but the store's own fail with this error.
#[derive(Debug)]
struct NoSyncAbove(i32);

impl FsHook for NoSyncAbove {
    fn before_dir(&self, path: &Path) -> io::Result<()> {
        if path == Path::new(DIR) { Ok(()) } else { Err(io::Error::from_raw_os_error(self.0)) }
    }
}

/// A store can be created below directories that cannot be synced, but a failed sync is an error.
#[test]
#[cfg(target_os = "linux")]
fn directories_above_that_sync_nothing() {
    let (not_permitted, invalid, read_only, unsupported, broken) = (13, 22, 30, 95, 5);
    for (error, is_made) in
        [(not_permitted, true), (invalid, true), (read_only, true), (unsupported, true), (broken, false)]
    {
        let fs = Arc::new(HookedFs::new(Arc::new(SimFs::new()), Arc::new(NoSyncAbove(error))));
        let made = SegmentStore::open(fs, Path::new(DIR), options(AppendMode::Mapped, 1024, 1));
        assert_eq!(made.is_ok(), is_made, "error {error}: {:?}", made.err());
    }
}

/// Few files are open for any number of segments, because the number of open files of a process is
/// limited.
#[test]
#[cfg(target_os = "linux")]
fn sealed_segments_hold_no_file_open() {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap();
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        let options = StoreOptions { segment_len_bytes: 4096, appends: mode, ..StoreOptions::default() };
        let (store, recovery) = SegmentStore::open(Arc::clone(&fs), &dir, options.clone()).unwrap();
        let (mut appender, _) = recovery.finish(STAMP).unwrap();
        let mut held = vec![Arc::clone(appender.segment())];
        for version in 1..2000 {
            put(&mut appender, version);
            if held.last().map(|last| last.id()) != Some(appender.segment().id()) {
                held.push(Arc::clone(appender.segment()));
                store.prepare_next(STAMP).unwrap();
                store.sync_predecessors().unwrap();
            }
        }
        assert!(held.len() > 40, "{}", held.len());
        // The directory, its lock, the active segment, and its successor.
        assert!(open_files(&dir) < 8, "{} files are open", open_files(&dir));
        let first = held.remove(0);
        store.install(&Edit { add: Vec::new(), remove: vec![first.id()], ..Edit::default() }).unwrap();
        assert!(matches!(store.release(first).unwrap(), Released::Removed));
        (2000..2200).for_each(|version| put(&mut appender, version));
        appender.close(STAMP).unwrap();
        assert!(open_files(&dir) < 3, "{} files are open after the end", open_files(&dir));
        assert!(held.iter().flat_map(|segment| segment.entries()).all(|entry| entry.is_ok()));
        drop(store);
        let (_store, recovery) = SegmentStore::open(fs, &dir, options).unwrap();
        assert!(recovery.segments().len() > 40);
        let kept = recovery.segments().to_vec();
        let (_appender, _) = recovery.finish(STAMP).unwrap();
        assert!(open_files(&dir) < 8, "{} files are open after another open", open_files(&dir));
        assert!(kept.iter().flat_map(|segment| segment.entries()).all(|entry| entry.is_ok()));
    }
}

/// The number of open files of this process below `dir`.
#[cfg(target_os = "linux")]
fn open_files(dir: &Path) -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
    open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(dir))).count()
}

fn put(appender: &mut Appender, version: u64) {
    let command = command(version, 90);
    appender.make_room(200, Purpose::Grow, STAMP).unwrap();
    let bytes = encode_commit(appender, std::slice::from_ref(&command)).unwrap();
    let appended = appender.append(&[&bytes], 1).unwrap();
    let segment: &Segment = appender.segment();
    assert_eq!(segment.record_at(appended.offset).unwrap().command(), Some(command.borrow()));
}

/// One thread appends and rotates, others sync and read: everything before a sync is durable, and
/// reads return complete records.
#[test]
fn readers_and_syncs_beside_the_appender() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { segment_len_bytes: 32 << 10, ..StoreOptions::default() };
    let (store, recovery) = SegmentStore::open(Arc::new(RealFs), dir.path(), options).unwrap();
    let (mut appender, _) = recovery.finish(STAMP).unwrap();
    let done = AtomicBool::new(false);
    let newest = std::sync::Mutex::new(Arc::clone(appender.segment()));
    let busy = || !done.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while busy() {
                store.sync_point().sync().unwrap();
                store.sync_predecessors().unwrap();
                store.prepare_next(STAMP).unwrap();
                store.prefault_ahead(8 << 10, Pages::Huge).unwrap();
            }
        });
        scope.spawn(|| {
            while busy() {
                let segment = Arc::clone(&newest.lock().unwrap());
                segment.entries().for_each(|entry| assert!(entry.is_ok()));
            }
        });
        for version in 1..20_000 {
            put(&mut appender, version);
            if version % 64 == 0 {
                *newest.lock().unwrap() = Arc::clone(appender.segment());
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    appender.close(STAMP).unwrap();
    assert!(!store.has_predecessors());
}
