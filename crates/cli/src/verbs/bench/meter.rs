//! Counts operations and times a sample of them.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::failure::Failure;
use crate::interrupt;
use crate::units;

/// Number of operations per timed one, large enough that the clock hardly affects the rate.
const SAMPLE_EVERY: u64 = 16;

/// The result of a measurement.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) operation: &'static str,
    pub(crate) operations: u64,
    pub(crate) per_second: u64,
    pub(crate) p50_ns: Option<u64>,
    pub(crate) p99_ns: Option<u64>,
    pub(crate) max_ns: Option<u64>,
}

impl Measured {
    /// A work that was timed as a whole.
    pub(crate) fn once(operation: &'static str, operations: u64, elapsed: Duration) -> Self {
        let per_second = units::per_second(operations, elapsed);
        Self { operation, operations, per_second, p50_ns: None, p99_ns: None, max_ns: None }
    }
}

/// A running measurement.
pub(crate) struct Meter {
    operation: &'static str,
    operations: u64,
    samples_ns: Vec<u64>,
    started: Instant,
}

impl Meter {
    pub(crate) fn start(operation: &'static str) -> Self {
        Self { operation, operations: 0, samples_ns: Vec::new(), started: Instant::now() }
    }

    /// Runs an operation, and times it if it is in the sample.
    pub(crate) fn time(&mut self, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        if self.operations.is_multiple_of(SAMPLE_EVERY) {
            return self.time_each(work);
        }
        self.operations += 1;
        work()
    }

    /// Runs an operation and times it.
    pub(crate) fn time_each(&mut self, work: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        self.operations += 1;
        interrupt::check()?;
        let started = Instant::now();
        work()?;
        self.samples_ns.push(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Measured {
        let elapsed = self.started.elapsed();
        self.samples_ns.sort_unstable();
        Measured {
            p50_ns: percentile(&self.samples_ns, 50),
            p99_ns: percentile(&self.samples_ns, 99),
            max_ns: self.samples_ns.last().copied(),
            ..Measured::once(self.operation, self.operations, elapsed)
        }
    }
}

/// The smallest sample that at least `percent` percent of the samples do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::{Meter, percentile};

    #[test]
    fn percentiles_by_nearest_rank() {
        let sorted: Vec<u64> = (1..=200).collect();
        assert_eq!((percentile(&sorted, 50), percentile(&sorted, 99)), (Some(100), Some(198)));
        assert_eq!((percentile(&[7], 99), percentile(&[], 50)), (Some(7), None));
    }

    #[test]
    fn some_are_timed_and_all_are_counted() {
        let mut meter = Meter::start("nothing");
        for _ in 0..33 {
            meter.time(|| Ok(())).unwrap();
        }
        assert_eq!(meter.samples_ns.len(), 3);
        assert_eq!(meter.finish().operations, 33);
    }
}
