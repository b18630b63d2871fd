//! The cost of many segments: puts and rotations while their number grows, and opens. One line per
//! number, compared with few segments.
//!
//! `HIGHTOWER_BENCH_SEGMENTS` (default 31,000, which is 2 TB at the default size of segments) sets
//! their number, `HIGHTOWER_BENCH_DIR` the place (default `/dev/shm`, which shows the processor
//! time; on a disk each rotation waits for it). Segments have the minimum size, 4 KiB.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark")]

use std::path::Path;
use std::time::{Duration, Instant};

use hightower_engine::{Durability, SingleNodeEngine, StoreConfig};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir)
        .with_max_segment_size(4096)
        .with_min_segment_size(4096)
        .with_durability(Durability::Os)
        .with_checkpoint_after_compaction(false)
}

fn open(dir: &Path, read_only: bool) -> Duration {
    let rounds = (0..3).map(|_| {
        let engine = SingleNodeEngine::with_config(config(dir).with_read_only(read_only)).unwrap();
        let elapsed = engine.open_report().elapsed;
        engine.close().unwrap();
        elapsed
    });
    rounds.min().unwrap_or_default()
}

fn main() {
    let wanted = usize::try_from(number("HIGHTOWER_BENCH_SEGMENTS", 31_000)).unwrap();
    let place = std::env::var("HIGHTOWER_BENCH_DIR").unwrap_or_else(|_| "/dev/shm".into());
    let dir = tempfile::tempdir_in(place).unwrap();
    let dir = dir.path();
    let value = [7; 1000];
    let mut key = 0_u64;
    let mut first_rate = None;
    let mut first_open = None;
    let steps = 8_usize;
    for step in 1..=steps {
        let engine = SingleNodeEngine::with_config(config(dir)).unwrap();
        let (from, until) = (engine.stats().segments.len(), wanted * step / steps);
        let (started, before) = (Instant::now(), key);
        while engine.stats().segments.len() < until {
            for _ in 0..500 {
                engine.put(key.to_be_bytes(), value).unwrap();
                key += 1;
            }
        }
        let rate = (key - before) as f64 / started.elapsed().as_secs_f64();
        engine.close().unwrap();
        drop(engine);
        let first = *first_rate.get_or_insert(rate);
        println!("puts from {from} to {until} segments: {rate:.0} a second, {:.2} of the first", rate / first);
        let took = open(dir, true);
        let each = took.as_nanos() as f64 / until as f64 / 1e3;
        let first = *first_open.get_or_insert(each);
        println!(
            "open {until} segments: {took:?}, {each:.1} µs each, {:.2} of the first; to write {:?}",
            each / first,
            open(dir, false)
        );
    }
}
