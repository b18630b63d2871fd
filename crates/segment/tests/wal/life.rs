//! The log for its users: removed files, callbacks, other handles, other content, limits.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use hightower_segment::sim::SimFs;
use hightower_segment::{
    AppendMode, Fs, ReadOnlyStore, SegmentError, SegmentStore, Stamp, StoreOptions, Tolerance, Wal,
};

use crate::world::{Content, DIR, open, options};

fn new_log(mode: AppendMode) -> (SimFs, StoreOptions, Wal) {
    let (fs, options) = (SimFs::new(), options(mode, 3));
    let (wal, recovery) = open(&fs, &options).unwrap();
    assert!(recovery.created && !recovery.unclean);
    (fs, options, wal)
}

fn segments(fs: &SimFs) -> usize {
    fs.names_in(Path::new(DIR)).unwrap().iter().filter(|name| name.ends_with(".seg")).count()
}

/// The log takes room for its entries, not for removed ones.
#[test]
fn files_go_with_the_front() {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let (fs, options, mut wal) = new_log(mode);
        for round in 0..200_u64 {
            for _ in 0..5 {
                wal.append(&[7; 150]).unwrap();
            }
            wal.truncate_front(round * 5).unwrap();
        }
        assert!(segments(&fs) <= 6, "{} segments", segments(&fs));
        drop(wal);
        let (wal, recovery) = open(&fs, &options).unwrap();
        assert!(recovery.unclean);
        assert_eq!(wal.positions(), 995..1000);
        wal.close().unwrap();
        let (wal, recovery) = open(&fs, &options).unwrap();
        assert!(!recovery.unclean && !recovery.created);
        assert_eq!(wal.positions(), 995..1000);
    }
}

/// A closed empty log keeps its next position: the record that states it keeps its file.
#[test]
fn an_empty_log_keeps_its_position() {
    let (fs, options, mut wal) = new_log(AppendMode::Mapped);
    wal.append(b"entry").unwrap();
    wal.truncate_front(40).unwrap();
    wal.close().unwrap();
    for _ in 0..3 {
        let (mut wal, _) = open(&fs, &options).unwrap();
        assert_eq!(wal.positions(), 40..40);
        wal.truncate_front(12).unwrap();
        assert_eq!(wal.positions(), 40..40);
        wal.close().unwrap();
    }
}

/// On a full device the front can still be cut, which frees room.
#[test]
fn a_full_device_takes_a_cut_at_the_front() {
    let (fs, _, mut wal) = new_log(AppendMode::Mapped);
    wal.sync().unwrap();
    let mut appended = 0_u64;
    loop {
        fs.set_capacity_bytes(Some(16 << 10));
        match wal.append(&[1; 200]).and_then(|_| wal.sync()) {
            Ok(()) => appended += 1,
            Err(error) if error.is_full() => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(appended > 10, "only {appended} entries");
    let full = wal.positions().end;
    wal.truncate_front(full - 1).unwrap();
    wal.sync().unwrap();
    for _ in 0..10 {
        wal.append(&[2; 200]).unwrap();
    }
    assert_eq!(Content::of(&wal).unwrap().entries.len(), 11);
}

#[test]
fn callbacks_come_once_each_in_order_and_one_that_panics_hurts_nobody() {
    let (_, _, mut wal) = new_log(AppendMode::Mapped);
    let (sender, receiver) = mpsc::channel();
    for number in 0..50_u64 {
        wal.append(&number.to_le_bytes()).unwrap();
        let sender = sender.clone();
        wal.sync_then(move |synced| {
            sender.send((number, synced.is_ok())).unwrap();
            assert_ne!(number, 10, "a callback that panics, as the test wants it");
        })
        .unwrap();
    }
    drop((wal, sender));
    let expected: Vec<_> = (0..50).map(|number| (number, true)).collect();
    assert_eq!(receiver.iter().collect::<Vec<_>>(), expected);
}

/// A callback may own the last handle: its thread then ends by itself.
#[test]
fn a_callback_may_drop_the_log() {
    let (fs, options, mut wal) = new_log(AppendMode::Mapped);
    wal.append(b"entry").unwrap();
    let syncer = wal.syncer();
    let (sender, receiver) = mpsc::channel();
    syncer
        .sync_then(move |synced| {
            wal.close().unwrap();
            sender.send(synced.is_ok()).unwrap();
        })
        .unwrap();
    assert_eq!(receiver.recv(), Ok(true));
    drop(syncer);
    let (wal, recovery) = open(&fs, &options).unwrap();
    assert!(!recovery.unclean);
    assert_eq!(wal.positions(), 0..1);
}

/// Threads append under a mutex and wait without it; fewer syncs than entries reach the device.
#[test]
fn callers_share_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let (wal, _) = Wal::open(dir.path()).unwrap();
    let (syncer, wal) = (wal.syncer(), Mutex::new(wal));
    let durable = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let (syncer, wal, durable) = (syncer.clone(), &wal, &durable);
            scope.spawn(move || {
                for _ in 0..50 {
                    let position = wal.lock().unwrap().append(&[thread; 20]).unwrap();
                    syncer.sync().unwrap();
                    durable.fetch_max(position, Ordering::Relaxed);
                }
            });
        }
    });
    let wal = wal.into_inner().unwrap();
    assert_eq!((wal.positions(), durable.into_inner()), (0..200, 199));
    drop(wal);
    // The handle still holds the lock.
    assert!(matches!(Wal::open(dir.path()), Err(SegmentError::Locked { .. })));
    syncer.sync().unwrap();
    drop(syncer);
    let (wal, _) = Wal::open(dir.path()).unwrap();
    assert_eq!(wal.read(0).unwrap().count(), 200);
}

