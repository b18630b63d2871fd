//! Opening a store of 100,000 keys: `cargo bench -p hightower-engine --bench recovery`.
//! (`--bench open` measures one of a million once, with one core and with two.)

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may end at once")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hightower_engine::{SingleNodeEngine, StoreConfig};
use tempfile::TempDir;

const KEYS: u64 = 100_000;

/// Without background work that would change the files between two rounds.
fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir).with_compaction_interval(Duration::ZERO).with_checkpoint_after_compaction(false)
}

fn fill(dir: &Path) -> SingleNodeEngine {
    let engine = SingleNodeEngine::with_config(config(dir)).unwrap();
    // An odd factor, for a pseudorandom order of keys.
    (0..KEYS).for_each(|number| {
        engine.put(format!("key/{:012}", number.wrapping_mul(61_803) % KEYS), [7; 100]).unwrap();
    });
    engine
}

/// A copy of all files: the state after a kill at this moment, because every returned write is in
/// the page cache.
fn copied(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(dir).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

/// Opens without changing a file, so that all rounds are equal.
fn open_to_read(dir: &Path) -> SingleNodeEngine {
    let engine = SingleNodeEngine::with_config(config(dir).with_read_only(true)).unwrap();
    assert_eq!(engine.len() as u64, KEYS);
    engine
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("recovery");
    group.throughput(Throughput::Elements(KEYS)).sample_size(10);
    let dir = tempfile::tempdir().unwrap();
    let engine = fill(dir.path());
    let killed = copied(dir.path());
    engine.close().unwrap();
    drop(engine);
    group.bench_function("clean close, table", |bencher| {
        bencher.iter_with_large_drop(|| open_to_read(dir.path()));
    });
    let is_table = |path: &Path| path.extension().is_some_and(|extension| extension == "tbl");
    let files = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path());
    files.filter(|path| is_table(path)).for_each(|path| fs::remove_file(path).unwrap());
    group.bench_function("clean close, no table", |bencher| {
        bencher.iter_with_large_drop(|| open_to_read(dir.path()));
    });
    group.bench_function("killed, recovered to be written to", |bencher| {
        let recover = |copy: TempDir| {
            let engine = SingleNodeEngine::with_config(config(copy.path())).unwrap();
            assert_eq!(engine.len() as u64, KEYS);
            (engine, copy)
        };
        bencher.iter_batched(|| copied(killed.path()), recover, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(recovery, benches);
criterion_main!(recovery);
