//! Lookups, overwrites, inserts and scans, compared with other maps on the same keys and with the
//! same work.
//!
//! ```sh
//! cargo bench -p hightower-index                                     # 1 M keys
//! HIGHTOWER_BENCH_KEYS=10000000 cargo bench -p hightower-index       # hash map and this one only: the others take minutes
//! ```

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use support::{Hightower, Keys, SHAPES, Shape, Sharded, Skip, Subject, Tree};

fn count() -> usize {
    std::env::var("HIGHTOWER_BENCH_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(1_000_000)
}

struct Sets {
    keys: Keys,
    queries: Keys,
    absent: Keys,
}

fn fill<S: Subject>(keys: &Keys) -> S {
    let mut subject = S::empty();
    keys.iter().enumerate().for_each(|(value, key)| subject.insert(key, value as u64));
    subject
}

/// Runs `step` on `iterations` keys, repeating the keys.
fn timed(keys: &Keys, iterations: u64, mut step: impl FnMut(&[u8])) -> Duration {
    let start = Instant::now();
    (0..iterations).zip((0..).flat_map(|_| keys.iter())).for_each(|(_, key)| step(key));
    start.elapsed()
}

/// Inserts into a map of `count` keys. A new map is built when it has doubled.
fn inserts<S: Subject>(sets: &Sets, iterations: u64) -> Duration {
    let mut total = Duration::ZERO;
    let mut left = iterations;
    while left > 0 {
        let mut subject: S = fill(&sets.keys);
        let now = left.min(sets.absent.len() as u64);
        total += timed(&sets.absent, now, |key| subject.insert(key, 1));
        left -= now;
    }
    total
}

fn subject<S: Subject>(criterion: &mut Criterion, shape: Shape, sets: &Sets) {
    let mut group = criterion.benchmark_group(format!("{}/{}", shape.name(), sets.keys.len()));
    group.sample_size(10).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    let mut subject: S = fill(&sets.keys);
    group.bench_function(BenchmarkId::new("get", S::NAME), |bencher| {
        bencher.iter_custom(|iterations| {
            timed(&sets.queries, iterations, |key| {
                black_box(subject.get(key));
            })
        });
    });
    group.bench_function(BenchmarkId::new("get absent", S::NAME), |bencher| {
        bencher.iter_custom(|iterations| {
            timed(&sets.absent, iterations, |key| {
                black_box(subject.get(key));
            })
        });
    });
    group.bench_function(BenchmarkId::new("overwrite", S::NAME), |bencher| {
        bencher.iter_custom(|iterations| timed(&sets.queries, iterations, |key| subject.overwrite(key, 1)));
    });
    if S::ORDERED {
        group.throughput(Throughput::Elements(sets.keys.len() as u64));
        group.bench_function(BenchmarkId::new("walk all", S::NAME), |bencher| {
            bencher.iter(|| black_box(subject.scan()));
        });
    }
    drop(subject);
    group.throughput(Throughput::Elements(1));
    group.bench_function(BenchmarkId::new("insert", S::NAME), |bencher| {
        bencher.iter_custom(|iterations| inserts::<S>(sets, iterations));
    });
}

fn maps(criterion: &mut Criterion) {
    let count = count();
    for shape in SHAPES {
        let sets = Sets {
            keys: Keys::new(shape, 0, count, 1),
            queries: Keys::new(shape, 0, count, 2),
            absent: Keys::new(shape, count as u64, count, 3),
        };
        subject::<Hightower>(criterion, shape, &sets);
        subject::<Sharded>(criterion, shape, &sets);
        if count <= 1_000_000 {
            subject::<Skip>(criterion, shape, &sets);
            subject::<Tree>(criterion, shape, &sets);
        }
    }
}

criterion_group!(benches, maps);
criterion_main!(benches);
