//! The read path: from a key to verified bytes, without a lock, a shared counter or a copy.
//!
//! Under one epoch guard, the state returns the place of the record, the segment table returns the
//! mapped segment, and the segment verifies the record. The view that the state has read keeps its
//! segments: compaction removes a segment from the segment table only when no view leads to it. A
//! place from a sorted table may be another key's, so the key in the record is compared.

use std::cell::RefCell;
use std::path::PathBuf;
use std::sync::Arc;

use hightower_index::{Guard, pin, synchronize};
use hightower_log::CommandRef;
use hightower_segment::Lock;
use hightower_state::{CommandKind, Lookup, NewestCommand, TableSearch};

use crate::error::{Error, Result};
use crate::keyspace::next_store_number;
use crate::mutants::planted;
use crate::observe::{Operation, observe};
use crate::open_index::OpenIndex;
use crate::place::{HintedPlace, Place};
use crate::sync::step;
use crate::table::{Segments, SequentialReads, Tracked};
use crate::tables::Tables;

/// The index and the segments: all that reads need, and the only part of a store that a snapshot
/// holds.
#[derive(Debug)]
pub(crate) struct ReadPath {
    pub(crate) index: OpenIndex,
    pub(crate) segments: Segments,
    tables: Arc<Tables>,
    data_dir: PathBuf,
    /// Unlike that of any other store that this process opens.
    pub(crate) store_number: u64,
    /// Excludes writers from a store that is open for reading, until the last reader ends:
    /// snapshots may outlive the engine. Dropped last.
    _lock: Option<ReadingLock>,
}

/// The lock of a store that is open for reading. It must be dropped last, after the segments that
/// wait for the end of an epoch, which hold the lock too.
#[derive(Debug)]
pub(crate) struct ReadingLock(pub(crate) Arc<dyn Lock>);

/// The longest wait for readers that are about to end. They hold what they read for microseconds,
/// or until they get a processor again. Not under schedules, where their thread waits for this one.
pub(crate) const READERS_WAIT_MS: u32 = if cfg!(shuttle) { 0 } else { 100 };

impl Drop for ReadingLock {
    fn drop(&mut self) {
        // A reader of another store may delay this, at worst until it gets a processor again.
        if Arc::strong_count(&self.0) > 1 {
            let _ended = synchronize(READERS_WAIT_MS);
        }
    }
}

impl ReadPath {
    /// `lock` is that of a store that is open for reading.
    pub(crate) fn new(
        index: OpenIndex,
        segments: Segments,
        tables: &Arc<Tables>,
        data_dir: PathBuf,
        lock: Option<ReadingLock>,
    ) -> Self {
        let store_number = next_store_number();
        Self { index, segments, tables: Arc::clone(tables), data_dir, store_number, _lock: lock }
    }

    /// The error of a read that has failed in the levels. If a table is damaged, the store now
    /// knows it, and rebuilds it.
    #[cold]
    pub(crate) fn noted(&self, failure: impl Into<Error>) -> Error {
        let failure = failure.into();
        self.tables.note_failure(&failure);
        failure
    }

    /// Calls `use_value` with the value of `key` that `find` locates, and its version.
    #[inline]
    pub(crate) fn read<'g, R>(
        &'g self,
        key: &[u8],
        guard: &'g Guard,
        find: impl FnOnce(&'g Guard) -> Lookup<'g, Place>,
        use_value: impl FnOnce(&[u8], u64) -> R,
    ) -> Result<Option<R>> {
        let place = match find(guard) {
            Lookup::Found(found) => found.location,
            Lookup::Absent => return Ok(None),
            Lookup::Below(search) => return self.read_below(key, guard, &search, use_value),
        };
        step();
        let tracked = self.segment_of(place, guard)?;
        self.value_in(tracked, place, use_value).map(Some)
    }

    /// The segment of a place. Each view's segments stay here as long as the view.
    #[inline]
    fn segment_of<'g>(&'g self, place: Place, guard: &'g Guard) -> Result<&'g Tracked> {
        match self.segments.find(place.segment, guard) {
            Some(tracked) => Ok(tracked),
            None => Err(self.lost(place)),
        }
    }

    /// Calls `use_value` with the value of `key` that the tables have, and its version.
    #[inline(never)]
    fn read_below<R>(
        &self,
        key: &[u8],
        guard: &Guard,
        search: &TableSearch<'_>,
        use_value: impl FnOnce(&[u8], u64) -> R,
    ) -> Result<Option<R>> {
        let mut use_value = Some(use_value);
        let found = search.find(|place| {
            self.command_of(key, place, guard, |command| {
                let value = command.value()?;
                use_value.take().map(|use_value| use_value(value, command.version()))
            })
        });
        let found = found.map_err(|failure: Error| self.noted(failure))?;
        Ok(found.flatten())
    }

    /// The version of the value of `key` that a lookup finds. It reads a record only if no memtable
    /// has the key.
    pub(crate) fn version_of(&self, key: &[u8], guard: &Guard, lookup: Lookup<'_, Place>) -> Result<Option<u64>> {
        match lookup {
            Lookup::Found(found) => Ok(Some(found.version)),
            Lookup::Absent => Ok(None),
            Lookup::Below(search) => {
                let newest = search.find(|place| self.newest_at(key, place, guard));
                let newest = newest.map_err(|failure: Error| self.noted(failure))?;
                Ok(newest.and_then(|newest| newest.version_of_value()))
            }
        }
    }

