//! One segment file, readable by anyone.
//!
//! A [`Segment`] is the mapped file and what is known of it. Reading a record is a bounds check and
//! a decode: no lock, no shared counter, no system call. Whoever appends publishes bytes first;
//! offsets behind the published end hold no record.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hightower_log::{Record, RecordBody, RecordContext, SegmentHeader, SegmentKind, SetValue, decode, decode_value};

use crate::error::SegmentError;
use crate::fs::{File, Lock, retry_interrupted};
use crate::lock::Mutex;
use crate::mapping::{Mapping, Pages};
use crate::scan::Entries;

/// Where the first record starts.
#[allow(clippy::cast_possible_truncation, reason = "64")]
pub(crate) const FIRST_RECORD_AT: u32 = SegmentHeader::LEN as u32;

/// How much a sync writes at once.
const SYNC_STEP_BYTES: usize = 4 << 20;

/// A segment file: its bytes, mapped. Shared as `Arc<Segment>` by everyone who reads.
#[derive(Debug)]
pub struct Segment {
    context: RecordContext,
    mapping: Mapping,
    header: SegmentHeader,
    path: PathBuf,
    /// Open while there may be something to write or to sync. A sealed segment's is closed: readers
    /// have its map, and a process may have few files open.
    file: Mutex<Option<Arc<dyn File>>>,
    /// Up to which offset everything is known to be durable, here and in all segments before; 0
    /// while a segment before is not.
    durable: AtomicU32,
    /// How far pages were touched ahead.
    prefaulted: AtomicU32,
    /// How many of its bytes were written by system calls, for being long, where others are copied.
    written: AtomicU32,
    /// In what pages it is kept.
    pages: Mutex<Pages>,
    /// How much of the file may be used: all of it, until room is given back.
    capacity: AtomicU32,
    sealed: AtomicBool,
    /// In a store that is open for reading, what keeps writers out: one that recovers may cut the
    /// file under a borrowed slice. The last field, so that it outlives the map.
    #[allow(dead_code, reason = "held for its drop")]
    lock: Option<Arc<dyn Lock>>,
}

impl Segment {
    /// With its file, if there will be something to write or to sync.
    pub(crate) fn new(path: PathBuf, header: SegmentHeader, file: Option<Arc<dyn File>>, mapping: Mapping) -> Self {
        Self {
            context: header.context(),
            capacity: AtomicU32::new(to_offset(mapping.len())),
            mapping,
            header,
            path,
            file: Mutex::new(file),
            durable: AtomicU32::new(0),
            prefaulted: AtomicU32::new(0),
            written: AtomicU32::new(0),
            pages: Mutex::default(),
            sealed: AtomicBool::new(false),
            lock: None,
        }
    }

    /// The same, holding a lock for as long as it lives.
    pub(crate) fn holding(self, lock: &Arc<dyn Lock>) -> Self {
        Self { lock: Some(Arc::clone(lock)), ..self }
    }

