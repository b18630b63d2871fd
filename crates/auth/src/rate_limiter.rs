//! A rate limiter with a limit per key and one for all keys.

use std::collections::HashMap;
use std::hash::Hash;

use parking_lot::Mutex;

use crate::mutants::planted;
use crate::timestamp::Timestamp;

/// Number of keys compared to find the key to evict when the table is full.
const EVICTION_SAMPLE: usize = 8;

/// A token bucket: a burst of `burst` passages, then one passage per `ms_per_passage`.
#[derive(Clone, Copy, Debug)]
struct TokenBucket {
    /// Saved milliseconds; one passage costs `ms_per_passage`.
    saved_ms: i64,
    last_ms: Timestamp,
    suppressed: u32,
}

impl TokenBucket {
    fn full(rate: PassageRate, now_ms: Timestamp) -> Self {
        Self { saved_ms: rate.burst * rate.ms_per_passage, last_ms: now_ms, suppressed: 0 }
    }

    fn refill(&mut self, rate: PassageRate, now_ms: Timestamp) {
        let elapsed_ms = now_ms.saturating_sub(self.last_ms).max(0);
        self.saved_ms = self.saved_ms.saturating_add(elapsed_ms).min(rate.burst * rate.ms_per_passage);
        self.last_ms = now_ms;
    }
}

#[derive(Clone, Copy, Debug)]
struct PassageRate {
    burst: i64,
    ms_per_passage: i64,
}

/// For one key: a burst of 16, then one per 10 s.
const RATE_OF_ONE: PassageRate = PassageRate { burst: 16, ms_per_passage: 10_000 };
/// For all keys together: a burst of 256, then one per second. Ten noisy keys exhaust it.
const RATE_OF_ALL: PassageRate = PassageRate { burst: 256, ms_per_passage: 1000 };
/// Maximum number of keys in memory.
const MAX_LIMITED_KEYS: usize = 4096;

/// A rate limiter with a limit per key and one for all keys: a noisy key neither hides the others
/// nor fills the log. It counts the suppressed events.
#[derive(Debug)]
pub(crate) struct KeyedRateLimiter<K> {
    state: Mutex<KeyedLimiterState<K>>,
}

#[derive(Debug)]
struct KeyedLimiterState<K> {
    all: TokenBucket,
    each: HashMap<K, TokenBucket>,
}

impl<K: Hash + Eq + Clone> KeyedRateLimiter<K> {
    pub(crate) fn new(now_ms: Timestamp) -> Self {
        Self {
            state: Mutex::new(KeyedLimiterState { all: TokenBucket::full(RATE_OF_ALL, now_ms), each: HashMap::new() }),
        }
    }

    /// Lets an event pass, or suppresses it. `Some` if it passes, with the number of this key's
    /// events that were suppressed since the last passage.
    pub(crate) fn pass(&self, key: K, now_ms: Timestamp) -> Option<u32> {
        self.pass_all(&[key], now_ms)
    }

    /// As [`KeyedRateLimiter::pass`], for an event within the limits of several keys.
    pub(crate) fn pass_all(&self, keys: &[K], now_ms: Timestamp) -> Option<u32> {
        let mut state = self.state.lock();
        let KeyedLimiterState { all, each } = &mut *state;
        all.refill(RATE_OF_ALL, now_ms);
        let mut exhausted = keys.first().filter(|_| all.saved_ms < RATE_OF_ALL.ms_per_passage);
        for key in keys {
            if each.len() >= MAX_LIMITED_KEYS && !each.contains_key(key) {
                // Evict the quietest of a few keys.
                let sample = each.iter().take(EVICTION_SAMPLE);
                let quietest = sample.min_by_key(|(_, bucket)| (bucket.suppressed, -bucket.saved_ms));
                let quietest = quietest.map(|(key, _)| key.clone());
                quietest.and_then(|key| each.remove(&key));
            }
            let one = each.entry(key.clone()).or_insert_with(|| TokenBucket::full(RATE_OF_ONE, now_ms));
            one.refill(RATE_OF_ONE, now_ms);
            if one.saved_ms < RATE_OF_ONE.ms_per_passage && !planted("auth_one_limit_for_all") {
                exhausted = exhausted.or(Some(key));
            }
        }
        if exhausted.is_some() {
            // Each key's next passage reports the suppressed events, so a noisy source cannot hide
            // its attempts at an account.
            for key in keys.iter().filter(|key| !planted("auth_suppressed_under_one_key") || Some(*key) == exhausted) {
                if let Some(one) = each.get_mut(key) {
                    one.suppressed = one.suppressed.saturating_add(1);
                }
            }
            return None;
        }
        all.saved_ms -= RATE_OF_ALL.ms_per_passage;
        let mut suppressed = 0_u32;
        for key in keys {
            if let Some(one) = each.get_mut(key) {
                one.saved_ms -= RATE_OF_ONE.ms_per_passage;
                suppressed = suppressed.max(std::mem::take(&mut one.suppressed));
            }
        }
        Some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limiter_holds_back_the_noisy_and_no_other() {
        let limiter = KeyedRateLimiter::new(0);
        let passed = |key: u32, now_ms| (0..1000).filter(|_| limiter.pass(key, now_ms).is_some()).count();
        assert_eq!(passed(1, 0), 16);
        assert_eq!(passed(2, 0), 16, "the noise of one hides nobody else's");
        assert_eq!(limiter.pass(1, 9_999), None);
        assert_eq!(limiter.pass(1, 10_000), Some(985));
        assert_eq!(limiter.pass(1, 10_000), None);
        let all: usize = (3..1000).map(|key| passed(key, 10_000)).sum();
        assert!((200..=256).contains(&all), "all together have a limit too: {all}");
        for key in 0..20_000 {
            limiter.pass(key, 10_000);
        }
        assert!(limiter.state.lock().each.len() <= MAX_LIMITED_KEYS);
    }
}
