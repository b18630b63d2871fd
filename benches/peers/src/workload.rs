//! The workloads: groups of rows that share a store. Each group runs in a child process of its own over a fresh directory.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::data::{Permutation, key};
use crate::execute::{Latencies, Outcome, run, scan_all};
use crate::machine::{anonymous_memory_bytes, disk_bytes};
use crate::operation::{self, Kind, Operation, Streams, Ycsb};
use crate::store::{Guarantee, Store};
use crate::stores::Entry;

/// Bytes of a value where the row does not say otherwise.
pub(crate) const VALUE_LEN_BYTES: usize = 100;

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
    /// Values of 64 B to 64 KiB.
    Values,
    /// Opening after a clean close.
    Reopen,
    /// Disk use after overwrites, deletes and a compaction.
    Churn,
}

impl Group {
    /// How many child processes it takes, one after the other, over the same directory.
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
    /// A sum over the work that was done; equal for every store, or absent where there is nothing to compare.
    pub(crate) check: Option<u64>,
}

/// What a child process is to do.
pub(crate) struct Task<'a> {
    /// The store.
    pub(crate) entry: Entry,
    /// Where it lives.
    pub(crate) dir: &'a Path,
    /// How many keys.
    pub(crate) keys: u64,
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

    fn core(&self, results: &mut Results) -> Result<()> {
        let keys = self.keys;
        let mut store = self.open(Guarantee::Process)?;
        results.rate("put_random", &execute(&*store, &operation::load_random(keys, 1))?);
        results.number("memory", mebibytes(anonymous_memory_bytes()?));
        store.settle()?;
        results.rate("get_uniform", &execute(&*store, &operation::uniform(keys, keys, 1, Kind::Get))?);
        results.rate("get_uniform_2", &execute(&*store, &operation::uniform(keys, keys, 2, Kind::Get))?);
        results.rate("get_zipfian", &execute(&*store, &operation::zipfian(keys, keys, 1, Kind::Get))?);
        results.rate("get_absent", &execute(&*store, &operation::absent(keys, keys))?);
        self.prefix_scans(results, &*store, "_fresh")?;
        store.compact()?;
        self.prefix_scans(results, &*store, "")?;
        if let Some(outcome) = scan_all(&*store, VALUE_LEN_BYTES)? {
            ensure!(outcome.operations == keys, "a scan of everything gave {} pairs", outcome.operations);
            results.rate("scan_all", &outcome);
        }
        results.number("memory_read", mebibytes(anonymous_memory_bytes()?));
        store.settle()?;
        results.rate("overwrite_zipfian", &execute(&*store, &operation::zipfian(keys, keys, 1, Kind::Put))?);
        store.settle()?;
        results.rate("delete", &execute(&*store, &operation::deletes(keys, keys / 2))?);
        self.verify_deleted(&*store, keys / 2)?;
        store.close()
    }

    fn prefix_scans(&self, results: &mut Results, store: &dyn Store, suffix: &str) -> Result<()> {
        let divisor = self.entry.scan_divisor;
        let scans = [
            ("scan_10", operation::scans_of_ten(self.keys, self.keys / 10 / divisor)),
            ("scan_1000", operation::scans_of_a_thousand(self.keys, (self.keys / 500 / divisor).max(2))),
        ];
        for (row, streams) in scans {
            let (row, outcome) = (format!("{row}{suffix}"), execute(store, &streams)?);
            // Only the same scans have the same sum.
            if divisor == 1 { results.rate(&row, &outcome) } else { results.number(&row, outcome.rate()) }
        }
        Ok(())
    }

    /// Looks at some of the first `count` deleted keys, and of those that were not.
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
        results.rate(row, &execute(&*store, streams)?);
        store.settle()?;
        execute(&*store, &operation::uniform(self.keys, self.keys / 10, 1, Kind::Get))?;
        store.close()
    }

    fn latency(&self, results: &mut Results) -> Result<()> {
        let store = self.open(Guarantee::Process)?;
        let streams = operation::load_random(self.keys, 1);
        let mut latencies_ns = run(&*store, &streams, VALUE_LEN_BYTES, 0, Latencies::Each)?.latencies_ns;
        latencies_ns.sort_unstable();
        let at = |share: f64| {
            let place = (latencies_ns.len() as f64 * share) as usize;
            latencies_ns.get(place.min(latencies_ns.len() - 1)).map(|&nanoseconds| nanoseconds as f64 / 1e3)
        };
        for (row, share) in [("put_p50", 0.5), ("put_p999", 0.999), ("put_max", 1.0)] {
            results.number(row, at(share).context("no put was timed")?);
        }
        store.close()
    }

    fn ycsb(&self, results: &mut Results, threads: u64) -> Result<()> {
        let store = self.open(Guarantee::Process)?;
        execute(&*store, &operation::load_random(self.keys, 1))?;
        store.settle()?;
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
            let outcome = execute(&*store, &streams)?;
            // With two threads, what a scan sees of the other thread's inserts depends on the moment.
            let row = format!("ycsb_{name}_{threads}");
            if scans && threads > 1 {
                results.number(&row, outcome.rate());
            } else {
                results.rate(&row, &outcome);
            }
            store.settle()?;
        }
        store.close()
    }

    fn synced(&self, results: &mut Results) -> Result<()> {
        let commits = (self.keys / 250).max(400);
        let store = self.open(Guarantee::Power)?;
        results.rate("synced_1", &execute(&*store, &operation::load_random(commits, 1))?);
        results.rate("synced_8", &execute(&*store, &operation::load_random(commits * 2, 8))?);
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
        let started = Instant::now();
        batches.iter().try_for_each(|batch| store.put_batch(batch))?;
        results.number("synced_batch", count as f64 / started.elapsed().as_secs_f64());
        let get = |index: u64| Operation { key: key(self.keys + index), kind: Kind::Get };
        execute(store, &vec![(0..count * 1000).step_by(11).map(get).collect()]).map(|_| ())
    }

    fn values(&self, results: &mut Results) -> Result<()> {
        for (len_bytes, divisor) in [(64, 1), (512, 2), (4096, 16), (65_536, 128)] {
            let keys = self.keys / divisor;
            let dir: PathBuf = self.dir.join(len_bytes.to_string());
            std::fs::create_dir_all(&dir)?;
            let store = (self.entry.open)(&dir, Guarantee::Process)?;
            let outcome = run(&*store, &operation::load_random(keys, 1), len_bytes, 0, Latencies::Off)?;
            results.rate(&format!("put_value_{len_bytes}"), &outcome);
            store.settle()?;
            run(&*store, &operation::uniform(keys, keys / 10, 1, Kind::Get), len_bytes, 0, Latencies::Off)?;
            store.close()?;
            std::fs::remove_dir_all(&dir)?;
        }
        Ok(())
    }

    fn prepare_reopen(&self) -> Result<()> {
        let store = self.open(Guarantee::Process)?;
        execute(&*store, &operation::load_random(self.keys, 1))?;
        store.settle()?;
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
        execute(&*store, &operation::load_random(keys, 1))?;
        execute(&*store, &operation::zipfian(keys, keys, 1, Kind::Put))?;
        execute(&*store, &operation::deletes(keys, deleted))?;
        store.settle()?;
        results.number("disk_garbage", disk_bytes(self.dir)? as f64 / live_bytes);
        let started = Instant::now();
        if store.compact()? {
            results.number("compaction", started.elapsed().as_secs_f64() * 1e3);
        }
        results.number("disk_open", disk_bytes(self.dir)? as f64 / live_bytes);
        self.verify_deleted(&*store, deleted)?;
        store.close()?;
        results.number("disk", disk_bytes(self.dir)? as f64 / live_bytes);
        Ok(())
    }
}

fn execute(store: &dyn Store, streams: &Streams) -> Result<Outcome> {
    run(store, streams, VALUE_LEN_BYTES, 0, Latencies::Off)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The measurements so far.
#[derive(Default)]
struct Results(Vec<Measurement>);

impl Results {
    fn rate(&mut self, row: &str, outcome: &Outcome) {
        self.0.push(Measurement { row: row.into(), value: outcome.rate(), check: Some(outcome.check) });
    }

    fn number(&mut self, row: &str, value: f64) {
        self.0.push(Measurement { row: row.into(), value, check: None });
    }
}
