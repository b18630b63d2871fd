//! The tables that a store's manifest names, newest first.

use hightower_segment::{CoveredPosition, Dir, NamedTable, NamedTables};
use hightower_table::{TableError, TableReader};

use crate::mutants::planted;
use crate::sync::Mutex;

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
    newest_first: Mutex<Vec<TableStats>>,
}

impl Tables {
    pub(crate) fn new(newest_first: Vec<TableStats>) -> Self {
        Self { newest_first: Mutex::new(newest_first) }
    }

    /// Replaces the list after the manifest has changed.
    pub(crate) fn replace(&self, newest_first: Vec<TableStats>) {
        *self.newest_first.lock() = newest_first;
    }

    pub(crate) fn stats(&self) -> Vec<TableStats> {
        self.newest_first.lock().clone()
    }

    /// Disk space of all tables.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.newest_first.lock().iter().map(|table| table.len_bytes).sum()
    }
}

/// The named tables, open for reading, and the position up to which they cover the log.
#[derive(Debug, Default)]
pub(crate) struct OpenTables {
    pub(crate) newest_first: Vec<TableReader>,
    pub(crate) covered: CoveredPosition,
}

impl OpenTables {
    /// Opens all tables of a list, and checks that each file is the table that the manifest names.
    /// The error is the reason why they cannot be used.
    pub(crate) fn open(dir: &dyn Dir, list: &NamedTables) -> Result<Self, String> {
        let mut newest_first = Vec::with_capacity(list.newest_first.len());
        for named in &list.newest_first {
            newest_first.push(open_named(dir, named)?);
        }
        Ok(Self { newest_first, covered: list.covered })
    }

    pub(crate) fn stats(&self) -> Vec<TableStats> {
        let stats = |table: &TableReader| TableStats {
            // `open_named` has checked that the id is the manifest's, of 32 bits.
            id: u32::try_from(table.id()).unwrap_or(u32::MAX),
            len_bytes: table.len_bytes(),
            keys: table.len(),
            tombstones: table.tombstones(),
        };
        self.newest_first.iter().map(stats).collect()
    }

    /// Ascending keys that divide all tables into ranges of about `keys_per_range` keys.
    pub(crate) fn cuts(&self, keys_per_range: u64) -> Result<Vec<Vec<u8>>, TableError> {
        let mut cuts = Vec::new();
        for table in &self.newest_first {
            cuts.extend(table.cuts(usize::try_from(table.len() / keys_per_range).unwrap_or(usize::MAX))?);
        }
        cuts.sort_unstable();
        cuts.dedup();
        Ok(cuts)
    }
}

/// Opens a table, and checks that it is the table that the manifest names.
fn open_named(dir: &dyn Dir, named: &NamedTable) -> Result<TableReader, String> {
    let name = named.file_name();
    let table = TableReader::open(dir, &name).map_err(|error| error.to_string())?;
    let found = (table.id(), table.salt(), table.len_bytes());
    if found != (named.id.into(), named.salt, named.len_bytes) && !planted("other_table_believed") {
        return Err(format!("{}: not the table that the manifest names", dir.path().join(name).display()));
    }
    Ok(table)
}
