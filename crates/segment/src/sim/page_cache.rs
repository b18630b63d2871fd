//! The page cache: names, files and locks as running processes see them, and the record of all
//! operations that change them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, DiskNode, Inode, NameChanges, Op};
use super::fault::{Call, Fault, FaultKind};
use crate::fs::{DeviceRoom, Metadata, check_name};
use crate::mapping::SharedMemory;

/// The page cache, shared by all handles.
pub(super) type SharedCache = Arc<Mutex<PageCache>>;

/// The identity of a directory, independent of its name.
pub(super) type DirId = u64;

#[derive(Debug)]
pub(super) struct PageCache {
    pub(super) names: BTreeMap<PathBuf, DiskNode>,
    pub(super) files: BTreeMap<Inode, CachedFile>,
    pub(super) next_inode: Inode,
    /// The paths of the opened directories; `None` after their removal.
    pub(super) dirs: BTreeMap<DirId, Option<PathBuf>>,
    pub(super) locks: BTreeMap<DirId, HeldLocks>,
    /// The disk when the recording began.
    pub(super) start: Disk,
    pub(super) ops: Vec<Op>,
    pub(super) calls: u64,
    pub(super) faults: Vec<Fault>,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) for_name_bytes: u64,
    pub(super) names_max: Option<u64>,
    pub(super) promise: bool,
}

#[derive(Clone, Debug)]
pub(super) struct CachedFile {
    pub(super) memory: Arc<SharedMemory>,
    pub(super) len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeldLocks {
    pub(super) shared: u32,
    pub(super) exclusive: bool,
}

impl CachedFile {
    fn of(file: &DiskFile) -> Self {
        Self { memory: Arc::new(SharedMemory::new(&file.durable)), len: file.durable_len }
    }

    /// Extends the memory to `len` bytes. A mapped file cannot grow.
    pub(super) fn grow(&mut self, len: usize) -> io::Result<()> {
        if len > self.memory.len() {
            if self.memory.mappings() > 0 {
                return Err(io::Error::other("the simulation cannot grow mapped files"));
            }
            let mut bytes = vec![0; len.max(self.memory.len() + self.memory.len() / 2)];
            self.memory.read_at(0, bytes.get_mut(..self.len).unwrap_or_default());
            self.memory = Arc::new(SharedMemory::new(&bytes));
        }
        self.len = self.len.max(len);
        Ok(())
    }
}

pub(super) fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;
const EDQUOT: i32 = 122;

fn input_output() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

impl PageCache {
    /// The page cache of processes that start with the content of a disk.
    pub(super) fn of_disk(start: Disk, promise: bool) -> Self {
        let files = start.files.iter().map(|(inode, file)| (*inode, CachedFile::of(file))).collect();
        Self {
            names: start.names.clone(),
            files,
            next_inode: start.files.keys().next_back().map_or(1, |last| last + 1),
            dirs: BTreeMap::new(),
            locks: BTreeMap::new(),
            start,
            ops: Vec::new(),
            calls: 0,
            faults: Vec::new(),
            capacity_bytes: None,
            for_name_bytes: 0,
            names_max: None,
            promise,
        }
    }

    /// Counts a call. Returns the error of a fault that fails the call, or the kind of a softer
    /// fault.
    pub(super) fn enter(&mut self, call: Call) -> io::Result<Option<FaultKind>> {
        let number = self.calls;
        self.calls += 1;
        match self.faults.iter().find(|fault| fault.strikes(call, number)).map(|fault| fault.kind) {
            Some(FaultKind::Io) if call != Call::Sync => Err(input_output()),
            Some(FaultKind::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            Some(FaultKind::NoQuota) => Err(io::Error::from_raw_os_error(EDQUOT)),
            Some(FaultKind::TooLong) => Err(io::ErrorKind::FileTooLarge.into()),
            Some(FaultKind::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
            #[expect(clippy::panic, reason = "the test requested it")]
            Some(FaultKind::Panic) => panic!("the simulated file system panics as requested"),
            Some(FaultKind::NoDescriptors) => Err(io::Error::from_raw_os_error(EMFILE)),
            Some(FaultKind::NoMemory) => Err(io::Error::from_raw_os_error(ENOMEM)),
            softer => Ok(softer),
        }
    }

    pub(super) fn dir_id(&mut self, path: &Path) -> io::Result<DirId> {
        match self.names.get(path) {
            Some(DiskNode::Dir) => {}
            Some(DiskNode::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
            None => return Err(not_found()),
        }
        let known = self.dirs.iter().find(|(_, at)| at.as_deref() == Some(path)).map(|(id, _)| *id);
        Ok(known.unwrap_or_else(|| {
            let id = self.dirs.keys().next_back().map_or(1, |last| last + 1);
            self.dirs.insert(id, Some(path.to_owned()));
            id
        }))
    }

    pub(super) fn dir(&self, id: DirId) -> io::Result<&Path> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "its directory was removed while it was open");
        self.dirs.get(&id).and_then(Option::as_deref).ok_or_else(gone)
    }

    pub(super) fn path_in(&self, id: DirId, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.dir(id)?.join(name))
    }

