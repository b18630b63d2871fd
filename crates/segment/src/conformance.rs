//! What a new [`Fs`] has to do, as checks that its author runs in a test: [`check_fs`].
//!
//! They cover what a store relies on while the process lives. Whether synced bytes survive power loss cannot be seen from inside; for that the
//! tests of this crate run on a simulated file system.
//!
//! ```
//! use hightower_segment::{RealFs, conformance::check_fs};
//!
//! let dir = tempfile::tempdir().unwrap();
//! assert_eq!(check_fs(&RealFs, dir.path()), Ok(()));
//! ```

use std::io;
use std::path::Path;

use crate::fs::{Access, File, Fs, LockKind, read_full_at, write_all_at};

/// A promise of [`Fs`] that was not kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{check}: {found}")]
pub struct Violation {
    /// What was checked.
    pub check: &'static str,
    /// What was found instead.
    pub found: String,
}

type Checked = Result<(), String>;
type Check = fn(&dyn Fs, &Path) -> Checked;

const CHECKS: [(&str, Check); 9] = [
    ("a name is created once", created_once),
    ("bytes are read where they were written, and none behind the end", bytes_stay),
    ("a file is cut and made longer by zeros", lengths),
    ("allocating makes a file longer and changes no byte", allocating),
    ("a rename replaces what had the name", renaming),
    ("a removed file stays whole for who has it open", removing),
    ("a hard link is a second name", linking),
    ("maps and positioned access see the same bytes", mapping),
    ("an exclusive lock keeps others out until it is dropped", locking),
];

/// Checks a file system in an empty directory of it; the first promise that is not kept is the error. Files are left behind.
///
/// # Errors
///
/// [`Violation`].
pub fn check_fs(fs: &dyn Fs, dir: &Path) -> Result<(), Violation> {
    CHECKS.iter().try_for_each(|(check, run)| run(fs, dir).map_err(|found| Violation { check, found }))
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
    // One byte more than is wanted, so that a file that goes on is noticed.
    let mut found = vec![0xee; wanted.len() + 1];
    let len = ok("reading", read_full_at(file, &mut found, offset))?;
    ensure(
        found.get(..len) == Some(wanted),
        &format!("{wanted:?} was expected at {offset}, there are {len} bytes: {found:?}"),
    )
}

fn created_once(fs: &dyn Fs, dir: &Path) -> Checked {
    let path = dir.join("created");
    refused(fs.open(&path, Access::Read), io::ErrorKind::NotFound, "opening a file that is not there")?;
    ok("creating", fs.create_new(&path))?;
    refused(fs.create_new(&path), io::ErrorKind::AlreadyExists, "creating it again")?;
    ok("syncing the directory", fs.sync_dir(dir))?;
    let names = ok("listing", fs.list(dir))?;
    ensure(names.iter().any(|name| name == "created"), &format!("the new name is not listed: {names:?}"))
}

fn bytes_stay(fs: &dyn Fs, dir: &Path) -> Checked {
    let path = dir.join("bytes");
    let file = ok("creating", fs.create_new(&path))?;
    write(&*file, b"hello", 0)?;
    write(&*file, b"p!", 3)?;
    // Hints, whatever they are of.
    for (offset, len_bytes) in [(0, 5), (3, 100), (u64::MAX, 1), (0, u64::MAX)] {
        file.start_writing(offset, len_bytes);
    }
    reads(&*file, 0, b"help!")?;
    ok("syncing", file.sync_data())?;
    reads(&*file, 0, b"help!")?;
    reads(&*file, 5, b"")?;
    reads(&*ok("opening", fs.open(&path, Access::Read))?, 1, b"elp!")?;
    ensure(ok("looking up", fs.metadata(&path))?.len_bytes == 5, "the length is not 5")
}

fn lengths(fs: &dyn Fs, dir: &Path) -> Checked {
    let file = ok("creating", fs.create_new(&dir.join("lengths")))?;
    write(&*file, b"abcdef", 0)?;
    ok("cutting", file.set_len(2))?;
    ok("growing", file.set_len(4))?;
    reads(&*file, 0, b"ab\0\0")
}

fn allocating(fs: &dyn Fs, dir: &Path) -> Checked {
    let file = ok("creating", fs.create_new(&dir.join("allocated")))?;
    write(&*file, b"abc", 0)?;
    ok("allocating", file.allocate(8192))?;
    let len_bytes = ok("looking up", file.metadata())?.len_bytes;
    ensure(len_bytes == 8192, &format!("8192 bytes were allocated, and the file has {len_bytes}"))?;
    ok("allocating less", file.allocate(4096))?;
    ensure(ok("looking up", file.metadata())?.len_bytes == 8192, "allocating less made the file shorter")?;
    ok("cutting", file.set_len(5))?;
    reads(&*file, 0, b"abc\0\0")
}

fn renaming(fs: &dyn Fs, dir: &Path) -> Checked {
    let (from, to) = (dir.join("new"), dir.join("old"));
    write(&*ok("creating", fs.create_new(&to))?, b"old", 0)?;
    let was = ok("opening", fs.open(&to, Access::Read))?;
    write(&*ok("creating", fs.create_new(&from))?, b"new", 0)?;
    ok("renaming", fs.rename(&from, &to))?;
    reads(&*ok("opening", fs.open(&to, Access::Read))?, 0, b"new")?;
    reads(&*was, 0, b"old")?;
    refused(fs.open(&from, Access::Read), io::ErrorKind::NotFound, "opening the former name")
}

