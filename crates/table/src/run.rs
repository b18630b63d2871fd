//! Keys of a source that are at hand together, and the order of scans.

use std::ops::{Bound, Range};

use crate::entry::TableEntry;
use crate::planted;

/// The order of keys in a scan.
///
/// ```
/// assert_eq!(hightower_table::ScanDirection::default(), hightower_table::ScanDirection::Forward);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ScanDirection {
    /// Ascending.
    #[default]
    Forward,
    /// Descending.
    Backward,
}

/// Keys that follow each other in a source, with their entries: the rest of a block. A scan takes
/// them all at once, without a step of the source for each.
///
/// ```
/// use hightower_segment::{Fs, RealFs};
/// use hightower_table::{MergeSource, ScanDirection, TableEntry, TableOptions, TableReader, TableWriter};
///
/// # let scratch = tempfile::tempdir()?;
/// # let dir = RealFs.open_dir(scratch.path())?;
/// let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
/// for key in ["a", "b", "c"] {
///     writer.push(key.as_bytes(), TableEntry::default())?;
/// }
/// writer.finish()?;
/// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
/// let mut range = table.range("b".., ScanDirection::Forward);
/// assert!(range.advance()?);
/// let run = range.run().unwrap();
/// assert_eq!(run.iter().map(|(key, _)| key).collect::<Vec<_>>(), [b"b", b"c"]);
/// range.skip_in_run(run.len() - 1);
/// assert_eq!(range.key(), b"c");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct EntryRun<'a> {
    /// The bytes of these keys and others.
    keys: &'a [u8],
    /// The start of each key, and the end of the last one.
    starts: &'a [u32],
    entries: &'a [TableEntry],
    direction: ScanDirection,
}

impl<'a> EntryRun<'a> {
    /// The keys at these places, in this direction. `starts` has one number more than `entries`.
    #[inline]
    pub(crate) fn new(
        keys: &'a [u8],
        starts: &'a [u32],
        entries: &'a [TableEntry],
        places: Range<usize>,
        direction: ScanDirection,
    ) -> Self {
        let starts = starts.get(places.start..=places.end).unwrap_or_default();
        Self { keys, starts, entries: entries.get(places).unwrap_or_default(), direction }
    }

    /// The number of keys.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The place of the key that the run gives at `number`.
    #[inline]
    fn place(&self, number: usize) -> usize {
        match self.direction {
            ScanDirection::Forward => number,
            // Wraps if there is none, to a place that no key has.
            ScanDirection::Backward => self.len().wrapping_sub(number + 1),
        }
    }

    #[inline]
    fn key_at(&self, place: usize) -> &'a [u8] {
        let Some([start, end, ..]) = self.starts.get(place..) else { return &[] };
        self.keys.get(*start as usize..*end as usize).unwrap_or_default()
    }

    /// The key that it gives at `number`, counted from 0.
    #[must_use]
    #[inline]
    pub fn key(&self, number: usize) -> &'a [u8] {
        self.key_at(self.place(number))
    }

    /// The bytes of all keys, one after the other, in ascending order.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &'a [u8] {
        let ends = self.starts.first().zip(self.starts.last());
        ends.and_then(|(start, end)| self.keys.get(*start as usize..*end as usize)).unwrap_or_default()
    }

    /// The places of the keys in [`bytes`](Self::bytes), and the entries, in the run's direction.
    #[inline]
    pub fn places(self) -> impl Iterator<Item = (Range<usize>, &'a TableEntry)> {
        let first = self.starts.first().map_or(0, |start| *start as usize);
        (0..self.len()).filter_map(move |number| {
            let place = self.place(number);
            let [start, end, ..] = self.starts.get(place..)? else { return None };
            Some((*start as usize - first..*end as usize - first, self.entries.get(place)?))
        })
    }

    /// The keys and entries, in the run's direction.
    #[inline]
    pub fn iter(self) -> impl Iterator<Item = (&'a [u8], &'a TableEntry)> {
        (0..self.len()).filter_map(move |number| {
            let place = self.place(number);
            Some((self.key_at(place), self.entries.get(place)?))
        })
    }

    /// The keys before `end` in the run's direction, and that of an included end. Costs one
    /// comparison if all are.
    #[must_use]
    #[inline]
    pub fn until(self, end: Bound<&[u8]>) -> Self {
        let is_within = |key: &[u8]| match (end, self.direction) {
            (Bound::Unbounded, _) => true,
            (Bound::Included(end), ScanDirection::Forward) => key <= end,
            (Bound::Excluded(end), ScanDirection::Forward) => key < end,
            (Bound::Included(end), ScanDirection::Backward) => key >= end,
            (Bound::Excluded(end), ScanDirection::Backward) => key > end,
        };
        if self.is_empty() || is_within(self.key(self.len() - 1)) {
            return self;
        }
        let (mut low, mut high) = (0, self.len() - 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_within(self.key(middle)) { low = middle + 1 } else { high = middle }
        }
        self.first(low)
    }

    /// The keys before the first whose segment does not exist. Asks about most segments once.
    #[must_use]
    #[inline]
    pub fn existing(self, exists: impl Fn(u32) -> bool) -> Self {
        // The segments that are known to exist: bit n is segment `base + n`.
        let (mut known, mut base) = (0_u64, 0_u32);
        let count = (0..self.len()).take_while(|number| {
            let Some(entry) = self.entries.get(self.place(*number)) else { return false };
            let segment = entry.pointer.segment;
            let bit = segment.wrapping_sub(base);
            if bit < u64::BITS && known >> bit & 1 == 1 || planted("table_runs_ignore_segments") {
                return true;
            }
            let exists = exists(segment);
            if exists && bit < u64::BITS {
                known |= 1 << bit;
            } else if exists {
                (known, base) = (1 << (u64::BITS / 2), segment.wrapping_sub(u64::BITS / 2));
            }
            exists
        });
        self.first(count.count())
    }

    /// The first `count` keys of the run's direction.
    #[must_use]
    #[inline]
    pub fn first(self, count: usize) -> Self {
        let left = self.len().saturating_sub(count);
        let places = match self.direction {
            ScanDirection::Forward => 0..self.len() - left,
            ScanDirection::Backward => left..self.len(),
        };
        Self::new(self.keys, self.starts, self.entries, places, self.direction)
    }
}
