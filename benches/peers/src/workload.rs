//! The workloads: groups of rows that share a store. Each group runs in a child process of its own
//! over a fresh directory.
//!
//! Every row has a time limit. A store then writes the remaining data in batches, untimed, so that
//! the next row finds the same content in every store. Rows that only need content load it by such
//! batches.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::data::{Permutation, key};
use crate::execute::{Latencies, Outcome, Terms, complete, run, scan_all};
use crate::machine::{anonymous_memory_bytes, disk_bytes};
use crate::operation::{self, Kind, Operation, Streams, Ycsb};
use crate::store::{Guarantee, Store};
use crate::stores::Entry;
use crate::transactions::{self, TransactionPlan};

/// Default length of a value, in bytes.
pub(crate) const VALUE_LEN_BYTES: usize = 100;

/// Keys that all transactions of a row with conflicts use.
const HOT_KEYS: u64 = 100;

/// A group of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Group {
    /// Random load, memory, gets, scans before and after compaction, overwrites, deletes.
    Core,
    /// Sorted load.
    Sorted,
    /// Random load by two threads.
    Threads,
    /// The time of each put while segments roll.
    Latency,
    /// YCSB A to F by one thread.
    Ycsb1,
    /// YCSB A to F by two threads.
    Ycsb2,
    /// Synced commits by 1 and 8 threads, and synced batches.
    Synced,
    /// Transactions of two reads and one write, on all keys and on 100.
    Transactions,
    /// Values of 64 B to 64 KiB.
    Values,
    /// Opening after a clean close.
    Reopen,
    /// Disk use after overwrites, deletes and a compaction.
    Churn,
    /// More keys than memory. Needs root and a disk, and runs only if it is named, alone.
    Beyond,
}

impl Group {
    /// The number of its child processes, which run one after the other over the same directory.
    pub(crate) fn steps(self) -> u32 {
        if self == Self::Reopen { 2 } else { 1 }
    }
}

/// One number of one row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// The id of the row.
    pub(crate) row: String,
    /// The number, in the unit of the row.
    pub(crate) value: f64,
    /// A sum over the completed work, equal for every store; `None` if it cannot be compared.
    pub(crate) check: Option<u64>,
    /// Whether the time was over before the work was done: the number is that of the completed
    /// part.
    #[serde(default)]
    pub(crate) stopped: bool,
}

/// The work of a child process.
pub(crate) struct Task<'a> {
    /// The store.
    pub(crate) entry: Entry,
    /// Its directory.
    pub(crate) dir: &'a Path,
    /// Number of keys.
    pub(crate) keys: u64,
    /// Time limit of a row's operations.
    pub(crate) budget: Duration,
}

