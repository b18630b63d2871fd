//! The places of the entries of a write-ahead log, from its records in order.

use std::collections::VecDeque;
use std::ops::Range;

use crate::mutants::planted;

/// The place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryPlace {
    /// The id of its segment.
    pub(crate) segment: u32,
    /// Its offset in the segment.
    pub(crate) offset: u32,
}

/// The positions of the log, and the places of their records.
#[derive(Debug, Default)]
pub(crate) struct Index {
    front: u64,
    end: u64,
    /// The places of the last positions before `end`. During replay the first ones may be missing,
    /// if earlier segments were removed.
    places: VecDeque<EntryPlace>,
    /// The last record with bounds.
    bounds: Option<EntryPlace>,
    /// Whether a record was replayed.
    has_begun: bool,
}

impl Index {
    pub(crate) fn positions(&self) -> Range<u64> {
        self.front..self.end
    }

    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn place(&self, position: u64) -> Option<EntryPlace> {
        let at = position.checked_sub(self.front)?;
        self.places.get(usize::try_from(at).ok()?).copied()
    }

    /// The id of the oldest needed segment: that of the first entry, or of the last bounds if
    /// older.
    pub(crate) fn first_needed(&self) -> Option<u32> {
        let bounds = self.bounds.filter(|_| !planted("wal_bounds_not_kept"));
        self.places.front().into_iter().chain(bounds.as_ref()).map(|place| place.segment).min()
    }

    /// The next entry.
    ///
    /// # Errors
    ///
    /// The reason why the entry is invalid here.
    pub(crate) fn entry(&mut self, position: u64, place: EntryPlace) -> Result<(), &'static str> {
        if !self.has_begun {
            self.end = position;
        }
        if position != self.end {
            return Err("an entry that does not follow the previous one");
        }
        self.end = position.checked_add(1).ok_or("an entry behind the last possible position")?;
        self.places.push_back(place);
        self.has_begun = true;
        Ok(())
    }

    /// Sets the bounds of the log to `front..end`: a cut at either end, or an empty log at a
    /// position behind its end.
    ///
    /// # Errors
    ///
    /// The reason why the bounds are invalid here.
    pub(crate) fn bounds(&mut self, front: u64, end: u64, place: EntryPlace) -> Result<(), &'static str> {
        if !self.has_begun {
            self.end = end;
        }
        if front < self.front || front > end {
            return Err("bounds that go back");
        }
        if end > self.end && front != end {
            return Err("bounds with entries that were never appended");
        }
        if end > self.end {
            self.places.clear();
        }
        let cut = usize::try_from(self.end.saturating_sub(end)).unwrap_or(usize::MAX);
        self.places.truncate(self.places.len().saturating_sub(cut));
        self.end = end;
        self.front = front;
        let wanted = usize::try_from(end - front).unwrap_or(usize::MAX);
        let before = self.places.len().saturating_sub(wanted);
        self.places.drain(..before);
        self.bounds = Some(place);
        self.has_begun = true;
        Ok(())
    }

    /// Checks that every entry has its place, after the last record.
    ///
    /// # Errors
    ///
    /// If some do not.
    pub(crate) fn check_complete(&self) -> Result<(), &'static str> {
        let is_complete = self.places.len() as u64 == self.end - self.front;
        if is_complete || planted("wal_gap_unnoticed") { Ok(()) } else { Err("the log's first entries are missing") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(segment: u32, offset: u32) -> EntryPlace {
        EntryPlace { segment, offset }
    }

    #[test]
    fn cuts_at_either_end_move_the_bounds_and_keep_the_rest() {
        let mut index = Index::default();
        for position in 0..10 {
            index.entry(position, place(1, 100 + u32::try_from(position).unwrap())).unwrap();
        }
        index.bounds(0, 6, place(1, 200)).unwrap();
        index.bounds(4, 6, place(1, 201)).unwrap();
        assert_eq!(index.positions(), 4..6);
        assert_eq!(
            [index.place(3), index.place(4), index.place(5), index.place(6)],
            [None, Some(place(1, 104)), Some(place(1, 105)), None]
        );
        index.entry(6, place(2, 64)).unwrap();
        index.bounds(20, 20, place(2, 90)).unwrap();
        assert_eq!((index.positions(), index.first_needed()), (20..20, Some(2)));
        index.entry(20, place(3, 64)).unwrap();
        assert_eq!((index.place(20), index.first_needed()), (Some(place(3, 64)), Some(2)));
        index.check_complete().unwrap();
    }

    /// The first segments of the log are removed; their entries are cut by a later record.
    #[test]
    fn a_log_may_begin_in_its_midst_if_a_later_cut_says_so() {
        let mut index = Index::default();
        index.entry(30, place(5, 64)).unwrap();
        index.bounds(3, 20, place(5, 90)).unwrap();
        index.entry(20, place(5, 120)).unwrap();
        assert!(index.check_complete().is_err(), "entries 3 to 19 are missing");
        index.bounds(20, 21, place(6, 64)).unwrap();
        index.check_complete().unwrap();
        assert_eq!(index.place(20), Some(place(5, 120)));
    }

    #[test]
    fn records_that_make_no_log_are_refused() {
        let begun = || {
            let mut index = Index::default();
            index.bounds(5, 5, place(1, 64)).unwrap();
            index.entry(5, place(1, 90)).unwrap();
            index
        };
        assert!(begun().entry(5, place(1, 100)).is_err());
        assert!(begun().entry(7, place(1, 100)).is_err());
        assert!(begun().bounds(4, 6, place(1, 100)).is_err());
        assert!(begun().bounds(7, 6, place(1, 100)).is_err());
        assert!(begun().bounds(5, 7, place(1, 100)).is_err());
        let mut last = Index::default();
        assert!(last.entry(u64::MAX, place(1, 64)).is_err());
        let mut without_its_first = Index::default();
        without_its_first.entry(3, place(1, 64)).unwrap();
        assert!(without_its_first.check_complete().is_err());
    }
}