    /// The segment's number in its store.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.header.id
    }

    /// How the segment came to be.
    #[must_use]
    pub fn kind(&self) -> SegmentKind {
        self.header.kind
    }

    /// What the segment says about itself.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// What its records are encoded against.
    #[must_use]
    #[inline]
    pub fn context(&self) -> &RecordContext {
        &self.context
    }

    /// Where its file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its published records end, in bytes from the start of the file; grows while the
    /// segment is active.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        to_offset(self.mapping.published())
    }

    /// How much of the device the file takes up, used or not, in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Whether no commit is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len_bytes() <= FIRST_RECORD_AT
    }

    /// Whether it is complete, durable, and named as such in the manifest.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Up to which offset this segment, and everything before it, is known to be durable; 0 while a
    /// segment before it is not. What a record written now puts into its `durable` field.
    #[must_use]
    #[inline]
    pub fn durable(&self) -> u32 {
        self.durable.load(Ordering::Acquire)
    }

    /// The record at an offset, verified. Costs an atomic load and the checksum over the record.
    ///
    /// # Errors
    ///
    /// [`SegmentError::OutOfBounds`] where no record was published; [`SegmentError::Corrupt`] if
    /// the bytes there are no record.
    #[inline]
    pub fn record_at(&self, offset: u32) -> Result<Record<'_>, SegmentError> {
        decode(self.record_bytes(offset)?, &self.context, offset).map_err(|error| self.damaged(offset, error))
    }

    /// The value of the set at an offset, verified; `None` if the record there is none. The short
    /// way of [`record_at`](Self::record_at).
    ///
    /// # Errors
    ///
    /// As [`record_at`](Self::record_at).
    #[inline]
    pub fn value_at(&self, offset: u32) -> Result<Option<SetValue<'_>>, SegmentError> {
        decode_value(self.record_bytes(offset)?, &self.context, offset).map_err(|error| self.damaged(offset, error))
    }

    #[inline]
    fn record_bytes(&self, offset: u32) -> Result<&[u8], SegmentError> {
        let bytes = self.mapping.published_from(offset as usize).filter(|_| offset >= FIRST_RECORD_AT);
        bytes.ok_or_else(|| self.out_of_bounds(offset))
    }

    /// The published bytes from an offset on, not verified; none if there are none. For warming
    /// caches before [`record_at`](Self::record_at), and for copying a segment as a whole.
    #[must_use]
    #[inline]
    pub fn bytes_from(&self, offset: u32) -> &[u8] {
        self.mapping.published_from(offset as usize).unwrap_or_default()
    }

    /// All commands of the segment, in file order, each verified.
    #[must_use]
    pub fn entries(&self) -> Entries<'_> {
        self.entries_from(FIRST_RECORD_AT, self.header.base_seq)
    }

    /// The commands from `offset` on, where the commit with `seq` begins. (For a compacted segment
    /// seq counts nothing.)
    #[must_use]
    pub fn entries_from(&self, offset: u32, seq: u64) -> Entries<'_> {
        Entries::new(self, offset, seq)
    }

    /// When the segment was ended by a seal, Unix milliseconds; `None` if it was not: it is active,
    /// compacted, or a crash has ended it. Costs the decoding of a few bytes.
    #[must_use]
    pub fn sealed_at(&self) -> Option<i64> {
        let end = self.len_bytes();
        // A seal is as short as its numbers allow.
        (1..=crate::shared::SEAL_LEN_BYTES).find_map(|len| {
            let record = self.record_at(end.checked_sub(len)?).ok()?;
            match record.body {
                RecordBody::Seal { timestamp, .. } if record.len == len => Some(timestamp),
                _ => None,
            }
        })
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Its file, if it is not sealed.
    pub(crate) fn file(&self) -> Result<Arc<dyn File>, SegmentError> {
        let file = self.file.lock().clone();
        file.ok_or_else(|| SegmentError::Invalid {
            what: format!("segment {} is sealed, and its file closed", self.id()),
        })
    }

    /// Closes its file, which nobody will write to or sync any more.
    pub(crate) fn close_file(&self) {
        self.file.lock().take();
    }

    pub(crate) fn raise_durable(&self, offset: u32) {
        self.durable.fetch_max(offset, Ordering::AcqRel);
    }

    pub(crate) fn mark_sealed(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    /// Whether all pages of `len` bytes at `offset` were touched ahead.
    pub(crate) fn is_touched(&self, offset: u32, len: usize) -> bool {
        offset as usize + len <= self.prefaulted.load(Ordering::Relaxed) as usize
    }

    /// The appender alone does this, so a load and a store are enough.
    pub(crate) fn count_written(&self, len: usize) {
        self.written.store(self.written_bytes().saturating_add(to_offset(len)), Ordering::Relaxed);
    }

    pub(crate) fn written_bytes(&self) -> u32 {
        self.written.load(Ordering::Relaxed)
    }

    /// Has the device begin with the first step of what a sync will write, while its caller has
    /// something else to do.
    pub(crate) fn start_writing(&self) {
        let from = self.durable() as usize;
        let end = (self.len_bytes() as usize).min(from + SYNC_STEP_BYTES);
        self.unmap_before_writing(from..end);
        // A file that cannot be opened is met by the sync.
        if let Ok(file) = self.file() {
            file.start_writing(from as u64, end.saturating_sub(from) as u64);
        }
    }

    fn unmap_before_writing(&self, range: Range<usize>) {
        const WORTH_IT_BYTES: usize = 16 << 10;
        if range.len() >= WORTH_IT_BYTES {
            // Refused for memory that the process has locked; what follows is right without it, if slower.
            let _unmapped = self.mapping.unmap_pages(range);
        }
    }

    /// Makes everything up to `end` durable. The caller sees to it that no two run at once.
    pub(crate) fn sync_to(&self, end: u32, by_range: bool) -> Result<(), SegmentError> {
        let synced = if by_range {
            self.sync_range(self.durable() as usize, end as usize)
        } else {
            let file = self.file()?;
            retry_interrupted(|| file.sync_data())
        };
        synced.map_err(|error| SegmentError::io("sync", &self.path, error))
    }

    /// Step by step, so that what others want of the device meanwhile waits for one step alone: the
    /// header of the next segment does while a whole segment of large values is on its way.
    fn sync_range(&self, from: usize, end: usize) -> std::io::Result<()> {
        let mut at = from;
        while at < end {
            let next = (at + SYNC_STEP_BYTES).min(end);
            self.unmap_before_writing(at..next);
            retry_interrupted(|| self.mapping.sync(at..next))?;
            at = next;
        }
        Ok(())
    }

    /// Touches pages up to `end` that were not touched yet; gives the number of bytes touched. What
    /// is touched from now on, by whomever, is kept in such pages.
    pub(crate) fn prefault_to(&self, end: u32, pages: Pages) -> Result<u32, SegmentError> {
        if std::mem::replace(&mut *self.pages.lock(), pages) != pages {
            self.mapping.keep_in(pages);
        }
        let start = self.prefaulted.load(Ordering::Relaxed).max(self.len_bytes());
        let end = end.min(self.capacity_bytes());
        if start >= end {
            return Ok(0);
        }
        let touched = self
            .mapping
            .prefault(start as usize..end as usize)
            .map_err(|error| SegmentError::io("prefault", &self.path, error))?;
        self.prefaulted.fetch_max(end, Ordering::Relaxed);
        Ok(to_offset(touched))
    }

    /// Gives back the room behind `end`, which nobody will write to any more. The file keeps its
    /// length: it is mapped.
    pub(crate) fn release_behind(&self, end: u32) -> Result<(), SegmentError> {
        self.capacity.fetch_min(end, Ordering::Relaxed);
        let released = self.file()?.release_behind(end.into());
        released.map_err(|error| SegmentError::io("release room of", &self.path, error))
    }

    /// Gives back what a sealed segment has not used, if that is worth a system call.
    pub(crate) fn release_unused(&self) -> Result<(), SegmentError> {
        const WORTH_BYTES: u32 = 64 << 10;
        let end = self.len_bytes();
        if self.capacity_bytes() - end < WORTH_BYTES {
            return Ok(());
        }
        // Another thread that has sealed it too may have released the room and closed the file.
        let Some(file) = self.file.lock().clone() else { return Ok(()) };
        self.capacity.fetch_min(end, Ordering::Relaxed);
        file.release_behind(end.into()).map_err(|error| SegmentError::io("release room of", &self.path, error))
    }

    #[cold]
    fn out_of_bounds(&self, offset: u32) -> SegmentError {
        SegmentError::OutOfBounds { path: self.path.clone(), offset, end: self.len_bytes() }
    }

    #[cold]
    pub(crate) fn damaged(&self, offset: u32, error: hightower_log::DecodeError) -> SegmentError {
        SegmentError::decode(&self.path, offset.into(), error)
    }
}

/// A place in a mapping as an offset: no mapping of a segment is longer than `u32::MAX`.
pub(crate) fn to_offset(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}
