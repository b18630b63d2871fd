//! A part of a table in key order, in one direction.

use std::ops::{Bound, Deref, RangeBounds};

use crate::cursor::{SeekTo, TableCursor};
use crate::entry::TableEntry;
use crate::error::TableError;
use crate::merge::MergeSource;
use crate::reader::TableReader;
use crate::run::{EntryRun, ScanDirection};

/// The keys between two bounds, ascending or descending.
///
/// It is an iterator of owned keys, and a [`MergeSource`], which does not copy keys.
///
/// ```
/// use hightower_segment::{Fs, RealFs};
/// use hightower_table::{ScanDirection, TableEntry, TableOptions, TableReader, TableWriter};
///
/// # let scratch = tempfile::tempdir()?;
/// # let dir = RealFs.open_dir(scratch.path())?;
/// let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
/// for key in ["a", "b", "c"] {
///     writer.push(key.as_bytes(), TableEntry::default())?;
/// }
/// writer.finish()?;
/// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
/// let keys = |range: hightower_table::TableRange<&TableReader>| {
///     range.map(|found| found.map(|(key, _)| key)).collect::<Result<Vec<_>, _>>()
/// };
/// assert_eq!(keys(table.range("b".., ScanDirection::Forward))?, [b"b", b"c"]);
/// assert_eq!(keys(table.range(.."c", ScanDirection::Backward))?, [b"b", b"a"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A range borrows its table ([`TableReader::range`]), or owns a pointer to it
/// ([`new`](Self::new)).
#[derive(Clone, Debug)]
pub struct TableRange<R> {
    cursor: TableCursor<R>,
    direction: ScanDirection,
    state: RangeState,
    /// The bound where it begins, in its direction, and the bound where it ends.
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RangeState {
    Before,
    Within,
    Done,
}

impl TableReader {
    /// The keys between two bounds, in one direction. A range that ends before it begins is empty.
    ///
    /// Example: [`TableRange`].
    #[must_use]
    pub fn range<K: AsRef<[u8]>>(&self, bounds: impl RangeBounds<K>, direction: ScanDirection) -> TableRange<&Self> {
        TableRange::new(self, bounds, direction)
    }
}

impl<R: Deref<Target = TableReader>> TableRange<R> {
    /// Like [`TableReader::range`], but owns its pointer to the table, such as an
    /// [`Arc`](std::sync::Arc). Such a range can be stored and sent to another thread.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use hightower_table::{ScanDirection, TableRange};
    ///
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableEntry, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// # let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// # for key in ["a", "c"] { writer.push(key.as_bytes(), TableEntry::default())?; }
    /// # writer.finish()?;
    /// let table = Arc::new(TableReader::open(dir.as_ref(), "1.tbl")?);
    /// let range = TableRange::new(table, "b".., ScanDirection::Forward);
    /// assert_eq!(std::thread::spawn(move || range.count()).join().unwrap(), 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new<K: AsRef<[u8]>>(table: R, bounds: impl RangeBounds<K>, direction: ScanDirection) -> Self {
        let own = |bound: Bound<&K>| bound.map(|key| key.as_ref().to_vec());
        let (low, high) = (own(bounds.start_bound()), own(bounds.end_bound()));
        let (from, to) = match direction {
            ScanDirection::Forward => (low, high),
            ScanDirection::Backward => (high, low),
        };
        Self { cursor: TableCursor::new(table), direction, state: RangeState::Before, from, to }
    }

    fn step(&mut self) -> Result<bool, TableError> {
        let cursor = &mut self.cursor;
        let is_there = match (self.state, self.direction) {
            (RangeState::Done, _) => return Ok(false),
            (RangeState::Within, ScanDirection::Forward) => cursor.advance()?,
            (RangeState::Within, ScanDirection::Backward) => cursor.retreat()?,
            (RangeState::Before, ScanDirection::Forward) => match &self.from {
                Bound::Unbounded => cursor.seek_first()?,
                Bound::Included(key) => cursor.seek(key, SeekTo::AtOrAfter)?,
                Bound::Excluded(key) => cursor.seek(key, SeekTo::After)?,
            },
            (RangeState::Before, ScanDirection::Backward) => match &self.from {
                Bound::Unbounded => cursor.seek_last()?,
                Bound::Included(key) => cursor.seek(key, SeekTo::AtOrBefore)?,
                Bound::Excluded(key) => cursor.seek(key, SeekTo::Before)?,
            },
        };
        let Some(key) = cursor.key().filter(|_| is_there) else { return Ok(false) };
        Ok(match (self.direction, &self.to) {
            (_, Bound::Unbounded) => true,
            (ScanDirection::Forward, Bound::Included(end)) => key <= end.as_slice(),
            (ScanDirection::Forward, Bound::Excluded(end)) => key < end.as_slice(),
            (ScanDirection::Backward, Bound::Included(end)) => key >= end.as_slice(),
            (ScanDirection::Backward, Bound::Excluded(end)) => key > end.as_slice(),
        })
    }
}

impl<R: Deref<Target = TableReader>> MergeSource for TableRange<R> {
    type Error = TableError;

    #[inline]
    fn advance(&mut self) -> Result<bool, TableError> {
        let stepped = self.step();
        self.state = if matches!(stepped, Ok(true)) { RangeState::Within } else { RangeState::Done };
        stepped
    }

    #[inline]
    fn key(&self) -> &[u8] {
        self.cursor.key().unwrap_or_default()
    }

    #[inline]
    fn entry(&self) -> TableEntry {
        self.cursor.entry().unwrap_or_default()
    }

    #[inline]
    fn run(&self) -> Option<EntryRun<'_>> {
        Some(self.cursor.run(self.direction)?.until(self.to.as_ref().map(Vec::as_slice)))
    }

    #[inline]
    fn skip_in_run(&mut self, count: usize) {
        self.cursor.skip_in_run(count, self.direction);
    }
}

impl<R: Deref<Target = TableReader>> Iterator for TableRange<R> {
    type Item = Result<(Vec<u8>, TableEntry), TableError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.advance() {
            Ok(true) => Some(Ok((self.key().to_vec(), self.entry()))),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}
