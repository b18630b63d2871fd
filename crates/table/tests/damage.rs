//! Every flipped bit and every cut is detected or changes nothing: no answer is ever wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{Model, NAME, dir_of, disk, entry, is_pointed, numbered, options, write_as};
use hightower_segment::sim::SimFs;
use hightower_table::{
    LevelMerge, MergeSource, RecordPointer, ScanDirection, SeekTo, TABLE_VERSION, TableEntry, TableError, TableRange,
    TableReader,
};
use xxhash_rust::xxh3::xxh3_64;

/// A table with every part: several leaves, an index, full lines, long and short keys.
fn small() -> Model {
    let mut model = numbered(80);
    model.insert(Vec::new(), entry(500));
    model.insert(vec![b'x'; 300], entry(501));
    model.insert(b"zz".to_vec(), TableEntry { version: u64::MAX, ..entry(502) });
    model
}

fn bytes_of(model: &Model) -> Vec<u8> {
    let (fs, dir) = disk();
    write_as(&dir, NAME, model, options()).unwrap();
    fs.read_file(Path::new("/db/0000000001.tbl")).unwrap()
}

/// A disk with these bytes as the table.
fn opened(bytes: &[u8]) -> Result<TableReader, TableError> {
    let fs = SimFs::new();
    let dir = dir_of(&fs);
    fs.plant(Path::new("/db/0000000001.tbl"), bytes);
    TableReader::open(dir.as_ref(), NAME)
}

/// Makes every kind of read: each answer must be the model's or an error. Returns the number of
/// errors.
fn ask(table: &TableReader, model: &Model) -> usize {
    let mut errors = 0;
    let mut count = |error: TableError| {
        assert!(error.is_corrupt(), "{error}");
        errors += 1;
    };
    for (key, entry) in model {
        match table.get(key) {
            Ok(found) => assert_eq!(found, Some(*entry), "{key:?}"),
            Err(error) => count(error),
        }
        match is_pointed(table, key, entry) {
            Ok(is_pointed) => assert!(is_pointed, "{key:?} is absent"),
            Err(error) => count(error),
        }
    }
    for key in [&b"a"[..], b"pods/default/web-00000040x", b"zzz"] {
        match table.get(key) {
            Ok(found) => assert_eq!(found, None),
            Err(error) => count(error),
        }
    }
    for direction in [ScanDirection::Forward, ScanDirection::Backward] {
        let mut expected: Vec<_> = model.iter().collect();
        if direction == ScanDirection::Backward {
            expected.reverse();
        }
        let mut found = table.range::<&[u8]>(.., direction);
        for (key, entry) in expected {
            match found.next() {
                Some(Ok(found)) => assert_eq!((&found.0, &found.1), (key, entry)),
                Some(Err(error)) => {
                    count(error);
                    break;
                }
                None => panic!("the walk ends before {key:?}"),
            }
        }
        match found.next() {
            None => {}
            Some(Err(error)) => count(error),
            Some(Ok((key, _))) => panic!("a key too many: {key:?}"),
        }
    }
    errors
}

#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let model = small();
    let bytes = bytes_of(&model);
    assert_eq!(ask(&opened(&bytes).unwrap(), &model), 0);
    let mut unopened = 0;
    for place in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[place] ^= 1 << (place % 8);
        let table = match opened(&damaged) {
            Ok(table) => table,
            Err(TableError::Corrupt { .. } | TableError::VersionUnsupported { .. }) => {
                unopened += 1;
                continue;
            }
            Err(other) => panic!("byte {place}: {other}"),
        };
        ask(&table, &model);
        let checked = table.check();
        assert!(matches!(&checked, Err(error) if error.is_corrupt()), "byte {place}: {checked:?}");
    }
    assert!(unopened >= 64 + 128, "{unopened}");
}

#[test]
fn a_damaged_line_is_an_error_and_never_an_absent_key() {
    let model = small();
    let bytes = bytes_of(&model);
    let table = opened(&bytes).unwrap();
    let mut errors = 0;
    for (key, entry) in &model {
        assert!(is_pointed(&table, key, entry).unwrap());
        // A byte of the key's line: a few keys are tested per line.
        for place in (0..bytes.len()).step_by(64) {
            let mut damaged = bytes.clone();
            damaged[place + 33 % (bytes.len() - place)] ^= 0x10;
            let Ok(table) = opened(&damaged) else { continue };
            match is_pointed(&table, key, entry) {
                Ok(is_pointed) => assert!(is_pointed, "{key:?}"),
                Err(error) => {
                    assert!(error.is_corrupt());
                    errors += 1;
                }
            }
        }
    }
    assert!(errors >= model.len(), "{errors}");
}

