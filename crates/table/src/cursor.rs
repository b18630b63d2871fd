//! Cursors: iteration over a table in key order, in both directions.

use std::ops::Deref;

use crate::entry::TableEntry;
use crate::error::{Damaged, TableError, damaged};
use crate::leaf::DecodedLeaf;
use crate::planted;
use crate::reader::TableReader;
use crate::run::{EntryRun, ScanDirection};

/// The target of [`TableCursor::seek`], relative to a key.
///
/// ```
/// use hightower_table::SeekTo;
/// assert_ne!(SeekTo::AtOrAfter, SeekTo::After);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The first key at or above it (≥).
    AtOrAfter,
    /// The first key above it (>).
    After,
    /// The last key at or below it (≤).
    AtOrBefore,
    /// The last key below it (<).
    Before,
}

/// A position in a table, or none.
///
/// A cursor keeps the keys and entries of one verified block: mostly some kilobytes, up to 2 MiB
/// with the longest keys. After an error it has no position.
///
/// ```
/// use hightower_segment::{Fs, RealFs};
/// use hightower_table::{SeekTo, TableEntry, TableOptions, TableReader, TableWriter};
///
/// # let scratch = tempfile::tempdir()?;
/// # let dir = RealFs.open_dir(scratch.path())?;
/// let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
/// for key in ["a", "c", "e"] {
///     writer.push(key.as_bytes(), TableEntry::default())?;
/// }
/// writer.finish()?;
/// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
///
/// let mut cursor = table.cursor();
/// assert!(cursor.seek(b"b", SeekTo::AtOrAfter)?);
/// assert_eq!(cursor.key(), Some(&b"c"[..]));
/// assert!(cursor.retreat()?);
/// assert_eq!(cursor.key(), Some(&b"a"[..]));
/// assert!(!cursor.retreat()?);
/// assert_eq!(cursor.key(), None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// A cursor borrows its table ([`TableReader::cursor`]), or owns a pointer to it, such as an
/// [`Arc`](std::sync::Arc): then it can be stored and sent to another thread.
#[derive(Clone, Debug)]
pub struct TableCursor<R> {
    table: R,
    leaf: DecodedLeaf,
    place: Option<usize>,
}

impl TableReader {
    /// A cursor without a position. Example: [`TableCursor`].
    #[must_use]
    pub fn cursor(&self) -> TableCursor<&Self> {
        TableCursor::new(self)
    }
}

