//! An open store in hostile surroundings: directories that are renamed, replaced and removed, other
//! openers, children of fork, and a process without free descriptors.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hightower_log::{Command, Placement, encode};
use hightower_segment::sim::{SimFs, run_in_fork};
use hightower_segment::{
    Appender, Fs, NamedTables, Purpose, ReadOnlyStore, RealFs, SegmentError, SegmentStore, Stamp, StoreOptions,
    Tolerance,
};

const STAMP: Stamp = Stamp { max_version: 0, timestamp: 1_700_000_000_000 };

fn options() -> StoreOptions {
    StoreOptions { segment_len_bytes: 4096, ..StoreOptions::default() }
}

fn open(fs: &Arc<dyn Fs>, dir: &Path) -> Result<(SegmentStore, Appender), SegmentError> {
    let (store, recovery) = SegmentStore::open(Arc::clone(fs), dir, options())?;
    let (appender, _) = recovery.finish(STAMP)?;
    Ok((store, appender))
}

fn put(appender: &mut Appender, version: u64) -> Result<(), SegmentError> {
    let command = Command::Set { key: format!("key {version}").into(), value: vec![7; 90], version, timestamp: 1 };
    appender.make_room(200, Purpose::Grow, STAMP)?;
    let placement = Placement::Appended { durable: appender.durable(), continues: false };
    let mut record = Vec::new();
    encode(&mut record, appender.context(), appender.position(), &command.borrow(), placement).unwrap();
    appender.append(&[&record], 1).map(drop)
}

/// The number of commands in a store.
fn count(fs: &Arc<dyn Fs>, dir: &Path) -> usize {
    let store = ReadOnlyStore::open(fs, dir, Tolerance::Strict).unwrap();
    let entries = store.segments().iter().flat_map(|segment| segment.entries());
    entries.inspect(|entry| assert!(entry.is_ok(), "{entry:?}")).count()
}

fn real() -> Arc<dyn Fs> {
    Arc::new(RealFs)
}

/// The content of a directory.
type Content = dyn Fn(&Path) -> BTreeMap<String, Vec<u8>>;
type RenameDir = dyn Fn(&Path, &Path) -> io::Result<()>;

/// A file system, and a directory in it.
struct Place {
    fs: Arc<dyn Fs>,
    base: PathBuf,
    content: Box<Content>,
    rename_dir: Box<RenameDir>,
}

/// The real file system and the simulated one.
fn places(temp: &Path) -> [Place; 2] {
    let sim = SimFs::new();
    sim.create_dir_all(Path::new("/data")).unwrap();
    let (look, rename) = (sim.clone(), sim.clone());
    let in_sim = move |dir: &Path| {
        let names = look.names_in(dir).unwrap();
        names.into_iter().map(|name| (name.clone(), look.read_file(&dir.join(name)).unwrap())).collect()
    };
    let on_disk = |dir: &Path| {
        let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
        files.map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap())).collect()
    };
    [
        Place {
            fs: real(),
            base: temp.to_owned(),
            content: Box::new(on_disk),
            rename_dir: Box::new(|from, to| fs::rename(from, to)),
        },
        Place {
            fs: Arc::new(sim),
            base: "/data".into(),
            content: Box::new(in_sim),
            rename_dir: Box::new(move |from, to| rename.rename_dir(from, to)),
        },
    ]
}

#[test]
fn a_store_stays_with_its_directory_when_that_is_renamed_and_another_takes_its_name() {
    let temp = tempfile::tempdir().unwrap();
    for Place { fs, base, content, rename_dir } in places(temp.path()) {
        let (here, there) = (base.join("store"), base.join("moved"));
        let (store, mut appender) = open(&fs, &here).unwrap();
        (1..=100).for_each(|version| put(&mut appender, version).unwrap());
        rename_dir(&here, &there).unwrap();
        let (other, mut of_other) = open(&fs, &here).unwrap();
        (1..=30).for_each(|version| put(&mut of_other, version).unwrap());
        of_other.close(STAMP).unwrap();
        drop(other);
        let before = content(&here);
        // Rotations, seals, manifests, the edit of a compaction, and a close.
        for version in 101..=400 {
            put(&mut appender, version).unwrap();
            if version % 20 == 0 {
                store.prepare_next(STAMP).unwrap();
                store.sync_predecessors().unwrap();
            }
        }
        assert!(matches!(open(&fs, &there), Err(SegmentError::Locked { by_this_process: true, .. })));
        appender.close(STAMP).unwrap();
        drop(store);
        assert_eq!(content(&here), before, "the other store's files have changed");
        assert_eq!((count(&fs, &here), count(&fs, &there)), (30, 400));
    }
}

