//! Checks of an implementation of [`Fs`], for its author's tests: [`check_fs`].
//!
//! They cover the promises that a store relies on while the process lives. A process cannot check
//! whether synced bytes survive power loss; for that the tests of this crate use a simulated file
//! system.
//!
//! ```
//! use hightower_segment::{RealFs, conformance::check_fs};
//!
//! let dir = tempfile::tempdir().unwrap();
//! assert_eq!(check_fs(&RealFs, dir.path(), &|from, to| std::fs::rename(from, to)), Ok(()));
//! ```

use std::io;
use std::path::Path;

use crate::fs::{Access, Dir, File, Fs, LockKind, read_full_at, write_all_at};
use crate::mapping::MapPermit;

/// A broken promise of [`Fs`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {found}")]
pub struct Violation {
    /// The checked promise.
    pub check: &'static str,
    /// The found behaviour.
    pub found: String,
}

type Checked = Result<(), String>;
type Check = fn(&dyn Dir) -> Checked;

const CHECKS: [(&str, Check); 9] = [
    ("a name is created once", created_once),
    ("reads return the bytes at the offset of their write, and none past the end", bytes_stay),
    ("a file can be truncated, and extended by zeros", lengths),
    ("allocating makes a file longer and changes no byte", allocating),
    ("a rename replaces the file with the new name", renaming),
    ("a removed file stays readable through an open handle", removing),
    ("a hard link is a second name", linking),
    ("maps and positioned access see the same bytes", mapping),
    ("a name is one path component", one_component),
];

/// Renames a directory.
type RenameDir<'a> = &'a dyn Fn(&Path, &Path) -> io::Result<()>;

type FsCheck = fn(&dyn Fs, &Path, RenameDir<'_>) -> Checked;

const FS_CHECKS: [(&str, FsCheck); 2] = [
    ("an exclusive lock keeps others out until it is dropped", locking),
    ("a handle stays with its directory when the directory's name changes", moving),
];

/// Checks a file system in one of its empty directories; the error is the first broken promise.
/// Files are left behind.
///
/// `rename_dir` renames a directory of this file system atomically, as another program might do; a
/// store never does.
///
/// # Errors
///
/// [`Violation`].
pub fn check_fs(fs: &dyn Fs, dir: &Path, rename_dir: &dyn Fn(&Path, &Path) -> io::Result<()>) -> Result<(), Violation> {
    let opened = fs.open_dir(dir);
    let handle = opened.map_err(|error| Violation { check: "a directory can be opened", found: error.to_string() })?;
    CHECKS.iter().try_for_each(|(check, run)| run(&*handle).map_err(|found| Violation { check, found }))?;
    FS_CHECKS.iter().try_for_each(|(check, run)| run(fs, dir, rename_dir).map_err(|found| Violation { check, found }))
}

fn ok<T>(what: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what} failed: {error}"))
}

fn ensure(holds: bool, found: &str) -> Checked {
    if holds { Ok(()) } else { Err(found.to_owned()) }
}

fn refused<T>(result: io::Result<T>, kind: io::ErrorKind, what: &str) -> Checked {
    match result {
        Ok(_) => Err(format!("{what} succeeded")),
        Err(error) if error.kind() == kind => Ok(()),
        Err(error) => Err(format!("{what} failed with {:?}, not {kind:?}", error.kind())),
    }
}

fn write(file: &dyn File, bytes: &[u8], offset: u64) -> Checked {
    write_all_at(file, bytes, offset).map_err(|(_, error)| format!("writing failed: {error}"))
}

fn reads(file: &dyn File, offset: u64, wanted: &[u8]) -> Checked {
    // One additional byte, to detect a longer file.
    let mut found = vec![0xee; wanted.len() + 1];
    let len = ok("reading", read_full_at(file, &mut found, offset))?;
    ensure(
        found.get(..len) == Some(wanted),
        &format!("{wanted:?} was expected at {offset}, there are {len} bytes: {found:?}"),
    )
}

