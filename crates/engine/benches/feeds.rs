//! The cost of change feeds for a put, and the rate at which a feed returns commits: `cargo bench
//! -p hightower-engine --bench feeds`.
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark may end at once")]

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

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

/// What a put costs beside feeds, as a ratio to a put without. The stores take turns, so that all
/// meet the same machine; the feeds have caught up before each turn. Of the turns it takes the
/// lowest tenth: the others show what else the machine did.
fn ratios(_: &mut Criterion) {
    const TURNS: usize = 300;
    let prefix = |number: u64| format!("{number:05}/");
    let turn = |engine: &SingleNodeEngine| {
        let began = Instant::now();
        assert!((0..KEYS).all(|number| engine.put(key(number), [7; 100]).is_ok()));
        began.elapsed()
    };
    let stores: [_; 3] = std::array::from_fn(|_| store());
    let [(_, none), (_, read), (_, watched)] = &stores;
    let mut idle: Vec<ChangeFeed> =
        (0..KEYS).map(|number| watched.watch_prefix(prefix(number), watched.latest_seq()).unwrap()).collect();
    let mut times = [const { Vec::new() }; 3];
    thread::scope(|scope| {
        let reader = read.watch(.., read.latest_seq()).unwrap();
        scope.spawn(|| reader.take_while(Result::is_ok).for_each(|commit| drop(black_box(commit))));
        for _ in 0..TURNS {
            for (engine, times) in [none, read, watched].into_iter().zip(&mut times) {
                idle.iter_mut().for_each(|feed| while feed.try_next().unwrap().is_some() {});
                thread::sleep(Duration::from_millis(10));
                times.push(turn(engine));
            }
        }
        read.close().unwrap();
    });
    let [none, read, watched] = times.map(|mut times| {
        times.sort_unstable();
        times[TURNS / 10].as_secs_f64()
    });
    println!("a put without feeds: {:.0} ns", none / KEYS as f64 * 1e9);
    println!("a put beside a feed that a thread reads: {:.2} x", read / none);
    println!("a put beside {KEYS} feeds with distinct prefixes: {:.2} x", watched / none);
}

/// The time from a put to the return of its commit from a feed that waits, while commits are
/// frequent and while they are rare.
fn latencies(_: &mut Criterion) {
    const PUTS: usize = 300;
    for pause_ms in [1, 20] {
        let (_dir, engine) = store();
        let feed = engine.watch(.., engine.latest_seq()).unwrap();
        let mut times = thread::scope(|scope| {
            let reader = scope.spawn(|| feed.take(PUTS).map(|_| Instant::now()).collect::<Vec<_>>());
            let began = (0..PUTS as u64).map(|number| {
                thread::sleep(Duration::from_millis(pause_ms));
                let began = Instant::now();
                engine.put(key(number), [7; 100]).unwrap();
                began
            });
            let began: Vec<_> = began.collect();
            let came = reader.join().unwrap();
            came.into_iter().zip(began).map(|(came, began)| came - began).collect::<Vec<_>>()
        });
        times.sort_unstable();
        let [median, p99] = [PUTS / 2, PUTS * 99 / 100].map(|rank| times[rank]);
        println!("from a put every {pause_ms} ms to its commit: {median:?} (median), {p99:?} (p99)");
    }
}

/// The cost of feeds that come and go between commits, when there are many.
fn arrivals(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("feeds");
    let (_dir, engine) = store();
    let watch = |number: u64| engine.watch_prefix(format!("{number:05}/"), engine.latest_seq()).unwrap();
    let mut feeds: Vec<ChangeFeed> = (0..KEYS).map(watch).collect();
    let mut number = 0;
    group.bench_function("come_and_go_beside_10k", |bencher| {
        bencher.iter(|| {
            number = (number + 1) % KEYS;
            feeds[usize::try_from(number).unwrap()] = watch(number);
            engine.put(key(number), [7; 100]).unwrap();
            feeds[0].try_next().unwrap();
        });
    });
    group.finish();
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

criterion_group!(benches, ratios, latencies, arrivals, puts, events);
criterion_main!(benches);
