//! An open directory of the simulated file system, and its lock.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{DiskNode, Op};
use super::fault::Call;
use super::file::SimFile;
use super::page_cache::{CachedFile, DirId, PageCache, SharedCache};
use crate::fs::{Access, DeviceRoom, Dir, File, Lock, LockKind, Metadata};
use crate::mapping::SharedMemory;

/// An open directory.
#[derive(Debug)]
pub(super) struct SimDir {
    cache: SharedCache,
    id: DirId,
    /// Its path at the open.
    path: PathBuf,
}

impl SimDir {
    pub(super) fn new(cache: SharedCache, id: DirId, path: &Path) -> Self {
        Self { cache, id, path: path.to_owned() }
    }

    fn create(&self, cache: &mut PageCache, name: &str) -> io::Result<Arc<dyn File>> {
        cache.enter(Call::Create)?;
        let path = cache.path_in(self.id, name)?;
        if cache.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let room = cache.room();
        if room.available_bytes < cache.for_name_bytes || room.available_files == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let inode = cache.next_inode;
        cache.next_inode += 1;
        cache.files.insert(inode, CachedFile { memory: Arc::new(SharedMemory::new(&[])), len: 0 });
        cache.change_names(&path, vec![(path.clone(), Some(DiskNode::File(inode)))]);
        Ok(Arc::new(SimFile::new(Arc::clone(&self.cache), inode, Access::Write)))
    }
}

impl Dir for SimDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.create(&mut self.cache.lock(), name)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Open)?;
        let inode = cache.inode(&cache.path_in(self.id, name)?)?;
        Ok(Arc::new(SimFile::new(Arc::clone(&self.cache), inode, access)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Rename)?;
        let (from, to) = (cache.path_in(self.id, from)?, cache.path_in(self.id, to)?);
        let inode = cache.inode(&from)?;
        if from != to {
            cache.change_names(&to, vec![(from, None), (to.clone(), Some(DiskNode::File(inode)))]);
        }
        Ok(())
    }

    fn remove_file(&self, name: &str) -> io::Result<()> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Name)?;
        let path = cache.path_in(self.id, name)?;
        cache.inode(&path)?;
        cache.change_names(&path, vec![(path.clone(), None)]);
        Ok(())
    }

    fn hard_link(&self, name: &str, target: &dyn Dir, link: &str) -> io::Result<()> {
        let target: &dyn Any = target;
        let target = target.downcast_ref::<Self>().filter(|target| Arc::ptr_eq(&target.cache, &self.cache));
        let target = target.ok_or(io::ErrorKind::CrossesDevices)?.id;
        let mut cache = self.cache.lock();
        cache.enter(Call::Grow)?;
        let inode = cache.inode(&cache.path_in(self.id, name)?)?;
        let link = cache.path_in(target, link)?;
        if cache.names.contains_key(&link) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        cache.change_names(&link, vec![(link.clone(), Some(DiskNode::File(inode)))]);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Open)?;
        let dir = cache.dir(self.id)?;
        let names = cache.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn metadata(&self, name: &str) -> io::Result<Metadata> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Look)?;
        let inode = cache.inode(&cache.path_in(self.id, name)?)?;
        cache.metadata(inode)
    }

    fn sync(&self) -> io::Result<()> {
        let mut cache = self.cache.lock();
        let fault = cache.enter(Call::Sync)?;
        let dir = cache.dir(self.id)?.to_owned();
        cache.sync(fault, Op::SyncDir { dir }, None)
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Open)?;
        let held = cache.locks.entry(self.id).or_default();
        if held.exclusive || (kind == LockKind::Exclusive && held.shared > 0) {
            return Ok(None);
        }
        match kind {
            LockKind::Shared => held.shared += 1,
            LockKind::Exclusive => held.exclusive = true,
        }
        Ok(Some(Box::new(SimLock { cache: Arc::clone(&self.cache), dir: self.id, kind })))
    }

    fn is_locked_by_this_process(&self) -> bool {
        self.cache.lock().locks.get(&self.id).is_some_and(|held| held.exclusive || held.shared > 0)
    }

    fn room(&self) -> io::Result<DeviceRoom> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Look)?;
        Ok(cache.room())
    }

    fn preallocation_is_promise(&self) -> io::Result<bool> {
        Ok(self.cache.lock().promise)
    }
}

#[derive(Debug)]
struct SimLock {
    cache: SharedCache,
    dir: DirId,
    kind: LockKind,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Some(held) = self.cache.lock().locks.get_mut(&self.dir) {
            match self.kind {
                LockKind::Shared => held.shared -= 1,
                LockKind::Exclusive => held.exclusive = false,
            }
        }
    }
}
