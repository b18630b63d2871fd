//! Runs streams of operations on a store, checks every answer, and measures the time.
//!
//! A row has a time limit: a slower store stops at the end of its current operation, and its rate
//! is that of the operations done. [`complete`] then writes the remaining data, so that the next
//! rows find the same content in every store.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::data::{Key, Values, words};
use crate::operation::{Kind, Operation, Streams};
use crate::store::Store;

/// Number of changes per commit when the remaining data of a row is written.
pub(crate) const COMPLETING_BATCH: usize = 1000;

/// The result of a run.
pub(crate) struct Outcome {
    /// Number of completed operations.
    pub(crate) operations: u64,
    /// From the start of the first thread to the end of the last.
    pub(crate) elapsed: Duration,
    /// A sum over all written and read data: the same for every store that did the same work.
    pub(crate) check: u64,
    /// Number of completed operations per stream; fewer than the stream has if the time was over.
    pub(crate) done: Vec<usize>,
    /// Whether the time was over before all operations were done.
    pub(crate) stopped: bool,
    /// The time of each operation in nanoseconds, if requested.
    pub(crate) latencies_ns: Vec<u64>,
}

impl Outcome {
    /// Operations per second.
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }
}

/// Whether each operation is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Latencies {
    /// Each operation is timed, by two more readings of the clock.
    Each,
    /// Only the whole run is timed.
    Off,
}

/// The parameters of a run.
#[derive(Clone, Copy)]
pub(crate) struct Terms {
    /// Length of a value, in bytes.
    pub(crate) value_len_bytes: usize,
    /// Whether each operation is timed.
    pub(crate) latencies: Latencies,
    /// The time after which every stream stops at the end of its operation; `None` for no limit.
    pub(crate) budget: Option<Duration>,
}

/// Runs each stream on a separate thread; all start together.
pub(crate) fn run(store: &dyn Store, streams: &Streams, terms: Terms) -> Result<Outcome> {
    let (barrier, stop) = (Barrier::new(streams.len() + 1), AtomicBool::new(false));
    let (sender, receiver) = channel::<()>();
    let results: Vec<Result<(Instant, Instant, Worker<'_>)>> = thread::scope(|scope| {
        let start = |(thread, stream)| {
            let (barrier, stop, sender) = (&barrier, &stop, sender.clone());
            scope.spawn(move || {
                // Dropped at every end of the thread. When all are dropped, nothing is left to
                // stop.
                let _running = sender;
                let mut worker = Worker::new(store, terms.value_len_bytes, thread as u64);
                if terms.latencies == Latencies::Each {
                    worker.latencies_ns = vec![0; Vec::<Operation>::len(stream)];
                }
                barrier.wait();
                let started = Instant::now();
                worker.run(stream, terms.latencies, stop)?;
                Ok((started, Instant::now(), worker))
            })
        };
        let threads: Vec<_> = streams.iter().enumerate().map(start).collect();
        drop(sender);
        barrier.wait();
        let ended = terms.budget.map(|budget| receiver.recv_timeout(budget));
        stop.store(matches!(ended, Some(Err(RecvTimeoutError::Timeout))), Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked")))).collect()
    });
    collect(results, streams)
}

fn collect(results: Vec<Result<(Instant, Instant, Worker<'_>)>>, streams: &Streams) -> Result<Outcome> {
    let results: Vec<_> = results.into_iter().collect::<Result<_>>()?;
    let started = results.iter().map(|result| result.0).min().context("no stream")?;
    let ended = results.iter().map(|result| result.1).max().context("no stream")?;
    let check = results.iter().fold(0, |sum: u64, result| sum.wrapping_add(result.2.check));
    let done: Vec<usize> = results.iter().map(|result| result.2.done).collect();
    let stopped = done.iter().zip(streams).any(|(&done, stream)| done < stream.len());
    let latencies_ns = results.into_iter().flat_map(|result| result.2.latencies_ns).collect();
    let operations = done.iter().sum::<usize>() as u64;
    Ok(Outcome { operations, elapsed: ended - started, check, done, stopped, latencies_ns })
}

/// Writes the data of all operations of `streams` beyond the first `done` of each, in batches,
/// untimed.
pub(crate) fn complete(store: &dyn Store, streams: &Streams, done: &[usize], value_len_bytes: usize) -> Result<()> {
    for (thread, (stream, &done)) in streams.iter().zip(done).enumerate() {
        let mut values = Values::new(value_len_bytes);
        for chunk in stream[done..].chunks(COMPLETING_BATCH) {
            let of = |wanted: fn(Kind) -> bool| chunk.iter().filter(move |operation| wanted(operation.kind));
            let puts: Vec<_> = of(|kind| matches!(kind, Kind::Put | Kind::PutLast | Kind::ReadModifyWrite))
                .map(|operation| (operation.key.to_vec(), values.make(&operation.key, thread as u64).to_vec()))
                .collect();
            if !puts.is_empty() {
                store.put_batch(&puts)?;
            }
            let deletes: Vec<_> = of(|kind| kind == Kind::Delete).map(|operation| operation.key.to_vec()).collect();
            if !deletes.is_empty() {
                store.delete_batch(&deletes)?;
            }
        }
    }
    Ok(())
}

/// The state of one thread.
struct Worker<'a> {
    store: &'a dyn Store,
    values: Values,
    generation: u64,
    check: u64,
    pairs: u64,
    done: usize,
    latencies_ns: Vec<u64>,
}

