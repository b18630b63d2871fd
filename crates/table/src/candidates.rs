//! What the point table knows of a hash.

use crate::entry::RecordPointer;
use crate::error::{Damaged, TableError, damaged};
use crate::line::{LINE_LEN, PointLine};
use crate::list_line;
use crate::planted;
use crate::point_entry::PointEntry;
use crate::reader::TableReader;

/// The records that may be of a key: see [`TableReader::candidates`]. Ends after an error.
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
///     // Read the record there; if it holds the key, it is the one. A damaged line is an error.
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
    rest: Rest,
}

/// Where the search goes on when a line is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// This line, and then perhaps the list.
    Line {
        number: u64,
        and_list: bool,
    },
    /// The list, from this place on.
    List {
        place: u64,
    },
    Nothing,
}

impl TableReader {
    /// The records that may be of the key with this hash: of a key that is there its own, and now
    /// and then another one, which holds another key. Of an absent key mostly none.
    ///
    /// Costs one cache line of the table, in about 98 of 100 cases.
    ///
    /// # Errors
    ///
    /// [`TableError::Corrupt`] if the line is damaged. The key may then be there.
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
            Rest::Line { number: home + 1, and_list: line.has_listed() }
        } else {
            Rest::Nothing
        };
        Ok(Self { table, hash, fingerprint: shape.fingerprint(hash), line, slot: 0, rest })
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
                Rest::Nothing => return Ok(None),
                Rest::Line { number, and_list } => {
                    self.line = self.table.line(number)?;
                    self.slot = 0;
                    self.rest = Rest::Nothing;
                    if and_list {
                        self.rest = Rest::List { place: first_listed(self.table, self.hash)? };
                    }
                }
                Rest::List { place } => return self.listed(place),
            }
        }
    }

    fn pointer(&self, segment: usize, offset: u32) -> Result<RecordPointer, Damaged> {
        let known = self.table.segments().get(segment);
        let known =
            known.ok_or_else(|| damaged(self.table.footer().points_at, "a slot of a segment that is not named"));
        known.map(|counts| RecordPointer { segment: counts.segment, offset })
    }

    fn listed(&mut self, place: u64) -> Result<Option<RecordPointer>, Damaged> {
        if place >= self.table.footer().listed {
            self.rest = Rest::Nothing;
            return Ok(None);
        }
        let entry = listed_at(self.table, place)?;
        if entry.hash == self.hash {
            self.rest = Rest::List { place: place + 1 };
            return Ok(Some(entry.pointer));
        }
        self.rest = Rest::Nothing;
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
                self.rest = Rest::Nothing;
            })
            .map_err(|damage| self.table.corrupt(damage))
            .transpose()
    }
}

/// The place in the list of the first entry whose hash is not below this one.
fn first_listed(table: &TableReader, hash: u64) -> Result<u64, Damaged> {
    let (mut low, mut high) = (0, table.footer().listed);
    while low < high {
        let middle = low + (high - low) / 2;
        if listed_at(table, middle)?.hash < hash { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}

/// An entry of the list, out of its verified line.
pub(crate) fn listed_at(table: &TableReader, place: u64) -> Result<PointEntry, Damaged> {
    let entries = list_line::ENTRIES as u64;
    let at = table.footer().list_at + place / entries * LINE_LEN as u64;
    let file = table.file();
    let found = usize::try_from(at).ok().and_then(|at| file.get(at..)).and_then(|rest| rest.first_chunk());
    let line = found.ok_or_else(|| damaged(at, "a line beyond the end"))?;
    let (found, count) = list_line::decode(line, table.salt_of_checks(), at)?;
    let slot = usize::try_from(place % entries).unwrap_or(usize::MAX);
    let found = found.get(..count).and_then(|found| found.get(slot)).copied();
    found.ok_or_else(|| damaged(at, "a line of the list with fewer entries than it must have"))
}
