#![allow(clippy::unwrap_used, reason = "a test fails so")]

use std::path::Path;
use std::sync::Arc;

use hightower_segment::sim::SimFs;
use hightower_segment::{Dir, Fs};

use super::{TableOptions, TableWriter};
use crate::limits::TableLimits;
use crate::{RecordPointer, TableEntry, TableError, TableReader};

fn writer(limits: TableLimits) -> (Arc<dyn Dir>, TableWriter) {
    let fs = SimFs::new();
    fs.create_dir_all(Path::new("/db")).unwrap();
    let dir = fs.open_dir(Path::new("/db")).unwrap();
    let writer = TableWriter::create_within(&dir, "1.tbl", TableOptions::new(1, 2, 3), limits).unwrap();
    (dir, writer)
}

fn push(writer: &mut TableWriter, number: u32, segment: u32) -> Result<(), TableError> {
    let pointer = RecordPointer { segment, offset: number };
    writer.push(&number.to_be_bytes(), TableEntry { pointer, ..TableEntry::default() })
}

#[test]
fn the_push_that_names_a_segment_too_many_is_refused() {
    let (dir, mut writer) = writer(TableLimits { segments: 3, ..TableLimits::FORMAT });
    for number in 0..300 {
        push(&mut writer, number, 10 + number % 3).unwrap();
    }
    let refused = push(&mut writer, 300, 7);
    assert!(matches!(refused, Err(TableError::TooManySegments { segments: 4 })), "{refused:?}");
    assert!(matches!(push(&mut writer, 301, 10), Err(TableError::Abandoned { .. })));
    assert!(dir.list().unwrap().is_empty());
}

#[test]
fn the_push_whose_block_is_too_long_for_the_table_is_refused() {
    let (dir, mut writer) = writer(TableLimits { len_bytes: 10_000, ..TableLimits::FORMAT });
    let refused = (0..100_000).find_map(|number| push(&mut writer, number, 1).err());
    assert!(matches!(refused, Some(TableError::TooLong { max_len_bytes: 10_000, .. })), "{refused:?}");
    assert!(dir.list().unwrap().is_empty());
}

#[test]
fn an_index_or_a_point_table_that_is_too_long_is_refused() {
    let with = |len_bytes| {
        let (dir, mut writer) = writer(TableLimits { len_bytes, ..TableLimits::FORMAT });
        (0..32).for_each(|number| push(&mut writer, number, 1).unwrap());
        (dir, writer.finish())
    };
    let len_bytes = with(TableLimits::FORMAT.len_bytes).1.unwrap().len_bytes;
    assert_eq!(with(len_bytes).1.unwrap().len_bytes, len_bytes);
    let (dir, refused) = with(len_bytes - 1);
    assert!(matches!(refused, Err(TableError::TooLong { .. })), "{refused:?}");
    assert!(dir.list().unwrap().is_empty());
}

#[test]
fn the_last_segment_that_a_table_can_name_has_room_in_its_lines() {
    let most = TableLimits::FORMAT.segments;
    assert!(crate::line::LineShape::of(1, most, u32::MAX).is_possible(most));
    assert!(!crate::line::LineShape::of(1, most + 1, u32::MAX).is_possible(most + 1));
}

#[test]
fn of_any_number_of_equal_hashes_each_record_is_found() {
    const HASH: u64 = 0x1234_5678_9abc_def0;
    let (dir, mut writer) = writer(TableLimits::FORMAT);
    let pointer = |number: u32| RecordPointer { segment: number % 3, offset: number.wrapping_mul(0x9e37_79b1) };
    for number in 0..20_000_u32 {
        let entry = TableEntry { pointer: pointer(number), ..TableEntry::default() };
        writer.within(|open| open.push_hashed(&number.to_be_bytes(), HASH, entry)).unwrap();
    }
    writer.finish().unwrap();
    let table = TableReader::open(dir.as_ref(), "1.tbl").unwrap();
    assert!(table.footer().listed > 19_900);
    let has = |pointer| table.candidates(HASH).unwrap().lead_to(pointer).unwrap();
    assert!((0..20_000).all(|number| has(pointer(number))));
    for segment in 0..4 {
        assert!((20_000..20_100).all(|number| !has(RecordPointer { segment, ..pointer(number) })));
    }
    assert!(!table.candidates(HASH + 1).unwrap().lead_to(pointer(0)).unwrap());
}

#[test]
fn what_a_crash_left_of_a_scratch_file_is_in_nobodys_way() {
    let (dir, first) = writer(TableLimits::FORMAT);
    drop(first);
    dir.create_new("1.tbl.spill.tmp").unwrap();
    let options = TableOptions::new(1, 2, 3).with_memory_bytes(1024);
    let mut writer = TableWriter::create(&dir, "1.tbl", options).unwrap();
    (0..10_000).for_each(|number| push(&mut writer, number, 1).unwrap());
    writer.finish().unwrap();
    assert_eq!(dir.list().unwrap(), ["1.tbl"]);
}
