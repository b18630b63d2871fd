//! The group `beyond`: stores with more keys than memory. Its steps are child processes over one
//! directory. Those with a memory limit run in a fresh memory cgroup, and start with an empty page
//! cache.
//!
//! Operations are made in chunks while the clock stands, because all operations of a row would take
//! more memory than a store may have here.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::syncfs;

use crate::data::{KEY_LEN_BYTES, Permutation, Random, Values, Zipfian, key};
use crate::execute::{COMPLETING_BATCH, Latencies, Terms, run, scan_all};
use crate::histogram::Histogram;
use crate::machine::disk_bytes;
use crate::memory_group::{DeviceBytes, MemorySampler, fill_page_cache};
use crate::operation::{self, Kind, Operation, Ycsb};
use crate::store::{Guarantee, Store};
use crate::stores::{Entry, OWN};
use crate::workload::{Measurement, VALUE_LEN_BYTES};

/// Number of operations that are made at once.
const CHUNK: u64 = 50_000;
/// Number of gets and scans of a row at most; their time limit ends most rows earlier.
const READS_MAX: u64 = 2_000_000;
/// Number of operations of a YCSB row at most: both threads' operations are in memory, and few
/// under a memory limit.
const YCSB_MAX: u64 = 1_000_000;
const YCSB_LIMITED_MAX: u64 = 200_000;
/// Time limit of a load for each key, and at least: 80,000 keys per second.
const LOAD_NS_PER_KEY: u64 = 12_500;
const LOAD_AT_LEAST: Duration = Duration::from_secs(60);
/// Length of the longer values of the row of disk space.
const LARGE_VALUE_LEN_BYTES: usize = 1000;
/// The memory limit is a quarter of the bytes of keys and values, within these bounds.
const LIMIT_SHARE: u64 = 4;
const LIMIT_MIN_BYTES: u64 = 96 << 20;
pub(crate) const LIMIT_MAX_BYTES: u64 = 512 << 20;

/// Bytes of a key and its value.
const PAIR_LEN_BYTES: u64 = (KEY_LEN_BYTES + VALUE_LEN_BYTES) as u64;

/// A child process of the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Puts of all keys in random order.
    Load,
    /// The keys that were not put in time, without a memory limit.
    Rest,
    /// Gets and YCSB from an empty page cache.
    Limited,
    /// Open, gets and YCSB with all files in the page cache.
    Cached,
    /// Overwrites, deletes, and a full compaction.
    Churn,
    /// Scans and YCSB E after it.
    Compacted,
    /// Overwrites until it is killed.
    Killed,
    /// The open after that.
    AfterKill,
    /// The time of each put, and memory, in a store of its own.
    Puts,
    /// Disk space with longer values, in a store of its own.
    LargeValues,
}

impl Step {
    /// All steps in their order.
    pub(crate) const ALL: [Self; 10] = [
        Self::Load,
        Self::Rest,
        Self::Limited,
        Self::Cached,
        Self::Churn,
        Self::Compacted,
        Self::Killed,
        Self::AfterKill,
        Self::Puts,
        Self::LargeValues,
    ];

    /// Whether the memory of the process and its page cache are limited, from an empty cache on.
    pub(crate) fn is_limited(self) -> bool {
        matches!(self, Self::Load | Self::Limited)
    }
}

/// The memory limit with this number of keys, in bytes.
pub(crate) fn limit_bytes(keys: u64) -> u64 {
    (keys * PAIR_LEN_BYTES / LIMIT_SHARE).clamp(LIMIT_MIN_BYTES, LIMIT_MAX_BYTES)
}

/// The work of a child process.
pub(crate) struct Beyond<'a> {
    entry: Entry,
    dir: &'a Path,
    keys: u64,
    budget: Duration,
    rows: Vec<Measurement>,
}

/// What was done of a row.
struct Done {
    operations: u64,
    elapsed: Duration,
    stopped: bool,
}

impl<'a> Beyond<'a> {
    /// Over the store `entry` in `dir`, with a time limit for the operations of a row other than
    /// loads.
    pub(crate) fn new(entry: Entry, dir: &'a Path, keys: u64, budget: Duration) -> Self {
        Self { entry, dir, keys, budget, rows: Vec::new() }
    }

