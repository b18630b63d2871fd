//! Flush: writes the index to a table, concurrently with other writes.
//!
//! A flush takes the commit lock briefly, to get a snapshot of the state and the end of the log.
//! Then it syncs the log up to that end, so that every record that the table points to is durable.
//! It writes the snapshot in key order to a file, and names the file once it is complete and
//! synced. Last, it changes the manifest in one step to name the table and the covered position.

use std::ops::Bound;
use std::sync::Arc;

use hightower_index::pin;
use hightower_seams::Entropy;
use hightower_segment::{CoveredPosition, NamedTable, NamedTables, SegmentStore, table_name};
use hightower_state::{CommandKind, EntryRecord, LeveledSnapshot};
use hightower_table::{EntryKind, RecordPointer, TableEntry, TableError, TableOptions, TableSummary, TableWriter};

use crate::commit_log::CommitLock;
use crate::components::Components;
use crate::error::{Error, Result};
use crate::files::{io_error, remove_if_there};
use crate::maintenance::{Flushed, Maintenance, Turn};
use crate::mutants::planted;
use crate::observe::{Operation, observe};
use crate::open_store::OpenStore;
use crate::place::Place;
use crate::read_path::ReadPath;
use crate::sync_path::SyncPath;
use crate::tables::{TableStats, Tables};

/// Estimated bytes of a key in a table and its scratch file together; few keys take more.
const LIKELY_BYTES_PER_KEY: u64 = 128;

/// The content of a table to be written.
struct Moment {
    state: LeveledSnapshot<Place>,
    max_version: u64,
    covered: CoveredPosition,
}

/// Writes tables. Its methods take the data of the turn, so that only its holder can call them.
#[derive(Debug)]
pub(crate) struct TableFlusher {
    entropy: Arc<dyn Entropy>,
    read: Arc<ReadPath>,
    log: Arc<CommitLock>,
    store: Arc<OpenStore>,
    sync: Arc<SyncPath>,
    tables: Arc<Tables>,
    maintenance: Arc<Maintenance>,
}

/// The parts of a store that [`TableFlusher`] uses.
#[derive(Debug)]
pub(crate) struct FlushParts<'a> {
    pub(crate) read: &'a Arc<ReadPath>,
    pub(crate) log: &'a Arc<CommitLock>,
    pub(crate) store: &'a Arc<OpenStore>,
    pub(crate) sync: &'a Arc<SyncPath>,
    pub(crate) tables: &'a Arc<Tables>,
    pub(crate) maintenance: &'a Arc<Maintenance>,
}

impl TableFlusher {
    pub(crate) fn new(components: &Components, parts: &FlushParts<'_>) -> Self {
        Self {
            entropy: Arc::clone(&components.entropy),
            read: Arc::clone(parts.read),
            log: Arc::clone(parts.log),
            store: Arc::clone(parts.store),
            sync: Arc::clone(parts.sync),
            tables: Arc::clone(parts.tables),
            maintenance: Arc::clone(parts.maintenance),
        }
    }

    /// Writes the index to a table that replaces the earlier ones. Does nothing if no commit and no
    /// compaction has followed the last flush.
    pub(crate) fn flush(&self, turn: &mut Turn) -> Result<()> {
        observe(Operation::Checkpoint, || self.flush_unobserved(turn))
    }

    fn flush_unobserved(&self, turn: &mut Turn) -> Result<()> {
        let store = self.store.in_use()?;
        let runs = self.maintenance.stats().runs;
        let now = Flushed { seq: self.read.index.visible_seq(), runs };
        if turn.flushed == Some(now) {
            return Ok(());
        }
        // On a full device, the room that is left is for compaction first.
        if !store.refill_reserves()? || !self.has_room(&store)? {
            let detail = "there is no room for a table besides the room that deletes and compaction need".to_owned();
            return Err(Error::Full { detail });
        }
        let moment = self.moment()?;
        let seq = moment.state.seq();
        if !planted("table_named_before_log_sync") {
            self.sync_log(&store, seq)?;
        }
        let table = self.write_table(&store, &moment.state)?;
        let before = store.manifest().tables;
        let covered = if planted("table_covers_later_commits") { self.moment()?.covered } else { moment.covered };
        let list = NamedTables { newest_first: vec![table.named], covered };
        if let Err(failure) = store.set_tables(list, moment.max_version) {
            if !store.is_poisoned() {
                // The manifest certainly does not name the table. It is removed at once, because
                // room may be short. The first failure is reported.
                let _removed = store.dir().remove_file(&table.named.file_name());
            }
            return Err(failure.into());
        }
        self.tables.replace(vec![table.stats]);
        self.maintenance.note(|stats| stats.checkpoints += 1);
        turn.flushed = Some(Flushed { seq, runs });
        for old in before.newest_first {
            remove_if_there(store.dir().as_ref(), &old.file_name())?;
        }
        Ok(())
    }