impl<'a> Worker<'a> {
    fn new(store: &'a dyn Store, value_len_bytes: usize, generation: u64) -> Self {
        Self {
            store,
            values: Values::new(value_len_bytes),
            generation,
            check: 0,
            pairs: 0,
            done: 0,
            latencies_ns: Vec::new(),
        }
    }

    fn run(&mut self, stream: &[Operation], latencies: Latencies, stop: &AtomicBool) -> Result<()> {
        for (place, operation) in stream.iter().enumerate() {
            // At least one operation is done, so that a rate exists.
            if place > 0 && stop.load(Ordering::Relaxed) {
                break;
            }
            if latencies == Latencies::Off {
                self.execute(operation)?;
            } else {
                let started = Instant::now();
                self.execute(operation)?;
                self.latencies_ns[place] = u64::try_from(started.elapsed().as_nanos())?;
            }
            self.done = place + 1;
        }
        self.latencies_ns.truncate(self.done);
        Ok(())
    }

    fn execute(&mut self, Operation { key, kind }: &Operation) -> Result<()> {
        match *kind {
            Kind::Put => self.store.put(key, self.values.make(key, self.generation))?,
            Kind::PutLast => self.store.put_last(key, self.values.make(key, self.generation))?,
            Kind::Delete => self.store.delete(key)?,
            Kind::Get => return self.get(key),
            Kind::GetAbsent => {
                let found = self.store.get(key, &mut |_| Ok(()))?;
                ensure!(!found, "found a key that was never written");
            }
            Kind::ReadModifyWrite => {
                self.get(key)?;
                self.store.put(key, self.values.make(key, self.generation))?;
            }
            Kind::ScanPrefix { len_bytes, pairs } => {
                return self.scan_prefix(&key[..usize::from(len_bytes)], u64::from(pairs));
            }
            Kind::ScanFrom { pairs } => return self.scan_from(key, usize::from(pairs)).map(|_| ()),
        }
        self.check = self.check.wrapping_add(number_of(key));
        Ok(())
    }

    fn get(&mut self, key: &Key) -> Result<()> {
        let values = &self.values;
        let found = self.store.get(key, &mut |value| values.check(key, value))?;
        ensure!(found, "did not find a written key");
        self.check = self.check.wrapping_add(number_of(key));
        Ok(())
    }

    fn scan_prefix(&mut self, prefix: &[u8], expected: u64) -> Result<()> {
        let mut seen = Seen::default();
        let (store, values) = (self.store, &self.values);
        store.scan_prefix(prefix, &mut |key, value| {
            ensure!(key.starts_with(prefix), "a scan left its prefix");
            seen.add(values, key, value)
        })?;
        ensure!(seen.pairs == expected, "a scan gave {} pairs instead of {expected}", seen.pairs);
        self.note(&seen);
        Ok(())
    }

    fn scan_from(&mut self, start: &[u8], limit: usize) -> Result<bool> {
        let mut seen = Seen::default();
        let (store, values) = (self.store, &self.values);
        let supported = store.scan_from(start, limit, &mut |key, value| {
            // Only for the first key: the others follow it. Where the library compares with an
            // empty start by a masked load, this would take longer than all other work here.
            ensure!(seen.pairs > 0 || key >= start, "a scan began before its start");
            seen.add(values, key, value)
        })?;
        self.note(&seen);
        Ok(supported)
    }

    fn note(&mut self, seen: &Seen) {
        self.check = self.check.wrapping_add(seen.check);
        self.pairs += seen.pairs;
    }
}

/// Scans everything once; `None` if the store cannot. Each pair counts as an operation, but the
/// time limit does not stop the scan.
pub(crate) fn scan_all(store: &dyn Store, value_len_bytes: usize) -> Result<Option<Outcome>> {
    let mut worker = Worker::new(store, value_len_bytes, 0);
    let started = Instant::now();
    if !worker.scan_from(&[], usize::MAX)? {
        return Ok(None);
    }
    let elapsed = started.elapsed();
    let (operations, check) = (worker.pairs, worker.check);
    Ok(Some(Outcome { operations, elapsed, check, done: Vec::new(), stopped: false, latencies_ns: Vec::new() }))
}

/// The pairs of a scan so far.
#[derive(Default)]
struct Seen {
    pairs: u64,
    check: u64,
    last: Option<Key>,
}