#[test]
fn a_file_that_was_cut_or_grew_is_no_table() {
    let bytes = bytes_of(&small());
    for len in (0..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
        assert!(matches!(opened(&bytes[..len]), Err(TableError::Corrupt { .. })), "{len}");
    }
    assert!(matches!(opened(&[&bytes[..], &[0]].concat()), Err(TableError::Corrupt { .. })));
}

#[test]
fn blocks_count_only_in_their_own_place_and_table() {
    let model = numbered(200);
    let bytes = bytes_of(&model);
    let first = u32::from_le_bytes(bytes[68..72].try_into().unwrap()) as usize;
    let second = u32::from_le_bytes(bytes[64 + first + 4..64 + first + 8].try_into().unwrap()) as usize;
    // The first leaf at the offset of the second, if it fits.
    if first <= second {
        let mut moved = bytes.clone();
        moved.copy_within(64..64 + first, 64 + first);
        assert!(ask(&opened(&moved).unwrap(), &model) > 0);
    }
    // A block of a valid table with the same keys and another salt.
    let (fs, dir) = disk();
    write_as(&dir, NAME, &model, hightower_table::TableOptions::new(1, 99, 7)).unwrap();
    let other = fs.read_file(Path::new("/db/0000000001.tbl")).unwrap();
    assert_eq!(other.len(), bytes.len());
    let mut mixed = bytes.clone();
    mixed[64..64 + first].copy_from_slice(&other[64..64 + first]);
    assert!(ask(&opened(&mixed).unwrap(), &model) > 0);
}

/// Changes the header and corrects its check.
fn with_header(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes[..56]);
    let check = xxh3_64(&bytes[..56]);
    bytes[56..64].copy_from_slice(&check.to_le_bytes());
    bytes
}

#[test]
fn a_later_version_or_feature_is_refused_and_never_guessed() {
    let bytes = bytes_of(&small());
    assert!(opened(&with_header(&bytes, |_| ())).is_ok());
    let newer = with_header(&bytes, |header| header[8..10].copy_from_slice(&(TABLE_VERSION + 1).to_le_bytes()));
    assert!(matches!(opened(&newer), Err(TableError::VersionUnsupported { .. })));
    for bit in 0..32 {
        let features = with_header(&bytes, |header| header[12 + bit / 8] |= 1 << (bit % 8));
        assert!(matches!(opened(&features), Err(TableError::VersionUnsupported { .. })), "bit {bit}");
    }
    for place in (10..12).chain(40..56) {
        let reserved = with_header(&bytes, |header| header[place] ^= 1);
        assert!(matches!(opened(&reserved), Err(TableError::Corrupt { .. })), "byte {place}");
    }
}

#[test]
fn a_cursor_that_met_damage_stands_nowhere() {
    let model = numbered(200);
    let mut bytes = bytes_of(&model);
    let first = u32::from_le_bytes(bytes[68..72].try_into().unwrap()) as usize;
    bytes[64 + first + 20] ^= 1;
    let table = opened(&bytes).unwrap();
    let mut cursor = table.cursor();
    assert!(cursor.seek_first().unwrap());
    let error = loop {
        match cursor.advance() {
            Ok(is_there) => assert!(is_there),
            Err(error) => break error,
        }
    };
    assert!(error.is_corrupt());
    assert_eq!((cursor.key(), cursor.entry()), (None, None));
    assert!(!cursor.advance().unwrap());
    assert!(cursor.seek(b"pods/default/web-00000199", SeekTo::AtOrAfter).unwrap());
    assert_eq!(cursor.entry().map(|entry| entry.pointer), Some(RecordPointer { segment: 2, offset: 64 + 199 * 7 }));
}

#[test]
fn a_reader_is_shared_by_threads() {
    let model = Arc::new(small());
    let table = Arc::new(opened(&bytes_of(&model)).unwrap());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (table, model) = (Arc::clone(&table), Arc::clone(&model));
            std::thread::spawn(move || assert_eq!(ask(&table, &model), 0))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn merges_that_own_their_tables_outlive_the_view_and_move_to_other_threads() {
    let model = small();
    let view = [1, 2].map(|_| Arc::new(opened(&bytes_of(&model)).unwrap()));
    for direction in [ScanDirection::Forward, ScanDirection::Backward] {
        let ranges = view.iter().map(|table| TableRange::new::<&[u8]>(Arc::clone(table), .., direction)).collect();
        let mut merge = LevelMerge::new(ranges, direction, |_segment| true);
        let thread = std::thread::spawn(move || {
            let mut found = Model::new();
            while merge.advance().unwrap() {
                assert_eq!(merge.level(), Some(0));
                found.insert(merge.key().to_vec(), merge.entry());
            }
            found
        });
        assert_eq!(thread.join().unwrap(), model);
    }
}
