//! Space and time: the disk space of overwrites, the cost of compaction for other operations, and
//! leaks. (The bench `open` measures opens.) Prints one line per number.
//!
//! Arguments name the parts to run: `settle`, `compacting`, `leak`; the default is all of them.
//! `HIGHTOWER_BENCH_KEYS` sets the number of keys (default 1,000,000), `HIGHTOWER_BENCH_RANDOM=1`
//! makes the keys random bytes instead of counted text, `HIGHTOWER_BENCH_ROUNDS` sets the rounds of
//! the part `leak` (default 1,000), `HIGHTOWER_BENCH_DIR` the place (default `/var/tmp`). "Disk" is
//! the room of all files of the store, as in `du`: segments, preallocated files, the
//! table, the manifest.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark")]

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hightower_engine::{CompactionConfig, SingleNodeEngine, StoreConfig};
use tempfile::TempDir;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn key(number: u64) -> [u8; 16] {
    static RANDOM: LazyLock<bool> = LazyLock::new(|| setting("HIGHTOWER_BENCH_RANDOM", 0) != 0);
    if *RANDOM {
        let mut zipf = Zipf { keys: 0.0, zeta: 0.0, eta: 0.0, state: number.wrapping_mul(0x2545_f491_4f6c_dd1d) };
        return (u128::from(zipf.uniform()) << 64 | u128::from(zipf.uniform())).to_be_bytes();
    }
    let mut key = *b"key/000000000000";
    let text = format!("{number:012}");
    key[4..].copy_from_slice(text.as_bytes());
    key
}

/// Zipfian numbers below `keys` with an exponent of 0.99, after Gray et al. (1994), scattered over
/// the keys.
struct Zipf {
    keys: f64,
    zeta: f64,
    eta: f64,
    state: u64,
}

impl Zipf {
    const THETA: f64 = 0.99;

    fn new(keys: u64) -> Self {
        let zeta = |n: u64| (1..=n).map(|rank| (rank as f64).powf(-Self::THETA)).sum::<f64>();
        let (all, two) = (zeta(keys), zeta(2));
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - Self::THETA)) / (1.0 - two / all);
        Self { keys: keys as f64, zeta: all, eta, state: 1 }
    }

    fn uniform(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank below the number of keys")]
    fn key(&mut self) -> u64 {
        let uniform = (self.uniform() >> 11) as f64 / (1_u64 << 53) as f64;
        let scaled = uniform * self.zeta;
        let rank = if scaled < 1.0 {
            0.0
        } else if scaled < 1.0 + 0.5_f64.powf(Self::THETA) {
            1.0
        } else {
            self.keys * (self.eta * uniform - self.eta + 1.0).powf(1.0 / (1.0 - Self::THETA))
        };
        (rank as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) % self.keys as u64
    }
}

fn du(dir: &Path, ends: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap());
    files
        .filter(|file| file.file_name().to_string_lossy().ends_with(ends))
        // A file that the background has removed meanwhile takes no room.
        .map(|file| file.metadata().map_or(0, |metadata| metadata.blocks() * 512))
        .sum()
}

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn say(engine: &SingleNodeEngine, dir: &Path, when: &str) {
    let stats = engine.stats();
    let log: u64 = stats.segments.iter().map(|segment| segment.len_bytes).sum();
    let live = stats.live_bytes as f64;
    let share = |bytes: u64| bytes as f64 / live;
    println!(
        "{when}: disk {:.3} x live; of that log {:.3}, table {:.3}, room made ready {:.3}; {} segments, live {} MB",
        share(du(dir, "")),
        share(log),
        share(du(dir, ".tbl")),
        share((du(dir, ".seg") + du(dir, ".spare")).saturating_sub(log)),
        stats.segments.len(),
        stats.live_bytes / 1_000_000
    );
}

