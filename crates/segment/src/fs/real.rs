//! The operating system's files.

use std::any::Any;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{Access, DeviceRoom, Dir, File, Fs, Lock, LockKind, Metadata, check_name};
use crate::mapping::{ForkGuard, MapPermit, Mapping, WriterUse};
use crate::mutants::planted;

/// The operating system's file system.
///
/// ```
/// use std::sync::Arc;
/// use hightower_segment::{Fs, RealFs};
///
/// let fs: Arc<dyn Fs> = Arc::new(RealFs);
/// assert!(fs.open_dir(&std::env::temp_dir())?.list().is_ok());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

/// An open directory. Its descriptor stays open, so that a sync needs no other one.
#[derive(Debug)]
struct RealDir {
    descriptor: OwnedFd,
    path: PathBuf,
    /// Detects a forked child of the process that opened it, which may change nothing.
    guard: ForkGuard,
}

#[derive(Debug)]
struct RealFile {
    /// Present if the file is open for writing. The first field, so that it ends before the
    /// descriptor: a new file may get the inode of a removed one as soon as that is closed.
    _writer: Option<WriterUse>,
    file: fs::File,
    guard: ForkGuard,
}

/// A separate descriptor of the directory, because a lock belongs to one call of `open`.
#[derive(Debug)]
struct RealLock {
    descriptor: OwnedFd,
    directory: DirectoryId,
    guard: ForkGuard,
}

/// Device and inode.
type DirectoryId = (u64, u64);

/// The directories locked by this process or by its fork parents; for messages only.
static LOCKED: Mutex<Vec<(DirectoryId, ForkGuard)>> = Mutex::new(Vec::new());

/// The lock is held only briefly. But in a child that was forked at such a moment it is never
/// released.
fn locked() -> Option<MutexGuard<'static, Vec<(DirectoryId, ForkGuard)>>> {
    if !ForkGuard::is_in_child() {
        return Some(LOCKED.lock());
    }
    (0..1000).find_map(|_| {
        let guard = LOCKED.try_lock();
        if guard.is_none() {
            std::thread::yield_now();
        }
        guard
    })
}

impl Lock for RealLock {}

