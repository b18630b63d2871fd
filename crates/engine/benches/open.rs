//! The time of an open: after a clean close, and after a kill without a table; with two cores
//! and with one; compared with the rates of the page cache and of the device for the same files.
//! One line per number.
//!
//! `HIGHTOWER_BENCH_KEYS` (default 1,000,000) and `HIGHTOWER_BENCH_VALUE_BYTES` (default 100) set
//! the size, `HIGHTOWER_BENCH_DIR` the place. `taskset` removes one core, in a separate process.
//! The device is measured only as root, who may empty the page cache.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark")]

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hightower_engine::{SingleNodeEngine, StoreConfig};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// 16 pseudorandom bytes.
fn key(number: u64) -> [u8; 16] {
    let mix = |seed: u64| {
        let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    };
    (u128::from(mix(number)) << 64 | u128::from(mix(!number))).to_be_bytes()
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir).with_compaction_interval(Duration::ZERO).with_checkpoint_after_compaction(false)
}

fn files(dir: &Path, ends: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    all.filter(|path| path.to_string_lossy().ends_with(ends)).collect()
}

/// Reads all segments through the page cache; returns the time and the number of bytes.
fn read_log(dir: &Path) -> (Duration, u64) {
    let mut buffer = vec![0; 1 << 20];
    let (started, mut bytes) = (Instant::now(), 0);
    for path in files(dir, ".seg") {
        let mut file = File::open(path).unwrap();
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => break,
                read => bytes += read as u64,
            }
        }
    }
    (started.elapsed(), bytes)
}

/// Empties the page cache; returns whether it could.
fn empty_page_cache() -> bool {
    let synced = Command::new("sync").status();
    synced.is_ok_and(|status| status.success()) && fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Opens the store read-only, without changing it. The best of some rounds; one round with an empty
/// page cache.
fn open(dir: &Path, what: &str) {
    let rounds = if what.contains("cold") { 1 } else { 5 };
    let mut best = Duration::MAX;
    let mut first_get = Duration::MAX;
    let mut keys = 0;
    for _ in 0..rounds {
        let engine = SingleNodeEngine::with_config(config(dir).with_read_only(true)).unwrap();
        best = best.min(engine.open_report().elapsed);
        keys = engine.len();
        let started = Instant::now();
        assert!(engine.get(key(keys as u64 / 2)).unwrap().is_some());
        first_get = first_get.min(started.elapsed());
    }
    let log: u64 = files(dir, ".seg").iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    println!(
        "{what}: {best:?} for {keys} keys, {:.0} ns a key, {:.0} MB of log a second; first get {first_get:?}",
        best.as_nanos() as f64 / keys as f64,
        log as f64 / best.as_secs_f64() / 1e6
    );
}

fn open_in_child(dir: &Path, what: &str, cores: &str) {
    let this = std::env::current_exe().unwrap();
    let status = Command::new("taskset").arg("-c").arg(cores).arg(this).arg("--only").arg(dir).arg(what).status();
    match status {
        Ok(status) => assert!(status.success(), "{what}: {status}"),
        Err(error) => println!("{what}: taskset: {error}"),
    }
}

/// A copy of an open store, from a moment without background changes of files.
fn copy_at_rest(dir: &Path) -> tempfile::TempDir {
    let manifest = || fs::read(dir.join("MANIFEST")).unwrap();
    loop {
        let before = manifest();
        std::thread::sleep(Duration::from_secs(1));
        let copy = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
        for path in files(dir, "").into_iter().filter(|path| path.is_file()) {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        if manifest() == before {
            return copy;
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, only, dir, what] = &arguments[..]
        && only == "--only"
    {
        return open(Path::new(dir), what);
    }
    let (keys, value_len) = (number("HIGHTOWER_BENCH_KEYS", 1_000_000), number("HIGHTOWER_BENCH_VALUE_BYTES", 100));
    let place = std::env::var("HIGHTOWER_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".into());
    let dir = tempfile::tempdir_in(place).unwrap();
    let dir = dir.path();
    let value = vec![7; usize::try_from(value_len).unwrap()];
    let engine = SingleNodeEngine::with_config(config(dir)).unwrap();
    (0..keys).for_each(|number| {
        engine.put(key(number), &value).unwrap();
    });
    let started = Instant::now();
    engine.close().unwrap();
    println!("close with a table: {:?}", started.elapsed());
    drop(engine);
    open_in_child(dir, "clean close, two cores", "0,1");
    open_in_child(dir, "clean close, one core", "0");
    files(dir, ".tbl").iter().for_each(|path| fs::remove_file(path).unwrap());
    let say = |what: &str, (time, bytes): (Duration, u64)| {
        println!(
            "{what}: {:.0} MB in {time:?}, {:.0} MB/s",
            bytes as f64 / 1e6,
            bytes as f64 / time.as_secs_f64() / 1e6
        );
    };
    say("page cache", (0..3).map(|_| read_log(dir)).min().unwrap());
    open_in_child(dir, "no table, two cores", "0,1");
    open_in_child(dir, "no table, one core", "0");
    for _ in 0..3 {
        if empty_page_cache() {
            say("device", read_log(dir));
        }
        if empty_page_cache() {
            open_in_child(dir, "no table, cold, two cores", "0,1");
        }
    }
    // The state after a kill: the last segment open, and no table.
    let engine = SingleNodeEngine::with_config(config(dir)).unwrap();
    (0..keys / 4).for_each(|number| {
        engine.put(key(number), &value).unwrap();
    });
    let tail = copy_at_rest(dir);
    files(tail.path(), ".spare").iter().for_each(|path| fs::remove_file(path).unwrap());
    files(tail.path(), ".tbl").iter().for_each(|path| fs::remove_file(path).unwrap());
    open_in_child(tail.path(), "killed, no table, two cores", "0,1");
}