#[test]
fn positions_outside_the_log_are_refused() {
    let (_, _, mut wal) = new_log(AppendMode::Mapped);
    for entry in ["a", "b", "c"] {
        wal.append(entry.as_bytes()).unwrap();
    }
    wal.truncate_front(1).unwrap();
    for position in [0, 4, u64::MAX] {
        assert!(matches!(wal.read(position), Err(SegmentError::Invalid { .. })));
        assert!(matches!(wal.truncate_back(position), Err(SegmentError::Invalid { .. })));
    }
    assert_eq!(wal.read(3).unwrap().count(), 0);
    assert_eq!(wal.positions(), 1..3);
    wal.truncate_front(u64::MAX).unwrap();
    assert!(matches!(wal.append(b"beyond"), Err(SegmentError::Invalid { .. })));
}

/// A log does not open as a store, nor a store as a log, for writing or reading.
#[test]
fn other_content_is_refused() {
    let (fs, options, wal) = new_log(AppendMode::Mapped);
    wal.close().unwrap();
    let shared: Arc<dyn Fs> = Arc::new(fs.clone());
    let store = SegmentStore::open(Arc::clone(&shared), Path::new(DIR), options.clone());
    assert!(matches!(store, Err(SegmentError::OtherContent { .. })));
    for tolerance in [Tolerance::Strict, Tolerance::Salvage] {
        let store = ReadOnlyStore::open(&shared, Path::new(DIR), tolerance);
        assert!(matches!(store, Err(SegmentError::OtherContent { .. })));
    }
    let other = Path::new("/data/store");
    let (_, recovery) = SegmentStore::open(Arc::clone(&shared), other, options.clone()).unwrap();
    let stamp = Stamp { max_version: 0, timestamp: 0 };
    recovery.finish(stamp).unwrap().0.close(stamp).unwrap();
    let opened = Wal::open_with(shared, other, options);
    let error = opened.unwrap_err();
    assert_eq!(error.to_string(), "/data/store: a key-value store, not a write-ahead log; open it as a store");
}

/// A log can be shared: readers beside each other, and a handle in every thread.
#[test]
fn a_log_is_send_and_sync() {
    fn check<T: Send + Sync>() {}
    check::<Wal>();
    check::<hightower_segment::WalSync>();
    check::<hightower_segment::WalEntries<'_>>();
}
