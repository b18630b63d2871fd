//! Lookups through the levels, from the top.

use std::fmt;

use hightower_table::{TableEntry, TableError};

use crate::change::{NewestCommand, NewestRecord, Versioned};
use crate::levels::pointer::{location_of, pointer_of};
use crate::levels::segment_set::SegmentSet;
use crate::levels::table_list::TableLevel;
use crate::levels::view::{LowerLevels, View};
use crate::location::{Location, LocationBits};
use crate::mutants::planted;
use crate::version::Word;

/// The result of a lookup in the memtables, and the search that is left.
///
/// ```
/// use hightower_state::{Change, CommandKind, LeveledKvState, Lookup, TableError, pin};
///
/// let state = LeveledKvState::<u32>::new();
/// let guard = pin();
/// let found = match state.get(b"a", &guard) {
///     Lookup::Found(found) => Some(found.location),
///     Lookup::Absent => None,
///     // Reads the record at a place: `None` if it is another key's.
///     Lookup::Below(search) => search.find(|place| Ok::<_, TableError>(Some(place)))?,
/// };
/// assert_eq!(found, None);
/// # Ok::<(), TableError>(())
/// ```
#[derive(Clone, Debug)]
pub enum Lookup<'a, L> {
    /// The key is in a memtable.
    Found(Versioned<L>),
    /// The key is deleted in a memtable, or is in no memtable and there are no tables.
    Absent,
    /// No memtable has the key; a table may have it.
    Below(TableSearch<'a>),
}

/// The rest of a lookup, in the tables of one view.
///
/// Example: [`Lookup`].
#[derive(Clone)]
pub struct TableSearch<'a> {
    lower: &'a LowerLevels,
    /// The segments of the same view.
    segments: &'a SegmentSet,
    key: &'a [u8],
}

/// The hash of a key, recomputed only for a table with another seed.
#[derive(Default)]
struct HashOnce {
    seed_and_hash: Option<(u64, u64)>,
}

/// The result of [`LeveledKvState::look_below`](crate::LeveledKvState::look_below): the newest
/// command of a key in the levels below the active memtable, looked up before the writer's lock is
/// taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookedBelow {
    /// The number of the view.
    pub(crate) view: u64,
    pub(crate) newest: Option<(NewestCommand, LocationBits)>,
}

impl LookedBelow {
    /// The newest command that the lookup has found, and the location of its record.
    #[must_use]
    pub fn newest<L: Location>(&self) -> Option<NewestRecord<L>> {
        let (command, location) = self.newest?;
        Some(NewestRecord { command, location: L::from_bits(location), is_recent: false })
    }
}

impl<'a, L: Location> Lookup<'a, L> {
    /// The result of the memtables, and the search that is left.
    #[inline]
    pub(crate) fn new(in_memory: Option<(Word, u64)>, below: impl FnOnce() -> Option<TableSearch<'a>>) -> Self {
        match in_memory {
            Some((word, _)) if word.is_tombstone() => Self::Absent,
            Some((word, version)) => Self::Found(Versioned { location: L::from_bits(word.location()), version }),
            None => below().map_or(Self::Absent, Self::Below),
        }
    }
}

impl HashOnce {
    fn of(&mut self, key: &[u8], table: &TableLevel) -> u64 {
        let seed = table.reader.hash_seed();
        match self.seed_and_hash {
            Some((of, hash)) if of == seed => hash,
            _ => self.seed_and_hash.insert((seed, table.hasher.hash(key))).1,
        }
    }
}

impl<'a> TableSearch<'a> {
    /// `None` if there are no tables.
    pub(crate) fn new(view: &'a View, key: &'a [u8]) -> Option<Self> {
        let lower = view.lower.as_deref().filter(|lower| !lower.tables.is_empty())?;
        Some(Self { lower, segments: &lower.segments, key })
    }

    /// The same search with the segments of another view.
    pub(crate) fn with_segments_of(self, other: &'a View) -> Self {
        let segments = other.lower.as_deref().map_or(self.segments, |lower| &lower.segments);
        Self { segments, ..self }
    }

