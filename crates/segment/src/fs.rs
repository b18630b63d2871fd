//! The file system as this crate sees it: a seam with a real side ([`RealFs`]) and a simulated one
//! (`sim::SimFs`).
//!
//! The traits have only what a log needs: append-only files of fixed size, atomic replacement,
//! directory syncs and one lock. All file operations of a store go through them. A store resolves
//! the path of its directory once: from then on it names its files relative to the open directory.

mod real;

use std::any::Any;
use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use crate::access::Access;
use crate::error::SegmentError;
use crate::mapping::{MapPermit, Mapping};
pub use real::RealFs;

/// How a lock is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockKind {
    /// With other readers.
    Shared,
    /// With no other holder.
    Exclusive,
}

/// The length and the link count of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Its length in bytes.
    pub len_bytes: u64,
    /// The number of its names: more than one means that another program, such as a backup, keeps a
    /// hard link.
    pub links: u64,
}

/// The room on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRoom {
    /// The total room, in bytes; `u64::MAX` if unknown.
    pub total_bytes: u64,
    /// The room that this process may still use, in bytes; `u64::MAX` if unknown.
    pub available_bytes: u64,
    /// The bytes that must be available for the creation of a file, although it takes fewer: about
    /// 90 blocks on xfs, 0 elsewhere.
    pub for_name_bytes: u64,
    /// The number of files that can still be created; `u64::MAX` if unknown or without a limit.
    pub available_files: u64,
}

impl DeviceRoom {
    /// Of a device that is not known, or has no limit.
    pub const UNKNOWN: Self =
        Self { total_bytes: u64::MAX, available_bytes: u64::MAX, for_name_bytes: 0, available_files: u64::MAX };
}

/// A held lock; dropping it releases it.
pub trait Lock: Debug + Send + Sync {}

/// A file system. Used as `Arc<dyn Fs>`. Operations inside a directory are methods of [`Dir`].
///
/// All errors are the system's own. Lack of room must come back as [`io::ErrorKind::StorageFull`],
/// [`io::ErrorKind::QuotaExceeded`] or [`io::ErrorKind::FileTooLarge`].
pub trait Fs: Debug + Send + Sync {
    /// Opens a directory. The handle stays with this directory, whatever happens to its name
    /// afterwards.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it does not exist, [`io::ErrorKind::NotADirectory`] if
    /// something else has its name.
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>>;

    /// Creates a directory and its missing ancestors, accessible to their owner alone, and syncs
    /// every directory that got a new entry. Does nothing if it exists.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
}

/// An open directory: its files, by name. Used as `Arc<dyn Dir>`.
///
/// All methods act on the opened directory, even if it was renamed since, or another one has its
/// name now. After its removal they fail with [`io::ErrorKind::NotFound`]. Only
/// [`list`](Self::list), [`try_lock`](Self::try_lock) and the methods that open a file need another
/// file descriptor.
///
/// A name is one path component: a name that is empty, `.` or `..`, or has a `/`, is refused with
/// [`io::ErrorKind::InvalidInput`].
pub trait Dir: Any + Debug + Send + Sync {
    /// The absolute path of the directory when it was opened, for messages.
    fn path(&self) -> &Path;

    /// Creates a file for reading and writing, accessible to its owner alone.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if the name is taken.
    fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens an existing regular file. It never blocks, because it refuses anything but a regular
    /// file, such as a named pipe.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it does not exist; [`io::ErrorKind::IsADirectory`] or
    /// [`io::ErrorKind::InvalidInput`] if it is not a regular file; for writing,
    /// [`io::ErrorKind::ResourceBusy`] while a table is mapped from the operating system's file,
    /// see [`map_table`](crate::map_table).
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;

    /// Renames a file, atomically replacing the file with the new name.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::IsADirectory`] if a directory has the new name; those of the system.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file's name. Open files and maps of it stay whole.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it does not exist.
    fn remove_file(&self, name: &str) -> io::Result<()>;

    /// Gives a file a second name in `target`, which may be this directory or another one.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if the name is taken; [`io::ErrorKind::CrossesDevices`] if
    /// the directories are not of one file system; those of the system.
    fn hard_link(&self, name: &str, target: &dyn Dir, link: &str) -> io::Result<()>;

    /// The names in the directory, in no order. In a name that is not UTF-8, U+FFFD replaces each
    /// invalid part: no file of a store has such a name, but it shows that the directory is not
    /// empty.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Length and number of names of a file.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it does not exist.
    fn metadata(&self, name: &str) -> io::Result<Metadata>;

    /// Makes the names in the directory durable: creations, renames, removals.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn sync(&self) -> io::Result<()>;

