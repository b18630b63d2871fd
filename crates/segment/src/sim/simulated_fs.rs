//! The simulated file system: the calls for tests, and the implementation of [`Fs`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::dir::SimDir;
use super::disk::{Disk, DiskFile, DiskNode, Op};
use super::fault::{Call, Fault};
use super::page_cache::{CachedFile, PageCache, SharedCache, not_found};
use crate::fs::{Dir, Fs};
use crate::mapping::SharedMemory;

/// The simulated file system. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct SimFs {
    cache: SharedCache,
}

impl Default for SimFs {
    fn default() -> Self {
        Self::new()
    }
}

impl SimFs {
    /// An empty file system with a root directory, on which preallocation is a promise.
    #[must_use]
    pub fn new() -> Self {
        let mut disk = Disk::default();
        disk.names.insert(PathBuf::from("/"), DiskNode::Dir);
        Self::from_disk(disk, true)
    }

    /// The same, but preallocation is not a promise.
    #[must_use]
    pub fn without_promise() -> Self {
        let fs = Self::new();
        fs.cache.lock().promise = false;
        fs
    }

    pub(crate) fn from_disk(start: Disk, promise: bool) -> Self {
        Self { cache: Arc::new(Mutex::new(PageCache::of_disk(start, promise))) }
    }

    pub(crate) fn recording(&self) -> (Disk, Arc<[Op]>, bool) {
        let cache = self.cache.lock();
        (cache.start.clone(), cache.ops.as_slice().into(), cache.promise)
    }

    /// The number of recorded operations that change something;
    /// [`CrashPoint::op`](super::CrashPoint::op) counts these.
    #[must_use]
    pub fn op_count(&self) -> usize {
        self.cache.lock().ops.len()
    }

    /// The number of calls; [`Fault::at_call`] counts these.
    #[must_use]
    pub fn call_count(&self) -> u64 {
        self.cache.lock().calls
    }

    /// Adds a future fault.
    pub fn inject(&self, fault: Fault) {
        self.cache.lock().faults.push(fault);
    }

    /// Removes all faults.
    pub fn heal(&self) {
        self.cache.lock().faults.clear();
    }

    /// Limits the total length of all files; calls that would exceed it fail for lack of room.
    /// `None` removes the limit.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.cache.lock().capacity_bytes = capacity_bytes;
    }

    /// The room that must be available for the creation of a file, as on xfs.
    pub fn set_for_name_bytes(&self, for_name_bytes: u64) {
        self.cache.lock().for_name_bytes = for_name_bytes;
    }

    /// Limits the number of files to `more` than there are now; calls that would exceed it fail for
    /// lack of room. `None` removes the limit.
    pub fn set_more_files(&self, more: Option<u64>) {
        let mut cache = self.cache.lock();
        cache.names_max = more.map(|more| cache.names.len() as u64 + more);
    }

    /// The total length of all files.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.cache.lock().used_bytes()
    }

    /// A copy of a file's bytes, as a process reads them.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`].
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let cache = self.cache.lock();
        let file = cache.file(cache.inode(path)?)?;
        let mut bytes = vec![0; file.len];
        file.memory.read_at(0, &mut bytes);
        Ok(bytes)
    }

    /// Replaces a file's bytes, or creates the file, outside of the record: the bytes are durable
    /// at once. For planting damage before an open: existing maps keep the old bytes, open handles
    /// lose the file, and the recorded operations are dropped.
    pub fn plant(&self, path: &Path, bytes: &[u8]) {
        let mut cache = self.cache.lock();
        let inode = cache.next_inode;
        cache.next_inode += 1;
        let old = cache.names.insert(path.to_owned(), DiskNode::File(inode));
        cache.files.insert(inode, CachedFile { memory: Arc::new(SharedMemory::new(bytes)), len: bytes.len() });
        if let Some(DiskNode::File(old)) = old {
            cache.files.remove(&old);
            cache.start.files.remove(&old);
        }
        if !cache.ops.is_empty() {
            cache.settle();
            return;
        }
        // Nothing else has changed since the recording began, so no full copy is needed.
        cache.start.names.insert(path.to_owned(), DiskNode::File(inode));
        cache.start.files.insert(inode, DiskFile::settled(bytes.to_vec()));
    }

    /// Removes a file outside of the record, as [`plant`](Self::plant).
    pub fn unplant(&self, path: &Path) {
        let mut cache = self.cache.lock();
        cache.names.remove(path);
        cache.settle();
    }

    /// Removes a directory with its content outside of the record, as [`plant`](Self::plant).
    /// Handles to it stay, and find nothing.
    pub fn unplant_dir(&self, path: &Path) {
        let mut cache = self.cache.lock();
        cache.names.retain(|name, _| !name.starts_with(path));
        for at in cache.dirs.values_mut() {
            at.take_if(|at| at.starts_with(path));
        }
        cache.settle();
    }

    /// Renames a directory in one step, as another program might do. An empty directory with the
    /// new name is replaced.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::DirectoryNotEmpty`] if a directory with content has the new name, and those
    /// of the file system.
    pub fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Name)?;
        match cache.names.get(from) {
            Some(DiskNode::Dir) => cache.rename_dir(from, to),
            Some(DiskNode::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }

    /// The names in a directory.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`].
    pub fn names_in(&self, path: &Path) -> io::Result<Vec<String>> {
        let cache = self.cache.lock();
        if cache.names.get(path) != Some(&DiskNode::Dir) {
            return Err(not_found());
        }
        let names = cache.names.keys().filter(|name| name.parent() == Some(path));
        Ok(names.filter_map(|name| name.file_name()?.to_str().map(str::to_owned)).collect())
    }

    /// Makes the content of the page cache durable, and drops the record: the state after a clean
    /// shutdown of the machine.
    pub fn settle(&self) {
        self.cache.lock().settle();
    }

    /// A durable copy of the file system as processes see it now, without locks: the state after
    /// the death of all processes.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let cache = self.cache.lock();
        Self::from_disk(cache.as_disk(), cache.promise)
    }
}

impl Fs for SimFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Open)?;
        let id = cache.dir_id(path)?;
        Ok(Arc::new(SimDir::new(Arc::clone(&self.cache), id, path)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut cache = self.cache.lock();
        let missing: Vec<PathBuf> =
            path.ancestors().take_while(|path| !cache.names.contains_key(*path)).map(Path::to_owned).collect();
        for path in missing.into_iter().rev() {
            cache.enter(Call::Grow)?;
            cache.change_names(&path, vec![(path.clone(), Some(DiskNode::Dir))]);
            let dir = path.parent().map(Path::to_owned).unwrap_or_default();
            let fault = cache.enter(Call::Sync)?;
            cache.sync(fault, Op::SyncDir { dir }, None)?;
        }
        Ok(())
    }
}