    /// Runs a step; its rows. [`Step::Killed`] ends only by a kill, after it has printed a line.
    pub(crate) fn run(mut self, step: Step) -> Result<Vec<Measurement>> {
        match step {
            Step::Load => self.load()?,
            Step::Rest => self.put_rest()?,
            Step::Limited => self.limited()?,
            Step::Cached => self.cached()?,
            Step::Churn => self.churn()?,
            Step::Compacted => self.compacted()?,
            Step::Killed => self.write_until_killed()?,
            Step::AfterKill => self.after_kill()?,
            Step::Puts => self.puts()?,
            Step::LargeValues => self.large_values()?,
        }
        Ok(self.rows)
    }

    /// Opens it with settings that fit the limit.
    fn open_limited(&self) -> Result<Box<dyn Store>> {
        let open = self.entry.open_limited.context("the store has no settings for little memory")?;
        open(self.dir, Guarantee::Process, limit_bytes(self.keys))
    }

    /// Opens it for a machine with memory for everything: others with large caches, the own store
    /// with a budget of 64 MiB.
    fn open_in(&self, dir: &Path) -> Result<Box<dyn Store>> {
        match self.entry.open_limited {
            Some(open) if self.entry.id == OWN => open(dir, Guarantee::Process, LIMIT_MAX_BYTES),
            _ => (self.entry.open)(dir, Guarantee::Process),
        }
    }

    fn load_budget(&self) -> Duration {
        LOAD_AT_LEAST.max(Duration::from_nanos(LOAD_NS_PER_KEY * self.keys))
    }

    fn number(&mut self, row: &str, value: f64) {
        self.rows.push(Measurement { row: row.into(), value, check: None, stopped: false });
    }

    fn rate(&mut self, row: &str, done: &Done) {
        let value = done.operations as f64 / done.elapsed.as_secs_f64();
        self.rows.push(Measurement { row: row.into(), value, check: None, stopped: done.stopped });
    }

    fn load(&mut self) -> Result<()> {
        let (store, order) = (self.open_limited()?, Permutation::new(self.keys, 1));
        let (sampler, mut histogram) = (MemorySampler::start(), Histogram::default());
        let put = |place| Operation { key: key(order.at(place)), kind: Kind::Put };
        let done = run_chunks(&*store, self.keys, self.load_budget(), Some(&mut histogram), put)?;
        self.rate("beyond_load", &done);
        self.number("beyond_put_p9999_limited", histogram.quantile_ns(0.9999) as f64 / 1e3);
        self.number("beyond_memory_limited", mebibytes(sampler.most_bytes()?));
        fs::write(self.progress(), done.operations.to_string())?;
        store.settle()?;
        store.close()
    }

    /// The file with the number of keys that a load has put.
    fn progress(&self) -> PathBuf {
        self.dir.with_extension("progress")
    }

    /// Puts the keys that the load has not put, in batches.
    fn put_rest(&self) -> Result<()> {
        let done: u64 = fs::read_to_string(self.progress())?.parse()?;
        fs::remove_file(self.progress())?;
        if done == self.keys {
            return Ok(());
        }
        let (order, started) = (Permutation::new(self.keys, 1), Instant::now());
        let store = self.open_in(self.dir)?;
        for first in (done..self.keys).step_by(COMPLETING_BATCH) {
            let places = first..(first + COMPLETING_BATCH as u64).min(self.keys);
            put_batch(&*store, places.map(|place| order.at(place)), VALUE_LEN_BYTES)?;
            let limit = self.load_budget();
            ensure!(started.elapsed() <= limit, "the rest of the load did not end in {} s", limit.as_secs());
        }
        store.settle()?;
        store.close()
    }

    fn limited(&mut self) -> Result<()> {
        let store = self.opened("beyond_open_cold", Self::open_limited)?;
        let before = DeviceBytes::now(self.dir)?;
        let mut random = Random::new(2);
        let keys = self.keys;
        let done = self.reads(&*store, |_| Operation { key: key(random.below(keys)), kind: Kind::Get })?;
        self.rate("beyond_get_limited", &done);
        let read = DeviceBytes::now(self.dir)?.since(before).read;
        self.number("beyond_get_read", read as f64 / 1024.0 / done.operations as f64);
        self.zipfian(&*store, "beyond_get_zipfian_limited")?;
        self.ycsb(&*store, "_limited", YCSB_LIMITED_MAX)?;
        store.close()
    }

