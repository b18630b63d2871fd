//! Flips each bit of a store's files, one at a time. Open or a read detects the flip, or the
//! content is the same as without it.
//!
//! Two images: one of a closed store, where no flip may change content that is read without an
//! error; one of a killed store, where commits after the last sync, which no record calls durable,
//! may count as a torn tail.
//!
//! `HIGHTOWER_TEST_IMAGE_BYTES` sets the minimum number of bytes of keys and values in an image
//! (default 8,192). `HIGHTOWER_TEST_FLIP_STEP` sets the distance of the flipped bits: 1 for all
//! (default 17, so that every bit position in a byte occurs). `HIGHTOWER_TEST_FLIP_FIRST` sets the
//! first bit (default 0), so that a long run can be divided: 8 runs with step 8 and first bits 0 to
//! 7 flip each bit once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use common::{config, open_with, setting};
use hightower_engine::{AppendMode, Background, Durability, SingleNodeEngine, SnapshotEngine};
use hightower_segment::sim::SimFs;

const DIR: &str = "/store";

/// A store on disk, and the digests of the content that may be read from it.
struct Image {
    fs: SimFs,
    files: Vec<(PathBuf, Vec<u8>)>,
    allowed: HashSet<u64>,
    /// The lengths of key and value of each live and promised record: every flip in these must be
    /// detected.
    promised_len_bytes: Vec<usize>,
}

impl Image {
    /// A store with `len_bytes` of written keys and values, a manifest, sealed segments, an open
    /// one and checkpoints; somewhat more than half of it is live.
    fn new(len_bytes: usize, is_closed: bool) -> Self {
        let fs = SimFs::new();
        let engine = open_with(&fs, config(AppendMode::Mapped), 3, Background::Caller).unwrap();
        let digest = |engine: &SingleNodeEngine| engine.snapshot_state().unwrap().digest();
        let mut digests = vec![digest(&engine)];
        // The number of commits that the last sync covers. Later records state how far it went.
        let mut synced = 0;
        let mut live = BTreeMap::new();
        let (mut written, mut number) = (0, 0);
        while written < len_bytes || number % 20 <= 5 {
            let key = format!("key/{}", number % (len_bytes / 120).max(1)).into_bytes();
            let value = vec![number.to_le_bytes()[0]; 40 + number % 50];
            let durability = if number % 20 == 0 { Durability::Sync } else { Durability::Os };
            written += key.len() + value.len();
            engine.put_with(&key, &value, durability).unwrap();
            digests.push(digest(&engine));
            live.insert(key.clone(), (key.len() + value.len(), digests.len() - 1));
            if durability == Durability::Sync {
                synced = digests.len() - 1;
            }
            if number % 9 == 0 {
                engine.delete(&key).unwrap();
                digests.push(digest(&engine));
                live.remove(&key);
            }
            if number % 50 == 30 {
                engine.checkpoint().unwrap();
            }
            number += 1;
        }
        if is_closed {
            engine.close().unwrap();
        }
        let fs = fs.after_kill();
        drop(engine);
        let files: Vec<_> = fs
            .names_in(Path::new(DIR))
            .unwrap()
            .into_iter()
            .map(|name| Path::new(DIR).join(name))
            .map(|path| (path.clone(), fs.read_file(&path).unwrap()))
            .collect();
        let promised = if is_closed { digests.len() - 1 } else { synced };
        let of_promised = live.into_values().filter(|(_, commit)| *commit <= promised).map(|(len, _)| len);
        let promised_len_bytes = of_promised.collect();
        let allowed = digests.split_off(promised).into_iter().collect();
        Self { fs, files, allowed, promised_len_bytes }
    }

    fn check(&self, engine: &SingleNodeEngine) -> Result<bool, String> {
        let Ok(state) = engine.snapshot_state() else { return Ok(true) };
        if self.allowed.contains(&state.digest()) { Ok(false) } else { Err("something else is read".into()) }
    }

    /// Opens and reads the image; returns whether it detects the flip.
    fn open(&self, can_write: bool) -> Result<bool, String> {
        let config = config(AppendMode::Mapped).with_read_only(!can_write);
        let fs = if can_write { self.fs.after_kill() } else { self.fs.clone() };
        match open_with(&fs, config, 4, Background::Caller) {
            Err(_) => Ok(true),
            Ok(engine) => self.check(&engine),
        }
    }
}

fn flip_everything(is_closed: bool) {
    let len_bytes = usize::try_from(setting("HIGHTOWER_TEST_IMAGE_BYTES", 8192)).unwrap();
    let image = Image::new(len_bytes, is_closed);
    let step = usize::try_from(setting("HIGHTOWER_TEST_FLIP_STEP", 17)).unwrap();
    let first = usize::try_from(setting("HIGHTOWER_TEST_FLIP_FIRST", 0)).unwrap();
    let (mut flips, mut noticed) = (0_u64, 0_u64);
    for (path, content) in &image.files {
        let mut bytes = content.clone();
        for bit in (first..content.len() * 8).step_by(step) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            image.fs.plant(path, &bytes);
            // Only some flips are opened for writing, because recovery for writing costs more.
            let can_write = flips.is_multiple_of(37);
            let is_noticed = image.open(can_write).unwrap_or_else(|error| {
                panic!(
                    "{} with bit {bit} flipped (closed: {is_closed}, for writing: {can_write}): {error}",
                    path.display()
                )
            });
            flips += 1;
            noticed += u64::from(is_noticed);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        image.fs.plant(path, content);
    }
    let kind = if is_closed { "closed" } else { "killed" };
    println!("a store that was {kind}: {flips} flipped bits, {noticed} noticed, the others harmless, 0 violations");
    assert!(flips * step as u64 >= len_bytes as u64 * 8, "the image is too short: {flips} bits");
    // A flip in live and promised data cannot be harmless; the others are in dead, unwritten or
    // redundant data.
    let least: usize = image.promised_len_bytes.iter().map(|len| len * 8 / step).sum();
    assert!(least * step >= len_bytes * 8 / 3, "the image holds too little: {least} bits are live and promised");
    assert!(noticed >= least as u64, "{noticed} of {flips} noticed, {least} are of what is live and promised");
}

#[test]
fn of_a_store_that_was_closed() {
    flip_everything(true);
}

#[test]
fn of_a_store_that_was_killed() {
    flip_everything(false);
}
