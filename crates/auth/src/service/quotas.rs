//! Quotas of grants: the use of their ranges, counted in memory, and the check of writes.
//!
//! The first write under a quota counts the range by a scan. Writes that the quota limits then
//! update the count, one at a time under the quota's lock, so they never exceed the quota. Other
//! writes (of the embedding program, of other grants, of another service on the same engine) are
//! counted only by the next scan. It begins an interval after the last scan, and reads one page at
//! each write. Before a refusal the whole range is scanned.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use hightower_engine::{
    Batch, BatchChange, BatchOutcome, Committed, Durability, Error as EngineError, KvEngine, Result as EngineResult,
};
use hightower_seams::Clock;
use parking_lot::Mutex;

use super::AuthService;
use super::permissions::AccessRights;
use crate::crypto::{EnvelopeEncryptor, SecretHasher};
use crate::error::Result;
use crate::mutants::planted;
use crate::permission::{Action, KeyRange};
use crate::quota::{Quota, QuotaUse};
use crate::record_keys;
use crate::timestamp::Timestamp;

/// Interval between two counts, in ms.
const INTERVAL_MS: Timestamp = 60_000;
/// Maximum age of a whole count that a refusal relies on, in ms, for counts of up to a tenth of it.
/// It bounds the number of counts that repeated refusals cause.
const FRESH_MS: Timestamp = 1_000;
/// Maximum age of a whole count that a refusal relies on, as a multiple of its duration, for longer
/// counts.
const FRESH_PER_COUNT: Timestamp = 10;
/// Maximum number of keys in one page of a count.
const PAGE_KEYS: u64 = 128;
/// Approximate maximum of bytes that a page of a count reads.
const PAGE_BYTES: u64 = 256 << 10;
/// Maximum number of ranges in memory.
const MAX_RANGES: usize = 4096;

/// The counts of all ranges with a quota that limited a write.
#[derive(Default)]
pub(super) struct Quotas {
    table: Mutex<RangeTable>,
}

#[derive(Default)]
struct RangeTable {
    ranges: HashMap<KeyRange, CountedRange>,
    uses: u64,
}

struct CountedRange {
    count: Arc<Mutex<RangeCount>>,
    /// The time of the last use: a counter, higher than that of all earlier uses.
    last_use: u64,
}

impl Quotas {
    /// The count of a range. Above [`MAX_RANGES`], the least recently used count is evicted, unless
    /// a write uses it.
    fn of(&self, range: &KeyRange) -> Arc<Mutex<RangeCount>> {
        let mut table = self.table.lock();
        table.uses += 1;
        let last_use = table.uses;
        if !table.ranges.contains_key(range) && table.ranges.len() >= MAX_RANGES {
            let idle = table.ranges.iter().filter(|(_, held)| Arc::strong_count(&held.count) == 1);
            if let Some(oldest) = idle.min_by_key(|(_, held)| held.last_use).map(|(range, _)| range.clone()) {
                table.ranges.remove(&oldest);
            }
        }
        let new = || CountedRange { count: Arc::default(), last_use };
        let held = table.ranges.entry(range.clone()).or_insert_with(new);
        held.last_use = last_use;
        Arc::clone(&held.count)
    }
}

/// The use of one range.
#[derive(Default)]
struct RangeCount {
    /// The use as of the last count and the writes since; `None` before the first count.
    used: Option<QuotaUse>,
    began_ms: Timestamp,
    /// The duration of the count, if it ran without interruption.
    took_ms: Timestamp,
    /// The count in progress.
    next: Option<RangeCounting>,
}

struct RangeCounting {
    began_ms: Timestamp,
    found: QuotaUse,
    /// The last counted key.
    behind: Option<Vec<u8>>,
}

/// The maximum that a write adds to a range: keys and bytes.
#[derive(Clone, Copy, Default)]
struct WriteGrowth {
    keys: i64,
    bytes: i64,
}

