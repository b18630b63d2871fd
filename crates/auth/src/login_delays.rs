//! Delays after wrong passwords.
//!
//! Three counters, each under a keyed tag instead of a name or address in the clear:
//!
//! | counter | free failures | longest delay | stops |
//! | --- | --- | --- | --- |
//! | account and source | 5 | 15 min | one stranger guessing at one account |
//! | source | 20 | 15 min | one stranger guessing at many accounts |
//! | account | 20 (5 if the source is unknown) | 1 min | many strangers guessing at one account |
//!
//! After the free failures the delay is 1 s and doubles with each failure. Counts halve every hour.
//! An attempt during a delay is neither checked nor counted, so each delay ends. The account's
//! counter does not delay sources of the user's earlier logins, and its delay is short: a stranger
//! can slow down an account, but not lock it.
//!
//! Counters are in memory, in a table of bounded size, and in the store, in 4,096 slots: a program
//! with a new service per request continues the counts. Each failure writes its counters in one
//! small commit, per account 16 at once and then one per 10 s, so failed logins cannot grow the log
//! without bound. An attempt is charged before the password is checked, and refunded if the
//! password was right, so concurrent attempts count one by one. A failure with a time in the future
//! counts as of now, so setting the clock back prolongs no delay. Services on one store add their
//! failures to the stored ones.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::record::SourceTag;
use crate::timestamp::Timestamp;

/// Number of slots for persisted counters.
pub(crate) const SLOTS: u16 = 4096;
const SHARDS: usize = 16;
const MAX_COUNTERS_PER_SHARD: usize = 4096;
const EVICTION_SAMPLE: usize = 8;
const MAX_DELAY_MS: i64 = 24 * 60 * 60 * 1000;
const HALF_LIVES_MS: std::ops::RangeInclusive<i64> = 60 * 1000..=30 * 24 * 60 * 60 * 1000;

/// Limits and delays after wrong passwords. Lower counts are stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuessPolicy {
    /// Failures of one source at one account before delays begin.
    pub free_per_account_and_source: u32,
    /// Failures of one source at all accounts before delays begin.
    pub free_per_source: u32,
    /// Failures of all sources at one account before delays begin.
    pub free_per_account: u32,
    /// Longest delay of a source, in ms; 0 for none, at most a day.
    pub max_source_delay_ms: i64,
    /// Longest delay of an account for unknown sources, in ms; 0 for none, at most a day.
    pub max_account_delay_ms: i64,
    /// Time without a failure that halves a counter, in ms; 1 minute to 30 days.
    pub half_life_ms: i64,
}

impl Default for GuessPolicy {
    fn default() -> Self {
        Self {
            free_per_account_and_source: 5,
            free_per_source: 20,
            free_per_account: 20,
            max_source_delay_ms: 15 * 60 * 1000,
            max_account_delay_ms: 60 * 1000,
            half_life_ms: 60 * 60 * 1000,
        }
    }
}

impl GuessPolicy {
    /// Checks every range.
    ///
    /// # Errors
    /// [`Error::Validation`] for a setting out of range.
    pub fn validate(&self) -> Result<()> {
        let delays = [self.max_source_delay_ms, self.max_account_delay_ms];
        if !delays.iter().all(|delay_ms| (0..=MAX_DELAY_MS).contains(delay_ms)) {
            return Err(Error::Validation("max_source_delay_ms and max_account_delay_ms are 0 ms to one day"));
        }
        if !HALF_LIVES_MS.contains(&self.half_life_ms) {
            return Err(Error::Validation("half_life_ms is 1 minute to 30 days"));
        }
        Ok(())
    }
}

/// Failures counted under one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counter {
    pub(crate) failures: u32,
    pub(crate) last_ms: Timestamp,
}

impl Counter {
    /// The failures that still count.
    pub(crate) fn remaining(&self, now_ms: Timestamp, half_life_ms: i64) -> u32 {
        let halvings = now_ms.saturating_sub(self.last_ms).max(0) / half_life_ms.max(1);
        u32::try_from(halvings).ok().and_then(|halvings| self.failures.checked_shr(halvings)).unwrap_or(0)
    }
}

/// A counter that an attempt is charged to, and its limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charge {
    pub(crate) tag: SourceTag,
    pub(crate) free: u32,
    pub(crate) max_delay_ms: i64,
}