    /// Version and kind of the record at a place, if it is one of this key.
    pub(crate) fn newest_at(&self, key: &[u8], place: Place, guard: &Guard) -> Result<Option<NewestCommand>> {
        self.command_of(key, place, guard, |command| {
            let kind = if command.value().is_some() { CommandKind::Set } else { CommandKind::Delete };
            NewestCommand { version: command.version(), kind }
        })
    }

    /// Calls `use_command` with the record at a place where a table has found `key`; `None` if the
    /// record is another key's.
    fn command_of<R>(
        &self,
        key: &[u8],
        place: Place,
        guard: &Guard,
        use_command: impl FnOnce(CommandRef<'_>) -> R,
    ) -> Result<Option<R>> {
        step();
        let tracked = self.segment_of(place, guard)?;
        let record = tracked.segment.record_at(place.offset)?;
        let command = record.command().ok_or_else(|| self.lost(place))?;
        Ok((command.key() == key || planted("other_keys_record_believed")).then(|| use_command(command)))
    }

    /// Calls `use_command` with the record at `place`.
    #[inline]
    pub(crate) fn read_record<R>(
        &self,
        place: Place,
        guard: &Guard,
        use_command: impl FnOnce(CommandRef<'_>) -> R,
    ) -> Result<R> {
        let record = self.segment_of(place, guard)?.segment.record_at(place.offset)?;
        let command = record.command().ok_or_else(|| self.lost(place))?;
        Ok(use_command(command))
    }

    /// Calls `use_value` with the value of the record at `place`, and its version.
    pub(crate) fn value_at<R>(
        &self,
        place: Place,
        guard: &Guard,
        use_value: impl FnOnce(&[u8], u64) -> R,
    ) -> Result<R> {
        self.value_in(self.segment_of(place, guard)?, place, use_value)
    }

    /// Calls `use_value` with the value of the record at `place`, which is in this segment, and its
    /// version.
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
            let state = self.index.state(&guard)?;
            let find = |guard| state.get_hinted(key, guard, |hint| self.prefetch_hinted(hint, guard));
            self.read(key, &guard, find, use_value)
        })
    }

    /// Prefetches the first bytes of the record at `place`, for a read that follows soon.
    #[inline]
    pub(crate) fn prefetch(&self, place: Place, guard: &Guard) {
        if let Some(table) = self.segments.table(guard) {
            table.prefetch(place);
        }
    }

    /// The same for a reader of many records; see
    /// [`Table::prefetch_in_order`](crate::table::Table::prefetch_in_order).
    #[inline]
    pub(crate) fn prefetch_in_order(&self, place: Place, order: &RefCell<&mut SequentialReads>, guard: &Guard) {
        if let Some(table) = self.segments.table(guard) {
            table.prefetch_in_order(place, order);
        }
    }

    /// Prefetches the record that a hint names, while the index entry is being fetched.
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
            path: self.data_dir.join(name),
            offset: place.offset.into(),
            detail:
                "the index refers to a record that does not exist; close the store, check it, and restore or salvage it"
                    .into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hightower_index::pin;
    use hightower_state::{Location, Lookup};
    use tempfile::TempDir;

    use crate::config::StoreConfig;
    use crate::engine::SingleNodeEngine;

    fn open(dir: &TempDir) -> SingleNodeEngine {
        let config = StoreConfig {
            max_segment_size: 64 << 10,
            compaction_interval: Duration::ZERO,
            ..StoreConfig::at(dir.path())
        };
        SingleNodeEngine::with_config(config).unwrap()
    }

    fn key(number: u32) -> String {
        format!("key/{:08x}", number.wrapping_mul(0x9e37_79b9))
    }

    /// Number of keys whose hint, during a get from the memtable, was the place of the record.
    fn right_hints(engine: &SingleNodeEngine, keys: u32) -> u32 {
        let guard = pin();
        let state = engine.read.index.state(&guard).unwrap();
        let is_right = |number: &u32| {
            let mut told = None;
            let key = key(*number);
            let found = state.get_hinted(key.as_bytes(), &guard, |hint| told = Some(hint));
            let Lookup::Found(found) = found else { panic!("the memtable has every key") };
            told == Some(found.location.hint())
        };
        (0..keys).filter(is_right).count().try_into().unwrap()
    }

    /// Covers all operations that fill a memtable: a put, a batch, a replay of the log.
    #[test]
    fn hints_are_right_however_a_record_came_to_its_place() {
        const KEYS: u32 = 3000;
        let dir = TempDir::new().unwrap();
        let engine = open(&dir);
        for number in 0..KEYS {
            engine.put(key(number), [1; 50]).unwrap();
        }
        let odd = (1..KEYS).step_by(2).map(|number| (key(number), [2; 60])).collect();
        assert!(engine.commit(&odd).unwrap().is_committed());
        assert_eq!(right_hints(&engine, KEYS), KEYS, "after writing");
        engine.close().unwrap();
        for file in std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()) {
            if file.extension().is_some_and(|end| end == "tbl") {
                std::fs::remove_file(file).unwrap();
            }
        }
        // Without the right to rebuild the table, the open replays the whole log.
        let config = StoreConfig { read_only: true, ..StoreConfig::at(dir.path()) };
        let engine = SingleNodeEngine::with_config(config).unwrap();
        assert_eq!(right_hints(&engine, KEYS), KEYS, "after a replay");
    }
}
