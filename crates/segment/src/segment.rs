//! A segment file, for readers.
//!
//! A [`Segment`] is the mapped file with its properties. Reading a record is a bounds check and a
//! decode: no lock, no shared counter, no system call. The appender publishes bytes; offsets behind
//! the published end have no record.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use hightower_log::{Record, RecordBody, RecordContext, SegmentHeader, SegmentKind, SetValue, decode, decode_value};

use crate::error::SegmentError;
use crate::fs::{File, Lock, retry_interrupted};
use crate::layout::{FIRST_RECORD_AT, SEAL_LEN_BYTES, to_offset};
use crate::lock::Mutex;
use crate::mapping::{Mapping, Pages};

/// Length of one step of a sync, in bytes.
const SYNC_STEP_BYTES: usize = 4 << 20;

/// A mapped segment file, shared as `Arc<Segment>` by readers.
#[derive(Debug)]
pub struct Segment {
    context: RecordContext,
    mapping: Mapping,
    header: SegmentHeader,
    path: PathBuf,
    /// Open while writes or syncs may follow. The file of a sealed segment is closed: readers use
    /// the map, and the number of descriptors is limited.
    file: Mutex<Option<Arc<dyn File>>>,
    /// The offset up to which this segment, and all earlier ones, are known to be durable; 0 while
    /// an earlier one is not.
    durable: AtomicU32,
    /// The end of the touched pages.
    prefaulted: AtomicU32,
    /// Number of bytes written by system calls instead of copies, because the records are long.
    written: AtomicU32,
    /// The kind of its pages.
    pages: Mutex<Pages>,
    /// The usable length of the file: all of it, until room is freed.
    capacity: AtomicU32,
    sealed: AtomicBool,
    /// The number of its commits, once it takes no more.
    commits: OnceLock<u32>,
    /// In a read-only store, the lock against writers: their recovery may truncate the file under a
    /// borrowed slice. The last field, so that it outlives the map.
    #[allow(dead_code, reason = "held for its drop")]
    lock: Option<Arc<dyn Lock>>,
}

