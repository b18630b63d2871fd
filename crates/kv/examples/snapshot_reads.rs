//! A consistent view of the store, while another thread writes.
//!
//! `cargo run -p hightower-kv --example snapshot_reads`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;
use std::thread;

use hightower_kv::{Batch, Result, SingleNodeEngine, Snapshot, StoreConfig};

const ACCOUNTS: u64 = 100;
const EACH: u64 = 1000;

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("hightower-snapshot-reads-{}", std::process::id()));
    let engine = Arc::new(SingleNodeEngine::with_config(StoreConfig::at(&dir))?);
    let accounts = (0..ACCOUNTS).map(|account| (key(account), EACH.to_string())).collect();
    engine.commit(&accounts)?.committed()?;

    // Money moves from account to account, two puts at a time; the sum never changes.
    let writer = {
        let engine = Arc::clone(&engine);
        thread::spawn(move || (0..20_000).try_for_each(|step| move_one(&engine, step % ACCOUNTS, step * 7 % ACCOUNTS)))
    };
    for _ in 0..5 {
        let snapshot = engine.snapshot()?;
        println!("at seq {}: {} in all accounts", snapshot.seq(), total(&snapshot)?);
        assert_eq!(total(&snapshot)?, ACCOUNTS * EACH);
    }
    writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;

    engine.close()?;
    let _left_to_the_system = std::fs::remove_dir_all(&dir);
    Ok(())
}

fn key(account: u64) -> String {
    format!("accounts/{account:03}")
}

fn move_one(engine: &SingleNodeEngine, from: u64, to: u64) -> Result<()> {
    let balance = |account| Ok::<u64, hightower_kv::Error>(engine.get(key(account))?.map_or(0, |text| parse(&text)));
    let (poorer, richer) = (balance(from)?, balance(to)? + 1);
    if from == to || poorer == 0 {
        return Ok(());
    }
    let mut batch = Batch::new();
    batch.put(key(from), (poorer - 1).to_string()).put(key(to), richer.to_string());
    engine.commit(&batch)?.committed()?;
    Ok(())
}

fn total(snapshot: &Snapshot) -> Result<u64> {
    snapshot.prefix("accounts/").map(|entry| Ok(parse(&entry?.value()?))).sum()
}

fn parse(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}
