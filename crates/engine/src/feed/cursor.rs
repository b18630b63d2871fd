//! A place in the log, and the commits from there on.

use std::sync::{Arc, Weak};

use hightower_log::{CommandRef, SegmentHeader};
use hightower_segment::{Segment, SegmentError};

use crate::error::{Error, Result};
use crate::feed::log::FeedLog;
use crate::mutants::planted;
use crate::sync::step;

#[allow(clippy::cast_possible_truncation, reason = "64")]
const FIRST_RECORD_AT: u32 = SegmentHeader::LEN as u32;

/// The place of the next commit. It holds no segment, so that a slow reader keeps no file.
#[derive(Clone, Debug)]
pub(crate) struct LogCursor {
    segment: Weak<Segment>,
    base_seq: u64,
    offset: u32,
    next_seq: u64,
}

/// The place of a commit.
#[derive(Clone, Debug)]
pub(crate) struct CommitPlace {
    segment: Weak<Segment>,
    base_seq: u64,
    pub(crate) offset: u32,
    pub(crate) seq: u64,
}

impl LogCursor {
    pub(crate) fn at(segment: &Arc<Segment>, offset: u32, next_seq: u64) -> Self {
        let base_seq = segment.header().base_seq;
        Self { segment: Arc::downgrade(segment), base_seq, offset, next_seq }
    }

    pub(crate) fn at_start_of(segment: &Arc<Segment>) -> Self {
        Self::at(segment, FIRST_RECORD_AT, segment.header().base_seq)
    }

    /// The next commit has this seqno or a higher one.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// A reader here has read all commits up to this seqno.
    pub(crate) fn read_up_to(&self) -> u64 {
        self.next_seq.saturating_sub(1)
    }

    /// The base seq of its segment.
    pub(crate) fn base_seq(&self) -> u64 {
        self.base_seq
    }

    /// Reads the next commit with a seqno of at most `limit`: calls `visit` with the offset and the
    /// command of each record, all verified, and returns the commit's seqno, offset and segment.
    /// `None` if there is no such commit yet. After an error the cursor is where it was.
    ///
    /// # Errors
    ///
    /// [`Error::HistoryLost`], [`Error::Corrupt`].
    pub(crate) fn next(
        &mut self,
        log: &FeedLog,
        limit: u64,
        mut visit: impl FnMut(u32, CommandRef<'_>),
    ) -> Result<Option<(u64, u32, Arc<Segment>)>> {
        loop {
            if self.next_seq > limit {
                return Ok(None);
            }
            let segment = self.segment.upgrade();
            if let Some(segment) = segment.as_ref().filter(|segment| segment.continues_at(self.offset)) {
                let (offset, mut is_commit) = (self.offset, false);
                self.offset = read_commit(segment, offset, |at, command| {
                    is_commit = true;
                    visit(at, command);
                })?;
                if !is_commit {
                    continue;
                }
                self.next_seq += 1;
                return Ok(Some((self.next_seq - 1, offset, Arc::clone(segment))));
            }
            step();
            let Some(next) = log.next_segment(self.base_seq, self.read_up_to())? else { return Ok(None) };
            // Since there is a next segment, this one takes no more commits.
            let has_grown = segment.is_some_and(|segment| segment.continues_at(self.offset));
            if !has_grown {
                *self = Self::at_start_of(&next);
            }
        }
    }
}

impl CommitPlace {
    pub(crate) fn of(segment: &Arc<Segment>, offset: u32, seq: u64) -> Self {
        Self { segment: Arc::downgrade(segment), base_seq: segment.header().base_seq, offset, seq }
    }

    /// A cursor at this commit.
    pub(crate) fn cursor(&self) -> LogCursor {
        let Self { segment, base_seq, offset, seq } = self;
        LogCursor { segment: Weak::clone(segment), base_seq: *base_seq, offset: *offset, next_seq: *seq }
    }

    /// Its segment, unless it is gone.
    pub(crate) fn segment(&self) -> Option<Arc<Segment>> {
        self.segment.upgrade()
    }
}

/// Reads the commit at `offset`: calls `visit` with the offset and the command of each record.
/// Returns the end of the commit.
pub(crate) fn read_commit(
    segment: &Segment,
    mut offset: u32,
    mut visit: impl FnMut(u32, CommandRef<'_>),
) -> Result<u32> {
    loop {
        let record = match segment.record_at(offset) {
            // A commit is published as a whole.
            Err(SegmentError::OutOfBounds { path, offset, .. }) => {
                return Err(Error::Corrupt {
                    path,
                    offset: offset.into(),
                    detail: "the last commit has no end".into(),
                });
            }
            record => record?,
        };
        if let Some(command) = record.command() {
            visit(offset, command);
        }
        offset += record.len;
        if !record.continues() || planted("feeds_tear_batches") {
            return Ok(offset);
        }
    }
}
