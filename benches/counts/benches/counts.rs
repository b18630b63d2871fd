//! The hot paths, each on a small deterministic store: no background threads, a clock that stands
//! still, seeded random numbers. `cargo xtask counts` runs these under callgrind and compares them
//! with `benches/counts/baseline.json`.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    unused_qualifications,
    reason = "a benchmark may end at once, and macros write parts of it"
)]

use std::hint::black_box;
use std::sync::Arc;

use gungraun::{library_benchmark, library_benchmark_group, main};
use hightower_auth::{AesGcmEncryptor, Argon2SecretHasher, AuthOptions, AuthService, KeyRing, Token};
use hightower_engine::{Background, Batch, Components, Durability, SingleNodeEngine, StoreConfig};
use hightower_seams::{Entropy, ManualClock, mix64};
use tempfile::TempDir;

/// Number of keys in a store before its operations are counted.
const KEYS: u64 = 20_000;
/// Number of operations in one count.
const OPERATIONS: u64 = 1_000;
const VALUE: [u8; 100] = [7; 100];

#[derive(Debug, Default)]
struct CountingEntropy(std::sync::atomic::AtomicU64);
impl Entropy for CountingEntropy {
    fn fill(&self, out: &mut [u8]) -> std::io::Result<()> {
        for bytes in out.chunks_mut(8) {
            let number = mixed(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed)).to_le_bytes();
            bytes.copy_from_slice(&number[..bytes.len()]);
        }
        Ok(())
    }
}

struct Store {
    engine: SingleNodeEngine,
    // Dropped after the engine.
    dir: TempDir,
}

fn open(dir: &TempDir) -> SingleNodeEngine {
    let config = StoreConfig::at(dir.path()).with_durability(Durability::Os);
    let components = Components::default()
        .with_clock(Arc::new(ManualClock::at(1_700_000_000_000)))
        .with_entropy(Arc::new(CountingEntropy::default()))
        .with_background(Background::Caller);
    SingleNodeEngine::with_components(config, components).unwrap()
}

/// A permutation of all numbers.
fn mixed(number: u64) -> u64 {
    mix64(number.wrapping_add(0x9e37_79b9_7f4a_7c15))
}

/// A key of 16 bytes.
fn key(number: u64) -> [u8; 16] {
    let mut key = *b"0000000000000000";
    for (at, digit) in key.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(mixed(number) >> (4 * at) & 15) as usize];
    }
    key
}

fn sorted_key(number: u64) -> [u8; 16] {
    let mut key = *b"s000000000000000";
    for (at, digit) in key.iter_mut().skip(1).rev().enumerate() {
        *digit = b"0123456789"[(number / 10_u64.pow(u32::try_from(at).unwrap()) % 10) as usize];
    }
    key
}

fn loaded() -> Store {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(&dir);
    for first in (0..KEYS).step_by(1_000) {
        let mut batch = Batch::new();
        (first..first + 1_000).for_each(|number| {
            batch.put(key(number), VALUE);
        });
        assert!(engine.commit(&batch).unwrap().is_committed());
    }
    Store { engine, dir }
}

fn compacted() -> Store {
    let store = loaded();
    store.engine.run_compaction_now().unwrap();
    store
}

fn reopened() -> Store {
    let Store { engine, dir } = loaded();
    engine.close().unwrap();
    drop(engine);
    Store { engine: open(&dir), dir }
}

fn closed() -> TempDir {
    let Store { engine, dir } = loaded();
    engine.close().unwrap();
    dir
}

fn batch() -> (Store, Batch) {
    let mut batch = Batch::new();
    (0..1_000).for_each(|number| {
        batch.put(key(number * 7 % KEYS), VALUE);
    });
    (loaded(), batch)
}

/// The keys to read or overwrite, in pseudorandom order.
fn some(number: u64) -> [u8; 16] {
    key(mixed(number) % KEYS)
}

#[library_benchmark(setup = loaded)]
fn put_new(store: Store) -> Store {
    (KEYS..KEYS + OPERATIONS).for_each(|number| assert!(store.engine.put(key(number), VALUE).is_ok()));
    store
}

#[library_benchmark(setup = loaded)]
fn put_sorted(store: Store) -> Store {
    (0..OPERATIONS).for_each(|number| assert!(store.engine.put(sorted_key(number), VALUE).is_ok()));
    store
}

#[library_benchmark(setup = loaded)]
fn overwrite(store: Store) -> Store {
    (0..OPERATIONS).for_each(|number| assert!(store.engine.put(some(number), VALUE).is_ok()));
    store
}

#[library_benchmark(setup = loaded)]
fn delete(store: Store) -> Store {
    (0..OPERATIONS).for_each(|number| assert!(store.engine.delete(some(number)).is_ok()));
    store
}

#[library_benchmark]
#[bench::loaded(setup = loaded)]
#[bench::compacted(setup = compacted)]
#[bench::reopened(setup = reopened)]
fn get(store: Store) -> Store {
    (0..OPERATIONS).for_each(|number| drop(black_box(store.engine.get(some(number)).unwrap())));
    store
}

#[library_benchmark(setup = loaded)]
fn get_absent(store: Store) -> Store {
    (KEYS..KEYS + OPERATIONS).for_each(|number| drop(black_box(store.engine.get(key(number)).unwrap())));
    store
}

#[library_benchmark(setup = batch)]
fn batch_of_1000(input: (Store, Batch)) -> Store {
    assert!(input.0.engine.commit(&input.1).unwrap().is_committed());
    input.0
}

fn scan(store: Store, scans: u64, pairs: usize) -> Store {
    for number in 0..scans {
        for entry in store.engine.range(some(number)..).unwrap().take(pairs) {
            let entry = entry.unwrap();
            black_box((entry.key(), entry.value().unwrap()));
        }
    }
    store
}

#[library_benchmark(setup = loaded)]
fn scan_10(store: Store) -> Store {
    scan(store, 100, 10)
}

#[library_benchmark(setup = loaded)]
fn scan_1000(store: Store) -> Store {
    scan(store, 1, 1_000)
}

#[library_benchmark(setup = closed)]
fn open_store(dir: TempDir) -> Store {
    let engine = open(&dir);
    Store { engine, dir }
}

type Service = AuthService<Arc<SingleNodeEngine>, Argon2SecretHasher, AesGcmEncryptor>;

fn service() -> (Service, Token, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let entropy: Arc<dyn Entropy> = Arc::new(CountingEntropy::default());
    let encryptor = AesGcmEncryptor::with_entropy(KeyRing::single([7; 32]), Arc::clone(&entropy));
    let options = AuthOptions { entropy, ..AuthOptions::default() };
    let auth = AuthService::with_options(Arc::new(open(&dir)), Argon2SecretHasher::new(), encryptor, options).unwrap();
    let user = auth.create_user("alice", "violet teapot orbit 9").unwrap();
    let token = auth.create_api_key(&user.user_id, Some("counted")).unwrap().1;
    assert!(auth.authenticate_api_key(&token).unwrap().is_some());
    (auth, token, dir)
}

#[library_benchmark(setup = service)]
fn check_api_key(input: (Service, Token, TempDir)) -> (Service, Token, TempDir) {
    (0..100).for_each(|_| assert!(input.0.authenticate_api_key(&input.1).unwrap().is_some()));
    input
}

library_benchmark_group!(
    name = hot_paths,
    benchmarks = [
        put_new,
        put_sorted,
        overwrite,
        delete,
        get,
        get_absent,
        batch_of_1000,
        scan_10,
        scan_1000,
        open_store,
        check_api_key
    ]
);

main!(library_benchmark_groups = hot_paths);
