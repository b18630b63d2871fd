//! A store larger than its memory: gets compared with bare reads of the device, and scans, check
//! and compaction compared with its sequential rate. One line per number, with the ratio to the
//! device in the same run, and the shares of the time: the thread ran, waited for a processor, or
//! waited for the device. On a busy machine only the first and the last describe the store.
//!
//! `HIGHTOWER_BENCH_KEYS` (default 800,000 values of 1,000 bytes) sets the size,
//! `HIGHTOWER_BENCH_MEMORY_MB` (default 256) the memory, `HIGHTOWER_BENCH_DIR` the place (default
//! `/var/tmp`), which must be on a disk. Each part runs in its own process and memory cgroup, after
//! the page cache is emptied; both need root.
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
/// A prime: steps of this length visit each key once.
const SHUFFLE: u64 = 618_034_003;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn keys() -> u64 {
    number("HIGHTOWER_BENCH_KEYS", 800_000)
}

fn config(dir: &Path) -> StoreConfig {
    StoreConfig::at(dir).with_compaction_interval(Duration::ZERO).with_checkpoint_after_compaction(false)
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

/// The begin of a part, and the times for which its thread had run and had waited for a processor.
struct Began {
    at: Instant,
    ran: [f64; 2],
}

/// The rate of a part per second; its duration, running time and wait for a processor, in seconds.
struct Took {
    rate: f64,
    seconds: f64,
    ran: [f64; 2],
}

/// The running time of this thread, and its wait for a processor, in seconds.
fn ran() -> [f64; 2] {
    let all = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    let mut all = all.split_whitespace().map(|nanoseconds| nanoseconds.parse::<f64>().unwrap() / 1e9);
    [all.next().unwrap(), all.next().unwrap()]
}

impl Began {
    fn now() -> Self {
        Self { at: Instant::now(), ran: ran() }
    }

    fn took(&self, work: f64) -> Took {
        let (seconds, now) = (self.at.elapsed().as_secs_f64(), ran());
        Took { rate: work / seconds, seconds, ran: [now[0] - self.ran[0], now[1] - self.ran[1]] }
    }
}

/// Runs a part.
fn part(dir: &Path, name: &str) -> Took {
    match name {
        "bare reads" => {
            let files: Vec<_> = segments(dir).iter().map(|path| File::open(path).unwrap()).collect();
            let mut page = [0; 4096];
            let began = Began::now();
            for number in 0..LOOKUPS {
                let file = &files[usize::try_from(mix(number) % files.len() as u64).unwrap()];
                let pages = (file.metadata().unwrap().len() / 4096).max(1);
                file.read_at(&mut page, mix(!number) % pages * 4096).unwrap();
            }
            began.took(LOOKUPS as f64)
        }
        "gets" => {
            let engine = SingleNodeEngine::with_config(config(dir).with_read_only(true)).unwrap();
            let began = Began::now();
            for number in 0..LOOKUPS {
                assert!(engine.get((mix(number) % keys()).to_be_bytes()).unwrap().is_some());
            }
            began.took(LOOKUPS as f64)
        }
        "sequential reads" => {
            let mut buffer = vec![0; 1 << 20];
            let (began, mut bytes) = (Began::now(), 0);
            for path in segments(dir) {
                let mut file = File::open(path).unwrap();
                while let read @ 1.. = file.read(&mut buffer).unwrap() {
                    bytes += read;
                }
            }
            began.took(bytes as f64 / 1e6)
        }
        "full scan" => {
            let engine = SingleNodeEngine::with_config(config(dir).with_read_only(true)).unwrap();
            let (began, mut bytes) = (Began::now(), 0);
            let mut range = engine.range(..).unwrap();
            let count = |key: &[u8], value: &[u8]| {
                bytes += key.len() + value.len();
                ControlFlow::Continue(())
            };
            range.for_each_pair(count).unwrap();
            began.took(bytes as f64 / 1e6)
        }
        "check" => {
            let bytes: u64 = segments(dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            let began = Began::now();
            assert!(
                check(&Components::default(), dir, CheckLevel::Checksums, &mut |_| ControlFlow::Continue(()))
                    .unwrap()
                    .is_whole()
            );
            began.took(bytes as f64 / 1e6)
        }
        // Reads everything, and writes half of it or all of it.
        "read two, write one" | "read one, write one" => {
            let mut buffer = vec![0; 1 << 20];
            let path = dir.join("copy");
            let mut copy = OpenOptions::new().create(true).truncate(true).write(true).open(&path).unwrap();
            let (began, mut bytes, mut pieces) = (Began::now(), 0, 0);
            for path in segments(dir) {
                let mut file = File::open(path).unwrap();
                while let read @ 1.. = file.read(&mut buffer).unwrap() {
                    bytes += read;
                    pieces += 1;
                    if pieces % 2 == 0 || name == "read one, write one" {
                        copy.write_all(&buffer[..read]).unwrap();
                    }
                }
            }
            copy.sync_data().unwrap();
            let took = began.took(bytes as f64 / 1e6);
            fs::remove_file(path).unwrap();
            took
        }
        "compaction" => {
            let bytes: u64 = segments(dir).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
            let engine = SingleNodeEngine::with_config(config(dir)).unwrap();
            let began = Began::now();
            engine.run_compaction_now().unwrap();
            let took = began.took(bytes as f64 / 1e6);
            engine.close().unwrap();
            took
        }
        other => unreachable!("{other}"),
    }
}

/// Limits the memory of this process; returns whether it could.
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

fn in_child(dir: &Path, name: &str) -> Took {
    let _synced = Command::new("sync").status();
    let is_empty = fs::write("/proc/sys/vm/drop_caches", "3").is_ok();
    let child = Command::new(std::env::current_exe().unwrap()).arg("--only").arg(dir).arg(name).output().unwrap();
    assert!(child.status.success() && is_empty, "{name}: {}", String::from_utf8_lossy(&child.stderr));
    let numbers = String::from_utf8_lossy(&child.stdout);
    let numbers: Vec<f64> = numbers.split_whitespace().map(|number| number.parse().unwrap()).collect();
    Took { rate: numbers[0], seconds: numbers[1], ran: [numbers[2], numbers[3]] }
}

impl Took {
    fn parts(&self) -> String {
        let [running, queued] = self.ran;
        let device = (self.seconds - running - queued).max(0.0);
        format!("{:.2} s: {running:.2} running, {queued:.2} for a processor, {device:.2} for the device", self.seconds)
    }
}

fn beside(dir: &Path, unit: &str, device: &str, parts: &[&str]) {
    let bare = in_child(dir, device);
    println!("{device}: {:.0} {unit} ({})", bare.rate, bare.parts());
    for name in parts {
        let found = in_child(dir, name);
        println!("{name}: {:.0} {unit}, {:.2} of the device ({})", found.rate, found.rate / bare.rate, found.parts());
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, only, dir, name] = &arguments[..]
        && only == "--only"
    {
        assert!(limit_memory(), "cannot create a memory cgroup");
        let Took { rate, seconds, ran: [running, queued] } = part(Path::new(dir), name);
        return println!("{rate} {seconds} {running} {queued}");
    }
    let place = std::env::var("HIGHTOWER_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".into());
    let temp = tempfile::tempdir_in(&place).unwrap();
    let dir = temp.path();
    let fill = |dir: &Path, keys: &mut dyn Iterator<Item = u64>| {
        let engine = SingleNodeEngine::with_config(config(dir)).unwrap();
        let mut value = [0; VALUE_BYTES];
        for key in keys {
            value[..8].copy_from_slice(&mix(key).to_be_bytes());
            engine.put(key.to_be_bytes(), value).unwrap();
        }
        engine.checkpoint().unwrap();
        engine.close().unwrap();
    };
    fill(dir, &mut (0..keys()));
    beside(dir, "a second", "bare reads", &["gets"]);
    beside(dir, "MB/s", "sequential reads", &["full scan", "check"]);
    // Half of the first records are overtaken.
    fill(dir, &mut (0..keys()).step_by(2));
    beside(dir, "MB/s", "read two, write one", &["compaction"]);
    beside(dir, "MB/s", "sequential reads", &["full scan"]);
    // Keys in random order, which compaction sorts.
    drop(temp);
    let temp = tempfile::tempdir_in(&place).unwrap();
    let dir = temp.path();
    fill(dir, &mut (0..keys()).map(|number| number * SHUFFLE % keys()));
    println!("keys in no order:");
    beside(dir, "MB/s", "read one, write one", &["compaction"]);
    beside(dir, "MB/s", "sequential reads", &["full scan"]);
}