impl Task<'_> {
    /// Runs one step of a group.
    pub(crate) fn run(&self, group: Group, step: u32) -> Result<Vec<Measurement>> {
        let mut results = Results::default();
        match (group, step) {
            (Group::Core, 0) => self.core(&mut results)?,
            (Group::Sorted, 0) => self.load(&mut results, "put_sorted", &operation::load_sorted(self.keys))?,
            (Group::Threads, 0) => self.load(&mut results, "put_random_2", &operation::load_random(self.keys, 2))?,
            (Group::Latency, 0) => self.latency(&mut results)?,
            (Group::Ycsb1, 0) => self.ycsb(&mut results, 1)?,
            (Group::Ycsb2, 0) => self.ycsb(&mut results, 2)?,
            (Group::Synced, 0) => self.synced(&mut results)?,
            (Group::Transactions, 0) => self.transactions(&mut results)?,
            (Group::Values, 0) => self.values(&mut results)?,
            (Group::Reopen, 0) => self.prepare_reopen()?,
            (Group::Reopen, 1) => self.reopen(&mut results)?,
            (Group::Churn, 0) => self.churn(&mut results)?,
            _ => bail!("{group:?} has no step {step}"),
        }
        Ok(results.0)
    }

    fn open(&self, guarantee: Guarantee) -> Result<Box<dyn Store>> {
        (self.entry.open)(self.dir, guarantee)
    }

    /// Runs the operations of a row within its time limit, records the rate, and writes the
    /// remaining data.
    fn row(&self, results: &mut Results, row: &str, store: &dyn Store, streams: &Streams) -> Result<()> {
        results.rate(row, &self.within_budget(store, streams, Latencies::Off)?);
        Ok(())
    }

    fn within_budget(&self, store: &dyn Store, streams: &Streams, latencies: Latencies) -> Result<Outcome> {
        let terms = Terms { value_len_bytes: VALUE_LEN_BYTES, latencies, budget: Some(self.budget) };
        let outcome = run(store, streams, terms)?;
        complete(store, streams, &outcome.done, VALUE_LEN_BYTES)?;
        Ok(outcome)
    }

    /// Loads all keys in the fastest way, for rows that need only the content.
    fn load_by_batches(&self, store: &dyn Store) -> Result<()> {
        complete(store, &operation::load_random(self.keys, 1), &[0], VALUE_LEN_BYTES)?;
        store.settle()
    }

    fn core(&self, results: &mut Results) -> Result<()> {
        let keys = self.keys;
        let mut store = self.open(Guarantee::Process)?;
        self.row(results, "put_random", &*store, &operation::load_random(keys, 1))?;
        results.number("memory", mebibytes(anonymous_memory_bytes()?));
        store.settle()?;
        self.row(results, "get_uniform", &*store, &operation::uniform(keys, keys, 1, Kind::Get))?;
        self.row(results, "get_uniform_2", &*store, &operation::uniform(keys, keys, 2, Kind::Get))?;
        self.row(results, "get_zipfian", &*store, &operation::zipfian(keys, keys, 1, Kind::Get))?;
        self.row(results, "get_absent", &*store, &operation::absent(keys, keys))?;
        self.prefix_scans(results, &*store, "_fresh")?;
        store.compact()?;
        self.prefix_scans(results, &*store, "")?;
        if let Some(outcome) = scan_all(&*store, VALUE_LEN_BYTES)? {
            ensure!(outcome.operations == keys, "a scan of everything gave {} pairs", outcome.operations);
            results.rate("scan_all", &outcome);
        }
        results.number("memory_read", mebibytes(anonymous_memory_bytes()?));
        store.settle()?;
        self.row(results, "overwrite_zipfian", &*store, &operation::zipfian(keys, keys, 1, Kind::Put))?;
        store.settle()?;
        self.row(results, "delete", &*store, &operation::deletes(keys, keys / 2))?;
        self.verify_deleted(&*store, keys / 2)?;
        store.close()
    }

    fn prefix_scans(&self, results: &mut Results, store: &dyn Store, suffix: &str) -> Result<()> {
        let tens = operation::scans_of_ten(self.keys, self.keys / 10);
        self.row(results, &format!("scan_10{suffix}"), store, &tens)?;
        let thousands = operation::scans_of_a_thousand(self.keys, (self.keys / 500).max(2));
        self.row(results, &format!("scan_1000{suffix}"), store, &thousands)
    }

    /// Reads some of the first `count` keys, which are deleted, and some of the others.
    fn verify_deleted(&self, store: &dyn Store, count: u64) -> Result<()> {
        let order = Permutation::new(self.keys, 5);
        let operation = |place: u64| {
            let kind = if place < count { Kind::GetAbsent } else { Kind::Get };
            Operation { key: key(order.at(place)), kind }
        };
        execute(store, &vec![(0..self.keys).step_by(101).map(operation).collect()]).map(|_| ())
    }

    fn load(&self, results: &mut Results, row: &str, streams: &Streams) -> Result<()> {
        let store = self.open(Guarantee::Process)?;
        self.row(results, row, &*store, streams)?;
        store.settle()?;
        execute(&*store, &operation::uniform(self.keys, self.keys / 10, 1, Kind::Get))?;
        store.close()
    }

    fn latency(&self, results: &mut Results) -> Result<()> {
        let store = self.open(Guarantee::Process)?;
        let mut outcome = self.within_budget(&*store, &operation::load_random(self.keys, 1), Latencies::Each)?;
        let latencies_ns = &mut outcome.latencies_ns;
        latencies_ns.sort_unstable();
        for (row, share) in [("put_p50", 0.5), ("put_p999", 0.999), ("put_max", 1.0)] {
            let place = (latencies_ns.len() as f64 * share) as usize;
            let nanoseconds = latencies_ns.get(place.min(latencies_ns.len().saturating_sub(1)));
            let value = *nanoseconds.context("no put was timed")? as f64 / 1e3;
            results.0.push(Measurement { row: row.into(), value, check: None, stopped: outcome.stopped });
        }
        store.close()
    }

    fn ycsb(&self, results: &mut Results, threads: u64) -> Result<()> {
        let store = self.open(Guarantee::Process)?;
        self.load_by_batches(&*store)?;
        let mut first_new = self.keys;
        let mixes = [
            ("a", Ycsb::A, 2),
            ("b", Ycsb::B, 2),
            ("c", Ycsb::C, 2),
            ("f", Ycsb::F, 2),
            ("d", Ycsb::D, 2),
            ("e10", Ycsb::E { pairs: 10 }, 20),
            ("e100", Ycsb::E { pairs: 100 }, 50),
        ];
        for (name, workload, divisor) in mixes {
            let scans = matches!(workload, Ycsb::E { .. });
            if scans && !store.scan_from(&key(0), 1, &mut |_, _| Ok(()))? {
                continue;
            }
            let (streams, next) = operation::ycsb(workload, self.keys, self.keys / divisor, threads, first_new);
            first_new = next;
            let outcome = self.within_budget(&*store, &streams, Latencies::Off)?;
            // With two threads, the inserts that a scan sees of the other thread are random.
            let mut measurement = Measurement::rate(&format!("ycsb_{name}_{threads}"), &outcome);
            measurement.check = measurement.check.filter(|_| !scans || threads == 1);
            results.0.push(measurement);
            store.settle()?;
        }
        store.close()
    }

    fn synced(&self, results: &mut Results) -> Result<()> {
        let commits = (self.keys / 250).max(400);
        let store = self.open(Guarantee::Power)?;
        self.row(results, "synced_1", &*store, &operation::load_random(commits, 1))?;
        self.row(results, "synced_8", &*store, &operation::load_random(commits * 2, 8))?;
        self.synced_batches(results, &*store, commits / 20)?;
        store.close()
    }

    fn synced_batches(&self, results: &mut Results, store: &dyn Store, count: u64) -> Result<()> {
        let mut values = crate::data::Values::new(VALUE_LEN_BYTES);
        let order = Permutation::new(count * 1000, 7);
        let pair = |index: u64, values: &mut crate::data::Values| {
            let key = key(self.keys + order.at(index));
            (key.to_vec(), values.make(&key, 1).to_vec())
        };
        let batches: Vec<Vec<_>> = (0..count)
            .map(|batch| (batch * 1000..(batch + 1) * 1000).map(|index| pair(index, &mut values)).collect())
            .collect();
        let (started, mut done) = (Instant::now(), 0);
        for batch in &batches {
            store.put_batch(batch)?;
            done += 1;
            if started.elapsed() >= self.budget {
                break;
            }
        }
        let (value, stopped) = (done as f64 / started.elapsed().as_secs_f64(), done < count);
        results.0.push(Measurement { row: "synced_batch".into(), value, check: None, stopped });
        let get = |index: u64| Operation { key: key(self.keys + order.at(index)), kind: Kind::Get };
        execute(store, &vec![(0..done * 1000).step_by(11).map(get).collect()]).map(|_| ())
    }

    fn transactions(&self, results: &mut Results) -> Result<()> {
        let Some(open) = self.entry.open_for_transactions else { return Ok(()) };
        let store = open(self.dir, Guarantee::Process)?;
        self.load_by_batches(&*store)?;
        let (value_len_bytes, budget) = (VALUE_LEN_BYTES, self.budget);
        for (name, keys) in [("uniform", self.keys), ("hot", HOT_KEYS)] {
            for threads in [1, 2] {
                let plan = TransactionPlan { count: self.keys / 2, threads, keys, value_len_bytes, budget };
                let done = transactions::run(&*store, plan)?;
                let (row, stopped) = (format!("tx_{name}_{threads}"), done.stopped);
                results.0.push(Measurement { row, value: done.rate, check: None, stopped });
                if name == "hot" && threads == 2 {
                    let retries = done.retries_of(0.999).context("no transaction was committed")?;
                    results.number("tx_hot_retries", retries.into());
                }
            }
            store.settle()?;
        }
        store.close()
    }

    fn values(&self, results: &mut Results) -> Result<()> {
        for (len_bytes, divisor) in [(64, 1), (512, 2), (4096, 16), (65_536, 128)] {
            let keys = self.keys / divisor;
            let dir: PathBuf = self.dir.join(len_bytes.to_string());
            std::fs::create_dir_all(&dir)?;
            let store = (self.entry.open)(&dir, Guarantee::Process)?;
            let terms = Terms { value_len_bytes: len_bytes, latencies: Latencies::Off, budget: Some(self.budget) };
            let streams = operation::load_random(keys, 1);
            let outcome = run(&*store, &streams, terms)?;
            results.rate(&format!("put_value_{len_bytes}"), &outcome);
            store.settle()?;
            let written = streams[0][..outcome.done[0]].iter().step_by(10);
            let gets = written.map(|operation| Operation { key: operation.key, kind: Kind::Get }).collect();
            run(&*store, &vec![gets], Terms { budget: None, ..terms })?;
            store.close()?;
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(())
    }

    fn prepare_reopen(&self) -> Result<()> {
        let store = self.open(Guarantee::Process)?;
        self.load_by_batches(&*store)?;
        store.close()
    }

    fn reopen(&self, results: &mut Results) -> Result<()> {
        let wanted = key(self.keys / 2);
        let started = Instant::now();
        let store = self.open(Guarantee::Process)?;
        let found = store.get(&wanted, &mut |_| Ok(()))?;
        let elapsed = started.elapsed();
        ensure!(found, "a key was not found after opening again");
        results.number("reopen", elapsed.as_secs_f64() * 1e3);
        execute(&*store, &operation::uniform(self.keys, self.keys / 10, 1, Kind::Get))?;
        store.close()
    }

    fn churn(&self, results: &mut Results) -> Result<()> {
        let (keys, deleted) = (self.keys, self.keys / 5);
        let live_bytes = (keys - deleted) as f64 * (crate::data::KEY_LEN_BYTES + VALUE_LEN_BYTES) as f64;
        let mut store = self.open(Guarantee::Process)?;
        self.load_by_batches(&*store)?;
        // One by one, as programs write: batches would avoid the garbage that is measured here.
        // Only the last changes of a slow store are batches.
        let (overwrites, deletes) = (operation::zipfian(keys, keys, 1, Kind::Put), operation::deletes(keys, deleted));
        let overwritten = self.within_budget(&*store, &overwrites, Latencies::Off)?;
        let stopped = self.within_budget(&*store, &deletes, Latencies::Off)?.stopped || overwritten.stopped;
        store.settle()?;
        let first = results.0.len();
        results.number("disk_garbage", disk_bytes(self.dir)? as f64 / live_bytes);
        let started = Instant::now();
        if store.compact()? {
            results.number("compaction", started.elapsed().as_secs_f64() * 1e3);
        }
        results.number("disk_open", disk_bytes(self.dir)? as f64 / live_bytes);
        self.verify_deleted(&*store, deleted)?;
        store.close()?;
        results.number("disk", disk_bytes(self.dir)? as f64 / live_bytes);
        results.0[first..].iter_mut().for_each(|measurement| measurement.stopped = stopped);
        Ok(())
    }
}