    fn cached(&mut self) -> Result<()> {
        fill_page_cache(self.dir)?;
        let store = self.opened("beyond_open", |own| own.open_in(own.dir))?;
        store.settle()?;
        // Into the stores' own caches.
        self.uniform(&*store)?;
        let done = self.uniform(&*store)?;
        self.rate("beyond_get", &done);
        self.zipfian(&*store, "beyond_get_zipfian")?;
        self.ycsb(&*store, "", YCSB_MAX)?;
        store.close()
    }

    /// Opens it, and gets a key: the time of both is a row.
    fn opened(&mut self, row: &str, open: impl FnOnce(&Self) -> Result<Box<dyn Store>>) -> Result<Box<dyn Store>> {
        let (wanted, started) = (key(self.keys / 2), Instant::now());
        let store = open(self)?;
        let found = store.get(&wanted, &mut |_| Ok(()))?;
        let elapsed = started.elapsed();
        ensure!(found, "a key was not found after opening");
        self.number(row, elapsed.as_secs_f64() * 1e3);
        Ok(store)
    }

    fn reads(&self, store: &dyn Store, next: impl FnMut(u64) -> Operation) -> Result<Done> {
        run_chunks(store, self.keys.min(READS_MAX), self.budget, None, next)
    }

    fn uniform(&self, store: &dyn Store) -> Result<Done> {
        let mut random = Random::new(2);
        self.reads(store, |_| Operation { key: key(random.below(self.keys)), kind: Kind::Get })
    }

    fn zipfian(&mut self, store: &dyn Store, row: &str) -> Result<()> {
        let (order, ranks) = (Permutation::new(self.keys, 3), Zipfian::new(self.keys));
        let mut random = Random::new(4);
        let next = |_| Operation { key: key(order.at(ranks.rank(&mut random))), kind: Kind::Get };
        let done = self.reads(store, next)?;
        self.rate(row, &done);
        Ok(())
    }

    fn ycsb(&mut self, store: &dyn Store, suffix: &str, most: u64) -> Result<()> {
        let mixes = [("a", Ycsb::A), ("b", Ycsb::B), ("c", Ycsb::C), ("f", Ycsb::F), ("d", Ycsb::D)];
        for (name, workload) in mixes {
            self.mix(store, &format!("beyond_ycsb_{name}{suffix}"), workload, most)?;
        }
        Ok(())
    }

    /// One YCSB row by two threads, and the end of its work in the background.
    fn mix(&mut self, store: &dyn Store, row: &str, workload: Ycsb, most: u64) -> Result<()> {
        let (streams, _) = operation::ycsb(workload, self.keys, (self.keys / 2).min(most), 2, self.keys);
        let outcome = run(store, &streams, self.terms(self.budget))?;
        let done = Done { operations: outcome.operations, elapsed: outcome.elapsed, stopped: outcome.stopped };
        self.rate(row, &done);
        store.settle()
    }

    fn terms(&self, budget: Duration) -> Terms {
        Terms { value_len_bytes: VALUE_LEN_BYTES, latencies: Latencies::Off, budget: Some(budget) }
    }

    fn churn(&mut self) -> Result<()> {
        let mut store = self.open_in(self.dir)?;
        let before = DeviceBytes::now(self.dir)?;
        let mut random = Random::new(8);
        let keys = self.keys;
        let put = |_| Operation { key: key(random.below(keys)), kind: Kind::Put };
        let done = run_chunks(&*store, keys, self.load_budget(), None, put)?;
        store.settle()?;
        self.rate("beyond_overwrite", &done);
        syncfs(fs::File::open(self.dir)?)?;
        let bytes = DeviceBytes::now(self.dir)?.since(before);
        let of_pairs = (done.operations * PAIR_LEN_BYTES) as f64;
        self.number("beyond_written", bytes.written as f64 / of_pairs);
        self.number("beyond_dirtied", bytes.dirtied as f64 / of_pairs);
        // A quarter of new keys that are deleted again. Their numbers are above those of YCSB.
        for first in (keys * 8..keys * 8 + keys / 4).step_by(COMPLETING_BATCH) {
            put_batch(&*store, first..first + COMPLETING_BATCH as u64, VALUE_LEN_BYTES)?;
        }
        for first in (keys * 8..keys * 8 + keys / 4).step_by(COMPLETING_BATCH) {
            let of_batch = first..first + COMPLETING_BATCH as u64;
            store.delete_batch(&of_batch.map(|index| key(index).to_vec()).collect::<Vec<_>>())?;
        }
        store.settle()?;
        let started = Instant::now();
        if store.compact()? {
            self.number("beyond_compaction", started.elapsed().as_secs_f64() * 1e3);
        }
        let scanned = scan_all(&*store, VALUE_LEN_BYTES)?.context("the store scans no ranges")?;
        ensure!(scanned.operations >= keys, "{} keys are left of {keys}", scanned.operations);
        store.close()?;
        self.number("beyond_disk", disk_bytes(self.dir)? as f64 / (scanned.operations * PAIR_LEN_BYTES) as f64);
        Ok(())
    }

