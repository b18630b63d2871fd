//! A lock and a counter that several threads share, by batches with requirements on their keys.
//!
//! `cargo run -p hightower-kv --example conditional_batches`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use hightower_kv::Result;
use hightower_kv::prelude::*;

/// Takes a lock, unless another node has it.
fn try_lock(engine: &SingleNodeEngine, owner: &str) -> Result<bool> {
    let outcome = engine.commit(Batch::new().put("lock", owner).require("lock", Expect::Absent))?;
    Ok(outcome.is_committed())
}

/// Adds one to a counter: reads it with its version, and writes only if no other writer has changed
/// it since.
fn increment(engine: &SingleNodeEngine) -> Result<()> {
    loop {
        let (count, expected) = match engine.get_versioned("count")? {
            Some((value, version)) => (parse(&value), Expect::Version(version)),
            None => (0, Expect::Absent),
        };
        let mut batch = Batch::new();
        batch.put("count", (count + 1).to_string()).require("count", expected);
        if engine.commit(&batch)?.is_committed() {
            return Ok(());
        }
    }
}

fn parse(value: &[u8]) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("hightower-conditional-batches-{}", std::process::id()));
    let engine = SingleNodeEngine::with_config(StoreConfig::at(&dir))?;

    assert!(try_lock(&engine, "node-1")?);
    assert!(!try_lock(&engine, "node-2")?, "node-1 has it");
    engine.delete("lock")?;
    assert!(try_lock(&engine, "node-2")?);

    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..250).try_for_each(|_| increment(&engine)))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(Error::Closed)))
    })?;
    let count = engine.get("count")?.map_or(0, |value| parse(&value));
    println!("4 threads counted to {count}");
    assert_eq!(count, 1_000);
    engine.close()?;
    let _left_to_the_system = std::fs::remove_dir_all(&dir);
    Ok(())
}
