//! Copies of a store in use: a backup, an incremental backup, and a restore.
//!
//! `cargo run -p hightower-kv --example backup_and_restore`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::ops::ControlFlow;

use hightower_kv::prelude::*;
use hightower_kv::{CheckLevel, Components, check, restore};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let (store, backup, restored) = (dir.path().join("store"), dir.path().join("backup"), dir.path().join("restored"));
    let engine = SingleNodeEngine::with_config(StoreConfig::at(&store))?;
    for number in 0..1_000 {
        engine.put(format!("item/{number:04}"), "first")?;
    }
    let report = engine.backup_to(&backup)?;
    println!("backup: {report:?}");

    engine.put("item/0000", "second")?;
    // Into the same directory: only new files are copied; the old backup stays until the new one is
    // complete.
    let report = engine.backup_to(&backup)?;
    println!("again: {report:?}");

    // Later changes are not in the backup.
    engine.delete("item/0000")?;
    engine.close()?;

    let components = Components::default();
    let report = check(&components, &backup, CheckLevel::Tables, &mut |_| ControlFlow::Continue(()))?;
    println!("check: {report:?}");
    restore(&components, &backup, &restored)?;
    let copy = SingleNodeEngine::with_config(StoreConfig::at(&restored))?;
    assert_eq!(copy.len(), 1_000);
    assert_eq!(copy.get("item/0000")?.ok_or("the key is missing")?, b"second");
    copy.close()?;
    println!("restored: 1,000 keys, and the value that the backup had");
    Ok(())
}
