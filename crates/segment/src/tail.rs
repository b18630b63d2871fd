//! The two ways in which bytes get behind the end of the active segment.
//!
//! [`Mapped`] copies into the mapped pages: the fast way, safe where preallocation is a promise. [`Positioned`] writes by system
//! calls: for file systems that may run out of room at any write. After either returns the bytes are in the page cache, and
//! survive the death of the process.

use std::fmt::Debug;
use std::io;

use crate::fs::write_all_at;
use crate::mapping::MappingWriter;
use crate::segment::Segment;

/// How commits are appended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppendMode {
    /// Mapped where the file system keeps preallocated room, positioned elsewhere.
    #[default]
    Auto,
    /// Through a writable map. On a file system that does not keep preallocated room, a full disk kills the process.
    Mapped,
    /// By positioned writes.
    Positioned,
}

/// Appends behind the published end of one segment.
pub(crate) trait Tail: Debug + Send {
    /// Writes `parts` one after the other at `offset`, the published end, and publishes them all at once. They are known to fit.
    ///
    /// # Errors
    ///
    /// How many bytes may have been written, none of them published, and why not all were.
    fn append(&mut self, segment: &Segment, offset: u32, parts: &[&[u8]]) -> Result<(), (u64, io::Error)>;
}

#[derive(Debug)]
pub(crate) struct Mapped(pub(crate) MappingWriter);

impl Tail for Mapped {
    #[inline]
    fn append(&mut self, segment: &Segment, _offset: u32, parts: &[&[u8]]) -> Result<(), (u64, io::Error)> {
        match segment.mapping().append(&mut self.0, parts) {
            Ok(_) => Ok(()),
            Err(error) => Err((0, io::Error::other(error))),
        }
    }
}

/// Commits of up to this length go out in one system call.
const JOINED_LEN_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(crate) struct Positioned {
    pub(crate) writer: MappingWriter,
    pub(crate) joined: Vec<u8>,
}

impl Tail for Positioned {
    fn append(&mut self, segment: &Segment, offset: u32, parts: &[&[u8]]) -> Result<(), (u64, io::Error)> {
        let file = segment.file().map_err(|error| (0, io::Error::other(error)))?;
        let file = file.as_ref();
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len <= JOINED_LEN_BYTES {
            self.joined.clear();
            parts.iter().for_each(|part| self.joined.extend_from_slice(part));
            write_all_at(file, &self.joined, offset.into())?;
        } else {
            let mut at = u64::from(offset);
            for part in parts {
                write_all_at(file, part, at).map_err(|(written, error)| (at - u64::from(offset) + written, error))?;
                at += part.len() as u64;
            }
        }
        let end = offset as usize + len;
        segment.mapping().publish(&mut self.writer, end).map_err(|error| (len as u64, io::Error::other(error)))
    }
}
