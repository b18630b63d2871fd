//! The destination of restore, import and salvage.
//!
//! The copy is created directly in its directory, so a mount point, a link or `.` is allowed as
//! well as a new name. The directory has the file `UNFINISHED` until everything else is durable.
//! While it exists, no open accepts the directory as a store, and the next attempt may remove the
//! files of this one. Files with other names are never touched.

use std::io;
use std::path::Path;
use std::sync::Arc;

use hightower_segment::{Dir, Fs, Lock, LockKind, MANIFEST, UNFINISHED, is_garbage_when_unnamed};

use crate::components::Components;
use crate::config::{Durability, StoreConfig};
use crate::engine::SingleNodeEngine;
use crate::error::{Error, Result};
use crate::files::{io_error, list, read_file, remove_if_there, sync_data, sync_dir, write_at};
use crate::mutants::planted;

/// A directory that becomes a store with [`finish`](Self::finish). Dropping it before that empties
/// it.
pub(crate) struct Destination {
    dir: Arc<dyn Dir>,
    /// The content of this attempt's mark; a later attempt writes another one.
    token: Vec<u8>,
    /// `None` while an engine has the directory open, and with it the lock.
    lock: Option<Box<dyn Lock>>,
    is_finished: bool,
}

impl Destination {
    /// Takes an empty directory, or creates one. Files of an earlier attempt are removed.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] if it has other content, [`Error::Locked`] if it is in use,
    /// [`Error::Full`], [`Error::Io`].
    pub(crate) fn begin(components: &Components, path: &Path) -> Result<Self> {
        let fs = &*components.fs;
        fs.create_dir_all(path).map_err(|source| io_error("create", path, source))?;
        let dir = fs.open_dir(path).map_err(|source| io_error("open", path, source))?;
        let lock = lock(dir.as_ref())?
            .ok_or_else(|| Error::Locked { path: path.to_owned(), by_this_process: dir.is_locked_by_this_process() })?;
        let names = list(dir.as_ref())?;
        let is_left_over = names.iter().any(|name| name == UNFINISHED);
        let is_free = names.is_empty() || is_left_over && names.iter().all(|name| is_of_a_copy(name));
        if !is_free && !planted("copy_over_others") {
            return Err(not_empty(path));
        }
        clear(dir.as_ref())?;
        let token = components.entropy.next_u64();
        let token = token.map_err(|source| io_error("draw a random number for", path, source))?;
        let token = format!("{token:016x}\n").into_bytes();
        let destination = Self { dir, token, lock: Some(lock), is_finished: false };
        destination.mark()?;
        Ok(destination)
    }

    /// Makes the mark durable, before any other file.
    fn mark(&self) -> Result<()> {
        let path = self.dir.path().join(UNFINISHED);
        let file = self.dir.create_new(UNFINISHED).map_err(|source| io_error("create", &path, source))?;
        write_at(file.as_ref(), &path, &self.token, 0)?;
        sync_data(file.as_ref(), &path)?;
        sync_dir(self.dir.as_ref())
    }

    pub(crate) fn dir(&self) -> &dyn Dir {
        self.dir.as_ref()
    }

    /// Opens a new store in it; close and drop that before [`finish`](Self::finish). The store works
    /// on the directory that [`begin`](Self::begin) opened, even if another one has its path now.
    pub(crate) fn open(&mut self, components: &Components) -> Result<SingleNodeEngine> {
        self.lock = None;
        let config = StoreConfig { durability: Some(Durability::Os), ..StoreConfig::at(self.dir.path()) };
        let held = HeldDir { fs: Arc::clone(&components.fs), dir: Arc::clone(&self.dir) };
        let components = if planted("copy_opened_by_path") {
            components.clone()
        } else {
            components.clone().with_fs(Arc::new(held))
        };
        let engine = SingleNodeEngine::open_copy(config, components)?;
        // Another copy may have taken the directory while it was not locked.
        self.check_mark(self.dir.as_ref())?;
        Ok(engine)
    }

