//! Delays for those who guess passwords.
//!
//! Three counters, each under a keyed tag so that names and addresses are not kept in the clear:
//!
//! | counter | free failures | longest delay | stops |
//! | --- | --- | --- | --- |
//! | account and source | 5 | 15 min | one stranger guessing at one account |
//! | source | 20 | 15 min | one stranger guessing at many accounts |
//! | account | 20 (5 if the source is unknown) | 1 min | many strangers guessing at one account |
//!
//! After the free failures the delay is 1 s and doubles with each failure. Counts halve every hour.
//! An attempt during a delay is not checked and not counted, so a delay always runs out. The
//! account's counter does not hold up sources from which its user has logged in before, and its
//! delay is short: a stranger can slow an account down, never lock it.
//!
//! Counters live in memory, in a table of bounded size. A counter is written to the store when it
//! reaches 8, 16, 32, ... failures, into one of 4096 slots, at most once a second over time: failed
//! logins cannot make the log grow without bound. An attempt is charged before the password is
//! checked and refunded if it was right, so that attempts at the same time do not pass as one.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::mutants::planted;
use crate::record::SourceTag;
use crate::seam::Timestamp;

/// How many slots persisted counters have.
pub(crate) const SLOTS: u16 = 4096;
const SHARDS: usize = 16;
const MAX_COUNTERS_PER_SHARD: usize = 4096;
const EVICTION_SAMPLE: usize = 8;
const FIRST_PERSISTED: u32 = 8;

/// How guessing is slowed down. Lower is stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuessPolicy {
    /// Failures of one source at one account before delays begin.
    pub free_per_account_and_source: u32,
    /// Failures of one source at all accounts before delays begin.
    pub free_per_source: u32,
    /// Failures of all sources at one account before delays begin.
    pub free_per_account: u32,
    /// Longest delay of a source, in ms.
    pub max_source_delay_ms: i64,
    /// Longest delay of an account for sources that it does not know, in ms.
    pub max_account_delay_ms: i64,
    /// A counter halves after this long without a failure, in ms.
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

/// Failures counted under one tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counter {
    pub(crate) failures: u32,
    pub(crate) last_ms: Timestamp,
}

impl Counter {
    /// The failures that still count.
    fn remaining(&self, now_ms: Timestamp, half_life_ms: i64) -> u32 {
        let halvings = now_ms.saturating_sub(self.last_ms).max(0) / half_life_ms.max(1);
        u32::try_from(halvings).ok().and_then(|halvings| self.failures.checked_shr(halvings)).unwrap_or(0)
    }
}

/// One counter that an attempt is charged to, and from when on it delays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charge {
    pub(crate) tag: SourceTag,
    pub(crate) free: u32,
    pub(crate) max_delay_ms: i64,
}

impl Charge {
    /// How much longer to wait, in ms; 0 if an attempt may be made.
    fn wait_ms(&self, counter: Counter, now_ms: Timestamp, half_life_ms: i64) -> i64 {
        let failures = counter.remaining(now_ms, half_life_ms);
        let Some(over) = failures.checked_sub(self.free) else {
            return 0;
        };
        let delay_ms = 1000_i64.checked_shl(over.min(40)).unwrap_or(i64::MAX).min(self.max_delay_ms);
        // A clock that went back must not make a delay longer than it is.
        delay_ms.saturating_sub(now_ms.saturating_sub(counter.last_ms).max(0)).max(0)
    }
}

/// The counters in memory.
#[derive(Debug)]
pub(crate) struct GuessTable {
    half_life_ms: i64,
    shards: Vec<Mutex<HashMap<SourceTag, Counter>>>,
}

