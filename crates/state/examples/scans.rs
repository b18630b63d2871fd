//! Measures the cost of ordered scans: of their start, and per key.
//!
//! ```sh
//! cargo run --release -p hightower-state --example scans            # 1 M keys
//! HIGHTOWER_BENCH_KEYS=100000 cargo run --release -p hightower-state --example scans
//! ```

#![allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures, and says what it found")]

use std::hint::black_box;
use std::ops::{Bound, ControlFlow};
use std::time::Instant;

use hightower_state::{ConcurrentKvState, StateError, pin};

/// A pseudorandom function of `number` (splitmix64, Steele et al. 2014).
fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Keys of 16 bytes, spread over the key space.
fn key(number: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&mixed(number).to_be_bytes());
    key[8..].copy_from_slice(&number.to_be_bytes());
    key
}

fn timed(name: &str, times: u64, mut action: impl FnMut(u64)) {
    let mut best = f64::MAX;
    for round in 0..5 {
        let start = Instant::now();
        (0..times).for_each(|time| action(mixed(time << 8 | round)));
        #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
        let nanos = start.elapsed().as_nanos() as f64 / times as f64;
        best = best.min(nanos);
    }
    println!("{name:38} {best:9.0} ns");
}

/// Visits the first `limit` keys at or after `from`.
fn visit(state: &ConcurrentKvState<u32>, from: Bound<&[u8]>, limit: usize) {
    let (mut seen, mut sum) = (0, 0);
    let mut range = state.range(from, Bound::Unbounded);
    range.visit_pinned(
        usize::MAX,
        &pin(),
        |_| {},
        |key, found| {
            sum ^= found.location ^ u32::from(key.last().copied().unwrap_or(0));
            seen += 1;
            if seen < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        },
    );
    black_box(sum);
}

fn main() -> Result<(), StateError> {
    let count = std::env::var("HIGHTOWER_BENCH_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(1_000_000_u64);
    let state = ConcurrentKvState::<u32>::new();
    for number in 0..count {
        #[allow(clippy::cast_possible_truncation, reason = "the low bits are enough")]
        state.set(&key(number), 1, number as u32)?;
    }
    println!("{count} keys");
    timed("a snapshot, dropped", 1_000_000, |_| drop(black_box(state.snapshot())));
    timed("a guard", 1_000_000, |_| drop(black_box(pin())));
    timed("get", 1_000_000, |number| {
        black_box(state.get(&key(number % count)));
    });
    for limit in [1, 10, 100, 1000] {
        let times = 200_000 / limit as u64;
        timed(&format!("visit of {limit}"), times, |number| {
            visit(&state, Bound::Included(&key(number % count)), limit);
        });
        timed(&format!("visit of {limit}, of the same keys"), times, |_| {
            visit(&state, Bound::Included(&key(0)), limit);
        });
        timed(&format!("next_pinned, {limit} times"), times, |number| {
            let mut range = state.range(Bound::Included(&key(number % count)), Bound::Unbounded);
            let guard = pin();
            for _ in 0..limit {
                black_box(range.next_pinned(&guard));
            }
        });
    }
    timed("visit of all", 1, |_| visit(&state, Bound::Unbounded, usize::MAX));
    Ok(())
}
