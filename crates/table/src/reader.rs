//! A table open for reading: a mapped file whose header and footer are verified.

use std::fmt;
use std::hint::black_box;
use std::path::PathBuf;

use hightower_segment::{Dir, Mapping, map_table};

use crate::block::{self, BlockHead};
use crate::checksum::Salt;
use crate::entry::{SegmentCounts, TableEntry};
use crate::error::{Damaged, TableError, damaged};
use crate::footer::Footer;
use crate::hash::TableHasher;
use crate::header::{NoHeader, TableHeader};
use crate::leaf::LeafColumns;
use crate::line::{LINE_LEN, LineShape, PointLine};
use crate::node::IndexNode;
use crate::planted;

/// The length of a scan's read-ahead request, in bytes: most devices accept this length.
const READ_AHEAD_BYTES: u64 = 128 << 10;

/// An open table. Any number of threads may share it; the file never changes.
///
/// Opening verifies only header and footer, so its cost does not depend on the length. Every use of
/// a block or a line verifies it, because the system may have evicted its page and read it again.
/// Damage gives [`TableError::Corrupt`], never a wrong result.
///
/// A reader keeps in memory 32 bytes for each segment that its entries point into, and its least
/// and greatest key.
///
/// ```
/// use hightower_segment::{Fs, RealFs};
/// use hightower_table::{RecordPointer, TableEntry, TableOptions, TableReader, TableWriter};
///
/// # let scratch = tempfile::tempdir()?;
/// let dir = RealFs.open_dir(scratch.path())?;
/// let pointer = RecordPointer { segment: 9, offset: 64 };
/// let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
/// writer.push(b"key", TableEntry { version: 5, pointer, ..TableEntry::default() })?;
/// writer.finish()?;
///
/// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
/// // The place where the record may be. The caller compares the key in the record.
/// let hash = table.hasher().hash(b"key");
/// assert_eq!(table.candidates(hash)?.next().transpose()?, Some(pointer));
/// // Or the whole entry, without the record.
/// assert_eq!(table.get(b"key")?.map(|entry| entry.version), Some(5));
/// assert_eq!(table.get(b"another")?, None);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TableReader {
    mapping: Mapping,
    path: PathBuf,
    header: TableHeader,
    footer: Footer,
}

impl fmt::Debug for TableReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Leaves out the least and greatest key, and the rows of the segments.
        let mut reader = f.debug_struct("TableReader");
        reader.field("path", &self.path).field("header", &self.header).field("keys", &self.len());
        reader.field("len_bytes", &self.len_bytes()).finish_non_exhaustive()
    }
}

