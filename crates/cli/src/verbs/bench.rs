//! `bench`: a quick measurement on the user's machine and file system.
//!
//! It is for a first impression, and for comparisons of machines and settings. `cargo xtask peers`
//! compares the store with others.

mod meter;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use hightower_kv::{Durability, StoreConfig};
use serde::Serialize;

use crate::failure::{Exit, Failure};
use crate::interrupt;
use crate::progress::Progress;
use crate::screen::Screen;
use crate::session::{Session, Store};
use crate::table::table;
use crate::units::{count, duration};
use crate::verbs::bench::meter::{Measured, Meter};

const DEBUG_BUILD: &str =
    "this is a debug build, several times slower than a release build; use `cargo run --release -- bench`";

/// Duration of the synced puts.
const SYNC_TIME: Duration = Duration::from_secs(1);

const EXAMPLES: &str = "\
Examples:
  htkvctl bench
  htkvctl bench --keys 1000000 --value-size 100
  htkvctl bench --dir /mnt/disk           on the disk that matters, not in the temporary directory

One thread, keys of 16 bytes in random order, incompressible values. p50, p99 and max are those of every 16th \
operation; the rate is that of all operations. \"put\" returns when the write survives the end of the \
process, \"put, synced\" when it survives power loss. The store is created for the run and removed after it.";

/// Measure a store on this machine
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Number of keys
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    keys: u64,

    /// Size of values, in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=16_777_216))]
    value_size: u32,

    /// Durability of "put": `os` leaves syncs to the operating system, `interval` syncs every 25 ms
    #[arg(long, value_enum, default_value_t = BenchLevel::Interval)]
    durability: BenchLevel,

    /// Parent directory of the store, which gets a new directory there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BenchLevel {
    /// Synced by the operating system
    Os,
    /// Synced in the background, every 25 ms
    Interval,
}

#[derive(Serialize)]
struct Answer {
    keys: u64,
    value_size_bytes: u32,
    /// Whether the tool was built without optimization, which makes the figures meaningless.
    is_debug_build: bool,
    results: Vec<Measured>,
}

impl Args {
    pub(crate) fn run(&self, session: &Session) -> Result<Exit, Failure> {
        if cfg!(debug_assertions) {
            session.screen.note(DEBUG_BUILD);
        }
        let scratch = match &self.dir {
            Some(dir) => tempfile::Builder::new().prefix("htkvctl-bench-").tempdir_in(dir),
            None => tempfile::Builder::new().prefix("htkvctl-bench-").tempdir(),
        }
        .map_err(Failure::file("create a directory for the measurement"))?;
        let results = self.measure(session.screen, scratch.path());
        scratch.close().map_err(Failure::file("remove the directory of the measurement"))?;
        self.tell(session.screen, results?)?;
        Ok(Exit::Done)
    }

    fn tell(&self, screen: Screen, results: Vec<Measured>) -> Result<(), Failure> {
        let is_debug_build = cfg!(debug_assertions);
        let answer = Answer { keys: self.keys, value_size_bytes: self.value_size, is_debug_build, results };
        screen.answer(&answer, || {
            let heading = ["operation", "how many", "per second", "p50", "p99", "max"];
            table(&heading, answer.results.iter().map(Measured::row))
        })
    }

    fn measure(&self, screen: Screen, dir: &Path) -> Result<Vec<Measured>, Failure> {
        let durability = match self.durability {
            BenchLevel::Os => Durability::Os,
            BenchLevel::Interval => StoreConfig::at(dir).effective_durability(),
        };
        let config = StoreConfig::at(dir).with_durability(durability);
        let mut results = Store::open(config.clone())?.finish(|store| self.run_all(screen, store))?;
        let started = Instant::now();
        let store = Store::open(config)?;
        results.push(Measured::once("open after a clean close", store.len() as u64, started.elapsed()));
        store.close()?;
        Ok(results)
    }

    fn run_all(&self, screen: Screen, store: &Store) -> Result<Vec<Measured>, Failure> {
        let mut value = Filler::new(self.value_size);
        Ok(vec![
            self.each(screen, "put", |key| done(store.put(key, value.next())))?,
            self.each(screen, "get", |key| done(store.get(key)))?,
            self.each(screen, "get, no such key", |key| done(store.get(absent(key))))?,
            self.each(screen, "overwrite", |key| done(store.put(key, value.next())))?,
            self.scan(screen, store)?,
            self.synced(screen, store)?,
        ])
    }

    /// Runs an operation on every key once, in random order.
    fn each(
        &self,
        screen: Screen,
        name: &'static str,
        mut work: impl FnMut(&[u8; 16]) -> Result<(), Failure>,
    ) -> Result<Measured, Failure> {
        let bar = Progress::steps(screen, name, self.keys);
        let mut meter = Meter::start(name);
        for (number, at) in shuffled(self.keys).zip(0_u64..) {
            meter.time(|| work(&key_of(number)))?;
            show(&bar, at)?;
        }
        Ok(meter.finish())
    }

