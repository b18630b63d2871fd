//! Two tables and a memtable as one: the newest entry of each key, and lookups from the top.
//!
//! `cargo run -p hightower-table --example levels`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::sync::Arc;

use hightower_segment::{Dir, Fs, OsEntropy, RealFs};
use hightower_table::{
    EntryKind, LevelMerge, MergeSource, RecordPointer, ScanDirection, TableEntry, TableError, TableOptions,
    TableReader, TableWriter,
};

type Memtable = BTreeMap<Vec<u8>, TableEntry>;

/// A memtable as a level.
struct MemtableSource<'m> {
    rest: btree_map::Iter<'m, Vec<u8>, TableEntry>,
    now: Option<(&'m Vec<u8>, &'m TableEntry)>,
}

impl MergeSource for MemtableSource<'_> {
    type Error = TableError;

    fn advance(&mut self) -> Result<bool, TableError> {
        self.now = self.rest.next();
        Ok(self.now.is_some())
    }

    fn key(&self) -> &[u8] {
        self.now.map_or(&[], |(key, _)| key)
    }

    fn entry(&self) -> TableEntry {
        self.now.map_or_else(TableEntry::default, |(_, entry)| *entry)
    }
}

fn put(version: u64, segment: u32) -> TableEntry {
    let pointer = RecordPointer { segment, offset: 64 };
    TableEntry { version, kind: EntryKind::Set, pointer, len_bytes: 130 }
}

fn flush(
    dir: &Arc<dyn Dir>,
    id: u64,
    seed: u64,
    memtable: &Memtable,
) -> Result<TableReader, Box<dyn std::error::Error>> {
    let name = format!("{id:010}.tbl");
    let options = TableOptions::random(id, &OsEntropy)?.with_hash_seed(seed);
    let mut writer = TableWriter::create(dir, &name, options)?;
    for (key, entry) in memtable {
        writer.push(key, *entry)?;
    }
    let summary = writer.finish()?;
    println!("{name}: {} keys in {} bytes", summary.keys, summary.len_bytes);
    Ok(TableReader::open(dir.as_ref(), &name)?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = tempfile::tempdir()?;
    let dir = RealFs.open_dir(scratch.path())?;
    let of = |entries: &[(&str, TableEntry)]| -> Memtable {
        entries.iter().map(|(key, entry)| (key.as_bytes().to_vec(), *entry)).collect()
    };
    let seed = 42;
    let oldest = flush(&dir, 1, seed, &of(&[("a", put(1, 1)), ("b", put(2, 1)), ("c", put(3, 1))]))?;
    let deleted = TableEntry { kind: EntryKind::Tombstone, ..put(4, 2) };
    let newer = flush(&dir, 2, seed, &of(&[("b", deleted), ("d", put(5, 2))]))?;
    let memtable = of(&[("a", put(6, 3))]);

    // A lookup: the hash once, the levels from the top.
    let hash = newer.hasher().hash(b"c");
    for table in [&newer, &oldest] {
        for pointer in table.candidates(hash)? {
            println!("c may be at {:?}", pointer?);
        }
    }

    // A scan: tombstones hide entries of lower levels, and are returned.
    let memtable = MemtableSource { rest: memtable.iter(), now: None };
    let mut levels: Vec<Box<dyn MergeSource<Error = TableError> + '_>> = vec![Box::new(memtable)];
    for table in [&newer, &oldest] {
        levels.push(Box::new(table.range::<&str>(.., ScanDirection::Forward)));
    }
    let mut merge = LevelMerge::new(levels, ScanDirection::Forward, |_segment| true);
    while merge.advance()? {
        let entry = merge.entry();
        println!("{} version {} {:?}", String::from_utf8_lossy(merge.key()), entry.version, entry.kind);
    }
    Ok(())
}
