//! Merges several levels: for each key, the entry of the topmost level, or the entry with the
//! highest version, of those whose segment exists.

use std::cmp::Ordering;
use std::ops::Bound;

use crate::entry::TableEntry;
use crate::planted;
use crate::run::{EntryRun, ScanDirection};

/// A source of keys in order, each once: a table's range, a memtable, a merge of several sources.
///
/// ```
/// use std::convert::Infallible;
/// use hightower_table::{MergeSource, TableEntry};
///
/// /// Ascending keys in memory.
/// struct Sorted { entries: Vec<(Vec<u8>, TableEntry)>, next: usize }
///
/// impl MergeSource for Sorted {
///     type Error = Infallible;
///     fn advance(&mut self) -> Result<bool, Infallible> {
///         self.next += 1;
///         Ok(self.next <= self.entries.len())
///     }
///     fn key(&self) -> &[u8] {
///         &self.entries[self.next - 1].0
///     }
///     fn entry(&self) -> TableEntry {
///         self.entries[self.next - 1].1
///     }
/// }
/// ```
pub trait MergeSource {
    /// The error after which the source cannot continue.
    type Error;

    /// Moves to the next key; the first call moves to the first key. `false` at the end and after
    /// it.
    ///
    /// # Errors
    ///
    /// An error of the source, which then ends.
    fn advance(&mut self) -> Result<bool, Self::Error>;

    /// The current key. Called only after [`advance`](Self::advance) returned `true`.
    fn key(&self) -> &[u8];

    /// The entry of that key.
    fn entry(&self) -> TableEntry;

    /// The current key and those that follow it at hand, if the source has its keys so: a step to
    /// them cannot fail. `None` otherwise, and without a current key.
    ///
    /// Example: [`EntryRun`].
    #[inline]
    fn run(&self) -> Option<EntryRun<'_>> {
        None
    }

    /// Moves over `count` keys of the run, at most to its last key. Example: [`EntryRun`].
    #[inline]
    fn skip_in_run(&mut self, _count: usize) {}
}

impl<S: MergeSource + ?Sized> MergeSource for Box<S> {
    type Error = S::Error;

    fn advance(&mut self) -> Result<bool, Self::Error> {
        (**self).advance()
    }

    fn key(&self) -> &[u8] {
        (**self).key()
    }

    fn entry(&self) -> TableEntry {
        (**self).entry()
    }

    fn run(&self) -> Option<EntryRun<'_>> {
        (**self).run()
    }

    fn skip_in_run(&mut self, count: usize) {
        (**self).skip_in_run(count);
    }
}

/// A merge of levels: for each key it yields the entry of the topmost level whose segment exists,
/// or with [`by_version`](Self::by_version) the entry with the highest version. An entry whose
/// segment does not exist hides no other entry.
///
/// It yields tombstones like other entries, and they hide entries of lower levels. All sources have
/// the same direction. A step costs about 2·log2(levels) comparisons of keys.
///
/// ```
/// use hightower_segment::{Fs, RealFs};
/// use hightower_table::{
///     LevelMerge, MergeSource, ScanDirection, TableEntry, TableOptions, TableReader, TableWriter,
/// };
///
/// # let scratch = tempfile::tempdir()?;
/// # let dir = RealFs.open_dir(scratch.path())?;
/// let table = |id: u64, keys: &[&str]| -> Result<TableReader, Box<dyn std::error::Error>> {
///     let name = format!("{id}.tbl");
///     let mut writer = TableWriter::create(&dir, &name, TableOptions::new(id, id, 3))?;
///     for key in keys {
///         writer.push(key.as_bytes(), TableEntry { version: id, ..TableEntry::default() })?;
///     }
///     writer.finish()?;
///     Ok(TableReader::open(dir.as_ref(), &name)?)
/// };
/// let (old, new) = (table(1, &["a", "b"])?, table(2, &["b", "c"])?);
///
/// let levels = [&new, &old].map(|table| table.range::<&str>(.., ScanDirection::Forward)).into();
/// let mut merge = LevelMerge::new(levels, ScanDirection::Forward, |_segment| true);
/// let mut versions = Vec::new();
/// while merge.advance()? {
///     versions.push((merge.key().to_vec(), merge.entry().version));
/// }
/// assert_eq!(versions, [(b"a".to_vec(), 1), (b"b".to_vec(), 2), (b"c".to_vec(), 2)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct LevelMerge<S, F> {
    sources: Vec<S>,
    direction: ScanDirection,
    exists: F,
    /// Whether the version decides between equal keys, and not the level alone.
    is_by_version: bool,
    /// The levels that have not ended, as a heap: the next key first, and of equal keys the entry
    /// that wins.
    heap: Vec<usize>,
    is_started: bool,
}

