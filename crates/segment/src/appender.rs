//! The writing end of the log: one appender, one commit at a time.
//!
//! For each commit, the caller calls [`make_room`](Appender::make_room), which may roll to the next
//! segment. Then it encodes the records with [`context`](Appender::context),
//! [`position`](Appender::position) and [`durable`](Appender::durable). Last, it calls
//! [`append`](Appender::append), which is a bounds check and a few copies, and cannot fail half-way
//! in a mapped segment.

use std::sync::Arc;

use hightower_log::{RecordContext, encode_seal};

use crate::error::{SegmentError, is_full};
use crate::layout::{FIRST_RECORD_AT, OVERHEAD_BYTES, SEAL_LEN_BYTES, SHORTEST_COMMIT_BYTES};
use crate::log_tail::{Prepared, Rolled};
use crate::manifest::{SegmentEntry, SegmentState};
use crate::manifest_edit::ManifestEdit;
use crate::manifest_file::Form;
use crate::mutants::planted;
use crate::options::{AppendMode, Purpose, Stamp};
use crate::parts::StoreParts;
use crate::segment::Segment;
use crate::store_dir::StoreDir;
use crate::successor::segment_len_for;
use crate::tail::{MappedTail, PositionedTail, Tail};

/// Appends commits. There is one per open store, and it needs no lock of its own.
#[derive(Debug)]
pub struct Appender {
    parts: Arc<StoreParts>,
    /// The same as in `parts`, with one pointer less to follow.
    store: Arc<StoreDir>,
    segment: Arc<Segment>,
    tail: Box<dyn Tail>,
    position: u32,
    /// The maximum end of a commit, so that a seal still fits.
    limit: u32,
    next_seq: u64,
    records: u64,
    /// Whether the active segment has used up a reserve. Until that is refilled, the segment takes
    /// only commits with [`Purpose::Reclaim`].
    for_reclaim: bool,
}

/// The commits that a new segment takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Commits,
    /// None: the first commit rolls to the next segment. The file is the last one that an open can
    /// get. If it stays empty, it becomes a reserve again.
    Nothing,
}

/// The place of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of its first byte in the active segment.
    pub offset: u32,
    /// Its seq.
    pub seq: u64,
}

impl Appender {
    pub(crate) fn new(parts: Arc<StoreParts>, prepared: Prepared, takes: Takes) -> Self {
        let Prepared { segment, writer } = prepared;
        if planted("durable_without_predecessors") {
            segment.raise_durable(FIRST_RECORD_AT);
        }
        parts.tail.lock().active = Some(Arc::clone(&segment));
        let tail: Box<dyn Tail> = match parts.spares.mode {
            AppendMode::Positioned => Box::new(PositionedTail { writer, joined: Vec::new() }),
            AppendMode::Auto | AppendMode::Mapped => {
                Box::new(MappedTail { writer, long_record_bytes: parts.long_record_bytes, joined: Vec::new() })
            }
        };
        Self {
            position: segment.len_bytes(),
            limit: match takes {
                Takes::Commits => segment.capacity_bytes().saturating_sub(SEAL_LEN_BYTES),
                Takes::Nothing => segment.len_bytes(),
            },
            next_seq: segment.header().base_seq,
            records: 0,
            for_reclaim: !parts.reserves.is_enough() && !planted("data_fills_the_reserve"),
            store: Arc::clone(&parts.store),
            parts,
            segment,
            tail,
        }
    }

    /// Whether the active segment takes only commits with [`Purpose::Reclaim`]: then new data needs
    /// a successful [`make_room`](Self::make_room) first.
    #[must_use]
    #[inline]
    pub fn is_for_reclaim(&self) -> bool {
        self.for_reclaim
    }

    /// The active segment.
    #[must_use]
    #[inline]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The encoding context of the active segment's records.
    #[must_use]
    #[inline]
    pub fn context(&self) -> &RecordContext {
        self.segment.context()
    }

    /// The offset that the next commit gets.
    #[must_use]
    #[inline]
    pub fn position(&self) -> u32 {
        self.position
    }

    /// The seq that the next commit gets.
    #[must_use]
    #[inline]
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The length of the active segment's durable prefix in bytes, which the records of the next
    /// commit state.
    #[must_use]
    #[inline]
    pub fn durable(&self) -> u32 {
        self.segment.durable()
    }

    /// The number of bytes that the active segment still has for commits.
    #[must_use]
    #[inline]
    pub fn remaining_bytes(&self) -> u32 {
        self.limit.saturating_sub(self.position)
    }

