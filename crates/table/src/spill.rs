//! The writer's scratch file, for data past its memory limit: chunks with checksums, in a file
//! without a name.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use hightower_segment::{Dir, File, read_full_at, write_all_at};

use crate::checksum::Salt;
use crate::error::{TableError, damaged};
use crate::planted;

/// The bytes of a chunk, without its checksum.
pub(crate) const CHUNK_BYTES: usize = 32 << 10;
const CHECK_LEN: u64 = 8;

/// The scratch file of one writer. Its first use creates it and removes its name at once, so that
/// no crash or error leaves it behind.
#[derive(Debug)]
pub(crate) struct Spill {
    dir: Arc<dyn Dir>,
    name: String,
    path: PathBuf,
    salt: Salt,
    file: Option<Arc<dyn File>>,
    /// Whether the file still has its name.
    is_named: bool,
    end: u64,
    /// The buffer for a chunk and its checksum.
    checked: Vec<u8>,
}

impl Drop for Spill {
    fn drop(&mut self) {
        if self.is_named {
            // If this fails, an unused file remains.
            let _garbage = self.dir.remove_file(&self.name);
        }
    }
}

/// Chunks that follow each other in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    at: u64,
    /// The length without checksums. Every chunk but the last is full.
    len_bytes: u64,
}

impl Spill {
    pub(crate) fn new(dir: Arc<dyn Dir>, name: String, salt: Salt) -> Self {
        let path = dir.path().join(&name);
        Self { dir, name, path, salt, file: None, is_named: false, end: 0, checked: Vec::new() }
    }

    fn file(&mut self) -> Result<&dyn File, TableError> {
        if self.file.is_none() {
            let created = self.dir.create_new(&self.name).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => TableError::Exists { path: self.path.clone() },
                _ => TableError::io("create", &self.path, error),
            });
            let file = created?;
            self.is_named = true;
            self.dir.remove_file(&self.name).map_err(|error| TableError::io("remove", &self.path, error))?;
            self.is_named = false;
            self.file = Some(file);
        }
        self.file.as_deref().ok_or_else(|| TableError::io("open", &self.path, io::ErrorKind::NotFound.into()))
    }

    /// Writes bytes as chunks.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<Extent, TableError> {
        let mut extent = self.begin();
        bytes.chunks(CHUNK_BYTES).try_for_each(|chunk| self.write_chunk(&mut extent, chunk))?;
        Ok(extent)
    }

    /// An empty extent at the end of the file.
    pub(crate) fn begin(&self) -> Extent {
        Extent { at: self.end, len_bytes: 0 }
    }

    /// Appends a chunk to the extent that was begun last. All its chunks but the last must be full.
    pub(crate) fn write_chunk(&mut self, extent: &mut Extent, chunk: &[u8]) -> Result<(), TableError> {
        let at = self.end;
        self.checked.clear();
        self.checked.extend_from_slice(chunk);
        self.checked.extend_from_slice(&self.salt.long_check(at, chunk).to_le_bytes());
        let checked = std::mem::take(&mut self.checked);
        let written = write_all_at(self.file()?, &checked, at);
        written.map_err(|(_, error)| TableError::io("write", &self.path, error))?;
        self.checked = checked;
        self.end += self.checked.len() as u64;
        extent.len_bytes += chunk.len() as u64;
        Ok(())
    }

    /// Reads the first chunk of an extent, and removes it from the extent.
    fn read(&mut self, extent: &mut Extent, chunk: &mut Vec<u8>) -> Result<(), TableError> {
        let len = usize::try_from(extent.len_bytes).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let at = extent.at;
        chunk.clear();
        chunk.resize(len + 8, 0);
        let read = read_full_at(self.file()?, chunk, at).map_err(|error| TableError::io("read", &self.path, error))?;
        let (bytes, check) = chunk.split_at(len);
        let is_right = check == self.salt.long_check(at, bytes).to_le_bytes();
        if read != len + 8 || !is_right && !planted("table_scratch_unverified") {
            let what = "scratch bytes that differ from the written ones";
            return Err(TableError::corrupt(&self.path, damaged(at, what)));
        }
        chunk.truncate(len);
        extent.at += len as u64 + CHECK_LEN;
        extent.len_bytes -= len as u64;
        Ok(())
    }
}

/// Bytes that are written once and then read once. A short stream stays in memory.
#[derive(Debug, Default)]
pub(crate) struct SpillStream {
    extents: Vec<Extent>,
    buffer: Vec<u8>,
}

/// The bytes of a stream that stay in memory before they spill in one write.
const STREAM_BYTES: usize = 1 << 20;

impl SpillStream {
    pub(crate) fn push(&mut self, bytes: &[u8], spill: &mut Spill) -> Result<(), TableError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= STREAM_BYTES {
            self.extents.push(spill.write(&self.buffer)?);
            self.buffer.clear();
        }
        Ok(())
    }

    pub(crate) fn into_reader(self) -> SpillReader {
        let extents = self.extents.into_iter();
        SpillReader { extent: Extent::default(), extents, last: self.buffer, chunk: Vec::new(), at: 0 }
    }
}

/// Reads a stream from its beginning.
#[derive(Debug)]
pub(crate) struct SpillReader {
    extent: Extent,
    extents: std::vec::IntoIter<Extent>,
    /// The end of the stream, which stayed in memory.
    last: Vec<u8>,
    chunk: Vec<u8>,
    at: usize,
}

impl SpillReader {
    /// A reader of one extent.
    pub(crate) fn of(extent: Extent) -> Self {
        Self { extent, extents: Vec::new().into_iter(), last: Vec::new(), chunk: Vec::new(), at: 0 }
    }

    /// Fills a buffer; `false` if the stream ends first.
    pub(crate) fn read(&mut self, mut buffer: &mut [u8], spill: &mut Spill) -> Result<bool, TableError> {
        while !buffer.is_empty() {
            let there = self.chunk.get(self.at..).unwrap_or_default();
            if there.is_empty() {
                if !self.next_chunk(spill)? {
                    return Ok(false);
                }
                continue;
            }
            let count = there.len().min(buffer.len());
            let (now, rest) = buffer.split_at_mut(count);
            now.copy_from_slice(there.get(..count).unwrap_or_default());
            self.at += count;
            buffer = rest;
        }
        Ok(true)
    }

    /// Fills a buffer from a stream that must have enough bytes.
    pub(crate) fn read_exact(&mut self, buffer: &mut [u8], spill: &mut Spill) -> Result<(), TableError> {
        if self.read(buffer, spill)? {
            return Ok(());
        }
        Err(TableError::io("read", &spill.path, io::ErrorKind::UnexpectedEof.into()))
    }

    fn next_chunk(&mut self, spill: &mut Spill) -> Result<bool, TableError> {
        self.at = 0;
        if self.extent.len_bytes == 0 {
            match self.extents.next() {
                Some(extent) => self.extent = extent,
                None => {
                    self.chunk = std::mem::take(&mut self.last);
                    return Ok(!self.chunk.is_empty());
                }
            }
        }
        spill.read(&mut self.extent, &mut self.chunk)?;
        Ok(true)
    }
}
