//! The costs of the hot paths on this machine: append, read, sync.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use hightower_log::{CommandRef, Placement, encode_head, payload_checksum};
use hightower_segment::{AppendMode, Appender, Pages, Purpose, RealFs, SegmentStore, Stamp, StoreOptions, Wal};

const STAMP: Stamp = Stamp { max_version: 0, timestamp: 1_700_000_000_000 };
const KEY: &[u8; 16] = b"0123456789abcdef";
const VALUE: [u8; 100] = [7; 100];

struct Bench {
    store: SegmentStore,
    appender: Appender,
    version: u64,
    _dir: tempfile::TempDir,
}

impl Bench {
    fn new(appends: AppendMode) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { segment_len_bytes: 64 << 20, appends, ..StoreOptions::default() };
        let (store, recovery) = SegmentStore::open(Arc::new(RealFs), dir.path(), options).unwrap();
        let (appender, _) = recovery.finish(STAMP).unwrap();
        Self { store, appender, version: 0, _dir: dir }
    }

    fn put(&mut self) -> u32 {
        self.version += 1;
        if self.appender.make_room(160, Purpose::Reclaim, STAMP).unwrap() {
            self.store.sync_predecessors().unwrap();
        }
        let command = CommandRef::Set { key: KEY, value: &VALUE, version: self.version, timestamp: STAMP.timestamp };
        let placement = Placement::Appended { durable: self.appender.durable(), continues: false };
        let (context, position) = (self.appender.context(), self.appender.position());
        let head = encode_head(context, position, &command, placement, payload_checksum(KEY, &VALUE)).unwrap();
        self.appender.append(&[head.as_ref(), KEY, &VALUE], 1).unwrap().offset
    }
}

/// An entry of 100 bytes, with its position and index entry; the syncs create the files.
fn wal(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (mut wal, _) = Wal::open(dir.path()).unwrap();
    let mut appended = 0_u64;
    criterion.bench_function("wal, append 100 bytes", |bencher| {
        bencher.iter(|| {
            appended = wal.append(black_box(&VALUE)).unwrap();
            // Keeps the device from filling up.
            if appended.is_multiple_of(100_000) {
                wal.truncate_front(appended).unwrap();
            }
        });
    });
    wal.close().unwrap();
}

/// Only the append, on touched pages: 136 bytes in three parts.
fn append(criterion: &mut Criterion) {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        criterion.bench_function(&format!("append 136 bytes, {mode:?}"), |bencher| {
            let head = [9_u8; 20];
            bencher.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                let mut left = count;
                while left > 0 {
                    let mut bench = Bench::new(mode);
                    bench.store.prefault_ahead(64 << 20, Pages::Small).unwrap();
                    let batch = left.min(450_000);
                    let start = Instant::now();
                    for _ in 0..batch {
                        black_box(bench.appender.append(black_box(&[&head, KEY, &VALUE]), 1).unwrap());
                    }
                    spent += start.elapsed();
                    left -= batch;
                }
                spent
            });
        });
    }
}

/// Head, checksums and append, with rotations.
fn put(criterion: &mut Criterion) {
    let mut bench = Bench::new(AppendMode::Mapped);
    criterion
        .bench_function("encode and append 136 bytes, Mapped, no prefault", |bencher| bencher.iter(|| bench.put()));
}

fn read(criterion: &mut Criterion) {
    let mut bench = Bench::new(AppendMode::Mapped);
    let offsets: Vec<u32> = (0..100_000).map(|_| bench.put()).collect();
    let segment = Arc::clone(bench.appender.segment());
    let mut next = 0_usize;
    criterion.bench_function("record_at, 136 bytes, 13 MB in random order", |bencher| {
        bencher.iter(|| {
            next = (next + 61_803) % offsets.len();
            black_box(segment.record_at(offsets[next]).unwrap())
        });
    });
}

fn sync(criterion: &mut Criterion) {
    for mode in [AppendMode::Mapped, AppendMode::Positioned] {
        let mut bench = Bench::new(mode);
        let sync = bench.store.sync_point();
        criterion.bench_function(&format!("put and sync, {mode:?}"), |bencher| {
            bencher.iter(|| {
                bench.put();
                sync.sync().unwrap();
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3)).warm_up_time(Duration::from_millis(500));
    targets = append, put, wal, read, sync
}
criterion_main!(benches);
