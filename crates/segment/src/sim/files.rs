//! The page cache: the file system as a running process sees it.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hightower_seams::mix64;
use parking_lot::Mutex;

use super::disk::{Disk, DiskFile, DiskNode, Inode, NameChanges, Op};
use super::fault::{Call, Fault, FaultKind};
use crate::fs::{Access, DeviceRoom, Dir, File, Fs, Lock, LockKind, Metadata, check_name};
use crate::mapping::{MapPermit, Mapping, MemoryObserver, SharedMemory};

/// The simulated file system. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
}

/// A directory, whatever its name.
type DirId = u64;

#[derive(Debug)]
struct State {
    names: BTreeMap<PathBuf, DiskNode>,
    files: BTreeMap<Inode, CachedFile>,
    next_inode: Inode,
    /// Where the directories are that were opened; nowhere, if they were removed.
    dirs: BTreeMap<DirId, Option<PathBuf>>,
    locks: BTreeMap<DirId, Held>,
    /// The disk when the recording began.
    start: Disk,
    ops: Vec<Op>,
    calls: u64,
    faults: Vec<Fault>,
    capacity_bytes: Option<u64>,
    promise: bool,
}

#[derive(Clone, Debug)]
struct CachedFile {
    memory: Arc<SharedMemory>,
    len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Held {
    shared: u32,
    exclusive: bool,
}

#[derive(Debug)]
struct SimFile {
    fs: SimFs,
    inode: Inode,
    access: Access,
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

    /// The same, but says that preallocation is no promise.
    #[must_use]
    pub fn without_promise() -> Self {
        let fs = Self::new();
        fs.state.lock().promise = false;
        fs
    }

    pub(crate) fn from_disk(start: Disk, promise: bool) -> Self {
        let files = start.files.iter().map(|(inode, file)| (*inode, CachedFile::of(file))).collect();
        let state = State {
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
            promise,
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) fn recording(&self) -> (Disk, Arc<[Op]>, bool) {
        let state = self.state.lock();
        (state.start.clone(), state.ops.as_slice().into(), state.promise)
    }

    /// How many operations that change something were recorded;
    /// [`CrashPoint::op`](super::CrashPoint::op) counts these.
    #[must_use]
    pub fn op_count(&self) -> usize {
        self.state.lock().ops.len()
    }

    /// How many calls were made; [`Fault::at_call`] counts these.
    #[must_use]
    pub fn call_count(&self) -> u64 {
        self.state.lock().calls
    }

    /// Adds a fault to come.
    pub fn inject(&self, fault: Fault) {
        self.state.lock().faults.push(fault);
    }

    /// No more faults.
    pub fn heal(&self) {
        self.state.lock().faults.clear();
    }

    /// Limits the sum of all files' lengths; calls that would exceed it fail for want of room.
    /// `None` takes the limit away.
    pub fn set_capacity_bytes(&self, capacity_bytes: Option<u64>) {
        self.state.lock().capacity_bytes = capacity_bytes;
    }

    /// The sum of all files' lengths.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.state.lock().used_bytes()
    }

    /// A copy of a file's bytes as a process sees them.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`].
    pub fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state.lock();
        let file = state.file(state.inode(path)?)?;
        let mut bytes = vec![0; file.len];
        file.memory.read_at(0, &mut bytes);
        Ok(bytes)
    }

    /// Replaces a file's bytes, or creates the file, outside the recorded history: the bytes are
    /// durable at once. For planting damage before a store is opened: existing maps keep the old
    /// bytes, open handles lose the file, and the operations recorded so far are dropped.
    pub fn plant(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state.lock();
        let inode = state.next_inode;
        state.next_inode += 1;
        let old = state.names.insert(path.to_owned(), DiskNode::File(inode));
        state.files.insert(inode, CachedFile { memory: Arc::new(SharedMemory::new(bytes)), len: bytes.len() });
        if let Some(DiskNode::File(old)) = old {
            state.files.remove(&old);
            state.start.files.remove(&old);
        }
        if !state.ops.is_empty() {
            state.settle();
            return;
        }
        // Nothing else has changed since the recording began: no need to copy it all.
        state.start.names.insert(path.to_owned(), DiskNode::File(inode));
        state.start.files.insert(inode, DiskFile::settled(bytes.to_vec()));
    }

