//! Read-ahead of lookups and scans, observed by the advice of the maps.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{command, encode_commit};
use hightower_segment::{AppendMode, Appender, Purpose, ReadAhead, RealFs, SegmentStore, Stamp, StoreOptions};

const STAMP: Stamp = Stamp { max_version: 0, timestamp: 0 };

fn put_value(appender: &mut Appender, version: u64, value_len: usize) {
    appender.make_room(value_len + 110, Purpose::Grow, STAMP).unwrap();
    let bytes = encode_commit(appender, &[command(version, value_len)]).unwrap();
    appender.append(&[&bytes], 1).unwrap();
}

/// The advice of the readers' map of a file: `rr` for random access; without advice, the system
/// reads ahead as for any file.
fn advice_of(path: &Path) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut found = Vec::new();
    let mut is_it = false;
    for line in maps.lines() {
        if line.contains(" r--s ") || line.contains(" rw-s ") || line.contains("-p ") {
            is_it = line.contains(" r--s ") && line.ends_with(path.to_str().unwrap());
        } else if let Some(flags) = line.strip_prefix("VmFlags:").filter(|_| is_it) {
            found.extend(flags.split_whitespace().filter(|flag| ["rr", "sr"].contains(flag)).map(str::to_owned));
        }
    }
    found
}

/// A lookup reads only the pages of its record; for a reader of the whole segment the system reads
/// ahead.
#[test]
fn only_who_reads_all_of_a_segment_reads_ahead() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    let options = StoreOptions { segment_len_bytes: 1 << 20, appends: AppendMode::Mapped, ..StoreOptions::default() };
    let (_store, recovery) = SegmentStore::open(Arc::new(RealFs), &dir, options).unwrap();
    let (mut appender, _) = recovery.finish(STAMP).unwrap();
    (1..4000).for_each(|version| put_value(&mut appender, version, 90));
    let segment = Arc::clone(appender.segment());
    let advice = || advice_of(segment.path());
    assert!(segment.len_bytes() > 128 << 10, "{}", segment.len_bytes());
    assert_eq!(advice(), ["rr"]);
    let mut first = segment.entries();
    assert!(first.by_ref().take(10).all(|entry| entry.is_ok()));
    assert_eq!(advice(), ["rr"], "a look at the first records is no reading of all");
    assert!(first.by_ref().take(2000).all(|entry| entry.is_ok()));
    let mut second = segment.scan();
    assert_eq!(second.by_ref().take(2000).count(), 2000);
    assert!(advice().is_empty());
    drop(first);
    assert!(advice().is_empty(), "another reader is not done");
    let held = segment.hold_in_order();
    drop(second);
    assert!(advice().is_empty(), "nor is who holds it");
    drop(held);
    assert_eq!(advice(), ["rr"]);
}

/// Requested windows arrive in single small pages, the system's own read-ahead in large ones. So a
/// long scan requests windows only at first.
#[test]
fn a_long_scan_has_the_system_read_ahead() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().canonicalize().unwrap();
    let options = StoreOptions { segment_len_bytes: 4 << 20, appends: AppendMode::Mapped, ..StoreOptions::default() };
    let (_store, recovery) = SegmentStore::open(Arc::new(RealFs), &dir, options).unwrap();
    let (mut appender, _) = recovery.finish(STAMP).unwrap();
    (1..60).for_each(|version| put_value(&mut appender, version, 50_000));
    let segment = Arc::clone(appender.segment());
    assert!(segment.len_bytes() > 2 << 20, "{}", segment.len_bytes());
    let advice = || advice_of(segment.path());
    let mut scans = [ReadAhead::default(), ReadAhead::default()];
    let read = |scan: &mut ReadAhead, bytes: std::ops::Range<u32>| {
        bytes.step_by(1000).for_each(|offset| segment.read_ahead(scan, offset, true));
    };
    read(&mut scans[0], 64..256 << 10);
    assert_eq!(advice(), ["rr"], "it may come to its end soon");
    read(&mut scans[0], 256 << 10..2 << 20);
    read(&mut scans[1], 64..2 << 20);
    assert!(advice().is_empty());
    let [first, mut second] = scans;
    drop(first);
    assert!(advice().is_empty(), "another scan is not done");
    read(&mut second, 2 << 20..segment.len_bytes());
    assert_eq!(advice(), ["rr"], "it is at the end, though it still lives");
    let mut third = ReadAhead::default();
    read(&mut third, 64..1 << 20);
    drop(second);
    assert!(advice().is_empty(), "an end counts once");
    drop(third);
    assert_eq!(advice(), ["rr"]);
}
