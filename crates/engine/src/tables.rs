//! The tables that a store's manifest names, newest first.

use std::sync::Arc;

use hightower_segment::{CoveredPosition, Dir, NamedTable, NamedTables};
use hightower_state::{FrozenMemtable, OlderViews};
use hightower_table::TableReader;

use crate::background_signal::BackgroundSignal;
use crate::error::Error;
use crate::mutants::planted;
use crate::place::Place;
use crate::sync::Mutex;
use crate::table_files::is_at;

/// Statistics of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TableStats {
    /// The id of the table, which names its file.
    pub id: u32,
    /// Length of its file.
    pub len_bytes: u64,
    /// Number of its keys, tombstones included.
    pub keys: u64,
    /// Number of its tombstones.
    pub tombstones: u64,
}

/// The named tables of an open store.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    known: Mutex<KnownTables>,
    /// Woken by damage.
    background: Arc<BackgroundSignal>,
}

#[derive(Debug, Default)]
struct KnownTables {
    current: CurrentTables,
    damage: Option<TableDamage>,
}

/// The first damage of a named table that was found since it was opened.
#[derive(Debug)]
struct TableDamage {
    /// The id of the table.
    table: u32,
    reason: String,
}

/// The tables in use, as the manifest names them.
#[derive(Clone, Debug, Default)]
pub(crate) struct CurrentTables {
    pub(crate) list: NamedTables,
    /// In the order of the list.
    pub(crate) stats: Vec<TableStats>,
}

impl Tables {
    pub(crate) fn new(current: CurrentTables, background: &Arc<BackgroundSignal>) -> Self {
        let known = KnownTables { current, damage: None };
        Self { known: Mutex::new(known), background: Arc::clone(background) }
    }

    /// Replaces the list after the manifest has changed. A damaged table that is no longer in it
    /// matters no more.
    pub(crate) fn replace(&self, current: CurrentTables) {
        let mut known = self.known.lock();
        let is_named = |damage: &TableDamage| current.list.newest_first.iter().any(|table| table.id == damage.table);
        known.damage = known.damage.take().filter(is_named);
        known.current = current;
    }

    pub(crate) fn current(&self) -> CurrentTables {
        self.known.lock().current.clone()
    }

    pub(crate) fn stats(&self) -> Vec<TableStats> {
        self.known.lock().current.stats.clone()
    }

    /// Notes that a use of a table has failed, if the error is the damage of one that the manifest
    /// names: the next maintenance then rebuilds the tables. An old snapshot may still read a table
    /// that was replaced.
    #[cold]
    pub(crate) fn note_failure(&self, failure: &Error) {
        let Error::Corrupt { path, .. } = failure else { return };
        let mut known = self.known.lock();
        let found = known.current.list.newest_first.iter().find(|table| is_at(table, path)).map(|table| table.id);
        let Some(table) = found.filter(|_| known.damage.is_none() && !planted("table_damage_not_noted")) else {
            return;
        };
        known.damage = Some(TableDamage { table, reason: failure.to_string() });
        drop(known);
        self.background.wake();
    }

    /// The damage of a named table.
    pub(crate) fn damage(&self) -> Option<String> {
        self.known.lock().damage.as_ref().map(|damage| damage.reason.clone())
    }

    /// The position up to which the tables cover the log.
    pub(crate) fn covered(&self) -> CoveredPosition {
        self.known.lock().current.list.covered
    }

    /// Disk space of all tables.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.known.lock().current.stats.iter().map(|table| table.len_bytes).sum()
    }
}

impl TableStats {
    /// The statistics of a table whose id is the manifest's, of 32 bits.
    pub(crate) fn of(table: &TableReader) -> Self {
        Self {
            id: u32::try_from(table.id()).unwrap_or(u32::MAX),
            len_bytes: table.len_bytes(),
            keys: table.len(),
            tombstones: table.tombstones(),
        }
    }
}

/// A frozen memtable that waits to become a table.
#[derive(Debug)]
pub(crate) struct PendingFlush {
    pub(crate) memtable: FrozenMemtable<Place>,
    /// The highest version of the log when it was frozen.
    pub(crate) max_version: u64,
    /// The end of the log at that time.
    pub(crate) covered: CoveredPosition,
}

/// Files that the manifest no longer names, and that older views may lead to.
#[derive(Debug)]
pub(crate) struct UnnamedFiles {
    pub(crate) views: OlderViews,
    /// Ids of segments.
    pub(crate) segments: Vec<u32>,
    pub(crate) tables: Vec<NamedTable>,
}

/// All tables of a list, newest first: the known ones, and the others opened and checked to be the
/// tables that the manifest names. The error is the reason why they cannot be used.
pub(crate) fn open_tables(
    dir: &dyn Dir,
    list: &NamedTables,
    known: &[Arc<TableReader>],
) -> Result<Vec<Arc<TableReader>>, String> {
    let open = |named: &NamedTable| match known.iter().find(|table| is_named(table, named)) {
        Some(table) => Ok(Arc::clone(table)),
        None => open_named(dir, named).map(Arc::new),
    };
    list.newest_first.iter().map(open).collect()
}

fn is_named(table: &TableReader, named: &NamedTable) -> bool {
    (table.id(), table.salt(), table.len_bytes()) == (named.id.into(), named.salt, named.len_bytes)
}

/// Opens a table, and checks that it is the table that the manifest names.
fn open_named(dir: &dyn Dir, named: &NamedTable) -> Result<TableReader, String> {
    let name = named.file_name();
    let table = TableReader::open(dir, &name).map_err(|error| error.to_string())?;
    if !is_named(&table, named) && !planted("other_table_believed") {
        return Err(format!("{}: not the table that the manifest names", dir.path().join(name).display()));
    }
    Ok(table)
}