impl<S: MergeSource, F: Fn(u32) -> bool> LevelMerge<S, F> {
    /// Merges levels, the topmost first, all in `direction`. `exists` returns whether the segment
    /// with a number exists.
    ///
    /// Example: [`LevelMerge`].
    #[must_use]
    pub fn new(sources: Vec<S>, direction: ScanDirection, exists: F) -> Self {
        Self { sources, direction, exists, is_by_version: false, heap: Vec::new(), is_started: false }
    }

    /// Merges sources that are no levels, in any order, all in `direction`: of a key it yields the
    /// entry with the highest version, and of two with one version that of the earlier source.
    ///
    /// ```
    /// use hightower_segment::{Fs, RealFs};
    /// use hightower_table::{
    ///     LevelMerge, MergeSource, ScanDirection, TableEntry, TableOptions, TableReader, TableWriter,
    /// };
    ///
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// let table = |id: u64, version: u64| -> Result<TableReader, Box<dyn std::error::Error>> {
    ///     let name = format!("{id}.tbl");
    ///     let mut writer = TableWriter::create(&dir, &name, TableOptions::new(id, id, 3))?;
    ///     writer.push(b"a", TableEntry { version, ..TableEntry::default() })?;
    ///     writer.finish()?;
    ///     Ok(TableReader::open(dir.as_ref(), &name)?)
    /// };
    /// let (first, second) = (table(1, 7)?, table(2, 9)?);
    ///
    /// let sources = [&first, &second].map(|table| table.range::<&str>(.., ScanDirection::Forward)).into();
    /// let mut merge = LevelMerge::by_version(sources, ScanDirection::Forward, |_segment| true);
    /// assert!(merge.advance()?);
    /// assert_eq!((merge.entry().version, merge.level()), (9, Some(1)));
    /// assert!(!merge.advance()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn by_version(sources: Vec<S>, direction: ScanDirection, exists: F) -> Self {
        Self { is_by_version: true, ..Self::new(sources, direction, exists) }
    }

    /// The level of the current entry, 0 for the topmost; `None` without a current entry.
    ///
    /// ```
    /// # use hightower_table::{LevelMerge, ScanDirection, TableRange, TableReader};
    /// let nothing: LevelMerge<TableRange<&TableReader>, _> =
    ///     LevelMerge::new(Vec::new(), ScanDirection::Forward, |_segment: u32| true);
    /// assert_eq!(nothing.level(), None);
    /// ```
    #[must_use]
    pub fn level(&self) -> Option<usize> {
        self.heap.first().copied()
    }

    fn start(&mut self) -> Result<(), S::Error> {
        self.is_started = true;
        for level in 0..self.sources.len() {
            if self.move_on(level)? {
                self.heap.push(level);
            }
        }
        for place in (0..self.heap.len() / 2).rev() {
            self.sift_down(place);
        }
        Ok(())
    }

    fn move_on(&mut self, level: usize) -> Result<bool, S::Error> {
        self.sources.get_mut(level).map_or(Ok(false), MergeSource::advance)
    }

    fn key_at(&self, place: usize) -> Option<&[u8]> {
        let level = *self.heap.get(place)?;
        self.sources.get(level).map(MergeSource::key)
    }

    /// Whether the level at place `a` of the heap comes before the level at `b`. A missing level
    /// comes last.
    fn is_before(&self, a: usize, b: usize) -> bool {
        let (Some(key_a), Some(key_b)) = (self.key_at(a), self.key_at(b)) else { return a < b };
        match (key_a.cmp(key_b), self.direction) {
            (Ordering::Equal, _) => self.wins(a, b),
            (order, ScanDirection::Forward) => order.is_lt(),
            (order, ScanDirection::Backward) => order.is_gt(),
        }
    }

    /// Of two entries of one key, whether that of the level at place `a` of the heap wins.
    fn wins(&self, a: usize, b: usize) -> bool {
        let version_at = |place: usize| {
            self.heap.get(place).and_then(|level| self.sources.get(*level)).map(|source: &S| source.entry().version)
        };
        let by_version = if self.is_by_version && !planted("table_merge_ignores_versions") {
            version_at(b).cmp(&version_at(a))
        } else {
            Ordering::Equal
        };
        let order = by_version.then_with(|| self.heap.get(a).cmp(&self.heap.get(b)));
        order.is_lt() != planted("table_merge_lowest_wins")
    }

    /// The first of a place's children.
    fn first_child(&self, place: usize) -> Option<usize> {
        let (left, right) = (2 * place + 1, 2 * place + 2);
        if right < self.heap.len() && self.is_before(right, left) {
            Some(right)
        } else {
            (left < self.heap.len()).then_some(left)
        }
    }

    fn sift_down(&mut self, mut place: usize) {
        while let Some(child) = self.first_child(place).filter(|child| self.is_before(*child, place)) {
            self.heap.swap(place, child);
            place = child;
        }
    }

    /// Advances the source at a place of the heap.
    fn step_at(&mut self, place: usize) -> Result<(), S::Error> {
        let Some(level) = self.heap.get(place).copied() else { return Ok(()) };
        if !self.move_on(level)? {
            self.heap.swap_remove(place);
        }
        self.sift_down(place);
        Ok(())
    }

    fn step(&mut self) -> Result<bool, S::Error> {
        if self.is_started {
            // Skips the key of the last entry in the lower levels.
            while let Some(child) = self.first_child(0).filter(|child| self.key_at(*child) == self.key_at(0)) {
                self.step_at(child)?;
            }
            self.step_at(0)?;
        } else {
            self.start()?;
        }
        while let Some(source) = self.heap.first().and_then(|level| self.sources.get(*level)) {
            if (self.exists)(source.entry().pointer.segment) || planted("table_gone_segments_hide") {
                return Ok(true);
            }
            self.step_at(0)?;
        }
        Ok(false)
    }
}