    fn compacted(&mut self) -> Result<()> {
        fill_page_cache(self.dir)?;
        let store = self.open_in(self.dir)?;
        let mut scans = Vec::new();
        for _ in 0..3 {
            let scanned = scan_all(&*store, VALUE_LEN_BYTES)?.context("the store scans no ranges")?;
            scans.push(scanned.rate());
        }
        scans.sort_unstable_by(f64::total_cmp);
        self.number("beyond_scan_all", scans[1]);
        for (row, streams) in [
            ("beyond_scan_10", operation::scans_of_ten(self.keys, (self.keys / 10).min(READS_MAX / 10))),
            (
                "beyond_scan_1000",
                operation::scans_of_a_thousand(self.keys, (self.keys / 500).clamp(2, READS_MAX / 500)),
            ),
        ] {
            let outcome = run(&*store, &streams, self.terms(self.budget))?;
            self.rows.push(Measurement::rate(row, &outcome));
        }
        let done = self.uniform(&*store)?;
        self.rate("beyond_get_compacted", &done);
        self.mix(&*store, "beyond_ycsb_e10", Ycsb::E { pairs: 10 }, YCSB_MAX / 10)?;
        self.mix(&*store, "beyond_ycsb_e100", Ycsb::E { pairs: 100 }, YCSB_MAX / 25)?;
        store.close()
    }

    /// Overwrites a quarter of the keys, prints a line, and goes on.
    fn write_until_killed(&self) -> Result<()> {
        let store = self.open_in(self.dir)?;
        let (mut random, mut values) = (Random::new(9), Values::new(VALUE_LEN_BYTES));
        for written in 1u64.. {
            let key = key(random.below(self.keys));
            store.put(&key, values.make(&key, 1))?;
            if written == self.keys / 4 {
                println!("written");
                std::io::stdout().flush()?;
            }
        }
        Ok(())
    }

    fn after_kill(&mut self) -> Result<()> {
        let store = self.opened("beyond_open_killed", |own| own.open_in(own.dir))?;
        let mut random = Random::new(9);
        let get = |_| Operation { key: key(random.below(self.keys)), kind: Kind::Get };
        let done = run_chunks(&*store, (self.keys / 4).min(READS_MAX), self.budget, None, get)?;
        ensure!(done.operations > 0, "nothing was read");
        store.close()
    }

    fn puts(&mut self) -> Result<()> {
        let dir = self.fresh("puts")?;
        let (store, order) = (self.open_in(&dir)?, Permutation::new(self.keys, 1));
        let (sampler, mut histogram) = (MemorySampler::start(), Histogram::default());
        let put = |place| Operation { key: key(order.at(place)), kind: Kind::Put };
        let done = run_chunks(&*store, self.keys, self.load_budget(), Some(&mut histogram), put)?;
        self.rate("beyond_put", &done);
        for (row, share) in [("beyond_put_p50", 0.5), ("beyond_put_p9999", 0.9999), ("beyond_put_max", 1.0)] {
            self.number(row, histogram.quantile_ns(share) as f64 / 1e3);
        }
        if !done.stopped {
            self.uniform(&*store)?;
        }
        self.number("beyond_memory", mebibytes(sampler.most_bytes()?));
        store.close()?;
        Ok(fs::remove_dir_all(dir)?)
    }