fn created_once(dir: &dyn Dir) -> Checked {
    let name = "created";
    refused(dir.open(name, Access::Read), io::ErrorKind::NotFound, "opening a file that is not there")?;
    ok("creating", dir.create_new(name))?;
    refused(dir.create_new(name), io::ErrorKind::AlreadyExists, "creating it again")?;
    ok("syncing the directory", dir.sync())?;
    let names = ok("listing", dir.list())?;
    ensure(names.iter().any(|name| name == "created"), &format!("the new name is not listed: {names:?}"))
}

fn bytes_stay(dir: &dyn Dir) -> Checked {
    let name = "bytes";
    let file = ok("creating", dir.create_new(name))?;
    write(&*file, b"hello", 0)?;
    write(&*file, b"p!", 3)?;
    reads(&*file, 0, b"help!")?;
    ok("syncing", file.sync_data())?;
    reads(&*file, 0, b"help!")?;
    reads(&*file, 5, b"")?;
    reads(&*ok("opening", dir.open(name, Access::Read))?, 1, b"elp!")?;
    ensure(ok("looking up", dir.metadata(name))?.len_bytes == 5, "the length is not 5")
}

fn lengths(dir: &dyn Dir) -> Checked {
    let file = ok("creating", dir.create_new("lengths"))?;
    write(&*file, b"abcdef", 0)?;
    ok("cutting", file.set_len(2))?;
    ok("growing", file.set_len(4))?;
    reads(&*file, 0, b"ab\0\0")
}

fn allocating(dir: &dyn Dir) -> Checked {
    let file = ok("creating", dir.create_new("allocated"))?;
    write(&*file, b"abc", 0)?;
    ok("allocating", file.allocate(8192))?;
    let len_bytes = ok("looking up", file.metadata())?.len_bytes;
    ensure(len_bytes == 8192, &format!("8192 bytes were allocated, and the file has {len_bytes}"))?;
    ok("allocating less", file.allocate(4096))?;
    ensure(ok("looking up", file.metadata())?.len_bytes == 8192, "allocating less made the file shorter")?;
    ok("cutting", file.set_len(5))?;
    reads(&*file, 0, b"abc\0\0")
}

fn renaming(dir: &dyn Dir) -> Checked {
    let (from, to) = ("new", "old");
    write(&*ok("creating", dir.create_new(to))?, b"old", 0)?;
    let was = ok("opening", dir.open(to, Access::Read))?;
    write(&*ok("creating", dir.create_new(from))?, b"new", 0)?;
    ok("renaming", dir.rename(from, to))?;
    reads(&*ok("opening", dir.open(to, Access::Read))?, 0, b"new")?;
    reads(&*was, 0, b"old")?;
    refused(dir.open(from, Access::Read), io::ErrorKind::NotFound, "opening the former name")
}

fn removing(dir: &dyn Dir) -> Checked {
    let name = "removed";
    let file = ok("creating", dir.create_new(name))?;
    write(&*file, b"still", 0)?;
    ok("removing", dir.remove_file(name))?;
    reads(&*file, 0, b"still")?;
    refused(dir.remove_file(name), io::ErrorKind::NotFound, "removing it again")
}

fn linking(dir: &dyn Dir) -> Checked {
    let (name, link) = ("linked", "link");
    write(&*ok("creating", dir.create_new(name))?, b"one", 0)?;
    ok("linking", dir.hard_link(name, dir, link))?;
    ensure(ok("looking up", dir.metadata(name))?.links == 2, "a file of two names does not count two")?;
    refused(dir.hard_link(name, dir, link), io::ErrorKind::AlreadyExists, "linking to a name that is taken")?;
    ok("removing", dir.remove_file(name))?;
    reads(&*ok("opening", dir.open(link, Access::Read))?, 0, b"one")
}

