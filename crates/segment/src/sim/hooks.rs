//! A file system that calls a hook before each write, sync and change of names, for tests that
//! delay or fail them, or look in between.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::fs::{Access, DeviceRoom, Dir, File, Fs, Lock, LockKind, Metadata};
use crate::mapping::{MapPermit, Mapping};

/// Runs before the writes, syncs and changes of names of a [`HookedFs`]. Each method may wait, or
/// fail the call with its error.
pub trait FsHook: Debug + Send + Sync {
    /// Runs before bytes are written to a file by a call; not before a copy into a map. `name` is
    /// the name under which the file was created or opened.
    ///
    /// # Errors
    ///
    /// Those of the failed write.
    fn before_write(&self, name: &str) -> io::Result<()> {
        let _any = name;
        Ok(())
    }

    /// The number of bytes that a write of `len_bytes` writes. The rest needs another write.
    fn written_at_once(&self, len_bytes: usize) -> usize {
        len_bytes
    }

    /// Runs before a file is created, renamed or removed, and before its length changes.
    ///
    /// # Errors
    ///
    /// Those of the failed call.
    fn before_change(&self, name: &str) -> io::Result<()> {
        let _any = name;
        Ok(())
    }

    /// Runs before a file is synced, and before its writeback is started.
    ///
    /// # Errors
    ///
    /// Those of the failed sync.
    fn before_file(&self) -> io::Result<()> {
        Ok(())
    }

    /// Runs before the directory at `path` is synced.
    ///
    /// # Errors
    ///
    /// Those of the failed sync.
    fn before_dir(&self, path: &Path) -> io::Result<()> {
        let _any = path;
        Ok(())
    }
}

/// A file system whose writes, syncs and changes of names call a [`FsHook`] first. All other calls
/// go to the inner one.
///
/// ```
/// use std::io;
/// use std::path::Path;
/// use std::sync::Arc;
/// use hightower_segment::Fs;
/// use hightower_segment::sim::{HookedFs, SimFs, FsHook};
///
/// #[derive(Debug)]
/// struct NoDirs;
///
/// impl FsHook for NoDirs {
///     fn before_dir(&self, _path: &Path) -> io::Result<()> {
///         Err(io::Error::other("directories cannot be synced"))
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// let fs = HookedFs::new(Arc::new(SimFs::new()), Arc::new(NoDirs));
/// fs.create_dir_all(Path::new("/db"))?;
/// let dir = fs.open_dir(Path::new("/db"))?;
/// dir.create_new("file")?.sync_data()?;
/// assert!(dir.sync().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct HookedFs {
    inner: Arc<dyn Fs>,
    hook: Arc<dyn FsHook>,
}

#[derive(Debug)]
struct HookedDir {
    inner: Arc<dyn Dir>,
    hook: Arc<dyn FsHook>,
}

#[derive(Debug)]
struct HookedFile {
    name: String,
    inner: Arc<dyn File>,
    hook: Arc<dyn FsHook>,
}

impl HookedFs {
    /// A file system over `inner` whose writes and syncs call `hook`.
    #[must_use]
    pub fn new(inner: Arc<dyn Fs>, hook: Arc<dyn FsHook>) -> Self {
        Self { inner, hook }
    }
}

impl HookedDir {
    fn hooked(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(HookedFile { name: name.to_owned(), inner: file, hook: Arc::clone(&self.hook) })
    }
}

impl Fs for HookedFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(HookedDir { inner: self.inner.open_dir(path)?, hook: Arc::clone(&self.hook) }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
}

impl Dir for HookedDir {
    fn path(&self) -> &Path {
        self.inner.path()
    }

    fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.hook.before_change(name)?;
        self.inner.create_new(name).map(|file| self.hooked(name, file))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.inner.open(name, access).map(|file| self.hooked(name, file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.hook.before_change(from)?;
        self.inner.rename(from, to)
    }

    fn remove_file(&self, name: &str) -> io::Result<()> {
        self.hook.before_change(name)?;
        self.inner.remove_file(name)
    }

    fn hard_link(&self, name: &str, target: &dyn Dir, link: &str) -> io::Result<()> {
        self.inner.hard_link(name, target, link)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.inner.list()
    }

    fn metadata(&self, name: &str) -> io::Result<Metadata> {
        self.inner.metadata(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.hook.before_dir(self.inner.path())?;
        self.inner.sync()
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
        self.inner.try_lock(kind)
    }

    fn is_locked_by_this_process(&self) -> bool {
        self.inner.is_locked_by_this_process()
    }

    fn room(&self) -> io::Result<DeviceRoom> {
        self.inner.room()
    }

    fn preallocation_is_promise(&self) -> io::Result<bool> {
        self.inner.preallocation_is_promise()
    }
}

impl File for HookedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.hook.before_write(&self.name)?;
        let bytes = bytes.get(..self.hook.written_at_once(bytes.len())).unwrap_or(bytes);
        self.inner.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.hook.before_file()?;
        self.inner.sync_data()
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.inner.metadata()
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.hook.before_change(&self.name)?;
        self.inner.set_len(len_bytes)
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        self.hook.before_change(&self.name)?;
        self.inner.allocate(len_bytes)
    }

    fn release_behind(&self, len_bytes: u64) -> io::Result<()> {
        self.inner.release_behind(len_bytes)
    }

    fn map(&self, len_bytes: usize, access: Access, permit: MapPermit) -> io::Result<Mapping> {
        self.inner.map(len_bytes, access, permit)
    }
}
