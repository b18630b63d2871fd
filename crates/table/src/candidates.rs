//! Lookups in the point table, by hash.

use crate::entry::RecordPointer;
use crate::error::{Damaged, TableError, damaged};
use crate::line::{LINE_LEN, PointLine};
use crate::list_line;
use crate::planted;
use crate::point_entry::PointEntry;
use crate::reader::TableReader;

/// The places of the records that may be a key's: see [`TableReader::candidates`]. Ends after an
/// error.
///
/// ```
/// use hightower_segment::{Fs, RealFs};
/// use hightower_table::{TableEntry, TableOptions, TableReader, TableWriter};
///
/// # let scratch = tempfile::tempdir()?;
/// # let dir = RealFs.open_dir(scratch.path())?;
/// # let mut writer = TableWriter::create(&dir, "1.tbl", TableOptions::new(1, 2, 3))?;
/// # writer.push(b"key", TableEntry::default())?;
/// # writer.finish()?;
/// let table = TableReader::open(dir.as_ref(), "1.tbl")?;
/// for pointer in table.candidates(table.hasher().hash(b"key"))? {
///     // Read the record there: it is the right one if it holds the key.
///     let pointer = pointer?;
///     println!("segment {}, offset {}", pointer.segment, pointer.offset);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Candidates<'t> {
    table: &'t TableReader,
    hash: u64,
    fingerprint: u64,
    line: PointLine,
    slot: usize,
    rest: RestOfSearch,
}

/// The next place to search after the current line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RestOfSearch {
    /// This line, and then the list if necessary.
    Line {
        number: u64,
        and_list: bool,
    },
    /// The list, from the entry at `place` on.
    List {
        place: u64,
    },
    Nothing,
}

impl TableReader {
    /// The places of the records that may hold the key with this hash. For a present key they
    /// include its own record, and sometimes the record of another key. For an absent key there are
    /// usually none.
    ///
    /// Reads one cache line of the table in about 98 % of all cases.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if the line is damaged. The table may then have the key.
    ///
    /// Example: [`TableReader`].
    #[inline]
    pub fn candidates(&self, hash: u64) -> Result<Candidates<'_>, TableError> {
        Candidates::new(self, hash)
    }
}

impl<'t> Candidates<'t> {
    #[inline]
    pub(crate) fn new(table: &'t TableReader, hash: u64) -> Result<Self, TableError> {
        let shape = table.shape();
        let (home, rank) = shape.home(hash);
        let line = if table.is_empty() {
            PointLine::empty()
        } else {
            table.line(home).map_err(|damage| table.corrupt(damage))?
        };
        let rest = if rank >= line.threshold() && !planted("table_next_line_ignored") {
            RestOfSearch::Line { number: home + 1, and_list: line.has_listed() }
        } else {
            RestOfSearch::Nothing
        };
        Ok(Self { table, hash, fingerprint: shape.fingerprint(hash), line, slot: 0, rest })
    }

    /// Whether the record is among the candidates. The time does not depend on their number,
    /// because the list is sorted by whole entries.
    pub(crate) fn lead_to(mut self, pointer: RecordPointer) -> Result<bool, TableError> {
        let table = self.table;
        loop {
            if matches!(self.rest, RestOfSearch::List { .. }) && self.slot >= self.line.len() {
                let entry = PointEntry { hash: self.hash, pointer };
                let place = first_listed(table, entry).map_err(|damage| table.corrupt(damage))?;
                let is_listed = place < table.footer().listed
                    && listed_at(table, place).map_err(|damage| table.corrupt(damage))? == entry;
                return Ok(is_listed);
            }
            match self.next().transpose()? {
                Some(found) if found == pointer => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        }
    }

    #[inline]
    fn next_pointer(&mut self) -> Result<Option<RecordPointer>, Damaged> {
        let shape = self.table.shape();
        loop {
            while self.slot < self.line.len() {
                let slot = self.slot;
                self.slot += 1;
                if self.line.fingerprint(shape, slot) == self.fingerprint {
                    let (segment, offset) = shape.unpack(self.line.packed(shape, slot));
                    return self.pointer(segment, offset).map(Some);
                }
            }
            match self.rest {
                RestOfSearch::Nothing => return Ok(None),
                RestOfSearch::Line { number, and_list } => {
                    self.line = self.table.line(number)?;
                    self.slot = 0;
                    self.rest = RestOfSearch::Nothing;
                    if and_list {
                        let least = PointEntry { hash: self.hash, pointer: RecordPointer::default() };
                        self.rest = RestOfSearch::List { place: first_listed(self.table, least)? };
                    }
                }
                RestOfSearch::List { place } => return self.listed(place),
            }
        }
    }

    fn pointer(&self, segment: usize, offset: u32) -> Result<RecordPointer, Damaged> {
        let known = self.table.segments().get(segment);
        let known = known
            .ok_or_else(|| damaged(self.table.footer().points_at, "a slot whose segment the footer does not name"));
        known.map(|counts| RecordPointer { segment: counts.segment, offset })
    }

    fn listed(&mut self, place: u64) -> Result<Option<RecordPointer>, Damaged> {
        if place >= self.table.footer().listed {
            self.rest = RestOfSearch::Nothing;
            return Ok(None);
        }
        let entry = listed_at(self.table, place)?;
        if entry.hash == self.hash {
            self.rest = RestOfSearch::List { place: place + 1 };
            return Ok(Some(entry.pointer));
        }
        self.rest = RestOfSearch::Nothing;
        Ok(None)
    }
}

impl Iterator for Candidates<'_> {
    type Item = Result<RecordPointer, TableError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.next_pointer()
            .inspect_err(|_| {
                self.line = PointLine::empty();
                self.rest = RestOfSearch::Nothing;
            })
            .map_err(|damage| self.table.corrupt(damage))
            .transpose()
    }
}