impl RangeCount {
    /// Counts one more page; returns whether it was the last.
    fn page(&mut self, engine: &impl KvEngine, range: &KeyRange, now_ms: Timestamp) -> EngineResult<bool> {
        let new = || RangeCounting { began_ms: now_ms, found: QuotaUse::default(), behind: None };
        let counting = self.next.get_or_insert_with(new);
        let mean_bytes = counting.found.bytes.max(1).div_ceil(counting.found.keys.max(1)).max(1);
        // The length of the first key's value is unknown.
        let most = if counting.found.keys == 0 { 1 } else { (PAGE_BYTES / mean_bytes).clamp(1, PAGE_KEYS) };
        let mut left = usize::try_from(most).unwrap_or(1);
        for part in range.without(&record_keys::reserved_keys()) {
            let from = match counting.behind.as_deref() {
                Some(behind) if behind >= part.start() => Bound::Excluded(behind),
                _ => Bound::Included(part.start()),
            };
            // A part before the last key is complete.
            if left == 0 || part.end().is_some_and(|end| counting.behind.as_deref().is_some_and(|last| end <= last)) {
                continue;
            }
            let found = engine.scan(from, part.end().map_or(Bound::Unbounded, Bound::Excluded), left)?;
            left -= found.len();
            for (key, value) in &found {
                counting.found.keys += 1;
                counting.found.bytes += (key.len() + value.len()) as u64;
            }
            if let Some((last, _)) = found.into_iter().next_back() {
                counting.behind = Some(last);
            }
        }
        if left == 0 {
            return Ok(false);
        }
        (self.used, self.began_ms, self.took_ms) = (Some(counting.found), counting.began_ms, 0);
        self.next = None;
        Ok(true)
    }

    /// Counts the whole range.
    fn whole(&mut self, engine: &impl KvEngine, range: &KeyRange, clock: &dyn Clock) -> EngineResult<()> {
        let began_ms = clock.now_ms();
        self.next = None;
        while !self.page(engine, range, began_ms)? {}
        self.took_ms = clock.now_ms().saturating_sub(began_ms).max(0);
        Ok(())
    }

    /// Whether a refusal may rely on the count.
    fn is_fresh(&self, now_ms: Timestamp) -> bool {
        let fresh_ms = FRESH_MS.max(self.took_ms.saturating_mul(FRESH_PER_COUNT));
        (0..self.took_ms.saturating_add(fresh_ms)).contains(&now_ms.saturating_sub(self.began_ms))
    }

    /// Refuses a write that exceeds the quota.
    fn admit(
        &mut self,
        engine: &impl KvEngine,
        range: &KeyRange,
        quota: &Quota,
        growth: WriteGrowth,
        clock: &dyn Clock,
    ) -> EngineResult<()> {
        let now_ms = clock.now_ms();
        let limited = |limit: Option<u64>, grown: i64| limit.is_some() && grown > 0;
        if !limited(quota.max_keys(), growth.keys) && !limited(quota.max_bytes(), growth.bytes) {
            return Ok(());
        }
        if self.used.is_none() {
            self.whole(engine, range, clock)?;
        } else if self.next.is_some() || !(0..INTERVAL_MS).contains(&now_ms.saturating_sub(self.began_ms)) {
            self.page(engine, range, now_ms)?;
        }
        if self.refusal(range, quota, growth).is_some()
            && !self.is_fresh(now_ms)
            && !planted("auth_quota_stale_refusal")
        {
            self.whole(engine, range, clock)?;
        }
        self.refusal(range, quota, growth).map_or(Ok(()), Err)
    }

    fn refusal(&self, range: &KeyRange, quota: &Quota, growth: WriteGrowth) -> Option<EngineError> {
        let used = self.used.unwrap_or_default();
        let over = |used: u64, grown: i64, limit: Option<u64>| {
            limit.filter(|&limit| grown > 0 && used.saturating_add_signed(grown) > limit)
        };
        let (what, limit, used, grown) = match over(used.keys, growth.keys, quota.max_keys()) {
            Some(limit) => ("keys", limit, used.keys, growth.keys),
            None => ("bytes", over(used.bytes, growth.bytes, quota.max_bytes())?, used.bytes, growth.bytes),
        };
        let range = name_of(range);
        Some(EngineError::Full {
            detail: format!(
                "the quota of {range} allows {limit} {what}: {used} are there, and the write adds {grown}; \
                 delete some or raise the quota"
            ),
        })
    }

    /// Updates the count after a write.
    fn follow(&mut self, key: &[u8], before: Option<u64>, after: Option<u64>) {
        let apply = |used: &mut QuotaUse| {
            let len = |value: Option<u64>| value.map_or(0, |len| len + key.len() as u64);
            used.keys = (used.keys + u64::from(after.is_some())).saturating_sub(before.is_some().into());
            used.bytes = (used.bytes + len(after)).saturating_sub(len(before));
        };
        if let Some(used) = &mut self.used {
            apply(used);
        }
        // Keys behind it are counted later, with their new values.
        if let Some(next) = self.next.as_mut().filter(|next| next.behind.as_deref().is_some_and(|last| key <= last)) {
            apply(&mut next.found);
        }
    }
}

