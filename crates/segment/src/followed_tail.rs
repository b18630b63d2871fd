//! A segment that another process may be writing, read without a lock.
//!
//! Its bytes are read by system calls, and verified. Only complete commits are published in a map:
//! no writer changes or cuts them. It appends behind them, and recovery keeps every complete commit
//! where it is.

use std::sync::Arc;

use hightower_log::{DecodeError, RecordContext, SegmentHeader};

use crate::error::{Damage, SegmentError};
use crate::fs::{Access, Dir, File, read_full_at};
use crate::layout::FIRST_RECORD_AT;
use crate::manifest::{SegmentEntry, SegmentState};
use crate::mapping::{MapPermit, MappingWriter};
use crate::mutants::planted;
use crate::names::{segment_name, segment_path};
use crate::recovery::{mark_sealed, read_header};
use crate::scan::LogEnd;
use crate::segment::Segment;

/// The number of bytes that are read at once, unless a commit is longer.
const STEP_LEN_BYTES: usize = 64 << 10;

/// A segment that may grow.
#[derive(Debug)]
pub(crate) struct FollowedTail {
    entry: SegmentEntry,
    header: SegmentHeader,
    file: Arc<dyn File>,
    end: LogEnd,
    /// Mapped with its first commit.
    mapped: Option<(Arc<Segment>, MappingWriter)>,
}

impl FollowedTail {
    /// Opens a segment that the manifest names. Reads only its header.
    pub(crate) fn open(dir: &dyn Dir, entry: SegmentEntry) -> Result<Self, SegmentError> {
        let path = segment_path(dir.path(), entry.id);
        let file = dir.open(&segment_name(entry.id), Access::Read).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => SegmentError::MissingSegment { path: path.clone() },
            _ => SegmentError::io("open", &path, error),
        })?;
        let header = read_header(file.as_ref(), &path, &entry)?;
        Ok(Self { entry, header, file, end: LogEnd::of_empty(), mapped: None })
    }

    pub(crate) fn entry(&self) -> &SegmentEntry {
        &self.entry
    }

    /// The segment up to its last complete commit; `None` without one.
    pub(crate) fn segment(&self) -> Option<&Arc<Segment>> {
        self.mapped.as_ref().map(|(segment, _)| segment)
    }

    /// The end of the last complete commit that was read.
    pub(crate) fn end(&self) -> &LogEnd {
        &self.end
    }

    /// Whether it takes no more commits, and all were read.
    pub(crate) fn is_complete(&self) -> bool {
        match self.entry.state {
            SegmentState::Open => self.end.sealed,
            SegmentState::Sealed { len_bytes, .. } | SegmentState::Retained { len_bytes, .. } => {
                self.end.end >= len_bytes
            }
        }
    }

    /// Notes a later entry of the manifest.
    pub(crate) fn set_entry(&mut self, entry: SegmentEntry) {
        self.entry = entry;
        self.mark_if_sealed();
    }

    fn mark_if_sealed(&self) {
        if let (SegmentState::Sealed { .. }, Some((segment, _))) = (self.entry.state, &self.mapped)
            && self.is_complete()
        {
            mark_sealed(segment, &self.entry);
        }
    }

    /// Reads on: what was appended since the last call, up to the first incomplete commit.
    pub(crate) fn read_on(&mut self, dir: &dyn Dir) -> Result<(), SegmentError> {
        let before = self.end.end;
        self.read_to_end(dir)?;
        if self.end.end > before && self.end.records > 0 {
            self.publish(dir)?;
        }
        if let SegmentState::Sealed { len_bytes, .. } = self.entry.state
            && self.end.end < len_bytes
        {
            let path = segment_path(dir.path(), self.entry.id);
            let (offset, source) = self.end.stop.clone();
            return Err(SegmentError::corrupt(&path, offset.into(), Damage::from(source)));
        }
        self.mark_if_sealed();
        Ok(())
    }

    fn read_to_end(&mut self, dir: &dyn Dir) -> Result<(), SegmentError> {
        let context: RecordContext = self.header.context();
        let limit = match self.entry.state {
            SegmentState::Open => usize::MAX,
            SegmentState::Sealed { len_bytes, .. } | SegmentState::Retained { len_bytes, .. } => len_bytes as usize,
        };
        let mut wanted = STEP_LEN_BYTES;
        let mut buffer = Vec::new();
        loop {
            let start = self.end.end;
            // The whole step is read anew: a failed append may have been overwritten since.
            buffer.resize(wanted.min(limit.saturating_sub(start as usize)), 0);
            let read = read_full_at(self.file.as_ref(), &mut buffer, start.into());
            let read =
                read.map_err(|error| SegmentError::io("read", &segment_path(dir.path(), self.entry.id), error))?;
            self.end.read_on(buffer.get(..read).unwrap_or_default(), &context);
            if planted("follower_counts_incomplete_commits") && self.end.stop.0 > self.end.end {
                (self.end.end, self.end.records, self.end.commits) =
                    (self.end.stop.0, self.end.records + 1, self.end.commits + 1);
            }
            let is_cut = matches!(self.end.stop.1, DecodeError::Truncated { .. }) && read == buffer.len();
            if self.end.sealed || !is_cut || read == 0 {
                return Ok(());
            }
            // From the begin of this commit on, up to the end of the record, and more of it.
            let DecodeError::Truncated { needed, .. } = self.end.stop.1 else { return Ok(()) };
            let to_stop = (self.end.stop.0 - self.end.end) as usize;
            let needed = usize::try_from(needed).unwrap_or(usize::MAX).saturating_add(to_stop);
            wanted = if self.end.end > start { STEP_LEN_BYTES } else { wanted * 2 }.max(needed);
        }
    }

    /// Publishes everything up to the end.
    fn publish(&mut self, dir: &dyn Dir) -> Result<(), SegmentError> {
        let path = segment_path(dir.path(), self.entry.id);
        let invalid = |what: String| SegmentError::Invalid { what };
        if self.mapped.is_none() {
            let len = self.file.metadata().map_err(|error| SegmentError::io("look at", &path, error))?.len_bytes;
            let len = usize::try_from(len).unwrap_or(usize::MAX).min(u32::MAX as usize);
            let mapping = self.file.map(len, Access::Read, MapPermit::of_store());
            let mapping = mapping.map_err(|error| SegmentError::io("map", &path, error))?;
            let writer = mapping.writer().ok_or_else(|| invalid("the segment has a writer".to_owned()))?;
            self.mapped = Some((Arc::new(Segment::new(path, self.header, None, mapping)), writer));
        }
        let Some((segment, writer)) = &mut self.mapped else { return Ok(()) };
        debug_assert!(self.end.end > FIRST_RECORD_AT);
        let published = segment.mapping().publish(writer, self.end.end as usize);
        published.map_err(|error| invalid(error.to_string()))
    }
}
