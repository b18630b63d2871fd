//! Snapshots, point operations and scans at 1 K and 1 M keys.

#![allow(missing_docs, reason = "criterion's macros write the main function")]

use std::hint::black_box;
use std::ops::Bound;
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use hightower_state::{Change, CommandKind, ConcurrentKvState, pin};

fn key(number: u64) -> [u8; 16] {
    // Scattered over the key space, and the same in every run.
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn filled(keys: u64) -> ConcurrentKvState<u32> {
    let state = ConcurrentKvState::new();
    let mut writer = state.writer();
    for number in 0..keys {
        let change = Change { key: &key(number), version: 1, kind: CommandKind::Set, location: 0, len_bytes: 0 };
        writer.replay(&change);
    }
    drop(writer);
    state
}

/// An endless pseudorandom walk through all numbers below `keys`.
fn numbers(keys: u64) -> impl Iterator<Item = u64> {
    (0_u64..).map(move |at| at.wrapping_mul(0x2545_f491_4f6c_dd1d) % keys)
}

fn points(group: &mut BenchmarkGroup<'_, WallTime>, keys: u64) {
    let state = filled(keys);
    group.bench_function("snapshot_and_drop", |bench| bench.iter(|| state.snapshot()));
    let mut order = numbers(keys);
    group.bench_function("get", |bench| bench.iter(|| state.get(&key(order.next().unwrap_or(0)))));
    let snapshot = state.snapshot();
    group.bench_function("get_at_snapshot", |bench| bench.iter(|| snapshot.get(&key(order.next().unwrap_or(0)))));
    let mut absent = numbers(keys).map(|number| key(number + keys));
    group.bench_function("get_absent", |bench| bench.iter(|| state.get(&absent.next().unwrap_or_default())));
    drop(snapshot);
    let mut version = 1;
    group.bench_function("overwrite", |bench| {
        bench.iter(|| {
            version += 1;
            state.set(&key(order.next().unwrap_or(0)), version, 1)
        });
    });
    let snapshot = state.snapshot();
    group.bench_function("overwrite_under_snapshot", |bench| {
        bench.iter(|| {
            version += 1;
            state.set(&key(order.next().unwrap_or(0)), version, 1)
        });
    });
    drop(snapshot);
    state.reclaim();
    group.bench_function("overwrite_batch_of_16", |bench| {
        bench.iter(|| {
            let guard = pin();
            let mut writer = state.writer();
            let Ok(mut commit) = writer.begin(state.visible_seq() + 1, &guard) else { return };
            for number in order.by_ref().take(16) {
                version += 1;
                commit.apply(&Change { key: &key(number), version, kind: CommandKind::Set, location: 1, len_bytes: 0 });
            }
            commit.publish();
        });
    });
}

fn scans(group: &mut BenchmarkGroup<'_, WallTime>, keys: u64) {
    let state = filled(keys);
    group.throughput(Throughput::Elements(keys));
    group.bench_function("scan_all", |bench| {
        bench.iter(|| {
            let mut range = state.range(Bound::Unbounded, Bound::Unbounded);
            let guard = pin();
            let mut sum = 0;
            while let Some((key, found)) = range.next_pinned(&guard) {
                sum += key.len() as u64 + found.version;
            }
            black_box(sum)
        });
    });
    group.throughput(Throughput::Elements(10));
    let mut order = numbers(keys);
    group.bench_function("scan_10", |bench| {
        bench.iter(|| {
            let from = key(order.next().unwrap_or(0));
            state.range(Bound::Included(&from), Bound::Unbounded).take(10).count()
        });
    });
}

fn benches(criterion: &mut Criterion) {
    for (name, keys) in [("1k", 1_000), ("1m", 1_000_000)] {
        let mut group = criterion.benchmark_group(name);
        group.sample_size(10).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        points(&mut group, keys);
        scans(&mut group, keys);
        group.finish();
    }
}

criterion_group!(state, benches);
criterion_main!(state);
