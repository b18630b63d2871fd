//! API key authentications and permission checks per second, on one core, on the real engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "test code")]

use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hightower_auth::{Action, AesGcmEncryptor, Argon2SecretHasher, AuthOptions, AuthService, Grant, KeyRange, Token};
use hightower_engine::{SingleNodeEngine, StoreConfig};

type Service = AuthService<Arc<SingleNodeEngine>, Argon2SecretHasher, AesGcmEncryptor>;

const KEYS: usize = 1000;

fn service(directory: &std::path::Path, verified_cache_entries: usize) -> (Service, Vec<Token>) {
    let engine = Arc::new(SingleNodeEngine::with_config(StoreConfig::at(directory)).unwrap());
    let options = AuthOptions { verified_cache_entries, max_api_keys_per_user: KEYS, ..AuthOptions::default() };
    let auth =
        AuthService::with_options(engine, Argon2SecretHasher::new(), AesGcmEncryptor::new([7; 32]), options).unwrap();
    auth.set_role("reader", &[Grant::new([Action::Read], KeyRange::prefix("jobs/")).unwrap()]).unwrap();
    let user = auth.create_user("alice", "violet teapot orbit 9").unwrap();
    auth.set_user_roles(&user.user_id, &["reader".into()]).unwrap();
    let tokens = (0..KEYS).map(|_| auth.create_api_key(&user.user_id, Some("bench")).unwrap().1).collect();
    (auth, tokens)
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("auth");
    group.throughput(Throughput::Elements(1)).sample_size(30);
    for (name, entries) in [("api key, remembered", 16_384), ("api key, cold", 0)] {
        let directory = tempfile::tempdir().unwrap();
        let (auth, tokens) = service(directory.path(), entries);
        let mut next = tokens.iter().cycle();
        group.bench_function(name, |bencher| {
            bencher.iter(|| next.next().is_some_and(|token| auth.authenticate_api_key(token).unwrap().is_some()));
        });
        let principal = auth.authenticate(&tokens[0]).unwrap().unwrap();
        if entries > 0 {
            group.bench_function("authorize", |bencher| {
                bencher.iter(|| auth.authorize(&principal, Action::Read, b"jobs/17").unwrap());
            });
        }
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
