//! An open file of the simulated file system, and its maps.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use hightower_seams::mix64;

use super::disk::{Inode, Op};
use super::fault::{Call, FaultKind};
use super::page_cache::SharedCache;
use crate::fs::{Access, File, Metadata};
use crate::mapping::{MapPermit, Mapping, MemoryObserver};

/// An open file.
#[derive(Debug)]
pub(super) struct SimFile {
    cache: SharedCache,
    inode: Inode,
    access: Access,
}

impl SimFile {
    pub(super) fn new(cache: SharedCache, inode: Inode, access: Access) -> Self {
        Self { cache, inode, access }
    }

    fn writable(&self) -> io::Result<()> {
        if self.access == Access::Write { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
    }

    fn resize(&self, len: u64, shrink: bool) -> io::Result<()> {
        self.writable()?;
        let mut cache = self.cache.lock();
        cache.enter(Call::Grow)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        cache.check_room(self.inode, len)?;
        let file = cache.file_mut(self.inode)?;
        if len == file.len || (len < file.len && !shrink) {
            return Ok(());
        }
        if len < file.len {
            // Truncated bytes read as zeros if the file grows again. Bytes that a map has published
            // stay.
            let cut = vec![0; file.len - len];
            let _ = file.memory.write_at(len, &cut);
            file.len = len;
        } else {
            file.grow(len)?;
        }
        cache.ops.push(Op::SetLen { inode: self.inode, len });
        Ok(())
    }
}

impl File for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut cache = self.cache.lock();
        let fault = cache.enter(Call::Read)?;
        let file = cache.file(self.inode)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let count = file.len.saturating_sub(offset).min(buffer.len());
        let buffer = buffer.get_mut(..count).unwrap_or_default();
        let count = file.memory.read_at(offset, buffer);
        if fault == Some(FaultKind::FlipBit) {
            flip(buffer, cache.calls);
        }
        Ok(count)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.writable()?;
        let mut cache = self.cache.lock();
        let fault = cache.enter(Call::Write)?;
        let mut bytes = bytes.to_vec();
        match fault {
            Some(FaultKind::ShortWrite) => bytes.truncate(bytes.len().div_ceil(2)),
            Some(FaultKind::FlipBit) => flip(&mut bytes, cache.calls),
            _ => {}
        }
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let end = offset + bytes.len();
        cache.check_room(self.inode, end)?;
        let file = cache.file_mut(self.inode)?;
        file.grow(end)?;
        if file.memory.write_at(offset, &bytes).is_err() {
            return Err(io::Error::other("a write to bytes that a map has published"));
        }
        let count = bytes.len();
        cache.ops.push(Op::Write { inode: self.inode, offset, bytes: bytes.into() });
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut cache = self.cache.lock();
        let fault = cache.enter(Call::Sync)?;
        let inode = self.inode;
        cache.sync(fault, Op::Sync { inode, range: None }, Some(Op::FailedSync { inode }))
    }

    fn metadata(&self) -> io::Result<Metadata> {
        let mut cache = self.cache.lock();
        cache.enter(Call::Look)?;
        cache.metadata(self.inode)
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
        let mut cache = self.cache.lock();
        cache.enter(Call::Look)?;
        let file = cache.file(self.inode)?;
        if file.len < len_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let observer = Arc::new(MapWatcher { cache: Arc::clone(&self.cache), inode: self.inode });
        Ok(Mapping::of_memory(Arc::clone(&file.memory), len_bytes, access, observer))
    }
}

/// Records the changes of a file through its maps.
struct MapWatcher {
    cache: SharedCache,
    inode: Inode,
}

impl MemoryObserver for MapWatcher {
    fn wrote(&self, offset: usize, bytes: &[u8]) {
        let mut cache = self.cache.lock();
        // It cannot fail, but a crash can happen here.
        if cache.enter(Call::Memory).is_ok() {
            cache.ops.push(Op::Write { inode: self.inode, offset, bytes: bytes.into() });
        }
    }

    fn sync(&self, range: Range<usize>) -> io::Result<()> {
        let mut cache = self.cache.lock();
        let fault = cache.enter(Call::Sync)?;
        let inode = self.inode;
        cache.sync(fault, Op::Sync { inode, range: Some(range) }, Some(Op::FailedSync { inode }))
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