impl Charge {
    /// The remaining delay, in ms; 0 if an attempt is allowed.
    fn wait_ms(&self, counter: Counter, now_ms: Timestamp, half_life_ms: i64) -> i64 {
        let failures = counter.remaining(now_ms, half_life_ms);
        let Some(over) = failures.checked_sub(self.free) else {
            return 0;
        };
        let delay_ms = 1000_i64.checked_shl(over.min(40)).unwrap_or(i64::MAX).min(self.max_delay_ms);
        delay_ms.saturating_sub(now_ms.saturating_sub(counter.last_ms).max(0)).max(0)
    }
}

/// A counter in memory.
#[derive(Clone, Copy, Debug)]
struct CachedCounter {
    counter: Counter,
    /// The part of the failures that the store has too. Further failures in the store are from
    /// other services.
    stored: u32,
}

impl CachedCounter {
    /// The stored failures that still count.
    fn stored(&self, now_ms: Timestamp, half_life_ms: i64) -> u32 {
        Counter { failures: self.stored, ..self.counter }.remaining(now_ms, half_life_ms)
    }
}

/// The counters in memory.
#[derive(Debug)]
pub(crate) struct GuessCounters {
    half_life_ms: i64,
    shards: Vec<Mutex<HashMap<SourceTag, CachedCounter>>>,
}

