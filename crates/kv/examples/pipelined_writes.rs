//! Pipelined writes: queue them, continue, and collect the outcomes. One sync covers all writes
//! that wait at the same time.
//!
//! `cargo run -p hightower-kv --example pipelined_writes`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Instant;

use hightower_kv::Result;
use hightower_kv::prelude::*;

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("hightower-pipelined-writes-{}", std::process::id()));
    let config = StoreConfig::at(&dir).with_commit_queue_depth(1024).with_durability(Durability::Sync);
    let engine = SingleNodeEngine::with_config(config)?;

    let started = Instant::now();
    let tickets = (0..2_000)
        .map(|job| engine.commit_async(Batch::new().put(format!("jobs/{job:05}"), "queued")))
        .collect::<Result<Vec<_>>>()?;
    for ticket in tickets {
        assert!(ticket.wait()?.is_committed());
    }
    let took = started.elapsed();
    // All of them survive power loss now.
    println!("2,000 durable writes in {took:?}, with {} syncs", engine.stats().syncs);
    assert_eq!(engine.prefix("jobs/")?.count(), 2_000);
    engine.close()?;
    let _left_to_the_system = std::fs::remove_dir_all(&dir);
    Ok(())
}
