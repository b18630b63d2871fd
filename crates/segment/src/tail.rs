//! The two methods of appending to the active segment.
//!
//! [`MappedTail`] copies into the mapped pages: the fast method, for file systems that guarantee
//! preallocated room. [`PositionedTail`] writes by system calls, for file systems that may run out
//! of room at any write. After either returns, the bytes are in the page cache and survive the
//! death of the process.
//!
//! [`MappedTail`] also writes long records by system calls, unless their pages were touched ahead.
//! When a copy meets an untouched page, the system interrupts the writer, allocates memory and
//! clears it. A write needs no clearing, and allocates many pages at once. From 32 KiB on, a write
//! is at least as fast. Its slowest cases are ten times faster, mostly on virtual machines whose
//! host reclaims free memory.

use std::fmt::Debug;
use std::io;

use crate::fs::write_all_at;
use crate::mapping::MappingWriter;
use crate::segment::Segment;

/// Appends at the published end of one segment.
pub(crate) trait Tail: Debug + Send + Sync {
    /// Writes `parts` in order at `offset`, the published end, and publishes them atomically. They
    /// have `records` commands, and must fit.
    ///
    /// # Errors
    ///
    /// The number of bytes that may have been written, and the cause. None of them are published.
    fn append(&mut self, segment: &Segment, offset: u32, parts: &[&[u8]], records: u32)
    -> Result<(), (u64, io::Error)>;
}

#[derive(Debug)]
pub(crate) struct MappedTail {
    pub(crate) writer: MappingWriter,
    /// The minimum length of records that are written by system calls if their pages were not
    /// touched.
    pub(crate) long_record_bytes: u32,
    pub(crate) joined: Vec<u8>,
}

impl Tail for MappedTail {
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
pub(crate) struct PositionedTail {
    pub(crate) writer: MappingWriter,
    pub(crate) joined: Vec<u8>,
}

impl Tail for PositionedTail {
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

/// The minimum length of a part that gets a separate system call. Shorter parts are joined, because
/// copying them costs less than a call.
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
