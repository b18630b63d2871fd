//! Transactions are serializable: histories of threads that run random transactions, checked for
//! the anomalies of the literature and for the order of seqnos. The checker is itself tested on
//! known histories, and against an exhaustive search.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of histories, `HIGHTOWER_TEST_SEED` where they begin.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

mod checker;
mod client;
mod history;
mod known;
#[path = "../linearizability/random.rs"]
mod random;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use checker::anomaly;
use client::{Client, LISTS};
use hightower_engine::{SingleNodeEngine, StoreConfig};
use history::{Transacted, first_out_of_order};

const CLIENTS: u64 = 4;
const TRANSACTIONS: u32 = 60;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn history_of(seed: u64) -> Vec<Transacted> {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig::at(dir.path())
        .with_max_segment_size(64 << 10)
        .with_compaction_interval(Duration::ZERO)
        .with_commit_queue_depth(if seed.is_multiple_of(2) { 0 } else { 64 });
    let engine = SingleNodeEngine::with_config(config).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (engine, is_over) = (&engine, &is_over);
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                engine.run_compaction_now().unwrap();
                // Beside the lists: a range must not take it for a change of its own.
                engine.put("listen", "").unwrap();
            }
        });
        let clients =
            (0..CLIENTS).map(|number| scope.spawn(move || Client::new(engine, number, seed).run(TRANSACTIONS)));
        let clients: Vec<_> = clients.collect();
        let history = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        is_over.store(true, Ordering::Relaxed);
        history
    })
}

#[test]
fn every_history_is_serializable() {
    let (cases, first) = (setting("HIGHTOWER_TEST_CASES", 20), setting("HIGHTOWER_TEST_SEED", 1));
    let (mut committed, mut all) = (0, 0);
    for seed in first..first + cases {
        let history = history_of(seed);
        assert_eq!(anomaly(&history, LISTS), None, "seed {seed}");
        assert_eq!(first_out_of_order(&history, LISTS), None, "seed {seed}");
        all += history.len();
        committed += history.iter().filter(|transacted| transacted.is_committed).count();
    }
    println!("{cases} histories: {committed} of {all} transactions committed");
    assert!(committed > all / 20 && committed < all, "{committed} of {all}: nothing was at stake");
}