fn mapping(dir: &dyn Dir) -> Checked {
    let file = ok("creating", dir.create_new("mapped"))?;
    ok("allocating", file.allocate(4096))?;
    let map = ok("mapping for writing", file.map(4096, Access::Write, MapPermit::of_store()))?;
    let Some(mut writer) = map.writer() else { return Err("a new mapping has no writer".to_owned()) };
    map.append(&mut writer, &[b"map", b"ped"]).map_err(|error| format!("appending through the map failed: {error}"))?;
    ensure(map.slice(0..6) == Some(b"mapped"), "the appended bytes are not published")?;
    ensure(map.slice(0..7).is_none(), "more is published than was appended")?;
    ok("syncing the map", map.sync(0..6))?;
    let mut found = [0; 6];
    ok("reading", read_full_at(&*file, &mut found, 0))?;
    ensure(&found == b"mapped", &format!("the file has {found:?} where the map has \"mapped\""))?;
    write(&*file, b" and written", 6)?;
    map.publish(&mut writer, 18).map_err(|error| format!("publishing failed: {error}"))?;
    ensure(map.slice(6..18) == Some(b" and written"), "the map does not show a positioned write")
}

fn one_component(dir: &dyn Dir) -> Checked {
    for name in ["", ".", "..", "a/b", "/a"] {
        refused(dir.create_new(name), io::ErrorKind::InvalidInput, &format!("creating {name:?}"))?;
        refused(dir.open(name, Access::Read), io::ErrorKind::InvalidInput, &format!("opening {name:?}"))?;
        refused(dir.remove_file(name), io::ErrorKind::InvalidInput, &format!("removing {name:?}"))?;
    }
    Ok(())
}

/// Opens handles twice, like two processes.
fn locking(fs: &dyn Fs, path: &Path, _rename_dir: RenameDir<'_>) -> Checked {
    let [one, other] = [fs.open_dir(path), fs.open_dir(path)];
    let (one, other) = (ok("opening the directory", one)?, ok("opening it again", other)?);
    let held = ok("locking", one.try_lock(LockKind::Exclusive))?;
    ensure(held.is_some(), "nobody had the lock, and it was not given")?;
    for kind in [LockKind::Exclusive, LockKind::Shared] {
        for dir in [&one, &other] {
            let second = ok("trying a second lock", dir.try_lock(kind))?;
            ensure(second.is_none(), &format!("{kind:?} was given beside an exclusive lock"))?;
        }
    }
    drop(held);
    let shared = [LockKind::Shared, LockKind::Shared].map(|kind| one.try_lock(kind));
    ensure(shared.iter().all(|lock| matches!(lock, Ok(Some(_)))), "two readers cannot share the lock")?;
    let third = ok("trying a lock beside readers", other.try_lock(LockKind::Exclusive))?;
    ensure(third.is_none(), "a writer was let in beside readers")
}

