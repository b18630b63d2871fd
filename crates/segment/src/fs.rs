//! The file system as this crate sees it: a seam with a real side ([`RealFs`]) and a simulated one
//! (`sim::SimFs`).
//!
//! The traits ask for no more than a log needs: append-only files of fixed size, atomic
//! replacement, directory syncs and one lock. Everything a store does to the outside goes through
//! them. A store resolves the path of its directory once: from then on it names its files relative
//! to the directory that it has open.

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
    /// With nobody.
    Exclusive,
}

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Its length in bytes.
    pub len_bytes: u64,
    /// How many names it has: more than one means that somebody, such as a backup, keeps a hard
    /// link.
    pub links: u64,
}

/// How much room there is on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceRoom {
    /// In all, in bytes; `u64::MAX` if that is not known.
    pub total_bytes: u64,
    /// How much of it this process may still use, in bytes; `u64::MAX` if that is not known.
    pub available_bytes: u64,
}

/// A held lock; dropping it gives it back.
pub trait Lock: Debug + Send + Sync {}

/// A file system. Used as `Arc<dyn Fs>`. What happens inside a directory is a matter of [`Dir`].
///
/// All errors are the system's own. Out of space must come back as [`io::ErrorKind::StorageFull`]
/// or [`io::ErrorKind::QuotaExceeded`].
pub trait Fs: Debug + Send + Sync {
    /// Opens a directory. The handle stays with this directory, whatever happens to its name
    /// afterwards.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it does not exist, [`io::ErrorKind::NotADirectory`] if
    /// something else has its name.
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>>;

    /// Creates a directory and those above it that are missing, for their owner alone, and syncs
    /// every directory that got a new entry. Nothing happens if it exists.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
}

/// An open directory: its files, by name. Used as `Arc<dyn Dir>`.
///
/// All methods mean the directory that was opened, even if it was renamed since, or another one has
/// its name now. Once it was removed, they fail with [`io::ErrorKind::NotFound`]. No method but
/// [`list`](Self::list), [`try_lock`](Self::try_lock) and those that open a file needs another file
/// descriptor.
///
/// A name is one path component: with a `/` in it, empty, `.` or `..`, it is refused with
/// [`io::ErrorKind::InvalidInput`].
pub trait Dir: Any + Debug + Send + Sync {
    /// Where the directory was when it was opened, as an absolute path: for messages.
    fn path(&self) -> &Path;

    /// Creates a file for reading and writing, for its owner alone.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if the name is taken.
    fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens a regular file that exists. It waits for nothing: what is no regular file, such as a
    /// named pipe, is refused.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`] if it does not exist; [`io::ErrorKind::IsADirectory`] or
    /// [`io::ErrorKind::InvalidInput`] if it is no regular file; for writing,
    /// [`io::ErrorKind::ResourceBusy`] while a table is mapped from the operating system's file,
    /// see [`map_table`](crate::map_table).
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>>;

    /// Renames a file, replacing what has the new name, in one step.
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

    /// Gives a file a second name, in `target`, which may be this directory or another one.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] if the name is taken; [`io::ErrorKind::CrossesDevices`] if
    /// the directories are not of one file system; those of the system.
    fn hard_link(&self, name: &str, target: &dyn Dir, link: &str) -> io::Result<()>;

    /// The names in the directory, in no order. A name that is not UTF-8 is given with U+FFFD in
    /// place of what is not: no file of a store has such a name, but the directory is not
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

    /// Takes a lock on the directory itself, without waiting; `None` if another holder is in the
    /// way. There is no lock file, so nothing in the directory can be removed or replaced to
    /// get around it. The lock ends with the process at the latest.
    ///
    /// # Errors
    ///
    /// Those of the system, for one [`io::ErrorKind::Unsupported`] where the file system locks no
    /// directories.
    fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>>;

    /// Whether a lock that is in the way is held by this process, as far as that is known: for
    /// messages.
    fn is_locked_by_this_process(&self) -> bool;

    /// How much room there is on the directory's device. Others use it, too: it is known for this
    /// moment only.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn room(&self) -> io::Result<DeviceRoom>;

    /// Whether writing into an allocated file cannot fail for want of space, so that stores through
    /// a map are safe.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn preallocation_is_promise(&self) -> io::Result<bool>;
}

/// An open file. Used as `Arc<dyn File>`.
pub trait File: Debug + Send + Sync {
    /// Reads at an offset; fewer bytes than asked for, down to none at the end of the file, are no
    /// error.
    ///
    /// # Errors
    ///
    /// Those of the system, [`io::ErrorKind::Interrupted`] among them.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes at an offset and says how many bytes were taken, which may be fewer than given.
    ///
    /// # Errors
    ///
    /// Those of the system, [`io::ErrorKind::Interrupted`] among them.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes the file's bytes and length durable. Its name is the directory's matter.
    ///
    /// # Errors
    ///
    /// Those of the system. After an error nothing is known of what was written since the last
    /// success.
    fn sync_data(&self) -> io::Result<()>;

    /// Length and number of names.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn metadata(&self) -> io::Result<Metadata>;

    /// Cuts the file, or makes it longer by zeros that take no room.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn set_len(&self, len_bytes: u64) -> io::Result<()>;

    /// Makes the file at least this long, with room on the device for all of it.
    ///
    /// # Errors
    ///
    /// Out of space comes back here. The file may then have grown by a part.
    fn allocate(&self, len_bytes: u64) -> io::Result<()>;

    /// Gives back the room on the device behind `len_bytes`, without changing the file's length:
    /// what stood there reads as zeros from then on. Where the file system cannot do that,
    /// nothing happens; it only costs room.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn release_behind(&self, _len_bytes: u64) -> io::Result<()> {
        Ok(())
    }

    /// Maps the first `len_bytes` of the file, which must be that long. Nothing of it is published
    /// yet. What else must hold while the mapping lives, the permit promises.
    ///
    /// # Errors
    ///
    /// Those of the system.
    fn map(&self, len_bytes: usize, access: Access, permit: MapPermit) -> io::Result<Mapping>;
}

/// Writes all of `bytes`, going on after short writes and interruptions.
///
/// # Errors
///
/// The first real error, with the number of bytes that had been written before it.
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

/// Reads until the buffer is full or the file ends; gives the number of bytes read.
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

/// Syncs, once more if a signal came in between: an interrupted sync has not failed.
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
        // A directory is none of the store's, whatever its name.
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::IsADirectory) => {
            Err(SegmentError::io("remove", &dir.path().join(name), error))
        }
        _ => Ok(()),
    }
}

/// Whether this is a name, and not a path that leads elsewhere.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no file name")));
    }
    Ok(())
}
