//! The new places of a run's survivors, put into the active memtable: the way without a table of
//! relocations, for a device that has no room for one.
//!
//! The outputs lie beyond the position that the tables cover. So an open replays them, as it
//! replays the log that the memtable stands for.

use std::sync::Arc;

use hightower_compactor::{Moved, RecordPlace, Rewritten};
use hightower_index::{Guard, pin};
use hightower_state::{Change, CommandKind, LeveledKvState, StateWriter};

use crate::compaction::host::place_of;
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::place::Place;
use crate::read_path::ReadPath;
use crate::table::Tracked;

/// Number of records that are moved under one hold of the state's lock. Few, because commits wait
/// for it.
const MOVES_PER_LOCK: usize = 24;

/// Changes the active memtable while the caller holds the turn, so that the lower levels stay.
pub(crate) struct MemtableMoves<'a> {
    pub(crate) read: &'a ReadPath,
    pub(crate) state: &'a LeveledKvState<Place>,
}

impl MemtableMoves<'_> {
    /// Leads the keys of moved records to their new places. The outputs are in the segment table.
    pub(crate) fn install(&self, rewritten: &Rewritten) -> Result<()> {
        for some in rewritten.moved.chunks(MOVES_PER_LOCK) {
            let guard = pin();
            let memtable = self.state.active_memtable();
            // The records are read before the lock is taken.
            let ready = some.iter().map(|moved| self.prepare(moved, rewritten.key_of(moved), &guard));
            let ready: Vec<_> = ready.collect::<Result<_>>()?;
            memtable.prefetch(&ready, |(_, change, _)| change.key, &guard, |_| ());
            let mut writer = memtable.writer();
            for (moved, change, to) in ready {
                self.install_one(&mut writer, moved, &change, to, &guard);
            }
        }
        Ok(())
    }

    fn prepare<'g>(
        &'g self,
        moved: &'g Moved,
        key: &'g [u8],
        guard: &'g Guard,
    ) -> Result<(&'g Moved, Change<'g, Place>, &'g Arc<Tracked>)> {
        let to = self.tracked(moved.to.segment, guard)?;
        let record = to.segment.record_at(moved.to.offset)?;
        let command = record.command().ok_or(Error::Internal("compaction: a moved record is no command".into()))?;
        let kind = if moved.is_tombstone { CommandKind::Delete } else { CommandKind::Set };
        let (version, location) = (command.version(), place_of(moved.to));
        Ok((moved, Change { key, version, kind, location, len_bytes: moved.len_bytes }, to))
    }

    fn install_one(
        &self,
        writer: &mut StateWriter<'_, Place>,
        moved: &Moved,
        change: &Change<'_, Place>,
        to: &Tracked,
        guard: &Guard,
    ) {
        if writer.entry(change.key).is_none() || planted("moves_hide_newer_commits") {
            // The run saw this record as the newest one, in a lower level, and those have not
            // changed. The entry has no seqno, so every snapshot of the memtable sees it.
            let _applied = writer.replay(change);
            to.add_live(moved.len_bytes, moved.is_tombstone);
            return;
        }
        // A newer command has its own place.
        let relocated = writer.relocate(change.key, place_of(moved.from), change.location, moved.len_bytes);
        if let Some(old_len_bytes) = relocated.newest_len_bytes {
            to.add_live(moved.len_bytes, moved.is_tombstone);
            if let Some(from) = self.read.segments.find(moved.from.segment, guard) {
                from.remove_live(old_len_bytes, moved.is_tombstone);
            }
        }
    }

    /// Removes dropped tombstones, unless a newer command has replaced them. The active memtable is
    /// the only level.
    pub(crate) fn forget(&self, places: &[RecordPlace]) -> Result<()> {
        for some in places.chunks(MOVES_PER_LOCK) {
            let guard = pin();
            let mut ready = Vec::with_capacity(MOVES_PER_LOCK);
            for place in some {
                let tracked = self.tracked(place.segment, &guard)?;
                let record = tracked.segment.record_at(place.offset)?;
                ready.extend(record.command().map(|command| (*place, tracked, command)));
            }
            let mut writer = self.state.active_memtable().writer();
            for (place, tracked, command) in ready {
                let entry = writer.entry(command.key()).filter(|entry| entry.location == place_of(place));
                if let Some(entry) = entry
                    && writer.remove_tombstone(command.key(), command.version())
                {
                    tracked.remove_live(entry.len_bytes, true);
                }
            }
        }
        Ok(())
    }

    fn tracked<'g>(&'g self, id: u32, guard: &'g Guard) -> Result<&'g Arc<Tracked>> {
        let lost = || Error::Internal(format!("compaction: segment {id} is not in the table").into());
        self.read.segments.find(id, guard).ok_or_else(lost)
    }
}
