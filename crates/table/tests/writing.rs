//! The errors and leftovers of a writer, and the independence of its output from its memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod common;

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use common::{Model, NAME, disk, entry, is_pointed, numbered, options, write_as};
use hightower_segment::{Access, DeviceRoom, Dir, File, Lock, LockKind, Metadata};
use hightower_table::{
    EntryKind, MAX_KEY_LEN_BYTES, MAX_TABLE_NAME_LEN_BYTES, MergeSource, RecordPointer, ScanDirection, TableEntry,
    TableError, TableOptions, TableProgress, TableReader, TableWriter,
};

fn names(dir: &dyn Dir) -> Vec<String> {
    dir.list().unwrap()
}

#[test]
fn keys_that_do_not_rise_are_refused_and_leave_no_file() {
    for (keys, is_duplicate) in [
        (&[&b"b"[..], b"a"][..], false),
        (&[b"a", b"a"], true),
        (&[b"a", b""], false),
        (&[b"", b""], true),
        (&[b"ab", b"a"], false),
        (&[b"pods/1", b"pods/10", b"pods/1"], false),
    ] {
        let (_, dir) = disk();
        let mut writer = TableWriter::create(&dir, NAME, options()).unwrap();
        let (last, rising) = keys.split_last().unwrap();
        rising.iter().for_each(|key| writer.push(key, entry(1)).unwrap());
        let refused = writer.push(last, entry(2));
        let position = rising.len() as u64;
        assert!(
            matches!(&refused, Err(TableError::OutOfOrder { position: at, is_duplicate: is }) if (*at, *is) == (position, is_duplicate)),
            "{keys:?}: {refused:?}"
        );
        assert!(names(dir.as_ref()).is_empty());
        assert!(matches!(writer.push(b"z", entry(3)), Err(TableError::Abandoned { .. })));
        assert!(matches!(writer.finish(), Err(TableError::Abandoned { .. })));
        assert!(names(dir.as_ref()).is_empty());
    }
}

#[test]
fn keys_of_every_length_up_to_the_limit_are_kept() {
    let (_, dir) = disk();
    let lens = [0, 1, 2, 4095, 4096, 4097, 40_000, MAX_KEY_LEN_BYTES - 1, MAX_KEY_LEN_BYTES];
    let mut model = Model::new();
    for (number, len) in (0..).zip(lens) {
        for first in [b'a', b'b', b'c'] {
            let mut key = vec![first; len];
            key.iter_mut().skip(1).zip((0..=255).cycle()).for_each(|(byte, place)| *byte = place);
            model.insert(key, entry(number));
        }
    }
    // Many long keys that differ only at their ends, so that separators are as long as keys.
    for number in 0..40_u8 {
        let mut key = vec![b'd'; MAX_KEY_LEN_BYTES];
        *key.last_mut().unwrap() = number;
        model.insert(key, entry(number.into()));
    }
    let table = common::table(&dir, &model);
    table.check().unwrap();
    for (key, entry) in &model {
        assert_eq!(table.get(key).unwrap(), Some(*entry));
        assert!(is_pointed(&table, key, entry).unwrap());
    }
    let mut writer = TableWriter::create(&dir, "2.tbl", options()).unwrap();
    let refused = writer.push(&vec![0; MAX_KEY_LEN_BYTES + 1], entry(1));
    assert!(matches!(refused, Err(TableError::KeyTooLong { len_bytes: 65_536 })), "{refused:?}");
    assert_eq!(names(dir.as_ref()), [NAME]);
}

#[test]
fn a_name_is_used_once_and_is_one_of_a_table() {
    let (_, dir) = disk();
    let begun = TableWriter::create(&dir, NAME, options()).unwrap();
    assert!(matches!(TableWriter::create(&dir, NAME, options()), Err(TableError::Exists { .. })));
    assert_eq!(names(dir.as_ref()), [format!("{NAME}{}", hightower_table::UNFINISHED_SUFFIX)]);
    begun.finish().unwrap();
    assert!(matches!(TableWriter::create(&dir, NAME, options()), Err(TableError::Exists { .. })));
    assert!(TableReader::open(dir.as_ref(), NAME).unwrap().is_empty());
    let long = format!("{}.tbl", "x".repeat(MAX_TABLE_NAME_LEN_BYTES - 3));
    for name in ["table", "../1.tbl", "table.seg", ".tbl", "..tbl", "A B.tbl", "\u{e9}.tbl", "a/b.tbl", "", &long] {
        assert!(matches!(TableWriter::create(&dir, name, options()), Err(TableError::Io { .. })), "{name}");
        assert!(matches!(TableReader::open(dir.as_ref(), name), Err(TableError::Io { .. })), "{name}");
    }
    assert_eq!(names(dir.as_ref()), [NAME]);
    // The longest possible name, with a scratch file.
    let longest = &long[1..];
    write_as(&dir, longest, &numbered(200), options().with_memory_bytes(0)).unwrap();
    TableReader::open(dir.as_ref(), longest).unwrap().check().unwrap();
}

