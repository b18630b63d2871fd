//! Pages of the tail: touched ahead or not, small or huge, the file has the same bytes.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

mod common;

use std::sync::Arc;

use common::{command, encode_commit};
use hightower_segment::{AppendMode, Appender, Pages, Purpose, RealFs, Segment, SegmentStore, Stamp, StoreOptions};

const STAMP: Stamp = Stamp { max_version: 1_000, timestamp: 1_700_000_000_000 };

fn put_value(appender: &mut Appender, version: u64, value_len: usize) {
    let command = command(version, value_len);
    appender.make_room(value_len + 110, Purpose::Grow, STAMP).unwrap();
    let bytes = encode_commit(appender, std::slice::from_ref(&command)).unwrap();
    let appended = appender.append(&[&bytes], 1).unwrap();
    let segment: &Segment = appender.segment();
    assert_eq!(segment.record_at(appended.offset).unwrap().command(), Some(command.borrow()));
}

/// Long records are written by system calls, unless their pages were touched; short ones never are.
#[test]
#[cfg_attr(miri, ignore = "maps files")]
fn long_records_are_written_where_pages_were_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { segment_len_bytes: 8 << 20, appends: AppendMode::Mapped, ..StoreOptions::default() };
    let (store, recovery) = SegmentStore::open(Arc::new(RealFs), dir.path(), options).unwrap();
    let (mut appender, _) = recovery.finish(STAMP).unwrap();
    let written = || store.progress().unwrap().written_bytes;
    put_value(&mut appender, 1, 1000);
    assert_eq!(written(), 0);
    put_value(&mut appender, 2, 100 << 10);
    let long = written();
    assert!((100 << 10..101 << 10).contains(&long), "{long}");
    put_value(&mut appender, 3, 1000);
    assert_eq!(written(), long);
    // Only if the system can touch pages ahead.
    if store.prefault_ahead(1 << 20, Pages::Small).unwrap() > 0 {
        put_value(&mut appender, 4, 100 << 10);
        assert_eq!(written(), long);
    }
}

/// The kind of pages affects only speed: with any kind, and any change of it, the file has the
/// appended bytes.
#[test]
#[cfg_attr(miri, ignore = "maps files")]
fn pages_of_any_size_hold_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { segment_len_bytes: 9 << 20, ..StoreOptions::default() };
    let (store, recovery) = SegmentStore::open(Arc::new(RealFs), dir.path(), options.clone()).unwrap();
    let (mut appender, _) = recovery.finish(STAMP).unwrap();
    for version in 1..=250 {
        let pages = [Pages::Small, Pages::Huge, Pages::Mixed][(version / 30 % 3) as usize];
        store.prefault_ahead(3 << 20, pages).unwrap();
        put_value(&mut appender, version, 100 << 10);
        if version % 60 == 0 {
            store.sync_point().sync().unwrap();
        }
        store.prepare_next(STAMP).unwrap();
    }
    let progress = store.progress().unwrap();
    assert_eq!((progress.segment, progress.len_bytes), store.end().unwrap());
    assert!(progress.durable_bytes < progress.len_bytes, "the last sync was ten commits ago");
    store.sync_point().sync().unwrap();
    assert_eq!(store.progress().unwrap().durable_bytes, progress.len_bytes);
    store.sync_predecessors().unwrap();
    drop((appender, store));

    let (_store, recovery) = SegmentStore::open(Arc::new(RealFs), dir.path(), options).unwrap();
    let mut version = 0;
    for entry in recovery.segments().iter().flat_map(|segment| segment.entries()) {
        version += 1;
        assert_eq!(entry.unwrap().command, command(version, 100 << 10).borrow());
    }
    assert_eq!(version, 250);
}