fn removing(fs: &dyn Fs, dir: &Path) -> Checked {
    let path = dir.join("removed");
    let file = ok("creating", fs.create_new(&path))?;
    write(&*file, b"still", 0)?;
    ok("removing", fs.remove_file(&path))?;
    reads(&*file, 0, b"still")?;
    refused(fs.remove_file(&path), io::ErrorKind::NotFound, "removing it again")
}

fn linking(fs: &dyn Fs, dir: &Path) -> Checked {
    let (path, link) = (dir.join("linked"), dir.join("link"));
    write(&*ok("creating", fs.create_new(&path))?, b"one", 0)?;
    ok("linking", fs.hard_link(&path, &link))?;
    ensure(ok("looking up", fs.metadata(&path))?.links == 2, "a file of two names does not count two")?;
    refused(fs.hard_link(&path, &link), io::ErrorKind::AlreadyExists, "linking to a name that is taken")?;
    ok("removing", fs.remove_file(&path))?;
    reads(&*ok("opening", fs.open(&link, Access::Read))?, 0, b"one")
}

fn mapping(fs: &dyn Fs, dir: &Path) -> Checked {
    let file = ok("creating", fs.create_new(&dir.join("mapped")))?;
    ok("allocating", file.allocate(4096))?;
    let map = ok("mapping for writing", file.map(4096, Access::Write))?;
    let Some(mut writer) = map.writer() else { return Err("a new mapping has no writer".to_owned()) };
    map.append(&mut writer, &[b"map", b"ped"]).map_err(|error| format!("appending through the map failed: {error}"))?;
    ensure(map.slice(0..6) == Some(b"mapped"), "what was appended is not published")?;
    ensure(map.slice(0..7).is_none(), "more is published than was appended")?;
    ok("syncing the map", map.sync(0..6))?;
    let mut found = [0; 6];
    ok("reading", read_full_at(&*file, &mut found, 0))?;
    ensure(&found == b"mapped", &format!("the file has {found:?} where the map has \"mapped\""))?;
    write(&*file, b" and written", 6)?;
    map.publish(&mut writer, 18).map_err(|error| format!("publishing failed: {error}"))?;
    ensure(map.slice(6..18) == Some(b" and written"), "the map does not show what was written by position")
}

fn locking(fs: &dyn Fs, dir: &Path) -> Checked {
    let path = dir.join("lock");
    refused(fs.try_lock(&path, LockKind::Shared), io::ErrorKind::NotFound, "a shared lock on no file")?;
    let held = ok("locking", fs.try_lock(&path, LockKind::Exclusive))?;
    ensure(held.is_some(), "nobody had the lock, and it was not given")?;
    for kind in [LockKind::Exclusive, LockKind::Shared] {
        let second = ok("trying a second lock", fs.try_lock(&path, kind))?;
        ensure(second.is_none(), &format!("{kind:?} was given beside an exclusive lock"))?;
    }
    drop(held);
    let shared = [LockKind::Shared, LockKind::Shared].map(|kind| fs.try_lock(&path, kind));
    ensure(shared.iter().all(|lock| matches!(lock, Ok(Some(_)))), "two readers cannot share the lock")
}

#[cfg(all(test, feature = "sim"))]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::check_fs;
    use crate::fs::{Access, File, Fs, Lock, LockKind, Metadata};
    use crate::sim::SimFs;

    #[test]
    fn the_simulated_file_system_conforms() {
        let fs = SimFs::new();
        let dir = Path::new("/store");
        fs.create_dir_all(dir).unwrap();
        assert_eq!(check_fs(&fs, dir), Ok(()));
    }

    /// Renames by linking, and so keeps the old name.
    #[derive(Debug)]
    struct KeepsNames(SimFs);

    impl Fs for KeepsNames {
        fn create_new(&self, path: &Path) -> std::io::Result<Arc<dyn File>> {
            self.0.create_new(path)
        }
        fn open(&self, path: &Path, access: Access) -> std::io::Result<Arc<dyn File>> {
            self.0.open(path, access)
        }
        fn rename(&self, from: &Path, to: &Path) -> std::io::Result<()> {
            self.0.remove_file(to)?;
            self.0.hard_link(from, to)
        }
        fn remove_file(&self, path: &Path) -> std::io::Result<()> {
            self.0.remove_file(path)
        }
        fn hard_link(&self, original: &Path, link: &Path) -> std::io::Result<()> {
            self.0.hard_link(original, link)
        }
        fn list(&self, dir: &Path) -> std::io::Result<Vec<String>> {
            self.0.list(dir)
        }
        fn metadata(&self, path: &Path) -> std::io::Result<Metadata> {
            self.0.metadata(path)
        }
        fn create_dir_all(&self, dir: &Path) -> std::io::Result<()> {
            self.0.create_dir_all(dir)
        }
        fn sync_dir(&self, dir: &Path) -> std::io::Result<()> {
            self.0.sync_dir(dir)
        }
        fn try_lock(&self, path: &Path, kind: LockKind) -> std::io::Result<Option<Box<dyn Lock>>> {
            self.0.try_lock(path, kind)
        }
        fn preallocation_is_promise(&self, dir: &Path) -> std::io::Result<bool> {
            self.0.preallocation_is_promise(dir)
        }
    }

    #[test]
    fn one_that_keeps_old_names_does_not() {
        let fs = KeepsNames(SimFs::new());
        let dir = Path::new("/store");
        fs.create_dir_all(dir).unwrap();
        let violation = check_fs(&fs, dir).unwrap_err();
        assert_eq!(violation.check, "a rename replaces what had the name");
    }
}