    fn check_mark(&self, dir: &dyn Dir) -> Result<()> {
        if read_file(dir, UNFINISHED)?.as_ref() == Some(&self.token) {
            return Ok(());
        }
        let text = format!("another copy has started in {}", self.dir.path().display());
        Err(Error::Conflict(text.into()))
    }

    /// Makes all files durable, and then the directory a store.
    pub(crate) fn finish(mut self) -> Result<()> {
        let dir = self.dir.as_ref();
        if self.lock.is_none() {
            let lock = lock(dir)?;
            self.lock = Some(lock.ok_or_else(|| Error::Locked {
                path: dir.path().to_owned(),
                by_this_process: dir.is_locked_by_this_process(),
            })?);
        }
        self.check_mark(dir)?;
        if !planted("copy_names_not_synced") {
            sync_dir(dir)?;
        }
        remove_if_there(dir, UNFINISHED)?;
        self.is_finished = true;
        sync_dir(dir)
    }
}

/// A file system in which the path of an open directory leads to that directory.
#[derive(Debug)]
struct HeldDir {
    fs: Arc<dyn Fs>,
    dir: Arc<dyn Dir>,
}

impl Fs for HeldDir {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        if path == self.dir.path() { Ok(Arc::clone(&self.dir)) } else { self.fs.open_dir(path) }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path == self.dir.path() { Ok(()) } else { self.fs.create_dir_all(path) }
    }
}

/// An unfinished copy takes no room. The empty directory stays.
impl Drop for Destination {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        let dir = self.dir.as_ref();
        if self.lock.is_none() {
            self.lock = lock(dir).ok().flatten();
        }
        if self.lock.is_some() && self.check_mark(dir).is_ok() {
            // The caller gets the error that ended the copy; the next attempt removes remaining
            // files.
            let _cleared = clear(dir);
        }
    }
}

fn not_empty(path: &Path) -> Error {
    Error::Conflict(format!("{} is not empty: use another directory", path.display()).into())
}

fn lock(dir: &dyn Dir) -> Result<Option<Box<dyn Lock>>> {
    dir.try_lock(LockKind::Exclusive).map_err(|source| io_error("lock", dir.path(), source))
}

/// Whether a file of this name can be from an attempt.
fn is_of_a_copy(name: &str) -> bool {
    name == UNFINISHED || name == MANIFEST || is_garbage_when_unnamed(name)
}

/// Removes all files of an attempt, its mark last.
fn clear(dir: &dyn Dir) -> Result<()> {
    let names = list(dir)?;
    for name in names.iter().filter(|name| is_of_a_copy(name) && *name != UNFINISHED) {
        remove_if_there(dir, name)?;
    }
    // Directories stay, independent of their names.
    if list(dir)?.iter().any(|name| name != UNFINISHED) && !planted("copy_over_others") {
        return Err(not_empty(dir.path()));
    }
    remove_if_there(dir, UNFINISHED)
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use std::fs;

    use super::Destination;
    use crate::components::Components;
    use crate::engine::SingleNodeEngine;

    #[test]
    fn a_copy_stays_in_its_directory_when_another_takes_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("copy"), dir.path().join("moved"));
        let mut destination = Destination::begin(&Components::default(), &path).unwrap();
        fs::rename(&path, &moved).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("MANIFEST"), "of somebody else").unwrap();
        let engine = destination.open(&Components::default()).unwrap();
        engine.put("k", "v").unwrap();
        engine.close().unwrap();
        drop(engine);
        destination.finish().unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "nothing was added");
        assert_eq!(fs::read(path.join("MANIFEST")).unwrap(), b"of somebody else");
        let engine = SingleNodeEngine::open(&moved).unwrap();
        assert_eq!(engine.get("k").unwrap().as_deref(), Some(&b"v"[..]));
    }
}