/// Waits until the background has been idle for some seconds.
fn wait_until_idle(engine: &SingleNodeEngine) {
    let mut last = (0, Instant::now());
    while last.1.elapsed() < Duration::from_secs(6) {
        let stats = engine.stats().compaction;
        if stats.runs + stats.read_bytes != last.0 {
            last = (stats.runs + stats.read_bytes, Instant::now());
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// The 99.9th percentile of puts, and the gets per second beside them, over a time.
fn load(
    engine: &SingleNodeEngine,
    zipf: &mut Zipf,
    latencies: &mut Vec<Duration>,
    time: Duration,
    until: impl Fn() -> bool,
) -> (Duration, f64) {
    let (done, gets) = (AtomicBool::new(false), AtomicU64::new(0));
    let keys = engine.len() as u64;
    latencies.clear();
    let started = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = Zipf { state: 77, ..Zipf::new(1000) };
            while !done.load(Ordering::Relaxed) {
                engine.get_with(key(other.uniform() % keys), |value| assert_eq!(value.len(), 100)).unwrap();
                gets.fetch_add(1, Ordering::Relaxed);
            }
        });
        while started.elapsed() < time && !until() {
            // A steady rate for a disk, without contention for the processor: 64,000 per second.
            for _ in 0..64 {
                let key = key(zipf.key());
                let before = Instant::now();
                engine.put(key, [3; 100]).unwrap();
                latencies.push(before.elapsed());
            }
            thread::sleep(Duration::from_millis(1));
        }
        done.store(true, Ordering::Relaxed);
    });
    let elapsed = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    (latencies[latencies.len() * 999 / 1000], gets.into_inner() as f64 / elapsed)
}

fn main() {
    // `cargo bench` adds an argument of its own.
    let parts: Vec<String> = std::env::args().skip(1).filter(|part| !part.starts_with('-')).collect();
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let keys = setting("HIGHTOWER_BENCH_KEYS", 1_000_000);
    if is_wanted("settle") {
        settle(keys);
    }
    if is_wanted("compacting") {
        compacting(keys);
    }
    if is_wanted("leak") {
        leak(setting("HIGHTOWER_BENCH_ROUNDS", 1000));
    }
}

fn new_dir() -> TempDir {
    tempfile::tempdir_in(std::env::var("HIGHTOWER_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".into())).unwrap()
}

/// The default settings, with a shorter grace of tombstones.
fn config(dir: &Path) -> StoreConfig {
    let compaction = CompactionConfig::default().with_tombstone_grace(Duration::ZERO);
    StoreConfig::at(dir).with_compaction(compaction).with_compaction_interval(Duration::from_secs(1))
}

fn fill(engine: &SingleNodeEngine, zipf: &mut Zipf, keys: u64) {
    let started = Instant::now();
    (0..keys).for_each(|number| drop(engine.put(key(number), [1; 100])));
    (0..keys * 4).for_each(|_| drop(engine.put(key(zipf.key()), [2; 100])));
    (0..keys / 5).for_each(|number| drop(engine.delete(key(number * 5))));
    println!("filling: {:.1} s", started.elapsed().as_secs_f64());
}

/// Disk use after overwrites, when idle and after a full compaction; write amplification.
fn settle(keys: u64) {
    let dir = new_dir();
    let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
    fill(&engine, &mut Zipf::new(keys), keys);
    say(&engine, dir.path(), "busy");
    wait_until_idle(&engine);
    say(&engine, dir.path(), "idle (bar 1.5)");
    let stats = engine.stats();
    let written = keys as f64 * 5.0 * 136.0 + keys as f64 / 5.0 * 36.0;
    println!(
        "write amplification (bar 2.5): {:.2} ({} runs, {} MB copied)",
        1.0 + stats.compaction.written_bytes as f64 / written,
        stats.compaction.runs,
        stats.compaction.written_bytes / 1_000_000
    );
    let report = engine.run_compaction_now().unwrap();
    println!("full compaction: {:?}", report.elapsed);
    thread::sleep(Duration::from_secs(2));
    say(&engine, dir.path(), "after a full compaction (bar 1.1)");
    engine.close().unwrap();
    println!("closed: {} MB of files", du(dir.path(), "") / 1_000_000);
}

