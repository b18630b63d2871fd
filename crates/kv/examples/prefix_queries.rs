//! Prefixes, ranges, and iteration from the end.
//!
//! `cargo run -p hightower-kv --example prefix_queries`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::ops::ControlFlow;

use hightower_kv::{Batch, Result, SingleNodeEngine, StoreConfig};

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("hightower-prefix-queries-{}", std::process::id()));
    let engine = SingleNodeEngine::with_config(StoreConfig::at(&dir))?;

    let mut batch = Batch::new();
    for node in ["node-a", "node-b"] {
        for pod in 0..1000 {
            batch.put(format!("pods/{node}/{pod:04}"), format!("pod {pod} on {node}"));
        }
    }
    engine.commit(&batch)?.committed()?;

    println!("node-a has {} pods", engine.prefix("pods/node-a/")?.count());

    println!("the last three of all, read from the end:");
    for entry in engine.prefix("pods/")?.rev().take(3) {
        let entry = entry?;
        println!("  {} = {}", entry.key().escape_ascii(), entry.value()?.escape_ascii());
    }

    println!("a range across nodes:");
    for entry in engine.range("pods/node-a/0998".."pods/node-b/0002")? {
        println!("  {}", entry?.key().escape_ascii());
    }

    // The fastest iteration: keys and values are borrowed, not copied.
    let mut bytes = 0;
    engine.prefix("pods/")?.for_each_pair(|key, value| {
        bytes += key.len() + value.len();
        ControlFlow::Continue(())
    })?;
    println!("all pods: {bytes} bytes of keys and values");

    engine.close()?;
    let _left_to_the_system = std::fs::remove_dir_all(&dir);
    Ok(())
}