    fn scan(&self, screen: Screen, store: &Store) -> Result<Measured, Failure> {
        let name = "scan of everything";
        let bar = Progress::steps(screen, name, self.keys);
        let (started, mut pairs, mut stopped) = (Instant::now(), 0, Ok(()));
        store.prefix(b"")?.for_each_pair(|_, _| {
            pairs += 1;
            stopped = show(&bar, pairs);
            if stopped.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        stopped?;
        Ok(Measured::once(name, pairs, started.elapsed()))
    }

    fn synced(&self, screen: Screen, store: &Store) -> Result<Measured, Failure> {
        let _bar = Progress::spinner(screen, "put, synced");
        let mut value = Filler::new(self.value_size);
        let mut meter = Meter::start("put, synced");
        let started = Instant::now();
        for number in shuffled(self.keys).cycle() {
            meter.time_each(|| done(store.put_with(key_of(number), value.next(), Durability::Sync)))?;
            if started.elapsed() >= SYNC_TIME {
                break;
            }
        }
        Ok(meter.finish())
    }
}

/// Number of operations between two updates of the bar, large enough not to affect the rate.
const STEPS_PER_LOOK: u64 = 4096;

/// Updates the bar from time to time; fails after Ctrl-C.
fn show(bar: &Progress, at: u64) -> Result<(), Failure> {
    if !at.is_multiple_of(STEPS_PER_LOOK) {
        return Ok(());
    }
    bar.set(at);
    interrupt::check()
}

/// Keeps only whether the operation succeeded.
fn done<T>(result: hightower_kv::Result<T>) -> Result<(), Failure> {
    result?;
    Ok(())
}

/// An absent key, next to a present one.
fn absent(key: &[u8; 16]) -> [u8; 16] {
    let mut key = *key;
    key[15] = b'?';
    key
}

/// The key of a number: 16 bytes, ordered as the numbers are.
fn key_of(number: u64) -> [u8; 16] {
    let mut key = *b"bench/0000000000";
    let mut rest = number;
    for digit in key.iter_mut().skip(6).rev() {
        *digit += u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
    }
    key
}

/// The numbers below `count`, each once, in a pseudorandom order.
fn shuffled(count: u64) -> impl Iterator<Item = u64> + Clone {
    // An odd factor permutes the numbers below a power of two, and a shift spreads them. Numbers
    // that are too large are skipped.
    let mask = count.next_power_of_two() - 1;
    let shift = (64 - mask.leading_zeros()).div_ceil(2);
    (0..=mask)
        .map(move |number| {
            let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) & mask;
            let mixed = mixed ^ (mixed >> shift);
            mixed.wrapping_mul(0xd1b5_4a32_d192_ed03) & mask
        })
        .filter(move |number| *number < count)
}

/// Incompressible values: windows of a page of noise.
struct Filler {
    noise: Vec<u8>,
    len: usize,
    at: usize,
}

impl Filler {
    fn new(len_bytes: u32) -> Self {
        let len = usize::try_from(len_bytes).unwrap_or(usize::MAX);
        let mut state = 0x5eed_u64;
        let noise = (0..len + 4096).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        });
        Self { noise: noise.collect(), len, at: 0 }
    }

    fn next(&mut self) -> &[u8] {
        self.at = (self.at + 61) % 4096;
        &self.noise[self.at..self.at + self.len]
    }
}

impl Measured {
    fn row(&self) -> Vec<String> {
        let time = |latency: Option<u64>| latency.map_or_else(String::new, |ns| duration(Duration::from_nanos(ns)));
        vec![
            self.operation.into(),
            count(self.operations),
            count(self.per_second),
            time(self.p50_ns),
            time(self.p99_ns),
            time(self.max_ns),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::{Filler, key_of, shuffled};

    #[test]
    fn every_number_once_and_not_in_order() {
        for count in [1, 2, 3, 1000, 65_536, 65_537] {
            let numbers: Vec<u64> = shuffled(count).collect();
            let mut sorted = numbers.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..count).collect::<Vec<_>>());
            let steps = numbers.windows(2).filter(|pair| pair[1] == pair[0] + 1).count() as u64;
            assert!(count < 1000 || steps <= count / 10, "{steps} of {count} follow each other");
        }
    }

    #[test]
    fn keys_are_ordered_as_numbers() {
        assert_eq!(&key_of(0), b"bench/0000000000");
        assert_eq!(&key_of(999_999_999), b"bench/0999999999");
        assert!(key_of(99) < key_of(100));
    }

    #[test]
    fn values_have_the_size_asked_for() {
        for len in [0, 1, 100, 5000] {
            let mut filler = Filler::new(len);
            assert!((0..200).all(|_| filler.next().len() == len as usize));
        }
    }
}
