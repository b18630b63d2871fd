//! The file of a table under construction: appends bytes at its end, in large writes.

use std::path::PathBuf;
use std::sync::Arc;

use hightower_segment::{File, retry_interrupted, write_all_at};

use crate::error::TableError;

/// The buffer is written when it has at least this many bytes.
const BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(crate) struct AppendFile {
    file: Arc<dyn File>,
    path: PathBuf,
    buffer: Vec<u8>,
    /// The bytes written to the file so far.
    written: u64,
    max_len_bytes: u64,
}

impl AppendFile {
    pub(crate) fn new(file: Arc<dyn File>, path: PathBuf, max_len_bytes: u64) -> Self {
        Self { file, path, buffer: Vec::with_capacity(BUFFER_BYTES + 4096), written: 0, max_len_bytes }
    }

    /// The offset of the next byte.
    pub(crate) fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<(), TableError> {
        if bytes.len() as u64 > self.max_len_bytes.saturating_sub(self.position()) {
            return Err(TableError::TooLong { path: self.path.clone(), max_len_bytes: self.max_len_bytes });
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    pub(crate) fn flush(&mut self) -> Result<(), TableError> {
        let written = write_all_at(self.file.as_ref(), &self.buffer, self.written);
        written.map_err(|(_, error)| TableError::io("write", &self.path, error))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes all appended bytes durable.
    pub(crate) fn sync(&mut self) -> Result<(), TableError> {
        self.flush()?;
        retry_interrupted(|| self.file.sync_data()).map_err(|error| TableError::io("sync", &self.path, error))
    }
}
