//! A write-ahead log of byte strings, on the crate's own segments.
//!
//! An entry is a record of a segment whose version is the entry's position; a cut at either end is
//! a record too, so that replay needs nothing but the records in their order. The bytes are
//! described in the project's `docs/FORMAT.md`.

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

use self::index::{Index, Place};
use self::syncer::Syncer;
pub use self::syncer::WalSync;
use crate::appender::Appender;
use crate::compacted::{Edit, Released};
use crate::error::{Damage, SegmentError};
use crate::fs::{Fs, RealFs};
use crate::manifest::Content;
use crate::mutants::planted;
use crate::options::{Purpose, Stamp, StoreOptions};
use crate::scan::Entry;
use crate::segment::Segment;
use crate::store::{Recovery, SegmentStore};

/// The key of a record that holds an entry.
const ENTRY: &[u8] = &[1];
/// The key of a record that says where the log begins and ends from then on.
const BOUNDS: &[u8] = &[2];
/// The length of the first files, in bytes; later ones are as long as the log.
const FIRST_FILE_LEN_BYTES: u32 = 1 << 20;

/// A write-ahead log of byte strings in a directory of its own.
///
/// Each entry has a *position*: 0 for the first, one more for each that follows. Entries are
/// appended at the back, read from any position, and dropped at either end:
/// [`truncate_front`](Self::truncate_front) when they were applied elsewhere,
/// [`truncate_back`](Self::truncate_back) when they are void, as the conflicting suffix of a Raft
/// log is.
///
/// One owner writes; [`syncer`](Self::syncer) gives a handle with which other threads wait for the
/// device meanwhile. For several writers put the log into a mutex, and sync through the handle
/// without holding it: callers that wait at the same time share one sync.
///
/// # Durability
///
/// An append is in the page cache when it returns, and survives the death of the process.
/// [`sync`](Self::sync) and [`sync_then`](Self::sync_then) make everything before the call durable.
/// A crash leaves a prefix of all appends and cuts, which holds everything that was synced. After a
/// failed write or sync the log takes no more writes ([`SegmentError::Poisoned`]) and can still be
/// read; open it again to go on.
///
/// # Memory, threads, files
///
/// 8 bytes for each entry. Opening reads the whole log. A thread is started by the first
/// `sync_then`. The directory holds the files of a [`SegmentStore`], is locked while the log is
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
    /// No longer part of the log, and not removed yet: a sync had them in use.
    removed: Vec<Arc<Segment>>,
}

/// One entry of a [`Wal`], borrowed from its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalEntry<'a> {
    /// Its position.
    pub position: u64,
    /// What was appended.
    pub bytes: &'a [u8],
}

/// What opening a [`Wal`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WalRecovery {
    /// Whether the log was made by this open.
    pub created: bool,
    /// Whether the last writer ended without [`Wal::close`].
    pub unclean: bool,
    /// The positions of the entries that are there.
    pub positions: Range<u64>,
    /// How many bytes of records at the end of the log were dropped: not whole, or behind one that
    /// was not, and never synced.
    pub dropped_bytes: u64,
    /// Why reading stopped, if bytes were dropped.
    pub reason: Option<DecodeError>,
}

impl Wal {
    /// Opens the log in a directory, or makes one, with default options.
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

    /// Opens the log in a directory of a file system, or makes one. Takes the lock, reads every
    /// record, and makes durable what a crash has left whole.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentStore::open`] and [`Recovery::finish`], with
    /// [`SegmentError::OtherContent`] for a key-value store and [`SegmentError::Corrupt`] for
    /// records that are whole and make no log.
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

    /// Appends an entry of 0 to 2^30 bytes, and gives its position. It is durable after the next
    /// sync. Costs a checksum and a copy; a roll to the next file makes one if the syncs before
    /// have not.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Encode`] for a longer entry; [`SegmentError::Full`]; then nothing has
    /// changed. [`SegmentError::Io`] if the device fails, and [`SegmentError::Poisoned`] from then
    /// on; the entry will never be seen.
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

    /// Makes everything before the call durable, and calls `callback` when it is, on the log's
    /// thread. Calls that come while the device is busy share the next sync.
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

    /// A handle for syncing from other threads, while the owner appends.
    #[must_use]
    pub fn syncer(&self) -> WalSync {
        WalSync { syncer: Arc::clone(&self.syncer) }
    }

    /// The entries from a position on, in order, each verified. Costs nothing until they are read.
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

