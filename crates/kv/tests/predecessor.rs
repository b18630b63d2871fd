//! Code for hightower-kv 0.1: it compiles and has the same results.

#![allow(clippy::field_reassign_with_default, clippy::unnecessary_to_owned, reason = "that is how it was written")]

use std::time::Duration;

use hightower_kv::engine::SnapshotEngine;
use hightower_kv::log::Command;
use hightower_kv::state::{ApplyOutcome, KvState};
use hightower_kv::{KvEngine, Result, SingleNodeEngine, StoreConfig};

fn config(dir: &tempfile::TempDir) -> StoreConfig {
    let mut config = StoreConfig::default();
    config.data_dir = dir.path().join("kv-data").to_string_lossy().into_owned().into();
    config.max_segment_size = 1024 * 1024;
    config.compaction_interval = Duration::from_secs(60);
    config.fsync_interval = Duration::from_millis(25);
    config.emit_snapshot_after_compaction = true;
    config.worker_threads = 4;
    config
}

#[test]
fn quick_start() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(config(&dir))?;

    engine.put(b"alpha".to_vec(), b"bravo".to_vec())?;
    engine.put(b"charlie".to_vec(), b"delta".to_vec())?;
    let alpha = engine.get(b"alpha")?.expect("alpha should exist");
    assert_eq!(String::from_utf8_lossy(&alpha), "bravo");
    assert_eq!(engine.get(b"alpha").unwrap(), Some(b"bravo".to_vec().into()));

    engine.put(b"alpha".to_vec(), b"echo".to_vec())?;
    engine.delete(b"charlie".to_vec())?;
    assert!(engine.get(b"charlie")?.is_none());

    engine.put(b"user:123".to_vec(), b"alice".to_vec())?;
    engine.put(b"user:456".to_vec(), b"bob".to_vec())?;
    let users = engine.get_prefix(b"user:")?;
    assert_eq!(users.len(), 2);
    for (key, value) in users {
        assert!(String::from_utf8_lossy(&key).starts_with("user:"));
        assert!(!String::from_utf8_lossy(&value).is_empty());
    }
    assert_eq!(engine.len(), 3);
    engine.flush()
}

#[test]
fn commands_with_versions() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let engine = SingleNodeEngine::with_config(config(&dir))?;
    let set = |key: &[u8], value: &[u8], version| Command::Set {
        key: key.to_vec(),
        value: value.to_vec(),
        version,
        timestamp: 1_700_000_000_000,
    };
    assert_eq!(engine.submit(set(b"k", b"v", 1000))?, ApplyOutcome::Applied);
    assert_eq!(engine.submit(set(b"k", b"old", 999))?, ApplyOutcome::IgnoredStale);
    let outcomes = engine.submit_batch(vec![
        set(b"a", b"1", 1),
        Command::Delete { key: b"k".to_vec(), version: 1001, timestamp: 0 },
        set(b"k", b"too late", 1000),
    ])?;
    assert_eq!(outcomes, [ApplyOutcome::Applied, ApplyOutcome::Removed, ApplyOutcome::IgnoredStale]);
    assert!(engine.latest_version() >= 1001);

    let command = set(b"k", b"v", 5);
    assert_eq!((command.key(), command.version(), command.timestamp()), (&b"k"[..], 5, 1_700_000_000_000));
    Ok(())
}

/// Generic code of a service.
fn through_the_trait<E: KvEngine>(engine: &E) -> Result<usize> {
    let commands = vec![Command::Set { key: b"t/1".to_vec(), value: b"x".to_vec(), version: 7, timestamp: 0 }];
    assert_eq!(engine.submit_batch(commands)?, [ApplyOutcome::Applied]);
    assert_eq!(engine.get(b"t/1")?.map(|value| value.to_vec()), Some(b"x".to_vec()));
    Ok(engine.get_prefix(b"t/")?.len())
}

#[test]
fn services_and_snapshots() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let engine = std::sync::Arc::new(SingleNodeEngine::with_config(config(&dir))?);
    assert_eq!(through_the_trait(&engine)?, 1);
    assert_eq!(through_the_trait_again(&*engine)?, 1);

    // The predecessor could not fail here; values are read from disk now, so it can.
    let state: KvState = engine.snapshot_state()?;
    assert_eq!(state.len(), 1);
    assert_eq!(state.get(b"t/1"), Some(&b"x"[..]));
    assert_eq!(engine.latest_version(), 7);
    Ok(())
}

fn through_the_trait_again(engine: &impl KvEngine) -> Result<usize> {
    Ok(engine.get_prefix(b"t/")?.len())
}

#[test]
fn the_model_applies_commands() {
    let mut state = KvState::new();
    let set = Command::Set { key: b"k".to_vec(), value: b"v".to_vec(), version: 1, timestamp: 0 };
    assert_eq!(state.apply(&set), ApplyOutcome::Applied);
    assert_eq!(state.apply(&set), ApplyOutcome::IgnoredStale);
}
