//! The time of a pair in a scan: of 10, 100 and 1,000 pairs from a random key on, and of all pairs;
//! from a memtable, from a table of records in the order of their writes, from a compacted store,
//! whose records are in key order, and from four tables:
//! `cargo bench -p hightower-engine --bench scans`.
//!
//! All stores have the same keys and values, are open at once, and alternate, so that other load of
//! the machine affects all of them. Each line has medians over the rounds, in ns per pair.
//!
//! `HIGHTOWER_BENCH_KEYS` (default 500,000) and `HIGHTOWER_BENCH_VALUE_BYTES` (default 100) set the
//! size, `HIGHTOWER_BENCH_ROUNDS` (default 9) how often, `HIGHTOWER_BENCH_DIR` the place.
//! `HIGHTOWER_BENCH_STORES` selects stores, `HIGHTOWER_BENCH_PAIRS` lengths of scans, such as
//! `10,all`.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark")]

use std::hint::black_box;
use std::ops::ControlFlow;
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

/// All keys, with `checkpoints` tables at the end.
fn fill(dir: &Path, keys: u64, tables: u64) -> SingleNodeEngine {
    let engine = open(dir);
    let value = vec![7; usize::try_from(number("HIGHTOWER_BENCH_VALUE_BYTES", 100)).unwrap()];
    for number in 0..keys {
        engine.put(key(number), &value).unwrap();
        if tables > 0 && (number + 1) % (keys / tables) == 0 {
            engine.checkpoint().unwrap();
        }
    }
    engine.flush().unwrap();
    engine
}

/// The pairs of a scan from this key on, at most `limit`.
fn scan(engine: &SingleNodeEngine, from: &[u8], limit: usize) -> usize {
    let (mut pairs, mut bytes) = (0, 0_u64);
    let scanned = engine.range(from..).unwrap().for_each_pair(|key, value| {
        bytes += u64::from(key[0]) + u64::from(value[0]);
        pairs += 1;
        if pairs < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    scanned.unwrap();
    black_box(bytes);
    pairs
}

/// The time of a pair, over other keys in each round.
fn time_scans(engine: &SingleNodeEngine, keys: u64, round: u64, limit: usize) -> f64 {
    const PAIRS: usize = 200_000;
    let started = Instant::now();
    let mut pairs = 0;
    if limit == usize::MAX {
        pairs = scan(engine, b"", limit);
    }
    for place in 0.. {
        if pairs >= PAIRS {
            break;
        }
        pairs += scan(engine, &key(mixed(round << 32 | place) % keys), limit);
    }
    started.elapsed().as_nanos() as f64 / pairs as f64
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
    let wanted = std::env::var("HIGHTOWER_BENCH_STORES").unwrap_or_default();
    let names = ["memtable", "table", "compacted", "four tables"];
    let stores = names.into_iter().filter(|name| wanted.is_empty() || wanted.split(',').any(|one| one == *name));
    let store = |name: &'static str| {
        let tables = match name {
            "table" => 1,
            "four tables" => 4,
            _ => 0,
        };
        let engine = fill(&dir.path().join(name), keys, tables);
        if name == "compacted" {
            engine.run_compaction_now().unwrap();
        }
        (name, engine)
    };
    let stores: Vec<_> = stores.map(store).collect();
    let limits = std::env::var("HIGHTOWER_BENCH_PAIRS").unwrap_or_else(|_| "10,100,1000,all".to_owned());
    let limits: Vec<usize> = limits.split(',').map(|limit| limit.parse().unwrap_or(usize::MAX)).collect();
    let mut times = vec![vec![Vec::new(); limits.len()]; stores.len()];
    for round in 0..number("HIGHTOWER_BENCH_ROUNDS", 9) {
        for (store, times) in stores.iter().zip(&mut times) {
            for (limit, times) in limits.iter().zip(times) {
                times.push(time_scans(&store.1, keys, round, *limit));
            }
        }
    }
    for ((name, _), times) in stores.iter().zip(&mut times) {
        for (limit, times) in limits.iter().zip(times) {
            let of = if *limit == usize::MAX { "all".to_owned() } else { limit.to_string() };
            println!("{name}, scans of {of}: {:.0} ns per pair", median(times));
        }
    }
}
