//! The time of a get of a random key in a written store, whose keys are all in the memtable; with
//! half of the keys in a table; after a compaction and after a reopen, with all keys in tables:
//! `cargo bench -p hightower-engine --bench gets`.
//!
//! All stores have the same keys and values, are open at once, and alternate, so that other load of
//! the machine affects all of them. Each line has the median over the rounds, and its ratio to the
//! written store.
//!
//! `HIGHTOWER_BENCH_KEYS` (default 500,000) and `HIGHTOWER_BENCH_VALUE_BYTES` (default 100) set the
//! size, `HIGHTOWER_BENCH_ROUNDS` (default 15) how often, `HIGHTOWER_BENCH_DIR` the place.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark")]

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use hightower_engine::{Durability, SingleNodeEngine, StoreConfig};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn mixed(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// 16 pseudorandom bytes.
fn key(number: u64) -> [u8; 16] {
    (u128::from(mixed(number)) << 64 | u128::from(mixed(!number))).to_be_bytes()
}

fn open(dir: &Path) -> SingleNodeEngine {
    let config = StoreConfig::at(dir)
        .with_durability(Durability::Os)
        .with_compaction_interval(Duration::ZERO)
        .with_index_memory_bytes(1 << 30);
    SingleNodeEngine::with_config(config).unwrap()
}

/// All keys, and a third of them again, so that compaction has work.
fn fill(dir: &Path, keys: u64) -> SingleNodeEngine {
    let engine = open(dir);
    let value = vec![7; usize::try_from(number("HIGHTOWER_BENCH_VALUE_BYTES", 100)).unwrap()];
    for number in (0..keys).chain((0..keys).step_by(3)) {
        engine.put(key(number), &value).unwrap();
    }
    engine.flush().unwrap();
    engine
}

/// All keys, the first half of them in a table and the others in the memtable.
fn fill_half(dir: &Path, keys: u64) -> SingleNodeEngine {
    let engine = fill(dir, keys / 2);
    engine.checkpoint().unwrap();
    let value = vec![7; usize::try_from(number("HIGHTOWER_BENCH_VALUE_BYTES", 100)).unwrap()];
    for number in keys / 2..keys {
        engine.put(key(number), &value).unwrap();
    }
    engine.flush().unwrap();
    engine
}

/// The time of a get, over a different part of the keys in each round.
fn time_gets(engine: &SingleNodeEngine, keys: u64, round: u64) -> f64 {
    const GETS: u64 = 100_000;
    let started = Instant::now();
    for number in 0..GETS {
        let key = key(mixed(round * GETS + number) % keys);
        assert!(black_box(engine.get_with(key, |value| value[0])).unwrap().is_some());
    }
    started.elapsed().as_nanos() as f64 / GETS as f64
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let keys = number("HIGHTOWER_BENCH_KEYS", 500_000);
    let dir = std::env::var_os("HIGHTOWER_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let dir = tempfile::tempdir_in(dir).unwrap();
    let at = |name: &str| dir.path().join(name);
    let compacted = || {
        let engine = fill(&at("compacted"), keys);
        engine.run_compaction_now().unwrap();
        engine
    };
    let reopened = |name: &str, engine: SingleNodeEngine| {
        engine.close().unwrap();
        open(&at(name))
    };
    let both = fill(&at("both"), keys);
    both.run_compaction_now().unwrap();
    let stores = [
        ("get as written", fill(&at("written"), keys)),
        ("get with half of the keys in a table", fill_half(&at("half"), keys)),
        ("get after compaction", compacted()),
        ("get after reopen", reopened("reopened", fill(&at("reopened"), keys))),
        ("get after compaction and reopen", reopened("both", both)),
    ];
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); stores.len()];
    for round in 0..number("HIGHTOWER_BENCH_ROUNDS", 15) {
        for (store, times) in stores.iter().zip(&mut times) {
            times.push(time_gets(&store.1, keys, round));
        }
    }
    // Per round, because a disturbance affects all stores of the round.
    let first = times[0].clone();
    for ((name, _), times) in stores.iter().zip(&mut times) {
        let mut ratios: Vec<f64> = times.iter().zip(&first).map(|(time, first)| time / first).collect();
        println!("{name}: {:.0} ns, {:.3} × as written", median(times), median(&mut ratios));
    }
}