#[test]
fn a_relative_path_is_resolved_once() {
    let temp = tempfile::tempdir().unwrap();
    let dirs = ["one", "two"].map(|name| temp.path().join(name));
    dirs.iter().for_each(|dir| fs::create_dir(dir).unwrap());
    // In a child process, because the working directory belongs to the whole process.
    let done = run_in_fork(|| {
        let fs = real();
        std::env::set_current_dir(&dirs[1]).unwrap();
        let (other, mut of_other) = open(&fs, Path::new("store")).unwrap();
        (1..=30).for_each(|version| put(&mut of_other, version).unwrap());
        of_other.close(STAMP).unwrap();
        drop(other);
        std::env::set_current_dir(&dirs[0]).unwrap();
        let (store, mut appender) = open(&fs, Path::new("store")).unwrap();
        std::env::set_current_dir(&dirs[1]).unwrap();
        (1..=400).for_each(|version| put(&mut appender, version).unwrap());
        store.sync_predecessors().unwrap();
        appender.close(STAMP).unwrap();
        true
    });
    assert!(done.unwrap());
    assert_eq!(dirs.map(|dir| count(&real(), &dir.join("store"))), [400, 30]);
}

/// A file system, a directory in it, and a function that removes the directory.
type RemovablePlace<'a> = (Arc<dyn Fs>, &'a Path, &'a dyn Fn(&Path));

#[test]
fn a_store_whose_directory_was_removed_says_so() {
    let temp = tempfile::tempdir().unwrap();
    let sim = SimFs::new();
    sim.create_dir_all(Path::new("/data")).unwrap();
    let remove_real = |dir: &Path| fs::remove_dir_all(dir).unwrap();
    let remove_simulated = |dir: &Path| sim.unplant_dir(dir);
    let cases: [RemovablePlace<'_>; 2] =
        [(real(), temp.path(), &remove_real), (Arc::new(sim.clone()), Path::new("/data"), &remove_simulated)];
    for (fs, base, remove) in cases {
        let dir = base.join("store");
        let (_store, mut appender) = open(&fs, &dir).unwrap();
        put(&mut appender, 1).unwrap();
        remove(&dir);
        // Another store with its name is not changed, and can be opened.
        let (other, mut of_other) = open(&fs, &dir).unwrap();
        put(&mut of_other, 1).unwrap();
        let failure = (2..1000).find_map(|version| put(&mut appender, version).err()).unwrap();
        assert!(failure.to_string().contains("its directory was removed while it was open"), "{failure}");
        assert!(appender.close(STAMP).is_err());
        put(&mut of_other, 2).unwrap();
        of_other.close(STAMP).unwrap();
        drop(other);
        assert_eq!(count(&fs, &dir), 2);
    }
}

/// No file can be removed from the directory to admit a second writer.
#[test]
fn no_file_that_is_removed_lets_a_second_writer_in() {
    let temp = tempfile::tempdir().unwrap();
    let fs = real();
    let (_store, mut appender) = open(&fs, temp.path()).unwrap();
    put(&mut appender, 1).unwrap();
    for file in fs::read_dir(temp.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    assert!(matches!(open(&fs, temp.path()), Err(SegmentError::Locked { by_this_process: true, .. })));
    let dir = temp.path();
    let outcome =
        run_in_fork(|| matches!(open(&real(), dir), Err(SegmentError::Locked { by_this_process: false, .. })));
    assert!(outcome.unwrap(), "a forked process learns that another process holds the lock");
}

#[test]
fn files_are_for_their_owner_alone() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("above/store");
    let (_store, _appender) = open(&real(), &dir).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&dir), mode(dir.parent().unwrap())), (0o700, 0o700));
    for file in fs::read_dir(&dir).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
}

