//! A histogram of latencies in little memory, for rows whose operations are too many to keep each
//! time.

/// Buckets per power of two: a bucket is at most a 64th wide.
const BUCKETS_PER_DOUBLING: u64 = 64;

/// Counts of latencies in nanoseconds.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    most: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; bucket(u64::MAX) + 1], most: 0 }
    }
}

/// The bucket of a latency: its position is the number itself below 64, then six bits behind the
/// highest one.
fn bucket(nanoseconds: u64) -> usize {
    let doublings = (nanoseconds / BUCKETS_PER_DOUBLING).checked_ilog2().map_or(0, |log| u64::from(log) + 1);
    let shifted = nanoseconds >> doublings.saturating_sub(1);
    (doublings.saturating_sub(1) * BUCKETS_PER_DOUBLING + shifted) as usize
}

/// The least latency above those of a bucket.
fn end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let doublings = (bucket / BUCKETS_PER_DOUBLING).saturating_sub(1);
    (bucket - doublings * BUCKETS_PER_DOUBLING + 1) << doublings
}

impl Histogram {
    /// Counts latencies.
    pub(crate) fn add(&mut self, latencies_ns: &[u64]) {
        for &nanoseconds in latencies_ns {
            self.counts[bucket(nanoseconds)] += 1;
            self.most = self.most.max(nanoseconds);
        }
    }

    /// The latency in nanoseconds that a share of all reaches at most, to a 64th; the largest one
    /// for a share of 1. 0 if none was counted.
    pub(crate) fn quantile_ns(&self, share: f64) -> u64 {
        let wanted = (self.counts.iter().sum::<u64>() as f64 * share) as u64;
        let mut below = 0;
        let reached = self.counts.iter().position(|count| {
            below += count;
            below > wanted
        });
        reached.map_or(self.most, |bucket| end(bucket).min(self.most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_narrow() {
        let mut last = 0;
        for nanoseconds in (0..10_000).chain([1 << 20, (1 << 20) + (1 << 14), 1 << 40, u64::MAX - 1]) {
            let bucket = bucket(nanoseconds);
            assert!(bucket >= last, "{nanoseconds}");
            last = bucket;
            if nanoseconds < 1 << 50 {
                let end = end(bucket);
                assert!(end > nanoseconds && end - nanoseconds <= nanoseconds / 64 + 1, "{nanoseconds}: {end}");
            }
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_latencies() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile_ns(0.5), 0);
        histogram.add(&(0..100_000).collect::<Vec<u64>>());
        for (share, exact) in [(0.5, 50_000), (0.99, 99_000), (0.9999, 99_990)] {
            let found = histogram.quantile_ns(share);
            assert!(found >= exact && found <= exact + exact / 64 + 1, "{share}: {found}");
        }
        assert_eq!(histogram.quantile_ns(1.0), 99_999);
    }
}
