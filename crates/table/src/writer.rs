//! Writes a table from keys in ascending order. Its memory does not grow with their number.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use hightower_segment::{Dir, Entropy, is_table_name, retry_interrupted};

use crate::append_file::AppendFile;
use crate::block::{self, common_prefix};
use crate::checksum::Salt;
use crate::entry::{SegmentCounts, TableEntry};
use crate::error::TableError;
use crate::footer::Footer;
use crate::hash::TableHasher;
use crate::header::TableHeader;
use crate::index_writer::IndexWriter;
use crate::leaf::LeafBuilder;
use crate::limits::TableLimits;
use crate::line::{LINE_LEN, LineShape};
use crate::merge::MergeSource;
use crate::planted;
use crate::point_entry::PointEntry;
use crate::point_writer::{LineWriter, SortedRuns};
use crate::spill::Spill;

/// The suffix after a table's name while the table is being written.
///
/// A crash may leave such a file. It is never opened, and the owner of the directory may remove it.
///
/// ```
/// assert_eq!(format!("7.tbl{}", hightower_table::UNFINISHED_SUFFIX), "7.tbl.tmp");
/// ```
pub const UNFINISHED_SUFFIX: &str = ".tmp";
/// The suffix of the scratch file's name, which exists only briefly.
const SPILL_SUFFIX: &str = ".spill.tmp";
/// The longest name of a new table, in bytes: it leaves room for the suffix of the scratch file.
///
/// ```
/// assert_eq!(hightower_table::MAX_TABLE_NAME_LEN_BYTES, 255 - ".spill.tmp".len());
/// ```
pub const MAX_TABLE_NAME_LEN_BYTES: usize = 255 - SPILL_SUFFIX.len();
/// The number of keys between two reports of progress.
pub(crate) const KEYS_PER_REPORT: u64 = 16_384;

/// The options of a new table.
///
/// ```
/// use hightower_segment::OsEntropy;
/// use hightower_table::TableOptions;
///
/// let options = TableOptions::random(7, &OsEntropy)?.with_hash_seed(1).with_memory_bytes(4 << 20);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableOptions {
    header: TableHeader,
    memory_bytes: usize,
}

impl TableOptions {
    /// The default memory of a writer, in bytes: 32 MiB.
    ///
    /// ```
    /// assert_eq!(hightower_table::TableOptions::DEFAULT_MEMORY_BYTES, 32 << 20);
    /// ```
    pub const DEFAULT_MEMORY_BYTES: usize = 32 << 20;

    /// A table with this id and salt, and with `hash_seed` for the hash of its keys. Id and salt
    /// must differ from those of all tables that the directory has ever had.
    ///
    /// ```
    /// let options = hightower_table::TableOptions::new(7, 0x1234, 0x5678);
    /// ```
    #[must_use]
    pub fn new(id: u64, salt: u64, hash_seed: u64) -> Self {
        Self { header: TableHeader { id, salt, hash_seed }, memory_bytes: Self::DEFAULT_MEMORY_BYTES }
    }

    /// A table with this id, and with a salt and a hash seed from `entropy`.
    ///
    /// # Errors
    ///
    /// Errors of the source.
    ///
    /// ```
    /// let options = hightower_table::TableOptions::random(7, &hightower_segment::OsEntropy)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn random(id: u64, entropy: &dyn Entropy) -> io::Result<Self> {
        Ok(Self::new(id, entropy.next_u64()?, entropy.next_u64()?))
    }

    /// Sets the seed of the hash. Tables that a lookup reads together share a seed.
    ///
    /// ```
    /// let options = hightower_table::TableOptions::new(7, 1, 2).with_hash_seed(3);
    /// ```
    #[must_use]
    pub fn with_hash_seed(mut self, hash_seed: u64) -> Self {
        self.header.hash_seed = hash_seed;
        self
    }

    /// Sets the memory that hashes and pointers may take before they spill to the scratch file, in
    /// bytes; at least 1 KiB. A key takes 16 bytes of it. Buffers take about 2 MiB more, and
    /// another 32 KiB each time that this memory fills up.
    ///
    /// ```
    /// let options = hightower_table::TableOptions::new(7, 1, 2).with_memory_bytes(1 << 20);
    /// ```
    #[must_use]
    pub fn with_memory_bytes(mut self, memory_bytes: usize) -> Self {
        self.memory_bytes = memory_bytes;
        self
    }
}

