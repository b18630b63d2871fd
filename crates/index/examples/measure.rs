//! Measures quantities beyond single operations: memory compared with the allocator, the slowest
//! insert, and lookups beside a writer.
//!
//! ```sh
//! cargo run --release -p hightower-index --example measure          # 1 M keys
//! HIGHTOWER_BENCH_KEYS=10000000 cargo run --release -p hightower-index --example measure
//! HIGHTOWER_BENCH_CLOCK=cpu ...                                     # thread time instead of wall time in the table
//! HIGHTOWER_BENCH_SHAPE=path ...                                    # one of: decimal, random16, path
//! HIGHTOWER_BENCH_ONLY=pauses,beside ...                            # some of: memory, pin, table, others (a table with more maps), bulk, pauses, beside
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::print_stdout,
    clippy::disallowed_methods
)]

#[path = "../benches/support/mod.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use support::{Hightower, Keys, SHAPES, Shape, Sharded, Skip, Subject, Tree};

/// The system's allocator, with a count of the allocated bytes.
struct Counting;

static HELD_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD_BYTES.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        HELD_BYTES.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() {
    let count = std::env::var("HIGHTOWER_BENCH_KEYS").ok().and_then(|keys| keys.parse().ok()).unwrap_or(1_000_000);
    let only = std::env::var("HIGHTOWER_BENCH_ONLY").unwrap_or_default();
    let wanted = |part: &str| only.is_empty() || only.split(',').any(|each| each == part);
    let shape = std::env::var("HIGHTOWER_BENCH_SHAPE").unwrap_or_default();
    let shapes: Vec<Shape> = SHAPES.into_iter().filter(|each| shape.is_empty() || each.name() == shape).collect();
    println!("{count} keys");
    if wanted("memory") {
        shapes.iter().for_each(|shape| memory(*shape, count));
    }
    if wanted("pin") {
        pins();
    }
    let with_others = wanted("others");
    if wanted("table") || with_others {
        shapes.iter().for_each(|shape| table(*shape, count, with_others));
    }
    if wanted("bulk") {
        shapes.iter().for_each(|shape| bulk(*shape, count));
    }
    if wanted("pauses") {
        shapes.iter().for_each(|shape| pauses(*shape, count));
    }
    if wanted("beside") {
        shapes.iter().for_each(|shape| beside(*shape, count));
    }
}

fn fill<S: Subject>(keys: &Keys) -> S {
    let mut subject = S::empty();
    keys.iter().enumerate().for_each(|(value, key)| subject.insert(key, value as u64));
    subject
}

fn memory(shape: Shape, count: usize) {
    let keys = Keys::new(shape, 0, count, 1);
    let before = HELD_BYTES.load(Relaxed);
    let mut subject: Hightower = fill(&keys);
    let held = HELD_BYTES.load(Relaxed) - before;
    let said = subject.map.memory_bytes();
    let bytes_per_key = held as f64 / count as f64;
    println!(
        "memory  {:9} {bytes_per_key:6.1} B per key by the allocator, memory_bytes is {:+.2} %",
        shape.name(),
        (said as f64 / held as f64 - 1.0) * 100.0
    );
    for (at, key) in keys.iter().enumerate() {
        if at % 10 != 0 {
            subject.writer.remove(key);
        }
    }
    while subject.writer.reclaim() > 0 {}
    let held = HELD_BYTES.load(Relaxed) - before;
    println!(
        "memory  {:9} {:6.1} B per key left after removing 9 of 10, memory_bytes is {:+.2} %",
        shape.name(),
        held as f64 / (count / 10) as f64,
        (subject.map.memory_bytes() as f64 / held as f64 - 1.0) * 100.0
    );
}

/// Wall time, or with `HIGHTOWER_BENCH_CLOCK=cpu` the thread's own time, which a busy machine
/// distorts less.
enum Stopwatch {
    Wall(Instant),
    #[cfg(target_os = "linux")]
    Thread(Duration),
}

impl Stopwatch {
    fn start() -> Self {
        static IS_CPU: LazyLock<bool> =
            LazyLock::new(|| std::env::var("HIGHTOWER_BENCH_CLOCK").is_ok_and(|clock| clock == "cpu"));
        #[cfg(target_os = "linux")]
        if *IS_CPU {
            return Self::Thread(thread_time());
        }
        Self::Wall(Instant::now())
    }

    fn nanos_per(&self, count: usize) -> f64 {
        let elapsed = match self {
            Self::Wall(start) => start.elapsed(),
            #[cfg(target_os = "linux")]
            Self::Thread(start) => thread_time() - *start,
        };
        elapsed.as_nanos() as f64 / count as f64
    }
}

#[cfg(target_os = "linux")]
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes into the given time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

/// Nanoseconds per operation of one map: the best of several rounds.
struct Figures {
    insert: f64,
    get: f64,
    miss: f64,
    overwrite: f64,
    step: f64,
}

