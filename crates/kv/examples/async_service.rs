//! A store in an asynchronous program: short calls in tasks, durable writes awaited, long calls
//! where blocking is allowed, and a close before the runtime ends.
//!
//! `cargo run -p hightower-kv --example async_service`; `docs/ASYNC.md` says which call waits for
//! what.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;

use hightower_kv::prelude::*;
use tokio::runtime;
use tokio::task::spawn_blocking;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("hightower-async-service-{}", std::process::id()));
    let config = StoreConfig::at(&dir).with_commit_queue_depth(4096);
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).build()?;
    runtime.block_on(serve(config))?;
    let _left_to_the_system = std::fs::remove_dir_all(&dir);
    Ok(())
}

async fn serve(config: StoreConfig) -> Result<(), Box<dyn Error>> {
    // Opening reads the log.
    let engine = spawn_blocking(move || SingleNodeEngine::with_config(config)).await??;
    let engine = Arc::new(engine);

    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let engine = Arc::clone(&engine);
            tokio::spawn(async move {
                for job in 0..1_000 {
                    // Microseconds: no task switch is worth it.
                    engine.put(format!("jobs/{worker}/{job:04}"), "done")?;
                }
                // A durable write waits for the device: the task awaits it, and blocks no thread.
                let done = Batch::from_iter([(format!("workers/{worker}"), "1000 jobs")]);
                engine.commit_async_with(done, Durability::Sync)?.await?.committed()?;
                Ok::<_, Box<dyn Error + Send + Sync>>(())
            })
        })
        .collect();
    for worker in workers {
        worker.await?.map_err(|error| error.to_string())?;
    }

    // A long scan reads much.
    let reader = Arc::clone(&engine);
    let count = spawn_blocking(move || Ok::<_, hightower_kv::Error>(reader.prefix("jobs/")?.count())).await??;
    println!("{count} jobs are done");
    assert_eq!(count, 4_000);

    // Closing waits for the device and returns its error. Dropping the last handle would wait too,
    // without an error.
    let last = Arc::clone(&engine);
    spawn_blocking(move || last.close()).await??;
    assert!(engine.get("jobs/0/0000").is_err(), "other handles get the error that the store is closed");
    Ok(())
}
