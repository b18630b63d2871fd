//! A write-ahead log of byte strings, on the crate's own segments.
//!
//! An entry is a record of a segment whose version is the entry's position. A cut at either end is
//! a record too, so that replay needs only the records in their order. The project's
//! `docs/FORMAT.md` describes the bytes.

mod index;
mod syncer;

use std::collections::VecDeque;
use std::iter::FusedIterator;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use hightower_log::{
    CommandRef, DecodeError, MAX_HEAD_LEN_BYTES, Placement, SegmentKind, encode_head, encoded_len, payload_checksum,
};

use self::index::{EntryPlace, Index};
pub use self::syncer::WalSync;
use self::syncer::{Syncer, stamp_at};
use crate::appender::Appender;
use crate::compacted::{Edit, Released};
use crate::error::{Damage, SegmentError};
use crate::first_segment::Recovery;
use crate::fs::{Fs, RealFs};
use crate::manifest::Content;
use crate::mutants::planted;
use crate::options::{Purpose, StoreOptions};
use crate::scan::SegmentRecord;
use crate::segment::Segment;
use crate::store::SegmentStore;

/// The key of an entry's record.
const ENTRY: &[u8] = &[1];
/// The key of a record with new bounds of the log.
const BOUNDS: &[u8] = &[2];
/// The length of the first files, in bytes; later files have the length of the log.
const FIRST_FILE_LEN_BYTES: u32 = 1 << 20;

/// A write-ahead log of byte strings in its own directory.
///
/// Each entry has a *position*: 0 for the first, one more for each that follows. Entries are
/// appended at the back, read from any position, and dropped at either end:
/// [`truncate_front`](Self::truncate_front) after they were applied elsewhere,
/// [`truncate_back`](Self::truncate_back) when they are void, like the conflicting suffix of a Raft
/// log.
///
/// One owner writes; [`syncer`](Self::syncer) returns a handle for syncs from other threads. For
/// several writers put the log into a mutex, and sync with the handle without holding the mutex:
/// callers that wait at the same time share one sync.
///
/// # Durability
///
/// An append is in the page cache when it returns, and survives the death of the process.
/// [`sync`](Self::sync) and [`sync_then`](Self::sync_then) make everything before the call durable.
/// A crash leaves a prefix of all appends and cuts, which includes everything synced. After a
/// failed write or sync the log accepts no more writes ([`SegmentError::Poisoned`]) and can still
/// be read; open it again to continue.
///
/// # Memory, threads, files
///
/// The log takes 8 bytes of memory per entry. Opening reads the whole log. The first `sync_then`
/// starts a thread. The directory has the files of a [`SegmentStore`], is locked while the log is
/// open, and is refused by `SegmentStore::open`.
///
/// # Example
///
/// ```
/// use hightower_segment::Wal;
///
/// # fn main() -> Result<(), hightower_segment::SegmentError> {
/// # let dir = tempfile::tempdir().unwrap();
/// let (mut wal, recovery) = Wal::open(dir.path())?;
/// assert!(recovery.created);
///
/// wal.append(b"set x = 1")?;
/// let position = wal.append(b"set y = 2")?;
/// wal.sync()?;
/// assert_eq!(position, 1);
///
/// for entry in wal.read(0)? {
///     let entry = entry?;
///     println!("{}: {:?}", entry.position, entry.bytes);
/// }
///
/// wal.truncate_front(1)?;
/// assert_eq!(wal.positions(), 1..2);
/// wal.close()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Wal {
    store: SegmentStore,
    appender: Appender,
    syncer: Arc<Syncer>,
    /// Oldest first; the last is the active one.
    segments: VecDeque<Arc<Segment>>,
    index: Index,
    /// Segments that are no longer part of the log, but were in use by a sync when they were to be
    /// removed.
    removed: Vec<Arc<Segment>>,
}

/// One entry of a [`Wal`], borrowed from its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalEntry<'a> {
    /// Its position.
    pub position: u64,
    /// The appended bytes.
    pub bytes: &'a [u8],
}