impl Seen {
    fn add(&mut self, values: &Values, key: &[u8], value: &[u8]) -> Result<()> {
        // Keys of one length, compared as numbers, because the harness's work per pair counts in
        // every store's time.
        let Ok(key) = <&Key>::try_from(key) else { bail!("a key of {} bytes", key.len()) };
        let is_next = self.last.is_none_or(|last| u128::from_be_bytes(last) < u128::from_be_bytes(*key));
        ensure!(is_next, "a scan is out of order");
        self.last = Some(*key);
        values.check(key, value)?;
        self.pairs += 1;
        self.check = self.check.wrapping_add(number_of(key));
        Ok(())
    }
}

/// A number derived from the key.
fn number_of(key: &Key) -> u64 {
    let [low, high] = words(key);
    low.rotate_left(7) ^ high
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    use super::*;
    use crate::data::key;
    use crate::operation::{deletes, load_random, uniform};
    use crate::store::Visit;

    /// A map behind a lock that pauses for `pause` at each single write.
    #[derive(Default)]
    struct Slow {
        pairs: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
        pause: Duration,
    }

    impl Store for Slow {
        fn put(&self, key: &[u8], value: &[u8]) -> Result<()> {
            thread::sleep(self.pause);
            self.put_batch(&[(key.to_vec(), value.to_vec())])
        }

        fn put_batch(&self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
            self.pairs.lock().unwrap().extend(pairs.iter().cloned());
            Ok(())
        }

        fn delete(&self, key: &[u8]) -> Result<()> {
            thread::sleep(self.pause);
            self.pairs.lock().unwrap().remove(key);
            Ok(())
        }

        fn delete_batch(&self, keys: &[Vec<u8>]) -> Result<()> {
            self.pairs.lock().unwrap().retain(|key, _| !keys.contains(key));
            Ok(())
        }

        fn get(&self, key: &[u8], visit: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<bool> {
            let value = self.pairs.lock().unwrap().get(key).cloned();
            value.map(|value| visit(&value)).transpose().map(|found| found.is_some())
        }

        fn scan_prefix(&self, _prefix: &[u8], _visit: Visit<'_>) -> Result<()> {
            Ok(())
        }

        fn scan_from(&self, _start: &[u8], _limit: usize, _visit: Visit<'_>) -> Result<bool> {
            Ok(false)
        }

        fn compact(&mut self) -> Result<bool> {
            Ok(false)
        }

        fn close(self: Box<Self>) -> Result<()> {
            Ok(())
        }
    }

    fn terms(budget_ms: u64) -> Terms {
        let budget = Some(Duration::from_millis(budget_ms));
        Terms { value_len_bytes: 100, latencies: Latencies::Each, budget }
    }

    #[test]
    fn a_slow_store_is_stopped_and_its_work_completed() {
        let store = Slow { pause: Duration::from_millis(2), ..Slow::default() };
        let streams = load_random(20_000, 2);
        let outcome = run(&store, &streams, terms(50)).unwrap();
        assert!(outcome.stopped && outcome.operations < 100, "{} operations", outcome.operations);
        assert!(outcome.elapsed < Duration::from_secs(5));
        assert_eq!(outcome.operations, outcome.done.iter().sum::<usize>() as u64);
        assert_eq!(outcome.operations, outcome.latencies_ns.len() as u64);
        assert!(outcome.latencies_ns.iter().all(|&nanoseconds| nanoseconds >= 2_000_000));
        assert!(outcome.rate() < 1000.0, "the rate counts finished operations, not requested ones");
        assert_eq!(store.pairs.lock().unwrap().len() as u64, outcome.operations);

        complete(&store, &streams, &outcome.done, 100).unwrap();
        assert_eq!(store.pairs.lock().unwrap().len(), 20_000);
        // Every value passes its check, and the remaining deletes are done, too.
        run(&store, &uniform(20_000, 5000, 1, Kind::Get), terms(60_000)).unwrap();
        let streams = deletes(20_000, 5000);
        let outcome = run(&store, &streams, terms(20)).unwrap();
        assert!(outcome.stopped);
        complete(&store, &streams, &outcome.done, 100).unwrap();
        assert_eq!(store.pairs.lock().unwrap().len(), 15_000);
    }

    #[test]
    fn a_store_within_its_budget_does_all() {
        let store = Slow::default();
        let outcome = run(&store, &load_random(3000, 2), terms(60_000)).unwrap();
        assert!(!outcome.stopped && outcome.operations == 3000 && outcome.done == [1500, 1500]);
        assert!(outcome.elapsed < Duration::from_secs(30), "the end of the work ends the wait for the budget");
    }

    #[test]
    fn one_operation_is_always_done() {
        let store = Slow { pause: Duration::from_millis(30), ..Slow::default() };
        let outcome = run(&store, &load_random(10_000, 1), terms(0)).unwrap();
        assert!(outcome.stopped && outcome.operations >= 1 && outcome.rate() > 0.0);
    }

    #[test]
    fn without_a_budget_nothing_is_stopped() {
        let store = Slow::default();
        store.put(&key(0), &[0; 100]).unwrap();
        let outcome =
            run(&store, &load_random(1000, 1), Terms { value_len_bytes: 100, latencies: Latencies::Off, budget: None });
        assert!(!outcome.unwrap().stopped);
    }
}