/// The progress of a table under construction, or of its check.
///
/// ```
/// let progress = hightower_table::TableProgress { ordered_keys: 16_384, pointed_keys: 0 };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableProgress {
    /// The number of keys written to leaves, or checked there.
    pub ordered_keys: u64,
    /// The number of keys written to the point table, which is built after all keys are known.
    pub pointed_keys: u64,
}

/// The result of a finished table.
///
/// ```
/// let summary = hightower_table::TableSummary { id: 7, ..Default::default() };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSummary {
    /// The table's id.
    pub id: u64,
    /// The table's salt.
    pub salt: u64,
    /// The length of the file in bytes.
    pub len_bytes: u64,
    /// The number of keys, including tombstones.
    pub keys: u64,
    /// The number of keys that are tombstones.
    pub tombstones: u64,
    /// The highest version in it; 0 if it is empty.
    pub max_version: u64,
}

/// Writes one table.
///
/// The table gets its name before [`finish`](Self::finish) returns. Dropping the writer earlier
/// removes the unfinished file; after a crash, that file has another name.
///
/// ```
/// use hightower_segment::{Fs, RealFs};
/// use hightower_table::{TableEntry, TableOptions, TableReader, TableWriter};
///
/// # let scratch = tempfile::tempdir()?;
/// let dir = RealFs.open_dir(scratch.path())?;
/// let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
/// writer.push(b"a", TableEntry { version: 1, ..TableEntry::default() })?;
/// writer.push(b"b", TableEntry { version: 2, ..TableEntry::default() })?;
/// assert_eq!(writer.finish()?.keys, 2);
/// assert_eq!(TableReader::open(dir.as_ref(), "1.tbl")?.get(b"b")?.map(|entry| entry.version), Some(2));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct TableWriter {
    place: TablePlace,
    /// `None` after an error.
    open: Option<OpenTable>,
}

impl fmt::Debug for TableWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Leaves out the keys, their hashes, and the seed of the hash.
        let keys = self.open.as_ref().map(|open| open.footer.keys);
        f.debug_struct("TableWriter").field("path", &self.place.path).field("keys", &keys).finish_non_exhaustive()
    }
}

/// The directory and the names of the table's file.
#[derive(Debug)]
struct TablePlace {
    dir: Arc<dyn Dir>,
    name: String,
    unfinished: String,
    path: PathBuf,
    /// Whether this writer's unfinished file exists.
    exists: bool,
}

impl Drop for TablePlace {
    fn drop(&mut self) {
        if self.exists {
            // If this fails, an unused file remains.
            let _garbage = self.dir.remove_file(&self.unfinished);
        }
    }
}

#[derive(Debug)]
struct OpenTable {
    out: AppendFile,
    spill: Spill,
    header: TableHeader,
    salt: Salt,
    hasher: TableHasher,
    leaf: LeafBuilder,
    block: Vec<u8>,
    index: IndexWriter,
    points: SortedRuns,
    counts: BTreeMap<u32, SegmentCounts>,
    /// The counts of the last entry's segment: successive entries often have the same segment.
    latest: SegmentCounts,
    footer: Footer,
    last_key: Vec<u8>,
    previous_len: u32,
    max_offset: u32,
    max_segments: usize,
}