/// The report of opening a [`Wal`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalRecovery {
    /// Whether this open created the log.
    pub created: bool,
    /// Whether the last writer ended without [`Wal::close`].
    pub unclean: bool,
    /// The positions of the entries.
    pub positions: Range<u64>,
    /// Number of dropped bytes of records at the end of the log: incomplete, or behind an
    /// incomplete one, and never synced.
    pub dropped_bytes: u64,
    /// The reason for the end of the log, if bytes were dropped.
    pub reason: Option<DecodeError>,
}

impl Wal {
    /// Opens the log in a directory, or creates one, with default options.
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    ///
    /// ```
    /// use hightower_segment::Wal;
    ///
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (wal, recovery) = Wal::open(dir.path().join("log"))?;
    /// assert_eq!(recovery.positions, 0..0);
    /// # drop(wal);
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(dir: impl AsRef<Path>) -> Result<(Self, WalRecovery), SegmentError> {
        Self::open_with(Arc::new(RealFs), dir.as_ref(), StoreOptions::default())
    }

    /// Opens the log in a directory of a file system, or creates one. It takes the lock, reads
    /// every record, and makes the valid records durable.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentStore::open`] and [`Recovery::finish`], with
    /// [`SegmentError::OtherContent`] for a key-value store and [`SegmentError::Corrupt`] for valid
    /// records that are not a log.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use hightower_segment::{RealFs, StoreOptions, Wal};
    ///
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let options = StoreOptions { segment_len_bytes: 4 << 20, ..StoreOptions::default() };
    /// let (mut wal, _) = Wal::open_with(Arc::new(RealFs), dir.path(), options)?;
    /// wal.append(b"entry")?;
    /// wal.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn open_with(fs: Arc<dyn Fs>, dir: &Path, options: StoreOptions) -> Result<(Self, WalRecovery), SegmentError> {
        let (store, recovery) = SegmentStore::open_as(Content::Wal, fs, dir, options)?;
        let index = replay(&recovery)?;
        let mut segments: VecDeque<_> = recovery.segments().iter().map(Arc::clone).collect();
        set_next_len(&store, &segments);
        let (appender, report) = recovery.finish(stamp_at(index.end()))?;
        segments.push_back(Arc::clone(appender.segment()));
        let syncer = Arc::new(Syncer::new(store.clone(), index.end()));
        let found = WalRecovery {
            created: report.created,
            unclean: report.unclean,
            positions: index.positions(),
            dropped_bytes: report.dropped_bytes(),
            reason: report.segments.iter().find_map(|segment| segment.reason.clone()),
        };
        let mut wal = Self { store, appender, syncer, segments, index, removed: Vec::new() };
        // A crash may have come between a cut and the removal of files.
        wal.remove_segments()?;
        Ok((wal, found))
    }

    /// The positions of the entries: `start` is that of the first, `end` that of the next append.
    #[must_use]
    pub fn positions(&self) -> Range<u64> {
        self.index.positions()
    }

    /// Appends an entry of 0 to 2^30 bytes, and returns its position. It is durable after the next
    /// sync. It costs a checksum and a copy, or a system call with positioned appends; a rotation
    /// creates the next file, unless the log's thread has prepared it after a sync.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Encode`] for a longer entry; [`SegmentError::Full`];
    /// [`SegmentError::Invalid`] after position 2^64 - 2. [`SegmentError::Io`] or
    /// [`SegmentError::OutOfMaps`] for lack of file descriptors, memory or maps: the call can be
    /// repeated. [`SegmentError::Io`] if the device fails, and [`SegmentError::Poisoned`] from then
    /// on. In all cases the entry will never be visible.
    ///
    /// ```
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (mut wal, _) = hightower_segment::Wal::open(dir.path())?;
    /// assert_eq!(wal.append(b"first")?, 0);
    /// assert_eq!(wal.append(b"")?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64, SegmentError> {
        let position = self.index.end();
        if position == u64::MAX {
            return Err(invalid("the log has used up all positions".to_owned()));
        }
        let place = self.write(ENTRY, bytes, position, Purpose::Grow)?;
        self.index.entry(position, place).map_err(|reason| invalid(reason.to_owned()))?;
        self.syncer.set_end(self.index.end());
        Ok(position)
    }

    /// Makes everything before the call durable, and waits for it. Callers that wait at the same
    /// time share a sync.
    ///
    /// # Errors
    ///
    /// As [`WalSync::sync`].
    ///
    /// ```
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (mut wal, _) = hightower_segment::Wal::open(dir.path())?;
    /// wal.append(b"entry")?;
    /// wal.sync()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sync(&self) -> Result<(), SegmentError> {
        self.syncer.sync()
    }

    /// Makes everything before the call durable, and then calls `callback` on the log's thread.
    /// Calls during a sync share the next one.
    ///
    /// # Errors
    ///
    /// As [`WalSync::sync_then`].
    ///
    /// ```
    /// use std::sync::mpsc;
    ///
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (mut wal, _) = hightower_segment::Wal::open(dir.path())?;
    /// let (sender, durable) = mpsc::channel();
    /// for entry in ["a", "b", "c"] {
    ///     let (position, sender) = (wal.append(entry.as_bytes())?, sender.clone());
    ///     wal.sync_then(move |synced| drop(sender.send((position, synced.is_ok()))))?;
    /// }
    /// assert_eq!(durable.iter().take(3).collect::<Vec<_>>(), [(0, true), (1, true), (2, true)]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn sync_then(
        &self,
        callback: impl FnOnce(Result<(), Arc<SegmentError>>) + Send + 'static,
    ) -> Result<(), SegmentError> {
        self.syncer.sync_then(Box::new(callback))
    }

    /// A handle for syncs from other threads, during appends of the owner.
    #[must_use]
    pub fn syncer(&self) -> WalSync {
        WalSync { syncer: Arc::clone(&self.syncer) }
    }

    /// The entries from a position on, in order, each verified. The call reads nothing; the
    /// iterator does.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Invalid`] if `from` is before the first entry, or behind the position of the
    /// next append.
    ///
    /// ```
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (mut wal, _) = hightower_segment::Wal::open(dir.path())?;
    /// wal.append(b"a")?;
    /// wal.append(b"b")?;
    /// let last = wal.read(1)?.next().expect("the log has two entries")?;
    /// assert_eq!((last.position, last.bytes), (1, &b"b"[..]));
    /// assert!(wal.read(3).is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn read(&self, from: u64) -> Result<WalEntries<'_>, SegmentError> {
        self.expect_position(from)?;
        Ok(WalEntries { wal: self, position: from, segment: None })
    }

    /// Drops the entries before a position, durably, and removes unneeded files. A position behind
    /// the last entry drops all of them and is the position of the next append, as for a log that
    /// begins with a snapshot. A position before the first entry drops nothing.
    ///
    /// It costs a sync, and room in the active file, which is reserved for it on a full device.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], [`SegmentError::Io`] or [`SegmentError::Poisoned`].
    /// [`positions`](Self::positions) shows whether the entries are dropped; files may remain in
    /// any case, until the next call or open.
    ///
    /// ```
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (mut wal, _) = hightower_segment::Wal::open(dir.path())?;
    /// wal.append(b"applied")?;
    /// wal.append(b"not applied")?;
    /// wal.truncate_front(1)?;
    /// assert_eq!(wal.positions(), 1..2);
    /// wal.truncate_front(100)?;
    /// assert_eq!(wal.append(b"behind a snapshot")?, 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn truncate_front(&mut self, position: u64) -> Result<(), SegmentError> {
        let Range { start, end } = self.positions();
        if position > start {
            self.write_bounds(position, end.max(position))?;
        }
        // No file is removed before the cut is durable: the remaining files depend on it.
        if !planted("wal_files_go_first") {
            self.store.sync_point().sync()?;
        }
        self.store.sync_predecessors()?;
        self.remove_segments()
    }

    /// Drops the entries from a position on, which becomes the position of the next append. The cut
    /// is a record in the log: it survives a crash if any later append does. It is durable after
    /// the next sync.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Invalid`] if `position` is before the first entry, or behind the position of
    /// the next append; otherwise as [`append`](Self::append). In all cases the log keeps its
    /// entries.
    ///
    /// ```
    /// # fn main() -> Result<(), hightower_segment::SegmentError> {
    /// # let dir = tempfile::tempdir().unwrap();
    /// let (mut wal, _) = hightower_segment::Wal::open(dir.path())?;
    /// wal.append(b"agreed")?;
    /// wal.append(b"of a leader that lost")?;
    /// wal.truncate_back(1)?;
    /// assert_eq!(wal.append(b"of the new leader")?, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn truncate_back(&mut self, position: u64) -> Result<(), SegmentError> {
        self.expect_position(position)?;
        let Range { start, end } = self.positions();
        if position == end {
            return Ok(());
        }
        self.write_bounds(start, position)
    }

    /// Syncs and seals the log, and frees preallocated room. The next open then has nothing to
    /// recover.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`], [`SegmentError::Full`] or [`SegmentError::Poisoned`]. Durable entries
    /// stay durable; the next open recovers.
    pub fn close(self) -> Result<(), SegmentError> {
        let Self { store, appender, syncer, index, .. } = self;
        syncer.end_upkeep();
        let closed = appender.close(stamp_at(index.end()));
        drop(store);
        closed
    }

    fn expect_position(&self, position: u64) -> Result<(), SegmentError> {
        let Range { start, end } = self.positions();
        if (start..=end).contains(&position) {
            return Ok(());
        }
        Err(invalid(format!("position {position} is not in the log: {start} to {end} expected")))
    }

    fn write_bounds(&mut self, front: u64, end: u64) -> Result<(), SegmentError> {
        let place = if planted("wal_cut_without_record") {
            EntryPlace { segment: self.appender.segment().id(), offset: 0 }
        } else {
            // A cut frees room in the end.
            self.write(BOUNDS, &front.to_le_bytes(), end, Purpose::Reclaim)?
        };
        self.index.bounds(front, end, place).map_err(|reason| invalid(reason.to_owned()))?;
        self.syncer.set_end(self.index.end());
        Ok(())
    }

    fn write(&mut self, key: &[u8], value: &[u8], position: u64, purpose: Purpose) -> Result<EntryPlace, SegmentError> {
        let command = CommandRef::Set { key, value, version: position, timestamp: 0 };
        let placement = |appender: &Appender| Placement::Appended { durable: appender.durable(), continues: false };
        // An entry that fits no segment is refused before one is created for it.
        encoded_len(self.appender.context(), &command, placement(&self.appender))?;
        // No record is longer in any segment.
        let most = MAX_HEAD_LEN_BYTES + key.len() + value.len();
        if self.appender.make_room(most, purpose, stamp_at(position))? {
            self.segments.push_back(Arc::clone(self.appender.segment()));
            set_next_len(&self.store, &self.segments);
        }
        let (context, offset) = (self.appender.context(), self.appender.position());
        let checksum = payload_checksum(key, value);
        let head = encode_head(context, offset, &command, placement(&self.appender), checksum)?;
        let appended = self.appender.append(&[head.as_ref(), key, value], 1)?;
        Ok(EntryPlace { segment: self.appender.segment().id(), offset: appended.offset })
    }

    /// Removes unneeded segments at the front of the log.
    fn remove_segments(&mut self) -> Result<(), SegmentError> {
        let active = self.appender.segment().id();
        let first_needed = self.index.first_needed().unwrap_or(active);
        let is_done = |segment: &&Arc<Segment>| segment.id() < first_needed && segment.is_sealed();
        let remove: Vec<u32> = self.segments.iter().take_while(is_done).map(|segment| segment.id()).collect();
        if !remove.is_empty() {
            let count = remove.len();
            self.store.install(&Edit { add: Vec::new(), remove, ..Edit::default() })?;
            self.removed.extend(self.segments.drain(..count));
        }
        let mut failure = None;
        for segment in std::mem::take(&mut self.removed) {
            match self.store.release(segment) {
                Ok(Released::InUse(segment)) => self.removed.push(segment),
                Ok(Released::Removed) => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn segment(&self, id: u32) -> Option<&Arc<Segment>> {
        let at = self.segments.binary_search_by_key(&id, |segment| segment.id()).ok()?;
        self.segments.get(at)
    }
}

/// The entries of a [`Wal`] from a position on; from [`Wal::read`]. The first error ends it.
#[derive(Clone, Debug)]
pub struct WalEntries<'a> {
    wal: &'a Wal,
    position: u64,
    segment: Option<&'a Arc<Segment>>,
}

impl<'a> WalEntries<'a> {
    fn at(&mut self, position: u64, place: EntryPlace) -> Result<WalEntry<'a>, SegmentError> {
        let segment = match self.segment.filter(|segment| segment.id() == place.segment) {
            Some(segment) => segment,
            None => self.wal.segment(place.segment).ok_or_else(|| invalid(format!("no segment {}", place.segment)))?,
        };
        self.segment = Some(segment);
        let set = segment.value_at(place.offset)?.filter(|set| set.version == position);
        let set = set.ok_or_else(|| damaged(segment, place.offset, "no entry of this position"))?;
        Ok(WalEntry { position, bytes: set.value })
    }
}