/// A short text form of a range, for messages.
fn name_of(range: &KeyRange) -> String {
    let text = |key: &[u8]| key[..key.len().min(64)].escape_ascii().to_string();
    if *range == KeyRange::all() {
        "all keys".into()
    } else if *range == KeyRange::prefix(range.start()) {
        format!("the keys that start with {}", text(range.start()))
    } else {
        let end = range.end().map_or_else(String::new, |end| format!(" up to {}", text(end)));
        format!("the keys from {}{end}", text(range.start()))
    }
}

/// A quota that limits a batch, and the changes that it limits.
struct Holding {
    quota: Quota,
    changes: Vec<usize>,
}

/// The length and version of a key's value.
type HeldQuota = Option<(u64, u64)>;

impl<E: KvEngine, H: SecretHasher, C: EnvelopeEncryptor> AuthService<E, H, C> {
    /// Commits a batch that `access` allows, if it does not exceed the quotas of its grants.
    ///
    /// # Errors
    /// [`EngineError::Full`] if it exceeds a quota; the engine's.
    pub(crate) fn commit_within_quotas(
        &self,
        access: &AccessRights,
        batch: Batch,
        durability: Option<Durability>,
    ) -> EngineResult<BatchOutcome> {
        let engine = &self.shared.engine;
        let commit = |batch: &Batch| match durability {
            Some(durability) => engine.commit_with(batch, durability),
            None => engine.commit(batch),
        };
        if !access.sets().any(|set| set.has_quotas()) {
            return commit(&batch);
        }
        let mut holding: BTreeMap<&KeyRange, Holding> = BTreeMap::new();
        for (at, change) in batch.changes().enumerate() {
            let action = if change.given.is_some() { Action::Admin } else { Action::Write };
            for (range, quota) in access.sets().flat_map(|set| set.quotas(action, change.key)) {
                let new = || Holding { quota: quota.clone(), changes: Vec::new() };
                let held = holding.entry(range).or_insert_with(new);
                held.quota = held.quota.and(quota);
                if held.changes.last() != Some(&at) {
                    held.changes.push(at);
                }
            }
        }
        if holding.is_empty() {
            return commit(&batch);
        }

        // All callers take the locks in the order of the ranges.
        let counts: Vec<_> = holding.keys().map(|range| self.shared.quotas.of(range)).collect();
        let mut guards: Vec<_> = match planted("auth_quota_unlocked") {
            true => Vec::new(),
            false => counts.iter().map(|count| count.lock()).collect(),
        };
        let changes: Vec<BatchChange<'_>> = batch.changes().collect();
        let is_held = |key: &[u8]| holding.keys().any(|range| range.contains(key));
        let mut held: HashMap<&[u8], HeldQuota> = HashMap::new();
        let looked = changes.iter().filter(|change| is_held(change.key)).try_for_each(|change| {
            if !held.contains_key(change.key) {
                let found = engine.get_versioned(change.key)?;
                held.insert(change.key, found.map(|(value, version)| (value.len() as u64, version)));
            }
            Ok(())
        });
        if let Err(error) = looked {
            if changes.iter().any(|change| change.value.is_some()) {
                return Err(error);
            }
            // An unreadable value can still be deleted.
            guards.iter_mut().for_each(|count| **count = RangeCount::default());
            drop(changes);
            return commit(&batch);
        }

        let clock = &*self.options().clock;
        for (at, (range, holding)) in holding.iter().enumerate() {
            let growth = growth(&changes, &holding.changes, &held);
            match guards.get_mut(at) {
                Some(count) => count.admit(engine, range, &holding.quota, growth, clock)?,
                None => counts[at].lock().admit(engine, range, &holding.quota, growth, clock)?,
            }
        }
        let outcome = commit(&batch)?;
        if let BatchOutcome::Committed(Committed { outcomes, .. }) = &outcome {
            let mut lens: HashMap<&[u8], Option<u64>> =
                held.iter().map(|(key, held)| (*key, held.map(|(len, _)| len))).collect();
            for (change, _) in changes.iter().zip(outcomes).filter(|(_, outcome)| outcome.changed()) {
                let Some(len) = lens.get_mut(change.key) else { continue };
                let after = change.value.map(|value| value.len() as u64);
                for (at, _) in holding.keys().enumerate().filter(|(_, range)| range.contains(change.key)) {
                    match guards.get_mut(at) {
                        Some(count) => count.follow(change.key, *len, after),
                        None => counts[at].lock().follow(change.key, *len, after),
                    }
                }
                *len = after;
            }
        }
        Ok(outcome)
    }