    /// Calls `read` with each place where the key's newest record may be, topmost table first,
    /// until it returns a result.
    ///
    /// `read` reads and verifies the record. It returns `Ok(None)` only if the record verifies and
    /// is another key's. If the record does not verify, it returns an error, which ends the search:
    /// a lower entry must not answer for a damaged one. A tombstone also ends the search.
    ///
    /// Costs one hash, and one cache line per table; the lines of all tables are loaded together.
    ///
    /// # Errors
    ///
    /// Errors of `read`, and the error of a damaged table.
    #[inline]
    pub fn find<L: Location, R, E: From<TableError>>(
        &self,
        mut read: impl FnMut(L) -> Result<Option<R>, E>,
    ) -> Result<Option<R>, E> {
        let mut hash = HashOnce::default();
        if self.lower.tables.len() > 1 {
            self.lower.tables.iter().for_each(|table| table.reader.prefetch(&[hash.of(self.key, table)]));
        }
        for table in &self.lower.tables {
            let hash = hash.of(self.key, table);
            let candidates = match table.reader.candidates(hash) {
                Ok(candidates) => candidates,
                Err(_) if planted("levels_damage_is_absence") => continue,
                Err(error) => return Err(error.into()),
            };
            for pointer in candidates {
                let pointer = pointer?;
                let Some(location) = location_of(pointer).filter(|_| self.exists(pointer.segment)) else { continue };
                match read(location) {
                    Ok(Some(found)) => return Ok(Some(found)),
                    Ok(None) if planted("levels_mismatch_ends_table") => break,
                    Err(_) if planted("levels_unverified_is_mismatch") => {}
                    Ok(None) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(None)
    }

    /// Starts to load the lines in which the tables may have the key.
    pub(crate) fn prefetch(&self) {
        let mut hash = HashOnce::default();
        self.lower.tables.iter().for_each(|table| table.reader.prefetch(&[hash.of(self.key, table)]));
    }

    /// Whether the topmost entry of the key points to `location`. Reads no record.
    pub(crate) fn is_topmost<L: Location>(&self, location: L) -> Result<bool, TableError> {
        let (place, mut hash) = (pointer_of(location), HashOnce::default());
        let mut may_be_overtaken = false;
        for table in &self.lower.tables {
            let mut has_others = false;
            for pointer in table.reader.candidates(hash.of(self.key, table))? {
                let pointer = pointer?;
                if !self.exists(pointer.segment) {
                    continue;
                }
                if pointer == place {
                    // Only the sorted blocks tell whether the candidates above are of this key.
                    let is_sure = !may_be_overtaken || planted("levels_candidates_above_ignored");
                    return Ok(is_sure || self.entry()?.is_some_and(|entry| entry.pointer == place));
                }
                has_others = true;
            }
            may_be_overtaken |= has_others;
        }
        Ok(false)
    }

    /// The entry of the key, found in the sorted blocks of the tables without reading a record.
    /// Costs some blocks per table.
    pub(crate) fn entry(&self) -> Result<Option<TableEntry>, TableError> {
        for table in &self.lower.tables {
            if let Some(entry) = self.entry_in(table)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Calls `each` with the entry of the key in each table that has one.
    pub(crate) fn for_each_entry(&self, mut each: impl FnMut(TableEntry)) -> Result<(), TableError> {
        for table in &self.lower.tables {
            self.entry_in(table)?.into_iter().for_each(&mut each);
        }
        Ok(())
    }

    /// The existing entry of the key in a table.
    fn entry_in(&self, table: &TableLevel) -> Result<Option<TableEntry>, TableError> {
        Ok(table.reader.get(self.key)?.filter(|entry| self.exists(entry.pointer.segment)))
    }

    /// Whether entries into a segment exist.
    fn exists(&self, segment: u32) -> bool {
        self.segments.contains(segment) || planted("levels_gone_segments_answer")
    }
}

impl fmt::Debug for TableSearch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TableSearch").field("tables", &self.lower.tables.len()).finish_non_exhaustive()
    }
}