impl<'a> Iterator for WalEntries<'a> {
    type Item = Result<WalEntry<'a>, SegmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        let position = self.position;
        let place = self.wal.index.place(position)?;
        let entry = self.at(position, place);
        self.position = if entry.is_ok() { position + 1 } else { self.wal.index.end() };
        Some(entry)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.wal.index.end().saturating_sub(self.position);
        // Fewer if one is damaged.
        (0, usize::try_from(left).ok())
    }
}

impl FusedIterator for WalEntries<'_> {}

/// Reads all records, in their order.
fn replay(recovery: &Recovery) -> Result<Index, SegmentError> {
    let mut index = Index::default();
    for segment in recovery.segments() {
        if segment.kind() == SegmentKind::Compacted {
            return Err(damaged(segment, 0, "a compacted segment in a write-ahead log"));
        }
        for entry in segment.entries() {
            let SegmentRecord { offset, continues, command, .. } = entry?;
            let place = EntryPlace { segment: segment.id(), offset };
            let taken = match (command, continues) {
                (CommandRef::Set { key: ENTRY, version, .. }, false) => index.entry(version, place),
                (CommandRef::Set { key: BOUNDS, value, version, .. }, false) => match value.try_into() {
                    Ok(front) => index.bounds(u64::from_le_bytes(front), version, place),
                    Err(_) => Err("bounds of a wrong length"),
                },
                _ => Err("a record that a write-ahead log does not have"),
            };
            taken.map_err(|reason| damaged(segment, offset, reason))?;
        }
    }
    let complete = index.check_complete();
    complete.map_err(|reason| match recovery.segments().first() {
        Some(segment) => damaged(segment, 0, reason),
        None => invalid(reason.to_owned()),
    })?;
    Ok(index)
}

/// A small log takes little room.
fn set_next_len(store: &SegmentStore, segments: &VecDeque<Arc<Segment>>) {
    let len = segments.iter().fold(0_u32, |sum, segment| sum.saturating_add(segment.len_bytes()));
    store.set_next_len(len.max(FIRST_FILE_LEN_BYTES));
}

fn invalid(what: String) -> SegmentError {
    SegmentError::Invalid { what }
}

fn damaged(segment: &Segment, offset: u32, reason: &'static str) -> SegmentError {
    SegmentError::corrupt(segment.path(), offset.into(), Damage::Structure(reason))
}
