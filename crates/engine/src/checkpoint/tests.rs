//! The encoding of a checkpoint: golden bytes, lookups in place, and damaged input.

use std::fmt::Write as _;
use std::path::PathBuf;

use hightower_segment::{Fs, RealFs};
use hightower_state::{Change, CommandKind, ConcurrentKvState};

use crate::checkpoint::block::{BlockCursor, EntryValue};
use crate::checkpoint::codec::{Checkpoint, CheckpointError, CheckpointHeader, Covered};
use crate::checkpoint::write::{Moment, Sink, write_all};
use crate::place::Place;

fn key(number: u32) -> Vec<u8> {
    format!("key/{number:05}").repeat(1 + number as usize % 3).into_bytes()
}

/// The file for a number of keys; every seventh is a tombstone.
fn file(keys: u32) -> Vec<u8> {
    let state = ConcurrentKvState::<Place>::new();
    let mut covered =
        Covered { id: 7, len_bytes: 1 << 20, salt: 99, live_records: 0, live_bytes: 0, tombstone_bytes: 0 };
    for number in 0..keys {
        let kind = if number % 7 == 6 { CommandKind::Delete } else { CommandKind::Set };
        let location = Place { segment: 7, offset: 64 + number * 40 };
        let key = key(number);
        let version = 1000 + u64::from(number);
        state.writer().replay(&Change { key: &key, version, kind, location, len_bytes: 40 });
        covered.live_records += 1;
        covered.live_bytes += 40;
        covered.tombstone_bytes += if kind == CommandKind::Delete { 40 } else { 0 };
    }
    state.writer().resume(5000).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("test.ckpt.tmp");
    let moment = Moment { state: state.snapshot(), max_version: 77_000, covered: vec![covered] };
    let sink = Sink::new(RealFs.open_dir(dir.path()).unwrap().create_new("test.ckpt.tmp").unwrap(), path.clone());
    let len = write_all(sink, [5; 16], moment).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len() as u64, len);
    bytes
}

/// Key and value of every entry.
fn walk(bytes: &[u8]) -> Result<Vec<(Vec<u8>, EntryValue)>, CheckpointError> {
    let checkpoint = Checkpoint::open(bytes)?;
    let mut entries = Vec::new();
    let mut cursor = BlockCursor::new();
    for number in 0..checkpoint.header.blocks() {
        cursor.begin(checkpoint.block(number)?)?;
        while cursor.advance()? {
            entries.push((cursor.key().to_vec(), cursor.entry().value));
        }
    }
    Ok(entries)
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[test]
fn the_bytes_are_the_golden_ones() {
    let golden = golden("checkpoint.txt");
    let mut text = String::new();
    for keys in [0, 3] {
        write!(text, "{keys} keys ").unwrap();
        file(keys).iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
        text.push('\n');
    }
    // Regenerate it only after raising the version.
    if std::env::var_os("HIGHTOWER_REGENERATE_GOLDEN").is_some() {
        std::fs::write(&golden, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(golden).unwrap(), text);
}

#[test]
fn every_key_is_found_in_place() {
    for keys in [1, 127, 128, 129, 1000] {
        let bytes = file(keys);
        let entries = walk(&bytes).unwrap();
        assert_eq!(entries.len(), keys as usize);
        assert!(entries.is_sorted_by(|a, b| a.0 < b.0));
        let checkpoint = Checkpoint::open(&bytes).unwrap();
        let mut cursor = BlockCursor::new();
        for (key, value) in &entries {
            assert_eq!(checkpoint.find(key, &mut cursor), Ok(true));
            assert_eq!((cursor.key(), cursor.entry().value), (&key[..], *value));
            for absent in [[key, &b"\0"[..]].concat(), key[..key.len() - 1].to_vec()] {
                assert_eq!(checkpoint.find(&absent, &mut cursor), Ok(false));
            }
        }
        let (_, first) = entries.iter().find(|(found, _)| *found == key(0)).unwrap();
        assert_eq!((first.version, first.covered, first.offset, first.len_bytes), (1000, 0, 64, 40));
        assert_eq!(entries.iter().filter(|(_, value)| value.is_tombstone).count(), keys as usize / 7);
    }
}

#[test]
fn a_flipped_bit_or_a_missing_byte_is_noticed_wherever_it_is() {
    let bytes = file(300);
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << (at % 8);
        assert!(walk(&damaged).is_err(), "at {at}");
        assert!(walk(&bytes[..at]).is_err(), "cut at {at}");
    }
    assert!(walk(&[&bytes[..], &[0]].concat()).is_err());
}

#[test]
fn hostile_headers_with_right_checksums_neither_panic_nor_allocate() {
    let bytes = file(300);
    let good = CheckpointHeader::decode(&bytes).unwrap();
    let numbers = [0, 1, 127, 128, 300, 4096, u64::from(u32::MAX), u64::MAX / 24, u64::MAX - 1, u64::MAX];
    for number in numbers {
        for header in [
            CheckpointHeader { entries: number, ..good },
            CheckpointHeader { segments_at: number, ..good },
            CheckpointHeader { index_at: number, ..good },
            CheckpointHeader { segments: u32::try_from(number & 0xffff_ffff).unwrap(), ..good },
        ] {
            let mut hostile = bytes.clone();
            hostile[..128].copy_from_slice(&header.encode());
            assert!(walk(&hostile).is_err() || header == good);
            if let Ok(checkpoint) = Checkpoint::open(&hostile) {
                let _ = checkpoint.find(b"key/00001", &mut BlockCursor::new());
            }
        }
    }
}
