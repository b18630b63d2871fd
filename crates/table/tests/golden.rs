//! The exact bytes of small tables: a changed byte means a changed format.
//!
//! `HIGHTOWER_WRITE_GOLDEN=1` writes them again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails so")]

mod common;

use std::fmt::Write as _;
use std::path::Path;

use common::{Model, disk, entry};
use hightower_table::{RecordPointer, TableEntry, TableHasher, TableOptions, TableReader, TableWriter};

const SEED: u64 = 7;

/// Blocks of both kinds, adjacent and other records, two segments.
fn two_levels() -> Model {
    let mut ends = [64, 4096];
    let mut model = Model::new();
    for number in 0..40_u32 {
        let key = format!("{}/{number:03}", if number < 20 { "nodes" } else { "pods/default" });
        let place = usize::from(number % 3 == 0);
        let mut entry = entry(number);
        entry.pointer = RecordPointer { segment: [3, 500][place], offset: ends[place] };
        ends[place] += entry.len_bytes + u32::from(number == 30);
        model.insert(key.into_bytes(), entry);
    }
    model.insert(b"z".to_vec(), TableEntry { version: u64::MAX, ..entry(7) });
    model
}

/// More keys of one line than slots in it and the next line.
fn one_line() -> Model {
    let hasher = TableHasher::new(SEED);
    let keys = (0..60_000_u32).map(|number| format!("{number}")).filter(|key| hasher.hash(key.as_bytes()) >> 55 == 9);
    keys.take(60).zip(0..).map(|(key, number)| (key.into_bytes(), entry(number))).collect()
}

fn bytes_of(model: &Model) -> Vec<u8> {
    let (fs, dir) = disk();
    let options = TableOptions::new(0x0102_0304, 0xa1a2_a3a4_a5a6_a7a8, SEED);
    let mut writer = TableWriter::create(&dir, "golden.tbl", options).unwrap();
    model.iter().for_each(|(key, entry)| writer.push(key, *entry).unwrap());
    writer.finish().unwrap();
    let table = TableReader::open(dir.as_ref(), "golden.tbl").unwrap();
    table.check().unwrap();
    fs.read_file(Path::new("/db/golden.tbl")).unwrap()
}

fn text_of(name: &str, bytes: &[u8]) -> String {
    let mut text = format!("{name}\n");
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    text
}

#[test]
fn tables_have_the_bytes_that_they_had() {
    let tables = [("empty", Model::new()), ("two levels", two_levels()), ("one line", one_line())];
    let found: String = tables.iter().map(|(name, model)| text_of(name, &bytes_of(model))).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/table.txt");
    if std::env::var_os("HIGHTOWER_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &found).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    let differs = found.lines().zip(expected.lines()).position(|(found, expected)| found != expected);
    assert_eq!((differs, found.len()), (None, expected.len()), "the first line that differs, and the lengths");
}

#[test]
fn the_hash_is_the_one_of_the_format() {
    let hashes = [&b""[..], b"a", b"pods/default/web"].map(|key| TableHasher::new(SEED).hash(key));
    let [empty, a, pod] = hashes;
    assert_eq!((empty, a, pod), (GOLDEN_HASHES[0], GOLDEN_HASHES[1], GOLDEN_HASHES[2]), "{hashes:#x?}");
}

const GOLDEN_HASHES: [u64; 3] = [0xa49c_bec2_f26e_8f77, 0xeac4_1b57_f4df_2137, 0xb8e0_f7c5_1762_ffb4];