    /// Takes a lock on the directory itself, without waiting; `None` if another holder prevents it.
    /// There is no lock file, so removing or replacing a file of the directory cannot bypass it.
    /// The lock ends with the process at the latest.
    ///
    /// # Errors
    ///
    /// Those of the system, such as [`io::ErrorKind::Unsupported`] where the file system cannot
    /// lock directories.
    fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>>;

    /// Whether this process holds the conflicting lock, as far as that is known; for messages.
    fn is_locked_by_this_process(&self) -> bool;

    /// The room on the directory's device at this moment: other programs use it too.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn room(&self) -> io::Result<DeviceRoom>;

    /// Whether a write into an allocated file never fails for lack of space, so that memory stores
    /// through a map are safe.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn preallocation_is_promise(&self) -> io::Result<bool>;
}

/// An open file. Used as `Arc<dyn File>`.
pub trait File: Debug + Send + Sync {
    /// Reads at an offset. It may return fewer bytes than the buffer holds, and none at the end of
    /// the file.
    ///
    /// # Errors
    ///
    /// Those of the system, [`io::ErrorKind::Interrupted`] among them.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at an offset and returns the number of bytes written, which may be less than `bytes`
    /// has.
    ///
    /// # Errors
    ///
    /// Those of the system, [`io::ErrorKind::Interrupted`] among them.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes the file's bytes and length durable; for its name, see [`Dir::sync`].
    ///
    /// # Errors
    ///
    /// Those of the system. After an error, writes since the last success may be durable or lost.
    fn sync_data(&self) -> io::Result<()>;

    /// Length and number of names.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Truncates the file, or extends it by zeros that take no room.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Extends the file to at least `len_bytes`, and allocates room on the device for all of it.
    ///
    /// # Errors
    ///
    /// Those of the system, such as a full device. The file may then be partly extended.
    fn allocate(&self, len_bytes: u64) -> io::Result<()>;

    /// Frees the room on the device behind `len_bytes`, without changing the file's length: the
    /// freed part reads as zeros. If the file system cannot do that, nothing happens, which only
    /// costs room.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn release_behind(&self, _len_bytes: u64) -> io::Result<()> {
        Ok(())
    }

    /// Maps the first `len_bytes` of the file, which must be that long. No byte is published yet.
    /// The permit promises the other conditions that must hold while the mapping lives.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn map(&self, len_bytes: usize, access: Access, permit: MapPermit) -> io::Result<Mapping>;
}

/// Writes all of `bytes`, continuing after short writes and interruptions.
///
/// # Errors
///
/// The first error other than an interruption, with the number of bytes written before it.
///
/// ```
/// use hightower_segment::{Fs, RealFs, write_all_at};
///
/// # let scratch = tempfile::tempdir()?;
/// let file = RealFs.open_dir(scratch.path())?.create_new("file")?;
/// write_all_at(file.as_ref(), b"hello", 0).map_err(|(_, error)| error)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn write_all_at(file: &dyn File, mut bytes: &[u8], mut offset: u64) -> Result<(), (u64, io::Error)> {
    let start = offset;
    while !bytes.is_empty() {
        match file.write_at(bytes, offset) {
            Ok(0) => return Err((offset - start, io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                bytes = bytes.get(written..).unwrap_or_default();
                offset += written as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((offset - start, error)),
        }
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends; returns the number of bytes read.
///
/// # Errors
///
/// Those of the system, but for interruptions.
///
/// ```
/// use hightower_segment::{Fs, RealFs, read_full_at};
///
/// # let scratch = tempfile::tempdir()?;
/// let file = RealFs.open_dir(scratch.path())?.create_new("file")?;
/// file.write_at(b"hello", 0)?;
/// let mut buffer = [0; 8];
/// assert_eq!(read_full_at(file.as_ref(), &mut buffer, 1)?, 4);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn read_full_at(file: &dyn File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Calls `operation` again as long as a signal interrupts it: an interrupted sync has not failed.
///
/// # Errors
///
/// Those of the operation, but for interruptions.
///
/// ```
/// use hightower_segment::{Fs, RealFs, retry_interrupted};
///
/// let dir = RealFs.open_dir(&std::env::temp_dir())?;
/// retry_interrupted(|| dir.sync())?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn retry_interrupted(mut operation: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Removes a file that may be gone already.
pub(crate) fn remove_if_there(dir: &dyn Dir, name: &str) -> Result<(), SegmentError> {
    match dir.remove_file(name) {
        // A directory never belongs to the store, whatever its name.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
            Err(SegmentError::io("remove", &dir.path().join(name), error))
        }
        _ => Ok(()),
    }
}

/// Refuses anything but a single path component.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is not a file name")));
    }
    Ok(())
}
