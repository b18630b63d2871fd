//! Create, read, update, delete, and a batch.
//!
//! `cargo run -p hightower-kv --example basic_kv`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use hightower_kv::{
    ApplyOutcome, Batch, BatchOutcome, Committed, Expect, Rejected, Result, SingleNodeEngine, StoreConfig,
};

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("hightower-basic-kv-{}", std::process::id()));
    let engine = SingleNodeEngine::with_config(StoreConfig::at(&dir))?;

    assert_eq!(engine.put("alpha", "bravo")?, ApplyOutcome::Applied);
    engine.put("charlie", "delta")?;
    print("after two puts", &engine)?;

    engine.put("alpha", "echo")?;
    engine.delete("charlie")?;
    print("after an update and a delete", &engine)?;

    // Atomic, and only if no other writer was faster.
    let mut claim = Batch::new();
    claim.put("leader", "node-a").put("leader/term", "1").require("leader", Expect::Absent);
    for attempt in 1..=2 {
        match engine.commit(&claim)? {
            BatchOutcome::Committed(Committed { seq, .. }) => println!("attempt {attempt}: committed as seq {seq}"),
            BatchOutcome::Rejected(Rejected { found, .. }) => {
                println!("attempt {attempt}: rejected, found version {found:?}");
            }
        }
    }
    print("after the batches", &engine)?;

    engine.close()?;
    drop(engine);

    let again = SingleNodeEngine::with_config(StoreConfig::at(&dir))?;
    print("after closing and opening", &again)?;
    again.close()?;
    let _left_to_the_system = std::fs::remove_dir_all(&dir);
    Ok(())
}

fn print(when: &str, engine: &SingleNodeEngine) -> Result<()> {
    println!("{when}:");
    for entry in engine.prefix("")? {
        let entry = entry?;
        println!("  {} = {}", entry.key().escape_ascii(), entry.value()?.escape_ascii());
    }
    Ok(())
}