impl TableWriter {
    /// Begins a table with this name: at most [`MAX_TABLE_NAME_LEN_BYTES`] ASCII letters, digits,
    /// `-`, `_` and `.`, ending in `.tbl`.
    ///
    /// # Errors
    ///
    /// [`TableError::Exists`] if a table with this name exists, finished or not;
    /// [`TableError::Full`] and [`TableError::Io`].
    ///
    /// ```
    /// use hightower_segment::{Fs, RealFs};
    /// use hightower_table::{TableOptions, TableWriter};
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// let dir = RealFs.open_dir(scratch.path())?;
    /// let writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create(dir: &Arc<dyn Dir>, name: &str, options: TableOptions) -> Result<Self, TableError> {
        Self::create_within(dir, name, options, TableLimits::FORMAT)
    }

    fn create_within(
        dir: &Arc<dyn Dir>,
        name: &str,
        options: TableOptions,
        limits: TableLimits,
    ) -> Result<Self, TableError> {
        let path = dir.path().join(name);
        if !is_table_name(name) || name.len() > MAX_TABLE_NAME_LEN_BYTES {
            let what = "a table's name has at most 245 letters, digits, -, _ and ., and ends in .tbl";
            return Err(TableError::io("create", &path, io::Error::new(io::ErrorKind::InvalidInput, what)));
        }
        let unfinished = format!("{name}{UNFINISHED_SUFFIX}");
        let file = dir.create_new(&unfinished).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => TableError::Exists { path: dir.path().join(&unfinished) },
            _ => TableError::io("create", &path, error),
        })?;
        let place = TablePlace { dir: Arc::clone(dir), name: name.to_owned(), unfinished, path, exists: true };
        // While this writer has the unfinished file, no other writer can give its table this name.
        match dir.metadata(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) => return Err(TableError::Exists { path: place.path.clone() }),
            Err(error) => return Err(TableError::io("look for", &place.path, error)),
        }
        // A crash may have left a scratch file. No other writer uses this name.
        let scratch = format!("{name}{SPILL_SUFFIX}");
        match dir.remove_file(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(TableError::io("remove", &dir.path().join(&scratch), error));
            }
            _ => {}
        }
        let salt = Salt(options.header.salt);
        let mut out = AppendFile::new(file, place.path.clone(), limits.len_bytes);
        out.append(&options.header.encode())?;
        let open = OpenTable {
            out,
            spill: Spill::new(Arc::clone(dir), scratch, salt),
            header: options.header,
            salt,
            hasher: TableHasher::new(options.header.hash_seed),
            leaf: LeafBuilder::default(),
            block: Vec::new(),
            index: IndexWriter::default(),
            points: SortedRuns::new(options.memory_bytes),
            counts: BTreeMap::new(),
            latest: SegmentCounts::default(),
            footer: Footer::default(),
            last_key: Vec::new(),
            previous_len: 0,
            max_offset: 0,
            max_segments: limits.segments,
        };
        Ok(Self { place, open: Some(open) })
    }

    /// Adds the next key, which must be above the previous one. Costs about 0.2 µs, and sometimes a
    /// write.
    ///
    /// # Errors
    ///
    /// [`TableError::OutOfOrder`], [`TableError::KeyTooLong`], [`TableError::TooManySegments`],
    /// [`TableError::TooLong`], [`TableError::Full`], [`TableError::Io`]. The unfinished table is
    /// then removed, and every later call returns [`TableError::Abandoned`].
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableEntry, TableError, TableOptions, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// writer.push(b"b", TableEntry::default())?;
    /// let refused = writer.push(b"a", TableEntry::default());
    /// assert!(matches!(refused, Err(TableError::OutOfOrder { position: 1, is_duplicate: false })));
    /// assert!(matches!(writer.push(b"c", TableEntry::default()), Err(TableError::Abandoned { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn push(&mut self, key: &[u8], entry: TableEntry) -> Result<(), TableError> {
        self.within(|open| open.push(key, entry))
    }

    /// Advances an ascending source to its end and adds all its keys. `observe` gets the progress
    /// after every 16,384 written keys, and may stop the writer. Keys that a merge skips do not
    /// count. A source can also stop the writer, with [`TableError::Canceled`].
    ///
    /// # Errors
    ///
    /// As for [`push`](Self::push), errors of the source, and [`TableError::Canceled`].
    ///
    /// ```
    /// # use std::ops::{Bound, ControlFlow};
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{ScanDirection, TableEntry, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// writer.push(b"a", TableEntry::default())?;
    /// writer.finish()?;
    ///
    /// let first = TableReader::open(dir.as_ref(), "1.tbl")?;
    /// let mut copy = TableWriter::create(&dir, "2.tbl", TableOptions::new(2, 3, 3))?;
    /// let mut all = first.range::<&[u8]>(.., ScanDirection::Forward);
    /// copy.push_all(&mut all, &mut |_progress| ControlFlow::Continue(()))?;
    /// assert_eq!(copy.finish()?.keys, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn push_all<S: MergeSource>(
        &mut self,
        source: &mut S,
        observe: &mut dyn FnMut(TableProgress) -> ControlFlow<()>,
    ) -> Result<(), TableError>
    where
        TableError: From<S::Error>,
    {
        self.within(|open| {
            while source.advance()? {
                open.push(source.key(), source.entry())?;
                if open.footer.keys.is_multiple_of(KEYS_PER_REPORT) {
                    go_on(observe, open.footer.keys, 0)?;
                }
            }
            go_on(observe, open.footer.keys, 0)
        })
    }

    /// Builds index and point table, makes the file durable and renames it to the table's name.
    ///
    /// # Errors
    ///
    /// [`TableError::Full`] and [`TableError::Io`], [`TableError::TooLong`] if index or point table
    /// make it too long, and [`TableError::Corrupt`] if the scratch file returned bytes that differ
    /// from the written ones. After an error, no table with this name exists. If its removal fails
    /// as well, a complete table remains.
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableOptions, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// let writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// let summary = writer.finish()?;
    /// assert_eq!((summary.id, summary.keys), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn finish(self) -> Result<TableSummary, TableError> {
        self.finish_with(&mut |_progress| ControlFlow::Continue(()))
    }

    /// Like [`finish`](Self::finish). `observe` gets the progress and may stop the writer.
    ///
    /// # Errors
    ///
    /// As for [`finish`](Self::finish), and [`TableError::Canceled`].
    ///
    /// ```
    /// # use std::ops::ControlFlow;
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableError, TableOptions, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// let writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// let stopped = writer.finish_with(&mut |_progress| ControlFlow::Break(()));
    /// assert!(matches!(stopped, Err(TableError::Canceled)));
    /// assert!(dir.list()?.is_empty());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn finish_with(
        mut self,
        observe: &mut dyn FnMut(TableProgress) -> ControlFlow<()>,
    ) -> Result<TableSummary, TableError> {
        let open = self.open.take().ok_or_else(|| TableError::Abandoned { path: self.place.path.clone() })?;
        let summary = open.finish(observe)?;
        let place = &mut self.place;
        let renamed = place.dir.rename(&place.unfinished, &place.name);
        renamed.map_err(|error| TableError::io("rename", &place.path, error))?;
        place.exists = false;
        if let Err(error) = retry_interrupted(|| place.dir.sync()) {
            // The name may or may not be durable, so the file is removed.
            let _garbage = place.dir.remove_file(&place.name);
            return Err(TableError::io("sync the directory of", &place.path, error));
        }
        Ok(summary)
    }

    fn within<T>(&mut self, step: impl FnOnce(&mut OpenTable) -> Result<T, TableError>) -> Result<T, TableError> {
        let open = self.open.as_mut().ok_or_else(|| TableError::Abandoned { path: self.place.path.clone() })?;
        step(open).inspect_err(|_| {
            self.open = None;
            if self.place.exists && !planted("table_leftover_kept") {
                // As in `TablePlace::drop`.
                let _garbage = self.place.dir.remove_file(&self.place.unfinished);
            }
            self.place.exists = false;
        })
    }
}