    /// The longest commit that any segment can take, in bytes.
    #[must_use]
    pub fn max_commit_len_bytes() -> u64 {
        u64::from(hightower_log::limits::MAX_SEGMENT_LEN_BYTES - OVERHEAD_BYTES)
    }

    /// Appends one commit: the concatenation of `parts`, encoded for [`position`](Self::position).
    /// `records` is the number of its commands. Costs tens of nanoseconds for a small commit in a
    /// mapped segment, and a system call in a positioned one.
    ///
    /// When this returns, readers with the offset can read the records, and the commit survives the
    /// death of the process.
    ///
    /// # Errors
    ///
    /// [`SegmentError::DoesNotFit`] if [`make_room`](Self::make_room) was not called for this
    /// length; [`SegmentError::Full`] if a positioned write found the device full;
    /// [`SegmentError::Io`] if it failed, and [`SegmentError::Poisoned`] from then on. In all these
    /// cases, no reader ever sees a part of the commit. [`SegmentError::Invalid`] if the commit is
    /// shorter than any record.
    #[inline]
    pub fn append(&mut self, parts: &[&[u8]], records: u32) -> Result<Appended, SegmentError> {
        self.store.poison.check()?;
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len > self.remaining_bytes() as usize || len < SHORTEST_COMMIT_BYTES as usize {
            return Err(self.refuse(len));
        }
        let appended = Appended { offset: self.position, seq: self.next_seq };
        if let Err(failure) = self.tail.append(&self.segment, self.position, parts, records) {
            return Err(self.fail(failure, len));
        }
        // `len` is at most what remains, which is a `u32`.
        #[allow(clippy::cast_possible_truncation, reason = "checked above")]
        let len = len as u32;
        self.position += len;
        self.next_seq += 1;
        self.records += u64::from(records);
        Ok(appended)
    }

    /// Makes room for a commit of `len_bytes` in the active segment. Rolls to a new one if the
    /// commit does not fit. Returns whether it has rolled: then context, position and seq are new.
    /// Costs a comparison while there is room, microseconds for a roll to a prepared segment, and
    /// the creation of a file if none is prepared.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`] if there is no room for a new segment, or for the reserves that the
    /// active one has used up; [`SegmentError::TooLarge`] if no segment can hold the commit. In
    /// both cases, nothing has changed. [`SegmentError::Io`] or [`SegmentError::Poisoned`]
    /// otherwise.
    #[inline]
    pub fn make_room(&mut self, len_bytes: usize, purpose: Purpose, stamp: Stamp) -> Result<bool, SegmentError> {
        if len_bytes > self.remaining_bytes() as usize {
            self.roll(len_bytes, purpose, stamp)?;
            return Ok(true);
        }
        if self.for_reclaim && purpose == Purpose::Grow {
            self.parts.reserves.require_again()?;
            self.for_reclaim = false;
        }
        Ok(false)
    }

    /// Ends the active segment and continues in a new one with room for `len_bytes`. Returns the
    /// ended segment. [`SegmentStore::sync_predecessors`](crate::SegmentStore::sync_predecessors)
    /// syncs and seals it; the next sync also covers it.
    ///
    /// # Errors
    ///
    /// As for [`make_room`](Self::make_room).
    pub fn roll(&mut self, len_bytes: usize, purpose: Purpose, stamp: Stamp) -> Result<Arc<Segment>, SegmentError> {
        self.parts.store.poison.check()?;
        let least = segment_len_for(len_bytes)?;
        let next = self.parts.successors.take_successor(least, purpose, stamp)?;
        if let Err(error) = self.write_seal(stamp) {
            self.parts.successors.give_successor_back(next);
            return Err(error);
        }
        self.segment.end_with(self.commits());
        let rolled = Rolled {
            segment: Arc::clone(&self.segment),
            records: self.records,
            max_version: stamp.max_version,
            synced: false,
        };
        // Both change in one step, so that a sync sees the old segment in exactly one of the two
        // places.
        {
            let mut tail = self.parts.tail.lock();
            tail.rolled.push(rolled);
            tail.active = Some(Arc::clone(&next.segment));
            tail.is_rolling = false;
        }
        let ended = Arc::clone(&self.segment);
        *self = Self::new(Arc::clone(&self.parts), next, Takes::Commits);
        Ok(ended)
    }

