//! Stores that earlier builds have written, kept in `tests/fixtures`, are read, written to and compacted by this one.
//!
//! `segment_1`: segments of format version 1 (one of them compacted, four with commits) with a checkpoint of version 2, and what it holds as a
//! table of keys and values.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use hightower_engine::{CheckLevel, Components, SingleNodeEngine, StoreConfig, check};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// A copy of the old store, without the files whose names end in one of `left_out`.
fn old_store(left_out: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixtures().join("segment_1")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if left_out.is_empty() || !name.ends_with(left_out) {
            fs::copy(entry.path(), dir.path().join(name)).unwrap();
        }
    }
    dir
}

fn expected() -> Vec<(Vec<u8>, Vec<u8>)> {
    let table = fs::read_to_string(fixtures().join("segment_1.tsv")).unwrap();
    table.lines().map(|line| line.split_once('\t').unwrap()).map(|(key, value)| (key.into(), value.into())).collect()
}

fn pairs(engine: &SingleNodeEngine) -> Vec<(Vec<u8>, Vec<u8>)> {
    engine.prefix("").map(|entry| (entry.key().to_vec(), entry.value().unwrap().to_vec())).collect()
}

#[test]
fn an_old_store_is_read_with_and_without_its_checkpoint() {
    for left_out in ["", ".ckpt"] {
        let dir = old_store(left_out);
        let mut watch = |_| ControlFlow::Continue(());
        let report = check(&Components::default(), dir.path(), CheckLevel::Index, &mut watch).unwrap();
        assert_eq!((report.segments, report.damage), (5, Vec::new()));
        let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap();
        assert_eq!(pairs(&engine), expected(), "without {left_out:?}");
        assert_eq!(engine.get("zone/Africa/Algiers").unwrap(), None, "it was deleted");
    }
}

#[test]
fn an_old_store_is_written_to_and_compacted_into_the_newest_format() {
    let dir = old_store("");
    let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap();
    engine.put("late", "two").unwrap();
    let mut expected = expected();
    expected.iter_mut().find(|(key, _)| key == b"late").unwrap().1 = b"two".to_vec();
    engine.run_compaction_now().unwrap();
    assert_eq!(pairs(&engine), expected);
    engine.close().unwrap();
    drop(engine);
    let engine = SingleNodeEngine::with_config(StoreConfig::at(dir.path())).unwrap();
    assert_eq!(pairs(&engine), expected);
}

#[test]
fn every_flipped_bit_of_an_old_segment_is_noticed() {
    let dir = old_store(".ckpt");
    let path = dir.path().join("0000000007.seg");
    let whole = fs::read(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, bytes).unwrap();
        let opened = SingleNodeEngine::with_config(StoreConfig::at(dir.path()));
        assert!(opened.is_err(), "bit {bit} was flipped unnoticed");
    }
}
