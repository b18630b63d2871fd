//! Foreign files in the store and in the targets of copies: they are never read, changed or
//! removed.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hightower_engine::{
    Components, Result, SingleNodeEngine, StoreConfig, import_snapshot, restore, restore_with_progress, salvage,
};
use tempfile::TempDir;

fn open(dir: &Path) -> SingleNodeEngine {
    let config = StoreConfig::at(dir).with_max_segment_size(16 << 10).with_compaction_interval(Duration::ZERO);
    SingleNodeEngine::with_config(config).unwrap()
}

/// A closed store with some segments.
fn store(dir: &Path) {
    let engine = open(dir);
    for number in 0..300 {
        engine.put(format!("key/{number:03}"), [7; 200]).unwrap();
    }
    engine.close().unwrap();
}

/// Creates a user's files with names like the store's, each with different content.
fn plant(dir: &Path) -> Vec<PathBuf> {
    fs::create_dir_all(dir).unwrap();
    let names = [
        "holiday.seg",
        "tyre.spare",
        "x.tbl",
        "1.tbl",
        "0000000001.tbl.old",
        "1.seg",
        "0000000001.seg.bak",
        "MANIFEST.old",
        "LOCK",
    ];
    names.iter().for_each(|name| fs::write(dir.join(name), name).unwrap());
    let folders = ["photos.tbl", "0000004711.tbl", "0000004711.tbl.tmp", "0000004711.seg", "0000004711.spare"];
    folders.iter().for_each(|name| fs::create_dir_all(dir.join(name).join("inside")).unwrap());
    names.iter().chain(&folders).map(|name| dir.join(name)).collect()
}

#[track_caller]
fn untouched(planted: &[PathBuf]) {
    for path in planted {
        if path.is_dir() {
            assert!(path.join("inside").is_dir(), "{}", path.display());
        } else {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(fs::read_to_string(path).ok().as_deref(), Some(name), "{}", path.display());
        }
    }
}

type Copy = Box<dyn Fn(&Path) -> Result<()>>;

/// Every way to make a copy of the store in `from`.
fn copies(from: &Path) -> Vec<(&'static str, Copy)> {
    let from = from.to_owned();
    let (source, damaged) = (from.clone(), from.clone());
    vec![
        ("restore", Box::new(move |to| restore(&Components::default(), &source, to).map(drop))),
        (
            "salvage",
            Box::new(move |to| {
                salvage(&Components::default(), &damaged, to, &mut |_| ControlFlow::Continue(())).map(drop)
            }),
        ),
        (
            "import",
            Box::new(move |to| {
                let mut stream = Vec::new();
                SingleNodeEngine::open_read_only(&from)?.export_snapshot(&mut stream)?;
                import_snapshot(&Components::default(), &mut &stream[..], to).map(drop)
            }),
        ),
    ]
}

#[test]
fn a_store_among_files_of_others_leaves_them_alone() {
    let dir = TempDir::new().unwrap();
    store(dir.path());
    let planted = plant(dir.path());
    for _ in 0..2 {
        store(dir.path());
        let engine = open(dir.path());
        engine.run_compaction_now().unwrap();
        engine.close().unwrap();
        untouched(&planted);
    }
}

/// Directories have the names of future segments: each rotation that meets one fails, and the next
/// rotation takes the next name.
#[test]
fn a_name_that_others_have_taken_is_passed_over() {
    let temp = TempDir::new().unwrap();
    let dir = temp.path().join("store");
    let engine = open(&dir);
    let taken: Vec<PathBuf> = (10..40).step_by(3).map(|id| dir.join(format!("{id:010}.seg"))).collect();
    taken.iter().for_each(|path| fs::create_dir_all(path.join("inside")).unwrap());
    let mut failures = 0;
    for number in 0..3000 {
        let put = || engine.put(format!("key/{number:04}"), [7; 200]);
        for _ in 0..20 {
            let Err(error) = put() else { break };
            assert_eq!(error.code(), "io", "{error}");
            failures += 1;
        }
    }
    assert_eq!((engine.len(), engine.stats().poisoned), (3000, None), "after {failures} failures");
    engine.run_compaction_now().unwrap();
    engine.close().unwrap();
    untouched(&taken);
    assert_eq!(open(&dir).len(), 3000);
}