    /// Ends the log cleanly: syncs and seals all segments, and frees the prepared room. The
    /// reserves stay. The next open then has nothing to recover.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`], [`SegmentError::Full`] or [`SegmentError::Poisoned`]. Durable commits
    /// stay durable; the next open recovers.
    pub fn close(mut self, stamp: Stamp) -> Result<(), SegmentError> {
        self.parts.tail.seal_rolled()?;
        let empty = self.position <= FIRST_RECORD_AT;
        if !empty {
            self.write_seal(stamp)?;
        }
        self.parts.tail.sync()?;
        let prepared = {
            let mut tail = self.parts.tail.lock();
            tail.active = None;
            tail.prepared.take()
        };
        let (id, prepared_id) = (self.segment.id(), prepared.as_ref().map(|prepared| prepared.segment.id()));
        let commits = self.commits();
        self.segment.end_with(commits);
        let state = SegmentState::Sealed { len_bytes: self.position, records: self.records, commits };
        self.parts.manifest.edit(Form::Last, |manifest| ManifestEdit {
            max_version: stamp.max_version,
            remove: prepared_id.into_iter().chain(empty.then_some(id)).collect(),
            put: manifest
                .segment(id)
                .filter(|_| !empty)
                .map(|entry| SegmentEntry { state, ..*entry })
                .into_iter()
                .collect(),
            ..ManifestEdit::default()
        })?;
        self.segment.mark_sealed();
        let Self { parts, segment, tail, position, .. } = self;
        drop(tail);
        if let Some(Prepared { segment, .. }) = prepared {
            parts.reserves.end_unnamed(segment)?;
        }
        if empty {
            parts.reserves.end_unnamed(segment)?;
        } else {
            // Readers may still have the file mapped, but none reads past the published end.
            let cut = segment.file()?.set_len(position.into());
            cut.map_err(|error| SegmentError::io("cut", segment.path(), error))?;
            segment.close_file();
        }
        // Refills used-up reserves from the freed room, for the next open. If this fails, for
        // example because there are no file descriptors, that open refills them.
        let _refilled = parts.reserves.refill();
        while planted("reserves_go_with_a_close") && parts.reserves.give_up_room() {}
        Ok(())
    }

    /// Frees the room of the active segment past the next `keep_bytes`. Later commits go into the
    /// next segment. For a store that is idle.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`]. The segment then takes only `keep_bytes` more, but may still occupy
    /// the room.
    pub fn give_back(&mut self, keep_bytes: u32) -> Result<(), SegmentError> {
        let limit = self.position.saturating_add(keep_bytes);
        if limit >= self.limit {
            return Ok(());
        }
        self.limit = limit;
        self.segment.release_behind(limit + SEAL_LEN_BYTES)
    }

    /// The number of commits in the active segment.
    fn commits(&self) -> u32 {
        // At most its length, because no commit is shorter than a byte.
        u32::try_from(self.next_seq - self.segment.header().base_seq).unwrap_or(u32::MAX)
    }

    fn write_seal(&mut self, stamp: Stamp) -> Result<(), SegmentError> {
        let Stamp { max_version, timestamp } = stamp;
        let head = encode_seal(self.context(), self.position, self.durable(), max_version, timestamp)?;
        let seal: &[u8] = head.as_ref();
        self.tail.append(&self.segment, self.position, &[seal], 1).map_err(|failure| self.fail(failure, seal.len()))?;
        self.position = self.segment.len_bytes();
        Ok(())
    }

    #[cold]
    fn refuse(&self, len: usize) -> SegmentError {
        if len < SHORTEST_COMMIT_BYTES as usize {
            return SegmentError::Invalid { what: format!("a commit of {len} bytes is shorter than any record") };
        }
        SegmentError::DoesNotFit { len_bytes: len as u64, remaining_bytes: self.remaining_bytes().into() }
    }

    /// If a write found no room or memory before its first byte, it can be tried again. If it has
    /// written a part, it cannot: after a later, shorter commit in its place, the rest of that part
    /// might follow.
    #[cold]
    fn fail(&self, (written, error): (u64, std::io::Error), len: usize) -> SegmentError {
        let path = self.segment.path();
        if (written == 0 || planted("half_a_commit_written_over")) && is_full(&error) {
            return SegmentError::Full { path: path.to_owned(), needed_bytes: len as u64 };
        }
        let error = SegmentError::io("append to", path, error);
        if written == 0 { self.parts.store.poison.latch(error) } else { self.parts.store.poison.latch_sync(error) }
    }
}