/// A child between fork and exec has copies of all descriptors; its copy of the lock's descriptor
/// must not keep the lock.
#[test]
fn children_that_are_spawned_do_not_keep_the_lock() {
    const ROUNDS: usize = 300;
    let temp = tempfile::tempdir().unwrap();
    let fs = real();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let _status = Program::new("/bin/true").status();
                }
            });
        }
        let refused = (0..ROUNDS).filter(|_| {
            let opened = open(&fs, temp.path());
            let is_locked = matches!(opened, Err(SegmentError::Locked { .. }));
            if let Ok((_store, appender)) = opened {
                appender.close(STAMP).unwrap();
            }
            is_locked
        });
        let refused = refused.count();
        stop.store(true, Ordering::Relaxed);
        assert_eq!(refused, 0, "of {ROUNDS} opens");
    });
}

/// The same with a child that lives during the next open.
#[test]
fn a_child_that_lives_on_does_not_keep_the_lock() {
    let temp = tempfile::tempdir().unwrap();
    let fs = real();
    let (store, appender) = open(&fs, temp.path()).unwrap();
    let (mut reader, writer) = io::pipe().unwrap();
    std::thread::scope(|scope| {
        let child = scope.spawn(|| {
            // The child ends when the other end of the pipe is closed.
            run_in_fork(move || {
                use std::io::Write;
                (&writer).write_all(b"!").unwrap();
                std::thread::sleep(std::time::Duration::from_secs(2));
                true
            })
        });
        io::Read::read_exact(&mut reader, &mut [0]).unwrap();
        appender.close(STAMP).unwrap();
        drop(store);
        let again = open(&fs, temp.path());
        assert!(again.is_ok(), "{:?}", again.err());
        assert!(child.join().unwrap().unwrap());
    });
}

#[test]
fn a_child_of_fork_leaves_the_store_alone() {
    let temp = tempfile::tempdir().unwrap();
    let fs = real();
    let dir = temp.path();
    let (store, mut appender) = open(&fs, dir).unwrap();
    (1..=50).for_each(|version| put(&mut appender, version).unwrap());
    let before = (places(dir)[0].content)(dir);
    let parts = std::cell::RefCell::new(Some((store, appender)));
    let refused = run_in_fork(|| {
        let is_refused = |outcome: Result<(), SegmentError>| matches!(outcome, Err(SegmentError::Forked { .. }));
        let (store, mut appender) = parts.borrow_mut().take().unwrap();
        let mut outcomes = vec![is_refused(put(&mut appender, 51))];
        outcomes.push(is_refused(store.sync_point().sync()));
        outcomes.push(is_refused(store.prepare_next(STAMP).map(drop)) || !store.wants_preparation());
        outcomes.push(is_refused(store.set_tables(NamedTables::default(), 0)));
        outcomes.push(is_refused(appender.roll(100, Purpose::Grow, STAMP).map(drop)));
        outcomes.push(is_refused(appender.close(STAMP)));
        // Below the store, no call of a directory or file works either.
        outcomes.push(store.dir().create_new("stray").is_err() && store.dir().remove_file("MANIFEST").is_err());
        drop(store);
        // Dropping the appender and the store has not released the lock.
        outcomes.push(matches!(open(&real(), dir), Err(SegmentError::Locked { by_this_process: false, .. })));
        assert_eq!(outcomes, [true; 8]);
        true
    });
    assert!(refused.unwrap());
    assert_eq!((places(dir)[0].content)(dir), before, "the child has changed a file");
    let (store, mut appender) = parts.into_inner().unwrap();
    assert!(matches!(open(&fs, dir), Err(SegmentError::Locked { .. })), "the child has unlocked it");
    (51..=200).for_each(|version| put(&mut appender, version).unwrap());
    appender.close(STAMP).unwrap();
    drop(store);
    assert_eq!(count(&fs, dir), 200);
}