impl Segment {
    /// A segment, with its file if writes or syncs follow.
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
            commits: OnceLock::new(),
            lock: None,
        }
    }

    /// The same, with its first `len` bytes published without an appender.
    pub(crate) fn published(self, len: u32) -> Result<Self, SegmentError> {
        let invalid = |what: String| SegmentError::Invalid { what };
        let mut writer = self.mapping.writer().ok_or_else(|| invalid("the segment has a writer".to_owned()))?;
        let done = self.mapping.publish(&mut writer, len as usize);
        done.map_err(|error| invalid(error.to_string()))?;
        Ok(self)
    }

    /// The same, with a lock for its lifetime.
    pub(crate) fn holding(self, lock: &Arc<dyn Lock>) -> Self {
        Self { lock: Some(Arc::clone(lock)), ..self }
    }

    /// The segment's number in its store.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.header.id
    }

    /// The kind of writer of the segment.
    #[must_use]
    pub fn kind(&self) -> SegmentKind {
        self.header.kind
    }

    /// The header of the segment.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The context for encoding its records.
    #[must_use]
    #[inline]
    pub fn context(&self) -> &RecordContext {
        &self.context
    }

    /// The path of its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The end of its published records, in bytes from the start of the file; it grows while the
    /// segment is active.
    #[must_use]
    pub fn len_bytes(&self) -> u32 {
        to_offset(self.mapping.published())
    }

    /// The disk space of the file, used or not, in bytes.
    #[must_use]
    pub fn capacity_bytes(&self) -> u32 {
        self.capacity.load(Ordering::Relaxed)
    }

    /// Whether a record begins at this end of another one: whether more is published.
    #[must_use]
    #[inline]
    pub fn continues_at(&self, offset: u32) -> bool {
        self.mapping.appended_at(offset as usize).is_some()
    }

    /// Whether it has no commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len_bytes() <= FIRST_RECORD_AT
    }

    /// Whether it is complete, durable, and named as such in the manifest.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// The number of its commits; `None` while it takes more, and for a compacted segment.
    #[must_use]
    pub fn commits(&self) -> Option<u32> {
        self.commits.get().copied()
    }

    /// The seq of its last commit, or the one before its first; `None` while it takes more, and for
    /// a compacted segment.
    #[must_use]
    pub fn last_seq(&self) -> Option<u64> {
        Some(self.header.base_seq.saturating_add(self.commits()?.into()).saturating_sub(1))
    }

    /// The offset up to which this segment, and everything before it, is known to be durable; 0
    /// while an earlier segment is not. The value for the `durable` field of the next record.
    #[must_use]
    #[inline]
    pub fn durable(&self) -> u32 {
        self.durable.load(Ordering::Acquire)
    }

    /// The verified record at an offset. It costs an atomic load and the checksum of the record.
    ///
    /// # Errors
    ///
    /// [`SegmentError::OutOfBounds`] if no record was published at the offset;
    /// [`SegmentError::Corrupt`] if the bytes there are not a valid record.
    #[inline]
    pub fn record_at(&self, offset: u32) -> Result<Record<'_>, SegmentError> {
        decode(self.record_bytes(offset)?, &self.context, offset).map_err(|error| self.damaged(offset, error))
    }

    /// The verified value of the set at an offset; `None` if the record is not a set. Faster than
    /// [`record_at`](Self::record_at).
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
        let bytes = self.mapping.appended_at(offset as usize).filter(|_| offset >= FIRST_RECORD_AT);
        bytes.ok_or_else(|| self.out_of_bounds(offset))
    }

    /// The published bytes from an offset on, not verified; may be empty. For prefetching before
    /// [`record_at`](Self::record_at), and for copying a whole segment.
    #[must_use]
    #[inline]
    pub fn bytes_from(&self, offset: u32) -> &[u8] {
        self.mapping.published_from(offset as usize).unwrap_or_default()
    }

    /// The time of the segment's seal, in Unix milliseconds; `None` without a seal: the segment is
    /// active, compacted, or ended by a crash. It costs the decoding of a few bytes.
    #[must_use]
    pub fn sealed_at(&self) -> Option<i64> {
        let end = self.len_bytes();
        // The length of a seal depends on its numbers.
        (1..=SEAL_LEN_BYTES).find_map(|len| {
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

    /// Its file, unless the segment is sealed.
    pub(crate) fn file(&self) -> Result<Arc<dyn File>, SegmentError> {
        let file = self.file.lock().clone();
        file.ok_or_else(|| SegmentError::Invalid {
            what: format!("segment {} is sealed, and its file closed", self.id()),
        })
    }

    /// Closes its file, after the last write and sync.
    pub(crate) fn close_file(&self) {
        self.file.lock().take();
    }

    /// It takes no more commits.
    pub(crate) fn end_with(&self, commits: u32) {
        self.commits.get_or_init(|| commits);
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

    /// Only the appender does this, so a load and a store are enough.
    pub(crate) fn count_written(&self, len: usize) {
        self.written.store(self.written_bytes().saturating_add(to_offset(len)), Ordering::Relaxed);
    }

    pub(crate) fn written_bytes(&self) -> u32 {
        self.written.load(Ordering::Relaxed)
    }

    fn unmap_before_writing(&self, range: Range<usize>) {
        const WORTH_IT_BYTES: usize = 16 << 10;
        if range.len() >= WORTH_IT_BYTES {
            // Refused for locked memory; the sync is correct without it, but slower.
            let _unmapped = self.mapping.unmap_pages(range);
        }
    }

    /// Makes everything up to `end` durable. The caller ensures that no two calls run at once.
    pub(crate) fn sync_to(&self, end: u32, by_range: bool) -> Result<(), SegmentError> {
        let synced = if by_range {
            self.sync_range(self.durable() as usize, end as usize)
        } else {
            let file = self.file()?;
            retry_interrupted(|| file.sync_data())
        };
        synced.map_err(|error| SegmentError::io("sync", &self.path, error))
    }

    /// It works in steps, so that other requests to the device (for instance for the header of the
    /// next segment) wait for one step only, not for a whole segment.
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

    /// Touches untouched pages up to `end`; returns the number of touched bytes. Later touches by
    /// any thread use the same kind of pages.
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

    /// Frees the room behind `end`, after the last write. The file keeps its length, because it is
    /// mapped.
    pub(crate) fn release_behind(&self, end: u32) -> Result<(), SegmentError> {
        self.capacity.fetch_min(end, Ordering::Relaxed);
        let released = self.file()?.release_behind(end.into());
        released.map_err(|error| SegmentError::io("release room of", &self.path, error))
    }

    /// Frees the unused room of a sealed segment, if it is worth a system call.
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