    fn large_values(&mut self) -> Result<()> {
        let (dir, keys) = (self.fresh("large")?, self.keys / 10);
        let mut store = self.open_in(&dir)?;
        let (order, mut random) = (Permutation::new(keys, 1), Random::new(8));
        for first in (0..keys).step_by(COMPLETING_BATCH) {
            put_batch(
                &*store,
                (first..first + COMPLETING_BATCH as u64).map(|place| order.at(place)),
                LARGE_VALUE_LEN_BYTES,
            )?;
        }
        for _ in (0..keys).step_by(COMPLETING_BATCH) {
            put_batch(&*store, (0..COMPLETING_BATCH).map(|_| random.below(keys)), LARGE_VALUE_LEN_BYTES)?;
        }
        store.settle()?;
        store.compact()?;
        store.close()?;
        let of_pairs = keys * (KEY_LEN_BYTES + LARGE_VALUE_LEN_BYTES) as u64;
        self.number("beyond_disk_1000", disk_bytes(&dir)? as f64 / of_pairs as f64);
        Ok(fs::remove_dir_all(dir)?)
    }

    /// An empty directory for a store of a step's own.
    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.dir.with_extension(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// Writes the keys with these numbers as one commit.
fn put_batch(store: &dyn Store, indexes: impl Iterator<Item = u64>, value_len_bytes: usize) -> Result<()> {
    let mut values = Values::new(value_len_bytes);
    let pair = |index| {
        let key = key(index);
        (key.to_vec(), values.make(&key, 0).to_vec())
    };
    store.put_batch(&indexes.map(pair).collect::<Vec<_>>())
}

/// Runs `count` operations on one thread within a time limit. Only the operations are timed, not
/// their making.
fn run_chunks(
    store: &dyn Store,
    count: u64,
    budget: Duration,
    mut histogram: Option<&mut Histogram>,
    mut next: impl FnMut(u64) -> Operation,
) -> Result<Done> {
    let mut done = Done { operations: 0, elapsed: Duration::ZERO, stopped: false };
    let latencies = if histogram.is_some() { Latencies::Each } else { Latencies::Off };
    while done.operations < count && !done.stopped {
        let places = done.operations..(done.operations + CHUNK).min(count);
        let streams = vec![places.map(&mut next).collect()];
        let left = budget.saturating_sub(done.elapsed);
        let outcome = run(store, &streams, Terms { value_len_bytes: VALUE_LEN_BYTES, latencies, budget: Some(left) })?;
        if let Some(histogram) = &mut histogram {
            histogram.add(&outcome.latencies_ns);
        }
        done.operations += outcome.operations;
        done.elapsed += outcome.elapsed;
        done.stopped = outcome.stopped;
    }
    Ok(done)
}

/// Appends records of 136 bytes to a file, one call each: the p99.99 of their times beside that of
/// puts under the same limit.
pub(crate) fn bare_appends(dir: &Path, keys: u64) -> Result<Vec<Measurement>> {
    let mut file = fs::File::create(dir.join("bare.bin"))?;
    let mut histogram = Histogram::default();
    for _ in 0..keys {
        let started = Instant::now();
        file.write_all(&[1; 136])?;
        histogram.add(&[u64::try_from(started.elapsed().as_nanos())?]);
    }
    let value = histogram.quantile_ns(0.9999) as f64 / 1e3;
    Ok(vec![Measurement { row: BARE_APPEND.into(), value, check: None, stopped: false }])
}

/// The row of [`bare_appends`].
pub(crate) const BARE_APPEND: &str = "beyond_bare_p9999";

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
#[cfg(feature = "own")]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    #[test]
    fn every_row_is_measured_by_some_step() {
        let dir = std::env::temp_dir().join(format!("peers-beyond-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let mut measured = Vec::new();
        for step in Step::ALL.into_iter().filter(|step| *step != Step::Killed) {
            let entry = crate::stores::entry(OWN).unwrap();
            measured.extend(Beyond::new(entry, &dir, 10_000, Duration::from_secs(60)).run(step).unwrap());
        }
        fs::remove_dir_all(&dir).unwrap();
        for row in ROWS.iter().filter(|row| row.id.starts_with("beyond_")) {
            assert!(measured.iter().any(|measurement| measurement.row == row.id), "{} is in no step", row.id);
        }
        assert!(measured.iter().all(|measurement| measurement.value.is_finite() && measurement.value >= 0.0));
    }

    #[test]
    fn the_limit_is_a_share_within_bounds() {
        assert_eq!([1_000_000, 5_000_000, 20_000_000].map(limit_bytes), [96 << 20, 145_000_000, 512 << 20]);
    }
}
