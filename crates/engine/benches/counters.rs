//! Additions to counters: `add` beside `fetch_update`, on 1 and 2 threads, on one hot key and on
//! 100,000 keys: `cargo bench -p hightower-engine --bench counters`.
//!
//! Prints the time of an addition and the additions of all threads a second. Durability is `Os`.
//! `HIGHTOWER_ADDITIONS` sets the number of additions of a thread (default 200,000).

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use std::time::Instant;

use hightower_engine::{Durability, SingleNodeEngine};
use tempfile::TempDir;

/// The keys of the uniform rows.
const KEYS: u64 = 100_000;
/// The best of this number of rounds counts.
const ROUNDS: usize = 3;

fn key(number: u64) -> String {
    format!("counters/{number:08}")
}

/// An even spread over the keys, different for each thread.
fn spread(number: u64, thread: u64) -> u64 {
    (number + (thread << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32
}

/// Adds 1 to a counter.
type Addition = fn(&SingleNodeEngine, &str);

fn add(engine: &SingleNodeEngine, key: &str) {
    engine.add(key, 1).unwrap();
}

fn fetch_update(engine: &SingleNodeEngine, key: &str) {
    let add = |value: Option<&[u8]>| {
        let number: i64 = value.map_or(0, |value| str::from_utf8(value).unwrap().parse().unwrap());
        Some((number + 1).to_string())
    };
    engine.fetch_update(key, add).unwrap();
}

/// Seconds until each thread has done its additions.
fn seconds(engine: &SingleNodeEngine, threads: u64, additions: u64, keys: u64, one: Addition) -> f64 {
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (0..additions).for_each(|at| one(engine, &key(spread(at, thread) % keys))));
        }
    });
    started.elapsed().as_secs_f64()
}

fn main() {
    let additions: u64 =
        std::env::var("HIGHTOWER_ADDITIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(200_000);
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::builder(dir.path()).durability(Durability::Os).open().unwrap();
    for number in 0..KEYS {
        engine.put(key(number), "0").unwrap();
    }
    let calls: [(&str, Addition); 2] = [("add", add), ("fetch_update", fetch_update)];
    for (keys, what) in [(1, "one key"), (KEYS, "uniform")] {
        for threads in [1, 2] {
            for (name, one) in calls {
                let rounds = (0..ROUNDS).map(|_| seconds(&engine, threads, additions, keys, one));
                let best = rounds.fold(f64::INFINITY, f64::min);
                #[allow(clippy::cast_precision_loss, reason = "a rate")]
                let (nanoseconds, rate) = (best * 1e9 / additions as f64, (threads * additions) as f64 / best / 1e6);
                println!("{name:12} {what}, {threads} threads: {nanoseconds:6.0} ns each, {rate:5.2} M/s in all");
            }
        }
    }
    let total: i64 = engine
        .prefix("counters/")
        .unwrap()
        .map(|entry| entry.unwrap().value().unwrap().as_str().unwrap().parse::<i64>().unwrap())
        .sum();
    // 1 and 2 threads, two calls, two spreads.
    assert_eq!(
        total,
        i64::try_from(additions * 3 * 2 * 2).unwrap() * i64::try_from(ROUNDS).unwrap(),
        "an addition is lost"
    );
}