    /// Drops the entries before a position, durably, and removes the files that are no longer
    /// needed. A position behind the last entry drops all of them, and is that of the next append:
    /// a log that begins with a snapshot begins there. A position before the first entry drops
    /// nothing.
    ///
    /// Costs a sync, and room in the active file, which is kept back for it on a full device.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Full`], [`SegmentError::Io`] or [`SegmentError::Poisoned`].
    /// [`positions`](Self::positions) tells whether the entries are dropped; files may remain in
    /// any case, and go with the next call or open.
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
        // No file goes before the cut is durable, which is what the files that are left begin with.
        if !planted("wal_files_go_first") {
            self.store.sync_point().sync()?;
        }
        self.store.sync_predecessors()?;
        self.remove_segments()
    }

    /// Drops the entries from a position on, which is then that of the next append. The cut is a
    /// record in the log: after a crash it is there if anything appended behind it is. It is
    /// durable after the next sync.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Invalid`] if `position` is before the first entry, or behind the position of
    /// the next append; [`SegmentError::Full`]; then nothing has changed. [`SegmentError::Io`] if
    /// the device fails, and [`SegmentError::Poisoned`] from then on.
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

    /// Syncs and ends the log, and gives back the room that was prepared. After it the next open
    /// has nothing to recover.
    ///
    /// # Errors
    ///
    /// [`SegmentError::Io`], [`SegmentError::Full`] or [`SegmentError::Poisoned`]. What was durable
    /// stays so; the next open recovers.
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
            Place { segment: self.appender.segment().id(), offset: 0 }
        } else {
            // It makes room in the end.
            self.write(BOUNDS, &front.to_le_bytes(), end, Purpose::Reclaim)?
        };
        self.index.bounds(front, end, place).map_err(|reason| invalid(reason.to_owned()))?;
        self.syncer.set_end(self.index.end());
        Ok(())
    }

    fn write(&mut self, key: &[u8], value: &[u8], position: u64, purpose: Purpose) -> Result<Place, SegmentError> {
        let command = CommandRef::Set { key, value, version: position, timestamp: 0 };
        let placement = |appender: &Appender| Placement::Appended { durable: appender.durable(), continues: false };
        // What no segment can hold is refused before one is made for it.
        encoded_len(self.appender.context(), &command, placement(&self.appender))?;
        // No record is longer, whatever the segment.
        let most = MAX_HEAD_LEN_BYTES + key.len() + value.len();
        if self.appender.make_room(most, purpose, stamp_at(position))? {
            self.segments.push_back(Arc::clone(self.appender.segment()));
            set_next_len(&self.store, &self.segments);
        }
        let (context, offset) = (self.appender.context(), self.appender.position());
        let checksum = payload_checksum(key, value);
        let head = encode_head(context, offset, &command, placement(&self.appender), checksum)?;
        let appended = self.appender.append(&[head.as_ref(), key, value], 1)?;
        Ok(Place { segment: self.appender.segment().id(), offset: appended.offset })
    }

    /// Removes the segments at the front that nothing in the log needs.
    fn remove_segments(&mut self) -> Result<(), SegmentError> {
        let active = self.appender.segment().id();
        let first_needed = self.index.first_needed().unwrap_or(active);
        let is_done = |segment: &&Arc<Segment>| segment.id() < first_needed && segment.is_sealed();
        let remove: Vec<u32> = self.segments.iter().take_while(is_done).map(|segment| segment.id()).collect();
        if !remove.is_empty() {
            let count = remove.len();
            self.store.install(&Edit { add: Vec::new(), remove })?;
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

/// The entries of a [`Wal`] from a position on; made by [`Wal::read`]. The first error ends it.
#[derive(Clone, Debug)]
pub struct WalEntries<'a> {
    wal: &'a Wal,
    position: u64,
    segment: Option<&'a Arc<Segment>>,
}

impl<'a> WalEntries<'a> {
    fn at(&mut self, position: u64, place: Place) -> Result<WalEntry<'a>, SegmentError> {
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
            let Entry { offset, continues, command, .. } = entry?;
            let place = Place { segment: segment.id(), offset };
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

/// A log that holds little takes little room.
fn set_next_len(store: &SegmentStore, segments: &VecDeque<Arc<Segment>>) {
    let len = segments.iter().fold(0_u32, |sum, segment| sum.saturating_add(segment.len_bytes()));
    store.set_next_len(len.max(FIRST_FILE_LEN_BYTES));
}

/// Positions stand in for versions; the log has no clock.
fn stamp_at(position: u64) -> Stamp {
    Stamp { max_version: position, timestamp: 0 }
}

fn invalid(what: String) -> SegmentError {
    SegmentError::Invalid { what }
}

fn damaged(segment: &Segment, offset: u32, reason: &'static str) -> SegmentError {
    SegmentError::corrupt(segment.path(), offset.into(), Damage::Structure(reason))
}
