//! A second process reads a store while this one writes it.
//!
//! `cargo run -p hightower-kv --example read_beside_a_writer`

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hightower_kv::{Error, Follower, Result, SingleNodeEngine, StoreConfig};

const DONE: &str = "done";

fn main() -> Result<()> {
    if let Some(dir) = std::env::args_os().nth(1) {
        return read(Path::new(&dir));
    }
    let dir = std::env::temp_dir().join(format!("hightower-read-beside-{}", std::process::id()));
    let engine = SingleNodeEngine::with_config(StoreConfig::at(&dir))?;
    let failed = |error: std::io::Error| Error::Validation(error.to_string().into());
    let this = std::env::current_exe().map_err(failed)?;
    let mut reader = Command::new(this).arg(&dir).spawn().map_err(failed)?;
    for order in 0..50_000 {
        engine.put(format!("orders/{order:05}"), "paid")?;
    }
    engine.put(DONE, "yes")?;
    let status = reader.wait().map_err(failed)?;
    assert!(status.success(), "the reader ends with {status}");

    engine.close()?;
    let _left_to_the_system = std::fs::remove_dir_all(&dir);
    Ok(())
}

/// The second process. It needs only permission to read, and the writer does not notice it.
fn read(dir: &Path) -> Result<()> {
    let follower = Follower::open(dir)?;
    while !follower.contains_key(DONE)? {
        let seqno = match follower.catch_up() {
            // A power loss has taken commits: what this process has made of them is void.
            Err(Error::Diverged { .. }) => follower.latest_seq(),
            caught_up => caught_up?,
        };
        println!("up to commit {seqno}: {} orders", follower.prefix("orders/")?.count());
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("all orders are there: {}", follower.stats().seqno);
    Ok(())
}