    /// Removes a file behind everybody's back; likewise.
    pub fn unplant(&self, path: &Path) {
        let mut state = self.state.lock();
        state.names.remove(path);
        state.settle();
    }

    /// Removes a directory with all that is in it, behind everybody's back; likewise. Handles to it
    /// stay, and find nothing.
    pub fn unplant_dir(&self, path: &Path) {
        let mut state = self.state.lock();
        state.names.retain(|name, _| !name.starts_with(path));
        for at in state.dirs.values_mut() {
            at.take_if(|at| at.starts_with(path));
        }
        state.settle();
    }

    /// The names in a directory.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::NotFound`].
    pub fn names_in(&self, path: &Path) -> io::Result<Vec<String>> {
        let state = self.state.lock();
        if state.names.get(path) != Some(&DiskNode::Dir) {
            return Err(not_found());
        }
        let names = state.names.keys().filter(|name| name.parent() == Some(path));
        Ok(names.filter_map(|name| name.file_name()?.to_str().map(str::to_owned)).collect())
    }

    /// Takes what processes see as durable, and forgets the record: the state after a clean
    /// shutdown of the machine.
    pub fn settle(&self) {
        self.state.lock().settle();
    }

    /// A copy of the file system as processes see it now, all of it durable, with nobody holding
    /// locks: as after the death of every process.
    #[must_use]
    pub fn after_kill(&self) -> Self {
        let state = self.state.lock();
        Self::from_disk(state.as_disk(), state.promise)
    }
}

impl CachedFile {
    fn of(file: &DiskFile) -> Self {
        Self { memory: Arc::new(SharedMemory::new(&file.durable)), len: file.durable_len }
    }