#[test]
fn a_backup_leaves_files_of_others_alone() {
    let dir = TempDir::new().unwrap();
    let (kv, backup) = (dir.path().join("kv"), dir.path().join("backup"));
    store(&kv);
    let engine = open(&kv);
    engine.backup_to(&backup).unwrap();
    let planted = plant(&backup);
    (0..300).for_each(|number| assert!(engine.delete(format!("key/{number:03}")).is_ok()));
    engine.run_compaction_now().unwrap();
    assert!(engine.backup_to(&backup).unwrap().removed_files > 0, "the test should make something stale");
    untouched(&planted);
    // A backup refuses a directory with foreign files and no backup.
    let photos = dir.path().join("photos");
    let planted = plant(&photos);
    assert_eq!(engine.backup_to(&photos).unwrap_err().code(), "conflict");
    untouched(&planted);
}

#[test]
fn a_backup_that_became_a_store_of_its_own_is_not_replaced() {
    let dir = TempDir::new().unwrap();
    let (kv, backup) = (dir.path().join("kv"), dir.path().join("backup"));
    store(&kv);
    let engine = open(&kv);
    for round in 0..3 {
        engine.put("round", round.to_string()).unwrap();
        engine.backup_to(&backup).unwrap();
        // A read-only open does not change a backup.
        assert_eq!(
            SingleNodeEngine::open_read_only(&backup).unwrap().get("round").unwrap().unwrap(),
            round.to_string().as_bytes()
        );
    }
    let promoted = open(&backup);
    promoted.put("round", "of its own").unwrap();
    promoted.close().unwrap();
    assert_eq!(engine.backup_to(&backup).unwrap_err().code(), "conflict");
    assert_eq!(open(&backup).get("round").unwrap().unwrap(), b"of its own");
    // A copy of the store that no backup has created is not replaced either.
    let copied = dir.path().join("copied");
    assert!(Command::new("cp").arg("-r").args([&kv, &copied]).status().unwrap().success());
    assert_eq!(engine.backup_to(&copied).unwrap_err().code(), "conflict");
}

#[test]
fn a_copy_goes_into_any_empty_directory() {
    let dir = TempDir::new().unwrap();
    let kv = dir.path().join("kv");
    store(&kv);
    for (what, copy) in copies(&kv) {
        let (new, empty, target) = (dir.path().join("new/er"), dir.path().join("empty"), dir.path().join("target"));
        let (link, dot) = (dir.path().join("link"), dir.path().join("dot"));
        [&empty, &target, &dot].iter().for_each(|path| fs::create_dir(path).unwrap());
        std::os::unix::fs::symlink(&target, &link).unwrap();
        for to in [new.clone(), empty.clone(), link.clone(), dot.join(".")] {
            copy(&to).unwrap_or_else(|error| panic!("{what} to {}: {error}", to.display()));
            assert_eq!(open(&to).len(), 300, "{what} to {}", to.display());
            // The second copy finds a store in the directory.
            assert_eq!(copy(&to).unwrap_err().code(), "conflict", "{what} to {}", to.display());
        }
        assert!(link.is_symlink() && target.join("MANIFEST").exists());
        [&dir.path().join("new"), &empty, &target, &dot].iter().for_each(|path| fs::remove_dir_all(path).unwrap());
        fs::remove_file(&link).unwrap();
    }
}

#[test]
fn a_copy_goes_onto_a_file_system_of_its_own() {
    let dir = TempDir::new().unwrap();
    let (kv, mounted) = (dir.path().join("kv"), dir.path().join("mounted"));
    store(&kv);
    fs::create_dir(&mounted).unwrap();
    for (what, copy) in copies(&kv) {
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256m", "tmpfs"]).arg(&mounted).output();
        if !mount.is_ok_and(|done| done.status.success()) {
            println!("SKIPPED: no file system can be mounted here");
            return;
        }
        let copied = copy(&mounted).map(|()| open(&mounted).len());
        assert!(Command::new("umount").arg(&mounted).status().unwrap().success());
        assert_eq!(copied.unwrap_or_else(|error| panic!("{what}: {error}")), 300);
    }
}