/// The cost of compaction for concurrent reads and writes.
fn compacting(keys: u64) {
    let dir = new_dir();
    let quiet = config(dir.path()).with_compaction_interval(Duration::ZERO).with_checkpoint_after_compaction(false);
    let engine = SingleNodeEngine::with_config(quiet).unwrap();
    let mut zipf = Zipf::new(keys);
    fill(&engine, &mut zipf, keys);
    engine.run_compaction_now().unwrap();
    // Touched beforehand, so that it does not count as the store's memory.
    let mut latencies = vec![Duration::ZERO; 1 << 20];
    let (p999_without, gets_without) = load(&engine, &mut zipf, &mut latencies, Duration::from_secs(6), || false);
    println!("without compaction: put p99.9 {p999_without:?}, {gets_without:.0} gets/s");
    let (p999_beside_work, gets_beside_work) = beside_a_busy_thread(&engine, &mut zipf, &mut latencies);
    println!(
        "beside a thread that computes in its registers: put p99.9 {p999_beside_work:?}, gets {:.2} x",
        gets_beside_work / gets_without
    );
    let before = resident_bytes();
    let (peak, is_done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(6) {
                engine.run_compaction_now().unwrap();
            }
            is_done.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::Relaxed) {
                peak.fetch_max(resident_bytes(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(5));
            }
        });
        let (p999, gets) =
            load(&engine, &mut zipf, &mut latencies, Duration::from_secs(60), || is_done.load(Ordering::Relaxed));
        println!("while compacting without pause: put p99.9 {p999:?}, {gets:.0} gets/s");
        println!(
            "ratios: put p99.9 {:.2} x (bar 3), gets {:.2} x (bar 0.8)",
            p999.as_secs_f64() / p999_without.as_secs_f64(),
            gets / gets_without
        );
    });
    let more = peak.into_inner().saturating_sub(before) as f64 / 1_048_576.0;
    println!("memory while compacting (bar 16): {more:.1} MiB more");
    let started = Instant::now();
    engine.close().unwrap();
    println!("close with a table: {:?}", started.elapsed());
}

/// The same beside a thread that only computes: the effect of a machine with fewer processors than
/// threads.
fn beside_a_busy_thread(engine: &SingleNodeEngine, zipf: &mut Zipf, latencies: &mut Vec<Duration>) -> (Duration, f64) {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 1_u64;
            while !is_done.load(Ordering::Relaxed) {
                for _ in 0..1000 {
                    number = black_box(number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17));
                }
            }
        });
        let figures = load(engine, zipf, latencies, Duration::from_secs(6), || false);
        is_done.store(true, Ordering::Relaxed);
        figures
    })
}

/// Rounds of overwrites, deletes, compaction and reopen: disk, open files and memory must stay
/// constant.
fn leak(rounds: u64) {
    const KEYS: u64 = 2000;
    let dir = new_dir();
    for round in 1..=rounds {
        let engine = SingleNodeEngine::with_config(config(dir.path())).unwrap();
        (0..KEYS).for_each(|number| drop(engine.put(key(number), [1; 100])));
        (0..KEYS).for_each(|number| drop(engine.put(key(number), [2; 100])));
        (0..KEYS / 2).for_each(|number| drop(engine.delete(key(number * 2))));
        engine.run_compaction_now().unwrap();
        assert_eq!(engine.len() as u64, KEYS / 2);
        engine.close().unwrap();
        drop(engine);
        if [rounds / 20, rounds / 4, rounds / 2, rounds].contains(&round) {
            println!(
                "round {round}: {} kB in {} files, {} open files, {} memory maps, {:.1} MiB of memory",
                du(dir.path(), "") / 1000,
                fs::read_dir(dir.path()).unwrap().count(),
                fs::read_dir("/proc/self/fd").unwrap().count(),
                fs::read_to_string("/proc/self/maps").unwrap().lines().count(),
                resident_bytes() as f64 / 1_048_576.0
            );
        }
    }
}
