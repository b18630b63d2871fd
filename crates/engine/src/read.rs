//! The read path: from a key to verified bytes, without a lock, a shared counter or a copy.
//!
//! Under one epoch guard: the index says where the record is, the table says which mapped segment that is, the segment verifies the record.
//! Compaction may move a record between the first two looks and take its segment out of the table; then the index knows the new place
//! already, and is asked again.

use hightower_index::{Guard, pin};
use hightower_log::CommandRef;
use hightower_state::Versioned;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::observe::{Operation, observe};
use crate::place::{HintedPlace, Place};
use crate::sync::step;
use crate::table::Tracked;

impl Core {
    /// Calls `use_value` with the value that `find` locates and its version.
    #[inline]
    pub(crate) fn read<'g, R>(
        &'g self,
        guard: &'g Guard,
        find: impl Fn(&'g Guard) -> Option<Versioned<Place>>,
        use_value: impl FnOnce(&[u8], u64) -> R,
    ) -> Result<Option<R>> {
        let find = |guard| find(guard).map(|found| found.location);
        let Some((tracked, place)) = self.locate(guard, find)? else { return Ok(None) };
        self.value_in(tracked, place, use_value).map(Some)
    }

    /// Calls `use_command` with the record that `find` locates.
    #[inline]
    pub(crate) fn read_record<'g, R>(
        &'g self,
        guard: &'g Guard,
        find: impl Fn(&'g Guard) -> Option<Place>,
        use_command: impl FnOnce(CommandRef<'_>) -> R,
    ) -> Result<Option<R>> {
        let Some((tracked, place)) = self.locate(guard, find)? else { return Ok(None) };
        let record = tracked.segment.record_at(place.offset)?;
        let command = record.command().ok_or_else(|| self.lost(place))?;
        Ok(Some(use_command(command)))
    }

    /// The segment of the place that `find` gives, and the place.
    #[inline]
    fn locate<'g>(
        &'g self,
        guard: &'g Guard,
        find: impl Fn(&'g Guard) -> Option<Place>,
    ) -> Result<Option<(&'g Tracked, Place)>> {
        let mut missed = None;
        loop {
            let Some(place) = find(guard) else { return Ok(None) };
            step();
            if let Some(tracked) = self.segments.find(place.segment, guard) {
                return Ok(Some((tracked, place)));
            }
            // Each miss means that compaction has moved the record since; the same place twice means that the segment is lost.
            if missed == Some(place) {
                return Err(self.lost(place));
            }
            missed = Some(place);
        }
    }

    /// Calls `use_value` with the value of the record at `place`, which is in this segment, and its version.
    #[inline]
    pub(crate) fn value_in<R>(
        &self,
        tracked: &Tracked,
        place: Place,
        use_value: impl FnOnce(&[u8], u64) -> R,
    ) -> Result<R> {
        step();
        match tracked.segment.value_at(place.offset)? {
            Some(found) => Ok(use_value(found.value, found.version)),
            None => Err(self.lost(place)),
        }
    }

    /// Calls `use_value` with the latest value of `key` and its version.
    #[inline]
    pub(crate) fn read_latest<R>(&self, key: &[u8], use_value: impl FnOnce(&[u8], u64) -> R) -> Result<Option<R>> {
        observe(Operation::Get, || {
            let guard = pin();
            let state = self.state(&guard)?;
            self.read(&guard, |guard| state.get_hinted(key, guard, |hint| self.prefetch_hinted(hint, guard)), use_value)
        })
    }

    /// Asks the processor for the first bytes of the record at `place`, for a read that follows soon.
    #[inline]
    pub(crate) fn prefetch(&self, place: Place, guard: &Guard) {
        if let Some(table) = self.segments.table(guard) {
            table.prefetch(place);
        }
    }

    /// Asks for the record that a hint of the index tells of, while the index's entry is waited for.
    #[inline]
    pub(crate) fn prefetch_hinted(&self, hint: u32, guard: &Guard) {
        if let Some(table) = self.segments.table(guard) {
            table.prefetch_hinted(HintedPlace(hint));
        }
    }

    #[cold]
    fn lost(&self, place: Place) -> Error {
        let name = format!("{:010}.seg", place.segment);
        Error::Corrupt {
            path: self.config.data_dir.join(name),
            offset: place.offset.into(),
            detail:
                "the index points here, but what it points to is not here; close the store, check it, and restore or salvage it"
                    .into(),
        }
    }
}