/// A handle stays with its directory after a rename, also if another directory has the old name.
fn moving(fs: &dyn Fs, path: &Path, rename_dir: RenameDir<'_>) -> Checked {
    let (here, there) = (path.join("here"), path.join("there"));
    ok("creating a directory", fs.create_dir_all(&here))?;
    let dir = ok("opening it", fs.open_dir(&here))?;
    let held = ok("locking it", dir.try_lock(LockKind::Exclusive))?;
    ensure(held.is_some(), "nobody had the lock, and it was not given")?;
    write(&*ok("creating", dir.create_new("before"))?, b"before", 0)?;
    ok("renaming it", rename_dir(&here, &there))?;
    refused(fs.open_dir(&here), io::ErrorKind::NotFound, "opening its former name")?;
    ok("creating another", fs.create_dir_all(&here))?;
    let other = ok("opening that", fs.open_dir(&here))?;
    ensure(matches!(other.try_lock(LockKind::Exclusive), Ok(Some(_))), "another directory of the name is locked too")?;
    write(&*ok("creating", dir.create_new("after"))?, b"after", 0)?;
    ok("renaming a file", dir.rename("after", "later"))?;
    ok("syncing the directory", dir.sync())?;
    ensure(ok("listing", other.list())?.is_empty(), "a file went into another directory of the same name")?;
    let moved = ok("opening it by its new name", fs.open_dir(&there))?;
    ensure(matches!(moved.try_lock(LockKind::Shared), Ok(None)), "the lock did not move with the directory")?;
    let mut names = ok("listing", moved.list())?;
    names.sort();
    ensure(names == ["before", "later"], &format!("the moved directory has {names:?}"))?;
    refused(rename_dir(&here, &there), io::ErrorKind::DirectoryNotEmpty, "replacing a directory that is not empty")?;
    reads(&*ok("opening", dir.open("before", Access::Read))?, 0, b"before")?;
    // Linked into another directory.
    ok("linking", dir.hard_link("before", &*other, "linked"))?;
    reads(&*ok("opening", other.open("linked", Access::Read))?, 0, b"before")
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use std::io;
    use std::path::Path;
    use std::sync::Arc;

    use super::check_fs;
    use crate::fs::{Access, DeviceRoom, Dir, File, Fs, Lock, LockKind, Metadata};
    use crate::sim::SimFs;

    #[test]
    fn the_simulated_file_system_conforms() {
        let fs = SimFs::new();
        let dir = Path::new("/store");
        fs.create_dir_all(dir).unwrap();
        assert_eq!(check_fs(&fs, dir, &|from, to| fs.rename_dir(from, to)), Ok(()));
    }

    /// Breaks one promise.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum BrokenPromise {
        /// Renames by linking, which keeps the old name.
        KeepsNames,
        /// Resolves its path at each use.
        ResolvesAgain,
    }

    #[derive(Debug)]
    struct Faulty(SimFs, BrokenPromise);

    #[derive(Debug)]
    struct FaultyDir(Faulty, Arc<dyn Dir>);

    impl FaultyDir {
        fn dir(&self) -> io::Result<Arc<dyn Dir>> {
            if self.0.1 == BrokenPromise::ResolvesAgain {
                self.0.0.open_dir(self.1.path())
            } else {
                Ok(Arc::clone(&self.1))
            }
        }
    }

    impl Fs for Faulty {
        fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
            Ok(Arc::new(FaultyDir(Self(self.0.clone(), self.1), self.0.open_dir(path)?)))
        }
        fn create_dir_all(&self, path: &Path) -> io::Result<()> {
            self.0.create_dir_all(path)
        }
    }

    impl Dir for FaultyDir {
        fn path(&self) -> &Path {
            self.1.path()
        }
        fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>> {
            self.dir()?.create_new(name)
        }
        fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
            self.dir()?.open(name, access)
        }
        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            if self.0.1 != BrokenPromise::KeepsNames {
                return self.dir()?.rename(from, to);
            }
            let dir = self.dir()?;
            dir.remove_file(to)?;
            dir.hard_link(from, &*dir, to)
        }
        fn remove_file(&self, name: &str) -> io::Result<()> {
            self.dir()?.remove_file(name)
        }
        fn hard_link(&self, name: &str, _target: &dyn Dir, link: &str) -> io::Result<()> {
            let dir = self.dir()?;
            dir.hard_link(name, &*dir, link)
        }
        fn list(&self) -> io::Result<Vec<String>> {
            self.dir()?.list()
        }
        fn metadata(&self, name: &str) -> io::Result<Metadata> {
            self.dir()?.metadata(name)
        }
        fn sync(&self) -> io::Result<()> {
            self.dir()?.sync()
        }
        fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
            self.dir()?.try_lock(kind)
        }
        fn is_locked_by_this_process(&self) -> bool {
            self.dir().is_ok_and(|dir| dir.is_locked_by_this_process())
        }
        fn room(&self) -> io::Result<DeviceRoom> {
            self.dir()?.room()
        }
        fn preallocation_is_promise(&self) -> io::Result<bool> {
            self.dir()?.preallocation_is_promise()
        }
    }

    #[test]
    fn one_that_breaks_a_promise_does_not() {
        let faults = [
            (BrokenPromise::KeepsNames, "a rename replaces the file with the new name"),
            (BrokenPromise::ResolvesAgain, "a handle stays with its directory when the directory's name changes"),
        ];
        for (fault, check) in faults {
            let fs = Faulty(SimFs::new(), fault);
            let dir = Path::new("/store");
            fs.create_dir_all(dir).unwrap();
            let violation = check_fs(&fs, dir, &|from, to| fs.0.rename_dir(from, to)).unwrap_err();
            assert_eq!(violation.check, check, "{violation}");
        }
    }
}
