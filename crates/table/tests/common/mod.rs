//! Shared parts of the tests: a directory of the simulated disk, tables of a map, the number of
//! cases.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hightower_segment::sim::SimFs;
use hightower_segment::{Dir, Fs};
use hightower_table::{
    EntryKind, RecordPointer, TableEntry, TableError, TableOptions, TableReader, TableSummary, TableWriter,
};

pub(crate) type Model = BTreeMap<Vec<u8>, TableEntry>;

pub(crate) const NAME: &str = "0000000001.tbl";

pub(crate) fn disk() -> (SimFs, Arc<dyn Dir>) {
    let fs = SimFs::new();
    let dir = dir_of(&fs);
    (fs, dir)
}

pub(crate) fn dir_of(fs: &SimFs) -> Arc<dyn Dir> {
    fs.create_dir_all(Path::new("/db")).unwrap();
    fs.open_dir(Path::new("/db")).unwrap()
}

pub(crate) fn options() -> TableOptions {
    TableOptions::new(1, 0x5a17, 7)
}

pub(crate) fn write_as(
    dir: &Arc<dyn Dir>,
    name: &str,
    model: &Model,
    options: TableOptions,
) -> Result<TableSummary, TableError> {
    let mut writer = TableWriter::create(dir, name, options)?;
    for (key, entry) in model {
        writer.push(key, *entry)?;
    }
    writer.finish()
}

pub(crate) fn table(dir: &Arc<dyn Dir>, model: &Model) -> TableReader {
    write_as(dir, NAME, model, options()).unwrap();
    TableReader::open(dir.as_ref(), NAME).unwrap()
}

/// An entry that differs from all others.
pub(crate) fn entry(number: u32) -> TableEntry {
    TableEntry {
        version: u64::from(number) * 3 + 1,
        kind: if number % 5 == 4 { EntryKind::Tombstone } else { EntryKind::Set },
        pointer: RecordPointer { segment: 1 + number % 3, offset: 64 + number * 7 },
        len_bytes: 20 + number % 50,
    }
}

pub(crate) fn numbered(count: u32) -> Model {
    (0..count).map(|number| (format!("pods/default/web-{number:08}").into_bytes(), entry(number))).collect()
}

/// The number of cases of a property.
pub(crate) fn cases(default: u32) -> u32 {
    std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

/// Whether the point table leads to the entry of a key.
pub(crate) fn is_pointed(table: &TableReader, key: &[u8], entry: &TableEntry) -> Result<bool, TableError> {
    for pointer in table.candidates(table.hasher().hash(key))? {
        if pointer? == entry.pointer {
            return Ok(true);
        }
    }
    Ok(false)
}
