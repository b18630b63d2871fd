//! Tables with changed bytes, with wrong or corrected checksums: open, lookups, scans and the check
//! return errors or terminate; nothing panics or loops without end.
#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use hightower_segment::Fs;
use hightower_segment::sim::SimFs;
use hightower_table::{
    EntryKind, LevelMerge, MergeSource, RecordPointer, ScanDirection, SeekTo, TableEntry, TableOptions, TableReader,
    TableWriter,
};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/tables";

#[derive(Arbitrary, Debug)]
struct Input {
    /// The number of the initial table.
    template: u8,
    patches: Vec<(u16, u8)>,
    /// An offset, and bytes that replace everything behind it.
    tail: Option<(u16, Vec<u8>)>,
    is_resealed: bool,
    keys: Vec<Vec<u8>>,
}

fn key(number: u32) -> Vec<u8> {
    format!("{}/{number:04}", if number % 3 == 0 { "pods" } else { "nodes" }).into_bytes()
}

/// Whole tables: none, few, and many keys; keys that share a line.
fn templates() -> &'static [Vec<u8>] {
    static TEMPLATES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let write = |count: u32, keep: fn(u64) -> bool| {
            let fs = SimFs::new();
            fs.create_dir_all(Path::new(DIR)).expect("a directory");
            let dir = fs.open_dir(Path::new(DIR)).expect("the directory");
            let options = TableOptions::new(1, 2, 3);
            let hasher = hightower_table::TableHasher::new(3);
            let mut keys: Vec<_> = (0..count).map(key).filter(|key| keep(hasher.hash(key))).collect();
            keys.sort();
            let mut writer = TableWriter::create(&dir, "1.tbl", options).expect("a writer");
            for (key, number) in keys.iter().zip(0..) {
                let pointer = RecordPointer { segment: number % 2, offset: 64 + number / 2 * 40 };
                let kind = if number % 4 == 0 { EntryKind::Tombstone } else { EntryKind::Set };
                let entry = TableEntry { version: number.into(), kind, pointer, len_bytes: 40 };
                writer.push(key, entry).expect("keys that rise");
            }
            writer.finish().expect("a table");
            fs.read_file(&Path::new(DIR).join("1.tbl")).expect("its bytes")
        };
        vec![write(0, |_| true), write(9, |_| true), write(200, |_| true), write(3000, |hash| hash >> 58 == 1)]
    })
}

fuzz_target!(|input: Input| {
    let templates = templates();
    let mut bytes = templates[usize::from(input.template) % templates.len()].clone();
    for (place, byte) in &input.patches {
        let place = usize::from(*place) % bytes.len();
        bytes[place] ^= byte;
    }
    if let Some((place, tail)) = &input.tail {
        bytes.truncate(usize::from(*place) % bytes.len());
        bytes.extend_from_slice(tail);
    }
    if input.is_resealed {
        hightower_table::fuzzing::reseal(&mut bytes);
    }
    let fs = SimFs::new();
    fs.create_dir_all(Path::new(DIR)).expect("a directory");
    fs.plant(&Path::new(DIR).join("1.tbl"), &bytes);
    let dir = fs.open_dir(Path::new(DIR)).expect("the directory");
    let Ok(table) = TableReader::open(dir.as_ref(), "1.tbl") else { return };
    let hasher = table.hasher();
    let known: Vec<Vec<u8>> = (0..20).map(|number| key(number * 7)).collect();
    let hashes: Vec<u64> = input.keys.iter().chain(&known).map(|key| hasher.hash(key)).collect();
    table.prefetch(&hashes);
    // A table has at most as many answers as bytes.
    let most = bytes.len();
    for (key, hash) in input.keys.iter().chain(&known).zip(&hashes) {
        let _found = table.get(key);
        if let Ok(candidates) = table.candidates(*hash) {
            assert!(candidates.take(most + 1).count() <= most);
        }
        for to in [SeekTo::AtOrAfter, SeekTo::After, SeekTo::AtOrBefore, SeekTo::Before] {
            let mut cursor = table.cursor();
            if let Ok(true) = cursor.seek(key, to) {
                assert!(cursor.key().is_some() && cursor.entry().is_some());
                let _moved = cursor.retreat();
                let _moved = cursor.advance();
            }
        }
    }
    for direction in [ScanDirection::Forward, ScanDirection::Backward] {
        assert!(table.range::<&[u8]>(.., direction).take(most + 1).count() <= most);
    }
    let sources = [(); 2].map(|()| table.range::<&[u8]>(.., ScanDirection::Forward)).into();
    let mut merge = LevelMerge::new(sources, ScanDirection::Forward, |segment| segment != 1);
    while let Ok(true) = merge.advance() {}
    // A table that passes the check must be consistent.
    if table.check().is_ok() {
        let mut keys = table.range::<&[u8]>(.., ScanDirection::Forward).map(|found| found.expect("it was checked"));
        let mut last: Option<Vec<u8>> = None;
        let mut count = 0;
        for (key, entry) in &mut keys {
            assert!(last.as_ref().is_none_or(|last| *last < key));
            assert_eq!(table.get(&key).expect("it was checked"), Some(entry));
            last = Some(key);
            count += 1;
        }
        assert_eq!(count, table.len());
        assert_eq!(table.range::<&[u8]>(.., ScanDirection::Backward).count() as u64, count);
    }
});
