//! The files that this process has open for writing, and those that it has mapped as complete: no
//! file is both.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;

use parking_lot::{Mutex, MutexGuard};

use super::ForkGuard;
use crate::mutants::planted;

/// Device and inode. While a file is open or mapped, no other file gets its inode.
type FileId = (u64, u64);

#[derive(Debug, Default)]
struct Uses {
    writers: usize,
    maps: usize,
}

static USES: Mutex<BTreeMap<FileId, Uses>> = Mutex::new(BTreeMap::new());

/// While this lives, the file is open for writing and cannot be mapped as complete.
#[derive(Debug)]
pub(crate) struct WriterUse(FileId);

/// While this lives, the file is mapped as complete and cannot be opened for writing.
#[derive(Debug)]
pub(crate) struct MapUse(FileId);

impl WriterUse {
    /// # Errors
    ///
    /// [`io::ErrorKind::ResourceBusy`] if the file is mapped as complete.
    pub(crate) fn begin(file: &Metadata) -> io::Result<Self> {
        let id = id_of(file);
        begin(id, |uses| {
            if uses.maps > 0 && !planted("mapped_tables_opened_for_writing") {
                return Err("a table is mapped from this file, so the file cannot be opened for writing");
            }
            uses.writers += 1;
            Ok(Self(id))
        })
    }
}

impl MapUse {
    /// # Errors
    ///
    /// [`io::ErrorKind::ResourceBusy`] if the file is open for writing.
    pub(crate) fn begin(file: &Metadata) -> io::Result<Self> {
        let id = id_of(file);
        begin(id, |uses| {
            if uses.writers > 0 {
                return Err("this process has the file open for writing; close it first");
            }
            uses.maps += 1;
            Ok(Self(id))
        })
    }
}

impl Drop for WriterUse {
    fn drop(&mut self) {
        end(self.0, |uses| uses.writers -= 1);
    }
}

impl Drop for MapUse {
    fn drop(&mut self) {
        end(self.0, |uses| uses.maps -= 1);
    }
}

fn id_of(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

/// It is held only briefly. But in a child forked at such a moment it is never released.
fn uses() -> Option<MutexGuard<'static, BTreeMap<FileId, Uses>>> {
    if !ForkGuard::is_in_child() {
        return Some(USES.lock());
    }
    (0..1000).find_map(|_| {
        let guard = USES.try_lock();
        if guard.is_none() {
            std::thread::yield_now();
        }
        guard
    })
}

fn begin<T>(id: FileId, step: impl FnOnce(&mut Uses) -> Result<T, &'static str>) -> io::Result<T> {
    let busy = |what| io::Error::new(io::ErrorKind::ResourceBusy, what);
    let mut all = uses().ok_or_else(|| busy("the process was forked while it opened a file"))?;
    step(all.entry(id).or_default()).map_err(busy)
}

fn end(id: FileId, step: impl FnOnce(&mut Uses)) {
    // Without the lock the child keeps the entry, so it only refuses more.
    let Some(mut all) = uses() else { return };
    if let Entry::Occupied(mut uses) = all.entry(id) {
        step(uses.get_mut());
        if uses.get().writers == 0 && uses.get().maps == 0 {
            uses.remove();
        }
    }
}
