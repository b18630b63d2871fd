//! The cost of change feeds for a put, and the rate at which a feed returns commits: `cargo bench
//! -p hightower-engine --bench feeds`.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may end at once")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hightower_engine::{ChangeFeed, Durability, SingleNodeEngine, StoreConfig};
use tempfile::TempDir;

const KEYS: u64 = 10_000;
const PUTS: u64 = 1_000;

fn store() -> (TempDir, SingleNodeEngine) {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(dir.path()).with_durability(Durability::Os).with_compaction_interval(Duration::ZERO);
    (dir, SingleNodeEngine::with_config(config).unwrap())
}

fn key(number: u64) -> String {
    format!("{:05}/key", number.wrapping_mul(7_919) % KEYS)
}

fn put(engine: &SingleNodeEngine) -> bool {
    (0..PUTS).all(|number| engine.put(key(number), [7; 100]).is_ok())
}

/// Nobody reads the feeds meanwhile: they lag, as those of slow readers do.
fn puts(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("feeds");
    group.throughput(Throughput::Elements(PUTS));
    for feeds in [0, 1, 10_000] {
        let (_dir, engine) = store();
        put(&engine);
        let prefix = |number: u64| if feeds == 1 { String::new() } else { format!("{number:05}/") };
        let watch = |number| engine.watch_prefix(prefix(number), engine.latest_seq()).unwrap();
        let mut watchers: Vec<ChangeFeed> = (0..feeds).map(watch).collect();
        group.bench_function(BenchmarkId::new("put_1k", feeds), |bencher| bencher.iter(|| put(&engine)));
        watchers.iter_mut().for_each(|feed| drop(black_box(feed.try_next())));
    }
    group.finish();
}

fn events(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("feeds");
    group.throughput(Throughput::Elements(PUTS));
    let (_dir, engine) = store();
    let start = engine.latest_seq();
    put(&engine);
    let read = |mut feed: ChangeFeed| {
        let mut count = 0;
        while let Some(commit) = feed.try_next().unwrap() {
            count += commit.len() as u64;
        }
        assert_eq!(count, PUTS);
    };
    group.bench_function("read_1k", |bencher| {
        bencher.iter_batched(|| engine.watch(.., start).unwrap(), read, BatchSize::SmallInput);
    });
    group.finish();
}

criterion_group!(benches, puts, events);
criterion_main!(benches);