impl<R: Deref<Target = TableReader>> TableCursor<R> {
    /// A cursor that owns the pointer to its table, without a position.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use hightower_table::TableCursor;
    ///
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableEntry, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// # let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// # for key in ["a", "c"] { writer.push(key.as_bytes(), TableEntry::default())?; }
    /// # writer.finish()?;
    /// let table = Arc::new(TableReader::open(dir.as_ref(), "1.tbl")?);
    /// let mut cursor = TableCursor::new(Arc::clone(&table));
    /// drop(table);
    /// assert!(cursor.seek_first()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new(table: R) -> Self {
        Self { table, leaf: DecodedLeaf::default(), place: None }
    }

    /// Moves to the first key. `false` if the table is empty.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`].
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableEntry, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// # let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// # for key in ["a", "c"] { writer.push(key.as_bytes(), TableEntry::default())?; }
    /// # writer.finish()?;
    /// # let table = TableReader::open(dir.as_ref(), "1.tbl")?;
    /// let mut cursor = table.cursor();
    /// let mut is_there = cursor.seek_first()?;
    /// while is_there {
    ///     println!("{:?}: {:?}", cursor.key(), cursor.entry());
    ///     is_there = cursor.advance()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek_first(&mut self) -> Result<bool, TableError> {
        self.within(|cursor| {
            if cursor.table.is_empty() {
                return Ok(None);
            }
            cursor.load(cursor.table.footer().leaves().start)?;
            Ok(Some(0))
        })
    }

    /// Moves to the last key. `false` if the table is empty.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`].
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableEntry, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// # let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// # for key in ["a", "c"] { writer.push(key.as_bytes(), TableEntry::default())?; }
    /// # writer.finish()?;
    /// # let table = TableReader::open(dir.as_ref(), "1.tbl")?;
    /// let mut cursor = table.cursor();
    /// assert!(cursor.seek_last()?);
    /// assert_eq!(cursor.key(), Some(&b"c"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn seek_last(&mut self) -> Result<bool, TableError> {
        self.within(|cursor| {
            if cursor.table.is_empty() {
                return Ok(None);
            }
            cursor.load(cursor.table.footer().last_leaf)?;
            Ok(cursor.leaf.len().checked_sub(1))
        })
    }

    /// Moves to the key that `to` selects relative to `key`. `false` if there is none. Reads one
    /// block of each level of the index, and one or two leaves.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`].
    ///
    /// Example: [`TableCursor`].
    pub fn seek(&mut self, key: &[u8], to: SeekTo) -> Result<bool, TableError> {
        self.within(|cursor| {
            if cursor.table.is_empty() {
                return Ok(None);
            }
            let offset = cursor.table.leaf_of(key)?;
            cursor.load(offset)?;
            let (place, is_equal) = cursor.leaf.lower_bound(key);
            match (to, is_equal) {
                (SeekTo::AtOrAfter, _) | (SeekTo::After, false) => cursor.place_or_next(place),
                (SeekTo::After, true) => cursor.place_or_next(place + 1),
                (SeekTo::AtOrBefore, true) => Ok(Some(place)),
                (SeekTo::AtOrBefore, false) | (SeekTo::Before, _) => cursor.before(place),
            }
        })
    }

    /// Moves to the next key. `false` at the end, and without a position.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`].
    ///
    /// Example: [`seek_first`](Self::seek_first).
    #[inline]
    pub fn advance(&mut self) -> Result<bool, TableError> {
        self.within(|cursor| match cursor.place {
            Some(place) => cursor.place_or_next(place + 1),
            None => Ok(None),
        })
    }

    /// Moves to the previous key. `false` at the beginning, and without a position.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`].
    ///
    /// Example: [`TableCursor`].
    #[inline]
    pub fn retreat(&mut self) -> Result<bool, TableError> {
        self.within(|cursor| match cursor.place {
            Some(place) => cursor.before(place),
            None => Ok(None),
        })
    }

    /// The key at the cursor's position. Example: [`TableCursor`].
    #[must_use]
    #[inline]
    pub fn key(&self) -> Option<&[u8]> {
        self.place.map(|place| self.leaf.key(place))
    }

    /// The entry of that key. Example: [`seek_first`](Self::seek_first).
    #[must_use]
    #[inline]
    pub fn entry(&self) -> Option<TableEntry> {
        self.place.map(|place| self.leaf.entry(place))
    }

    /// The offset of the cursor's block in the file.
    pub(crate) fn leaf_offset(&self) -> u64 {
        self.leaf.offset
    }

    /// The keys of the cursor's block from its position on, in one direction; `None` without a
    /// position.
    #[must_use]
    #[inline]
    pub fn run(&self, direction: ScanDirection) -> Option<EntryRun<'_>> {
        self.place.map(|place| self.leaf.run(place, direction))
    }

    /// Moves over `count` keys of the run in that direction, at most to its last key.
    #[inline]
    pub fn skip_in_run(&mut self, count: usize, direction: ScanDirection) {
        let last = self.leaf.len().saturating_sub(1);
        self.place = self.place.map(|place| match direction {
            ScanDirection::Forward => place.saturating_add(count).min(last),
            ScanDirection::Backward => place.saturating_sub(count),
        });
    }

    /// Moves; after an error the cursor has no position.
    #[inline]
    fn within(&mut self, step: impl FnOnce(&mut Self) -> Result<Option<usize>, Damaged>) -> Result<bool, TableError> {
        let moved = step(self);
        self.place = *moved.as_ref().unwrap_or(&None);
        moved.map(|place| place.is_some()).map_err(|damage| self.table.corrupt(damage))
    }

    fn load(&mut self, offset: u64) -> Result<(), Damaged> {
        let (head, block) = self.table.block(offset, 0)?;
        if (head.previous_len == 0) != (offset == self.table.footer().leaves().start) {
            return Err(damaged(offset, "a leaf whose previous length does not fit its place"));
        }
        self.leaf.load(block, head, offset)
    }

    /// This place, or the first one of the next leaf if the current leaf has no such place.
    fn place_or_next(&mut self, place: usize) -> Result<Option<usize>, Damaged> {
        if place < self.leaf.len() {
            return Ok(Some(place));
        }
        let next = self.leaf.offset + self.leaf.len_bytes;
        let footer = self.table.footer();
        if next >= footer.leaves_end {
            return Ok(None);
        }
        let previous_len = self.leaf.len_bytes;
        self.table.read_ahead(self.leaf.offset, next);
        self.load(next)?;
        if u64::from(self.leaf.previous_len) != previous_len {
            return Err(damaged(next, "a leaf that does not follow the one before it"));
        }
        Ok(Some(0))
    }

    /// The place before this one, perhaps in the previous leaf.
    fn before(&mut self, place: usize) -> Result<Option<usize>, Damaged> {
        if let Some(before) = place.checked_sub(1) {
            return Ok(Some(before));
        }
        if self.leaf.previous_len == 0 || planted("table_walk_back_ends_early") {
            return Ok(None);
        }
        let offset = self.leaf.offset;
        let previous = offset.checked_sub(self.leaf.previous_len.into());
        let previous = previous.ok_or_else(|| damaged(offset, "a leaf before the first"))?;
        self.table.read_ahead(offset, previous);
        self.load(previous)?;
        if self.leaf.offset + self.leaf.len_bytes != offset {
            return Err(damaged(offset, "a leaf that does not follow the one before it"));
        }
        Ok(self.leaf.len().checked_sub(1))
    }
}
