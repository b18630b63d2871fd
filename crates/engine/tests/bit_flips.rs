//! Each bit of a store's files flipped, one at a time: opening and reading notices it, or gives
//! what was there without it. Never anything else.
//!
//! Two images: one of a store that was closed, where a flip may cost nothing that is read without
//! an error; one of a store that was killed, where commits after the last sync, which nothing says
//! were durable, may be taken for a torn tail.
//!
//! `HIGHTOWER_TEST_IMAGE_BYTES` sets how many bytes of keys and values each image holds at least
//! (default 8,192), `HIGHTOWER_TEST_FLIP_STEP` which share of the bits is flipped: 1 for each
//! (default: every seventeenth, so that each bit of a byte has its turn), and
//! `HIGHTOWER_TEST_FLIP_FIRST` with which it begins (default 0), so that a long run can be cut into
//! pieces: 8 runs with step 8 and the firsts 0 to 7 flip each bit once.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test")]

mod common;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use common::{config, open_with, setting};
use hightower_engine::{AppendMode, Background, Durability, SingleNodeEngine, SnapshotEngine};
use hightower_segment::sim::SimFs;

const DIR: &str = "/store";

/// A store on disk, and the digests of what may be read from it.
struct Image {
    fs: SimFs,
    files: Vec<(PathBuf, Vec<u8>)>,
    allowed: HashSet<u64>,
    /// The lengths, key and value, of what is live and was promised: each bit of these counts.
    promised_len_bytes: Vec<usize>,
}

impl Image {
    /// A store to which `len_bytes` of keys and values were written, with a manifest, sealed
    /// segments, an open one and checkpoints; somewhat more than half of it is live.
    fn new(len_bytes: usize, is_closed: bool) -> Self {
        let fs = SimFs::new();
        let engine = open_with(&fs, config(AppendMode::Mapped), 3, Background::Caller).unwrap();
        let digest = |engine: &SingleNodeEngine| engine.snapshot_state().unwrap().digest();
        let mut digests = vec![digest(&engine)];
        // How many commits the last sync covers; some come after it, and say how far it went.
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

    /// Whether the flip that was just made is noticed.
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
            // Recovery for writing does more, and costs more: some of the time.
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
    // A flip in what is live and promised cannot be harmless; the others are of what is dead, not
    // written yet, or there twice.
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
