//! Space and time: what overwriting costs on disk, what compaction costs others, how fast a store opens. One run, no threads but the
//! store's own and those that are measured; prints one line per number. `HIGHTOWER_BENCH_KEYS` sets the number of keys (default 1,000,000).
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::cast_precision_loss, reason = "a benchmark")]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hightower_engine::{CheckpointUse, CompactionConfig, SingleNodeEngine, StoreConfig};

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key/000000000000";
    let text = format!("{number:012}");
    key[4..].copy_from_slice(text.as_bytes());
    key
}

/// Numbers below `keys`, the small ones often, scattered over the keys: Zipf with an exponent of 0.99, as Gray et al. (1994) draw it.
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
        .map(|file| file.metadata().unwrap().blocks() * 512)
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
    println!(
        "{when}: log {:.3} x live, segment files on disk {:.3} x, checkpoint {:.3} x; {} segments, live {} MB",
        log as f64 / live,
        (du(dir, ".seg") + du(dir, ".spare")) as f64 / live,
        du(dir, ".ckpt") as f64 / live,
        stats.segments.len(),
        stats.live_bytes / 1_000_000
    );
}

/// Returns once the background has had nothing to do for some seconds.
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

/// The latency below which 99.9 % of puts stay, and gets per second beside them, over so long.
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
            let key = key(zipf.key());
            let before = Instant::now();
            engine.put(key, [3; 100]).unwrap();
            latencies.push(before.elapsed());
            // A steady rate that a disk can take, not a race.
            while before.elapsed() < Duration::from_micros(8) {}
        }
        done.store(true, Ordering::Relaxed);
    });
    let elapsed = started.elapsed().as_secs_f64();
    latencies.sort_unstable();
    (latencies[latencies.len() * 999 / 1000], gets.into_inner() as f64 / elapsed)
}

fn main() {
    let keys: u64 = std::env::var("HIGHTOWER_BENCH_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(1_000_000);
    let dir = tempfile::tempdir_in(std::env::var("HIGHTOWER_BENCH_DIR").unwrap_or_else(|_| "/var/tmp".into())).unwrap();
    let compaction = CompactionConfig { tombstone_grace: Duration::ZERO, ..CompactionConfig::default() };
    let config = StoreConfig { compaction, compaction_interval: Duration::from_secs(1), ..StoreConfig::at(dir.path()) };
    let engine = SingleNodeEngine::with_config(config.clone()).unwrap();
    let mut zipf = Zipf::new(keys);
    let started = Instant::now();
    (0..keys).for_each(|number| drop(engine.put(key(number), [1; 100])));
    (0..keys * 4).for_each(|_| drop(engine.put(key(zipf.key()), [2; 100])));
    (0..keys / 5).for_each(|number| drop(engine.delete(key(number * 5))));
    println!("filling: {:.1} s", started.elapsed().as_secs_f64());
    wait_until_idle(&engine);
    say(&engine, dir.path(), "idle");
    let stats = engine.stats();
    let written = keys as f64 * 5.0 * 136.0 + keys as f64 / 5.0 * 36.0;
    println!(
        "write amplification: {:.2} ({} runs, {} MB copied)",
        1.0 + stats.compaction.written_bytes as f64 / written,
        stats.compaction.runs,
        stats.compaction.written_bytes / 1_000_000
    );
    let report = engine.run_compaction_now().unwrap();
    println!("full compaction: {:?}", report.elapsed);
    thread::sleep(Duration::from_secs(1));
    say(&engine, dir.path(), "after a full compaction");

    let mut quiet = StoreConfig { compaction_interval: Duration::ZERO, ..config };
    quiet.emit_snapshot_after_compaction = false;
    drop(engine);
    let engine = SingleNodeEngine::with_config(quiet.clone()).unwrap();
    // Touched beforehand, so that it does not count as the store's memory.
    let mut latencies = vec![Duration::ZERO; 1 << 20];
    let (p999, gets) = load(&engine, &mut zipf, &mut latencies, Duration::from_secs(6), || false);
    println!("without compaction: put p99.9 {p999:?}, {gets:.0} gets/s");
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
    });
    println!("memory while compacting: {:.1} MiB more", peak.into_inner().saturating_sub(before) as f64 / 1048576.0);
    let started = Instant::now();
    engine.close().unwrap();
    println!("close with a checkpoint: {:?}", started.elapsed());
    drop(engine);
    for round in 0..3 {
        let engine = SingleNodeEngine::with_config(quiet.clone()).unwrap();
        let report = engine.open_report();
        let keys = engine.len();
        println!(
            "open {round} with a checkpoint: {:?} for {keys} keys, {:?}",
            report.elapsed,
            matches!(report.checkpoint, CheckpointUse::Loaded { .. })
        );
    }
    for file in fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()) {
        if file.extension().is_some_and(|end| end == "ckpt") {
            fs::remove_file(file).unwrap();
        }
    }
    let log = du(dir.path(), ".seg");
    let started = Instant::now();
    for file in fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()) {
        std::hint::black_box(fs::read(file).unwrap().len());
    }
    println!("reading {} MB of files: {:?}", log / 1_000_000, started.elapsed());
    let engine = SingleNodeEngine::with_config(quiet).unwrap();
    println!("open without a checkpoint: {:?}", engine.open_report().elapsed);
}