impl TableReader {
    /// Maps a table and checks its header and footer: a few page reads for a table of any length.
    ///
    /// While the reader lives, no [`Fs`](hightower_segment::Fs) of this process opens the file for
    /// writing. While one has the file open for writing, no reader opens it. If other code (another
    /// process, a `std::fs::File`) shortens the file, a signal ends this process.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if the file is not a complete table,
    /// [`TableError::VersionUnsupported`] if it has a later format, and [`TableError::Io`].
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?.finish()?;
    /// assert!(TableReader::open(dir.as_ref(), "1.tbl")?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(dir: &dyn Dir, name: &str) -> Result<Self, TableError> {
        let path = dir.path().join(name);
        let mapping = map_table(dir, name).map_err(|error| TableError::io("map", &path, error))?;
        let file = mapping.slice(0..mapping.len()).unwrap_or_default();
        let header = TableHeader::decode(file).map_err(|reason| match reason {
            NoHeader::Damaged(what) => TableError::corrupt(&path, damaged(0, what)),
            NoHeader::Unsupported(what) => TableError::VersionUnsupported { path: path.clone(), what },
        })?;
        let footer = Footer::decode(file, Salt(header.salt)).map_err(|damage| TableError::corrupt(&path, damage))?;
        Ok(Self { mapping, path, header, footer })
    }

    /// The table's id, from the writer's options.
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?.finish()?;
    /// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
    /// assert_eq!((table.id(), table.salt(), table.hash_seed()), (1, 2, 3));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn id(&self) -> u64 {
        self.header.id
    }

    /// The table's salt: id, salt and length together identify a table. Example: [`id`](Self::id).
    #[must_use]
    pub fn salt(&self) -> u64 {
        self.header.salt
    }

    /// The seed of the hash of its keys. Example: [`id`](Self::id).
    #[must_use]
    pub fn hash_seed(&self) -> u64 {
        self.header.hash_seed
    }

    /// The hasher of its keys. Keep it: tables with one [`hash_seed`](Self::hash_seed) share it.
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableHasher, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?.finish()?;
    /// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
    /// assert_eq!(table.hasher().hash(b"key"), TableHasher::new(3).hash(b"key"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn hasher(&self) -> TableHasher {
        TableHasher::new(self.header.hash_seed)
    }

    /// The number of keys, including tombstones.
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{EntryKind, TableEntry, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// let deleted = TableEntry { version: 7, kind: EntryKind::Tombstone, ..TableEntry::default() };
    /// writer.push(b"key", deleted)?;
    /// writer.finish()?;
    /// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
    /// assert_eq!((table.len(), table.tombstones(), table.max_version()), (1, 1, 7));
    /// assert_eq!((table.min_key(), table.max_key()), (Some(&b"key"[..]), Some(&b"key"[..])));
    /// assert_eq!(table.segments()[0].tombstones, 1);
    /// assert!(!table.is_empty() && table.len_bytes() > 64);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn len(&self) -> u64 {
        self.footer.keys
    }

    /// Whether it has no keys. Example: [`len`](Self::len).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.footer.keys == 0
    }

    /// The number of keys that are tombstones. Example: [`len`](Self::len).
    #[must_use]
    pub fn tombstones(&self) -> u64 {
        self.footer.tombstones
    }

    /// The highest version in it; 0 if it is empty. Example: [`len`](Self::len).
    #[must_use]
    pub fn max_version(&self) -> u64 {
        self.footer.max_version
    }

    /// The length of the file in bytes. Example: [`len`](Self::len).
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// The least key. Example: [`len`](Self::len).
    #[must_use]
    pub fn min_key(&self) -> Option<&[u8]> {
        (!self.is_empty()).then_some(&self.footer.min_key)
    }

    /// The greatest key. Example: [`len`](Self::len).
    #[must_use]
    pub fn max_key(&self) -> Option<&[u8]> {
        (!self.is_empty()).then_some(&self.footer.max_key)
    }

    /// The counts for each segment that entries point into, in ascending order. Example:
    /// [`len`](Self::len).
    #[must_use]
    pub fn segments(&self) -> &[SegmentCounts] {
        &self.footer.segments
    }

    /// Loads the lines of several hashes into the processor's cache, all at once, so that
    /// [`candidates`](Self::candidates) does not wait for memory. Reads one byte of each line.
    /// Pages that are not in memory are loaded from the device, one after another.
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// # TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?.finish()?;
    /// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
    /// let hasher = table.hasher();
    /// let hashes = [&b"a"[..], b"b"].map(|key| hasher.hash(key));
    /// table.prefetch(&hashes);
    /// for hash in hashes {
    ///     assert!(table.candidates(hash)?.next().is_none());
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn prefetch(&self, hashes: &[u64]) {
        let file = self.file();
        let touch = |hash: &u64| {
            let at = self.footer.points_at + self.footer.shape.home(*hash).0 * LINE_LEN as u64;
            usize::try_from(at).ok().and_then(|at| file.get(at)).copied().unwrap_or(0)
        };
        // The loads do not depend on each other, so the processor overlaps them.
        black_box(hashes.iter().map(touch).fold(0, |sum, byte| sum ^ byte));
    }

    /// The entry of a key, found through the index, for callers that do not read the record, and
    /// for tools. Reads one block of each level: three for a million keys. For callers that read
    /// the record, [`candidates`](Self::candidates) costs a fraction of this.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`].
    ///
    /// Example: [`TableReader`].
    pub fn get(&self, key: &[u8]) -> Result<Option<TableEntry>, TableError> {
        self.find(key).map_err(|damage| self.corrupt(damage))
    }

    fn find(&self, key: &[u8]) -> Result<Option<TableEntry>, Damaged> {
        if self.is_empty() || key < self.footer.min_key.as_slice() || key > self.footer.max_key.as_slice() {
            return Ok(None);
        }
        let offset = self.leaf_of(key)?;
        let (head, block) = self.block(offset, 0)?;
        let columns = LeafColumns::parse(block, head.count, offset)?;
        match columns.lower_bound(block, key) {
            (place, true) => columns.entry(block, place, offset).map(Some),
            _ => Ok(None),
        }
    }

    pub(crate) fn file(&self) -> &[u8] {
        self.mapping.slice(0..self.mapping.len()).unwrap_or_default()
    }

    pub(crate) fn salt_of_checks(&self) -> Salt {
        Salt(self.header.salt)
    }

    pub(crate) fn footer(&self) -> &Footer {
        &self.footer
    }

    /// Starts read-ahead of the next piece of the file when a scan that moves from `from` to `to`
    /// enters a new piece. The map has the advice for lookups, so the system reads nothing ahead by
    /// itself.
    #[inline]
    pub(crate) fn read_ahead(&self, from: u64, to: u64) {
        if from / READ_AHEAD_BYTES != to / READ_AHEAD_BYTES {
            self.read_piece_ahead(to / READ_AHEAD_BYTES, to > from);
        }
    }

    #[cold]
    fn read_piece_ahead(&self, piece: u64, is_forward: bool) {
        let next = if is_forward { Some(piece + 1) } else { piece.checked_sub(1) };
        let start = next.and_then(|next| usize::try_from(next * READ_AHEAD_BYTES).ok());
        let Some(start) = start.filter(|start| *start < self.mapping.len()) else { return };
        let len = usize::try_from(READ_AHEAD_BYTES).unwrap_or(0);
        // If the system ignores the request, the scan waits for each page.
        let _wish = self.mapping.will_need(start..start.saturating_add(len));
    }

    #[cold]
    pub(crate) fn corrupt(&self, damage: Damaged) -> TableError {
        TableError::corrupt(&self.path, damage)
    }

    /// The verified block at `offset`, which must be of this level.
    pub(crate) fn block(&self, offset: u64, level: u8) -> Result<(BlockHead, &[u8]), Damaged> {
        let (head, block) = block::open(self.file(), self.salt_of_checks(), offset, &self.footer.area(level))?;
        if head.level != level {
            return Err(damaged(offset, "a block of another level"));
        }
        Ok((head, block))
    }

    /// The offset of the only leaf that can hold a key.
    pub(crate) fn leaf_of(&self, key: &[u8]) -> Result<u64, Damaged> {
        let mut offset = self.footer.root;
        for level in (1..=self.footer.root_level).rev() {
            let (head, block) = self.block(offset, level)?;
            offset = IndexNode::parse(block, head.count, offset)?.child_of(key)?;
        }
        Ok(offset)
    }

    /// A verified line of the point table.
    #[inline]
    pub(crate) fn line(&self, number: u64) -> Result<PointLine, Damaged> {
        let at = self.footer.points_at + number * LINE_LEN as u64;
        let file = self.file();
        let found = usize::try_from(at).ok().and_then(|at| file.get(at..)).and_then(|rest| rest.first_chunk());
        let Some(bytes) = found else { return Err(damaged(at, "a line beyond the end")) };
        let line = PointLine { bytes: *bytes };
        let [c0, c1, c2, c3, checked @ ..] = &line.bytes;
        if self.salt_of_checks().check(at, checked) != u32::from_le_bytes([*c0, *c1, *c2, *c3]) {
            if planted("table_damaged_line_is_absent") {
                return Ok(PointLine::empty());
            }
            return Err(damaged(at, "wrong checksum of a line of the point table"));
        }
        if line.len() > self.shape().slots.into() {
            return Err(damaged(at, "a line with more entries than slots"));
        }
        Ok(line)
    }

    pub(crate) fn shape(&self) -> &LineShape {
        &self.footer.shape
    }
}