    /// Makes room for `len` bytes. Only a file that nobody has mapped can grow beyond its memory.
    fn grow(&mut self, len: usize) -> io::Result<()> {
        if len > self.memory.len() {
            if self.memory.mappings() > 0 {
                return Err(io::Error::other("the simulation does not grow files that are mapped"));
            }
            let mut bytes = vec![0; len.max(self.memory.len() + self.memory.len() / 2)];
            self.memory.read_at(0, bytes.get_mut(..self.len).unwrap_or_default());
            self.memory = Arc::new(SharedMemory::new(&bytes));
        }
        self.len = self.len.max(len);
        Ok(())
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

const EIO: i32 = 5;
const ENOMEM: i32 = 12;
const EMFILE: i32 = 24;

fn input_output() -> io::Error {
    io::Error::from_raw_os_error(EIO)
}

impl State {
    /// Counts a call and finds out whether it fails outright, or in which softer way.
    fn enter(&mut self, call: Call) -> io::Result<Option<FaultKind>> {
        let number = self.calls;
        self.calls += 1;
        match self.faults.iter().find(|fault| fault.strikes(call, number)).map(|fault| fault.kind) {
            Some(FaultKind::Io) if call != Call::Sync => Err(input_output()),
            Some(FaultKind::NoSpace) => Err(io::ErrorKind::StorageFull.into()),
            Some(FaultKind::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
            #[expect(clippy::panic, reason = "that is what the test asked for")]
            Some(FaultKind::Panic) => panic!("the simulated file system was told to panic"),
            Some(FaultKind::NoDescriptors) => Err(io::Error::from_raw_os_error(EMFILE)),
            Some(FaultKind::NoMemory) => Err(io::Error::from_raw_os_error(ENOMEM)),
            softer => Ok(softer),
        }
    }

    fn dir_id(&mut self, path: &Path) -> io::Result<DirId> {
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

    fn dir(&self, id: DirId) -> io::Result<&Path> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "its directory was removed while it was open");
        self.dirs.get(&id).and_then(Option::as_deref).ok_or_else(gone)
    }

    fn path_in(&self, id: DirId, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.dir(id)?.join(name))
    }

    fn inode(&self, path: &Path) -> io::Result<Inode> {
        match self.names.get(path) {
            Some(DiskNode::File(inode)) => Ok(*inode),
            Some(DiskNode::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(not_found()),
        }
    }

    fn file(&self, inode: Inode) -> io::Result<&CachedFile> {
        self.files.get(&inode).ok_or_else(not_found)
    }

    fn file_mut(&mut self, inode: Inode) -> io::Result<&mut CachedFile> {
        self.files.get_mut(&inode).ok_or_else(not_found)
    }

    fn metadata(&self, inode: Inode) -> io::Result<Metadata> {
        let links = self.names.values().filter(|node| **node == DiskNode::File(inode)).count();
        Ok(Metadata { len_bytes: self.file(inode)?.len as u64, links: links as u64 })
    }

    fn used_bytes(&self) -> u64 {
        let mut inodes: Vec<_> = self
            .names
            .values()
            .filter_map(|node| if let DiskNode::File(inode) = node { Some(inode) } else { None })
            .collect();
        inodes.sort();
        inodes.dedup();
        inodes.into_iter().filter_map(|inode| self.files.get(inode)).map(|file| file.len as u64).sum()
    }

    /// Whether a file may grow to `len`.
    fn check_room(&self, inode: Inode, len: usize) -> io::Result<()> {
        let more = len.saturating_sub(self.file(inode)?.len) as u64;
        match self.capacity_bytes {
            Some(capacity) if more > 0 && self.used_bytes() + more > capacity => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    fn change_names(&mut self, path: &Path, changes: NameChanges) {
        for (name, node) in &changes {
            match node {
                Some(node) => self.names.insert(name.clone(), *node),
                None => self.names.remove(name),
            };
        }
        let dir = path.parent().map(Path::to_owned).unwrap_or_default();
        self.ops.push(Op::Names { dir, changes });
    }

    /// Gives a directory another name, and with it all that is in it, in one step. (Names in it
    /// that were not synced go with it as if they had been; the stores under test sync a
    /// directory before they move it.)
    fn rename_dir(&mut self, from: &Path, to: &Path) -> io::Result<()> {
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
            // An empty directory that is replaced is gone.
            at.take_if(|at| at == to);
            let rest = at.as_deref().and_then(|at| at.strip_prefix(from).ok());
            if let Some(rest) = rest {
                *at = Some(if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) });
            }
        }
        Ok(())
    }

    /// A sync as faults let it be: done, failed, or pretended.
    fn sync(&mut self, fault: Option<FaultKind>, done: Op, failed: Option<Op>) -> io::Result<()> {
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

    fn as_disk(&self) -> Disk {
        let content = |file: &CachedFile| {
            let mut bytes = vec![0; file.len];
            file.memory.read_at(0, &mut bytes);
            DiskFile::settled(bytes)
        };
        // What has no name any more is lost with the processes that have it open.
        let inodes =
            self.names.values().filter_map(|node| if let DiskNode::File(inode) = node { Some(*inode) } else { None });
        let files = inodes.filter_map(|inode| Some((inode, content(self.files.get(&inode)?)))).collect();
        Disk { names: self.names.clone(), files, ..Disk::default() }
    }

    fn settle(&mut self) {
        self.start = self.as_disk();
        self.ops.clear();
    }
}

impl Fs for SimFs {
    fn open_dir(&self, path: &Path) -> io::Result<Arc<dyn Dir>> {
        let mut state = self.state.lock();
        state.enter(Call::Open)?;
        let id = state.dir_id(path)?;
        Ok(Arc::new(SimDir { fs: self.clone(), id, path: path.to_owned() }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        let missing: Vec<PathBuf> =
            path.ancestors().take_while(|path| !state.names.contains_key(*path)).map(Path::to_owned).collect();
        for path in missing.into_iter().rev() {
            state.enter(Call::Grow)?;
            state.change_names(&path, vec![(path.clone(), Some(DiskNode::Dir))]);
            let dir = path.parent().map(Path::to_owned).unwrap_or_default();
            let fault = state.enter(Call::Sync)?;
            state.sync(fault, Op::SyncDir { dir }, None)?;
        }
        Ok(())
    }
}

impl SimFs {
    /// Gives a directory another name, in one step, as another program might do it. An empty
    /// directory that has the new name is replaced.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::DirectoryNotEmpty`] if the new name is that of a directory with something
    /// in it, and those of the file system.
    pub fn rename_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        state.enter(Call::Name)?;
        match state.names.get(from) {
            Some(DiskNode::Dir) => state.rename_dir(from, to),
            Some(DiskNode::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(not_found()),
        }
    }
}

/// An open directory.
#[derive(Debug)]
struct SimDir {
    fs: SimFs,
    id: DirId,
    /// Where it was when it was opened.
    path: PathBuf,
}

impl SimDir {
    fn create(&self, state: &mut State, name: &str) -> io::Result<Arc<dyn File>> {
        state.enter(Call::Create)?;
        let path = state.path_in(self.id, name)?;
        if state.names.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.files.insert(inode, CachedFile { memory: Arc::new(SharedMemory::new(&[])), len: 0 });
        state.change_names(&path, vec![(path.clone(), Some(DiskNode::File(inode)))]);
        Ok(Arc::new(SimFile { fs: self.fs.clone(), inode, access: Access::Write }))
    }
}

impl Dir for SimDir {
    fn path(&self) -> &Path {
        &self.path
    }

    fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.create(&mut self.fs.state.lock(), name)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        let mut state = self.fs.state.lock();
        state.enter(Call::Open)?;
        let inode = state.inode(&state.path_in(self.id, name)?)?;
        Ok(Arc::new(SimFile { fs: self.fs.clone(), inode, access }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        state.enter(Call::Rename)?;
        let (from, to) = (state.path_in(self.id, from)?, state.path_in(self.id, to)?);
        let inode = state.inode(&from)?;
        if from != to {
            state.change_names(&to, vec![(from, None), (to.clone(), Some(DiskNode::File(inode)))]);
        }
        Ok(())
    }

    fn remove_file(&self, name: &str) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        state.enter(Call::Name)?;
        let path = state.path_in(self.id, name)?;
        state.inode(&path)?;
        state.change_names(&path, vec![(path.clone(), None)]);
        Ok(())
    }

    fn hard_link(&self, name: &str, target: &dyn Dir, link: &str) -> io::Result<()> {
        let target: &dyn Any = target;
        let target = target.downcast_ref::<Self>().filter(|target| Arc::ptr_eq(&target.fs.state, &self.fs.state));
        let target = target.ok_or(io::ErrorKind::CrossesDevices)?.id;
        let mut state = self.fs.state.lock();
        state.enter(Call::Grow)?;
        let inode = state.inode(&state.path_in(self.id, name)?)?;
        let link = state.path_in(target, link)?;
        if state.names.contains_key(&link) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.change_names(&link, vec![(link.clone(), Some(DiskNode::File(inode)))]);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut state = self.fs.state.lock();
        state.enter(Call::Open)?;
        let dir = state.dir(self.id)?;
        let names = state.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| path.file_name()?.to_str().map(str::to_owned)).collect())
    }

    fn metadata(&self, name: &str) -> io::Result<Metadata> {
        let mut state = self.fs.state.lock();
        state.enter(Call::Look)?;
        let inode = state.inode(&state.path_in(self.id, name)?)?;
        state.metadata(inode)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        let fault = state.enter(Call::Sync)?;
        let dir = state.dir(self.id)?.to_owned();
        state.sync(fault, Op::SyncDir { dir }, None)
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
        let mut state = self.fs.state.lock();
        state.enter(Call::Open)?;
        let held = state.locks.entry(self.id).or_default();
        if held.exclusive || (kind == LockKind::Exclusive && held.shared > 0) {
            return Ok(None);
        }
        match kind {
            LockKind::Shared => held.shared += 1,
            LockKind::Exclusive => held.exclusive = true,
        }
        Ok(Some(Box::new(SimLock { fs: self.fs.clone(), dir: self.id, kind })))
    }

    fn is_locked_by_this_process(&self) -> bool {
        self.fs.state.lock().locks.get(&self.id).is_some_and(|held| held.exclusive || held.shared > 0)
    }

    fn room(&self) -> io::Result<DeviceRoom> {
        let mut state = self.fs.state.lock();
        state.enter(Call::Look)?;
        let available =
            |total: u64| DeviceRoom { total_bytes: total, available_bytes: total - total.min(state.used_bytes()) };
        Ok(state.capacity_bytes.map_or(DeviceRoom { total_bytes: u64::MAX, available_bytes: u64::MAX }, available))
    }

    fn preallocation_is_promise(&self) -> io::Result<bool> {
        Ok(self.fs.state.lock().promise)
    }
}

#[derive(Debug)]
struct SimLock {
    fs: SimFs,
    dir: DirId,
    kind: LockKind,
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        if let Some(held) = self.fs.state.lock().locks.get_mut(&self.dir) {
            match self.kind {
                LockKind::Shared => held.shared -= 1,
                LockKind::Exclusive => held.exclusive = false,
            }
        }
    }
}

impl SimFile {
    fn writable(&self) -> io::Result<()> {
        if self.access == Access::Write { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    fn resize(&self, len: u64, shrink: bool) -> io::Result<()> {
        self.writable()?;
        let mut state = self.fs.state.lock();
        state.enter(Call::Grow)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        state.check_room(self.inode, len)?;
        let file = state.file_mut(self.inode)?;
        if len == file.len || (len < file.len && !shrink) {
            return Ok(());
        }
        if len < file.len {
            // What was cut reads as zeros if the file grows again. Bytes that a map has published keep what
            // they hold.
            let cut = vec![0; file.len - len];
            let _ = file.memory.write_at(len, &cut);
            file.len = len;
        } else {
            file.grow(len)?;
        }
        state.ops.push(Op::SetLen { inode: self.inode, len });
        Ok(())
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.fs.state.lock();
        let fault = state.enter(Call::Read)?;
        let file = state.file(self.inode)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let count = file.len.saturating_sub(offset).min(buffer.len());
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        let count = file.memory.read_at(offset, buffer);
        if fault == Some(FaultKind::FlipBit) {
            flip(buffer, state.calls);
        }
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.writable()?;
        let mut state = self.fs.state.lock();
        let fault = state.enter(Call::Write)?;
        let mut bytes = bytes.to_vec();
        match fault {
            Some(FaultKind::ShortWrite) => bytes.truncate(bytes.len().div_ceil(2)),
            Some(FaultKind::FlipBit) => flip(&mut bytes, state.calls),
            _ => {}
        }
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let end = offset + bytes.len();
        state.check_room(self.inode, end)?;
        let file = state.file_mut(self.inode)?;
        file.grow(end)?;
        if file.memory.write_at(offset, &bytes).is_err() {
            return Err(io::Error::other("a write over bytes that a map has published"));
        }
        let count = bytes.len();
        state.ops.push(Op::Write { inode: self.inode, offset, bytes: bytes.into() });
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        let fault = state.enter(Call::Sync)?;
        let inode = self.inode;
        state.sync(fault, Op::Sync { inode, range: None }, Some(Op::FailedSync { inode }))
    }

    fn metadata(&self) -> io::Result<Metadata> {
        let mut state = self.fs.state.lock();
        state.enter(Call::Look)?;
        state.metadata(self.inode)
    }

    fn set_len(&self, len_bytes: u64) -> io::Result<()> {
        self.resize(len_bytes, true)
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        self.resize(len_bytes, false)
    }

    fn map(&self, len_bytes: usize, access: Access, _permit: MapPermit) -> io::Result<Mapping> {
        if access == Access::Write {
            self.writable()?;
        }
        let mut state = self.fs.state.lock();
        state.enter(Call::Look)?;
        let file = state.file(self.inode)?;
        if file.len < len_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let observer = Arc::new(MapWatcher { fs: self.fs.clone(), inode: self.inode });
        Ok(Mapping::of_memory(Arc::clone(&file.memory), len_bytes, access, observer))
    }
}

/// Records what happens to a file through its maps.
struct MapWatcher {
    fs: SimFs,
    inode: Inode,
}

impl MemoryObserver for MapWatcher {
    fn wrote(&self, offset: usize, bytes: &[u8]) {
        let mut state = self.fs.state.lock();
        // It cannot fail, but it is a place where a crash can come.
        if state.enter(Call::Memory).is_ok() {
            state.ops.push(Op::Write { inode: self.inode, offset, bytes: bytes.into() });
        }
    }

    fn sync(&self, range: Range<usize>) -> io::Result<()> {
        let mut state = self.fs.state.lock();
        let fault = state.enter(Call::Sync)?;
        let inode = self.inode;
        state.sync(fault, Op::Sync { inode, range: Some(range) }, Some(Op::FailedSync { inode }))
    }
}

/// Flips one bit, chosen by `salt`.
fn flip(bytes: &mut [u8], salt: u64) {
    let bits = bytes.len() as u64 * 8;
    if bits == 0 {
        return;
    }
    let bit = mix64(salt) % bits;
    if let Some(byte) = usize::try_from(bit / 8).ok().and_then(|index| bytes.get_mut(index)) {
        *byte ^= 1 << (bit % 8);
    }
}
