//! The files of tables: names that are free, and tables that are complete but not named yet.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use hightower_seams::Entropy;
use hightower_segment::{Dir, NamedTable, table_name};
use hightower_table::{TableError, TableOptions, TableReader, TableSummary, TableWriter};

use crate::error::Result;
use crate::files::io_error;

/// Estimated bytes of a key in a table and its scratch file together; few keys take more. A rebuild
/// also has it in a run.
pub(crate) const LIKELY_BYTES_PER_KEY: u64 = 128;

/// A table on disk that the manifest does not name yet.
#[derive(Debug)]
pub(crate) struct WrittenTable {
    pub(crate) named: NamedTable,
    pub(crate) reader: Arc<TableReader>,
}

/// Returns an id that no table has had.
pub(crate) type TakeId<'a> = &'a dyn Fn() -> Result<u32>;

/// Begins a table with the next id. An id whose file exists is skipped, because the file may not be
/// the store's. Tables that a lookup reads together share a `seed`, so that it
/// hashes the key once.
pub(crate) fn begin_table(
    dir: &Arc<dyn Dir>,
    entropy: &dyn Entropy,
    take_id: TakeId<'_>,
    seed: Option<u64>,
) -> Result<(u32, TableWriter)> {
    loop {
        let id = take_id()?;
        let options = TableOptions::random(id.into(), entropy)
            .map_err(|source| io_error("draw a random number for", dir.path(), source))?;
        let options = seed.map_or(options, |seed| options.with_hash_seed(seed));
        match TableWriter::create(dir, &table_name(id), options) {
            Err(TableError::Exists { .. }) => {}
            writer => return Ok((id, writer?)),
        }
    }
}

/// Opens a table that was completed.
pub(crate) fn open_written(dir: &dyn Dir, id: u32, summary: &TableSummary) -> Result<WrittenTable> {
    let named = NamedTable { id, salt: summary.salt, len_bytes: summary.len_bytes };
    let reader = TableReader::open(dir, &named.file_name());
    let reader = reader.inspect_err(|_| drop(dir.remove_file(&named.file_name())))?;
    Ok(WrittenTable { named, reader: Arc::new(reader) })
}

/// Removes a table that the manifest certainly does not name, at once, because room may be short.
/// The caller reports the failure that led here; if the removal fails too, the next open removes
/// the file.
pub(crate) fn remove_unnamed(dir: &dyn Dir, named: &NamedTable) {
    let _removed = dir.remove_file(&named.file_name());
}

/// Whether this is the path of a named table.
pub(crate) fn is_at(named: &NamedTable, path: &Path) -> bool {
    path.file_name() == Some(OsStr::new(&named.file_name()))
}
