//! Transactions that read two keys and write the first, by threads at once.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::data::{Key, Random, Values, key};
use crate::store::Store;

/// What to run.
#[derive(Clone, Copy)]
pub(crate) struct TransactionPlan {
    /// Transactions of all threads.
    pub(crate) count: u64,
    /// Threads.
    pub(crate) threads: u64,
    /// They use the keys below this number, all equally likely.
    pub(crate) keys: u64,
    /// Bytes of a value.
    pub(crate) value_len_bytes: usize,
    /// How long they may take.
    pub(crate) budget: Duration,
}

/// The finished work.
pub(crate) struct Transacted {
    /// Committed transactions per second.
    pub(crate) rate: f64,
    /// Repetitions after a conflict, of each transaction, ascending.
    pub(crate) retries: Vec<u32>,
    /// Whether the budget ended before the work.
    pub(crate) stopped: bool,
}

impl Transacted {
    /// The number of retries that this share of the transactions does not exceed.
    pub(crate) fn retries_of(&self, share: f64) -> Option<u32> {
        let place = (self.retries.len() as f64 * share) as usize;
        self.retries.get(place.min(self.retries.len().saturating_sub(1))).copied()
    }
}

/// Runs the plan on a store that holds its keys.
pub(crate) fn run(store: &dyn Store, plan: TransactionPlan) -> Result<Transacted> {
    let (barrier, stop) = (Barrier::new(plan.threads as usize + 1), AtomicBool::new(false));
    let per_thread = plan.count / plan.threads;
    let (results, elapsed) = thread::scope(|scope| {
        let start = |thread: u64| {
            let (barrier, stop) = (&barrier, &stop);
            scope.spawn(move || {
                let mut random = Random::new(200 + thread);
                let pairs: Vec<[Key; 2]> =
                    (0..per_thread).map(|_| [(); 2].map(|()| key(random.below(plan.keys)))).collect();
                barrier.wait();
                work(store, &pairs, plan.value_len_bytes, thread, stop)
            })
        };
        let threads: Vec<_> = (0..plan.threads).map(start).collect();
        barrier.wait();
        let started = Instant::now();
        while started.elapsed() < plan.budget && threads.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(Duration::from_millis(1));
        }
        stop.store(true, Ordering::Relaxed);
        let join = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked")))
        };
        let results: Result<Vec<(Vec<u32>, Duration)>> = threads.into_iter().map(join).collect();
        let longest = |results: &Vec<(Vec<u32>, Duration)>| results.iter().map(|result| result.1).max();
        let elapsed = results.as_ref().ok().and_then(longest);
        (results, elapsed)
    });
    let mut retries: Vec<u32> = results?.into_iter().flat_map(|(retries, _)| retries).collect();
    retries.sort_unstable();
    let rate = retries.len() as f64 / elapsed.context("no thread")?.as_secs_f64();
    Ok(Transacted { rate, stopped: (retries.len() as u64) < per_thread * plan.threads, retries })
}

fn work(
    store: &dyn Store,
    pairs: &[[Key; 2]],
    value_len_bytes: usize,
    generation: u64,
    stop: &AtomicBool,
) -> Result<(Vec<u32>, Duration)> {
    let (mut values, checker) = (Values::new(value_len_bytes), Values::new(value_len_bytes));
    let mut retries = Vec::with_capacity(pairs.len());
    let started = Instant::now();
    for keys in pairs {
        let value = values.make(&keys[0], generation);
        let mut check = |at: usize, found: &[u8]| checker.check(&keys[at], found);
        let tries = store.transact([&keys[0], &keys[1]], value, &mut check)?;
        retries.push(tries);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    Ok((retries, started.elapsed()))
}
