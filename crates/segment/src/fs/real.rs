//! The operating system's files.

use std::fs::{self, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

use super::{Access, File, Fs, Lock, LockKind, Metadata};
use crate::mapping::Mapping;

/// The operating system's file system.
///
/// ```
/// use std::sync::Arc;
/// use hightower_segment::{Fs, RealFs};
///
/// let fs: Arc<dyn Fs> = Arc::new(RealFs);
/// assert!(fs.list(&std::env::temp_dir()).is_ok());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

#[derive(Debug)]
struct RealFile(fs::File);

/// The lock goes with the open file.
#[derive(Debug)]
struct RealLock(#[allow(dead_code, reason = "held for its drop")] fs::File);

impl Lock for RealLock {}

impl Fs for RealFs {
    fn create_new(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Arc<dyn File>> {
        let file = OpenOptions::new().read(true).write(access == Access::Write).open(path)?;
        Ok(Arc::new(RealFile(file)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn hard_link(&self, original: &Path, link: &Path) -> io::Result<()> {
        fs::hard_link(original, link)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn metadata(&self, path: &Path) -> io::Result<Metadata> {
        fs::metadata(path).map(|metadata| of(&metadata))
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        if dir.as_os_str().is_empty() || dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(Path::new("/"));
        self.create_dir_all(parent)?;
        match fs::create_dir(dir) {
            Ok(()) => self.sync_dir(parent),
            // Somebody else made it in between.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        fs::File::open(dir)?.sync_all()
    }

    fn try_lock(&self, path: &Path, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
        let file = match kind {
            LockKind::Shared => fs::File::open(path)?,
            LockKind::Exclusive => OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?,
        };
        let locked = match kind {
            LockKind::Shared => file.try_lock_shared(),
            LockKind::Exclusive => file.try_lock(),
        };
        match locked {
            Ok(()) => Ok(Some(Box::new(RealLock(file)))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn preallocation_is_promise(&self, dir: &Path) -> io::Result<bool> {
        preallocation_is_promise(dir)
    }
}

impl File for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn start_writing(&self, offset: u64, len_bytes: u64) {
        crate::mapping::start_writing(&self.0, offset, len_bytes);
    }

    fn metadata(&self) -> io::Result<Metadata> {
        self.0.metadata().map(|metadata| of(&metadata))
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.0.set_len(len_bytes)
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        allocate(&self.0, len_bytes)
    }

    fn release_behind(&self, len_bytes: u64) -> io::Result<()> {
        punch(&self.0, len_bytes)
    }

    fn map(&self, len_bytes: usize, access: Access) -> io::Result<Mapping> {
        Mapping::of_file(&self.0, len_bytes, access)
    }
}

fn of(metadata: &fs::Metadata) -> Metadata {
    Metadata { len_bytes: metadata.len(), links: metadata.nlink() }
}

/// The ext family, xfs and tmpfs keep blocks that were allocated for the file that they were allocated for. A copy-on-write file system
/// (btrfs, zfs) needs new ones for every write, and of others nothing is known.
#[cfg(target_os = "linux")]
fn preallocation_is_promise(dir: &Path) -> io::Result<bool> {
    Ok(keeps_blocks(&rustix::fs::statfs(dir)?))
}

#[cfg(target_os = "linux")]
fn keeps_blocks(system: &rustix::fs::StatFs) -> bool {
    const EXT_MAGIC: i64 = 0xef53;
    const XFS_MAGIC: i64 = 0x5846_5342;
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    #[allow(clippy::unnecessary_cast, reason = "the type differs between platforms")]
    let kind = system.f_type as i64;
    matches!(kind, EXT_MAGIC | XFS_MAGIC | TMPFS_MAGIC)
}

#[cfg(not(target_os = "linux"))]
fn preallocation_is_promise(_dir: &Path) -> io::Result<bool> {
    Ok(false)
}

#[cfg(target_os = "linux")]
fn allocate(file: &fs::File, len_bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    loop {
        match fallocate(file, FallocateFlags::empty(), 0, len_bytes) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            // ext2 and ext3 cannot be told from ext4, and lack the call; a block that was written is kept all the same.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) if keeps_blocks(&rustix::fs::fstatfs(file)?) => {
                return fill(file, len_bytes);
            }
            // No promise is made on such a file system, and none is relied on: appends there are positioned writes.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => return grow(file, len_bytes),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes the file as long as that by writing zeros.
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

/// Makes a hole of all whole blocks and pages behind `len_bytes`. A page that is partly a hole would need room again when its first part is written
/// through a map, and a full device answers that with a signal.
#[cfg(target_os = "linux")]
fn punch(file: &fs::File, len_bytes: u64) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
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
