//! A store that is larger than the memory it may use: gets beside bare reads of the device, and scans, check and compaction beside its sequential rate.
//! One line per number, with the ratio to the device in the same run.
//!
//! `HIGHTOWER_BENCH_KEYS` (default 800,000 values of 1,000 bytes) sets the size, `HIGHTOWER_BENCH_MEMORY_MB` (default 256) the memory,
//! `HIGHTOWER_BENCH_DIR` the place (default `/var/tmp`), which must be on a disk. Each part runs in a process and a memory cgroup of its own, after the page cache
//! was emptied; both take root.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark")]

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hightower_engine::{CheckLevel, Components, SingleNodeEngine, StoreConfig, check};

const VALUE_BYTES: usize = 1000;
const LOOKUPS: u64 = 4000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn keys() -> u64 {
    number("HIGHTOWER_BENCH_KEYS", 800_000)
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig { compaction_interval: Duration::ZERO, emit_snapshot_after_compaction: false, ..StoreConfig::at(dir) }
}

fn mix(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
    let mut all: Vec<_> = all.filter(|path| path.extension().is_some_and(|end| end == "seg")).collect();
    all.sort();
    all
}

/// Runs a part, and gives how much it did each second.
fn part(dir: &Path, name: &str) -> f64 {
    let rate = |work: f64, started: Instant| work / started.elapsed().as_secs_f64();
    match name {
        "bare reads" => {
            let files: Vec<_> = segments(dir).iter().map(|path| File::open(path).unwrap()).collect();
            let mut page = [0; 4096];
            let started = Instant::now();
            for number in 0..LOOKUPS {
                let file = &files[usize::try_from(mix(number) % files.len() as u64).unwrap()];
                let pages = (file.metadata().unwrap().len() / 4096).max(1);
                file.read_at(&mut page, mix(!number) % pages * 4096).unwrap();
            }
            rate(LOOKUPS as f64, started)
        }
        "gets" => {
            let engine = SingleNodeEngine::with_config(StoreConfig { read_only: true, ..config(dir) }).unwrap();
            let started = Instant::now();
            for number in 0..LOOKUPS {
                assert!(engine.get((mix(number) % keys()).to_be_bytes()).unwrap().is_some());
            }
            rate(LOOKUPS as f64, started)
        }
        "sequential reads" => {
            let mut buffer = vec![0; 1 << 20];
            let (started, mut bytes) = (Instant::now(), 0);
            for path in segments(dir) {
                let mut file = File::open(path).unwrap();
                while let read @ 1.. = file.read(&mut buffer).unwrap() {
                    bytes += read;
                }
            }
            rate(bytes as f64 / 1e6, started)
        }
        "full scan" => {
            let engine = SingleNodeEngine::with_config(StoreConfig { read_only: true, ..config(dir) }).unwrap();
            let (started, mut bytes) = (Instant::now(), 0);
            let mut range = engine.range::<&[u8]>(..).unwrap();
            let count = |key: &[u8], value: &[u8]| {
                bytes += key.len() + value.len();
                ControlFlow::Continue(())
            };
            range.for_each_pair(count).unwrap();
            rate(bytes as f64 / 1e6, started)
        }
        "check" => {
            let bytes: u64 = segments(dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            let started = Instant::now();
            assert!(
                check(&Components::default(), dir, CheckLevel::Checksums, &mut |_| ControlFlow::Continue(()))
                    .unwrap()
                    .is_whole()
            );
            rate(bytes as f64 / 1e6, started)
        }
        // Reads all, and writes half of it again.
        "read two, write one" => {
            let mut buffer = vec![0; 1 << 20];
            let path = dir.join("copy");
            let mut copy = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
            let (started, mut bytes, mut pieces) = (Instant::now(), 0, 0);
            for path in segments(dir) {
                let mut file = File::open(path).unwrap();
                while let read @ 1.. = file.read(&mut buffer).unwrap() {
                    bytes += read;
                    pieces += 1;
                    if pieces % 2 == 0 {
                        copy.write_all(&buffer[..read]).unwrap();
                    }
                }
            }
            copy.sync_data().unwrap();
            let rate = rate(bytes as f64 / 1e6, started);
            fs::remove_file(path).unwrap();
            rate
        }
        "compaction" => {
            let bytes: u64 = segments(dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            let engine = SingleNodeEngine::with_config(config(dir)).unwrap();
            let started = Instant::now();
            engine.run_compaction_now().unwrap();
            let rate = rate(bytes as f64 / 1e6, started);
            engine.close().unwrap();
            rate
        }
        other => unreachable!("{other}"),
    }
}

/// Puts this process under a limit of memory; says whether that could be done.
fn limit_memory() -> bool {
    let bytes = (number("HIGHTOWER_BENCH_MEMORY_MB", 256) << 20).to_string();
    let own = std::process::id().to_string();
    [
        ("/sys/fs/cgroup/memory/hightower-bench", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup/hightower-bench", "memory.max"),
    ]
    .iter()
    .any(|(group, limit)| {
        let group = Path::new(group);
        let made = fs::create_dir(group).is_ok() || group.exists();
        made && fs::write(group.join(limit), &bytes).is_ok() && fs::write(group.join("cgroup.procs"), &own).is_ok()
    })
}

fn in_child(dir: &Path, name: &str) -> f64 {
    let _synced = Command::new("sync").status();
    let is_empty = fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
    let child = Command::new(std::env::current_exe().unwrap()).arg("--only").arg(dir).arg(name).output().unwrap();
    assert!(child.status.success() && is_empty, "{name}: {}", String::from_utf8_lossy(&child.stderr));
    String::from_utf8_lossy(&child.stdout).trim().parse().unwrap()
}

fn beside(dir: &Path, unit: &str, device: &str, parts: &[&str]) {
    let bare = in_child(dir, device);
    println!("{device}: {bare:.0} {unit}");
    for name in parts {
        let found = in_child(dir, name);
        println!("{name}: {found:.0} {unit}, {:.2} of the device", found / bare);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, only, dir, name] = &arguments[..]
        && only == "--only"
    {
        assert!(limit_memory(), "no memory cgroup can be made");
        return println!("{}", part(Path::new(dir), name));
    }
    let place = std::env::var("HIGHTOWER_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".into());
    let temp = tempfile::tempdir_in(place).unwrap();
    let dir = temp.path();
    let fill = |step: usize| {
        let engine = SingleNodeEngine::with_config(config(dir)).unwrap();
        let mut value = [0; VALUE_BYTES];
        for key in (0..keys()).step_by(step) {
            value[..8].copy_from_slice(&mix(key).to_be_bytes());
            engine.put(key.to_be_bytes(), value).unwrap();
        }
        engine.checkpoint().unwrap();
        engine.close().unwrap();
    };
    fill(1);
    beside(dir, "a second", "bare reads", &["gets"]);
    beside(dir, "MB/s", "sequential reads", &["full scan", "check"]);
    // Half of the first records are overtaken.
    fill(2);
    beside(dir, "MB/s", "read two, write one", &["compaction"]);
    beside(dir, "MB/s", "sequential reads", &["full scan"]);
}