    pub(super) fn inode(&self, path: &Path) -> io::Result<Inode> {
        match self.names.get(path) {
            Some(DiskNode::File(inode)) => Ok(*inode),
            Some(DiskNode::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    pub(super) fn file(&self, inode: Inode) -> io::Result<&CachedFile> {
        self.files.get(&inode).ok_or_else(not_found)
    }

    pub(super) fn file_mut(&mut self, inode: Inode) -> io::Result<&mut CachedFile> {
        self.files.get_mut(&inode).ok_or_else(not_found)
    }

    pub(super) fn metadata(&self, inode: Inode) -> io::Result<Metadata> {
        let links = self.names.values().filter(|node| **node == DiskNode::File(inode)).count();
        Ok(Metadata { len_bytes: self.file(inode)?.len as u64, links: links as u64 })
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let mut inodes: Vec<_> = self
            .names
            .values()
            .filter_map(|node| if let DiskNode::File(inode) = node { Some(inode) } else { None })
            .collect();
        inodes.sort();
        inodes.dedup();
        inodes.into_iter().filter_map(|inode| self.files.get(inode)).map(|file| file.len as u64).sum()
    }

    pub(super) fn room(&self) -> DeviceRoom {
        let limited = |total_bytes: u64| DeviceRoom {
            total_bytes,
            available_bytes: total_bytes - total_bytes.min(self.used_bytes()),
            ..DeviceRoom::UNKNOWN
        };
        let room = self.capacity_bytes.map_or(DeviceRoom::UNKNOWN, limited);
        let available_files = self.names_max.map_or(u64::MAX, |max| max.saturating_sub(self.names.len() as u64));
        DeviceRoom { for_name_bytes: self.for_name_bytes, available_files, ..room }
    }

    /// Whether a file may grow to `len`.
    pub(super) fn check_room(&self, inode: Inode, len: usize) -> io::Result<()> {
        let more = len.saturating_sub(self.file(inode)?.len) as u64;
        match self.capacity_bytes {
            Some(capacity) if more > 0 && self.used_bytes() + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn change_names(&mut self, path: &Path, changes: NameChanges) {
        for (name, node) in &changes {
            match node {
                Some(node) => self.names.insert(name.clone(), *node),
                None => self.names.remove(name),
            };
        }
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        self.ops.push(Op::Names { dir, changes });
    }

    /// Renames a directory with its content in one step. (Unsynced names in it move as if they were
    /// synced; the tested stores sync a directory before they move it.)
    pub(super) fn rename_dir(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        if self.names.keys().any(|name| name.parent() == Some(to)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let inside = self.names.iter().filter_map(|(name, node)| Some((name, name.strip_prefix(from).ok()?, *node)));
        let mut changes = NameChanges::new();
        for (name, rest, node) in inside {
            let new = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            changes.push((name.clone(), None));
            changes.push((new, Some(node)));
        }
        self.change_names(to, changes);
        for at in self.dirs.values_mut() {
            // A replaced empty directory is removed.
            at.take_if(|at| at == to);
            let rest = at.as_deref().and_then(|at| at.strip_prefix(from).ok());
            if let Some(rest) = rest {
                *at = Some(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) });
            }
        }
        Ok(())
    }

    /// A sync under the current fault: done, failed, or only pretended.
    pub(super) fn sync(&mut self, fault: Option<FaultKind>, done: Op, failed: Option<Op>) -> io::Result<()> {
        match fault {
            Some(FaultKind::Io) => {
                self.ops.extend(failed);
                Err(input_output())
            }
            Some(FaultKind::LyingSync) => Ok(()),
            _ => {
                self.ops.push(done);
                Ok(())
            }
        }
    }

    pub(super) fn as_disk(&self) -> Disk {
        let content = |file: &CachedFile| {
            let mut bytes = vec![0; file.len];
            file.memory.read_at(0, &mut bytes);
            DiskFile::settled(bytes)
        };
        // Files without a name are lost with the processes that have them open.
        let inodes =
            self.names.values().filter_map(|node| if let DiskNode::File(inode) = node { Some(*inode) } else { None });
        let files = inodes.filter_map(|inode| Some((inode, content(self.files.get(&inode)?)))).collect();
        Disk { names: self.names.clone(), files, ..Disk::default() }
    }

    pub(super) fn settle(&mut self) {
        self.start = self.as_disk();
        self.ops.clear();
    }
}
