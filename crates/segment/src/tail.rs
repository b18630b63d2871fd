//! The two ways in which bytes get behind the end of the active segment.
//!
//! [`Mapped`] copies into the mapped pages: the fast way, safe where preallocation is a promise.
//! [`Positioned`] writes by system calls: for file systems that may run out of room at any write.
//! After either returns the bytes are in the page cache, and survive the death of the process.
//!
//! Long records are written by [`Mapped`] too, unless their pages were touched ahead. To copy into
//! an untouched page the system must find memory, clear it and interrupt the writer, for each; a
//! write brings its own content, and finds memory for many pages at once. From 32 KiB on it is as
//! fast at least, and its slowest are ten times faster, most of all on virtual machines whose host
//! takes free memory back.

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
    /// Through a writable map. On a file system that does not keep preallocated room, a full disk
    /// kills the process.
    Mapped,
    /// By positioned writes.
    Positioned,
}

/// Appends behind the published end of one segment.
pub(crate) trait Tail: Debug + Send + Sync {
    /// Writes `parts`, which hold `records` commands, one after the other at `offset`, the
    /// published end, and publishes them all at once. They are known to fit.
    ///
    /// # Errors
    ///
    /// How many bytes may have been written, none of them published, and why not all were.
    fn append(&mut self, segment: &Segment, offset: u32, parts: &[&[u8]], records: u32)
    -> Result<(), (u64, io::Error)>;
}

#[derive(Debug)]
pub(crate) struct Mapped {
    pub(crate) writer: MappingWriter,
    /// Records of this length are written where pages were not touched.
    pub(crate) long_record_bytes: u32,
    pub(crate) joined: Vec<u8>,
}

impl Tail for Mapped {
    #[inline]
    fn append(
        &mut self,
        segment: &Segment,
        offset: u32,
        parts: &[&[u8]],
        records: u32,
    ) -> Result<(), (u64, io::Error)> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len as u64 >= u64::from(self.long_record_bytes) * u64::from(records) && !segment.is_touched(offset, len) {
            write(segment, &mut self.writer, &mut self.joined, offset, parts)?;
            segment.count_written(len);
            return Ok(());
        }
        match segment.mapping().append(&mut self.writer, parts) {
            Ok(_) => Ok(()),
            Err(error) => Err((0, io::Error::other(error))),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Positioned {
    pub(crate) writer: MappingWriter,
    pub(crate) joined: Vec<u8>,
}

impl Tail for Positioned {
    fn append(
        &mut self,
        segment: &Segment,
        offset: u32,
        parts: &[&[u8]],
        _records: u32,
    ) -> Result<(), (u64, io::Error)> {
        write(segment, &mut self.writer, &mut self.joined, offset, parts)
    }
}

/// A part of this length gets a system call of its own; shorter ones go out together, since copying
/// them costs less than a call.
const ALONE_MIN_BYTES: usize = 8 << 10;

/// Writes and publishes by system calls.
fn write(
    segment: &Segment,
    writer: &mut MappingWriter,
    joined: &mut Vec<u8>,
    offset: u32,
    parts: &[&[u8]],
) -> Result<(), (u64, io::Error)> {
    let file = segment.file().map_err(|error| (0, io::Error::other(error)))?;
    let mut done = 0;
    let mut put = |bytes: &[u8]| {
        let written = write_all_at(file.as_ref(), bytes, u64::from(offset) + done);
        written.map_err(|(written, error)| (done + written, error))?;
        done += bytes.len() as u64;
        Ok(())
    };
    joined.clear();
    for part in parts {
        if part.len() < ALONE_MIN_BYTES {
            joined.extend_from_slice(part);
            continue;
        }
        put(joined)?;
        joined.clear();
        put(part)?;
    }
    put(joined)?;
    let end = offset as usize + usize::try_from(done).unwrap_or(usize::MAX);
    segment.mapping().publish(writer, end).map_err(|error| (done, io::Error::other(error)))
}