pub(crate) fn go_on(
    observe: &mut dyn FnMut(TableProgress) -> ControlFlow<()>,
    ordered_keys: u64,
    pointed_keys: u64,
) -> Result<(), TableError> {
    match observe(TableProgress { ordered_keys, pointed_keys }) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(TableError::Canceled),
    }
}

impl OpenTable {
    fn push(&mut self, key: &[u8], entry: TableEntry) -> Result<(), TableError> {
        let hash = self.hasher.hash(key);
        self.push_hashed(key, hash, entry)
    }

    fn push_hashed(&mut self, key: &[u8], hash: u64, entry: TableEntry) -> Result<(), TableError> {
        if key.len() > crate::MAX_KEY_LEN_BYTES {
            return Err(TableError::KeyTooLong { len_bytes: key.len() });
        }
        let position = self.footer.keys;
        let common = common_prefix(&self.last_key, key);
        if position > 0 {
            let is_above = match (self.last_key.get(common), key.get(common)) {
                (Some(last), Some(new)) => last < new,
                (None, new) => new.is_some(),
                (Some(_), None) => false,
            };
            if !is_above && !planted("table_order_unchecked") {
                return Err(TableError::OutOfOrder { position, is_duplicate: self.last_key == key });
            }
        }
        if self.leaf.is_full() {
            self.end_leaf()?;
        }
        if self.leaf.len() == 0 {
            // The shortest byte string above the previous key; empty for the first leaf.
            let separator = if position == 0 { &[][..] } else { key.get(..=common).unwrap_or(key) };
            self.index.push(separator, self.out.position(), &mut self.spill)?;
            self.leaf.push(0, key, entry);
        } else {
            self.leaf.push(common, key.get(common..).unwrap_or_default(), entry);
        }
        if position == 0 {
            self.footer.min_key = key.to_vec();
        }
        self.count(&entry)?;
        self.last_key.truncate(common);
        self.last_key.extend_from_slice(key.get(common..).unwrap_or_default());
        let point = PointEntry { hash, pointer: entry.pointer };
        self.points.push(point, &mut self.spill)
    }