impl Drop for RealLock {
    fn drop(&mut self) {
        // A forked child has the same lock. The lock belongs to the parent and stays.
        if self.guard.is_forked() && !planted("child_unlocks") {
            return;
        }
        if let Some(mut locked) = locked()
            && let Some(index) = locked.iter().position(|known| *known == (self.directory, self.guard))
        {
            locked.swap_remove(index);
        }
        if planted("unlocked_by_closing") {
            return;
        }
        // Closing the descriptor is not enough: a child forked meanwhile has a copy of it until it
        // executes another program. This fails only for an invalid descriptor.
        let _unlocked = rustix::fs::flock(&self.descriptor, FlockOperation::Unlock);
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn open_dir(path: &Path) -> io::Result<RealDir> {
    // The parent of a relative path of one component.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let descriptor = retry_on_intr(|| rustix::fs::open(path, DIRECTORY, Mode::empty()))?;
    // Without a working directory the path stays relative: it is for messages only.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(RealDir { descriptor, path, guard: ForkGuard::new()? })
}

impl Fs for RealFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        Ok(Arc::new(open_dir(path)?))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.as_os_str().is_empty() || path.is_dir() {
            return Ok(());
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        self.create_dir_all(parent)?;
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => open_dir(parent)?.sync(),
            // Another process created it in between.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl RealDir {
    fn open_file(&self, name: &str, flags: OFlags) -> io::Result<Arc<dyn File>> {
        check_name(name)?;
        if planted("path_resolved_again")
            && let Ok(again) = open_dir(&self.path)
            && again.id()? != self.id()?
        {
            return again.open_file(name, flags);
        }
        let mode = Mode::RUSR | Mode::WUSR;
        // Opening a pipe of this name would wait for its other end.
        let waits = if planted("pipes_opened") { OFlags::empty() } else { OFlags::NONBLOCK };
        let flags = flags | OFlags::CLOEXEC | waits;
        let opened = retry_on_intr(|| rustix::fs::openat(&self.descriptor, name, flags, mode));
        let file: fs::File = opened.map_err(|error| self.explained(error))?.into();
        let found = file.metadata()?;
        if found.is_dir() {
            return Err(Errno::ISDIR.into());
        }
        if !found.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
        }
        let writer = flags.contains(OFlags::RDWR).then(|| WriterUse::begin(&found)).transpose()?;
        Ok(Arc::new(RealFile { file, _writer: writer, guard: self.guard }))
    }

    fn id(&self) -> io::Result<DirectoryId> {
        let found = rustix::fs::fstat(&self.descriptor)?;
        #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "the types differ between platforms")]
        Ok((found.st_dev as u64, found.st_ino as u64))
    }

    /// Distinguishes a missing file from a removed directory.
    fn explained(&self, error: Errno) -> io::Error {
        let is_gone =
            error == Errno::NOENT && rustix::fs::fstat(&self.descriptor).is_ok_and(|found| found.st_nlink == 0);
        if is_gone {
            return io::Error::new(io::ErrorKind::NotFound, "its directory was removed while it was open");
        }
        error.into()
    }
}

impl Dir for RealDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.guard.check()?;
        self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.open_file(name, if access == Access::Write { OFlags::RDWR } else { OFlags::RDONLY })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.guard.check()?;
        check_name(from)?;
        check_name(to)?;
        let renamed = rustix::fs::renameat(&self.descriptor, from, &self.descriptor, to);
        renamed.map_err(|error| self.explained(error))
    }

    fn remove_file(&self, name: &str) -> io::Result<()> {
        self.guard.check()?;
        check_name(name)?;
        let removed = rustix::fs::unlinkat(&self.descriptor, name, AtFlags::empty());
        removed.map_err(|error| self.explained(error))
    }

    fn hard_link(&self, name: &str, target: &dyn Dir, link: &str) -> io::Result<()> {
        self.guard.check()?;
        check_name(name)?;
        check_name(link)?;
        let target: &dyn Any = target;
        let target = target.downcast_ref::<Self>().ok_or(io::ErrorKind::CrossesDevices)?;
        let linked = rustix::fs::linkat(&self.descriptor, name, &target.descriptor, link, AtFlags::empty());
        linked.map_err(|error| self.explained(error))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.descriptor)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }

    fn metadata(&self, name: &str) -> io::Result<Metadata> {
        check_name(name)?;
        let found = rustix::fs::statat(&self.descriptor, name, AtFlags::empty());
        let found = found.map_err(|error| self.explained(error))?;
        let len_bytes = u64::try_from(found.st_size).map_err(io::Error::other)?;
        #[allow(clippy::useless_conversion, reason = "the type differs between platforms")]
        Ok(Metadata { len_bytes, links: u64::from(found.st_nlink) })
    }

    fn sync(&self) -> io::Result<()> {
        self.guard.check()?;
        if planted("directory_opened_to_sync") {
            let again = retry_on_intr(|| rustix::fs::openat(&self.descriptor, ".", DIRECTORY, Mode::empty()))?;
            return Ok(rustix::fs::fsync(again)?);
        }
        Ok(rustix::fs::fsync(&self.descriptor)?)
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
        self.guard.check()?;
        let directory = self.id()?;
        let own = retry_on_intr(|| rustix::fs::openat(&self.descriptor, ".", DIRECTORY, Mode::empty()))?;
        let operation = match kind {
            LockKind::Shared => FlockOperation::NonBlockingLockShared,
            LockKind::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        match retry_on_intr(|| rustix::fs::flock(&own, operation)) {
            Ok(()) => {
                locked().into_iter().for_each(|mut locked| locked.push((directory, self.guard)));
                Ok(Some(Box::new(RealLock { descriptor: own, directory, guard: self.guard })))
            }
            Err(Errno::WOULDBLOCK) => Ok(None),
            // NFS makes it a lock of a range of bytes, which needs a directory that is open for
            // writing.
            Err(Errno::BADF | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "the file system cannot lock directories"))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn is_locked_by_this_process(&self) -> bool {
        let Ok(directory) = self.id() else { return false };
        locked().is_some_and(|locked| locked.iter().any(|(locked, guard)| *locked == directory && !guard.is_forked()))
    }

    fn room(&self) -> io::Result<DeviceRoom> {
        let found = retry_on_intr(|| rustix::fs::fstatvfs(&self.descriptor))?;
        // A file system without a size, such as a tmpfs without a limit, reports 0 blocks.
        if found.f_blocks == 0 {
            return Ok(DeviceRoom::UNKNOWN);
        }
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(DeviceRoom {
            total_bytes: bytes(found.f_blocks),
            available_bytes: bytes(found.f_bavail),
            for_name_bytes: bytes(blocks_for_name(&self.descriptor)?),
            available_files: if found.f_files == 0 { u64::MAX } else { found.f_favail },
        })
    }

    fn preallocation_is_promise(&self) -> io::Result<bool> {
        preallocation_is_promise(&self.descriptor)
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.guard.check()?;
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.guard.check()?;
        self.file.sync_data()
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata().map(|metadata| of(&metadata))
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.guard.check()?;
        self.file.set_len(len_bytes)
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        self.guard.check()?;
        allocate(&self.file, len_bytes)
    }

    fn release_behind(&self, len_bytes: u64) -> io::Result<()> {
        self.guard.check()?;
        punch(&self.file, len_bytes)
    }

    fn map(&self, len_bytes: usize, access: Access, permit: MapPermit) -> io::Result<Mapping> {
        Mapping::of_file(&self.file, len_bytes, access, permit)
    }
}

fn of(metadata: &fs::Metadata) -> Metadata {
    Metadata { len_bytes: metadata.len(), links: metadata.nlink() }
}

/// The ext family, xfs and tmpfs keep preallocated blocks for their file. A copy-on-write file
/// system (btrfs, zfs) needs new blocks for every write. Other file systems are unknown.
#[cfg(target_os = "linux")]
fn preallocation_is_promise(dir: &OwnedFd) -> io::Result<bool> {
    Ok(keeps_blocks(&rustix::fs::fstatfs(dir)?))
}

#[cfg(target_os = "linux")]
fn keeps_blocks(system: &rustix::fs::StatFs) -> bool {
    const EXT_MAGIC: i64 = 0xef53;
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    matches!(kind_of(system), EXT_MAGIC | XFS_MAGIC | TMPFS_MAGIC)
}

#[cfg(target_os = "linux")]
const XFS_MAGIC: i64 = 0x5846_5342;

#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast, reason = "the type differs between platforms")]
fn kind_of(system: &rustix::fs::StatFs) -> i64 {
    system.f_type as i64
}

/// Before it creates a file, xfs reserves blocks for the worst case: a chunk of inodes and a split
/// of each tree at each level. Linux 6.18 asks for 47 blocks, and for about 85 with parent
/// pointers.
#[cfg(target_os = "linux")]
fn blocks_for_name(dir: &OwnedFd) -> io::Result<u64> {
    const OF_XFS: u64 = 96;
    let found = retry_on_intr(|| rustix::fs::fstatfs(dir))?;
    Ok(if kind_of(&found) == XFS_MAGIC { OF_XFS } else { 0 })
}

#[cfg(not(target_os = "linux"))]
fn blocks_for_name(_dir: &OwnedFd) -> io::Result<u64> {
    Ok(0)
}

#[cfg(not(target_os = "linux"))]
fn preallocation_is_promise(_dir: &OwnedFd) -> io::Result<bool> {
    Ok(false)
}

#[cfg(target_os = "linux")]
fn allocate(file: &fs::File, len_bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let mut from = 0;
    loop {
        match fallocate(file, FallocateFlags::empty(), from, len_bytes - from) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            // xfs asks for room for the whole range, even if the file has all or most of it.
            Err(full @ (Errno::NOSPC | Errno::DQUOT)) if from == 0 => match allocated_len(file)? {
                0 => return Err(full.into()),
                len if len >= len_bytes => return Ok(()),
                len => from = len,
            },
            // ext2 and ext3 cannot be distinguished from ext4, and lack the call; written blocks
            // are kept there too.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if keeps_blocks(&rustix::fs::fstatfs(file)?) => {
                return fill(file, len_bytes);
            }
            // Such a file system makes no promise, and none is needed: appends there are positioned
            // writes.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return grow(file, len_bytes),
            Err(error) => return Err(error.into()),
        }
    }
}