impl GuessCounters {
    pub(crate) fn new(half_life_ms: i64) -> Self {
        Self { half_life_ms, shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    #[cfg(test)]
    fn knows(&self, tag: &SourceTag) -> bool {
        self.shard(tag).lock().contains_key(tag)
    }

    /// Adds the stored failures of other services to a counter.
    pub(crate) fn restore(&self, tag: SourceTag, stored: Counter, now_ms: Timestamp) {
        let left = stored.remaining(now_ms, self.half_life_ms);
        if left == 0 {
            return;
        }
        let mut shard = self.shard(&tag).lock();
        let Some(held) = shard.get_mut(&tag) else {
            self.make_room(&mut shard, now_ms);
            shard.insert(tag, CachedCounter { counter: stored, stored: stored.failures });
            return;
        };
        let by_others = left.saturating_sub(held.stored(now_ms, self.half_life_ms));
        if by_others > 0 {
            let failures = held.counter.remaining(now_ms, self.half_life_ms).saturating_add(by_others);
            let last_ms = held.counter.last_ms.max(stored.last_ms);
            *held = CachedCounter { counter: Counter { failures, last_ms }, stored: left };
        }
    }

    /// The counter for the store, marked as stored. [`GuessCounters::not_stored`] with the returned
    /// number undoes the mark.
    pub(crate) fn store(&self, tag: &SourceTag) -> Option<(Counter, u32)> {
        let mut shard = self.shard(tag).lock();
        let held = shard.get_mut(tag)?;
        Some((held.counter, std::mem::replace(&mut held.stored, held.counter.failures)))
    }

    /// Undoes [`GuessCounters::store`]: only `before` of the failures are stored.
    pub(crate) fn not_stored(&self, tag: &SourceTag, counter: Counter, before: u32) {
        if let Some(held) = self.shard(tag).lock().get_mut(tag)
            && held.stored == counter.failures
        {
            held.stored = before;
        }
    }

    /// Removes a counter.
    pub(crate) fn forget(&self, tag: &SourceTag) {
        self.shard(tag).lock().remove(tag);
    }

    /// The delay before an attempt, in ms. If it is 0, charges the attempt as a failure.
    pub(crate) fn begin(&self, charges: &[Charge], now_ms: Timestamp) -> i64 {
        // Both steps run under all locks, so that concurrent attempts see each other's charges. The
        // locks are taken in order, so that no deadlock is possible.
        let mut places: Vec<usize> = charges.iter().map(|charge| place(&charge.tag)).collect();
        places.sort_unstable();
        places.dedup();
        let lock_all = || places.iter().map(|&place| (place, self.shards[place].lock())).collect::<Vec<_>>();
        let mut held = lock_all();
        let mut wait_ms = 0;
        for charge in charges {
            let shard = held.iter_mut().find(|(at, _)| *at == place(&charge.tag));
            let Some(held) = shard.and_then(|(_, shard)| shard.get_mut(&charge.tag)) else { continue };
            let counter = &mut held.counter;
            // If the clock went back, the delay runs from now on.
            if !planted("auth_delay_from_the_future") {
                counter.last_ms = counter.last_ms.min(now_ms);
            }
            wait_ms = wait_ms.max(charge.wait_ms(*counter, now_ms, self.half_life_ms));
        }
        if wait_ms > 0 {
            return wait_ms;
        }
        if planted("auth_guess_charged_late") {
            drop(held);
            std::thread::yield_now();
            held = lock_all();
        }
        for Charge { tag, .. } in charges {
            held.iter_mut()
                .filter(|(at, _)| *at == place(tag))
                .for_each(|(_, shard)| self.add_failure(shard, *tag, now_ms));
        }
        0
    }

    /// Refunds a charge after a right password, and resets the first counter.
    pub(crate) fn refund(&self, charges: &[Charge]) {
        for (at, charge) in charges.iter().enumerate() {
            let mut shard = self.shard(&charge.tag).lock();
            let Some(held) = shard.get_mut(&charge.tag) else { continue };
            held.counter.failures = if at == 0 { 0 } else { held.counter.failures.saturating_sub(1) };
            // The table must remember the reset: otherwise the stored failures would count again.
            if held.counter.failures == 0 && (held.stored == 0 || planted("auth_refund_forgets_stored")) {
                shard.remove(&charge.tag);
            }
        }
    }

    fn add_failure(&self, shard: &mut HashMap<SourceTag, CachedCounter>, tag: SourceTag, now_ms: Timestamp) {
        self.make_room(shard, now_ms);
        let none = CachedCounter { counter: Counter { failures: 0, last_ms: now_ms }, stored: 0 };
        let held = shard.entry(tag).or_insert(none);
        let stored = held.stored(now_ms, self.half_life_ms);
        let failures = held.counter.remaining(now_ms, self.half_life_ms).saturating_add(1);
        *held = CachedCounter { counter: Counter { failures, last_ms: now_ms }, stored };
    }

    fn make_room(&self, shard: &mut HashMap<SourceTag, CachedCounter>, now_ms: Timestamp) {
        if shard.len() < MAX_COUNTERS_PER_SHARD {
            return;
        }
        let sample = shard.iter().take(EVICTION_SAMPLE);
        let badness = |held: &CachedCounter| (held.counter.remaining(now_ms, self.half_life_ms), held.counter.last_ms);
        let least = sample.min_by_key(|(_, held)| badness(held));
        if let Some(tag) = least.map(|(tag, _)| *tag) {
            shard.remove(&tag);
        }
    }

    fn shard(&self, tag: &SourceTag) -> &Mutex<HashMap<SourceTag, CachedCounter>> {
        &self.shards[place(tag)]
    }
}

/// The shard of a tag's counter.
fn place(tag: &SourceTag) -> usize {
    usize::from(tag[15]) % SHARDS
}

/// The slot of a tag's persisted counter.
pub(crate) fn slot(tag: &SourceTag) -> u16 {
    u16::from_le_bytes([tag[0], tag[1]]) % SLOTS
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn charge(name: u8, free: u32) -> Charge {
        Charge { tag: [name; 16], free, max_delay_ms: 60_000 }
    }

    #[test]
    fn delays_double_run_out_and_are_capped() {
        let table = GuessCounters::new(3_600_000);
        let mut now = 1_000_000;
        let charges = [charge(1, 3)];
        for _ in 0..3 {
            assert_eq!(table.begin(&charges, now), 0);
        }
        for expected in [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000] {
            assert_eq!(table.begin(&charges, now), expected);
            assert_eq!(table.begin(&charges, now + expected - 1), 1, "an attempt during a delay changes nothing");
            now += expected;
            assert_eq!(table.begin(&charges, now), 0);
        }
        assert_eq!(table.begin(&charges, now - 999_999), 60_000, "a clock that goes back adds nothing");
        assert_eq!(table.begin(&charges, now + 24 * 3_600_000), 0);
    }

    #[test]
    fn attempts_at_the_same_time_do_not_pass_as_one() {
        const ROUNDS: usize = 3000;
        let table = GuessCounters::new(3_600_000);
        let passed: Vec<AtomicUsize> = (0..ROUNDS).map(|_| AtomicUsize::new(0)).collect();
        let start = Barrier::new(4);
        let guess = || {
            for (round, passed) in passed.iter().enumerate() {
                let tag = |kind: u8| {
                    let mut tag = [kind; 16];
                    tag[..8].copy_from_slice(&round.to_le_bytes());
                    tag
                };
                let charges = [3, 2, 1].map(|kind| Charge { tag: tag(kind), free: 2, max_delay_ms: 60_000 });
                start.wait();
                for _ in 0..2 {
                    passed.fetch_add(usize::from(table.begin(&charges, 0) == 0), Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(guess))));
        assert!(passed.iter().all(|passed| passed.load(Ordering::Relaxed) == 2), "{passed:?}");
    }

    #[test]
    fn a_right_password_is_refunded() {
        let table = GuessCounters::new(3_600_000);
        let charges = [charge(1, 2), charge(2, 2)];
        for _ in 0..50 {
            assert_eq!(table.begin(&charges, 0), 0);
            table.refund(&charges);
        }
        assert!(!table.knows(&[1; 16]) && !table.knows(&[2; 16]));
    }

    /// A right password also clears the stored failures: one typo after it is one failure.
    #[test]
    fn stored_failures_do_not_come_back_after_a_right_password() {
        let (table, charges) = (GuessCounters::new(3_600_000), [charge(1, 3)]);
        let in_store = Counter { failures: 4, last_ms: 0 };
        table.restore([1; 16], in_store, 0);
        table.refund(&charges);
        table.restore([1; 16], in_store, 0);
        assert_eq!(table.begin(&charges, 0), 0);
        assert_eq!(table.store(&[1; 16]).unwrap().0.failures, 1);
    }

    /// A clock that was a year ahead when passwords were guessed: the delay runs from now on.
    #[test]
    fn a_clock_that_was_set_back_delays_nobody_longer() {
        const YEAR_MS: i64 = 365 * 24 * 3_600_000;
        let (table, charges) = (GuessCounters::new(3_600_000), [charge(1, 3)]);
        let counter = Counter { failures: 9, last_ms: YEAR_MS };
        table.restore([1; 16], counter, 0);
        assert_eq!(table.begin(&charges, 0), 60_000);
        assert_eq!(table.begin(&charges, 60_000), 0);
    }

    #[test]
    fn of_two_counters_the_worse_is_kept() {
        let table = GuessCounters::new(3_600_000);
        let restore = |failures| table.restore([1; 16], Counter { failures, last_ms: 0 }, 0);
        [3, 9, 2].into_iter().for_each(restore);
        assert_eq!(table.store(&[1; 16]).unwrap().0.failures, 9);
        table.forget(&[1; 16]);
        assert!(table.store(&[1; 16]).is_none());
    }

    #[test]
    fn failures_of_others_in_the_store_are_added() {
        let (table, charges) = (GuessCounters::new(3_600_000), [charge(1, 90)]);
        let restore = |failures| table.restore([1; 16], Counter { failures, last_ms: 0 }, 0);
        (0..2).for_each(|_| assert_eq!(table.begin(&charges, 0), 0));
        restore(3);
        let (counter, before) = table.store(&[1; 16]).unwrap();
        assert_eq!((counter.failures, before), (5, 3));
        restore(5);
        assert_eq!(table.store(&[1; 16]).unwrap().0.failures, 5, "they are its own");
        table.not_stored(&[1; 16], counter, 3);
        restore(4);
        assert_eq!(table.store(&[1; 16]).unwrap().0.failures, 6, "another was faster");
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let table = GuessCounters::new(3_600_000);
        let worst = [charge(200, u32::MAX)];
        (0..100).for_each(|_| assert_eq!(table.begin(&worst, 0), 0));
        for n in 0..90_000_u32 {
            let mut tag = [0; 16];
            tag[..4].copy_from_slice(&n.to_le_bytes());
            tag[15] = (n % 251) as u8;
            table.begin(&[Charge { tag, free: 9, max_delay_ms: 1 }], 0);
        }
        let held: usize = table.shards.iter().map(|shard| shard.lock().len()).sum();
        assert!(held <= SHARDS * MAX_COUNTERS_PER_SHARD, "{held}");
        assert!(table.knows(&[200; 16]));
    }

    #[test]
    fn senseless_policies_are_refused() {
        let good = GuessPolicy::default();
        good.validate().unwrap();
        for bad in [
            GuessPolicy { half_life_ms: 0, ..good },
            GuessPolicy { half_life_ms: i64::MAX, ..good },
            GuessPolicy { max_source_delay_ms: -1, ..good },
            GuessPolicy { max_account_delay_ms: i64::MAX, ..good },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
