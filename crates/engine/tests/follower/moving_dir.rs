//! A directory whose file system can be replaced while it is open: for a follower that outlives
//! the crash of its writer.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hightower_segment::sim::SimFs;
use hightower_segment::{Access, DeviceRoom, Dir, File, Fs, Lock, LockKind, Metadata};

/// Reads from the current file system, and refuses everything that a follower must not do.
#[derive(Clone, Debug)]
pub(crate) struct MovingFs {
    now: Arc<Mutex<SimFs>>,
}

#[derive(Debug)]
struct MovingDir {
    fs: MovingFs,
    path: std::path::PathBuf,
}

impl MovingFs {
    pub(crate) fn new(now: SimFs) -> Self {
        Self { now: Arc::new(Mutex::new(now)) }
    }

    /// From now on, names mean the files of `next`. Open files stay.
    pub(crate) fn move_to(&self, next: SimFs) {
        *self.now.lock().unwrap() = next;
    }
}

fn refused<T>() -> io::Result<T> {
    panic!("a follower changes the store")
}

impl Fs for MovingFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        self.now.lock().unwrap().open_dir(path)?;
        Ok(Arc::new(MovingDir { fs: self.clone(), path: path.to_owned() }))
    }

    fn create_dir_all(&self, _path: &Path) -> io::Result<()> {
        refused()
    }
}

impl MovingDir {
    fn now(&self) -> io::Result<Arc<dyn Dir>> {
        self.fs.now.lock().unwrap().open_dir(&self.path)
    }
}

impl Dir for MovingDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create_new(&self, _name: &str) -> io::Result<Arc<dyn File>> {
        refused()
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        if access == Access::Write { refused() } else { self.now()?.open(name, access) }
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        refused()
    }

    fn remove_file(&self, _name: &str) -> io::Result<()> {
        refused()
    }

    fn hard_link(&self, _name: &str, _target: &dyn Dir, _link: &str) -> io::Result<()> {
        refused()
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.now()?.list()
    }

    fn metadata(&self, name: &str) -> io::Result<Metadata> {
        self.now()?.metadata(name)
    }

    fn sync(&self) -> io::Result<()> {
        refused()
    }

    fn try_lock(&self, _kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
        refused()
    }

    fn is_locked_by_this_process(&self) -> bool {
        false
    }

    fn room(&self) -> io::Result<DeviceRoom> {
        refused()
    }

    fn preallocation_is_promise(&self) -> io::Result<bool> {
        refused()
    }
}