/// The file's length if it has blocks for all of it, and otherwise 0.
#[cfg(target_os = "linux")]
fn allocated_len(file: &fs::File) -> io::Result<u64> {
    let found = file.metadata()?;
    let has_all = found.blocks().saturating_mul(512) >= found.len();
    Ok(if has_all { found.len() } else { 0 })
}

/// Extends the file to this length by writing zeros.
#[cfg(target_os = "linux")]
fn fill(file: &fs::File, len_bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = file.metadata()?.len();
    while at < len_bytes {
        let step = usize::try_from(len_bytes - at).unwrap_or(usize::MAX).min(ZEROS.len());
        match file.write_at(&ZEROS[..step], at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => at += written as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Punches a hole of all whole blocks and pages behind `len_bytes`. A partial page would need room
/// again when its first part is written through a map, which causes a signal on a full device.
#[cfg(target_os = "linux")]
fn punch(file: &fs::File, len_bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let metadata = file.metadata()?;
    let start = len_bytes.next_multiple_of(metadata.blksize().max(rustix::param::page_size() as u64));
    let Some(len) = metadata.len().checked_sub(start).filter(|len| *len > 0) else { return Ok(()) };
    loop {
        match fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, start, len) {
            Err(Errno::INTR) => {}
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn punch(_file: &fs::File, _len_bytes: u64) -> io::Result<()> {
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &fs::File, len_bytes: u64) -> io::Result<()> {
    grow(file, len_bytes)
}

fn grow(file: &fs::File, len_bytes: u64) -> io::Result<()> {
    if file.metadata()?.len() < len_bytes {
        file.set_len(len_bytes)?;
    }
    Ok(())
}