impl Figures {
    const NONE: Self = Self { insert: f64::MAX, get: f64::MAX, miss: f64::MAX, overwrite: f64::MAX, step: f64::MAX };

    fn columns(&self) -> [f64; 5] {
        [self.insert, self.get, self.miss, self.overwrite, self.step]
    }

    fn print(&self, shape: Shape, name: &str) {
        let columns =
            self.columns().map(|each| if each == f64::MAX { "      –".into() } else { format!("{each:7.1}") });
        println!("ns      {:9} {name:20} {}", shape.name(), columns.join(" "));
    }
}

/// The parameters of the rounds of a table.
struct Workload {
    keys: Keys,
    queries: Keys,
    absent: Keys,
}

impl Workload {
    fn new(shape: Shape, count: usize) -> Self {
        Self {
            keys: Keys::new(shape, 0, count, 1),
            queries: Keys::new(shape, 0, count, 2),
            absent: Keys::new(shape, count as u64, count.min(1_000_000), 3),
        }
    }
}

/// Times of single operations. The two compared maps alternate, so that a slow phase of the machine
/// affects both.
fn table(shape: Shape, count: usize, with_others: bool) {
    const ROUNDS: usize = 4;
    let load = Workload::new(shape, count);
    println!(
        "ns      {:9} {:20} {:>7} {:>7} {:>7} {:>7} {:>7}",
        shape.name(),
        "",
        "insert",
        "get",
        "absent",
        "overwr.",
        "step"
    );
    let (mut ours, mut theirs) = (Figures::NONE, Figures::NONE);
    for _ in 0..if count <= 1_000_000 { 3 } else { 1 } {
        let mut first = filled::<Hightower>(&load, &mut ours);
        let mut second = filled::<Sharded>(&load, &mut theirs);
        for _ in 0..ROUNDS {
            round(&mut first, &load, &mut ours);
            round(&mut second, &load, &mut theirs);
        }
    }
    ours.print(shape, Hightower::NAME);
    theirs.print(shape, Sharded::NAME);
    let ratios: Vec<_> = ours.columns().into_iter().zip(theirs.columns()).take(4).collect();
    let ratios: Vec<_> = ratios.into_iter().map(|(ours, theirs)| format!("{:7.2}", ours / theirs)).collect();
    println!("ns      {:9} {:20} {}", shape.name(), "ratio", ratios.join(" "));
    if with_others {
        row::<Skip>(shape, &load);
        row::<Tree>(shape, &load);
    }
}

fn row<S: Subject>(shape: Shape, load: &Workload) {
    let mut figures = Figures::NONE;
    let mut subject = filled::<S>(load, &mut figures);
    round(&mut subject, load, &mut figures);
    figures.print(shape, S::NAME);
}

fn filled<S: Subject>(load: &Workload, figures: &mut Figures) -> S {
    let start = Stopwatch::start();
    let subject = fill(&load.keys);
    figures.insert = figures.insert.min(start.nanos_per(load.keys.len()));
    subject
}

fn round<S: Subject>(subject: &mut S, load: &Workload, figures: &mut Figures) {
    let time = |best: &mut f64, run: &mut dyn FnMut() -> usize| {
        let start = Stopwatch::start();
        let count = run();
        *best = best.min(start.nanos_per(count));
    };
    time(&mut figures.get, &mut || load.queries.iter().filter(|key| black_box(subject.get(key)).is_some()).count());
    time(&mut figures.miss, &mut || load.absent.iter().filter(|key| black_box(subject.get(key)).is_none()).count());
    time(&mut figures.overwrite, &mut || load.queries.iter().map(|key| subject.overwrite(key, 1)).count());
    if S::ORDERED {
        time(&mut figures.step, &mut || {
            black_box(subject.scan());
            load.keys.len()
        });
    }
}

/// The cost of a guard, which is part of every lookup.
fn pins() {
    const PINS: usize = 10_000_000;
    let start = Stopwatch::start();
    (0..PINS).for_each(|_| drop(black_box(hightower_index::pin())));
    println!("pin     {:.1} ns", start.nanos_per(PINS));
}