    fn count(&mut self, entry: &TableEntry) -> Result<(), TableError> {
        self.footer.keys += 1;
        self.footer.tombstones += u64::from(entry.is_tombstone());
        self.footer.max_version = self.footer.max_version.max(entry.version);
        self.max_offset = self.max_offset.max(entry.pointer.offset);
        if self.latest.entries > 0 && self.latest.segment != entry.pointer.segment {
            self.store_latest();
        }
        if self.latest.entries == 0 {
            let segment = entry.pointer.segment;
            let known = self.counts.get(&segment).copied();
            if known.is_none() && self.counts.len() >= self.max_segments {
                return Err(TableError::TooManySegments { segments: self.counts.len() + 1 });
            }
            self.latest = known.unwrap_or(SegmentCounts { segment, ..SegmentCounts::default() });
        }
        self.latest.add(entry);
        Ok(())
    }

    fn store_latest(&mut self) {
        if self.latest.entries > 0 {
            self.counts.insert(self.latest.segment, self.latest);
        }
        self.latest = SegmentCounts::default();
    }

    fn end_leaf(&mut self) -> Result<(), TableError> {
        let count = self.leaf.len();
        if count == 0 {
            return Ok(());
        }
        self.leaf.encode(&mut self.block);
        let at = self.out.position();
        block::seal(&mut self.block, self.salt, at, self.previous_len, 0, count);
        self.footer.last_leaf = at;
        self.previous_len = u32::try_from(self.block.len()).unwrap_or(u32::MAX);
        self.out.append(&self.block)
    }

    fn finish(mut self, observe: &mut dyn FnMut(TableProgress) -> ControlFlow<()>) -> Result<TableSummary, TableError> {
        go_on(observe, self.footer.keys, 0)?;
        self.end_leaf()?;
        self.store_latest();
        self.footer.leaves_end = self.out.position();
        (self.footer.root, self.footer.root_level) = self.index.finish(self.salt, &mut self.out, &mut self.spill)?;
        let behind = usize::try_from(self.out.position() % LINE_LEN as u64).unwrap_or(0);
        self.out.append([0; LINE_LEN].get(..(LINE_LEN - behind) % LINE_LEN).unwrap_or_default())?;

        let footer = &mut self.footer;
        footer.points_at = self.out.position();
        let segments: Vec<u32> = self.counts.keys().copied().collect();
        footer.shape = LineShape::of(footer.keys, segments.len(), self.max_offset);
        if !footer.shape.is_possible(segments.len()) {
            return Err(TableError::TooManySegments { segments: segments.len() });
        }
        let mut lines = LineWriter::new(footer.shape, self.salt, &segments);
        let (out, keys) = (&mut self.out, footer.keys);
        let mut pointed = 0;
        self.points.for_each(&mut self.spill, |entry, spill| {
            pointed += 1;
            if u64::is_multiple_of(pointed, KEYS_PER_REPORT) {
                go_on(observe, keys, pointed)?;
            }
            lines.push(entry, out, spill)
        })?;
        footer.listed = lines.listed_count;
        footer.list_at = footer.points_at + (footer.shape.lines + 1) * LINE_LEN as u64;
        lines.finish(&mut self.out, &mut self.spill)?;
        footer.max_key = self.last_key;
        footer.segments = self.counts.into_values().collect();
        footer.at = self.out.position();
        self.out.append(&footer.encode(self.salt))?;
        let len_bytes = self.out.position();
        if planted("table_not_synced") {
            self.out.flush()?;
        } else {
            self.out.sync()?;
        }
        Ok(TableSummary {
            id: self.header.id,
            salt: self.header.salt,
            len_bytes,
            keys,
            tombstones: footer.tombstones,
            max_version: footer.max_version,
        })
    }
}

#[cfg(test)]
mod tests;