impl GuessTable {
    pub(crate) fn new(half_life_ms: i64) -> Self {
        Self { half_life_ms, shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    pub(crate) fn knows(&self, tag: &SourceTag) -> bool {
        self.shard(tag).lock().contains_key(tag)
    }

    /// Puts a counter from the store into memory, unless one is there.
    pub(crate) fn restore(&self, tag: SourceTag, counter: Counter) {
        let mut shard = self.shard(&tag).lock();
        self.make_room(&mut shard, counter.last_ms);
        shard.entry(tag).or_insert(counter);
    }

    /// How long to wait before an attempt, in ms; if 0, the attempt is charged as a failure.
    pub(crate) fn begin(&self, charges: &[Charge], now_ms: Timestamp) -> i64 {
        // All locks for both steps: of attempts at the same time, each sees what the others were charged. In order, so that no two wait for each other.
        let mut places: Vec<usize> = charges.iter().map(|charge| place(&charge.tag)).collect();
        places.sort_unstable();
        places.dedup();
        let lock_all = || places.iter().map(|&place| (place, self.shards[place].lock())).collect::<Vec<_>>();
        let mut held = lock_all();
        let wait_ms = charges.iter().filter_map(|charge| {
            let (_, shard) = held.iter().find(|(at, _)| *at == place(&charge.tag))?;
            Some(charge.wait_ms(*shard.get(&charge.tag)?, now_ms, self.half_life_ms))
        });
        let wait_ms = wait_ms.max().unwrap_or(0);
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

    /// Takes the charge back after a right password; the first counter starts anew.
    pub(crate) fn refund(&self, charges: &[Charge]) {
        for (at, charge) in charges.iter().enumerate() {
            let mut shard = self.shard(&charge.tag).lock();
            let Some(counter) = shard.get_mut(&charge.tag) else { continue };
            counter.failures = if at == 0 { 0 } else { counter.failures.saturating_sub(1) };
            if counter.failures == 0 {
                shard.remove(&charge.tag);
            }
        }
    }

    /// The counters among `charges` that have just reached a number worth writing down.
    pub(crate) fn worth_persisting(&self, charges: &[Charge]) -> Vec<(SourceTag, Counter)> {
        let current = charges.iter().filter_map(|charge| {
            let counter = *self.shard(&charge.tag).lock().get(&charge.tag)?;
            Some((charge.tag, counter))
        });
        current
            .filter(|(_, counter)| counter.failures >= FIRST_PERSISTED && counter.failures.is_power_of_two())
            .collect()
    }

    fn add_failure(&self, shard: &mut HashMap<SourceTag, Counter>, tag: SourceTag, now_ms: Timestamp) {
        self.make_room(shard, now_ms);
        let counter = shard.entry(tag).or_insert(Counter { failures: 0, last_ms: now_ms });
        counter.failures = counter.remaining(now_ms, self.half_life_ms).saturating_add(1);
        counter.last_ms = now_ms;
    }

    fn make_room(&self, shard: &mut HashMap<SourceTag, Counter>, now_ms: Timestamp) {
        if shard.len() < MAX_COUNTERS_PER_SHARD {
            return;
        }
        let sample = shard.iter().take(EVICTION_SAMPLE);
        let least = sample.min_by_key(|(_, counter)| (counter.remaining(now_ms, self.half_life_ms), counter.last_ms));
        if let Some(tag) = least.map(|(tag, _)| *tag) {
            shard.remove(&tag);
        }
    }

    fn shard(&self, tag: &SourceTag) -> &Mutex<HashMap<SourceTag, Counter>> {
        &self.shards[place(tag)]
    }
}

/// The shard that a tag's counter is in.
fn place(tag: &SourceTag) -> usize {
    usize::from(tag[15]) % SHARDS
}

/// The slot that a tag's counter is persisted in.
pub(crate) fn slot(tag: &SourceTag) -> u16 {
    u16::from_le_bytes([tag[0], tag[1]]) % SLOTS
}

/// Lets so many through at once and one per second over time, and counts the rest.
#[derive(Debug)]
pub(crate) struct Limiter {
    burst: i64,
    state: Mutex<LimiterState>,
}

#[derive(Debug)]
struct LimiterState {
    /// Milliseconds saved up; one passage costs 1000.
    saved_ms: i64,
    last_ms: Timestamp,
    suppressed: u32,
}

impl Limiter {
    pub(crate) fn new(burst: i64, now_ms: Timestamp) -> Self {
        Self { burst, state: Mutex::new(LimiterState { saved_ms: burst * 1000, last_ms: now_ms, suppressed: 0 }) }
    }

    /// `Some(how many were suppressed since the last passage)` if one may pass now.
    pub(crate) fn pass(&self, now_ms: Timestamp) -> Option<u32> {
        let mut state = self.state.lock();
        let elapsed_ms = now_ms.saturating_sub(state.last_ms).max(0);
        state.saved_ms = state.saved_ms.saturating_add(elapsed_ms).min(self.burst * 1000);
        state.last_ms = now_ms;
        if state.saved_ms < 1000 {
            state.suppressed = state.suppressed.saturating_add(1);
            return None;
        }
        state.saved_ms -= 1000;
        Some(std::mem::take(&mut state.suppressed))
    }
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
        let table = GuessTable::new(3_600_000);
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
        let table = GuessTable::new(3_600_000);
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
        let table = GuessTable::new(3_600_000);
        let charges = [charge(1, 2), charge(2, 2)];
        for _ in 0..50 {
            assert_eq!(table.begin(&charges, 0), 0);
            table.refund(&charges);
        }
        assert!(!table.knows(&[1; 16]) && !table.knows(&[2; 16]));
    }

    #[test]
    fn writes_grow_with_the_logarithm_of_the_failures() {
        let table = GuessTable::new(i64::MAX);
        let charges = [charge(1, u32::MAX)];
        let mut writes = 0;
        for _ in 0..10_000 {
            table.begin(&charges, 0);
            writes += table.worth_persisting(&charges).len();
        }
        assert_eq!(writes, 11); // 8, 16, ..., 8192
    }

    #[test]
    fn the_table_is_bounded_and_keeps_the_worst() {
        let table = GuessTable::new(3_600_000);
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
    fn the_limiter_lets_a_burst_and_then_one_a_second() {
        let limiter = Limiter::new(3, 0);
        let passed = (0..10).filter(|_| limiter.pass(0).is_some()).count();
        assert_eq!(passed, 3);
        assert_eq!(limiter.pass(999), None);
        assert_eq!(limiter.pass(1000), Some(8));
        assert_eq!(limiter.pass(1000), None);
    }
}