/// A child may use stores that it opens itself.
#[test]
fn a_child_of_fork_has_stores_of_its_own() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let done = run_in_fork(|| {
        let (_store, mut appender) = open(&real(), dir).unwrap();
        (1..=100).for_each(|version| put(&mut appender, version).unwrap());
        appender.close(STAMP).is_ok()
    });
    assert!(done.unwrap());
    assert_eq!(count(&real(), dir), 100);
}

/// A segment in use by a reader excludes writers: a recovery could truncate the file under a
/// borrowed slice.
#[test]
fn a_segment_that_is_read_keeps_writers_out() {
    let temp = tempfile::tempdir().unwrap();
    let fs = real();
    let (store, mut appender) = open(&fs, temp.path()).unwrap();
    (1..=10).for_each(|version| put(&mut appender, version).unwrap());
    drop((store, appender));
    for tolerance in [Tolerance::Strict, Tolerance::Salvage] {
        let reader = ReadOnlyStore::open(&fs, temp.path(), tolerance).unwrap();
        let segment = Arc::clone(reader.segments().last().unwrap());
        let bytes = segment.bytes_from(0);
        drop(reader);
        assert!(matches!(open(&fs, temp.path()), Err(SegmentError::Locked { .. })), "{tolerance:?}");
        assert!(bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>() > 0);
        drop(segment);
    }
    open(&fs, temp.path()).unwrap();
}

/// In a child, since the limit is the whole process's.
#[test]
fn without_descriptors_a_write_fails_and_can_be_tried_again() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    for free in 0..4 {
        let dir = dir.join(free.to_string());
        let done = run_in_fork(|| {
            let (store, mut appender) = open(&real(), &dir).unwrap();
            let mut version = 0;
            let mut next = |appender: &mut Appender| {
                let outcome = put(appender, version + 1);
                version += u64::from(outcome.is_ok());
                outcome
            };
            setrlimit(Resource::Nofile, Rlimit { current: Some(100), ..getrlimit(Resource::Nofile) }).unwrap();
            let mut hoard: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
            hoard.truncate(hoard.len() - free);
            let failure = (0..1000).find_map(|_| next(&mut appender).err());
            assert!(free > 2 || matches!(failure, Some(SegmentError::Io { .. })), "{failure:?}");
            let _sealed = store.sync_predecessors();
            let _prepared = store.prepare_next(STAMP);
            store.sync_point().sync().unwrap();
            assert!(!store.is_poisoned());
            drop(hoard);
            (0..100).for_each(|_| next(&mut appender).unwrap());
            appender.close(STAMP).unwrap();
            drop(store);
            count(&real(), &dir) as u64 == version
        });
        assert!(done.unwrap(), "with {free} descriptors");
    }
}

/// Foreign directories with the names of future files are skipped.
#[test]
fn directories_with_the_names_of_coming_files_are_passed_over() {
    let temp = tempfile::tempdir().unwrap();
    let (fs, dir) = (real(), temp.path());
    let names = [(0..40, "spare"), (3..9, "seg"), (12..13, "seg"), (20..24, "seg")];
    let names = names.into_iter().flat_map(|(numbers, end)| numbers.map(move |number| format!("{number:010}.{end}")));
    let taken: Vec<_> = names.map(|name| dir.join(name)).collect();
    let (store, mut appender) = open(&fs, dir).unwrap();
    for name in &taken {
        let _own = fs::create_dir(name);
    }
    let mut version = 0;
    let mut put_some = |store: &SegmentStore, appender: &mut Appender| {
        for _ in 0..300 {
            version += 1;
            put(appender, version).unwrap();
            if version % 30 == 0 {
                store.prepare_next(STAMP).unwrap();
                store.sync_predecessors().unwrap();
                drop(store.create_compacted(4096, 100, Purpose::Reclaim, STAMP).unwrap());
            }
        }
    };
    put_some(&store, &mut appender);
    assert!(!store.is_poisoned());
    appender.close(STAMP).unwrap();
    drop(store);
    let left = taken.iter().filter(|name| name.is_dir()).count();
    assert!(left > 30, "{left}");
    // Now the directories exist from the start.
    let (store, mut appender) = open(&fs, dir).unwrap();
    put_some(&store, &mut appender);
    appender.close(STAMP).unwrap();
    drop(store);
    assert_eq!(taken.iter().filter(|name| name.is_dir()).count(), left);
    assert_eq!(count(&fs, dir), 600);
}

