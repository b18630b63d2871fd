//! Runs streams of operations over a store, checks every answer, and takes the time.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::data::Values;
use crate::operation::{Kind, Operation, Streams};
use crate::store::Store;

/// What a run did.
pub(crate) struct Outcome {
    /// Operations.
    pub(crate) operations: u64,
    /// From the start of the first thread to the end of the last.
    pub(crate) elapsed: Duration,
    /// A sum over all that was written and read: the same for every store that did the same work.
    pub(crate) check: u64,
    /// The time of each operation in nanoseconds, if asked for.
    pub(crate) latencies_ns: Vec<u64>,
}

impl Outcome {
    /// Operations per second.
    pub(crate) fn rate(&self) -> f64 {
        self.operations as f64 / self.elapsed.as_secs_f64()
    }
}

/// Whether to take the time of each operation, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Latencies {
    /// Take it: two more readings of the clock per operation.
    Each,
    /// Only the whole.
    Off,
}

/// Runs each stream on a thread of its own, all started at once.
pub(crate) fn run(
    store: &dyn Store,
    streams: &Streams,
    value_len_bytes: usize,
    generation: u64,
    latencies: Latencies,
) -> Result<Outcome> {
    let barrier = Barrier::new(streams.len());
    let results: Vec<Result<(Instant, Instant, Worker<'_>)>> = thread::scope(|scope| {
        let start = |(thread, stream)| {
            let barrier = &barrier;
            scope.spawn(move || {
                let mut worker = Worker::new(store, value_len_bytes, (generation << 8) + thread as u64);
                if latencies == Latencies::Each {
                    worker.latencies_ns = vec![0; Vec::<Operation>::len(stream)];
                }
                barrier.wait();
                let started = Instant::now();
                worker.run(stream, latencies)?;
                Ok((started, Instant::now(), worker))
            })
        };
        let threads: Vec<_> = streams.iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked")))).collect()
    });
    collect(results, streams.iter().map(|stream| stream.len() as u64).sum())
}

fn collect(results: Vec<Result<(Instant, Instant, Worker<'_>)>>, operations: u64) -> Result<Outcome> {
    let results: Vec<_> = results.into_iter().collect::<Result<_>>()?;
    let started = results.iter().map(|result| result.0).min().context("no stream")?;
    let ended = results.iter().map(|result| result.1).max().context("no stream")?;
    let check = results.iter().fold(0, |sum: u64, result| sum.wrapping_add(result.2.check));
    let latencies_ns = results.into_iter().flat_map(|result| result.2.latencies_ns).collect();
    Ok(Outcome { operations, elapsed: ended - started, check, latencies_ns })
}

/// One thread's view.
struct Worker<'a> {
    store: &'a dyn Store,
    values: Values,
    generation: u64,
    check: u64,
    pairs: u64,
    latencies_ns: Vec<u64>,
}

impl<'a> Worker<'a> {
    fn new(store: &'a dyn Store, value_len_bytes: usize, generation: u64) -> Self {
        Self { store, values: Values::new(value_len_bytes), generation, check: 0, pairs: 0, latencies_ns: Vec::new() }
    }

    fn run(&mut self, stream: &[Operation], latencies: Latencies) -> Result<()> {
        if latencies == Latencies::Off {
            return stream.iter().try_for_each(|operation| self.execute(operation));
        }
        for (place, operation) in stream.iter().enumerate() {
            let started = Instant::now();
            self.execute(operation)?;
            self.latencies_ns[place] = u64::try_from(started.elapsed().as_nanos())?;
        }
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
                ensure!(!found, "a key was found that was never written");
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

    fn get(&mut self, key: &[u8]) -> Result<()> {
        let values = &self.values;
        let found = self.store.get(key, &mut |value| values.check(key, value))?;
        ensure!(found, "a key was not found that was written");
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
            ensure!(key >= start, "a scan began before its start");
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

/// Scans everything once; `None` if the store cannot. The operations are pairs.
pub(crate) fn scan_all(store: &dyn Store, value_len_bytes: usize) -> Result<Option<Outcome>> {
    let mut worker = Worker::new(store, value_len_bytes, 0);
    let started = Instant::now();
    if !worker.scan_from(&[], usize::MAX)? {
        return Ok(None);
    }
    let elapsed = started.elapsed();
    Ok(Some(Outcome { operations: worker.pairs, elapsed, check: worker.check, latencies_ns: Vec::new() }))
}

/// What a scan has seen.
#[derive(Default)]
struct Seen {
    pairs: u64,
    check: u64,
    last: Vec<u8>,
}

impl Seen {
    fn add(&mut self, values: &Values, key: &[u8], value: &[u8]) -> Result<()> {
        ensure!(self.last.as_slice() < key, "a scan is out of order");
        self.last.clear();
        self.last.extend_from_slice(key);
        values.check(key, value)?;
        self.pairs += 1;
        self.check = self.check.wrapping_add(number_of(key));
        Ok(())
    }
}

/// A number that follows from the key.
fn number_of(key: &[u8]) -> u64 {
    key.chunks(8).fold(0, |sum: u64, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.rotate_left(7) ^ u64::from_le_bytes(word)
    })
}