/// Runs operations outside of rows, without a time limit.
fn execute(store: &dyn Store, streams: &Streams) -> Result<Outcome> {
    run(store, streams, Terms { value_len_bytes: VALUE_LEN_BYTES, latencies: Latencies::Off, budget: None })
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl Measurement {
    /// The rate of a row. The sums can be compared only if the stores did all work of the row.
    pub(crate) fn rate(row: &str, outcome: &Outcome) -> Self {
        let check = (!outcome.stopped).then_some(outcome.check);
        Self { row: row.into(), value: outcome.rate(), check, stopped: outcome.stopped }
    }
}

/// The measurements so far.
#[derive(Default)]
struct Results(Vec<Measurement>);

impl Results {
    fn rate(&mut self, row: &str, outcome: &Outcome) {
        self.0.push(Measurement::rate(row, outcome));
    }

    fn number(&mut self, row: &str, value: f64) {
        self.0.push(Measurement { row: row.into(), value, check: None, stopped: false });
    }
}

#[cfg(test)]
#[cfg(feature = "own")]
mod tests {
    use super::*;

    fn run_all(group: Group, budget: Duration) -> Vec<Measurement> {
        let dir = std::env::temp_dir().join(format!("peers-{group:?}-{}-{}", budget.as_nanos(), std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let task = Task { entry: crate::stores::entry("hightower").unwrap(), dir: &dir, keys: 10_000, budget };
        let rows = (0..group.steps()).flat_map(|step| task.run(group, step).unwrap()).collect();
        std::fs::remove_dir_all(&dir).unwrap();
        rows
    }

    #[test]
    fn every_row_is_measured_by_some_group() {
        let elsewhere = [Group::Synced, Group::Beyond];
        let groups = Group::value_variants().iter().filter(|group| !elsewhere.contains(group));
        let measured: Vec<String> =
            groups.flat_map(|group| run_all(*group, Duration::from_secs(600))).map(|row| row.row).collect();
        for row in crate::rows::ROWS.iter().filter(|row| !row.id.starts_with("synced") && !row.id.starts_with("beyond"))
        {
            assert!(measured.iter().any(|id| id == row.id), "{} is in no group", row.id);
        }
    }

    #[test]
    fn a_store_without_time_is_marked_and_finishes_what_others_need() {
        // The checks within the groups detect incomplete content.
        for group in [Group::Core, Group::Ycsb2, Group::Churn, Group::Latency, Group::Values] {
            let rows = run_all(group, Duration::ZERO);
            assert!(rows.iter().filter(|row| row.stopped).all(|row| row.check.is_none() && row.value > 0.0));
            assert!(rows.iter().any(|row| row.stopped), "{group:?}");
        }
    }
}