/// A directory with the name of the next manifest: a close needs no new file.
#[test]
fn a_directory_in_the_place_of_the_next_manifest_does_no_harm() {
    let temp = tempfile::tempdir().unwrap();
    let (fs, dir) = (real(), temp.path());
    let (store, mut appender) = open(&fs, dir).unwrap();
    fs::create_dir(dir.join("MANIFEST.tmp")).unwrap();
    (1..=300).for_each(|version| put(&mut appender, version).unwrap());
    appender.close(STAMP).unwrap();
    drop(store);
    let failure = open(&fs, dir).unwrap_err();
    assert!(failure.to_string().contains("MANIFEST.tmp"), "{failure}");
    fs::remove_dir(dir.join("MANIFEST.tmp")).unwrap();
    assert_eq!(count(&fs, dir), 300);
    open(&fs, dir).unwrap();
}

/// Opening a pipe would wait for its other end.
#[test]
fn pipes_with_the_names_of_files_are_not_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    let fs = real();
    let pipe = |path: PathBuf| {
        let made = rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0);
        made.unwrap();
        path
    };
    let manifest = temp.path().join("manifest");
    fs::create_dir(&manifest).unwrap();
    pipe(manifest.join("MANIFEST"));
    let failure = open(&fs, &manifest).unwrap_err();
    assert!(failure.to_string().contains("it is not a regular file"), "{failure}");
    let segment = temp.path().join("segment");
    fs::create_dir(&segment).unwrap();
    pipe(segment.join("0000000001.seg"));
    assert!(matches!(open(&fs, &segment), Err(SegmentError::MissingManifest { .. })));
    let salvaged = ReadOnlyStore::open(&fs, &segment, Tolerance::Salvage).unwrap();
    assert!(salvaged.segments().is_empty());
    // In a store that was not closed it is garbage, as a file with the name would be.
    let store = temp.path().join("store");
    let (_, mut appender) = open(&fs, &store).unwrap();
    put(&mut appender, 1).unwrap();
    drop(appender);
    let pipe = pipe(store.join("0000000099.seg"));
    assert_eq!(count(&fs, &store), 1);
    let (_, appender) = open(&fs, &store).unwrap();
    appender.close(STAMP).unwrap();
    assert!(!pipe.exists());
}

/// In a child, since the limit is the whole process's.
#[test]
fn a_store_is_closed_without_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let temp = tempfile::tempdir().unwrap();
    for puts in [0, 1, 10, 100, 400] {
        let dir = temp.path().join(puts.to_string());
        let done = run_in_fork(|| {
            let (store, mut appender) = open(&real(), &dir).unwrap();
            (1..=puts).for_each(|version| put(&mut appender, version).unwrap());
            setrlimit(Resource::Nofile, Rlimit { current: Some(100), ..getrlimit(Resource::Nofile) }).unwrap();
            let hoard: Vec<_> = std::iter::from_fn(|| fs::File::open("/dev/null").ok()).collect();
            let closed = appender.close(STAMP);
            assert!(!store.is_poisoned());
            drop((hoard, store));
            closed.unwrap();
            let store = ReadOnlyStore::open(&real(), &dir, Tolerance::Strict).unwrap();
            !store.report().unclean && count(&real(), &dir) as u64 == puts
        });
        assert!(done.unwrap(), "with {puts} puts");
    }
}