impl<S: MergeSource, F: Fn(u32) -> bool> MergeSource for LevelMerge<S, F> {
    type Error = S::Error;

    fn advance(&mut self) -> Result<bool, S::Error> {
        // After an error the merge ends: the lost entry might hide the next one.
        self.step().inspect_err(|_| self.heap.clear())
    }

    fn key(&self) -> &[u8] {
        self.key_at(0).unwrap_or_default()
    }

    fn entry(&self) -> TableEntry {
        self.heap.first().and_then(|level| self.sources.get(*level)).map(MergeSource::entry).unwrap_or_default()
    }

    /// The existing keys of the current level before the next key of any other.
    fn run(&self) -> Option<EntryRun<'_>> {
        let run = self.sources.get(*self.heap.first()?)?.run()?;
        let next = self.first_child(0).and_then(|child| self.key_at(child));
        let run = match next.filter(|_| !planted("table_runs_pass_other_levels")) {
            // It has won over equal keys of other levels. The step from it skips those.
            Some(next) if next == run.key(0) => run.first(1),
            Some(next) => run.until(Bound::Excluded(next)),
            None => run,
        };
        Some(run.existing(&self.exists))
    }

    /// Moves in the current level, which stays the first: the keys come before those of others.
    fn skip_in_run(&mut self, count: usize) {
        if let Some(source) = self.heap.first().and_then(|level| self.sources.get_mut(*level)) {
            source.skip_in_run(count);
        }
    }
}