    /// Like [`flush`](Self::flush), for callers that can do without the table: if there is no room
    /// for it, returns the reason instead of an error.
    pub(crate) fn try_flush(&self, turn: &mut Turn) -> Result<Option<String>> {
        match self.flush(turn) {
            Ok(()) => Ok(None),
            Err(Error::Full { detail }) => Ok(Some(detail)),
            Err(failure) => Err(failure),
        }
    }

    /// Whether the device has room for a table. A table that filled the device would briefly take
    /// the room that the manifest may need, and would leave other operations only the reserves.
    fn has_room(&self, store: &SegmentStore) -> Result<bool> {
        let dir = store.dir();
        let room = dir.room().map_err(|source| io_error("ask for the free room of", dir.path(), source))?;
        let keys = self.read.index.number(
            |state| {
                let stats = state.active_memtable().stats();
                (stats.live_keys + stats.tombstones) as u64
            },
            |_| 0,
        );
        let needed = self.read.segments.live_bytes().min(keys.saturating_mul(LIKELY_BYTES_PER_KEY));
        Ok(room.available_bytes >= needed)
    }

    fn moment(&self) -> Result<Moment> {
        let log = self.log.lock()?;
        let state = self.read.index.state(&pin())?.snapshot();
        let active = &log.active.segment;
        // Compaction needs the turn too, so each of its segments is in the list or will get a
        // higher id.
        let last_id = self.read.segments.all().last().map_or(0, |tracked| tracked.segment.id());
        let covered = CoveredPosition {
            segment: active.id(),
            offset: active.len_bytes(),
            next_seq: log.last_seq.saturating_add(1),
            compacted_below: last_id.saturating_add(1),
        };
        Ok(Moment { state, max_version: log.max_version, covered })
    }

    /// Makes the log durable up to this commit, including the ends of the segments before it: an
    /// open stops at a segment whose end is missing.
    fn sync_log(&self, store: &SegmentStore, seq: u64) -> Result<()> {
        self.sync.sync_to(seq)?;
        store.sync_predecessors().map_err(|failure| self.store.append_failed(failure))?;
        Ok(())
    }

    /// Writes the table durably under its name. After a failure no file is left that an open would
    /// use.
    fn write_table(&self, store: &SegmentStore, state: &LeveledSnapshot<Place>) -> Result<WrittenTable> {
        let (id, mut writer) = self.begin_table(store)?;
        let mut entries = state.entries(Bound::Unbounded, Bound::Unbounded);
        loop {
            let guard = pin();
            let Some((key, record)) = entries.next_pinned(&guard, |_| {})? else { break };
            writer.push(key, entry_of(&record))?;
        }
        let TableSummary { salt, len_bytes, keys, tombstones, .. } = writer.finish()?;
        Ok(WrittenTable {
            named: NamedTable { id, salt, len_bytes },
            stats: TableStats { id, len_bytes, keys, tombstones },
        })
    }

    /// Begins a table with the next free id. An id whose file exists is skipped, because the file
    /// may not be the store's.
    fn begin_table(&self, store: &SegmentStore) -> Result<(u32, TableWriter)> {
        let dir = store.dir();
        let mut id = store.manifest().next_table_id;
        loop {
            let options = TableOptions::random(id.into(), &*self.entropy)
                .map_err(|source| io_error("draw a random number for", dir.path(), source))?;
            match TableWriter::create(dir, &table_name(id), options) {
                Err(TableError::Exists { .. }) if id < u32::MAX => id += 1,
                writer => return Ok((id, writer?)),
            }
        }
    }
}

/// A table on disk that the manifest does not name yet.
struct WrittenTable {
    named: NamedTable,
    stats: TableStats,
}

fn entry_of(record: &EntryRecord<Place>) -> TableEntry {
    let Place { segment, offset } = record.location;
    TableEntry {
        version: record.version,
        kind: if record.kind == CommandKind::Delete { EntryKind::Tombstone } else { EntryKind::Set },
        pointer: RecordPointer { segment, offset },
        len_bytes: record.len_bytes,
    }
}