#[test]
fn a_copy_touches_nothing_else() {
    let dir = TempDir::new().unwrap();
    // The source has the name that a temporary directory beside the destination could have.
    let (kv, to) = (dir.path().join("to.unfinished"), dir.path().join("to"));
    store(&kv);
    for (what, copy) in copies(&kv) {
        let planted = plant(&to);
        assert_eq!(copy(&to).unwrap_err().code(), "conflict", "{what}");
        untouched(&planted);
        // The same if an earlier attempt left its mark there.
        fs::write(to.join("UNFINISHED"), "0").unwrap();
        assert_eq!(copy(&to).unwrap_err().code(), "conflict", "{what}");
        untouched(&planted);
        fs::remove_dir_all(&to).unwrap();
        copy(&to).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(open(&to).len(), 300, "{what}");
        fs::remove_dir_all(&to).unwrap();
        // A store is not copied onto itself.
        assert!(copy(&kv).is_err(), "{what}");
        assert_eq!(open(&kv).len(), 300, "{what}");
    }
}

#[test]
fn an_unfinished_copy_is_no_store_and_is_made_again() {
    let dir = TempDir::new().unwrap();
    let (kv, to) = (dir.path().join("kv"), dir.path().join("to"));
    store(&kv);
    // Aborted by the caller: the directory is empty again.
    let large = dir.path().join("large");
    let engine = SingleNodeEngine::with_config(StoreConfig::at(&large)).unwrap();
    (0..3).for_each(|number| assert!(engine.put(number.to_string(), vec![7; 1 << 20]).is_ok()));
    engine.close().unwrap();
    let mut ended = |_| ControlFlow::Break(());
    let aborted = restore_with_progress(&Components::default(), &large, &to, &mut ended);
    assert_eq!(aborted.unwrap_err().code(), "aborted");
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    for (what, copy) in copies(&kv) {
        // Interrupted by a crash: the leftovers of a process that dies right before the end.
        copy(&to).unwrap();
        fs::write(to.join("UNFINISHED"), "0").unwrap();
        let refused = SingleNodeEngine::with_config(StoreConfig::at(&to)).unwrap_err();
        assert_eq!(refused.code(), "not_found", "{what}: {refused}");
        assert!(refused.to_string().contains("UNFINISHED"), "{refused}");
        assert_eq!(SingleNodeEngine::open_read_only(&to).unwrap_err().code(), "not_found", "{what}");
        copy(&to).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(open(&to).len(), 300, "{what}");
        assert!(!to.join("UNFINISHED").exists());
        fs::remove_dir_all(&to).unwrap();
    }
}

/// Names that are not UTF-8, and directories with names of a store's files, are foreign, too.
#[test]
fn what_is_no_file_of_a_store_is_seen() {
    use std::os::unix::ffi::OsStrExt;
    let temp = tempfile::tempdir().unwrap();
    let source = temp.path().join("source");
    store(&source);
    let no_text = std::ffi::OsStr::from_bytes(b"\xff\xfe.seg");
    for (number, (copy, make)) in copies(&source).into_iter().enumerate() {
        let dir = temp.path().join(format!("no text {number}"));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(no_text), "mine").unwrap();
        let error = make(&dir).unwrap_err();
        assert_eq!(error.code(), "conflict", "{copy}: {error}");
        let dir = temp.path().join(format!("directory {number}"));
        fs::create_dir_all(dir.join("0000000001.seg")).unwrap();
        fs::write(dir.join("UNFINISHED"), "0123456789abcdef\n").unwrap();
        let error = make(&dir).unwrap_err();
        assert_eq!(error.code(), "conflict", "{copy}: {error}");
        assert!(dir.join("0000000001.seg").is_dir());
    }
    let target = temp.path().join("target");
    fs::create_dir(&target).unwrap();
    fs::write(target.join(no_text), "mine").unwrap();
    let error = open(&source).backup_to(&target).unwrap_err();
    assert_eq!(error.code(), "conflict", "{error}");
}

/// It could still be salvaged, and a backup would remove its segments.
#[test]
fn a_backup_leaves_a_store_without_a_manifest_alone() {
    let temp = tempfile::tempdir().unwrap();
    let (source, lost) = (temp.path().join("source"), temp.path().join("lost"));
    store(&source);
    store(&lost);
    fs::remove_file(lost.join("MANIFEST")).unwrap();
    let names = || fs::read_dir(&lost).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let before = names();
    let error = open(&source).backup_to(&lost).unwrap_err();
    assert_eq!(error.code(), "conflict", "{error}");
    assert_eq!(names(), before);
}
