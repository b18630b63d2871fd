//! The appender beside other threads, and the ways in which records reach the file.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test")]

mod common;

use std::sync::Arc;

use common::{STAMP, command, put, put_value};
use hightower_segment::{AppendMode, Pages, RealFs, SegmentStore, StoreOptions};

/// One thread appends and rolls, others sync and read: whatever was synced before is durable, and reads are whole.
#[test]
fn readers_and_syncs_beside_the_appender() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions { segment_len_bytes: 32 << 10, ..StoreOptions::default() };
    let (store, recovery) = SegmentStore::open(Arc::new(RealFs), dir.path(), options).unwrap();
    let (mut appender, _) = recovery.finish(STAMP).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    let newest = std::sync::Mutex::new(Arc::clone(appender.segment()));
    let busy = || !done.load(std::sync::atomic::Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while busy() {
                store.start_writing();
                store.sync_point().sync().unwrap();
                store.sync_predecessors().unwrap();
                store.prepare_next(STAMP).unwrap();
                store.prefault_ahead(8 << 10, Pages::Huge).unwrap();
            }
        });
        scope.spawn(|| {
            while busy() {
                let segment = Arc::clone(&newest.lock().unwrap());
                segment.entries().for_each(|entry| assert!(entry.is_ok()));
            }
        });
        for version in 1..20_000 {
            put(&mut appender, version);
            if version % 64 == 0 {
                *newest.lock().unwrap() = Arc::clone(appender.segment());
            }
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    appender.close(STAMP).unwrap();
    assert!(!store.has_predecessors());
}

/// Long records go by system calls, unless their pages are there; short ones never do.
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
    // Where the system can touch pages at all.
    if store.prefault_ahead(1 << 20, Pages::Small).unwrap() > 0 {
        put_value(&mut appender, 4, 100 << 10);
        assert_eq!(written(), long);
    }
}

/// Pages are a matter of speed: whatever ones are asked for, and whenever that changes, the file holds what was appended.
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
