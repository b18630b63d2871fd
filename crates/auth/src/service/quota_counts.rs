//! The use of ranges with a quota, counted in memory.
//!
//! The first write under a quota counts the range by a scan. Writes that the quota limits then
//! update the count. All other writes are counted only by the next scan. It begins an interval
//! after the last scan, and reads one page at each write. Before a refusal the whole range is
//! scanned.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use hightower_engine::{Error as EngineError, KvEngine, Result as EngineResult};
use hightower_seams::Clock;
use parking_lot::Mutex;

use crate::mutants::planted;
use crate::permission::KeyRange;
use crate::quota::{Quota, QuotaUse};
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
pub(super) struct QuotaCounts {
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

impl QuotaCounts {
    /// The count of a range. Above [`MAX_RANGES`], the least recently used count is evicted, unless
    /// a write uses it.
    pub(super) fn of(&self, range: &KeyRange) -> Arc<Mutex<RangeCount>> {
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
pub(super) struct RangeCount {
    /// The use as of the last count and the writes since; `None` before the first count.
    pub(super) used: Option<QuotaUse>,
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
pub(super) struct WriteGrowth {
    pub(super) keys: i64,
    pub(super) bytes: i64,
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
        let from = counting.behind.as_deref().map_or(Bound::Included(range.start()), Bound::Excluded);
        let found = engine.scan(from, range.end().map_or(Bound::Unbounded, Bound::Excluded), left)?;
        left -= found.len();
        for (key, value) in &found {
            counting.found.keys += 1;
            counting.found.bytes += (key.len() + value.len()) as u64;
        }
        if let Some((last, _)) = found.into_iter().next_back() {
            counting.behind = Some(last);
        }
        if left == 0 {
            return Ok(false);
        }
        (self.used, self.began_ms, self.took_ms) = (Some(counting.found), counting.began_ms, 0);
        self.next = None;
        Ok(true)
    }

    /// Counts the whole range.
    pub(super) fn whole(&mut self, engine: &impl KvEngine, range: &KeyRange, clock: &dyn Clock) -> EngineResult<()> {
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
    pub(super) fn admit(
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
    pub(super) fn follow(&mut self, key: &[u8], before: Option<u64>, after: Option<u64>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use hightower_engine::{SingleNodeEngine, StoreConfig};
    use hightower_seams::SystemClock;
    use proptest::prelude::*;

    /// A count in pages between writes has the result of a whole count.
    fn paged(writes: &[(u16, Option<usize>)], keys: u16) {
        let directory = tempfile::tempdir().unwrap();
        let engine = SingleNodeEngine::with_config(StoreConfig::at(directory.path())).unwrap();
        let range = KeyRange::all();
        let key = |number: u16| number.to_be_bytes();
        for number in 0..keys {
            engine.put(key(number), "value").unwrap();
        }
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
        let quotas = QuotaCounts::default();
        let held = quotas.of(&KeyRange::prefix("held"));
        held.lock().used = Some(QuotaUse { keys: 7, bytes: 7 });
        for number in 0..2 * MAX_RANGES {
            quotas.of(&KeyRange::prefix(number.to_string()));
        }
        assert_eq!(quotas.table.lock().ranges.len(), MAX_RANGES);
        assert_eq!(quotas.of(&KeyRange::prefix("held")).lock().used.unwrap().keys, 7);
    }
}