/// The place in the list of the first entry at or above this one.
fn first_listed(table: &TableReader, entry: PointEntry) -> Result<u64, Damaged> {
    let (mut low, mut high) = (0, table.footer().listed);
    while low < high {
        let middle = low + (high - low) / 2;
        if listed_at(table, middle)? < entry { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

/// An entry of the list, from its verified line.
pub(crate) fn listed_at(table: &TableReader, place: u64) -> Result<PointEntry, Damaged> {
    let entries = list_line::ENTRIES as u64;
    let at = table.footer().list_at + place / entries * LINE_LEN as u64;
    let file = table.file();
    let found = usize::try_from(at).ok().and_then(|at| file.get(at..)).and_then(|rest| rest.first_chunk());
    let line = found.ok_or_else(|| damaged(at, "a line beyond the end"))?;
    let (found, count) = list_line::decode(line, table.salt_of_checks(), at)?;
    let slot = usize::try_from(place % entries).unwrap_or(usize::MAX);
    let found = found.get(..count).and_then(|found| found.get(slot)).copied();
    found.ok_or_else(|| damaged(at, "a line of the list with too few entries"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hightower_segment::Fs;
    use hightower_segment::sim::SimFs;

    use super::RestOfSearch;
    use crate::{RecordPointer, TableEntry, TableOptions, TableReader, TableWriter};

    #[test]
    fn an_absent_key_costs_one_line_in_98_of_100_cases() {
        let fs = SimFs::new();
        fs.create_dir_all(Path::new("/db")).unwrap();
        let dir = fs.open_dir(Path::new("/db")).unwrap();
        // Pointers of 20 to 37 bits, so that lines have 8 to 14 slots.
        for (segments, largest) in [(1, 1_u32 << 20), (8, 1 << 26), (32, u32::MAX)] {
            let name = format!("{segments}.tbl");
            let keys = 100_000_u32;
            let mut writer = TableWriter::create(&dir, &name, TableOptions::new(1, 2, 3)).unwrap();
            for number in 0..keys {
                let offset = number.wrapping_mul(0x9e37_79b1) % largest;
                let pointer = RecordPointer { segment: number % segments, offset };
                writer.push(&number.to_be_bytes(), TableEntry { pointer, ..TableEntry::default() }).unwrap();
            }
            writer.finish().unwrap();
            let table = TableReader::open(dir.as_ref(), &name).unwrap();
            let hasher = table.hasher();
            // Whether the lookup reads a second line or another key's record.
            let costs_more = |number: u32| {
                let mut found = table.candidates(hasher.hash(&number.to_be_bytes())).unwrap();
                found.rest != RestOfSearch::Nothing || found.next().is_some()
            };
            let absent = (keys..2 * keys).filter(|number| costs_more(*number)).count();
            assert!(absent * 100 < 2 * keys as usize, "{absent} of {keys}, {:?}", table.shape());
            let later = |number: &u32| {
                table.candidates(hasher.hash(&number.to_be_bytes())).unwrap().rest != RestOfSearch::Nothing
            };
            let present = (0..keys).filter(later).count();
            assert!(present * 100 < 2 * keys as usize, "{present} of {keys}, {:?}", table.shape());
            let points = table.footer().at - table.footer().points_at;
            assert!(points < 13 * u64::from(keys), "{points}, {:?}", table.shape());
        }
    }
}