    /// The current use of `range` without the service's own keys, as a [`Quota`] counts it. It
    /// reads the whole range.
    ///
    /// # Errors
    /// The engine's.
    pub fn quota_use(&self, range: &KeyRange) -> Result<QuotaUse> {
        let mut count = RangeCount::default();
        count.whole(&self.shared.engine, range, &*self.options().clock)?;
        Ok(count.used.unwrap_or_default())
    }
}

/// The maximum that some changes of a batch add. A command with an explicit version may be stale; a
/// stale delete frees nothing.
fn growth(changes: &[BatchChange<'_>], bound: &[usize], held: &HashMap<&[u8], HeldQuota>) -> WriteGrowth {
    let is_certain = changes.iter().all(|change| change.given.is_none()) || planted("auth_quota_trusts_versions");
    let mut lens: HashMap<&[u8], Option<u64>> = HashMap::new();
    for change in bound.iter().filter_map(|&at| changes.get(at)) {
        let before = held.get(change.key).copied().flatten();
        if change.given.is_some_and(|(version, _)| before.is_some_and(|(_, held)| version <= held)) {
            continue; // stale
        }
        let after = change.value.map(|value| value.len() as u64);
        let len = lens.entry(change.key).or_insert(before.map(|(len, _)| len));
        *len = if is_certain { after } else { after.max(*len) };
    }
    let mut growth = WriteGrowth::default();
    for (key, after) in lens {
        let before = held.get(key).copied().flatten();
        let len = |value: Option<u64>| value.map_or(0, |len| len.saturating_add(key.len() as u64)).cast_signed();
        growth.keys += i64::from(after.is_some()) - i64::from(before.is_some());
        growth.bytes += len(after) - len(before.map(|(len, _)| len));
    }
    growth
}

#[cfg(test)]
mod tests {
    use super::*;
    use hightower_engine::{SingleNodeEngine, StoreConfig};
    use hightower_seams::SystemClock;
    use proptest::prelude::*;

    /// Pages of a count between writes come to what a whole count finds.
    fn paged(writes: &[(u16, Option<usize>)], keys: u16) {
        let directory = tempfile::tempdir().unwrap();
        let engine = SingleNodeEngine::with_config(StoreConfig::at(directory.path())).unwrap();
        let range = KeyRange::all();
        let key = |number: u16| number.to_be_bytes();
        for number in 0..keys {
            engine.put(key(number), "value").unwrap();
        }
        engine.put(b"\0auth/meta", "the service's own").unwrap();
        let mut count = RangeCount::default();
        count.whole(&engine, &range, &SystemClock::new()).unwrap();
        engine.put(b"by others", "1").unwrap();
        for (number, len) in writes {
            let key = key(*number);
            let before = engine.get(key).unwrap().map(|value| value.len() as u64);
            match len {
                Some(len) => engine.put(key, vec![7; *len]).unwrap(),
                None => engine.delete(key).unwrap(),
            };
            count.follow(&key, before, len.map(|len| len as u64));
            if count.page(&engine, &range, 1).unwrap() {
                let mut whole = RangeCount::default();
                whole.whole(&engine, &range, &SystemClock::new()).unwrap();
                assert_eq!(count.used, whole.used);
            }
        }
        while !count.page(&engine, &range, 1).unwrap() {}
        let mut whole = RangeCount::default();
        whole.whole(&engine, &range, &SystemClock::new()).unwrap();
        assert_eq!(count.used, whole.used);
        assert!(whole.used.unwrap().keys >= 1 && count.next.is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
        #[test]
        fn a_count_by_pages_follows_writes(
            writes in prop::collection::vec((0_u16..900, prop::option::of(0_usize..40)), 1..20),
            keys in 0_u16..800,
        ) {
            paged(&writes, keys);
        }
    }

    #[test]
    fn ranges_past_the_most_are_forgotten_unless_in_use() {
        let quotas = Quotas::default();
        let held = quotas.of(&KeyRange::prefix("held"));
        held.lock().used = Some(QuotaUse { keys: 7, bytes: 7 });
        for number in 0..2 * MAX_RANGES {
            quotas.of(&KeyRange::prefix(number.to_string()));
        }
        assert_eq!(quotas.table.lock().ranges.len(), MAX_RANGES);
        assert_eq!(quotas.of(&KeyRange::prefix("held")).lock().used.unwrap().keys, 7);
    }
}
