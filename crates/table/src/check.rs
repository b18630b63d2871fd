//! Verifies a whole table.

use std::ops::ControlFlow;

use crate::block;
use crate::candidates::listed_at;
use crate::entry::{RecordPointer, SegmentCounts};
use crate::error::{Damaged, TableError, damaged};
use crate::footer::Footer;
use crate::line::LINE_LEN;
use crate::node::IndexNode;
use crate::reader::TableReader;
use crate::writer::{KEYS_PER_REPORT, TableProgress, go_on};

/// The totals of all keys, to compare with the footer and the point table.
struct OrderTotals {
    keys: u64,
    counts: Vec<SegmentCounts>,
    max_version: u64,
    /// A sum over all pointers, independent of their order.
    pointers: u64,
}

impl TableReader {
    /// Verifies every byte of the table: all checksums, the order of the keys, that the index leads
    /// to each key, that the point table and the leaves name the same records, and all counts of
    /// the footer. Reads the file once from front to back, and a line of the point table for each
    /// key. Takes memory for one block, and 32 bytes for each segment that its entries point into.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] for the first damage found.
    ///
    /// ```
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableEntry, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
    /// writer.push(b"key", TableEntry::default())?;
    /// writer.finish()?;
    /// TableReader::open(dir.as_ref(), "1.tbl")?.check()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self) -> Result<(), TableError> {
        self.check_with(&mut |_progress| ControlFlow::Continue(()))
    }

    /// Like [`check`](Self::check). `observe` gets the progress and may stop the check.
    ///
    /// # Errors
    ///
    /// As for [`check`](Self::check), and [`TableError::Canceled`].
    ///
    /// ```
    /// # use std::ops::ControlFlow;
    /// # use hightower_segment::{Fs, RealFs};
    /// # use hightower_table::{TableError, TableOptions, TableReader, TableWriter};
    /// # let scratch = tempfile::tempdir()?;
    /// # let dir = RealFs.open_dir(scratch.path())?;
    /// # TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?.finish()?;
    /// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
    /// let stopped = table.check_with(&mut |_progress| ControlFlow::Break(()));
    /// assert!(matches!(stopped, Err(TableError::Canceled)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_with(&self, observe: &mut dyn FnMut(TableProgress) -> ControlFlow<()>) -> Result<(), TableError> {
        let (footer, at) = (self.footer(), self.footer().at);
        let walk = self.check_order(observe)?;
        self.check_index().map_err(|damage| self.corrupt(damage))?;
        let (entries, pointers) = self.check_points(walk.keys, observe)?;
        let has = |is_so: bool, what| if is_so { Ok(()) } else { Err(self.corrupt(damaged(at, what))) };
        has(walk.counts == footer.segments, "counts of segments that differ from those of the entries")?;
        has(walk.keys == footer.keys, "a number of keys that differs from that of the entries")?;
        has(walk.max_version == footer.max_version, "a highest version that no entry has")?;
        has(entries == footer.keys, "a point table with more or fewer entries than keys")?;
        has(pointers == walk.pointers, "a point table whose records differ from those of the entries")
    }

    /// Reads all keys in order, and looks up each of them in the point table.
    fn check_order(
        &self,
        observe: &mut dyn FnMut(TableProgress) -> ControlFlow<()>,
    ) -> Result<OrderTotals, TableError> {
        let footer = self.footer();
        let counts = footer.segments.iter().map(|row| SegmentCounts { segment: row.segment, ..Default::default() });
        let mut walk = OrderTotals { keys: 0, counts: counts.collect(), max_version: 0, pointers: 0 };
        let hasher = self.hasher();
        let mut cursor = self.cursor();
        let mut last = Vec::new();
        let mut leaf = None;
        let mut is_there = cursor.seek_first()?;
        go_on(observe, 0, 0)?;
        while let Some((key, entry)) = cursor.key().zip(cursor.entry()).filter(|_| is_there) {
            let at = cursor.leaf_offset();
            let wrong = |what| self.corrupt(damaged(at, what));
            if walk.keys == 0 && key != footer.min_key {
                return Err(wrong("a first key that is not the least of the footer"));
            }
            if walk.keys > 0 && key <= last.as_slice() {
                return Err(wrong("a key that is not above the one before it"));
            }
            if leaf != Some(at) {
                // If the index leads to this leaf for its first and its last key, it also does for
                // all keys between them.
                let ends = [&last[..], key].map(|key| self.leaf_of(key).map_err(|damage| self.corrupt(damage)));
                let [before, first] = ends;
                if first? != at || leaf.is_some_and(|leaf| !matches!(before, Ok(found) if found == leaf)) {
                    return Err(wrong("a block that the index does not lead to"));
                }
                leaf = Some(at);
            }
            if !self.candidates(hasher.hash(key))?.lead_to(entry.pointer)? {
                return Err(wrong("a key that the point table does not have"));
            }
            let place = walk.counts.binary_search_by_key(&entry.pointer.segment, |row| row.segment);
            match place.ok().and_then(|place| walk.counts.get_mut(place)) {
                Some(row) => row.add(&entry),
                None => return Err(wrong("an entry into a segment that the footer does not name")),
            }
            walk.max_version = walk.max_version.max(entry.version);
            walk.pointers = walk.pointers.wrapping_add(mixed(entry.pointer));
            walk.keys += 1;
            last.clear();
            last.extend_from_slice(key);
            if walk.keys.is_multiple_of(KEYS_PER_REPORT) {
                go_on(observe, walk.keys, 0)?;
            }
            is_there = cursor.advance()?;
        }
        if walk.keys > 0 && (last != footer.max_key || leaf != Some(footer.last_leaf)) {
            return Err(
                self.corrupt(damaged(footer.at, "a greatest key or a last block that differs from that of the leaves"))
            );
        }
        Ok(walk)
    }

    /// Checks the nodes one after the other, and the zeros after them.
    fn check_index(&self) -> Result<(), Damaged> {
        let footer = self.footer();
        let mut at = footer.leaves_end;
        let mut level = 0;
        let mut before = None;
        // The root is the last of them.
        while footer.root_level > 0 && at <= footer.root {
            let (head, bytes) = block::open(self.file(), self.salt_of_checks(), at, &footer.area(1))?;
            if head.level == level + 1 {
                (level, before) = (head.level, None);
            } else if head.level != level {
                return Err(damaged(at, "a block of another level"));
            }
            if head.previous_len != 0 {
                return Err(damaged(at, "a node that follows a leaf"));
            }
            if !IndexNode::parse(bytes, head.count, at)?.is_rising(&mut before)? {
                return Err(damaged(at, "separators that do not rise"));
            }
            at += head.len as u64;
        }
        if level != footer.root_level {
            return Err(damaged(footer.root, "a root of another level"));
        }
        let rest = |at: u64| usize::try_from(at).ok();
        let padding = rest(at).zip(rest(footer.points_at)).and_then(|(at, end)| self.file().get(at..end));
        if !padding.is_some_and(Footer::is_padding) {
            return Err(damaged(at, "bytes between the index and the point table"));
        }
        Ok(())
    }

    /// The number of entries of the point table, and the sum of their pointers.
    fn check_points(
        &self,
        keys: u64,
        observe: &mut dyn FnMut(TableProgress) -> ControlFlow<()>,
    ) -> Result<(u64, u64), TableError> {
        let (footer, shape) = (self.footer(), self.shape());
        let (mut entries, mut sum) = (0, 0_u64);
        for number in 0..=shape.lines {
            let at = footer.points_at + number * LINE_LEN as u64;
            self.read_ahead(at.saturating_sub(LINE_LEN as u64), at);
            let line = self.line(number).map_err(|damage| self.corrupt(damage))?;
            let wrong = |what| self.corrupt(damaged(at, what));
            if !line.is_sound(shape) {
                return Err(wrong("a line with invalid numbers or unused bits that are not zero"));
            }
            for slot in 0..line.len() {
                let (segment, offset) = shape.unpack(line.packed(shape, slot));
                let segment = footer.segments.get(segment).map(|row| row.segment);
                let segment = segment.ok_or_else(|| wrong("a slot whose segment the footer does not name"))?;
                sum = sum.wrapping_add(mixed(RecordPointer { segment, offset }));
                entries += 1;
                if u64::is_multiple_of(entries, KEYS_PER_REPORT) {
                    go_on(observe, keys, entries)?;
                }
            }
        }
        let mut last = None;
        for place in 0..footer.listed {
            let entry = listed_at(self, place).map_err(|damage| self.corrupt(damage))?;
            if last.is_some_and(|last| entry < last) {
                return Err(self.corrupt(damaged(footer.list_at, "a list that does not rise")));
            }
            last = Some(entry);
            sum = sum.wrapping_add(mixed(entry.pointer));
            entries += 1;
            if u64::is_multiple_of(entries, KEYS_PER_REPORT) {
                go_on(observe, keys, entries)?;
            }
        }
        Ok((entries, sum))
    }
}

/// Mixes a pointer into the number that is added to the sum.
fn mixed(pointer: RecordPointer) -> u64 {
    let number = u64::from(pointer.segment) << 32 | u64::from(pointer.offset);
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (spread ^ spread >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93)
}
