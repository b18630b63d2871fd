//! The read path: from a key to verified bytes, without a lock, a shared counter or a copy.
//!
//! Under one epoch guard: the index says where the record is, the table says which mapped segment that is, the segment verifies the record.
//! Compaction may move a record between the first two looks and take its segment out of the table; then the index knows the new place
//! already, and is asked again.

use hightower_index::{Guard, pin, prefetch_read};
use hightower_log::CommandRef;
use hightower_state::Versioned;

use crate::core::Core;
use crate::error::{Error, Result};
use crate::place::Place;

impl Core {
    /// Calls `use_value` with the value that `find` locates and its version.
    #[inline]
    pub(crate) fn read<'g, R>(
        &self,
        guard: &'g Guard,
        find: impl Fn(&'g Guard) -> Option<Versioned<Place>>,
        use_value: impl FnOnce(&[u8], u64) -> R,
    ) -> Result<Option<R>> {
        let with_command = |command: CommandRef<'_>| command.value().map(|value| use_value(value, command.version()));
        match self.read_record(guard, |guard| find(guard).map(|found| found.location), with_command)? {
            None => Ok(None),
            Some(Some(result)) => Ok(Some(result)),
            Some(None) => Err(Error::Corrupt {
                path: self.config.data_dir.clone(),
                offset: 0,
                detail:
                    "the index points to a tombstone for a value; close the store, check it, and restore or salvage it"
                        .into(),
            }),
        }
    }

    /// Calls `use_command` with the record that `find` locates.
    #[inline]
    pub(crate) fn read_record<'g, R>(
        &self,
        guard: &'g Guard,
        find: impl Fn(&'g Guard) -> Option<Place>,
        use_command: impl FnOnce(CommandRef<'_>) -> R,
    ) -> Result<Option<R>> {
        let mut missed = None;
        loop {
            let Some(place) = find(guard) else { return Ok(None) };
            if let Some(tracked) = self.segments.find(place.segment, guard) {
                let record = tracked.segment.record_at(place.offset)?;
                let command = record.command().ok_or_else(|| self.lost(place))?;
                return Ok(Some(use_command(command)));
            }
            // Each miss means that compaction has moved the record since; the same place twice means that the segment is lost.
            if missed == Some(place) {
                return Err(self.lost(place));
            }
            missed = Some(place);
        }
    }

    /// Calls `use_value` with the latest value of `key` and its version.
    #[inline]
    pub(crate) fn read_latest<R>(&self, key: &[u8], use_value: impl FnOnce(&[u8], u64) -> R) -> Result<Option<R>> {
        self.check_open()?;
        let guard = pin();
        self.read(&guard, |guard| self.state.get_pinned(key, guard), use_value)
    }

    /// Asks the processor for the first bytes of the record at `place`, for a read that follows soon.
    #[inline]
    pub(crate) fn prefetch(&self, place: Place, guard: &Guard) {
        if let Some(tracked) = self.segments.find(place.segment, guard) {
            prefetch_read(tracked.segment.bytes_from(place.offset));
        }
    }

    #[cold]
    fn lost(&self, place: Place) -> Error {
        let name = format!("{:010}.seg", place.segment);
        Error::Corrupt {
            path: self.config.data_dir.join(name),
            offset: place.offset.into(),
            detail:
                "the index points here, but no command is here; close the store, check it, and restore or salvage it"
                    .into(),
        }
    }
}
