//! Tables in the operating system's files: they are read back, and files that are not tables are
//! refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod common;

use std::convert::Infallible;
use std::ops::ControlFlow;

use common::{NAME, entry, is_pointed, numbered, options, write_as};
use hightower_segment::{Access, Fs, RealFs};
use hightower_table::{MergeSource, TableEntry, TableError, TableReader, TableWriter};

#[test]
fn a_table_of_many_pieces_is_read_back_from_real_files() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = RealFs.open_dir(scratch.path()).unwrap();
    let model = numbered(60_000);
    let summary = write_as(&dir, NAME, &model, options().with_memory_bytes(100_000)).unwrap();
    assert_eq!(dir.list().unwrap(), [NAME]);
    assert!(summary.len_bytes > 4 * (128 << 10), "several pieces of what is read ahead");
    let table = TableReader::open(dir.as_ref(), NAME).unwrap();
    table.check().unwrap();
    for (key, entry) in &model {
        assert!(is_pointed(&table, key, entry).unwrap());
    }
    let mut cursor = table.cursor();
    let mut is_there = cursor.seek_last().unwrap();
    for (key, entry) in model.iter().rev() {
        assert!(is_there);
        assert_eq!((cursor.key(), cursor.entry()), (Some(key.as_slice()), Some(*entry)));
        is_there = cursor.retreat().unwrap();
    }
    assert!(!is_there);
    // A reader keeps its map when the name is removed.
    dir.remove_file(NAME).unwrap();
    table.check().unwrap();
}

#[test]
fn files_that_are_not_tables_are_refused() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = RealFs.open_dir(scratch.path()).unwrap();
    for (name, bytes) in [("empty.tbl", vec![]), ("zeros.tbl", vec![0; 5000]), ("short.tbl", b"HTKVTBL\n".to_vec())] {
        std::fs::write(scratch.path().join(name), bytes).unwrap();
        let refused = TableReader::open(dir.as_ref(), name);
        assert!(matches!(refused, Err(TableError::Corrupt { .. })), "{name}: {refused:?}");
    }
    std::fs::create_dir(scratch.path().join("dir.tbl")).unwrap();
    assert!(matches!(TableReader::open(dir.as_ref(), "dir.tbl"), Err(TableError::Io { .. })));
    assert!(matches!(TableReader::open(dir.as_ref(), "missing.tbl"), Err(TableError::Io { .. })));
}

/// A memtable whose iteration cannot fail: its entries in descending order, then a dummy. The last
/// one is current.
struct Memtable(Vec<(Vec<u8>, TableEntry)>);

impl MergeSource for Memtable {
    type Error = Infallible;

    fn advance(&mut self) -> Result<bool, Infallible> {
        // The first call removes the dummy.
        self.0.pop();
        Ok(!self.0.is_empty())
    }

    fn key(&self) -> &[u8] {
        self.0.last().map_or(&[], |(key, _)| key)
    }

    fn entry(&self) -> TableEntry {
        self.0.last().map(|(_, entry)| *entry).unwrap_or_default()
    }
}

#[test]
fn a_memtable_becomes_a_table() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = RealFs.open_dir(scratch.path()).unwrap();
    let entries: Vec<_> = numbered(1000).into_iter().collect();
    let descending = entries.iter().rev().cloned().chain([(Vec::new(), entry(0))]).collect();
    let mut writer = TableWriter::create(&dir, NAME, options()).unwrap();
    writer.push_all(&mut Memtable(descending), &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(writer.finish().unwrap().keys, 1000);
    let table = TableReader::open(dir.as_ref(), NAME).unwrap();
    let found: Vec<_> = table.range::<&[u8]>(.., hightower_table::ScanDirection::Forward).map(Result::unwrap).collect();
    assert_eq!(found, entries);
}

#[test]
fn a_mapped_table_is_not_opened_for_writing_by_any_name() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = RealFs.open_dir(scratch.path()).unwrap();
    write_as(&dir, NAME, &numbered(1000), options()).unwrap();
    dir.hard_link(NAME, dir.as_ref(), "another").unwrap();
    let [table, second] = [(); 2].map(|()| TableReader::open(dir.as_ref(), NAME).unwrap());
    let again = RealFs.open_dir(scratch.path()).unwrap();
    for name in [NAME, "another"] {
        let refused = again.open(name, Access::Write).err().map(|error| error.kind());
        assert_eq!(refused, Some(std::io::ErrorKind::ResourceBusy), "{name}");
        again.open(name, Access::Read).unwrap().set_len(0).unwrap_err();
    }
    drop(table);
    assert!(dir.open(NAME, Access::Write).is_err(), "it is mapped twice");
    second.check().unwrap();
    drop(second);
    dir.open(NAME, Access::Write).unwrap().set_len(0).unwrap();
}

#[test]
fn a_file_that_is_open_for_writing_is_no_table_yet() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = RealFs.open_dir(scratch.path()).unwrap();
    write_as(&dir, NAME, &numbered(1000), options()).unwrap();
    let writers = [dir.open(NAME, Access::Write).unwrap(), dir.open(NAME, Access::Write).unwrap()];
    for writer in writers {
        let refused = TableReader::open(dir.as_ref(), NAME).unwrap_err();
        assert!(
            matches!(&refused, TableError::Io { source, .. } if source.kind() == std::io::ErrorKind::ResourceBusy),
            "{refused:?}"
        );
        drop(writer);
    }
    TableReader::open(dir.as_ref(), NAME).unwrap().check().unwrap();
}

#[test]
fn a_new_file_that_gets_a_tables_name_is_mapped_when_its_writer_is_gone() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = RealFs.open_dir(scratch.path()).unwrap();
    write_as(&dir, "2.tbl", &numbered(10), options()).unwrap();
    let bytes = std::fs::read(scratch.path().join("2.tbl")).unwrap();
    let file = dir.create_new("copy").unwrap();
    hightower_segment::write_all_at(file.as_ref(), &bytes, 0).unwrap();
    dir.rename("copy", NAME).unwrap();
    assert!(TableReader::open(dir.as_ref(), NAME).is_err());
    drop(file);
    TableReader::open(dir.as_ref(), NAME).unwrap().check().unwrap();
}
