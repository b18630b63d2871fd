//! The engine in the scenarios of the project's first release, with their names: `cargo bench -p
//! hightower-engine --bench engine`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may end at once")]

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hightower_engine::{Batch, Durability, SingleNodeEngine, StoreConfig};
use tempfile::TempDir;

const KEYS: u64 = 10_000;

/// A store whose returned writes survive the death of the process, without background work outside
/// the scenario.
fn store(worker_threads: usize) -> (TempDir, SingleNodeEngine) {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(dir.path())
        .with_durability(Durability::Os)
        .with_compaction_interval(Duration::ZERO)
        .with_commit_queue_depth(1024 * worker_threads);
    let engine = SingleNodeEngine::with_config(config).unwrap();
    (dir, engine)
}

fn key(number: u64) -> String {
    // An odd factor visits the keys in an order that defeats caches.
    format!("key/{:010}", number.wrapping_mul(7_919) % KEYS)
}

fn filled(value_len_bytes: usize) -> (TempDir, SingleNodeEngine) {
    let (dir, engine) = store(0);
    let value = vec![7; value_len_bytes];
    (0..KEYS).for_each(|number| {
        engine.put(key(number), &value).unwrap();
    });
    (dir, engine)
}

fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine_writes");
    group.throughput(Throughput::Elements(1_000));
    for (name, len_bytes) in [("small", 64), ("medium", 1_024), ("large", 16_384)] {
        let (_dir, engine) = store(0);
        let value = vec![7; len_bytes];
        group.bench_function(BenchmarkId::new("put_1k", name), |bencher| {
            bencher.iter(|| (0..1_000).all(|number| engine.put(key(number), &value).is_ok()));
        });
    }
    group.finish();
}

fn reads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine_reads");
    group.throughput(Throughput::Elements(1));
    let (_dir, engine) = filled(4_096);
    let next = AtomicU64::new(0);
    group.bench_function(BenchmarkId::new("get_4k", "hot"), |bencher| {
        bencher.iter(|| black_box(engine.get(key(next.fetch_add(1, Ordering::Relaxed) % 16)).unwrap()));
    });
    group.bench_function(BenchmarkId::new("get_4k", "cold"), |bencher| {
        bencher.iter(|| black_box(engine.get(key(next.fetch_add(1, Ordering::Relaxed))).unwrap()));
    });
    group.finish();
}

fn compaction(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compaction");
    group.sample_size(10);
    group.bench_function("run_compaction_now", |bencher| {
        let half_dead = || {
            let (dir, engine) = filled(1_024);
            (0..KEYS / 2).for_each(|number| {
                engine.put(key(number), [8; 1_024]).unwrap();
            });
            (dir, engine)
        };
        bencher.iter_batched(half_dead, |(_dir, engine)| engine.run_compaction_now().unwrap(), BatchSize::PerIteration);
    });
    group.finish();
}

fn prefixes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("prefix_queries");
    let (_dir, engine) = filled(128);
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("get_prefix/1000", |bencher| {
        // The first seven of ten digits: 1,000 keys.
        bencher.iter(|| black_box(engine.get_prefix("key/0000001").unwrap()));
    });
    group.finish();
}

fn workers(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("engine_workers");
    group.throughput(Throughput::Elements(1_000));
    for workers in [0, 1, 2, 4, 8] {
        let (_dir, engine) = store(workers);
        group.bench_function(BenchmarkId::new("put_1k", workers), |bencher| {
            bencher.iter(|| {
                let batch = |number| Batch::from_iter([(key(number), [7; 100])]);
                let tickets: Vec<_> = (0..1_000).map(|number| engine.commit_async(batch(number)).unwrap()).collect();
                tickets.into_iter().all(|ticket| ticket.wait().is_ok())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, writes, reads, compaction, prefixes, workers);
criterion_main!(benches);