/// A directory where another writer finishes its table just before this one's file is created.
#[derive(Debug)]
struct RacedDir(Arc<dyn Dir>);

impl Dir for RacedDir {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn create_new(&self, name: &str) -> io::Result<Arc<dyn File>> {
        write_as(&self.0, NAME, &numbered(3), options()).unwrap();
        self.0.create_new(name)
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn File>> {
        self.0.open(name, access)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn remove_file(&self, name: &str) -> io::Result<()> {
        self.0.remove_file(name)
    }

    fn hard_link(&self, name: &str, target: &dyn Dir, link: &str) -> io::Result<()> {
        self.0.hard_link(name, target, link)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn metadata(&self, name: &str) -> io::Result<Metadata> {
        self.0.metadata(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn try_lock(&self, kind: LockKind) -> io::Result<Option<Box<dyn Lock>>> {
        self.0.try_lock(kind)
    }

    fn is_locked_by_this_process(&self) -> bool {
        self.0.is_locked_by_this_process()
    }

    fn room(&self) -> io::Result<DeviceRoom> {
        self.0.room()
    }

    fn preallocation_is_promise(&self) -> io::Result<bool> {
        self.0.preallocation_is_promise()
    }
}

#[test]
fn a_table_that_appears_while_another_begins_is_not_replaced() {
    let (_, dir) = disk();
    let raced: Arc<dyn Dir> = Arc::new(RacedDir(Arc::clone(&dir)));
    let begun = TableWriter::create(&raced, NAME, options());
    assert!(matches!(begun, Err(TableError::Exists { .. })), "{begun:?}");
    drop(begun);
    assert_eq!(names(dir.as_ref()), [NAME]);
    assert_eq!(TableReader::open(dir.as_ref(), NAME).unwrap().len(), 3);
}

#[test]
fn neither_keys_nor_the_seed_show_in_debug_output() {
    let (_, dir) = disk();
    let seed = 0x5eed_5eed_5eed_5eed;
    let options = TableOptions::new(1, 2, seed);
    let mut writer = TableWriter::create(&dir, NAME, options).unwrap();
    for (key, entry) in numbered(500) {
        writer.push(&key, entry).unwrap();
    }
    let writing = format!("{writer:?}");
    writer.finish().unwrap();
    let table = TableReader::open(dir.as_ref(), NAME).unwrap();
    let mut cursor = table.cursor();
    assert!(cursor.seek_first().unwrap());
    let candidates = table.candidates(1).unwrap();
    let shown =
        [format!("{options:?}"), writing, format!("{table:?}"), format!("{cursor:?}"), format!("{candidates:?}")];
    for shown in shown {
        assert!(!shown.contains(&seed.to_string()), "{shown}");
        // The first letters of every key, as decimal numbers.
        assert!(!shown.contains("112, 111, 100, 115"), "{shown}");
        assert!(shown.len() < 1000, "{} bytes", shown.len());
    }
}

#[test]
fn a_dropped_or_stopped_writer_leaves_no_file() {
    let (_, dir) = disk();
    let model = numbered(40_000);
    let mut writer = TableWriter::create(&dir, NAME, options()).unwrap();
    writer.push(b"a", entry(1)).unwrap();
    drop(writer);
    assert!(names(dir.as_ref()).is_empty());

    let source = common::table(&dir, &model);
    // Stopped at each progress report in turn.
    let mut reports = 0;
    for stop in 0..20 {
        let mut told = Vec::new();
        let mut observe = |progress: TableProgress| {
            told.push(progress);
            if told.len() > stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = options().with_memory_bytes(1 << 16);
        let mut writer = TableWriter::create(&dir, "2.tbl", options).unwrap();
        let mut all = source.range::<&[u8]>(.., ScanDirection::Forward);
        let written = writer.push_all(&mut all, &mut observe).and_then(|()| writer.finish_with(&mut observe));
        match written {
            Err(TableError::Canceled) => {
                assert_eq!(names(dir.as_ref()), [NAME]);
                reports = told.len();
            }
            Ok(summary) => {
                assert_eq!(summary.keys, 40_000);
                assert!(told.is_sorted_by_key(|progress| (progress.ordered_keys, progress.pointed_keys)));
                assert_eq!(told.last().map(|progress| progress.ordered_keys), Some(40_000));
                break;
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert!(reports >= 5, "{reports}");
    TableReader::open(dir.as_ref(), "2.tbl").unwrap().check().unwrap();
}

#[test]
fn the_memory_of_a_writer_does_not_change_the_table() {
    let (fs, dir) = disk();
    let model = numbered(5000);
    write_as(&dir, "large.tbl", &model, options()).unwrap();
    let large = fs.read_file(Path::new("/db/large.tbl")).unwrap();
    for memory_bytes in [0, 1 << 10, 5000, 40_000, 79_999, 80_000, 80_001] {
        write_as(&dir, "small.tbl", &model, options().with_memory_bytes(memory_bytes)).unwrap();
        assert!(fs.read_file(Path::new("/db/small.tbl")).unwrap() == large, "{memory_bytes}");
        assert_eq!(names(dir.as_ref()).len(), 2, "the scratch file has no name");
        dir.remove_file("small.tbl").unwrap();
    }
}

#[test]
fn keys_that_share_their_line_are_found_in_the_next_and_in_the_list() {
    // Keys whose hashes are in a small range, so that in a table of few lines they belong to one
    // line.
    let seed = 7;
    let hasher = hightower_table::TableHasher::new(seed);
    let mut model = Model::new();
    let mut number = 0_u32;
    while model.len() < 200 {
        let key = format!("key {number}").into_bytes();
        if hasher.hash(&key) >> 54 == 3 {
            model.insert(key, TableEntry { kind: EntryKind::Set, ..entry(number) });
        }
        number += 1;
    }
    let (_, dir) = disk();
    for memory_bytes in [0, 1 << 20] {
        let name = format!("{memory_bytes}.tbl");
        write_as(&dir, &name, &model, TableOptions::new(1, 2, seed).with_memory_bytes(memory_bytes)).unwrap();
        let table = TableReader::open(dir.as_ref(), &name).unwrap();
        table.check().unwrap();
        for (key, entry) in &model {
            assert!(is_pointed(&table, key, entry).unwrap(), "{key:?}");
        }
        // Absent keys of the same line have few candidates.
        let absent = (number..number + 200_000).map(|number| format!("key {number}").into_bytes());
        let hashes: Vec<_> = absent.map(|key| hasher.hash(&key)).filter(|hash| hash >> 54 == 3).collect();
        let found: usize = hashes.iter().map(|hash| table.candidates(*hash).unwrap().count()).sum();
        assert!(hashes.len() > 100 && found * 10 < hashes.len(), "{found} of {}", hashes.len());
    }
}

#[test]
fn absent_keys_name_no_records_and_a_key_takes_few_bytes() {
    let (_, dir) = disk();
    let model = numbered(50_000);
    let table = common::table(&dir, &model);
    let hasher = table.hasher();
    let asked = 50_000_u32;
    let mut found = 0;
    for number in 0..asked {
        let hash = hasher.hash(format!("absent {number}").as_bytes());
        found += table.candidates(hash).unwrap().count();
    }
    assert!(found * 200 < asked as usize, "{found}");
    let per_key = table.len_bytes() as f64 / f64::from(asked);
    assert!(per_key < 25.0, "{per_key} bytes a key");
}

#[test]
fn records_right_behind_each_other_take_no_offsets() {
    let (_, dir) = disk();
    let mut spread = numbered(10_000);
    for (entry, number) in spread.values_mut().zip(0_u32..) {
        entry.pointer.offset = number.wrapping_mul(0x9e37_79b1) >> 6;
    }
    let mut compacted = spread.clone();
    for (entry, number) in compacted.values_mut().zip(0_u32..) {
        entry.pointer = RecordPointer { segment: 9, offset: 64 + number * 130 };
        entry.len_bytes = 130;
    }
    let spread = write_as(&dir, "1.tbl", &spread, options()).unwrap().len_bytes;
    let compacted = write_as(&dir, "2.tbl", &compacted, options()).unwrap().len_bytes;
    assert!(compacted + 2 * 10_000 < spread, "{compacted} and {spread}");
}

#[test]
fn a_writer_takes_a_merge() {
    let (_, dir) = disk();
    let (old, new) = (numbered(1000), Model::from([(b"pods/default/web-00000500".to_vec(), entry(9999))]));
    let tables = [(&new, "2.tbl"), (&old, "1.tbl")].map(|(model, name)| {
        write_as(&dir, name, model, options()).unwrap();
        TableReader::open(dir.as_ref(), name).unwrap()
    });
    let sources = tables.iter().map(|table| {
        let range: Box<dyn MergeSource<Error = TableError>> =
            Box::new(table.range::<&[u8]>(.., ScanDirection::Forward));
        range
    });
    let mut merge = hightower_table::LevelMerge::new(sources.collect(), ScanDirection::Forward, |_| true);
    let mut writer = TableWriter::create(&dir, "3.tbl", options()).unwrap();
    writer.push_all(&mut merge, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(writer.finish().unwrap().keys, 1000);
    let merged = TableReader::open(dir.as_ref(), "3.tbl").unwrap();
    assert_eq!(merged.get(b"pods/default/web-00000500").unwrap(), Some(entry(9999)));
    merged.check().unwrap();
}