/// Building from sorted input, alone and with two threads, in wall time.
fn bulk(shape: Shape, count: usize) {
    let shuffled = Keys::new(shape, 0, count, 1);
    let mut keys: Vec<&[u8]> = shuffled.iter().collect();
    keys.sort_unstable();
    // Side by side and in order, as a file would have them.
    let len_bytes = keys[0].len();
    let bytes = keys.concat();
    for threads in [1, 2] {
        let before = HELD_BYTES.load(Relaxed);
        let start = Instant::now();
        let push_ns = &AtomicUsize::new(0);
        let (mut writer, map) = hightower_index::new();
        let runs: Vec<_> = std::thread::scope(|scope| {
            let fill = |part: &[u8]| {
                let mut run = map.sorted_run();
                let cpu = Stopwatch::start();
                for (value, key) in part.chunks_exact(len_bytes).enumerate() {
                    run.push(key, support::Entry::new(value as u64)).unwrap();
                }
                push_ns.fetch_add(cpu.nanos_per(1) as usize, Relaxed);
                run
            };
            let half = count.div_ceil(threads) * len_bytes;
            let runs: Vec<_> = bytes.chunks(half).map(|part| scope.spawn(move || fill(part))).collect();
            runs.into_iter().map(|run| run.join().unwrap()).collect()
        });
        let runs_ms = start.elapsed().as_secs_f64() * 1000.0;
        writer.join_runs(runs, threads).unwrap();
        let all_ms = start.elapsed().as_secs_f64() * 1000.0;
        while writer.reclaim() > 0 {}
        let held = HELD_BYTES.load(Relaxed) - before;
        println!(
            "bulk    {:9} {threads} threads: {all_ms:.1} ms, of which runs {runs_ms:.1} ({} ns per push); {:.1} B per key by the allocator, memory_bytes is {:+.2} %",
            shape.name(),
            push_ns.load(Relaxed) / count,
            held as f64 / count as f64,
            (map.memory_bytes() as f64 / held as f64 - 1.0) * 100.0
        );
    }
}

/// The slowest single insert while the map grows.
fn pauses(shape: Shape, count: usize) {
    let keys = Keys::new(shape, 0, count, 1);
    let mut subject = Hightower::empty();
    let mut times_ns: Vec<u32> = Vec::with_capacity(count);
    let mut slowest: Vec<(u32, usize, usize)> = Vec::new();
    for (value, key) in keys.iter().enumerate() {
        let held_bytes = subject.map.memory_bytes();
        let start = Stopwatch::start();
        subject.insert(key, value as u64);
        let time_ns = start.nanos_per(1) as u32;
        times_ns.push(time_ns);
        if time_ns > 300_000 {
            slowest.push((time_ns / 1000, value, subject.map.memory_bytes().wrapping_sub(held_bytes)));
        }
    }
    slowest.sort_unstable_by(|left, right| right.cmp(left));
    println!(
        "pauses  {:9} above 300 µs: {}; the slowest (µs, insert, bytes taken): {:?}",
        shape.name(),
        slowest.len(),
        slowest.get(..5).unwrap_or(&slowest)
    );
    times_ns.sort_unstable();
    let at = |share: f64| f64::from(times_ns[((count - 1) as f64 * share) as usize]) / 1000.0;
    println!(
        "pauses  {:9} p50 {:.2} µs, p99 {:.2}, p99.9 {:.2}, p99.99 {:.1}, slowest {:.1} µs",
        shape.name(),
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999),
        at(1.0)
    );
    let start = Instant::now();
    drop(subject);
    println!("pauses  {:9} dropped in {:.1} ms", shape.name(), start.elapsed().as_secs_f64() * 1000.0);
}

/// Lookups alone, and with a writer that inserts and removes other keys as fast as it can.
fn beside(shape: Shape, count: usize) {
    let keys = Keys::new(shape, 0, count, 1);
    let queries = Keys::new(shape, 0, count, 2);
    let churn = Keys::new(shape, count as u64, (count / 4).max(1000), 4);
    let mut subject: Hightower = fill(&keys);
    let alone = lookups_per_second(&subject, &queries);
    let map = subject.map.clone();
    let stop = AtomicBool::new(false);
    let (beside, writes) = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let start = Instant::now();
            let mut writes = 0_usize;
            while !stop.load(Relaxed) {
                for key in churn.iter().take_while(|_| !stop.load(Relaxed)) {
                    subject.insert(key, 0);
                    writes += 1;
                }
                for key in churn.iter().take_while(|_| !stop.load(Relaxed)) {
                    subject.writer.remove(key);
                    writes += 1;
                }
            }
            writes as f64 / start.elapsed().as_secs_f64()
        });
        let reader = Hightower { writer: hightower_index::new().0, map };
        let beside = lookups_per_second(&reader, &queries);
        stop.store(true, Relaxed);
        (beside, writer.join().unwrap())
    });
    println!(
        "beside  {:9} get alone {:.2} M/s, with a writer of {:.2} M/s {:.2} M/s: {:.2} of it",
        shape.name(),
        alone / 1e6,
        writes / 1e6,
        beside / 1e6,
        beside / alone
    );
}

fn lookups_per_second(subject: &Hightower, queries: &Keys) -> f64 {
    let start = Instant::now();
    let mut done = 0;
    for key in (0..).flat_map(|_| queries.iter()) {
        black_box(subject.get(key));
        done += 1;
        if done % 1024 == 0 && start.elapsed() > Duration::from_secs(2) {
            break;
        }
    }
    f64::from(done) / start.elapsed().as_secs_f64()
}
