//! The figures of the segments for the compactor.

use std::time::Duration;

use hightower_compactor::SegmentUsage;

use crate::mutants::planted;
use crate::read_path::ReadPath;
use crate::table::Tracked;
use crate::time::StoreTime;

/// The assumed length of a tombstone.
const TOMBSTONE_LEN_BYTES: u64 = 48;

/// The figures of all segments, by id. Tombstones younger than `grace` count as live.
pub(crate) fn usage(read: &ReadPath, time: &StoreTime, grace: Duration) -> Vec<SegmentUsage> {
    // Time passes also without writes: a stamp includes the elapsed time if the clock is behind.
    let now_ms = if planted("idle_time_stands_still") { time.now_ms() } else { time.stamp_ms() };
    let all = read.segments.all();
    // First the sealed segments, then the counts, so that the counts of the others reflect all
    // records of the sealed ones. In the reverse order, a segment that is written and sealed in
    // between could become a victim while records overtaken by its tombstones still count as live.
    let sealed: Vec<bool> = all.iter().map(|tracked| tracked.segment.is_sealed()).collect();
    let mut usage: Vec<_> = all
        .iter()
        .zip(sealed)
        .map(|(tracked, is_sealed)| usage_of(tracked, is_sealed, age(now_ms, tracked.segment.header().created_ms)))
        .collect();
    // A closing store starts no more runs.
    let has_snapshots = read.index.number(|state| state.active_memtable().stats().snapshots > 0, |_| true);
    for usage in &mut usage {
        // Only a look at each record shows which tombstones a snapshot hides. Here a lower bound is
        // enough.
        if has_snapshots || usage.age < grace {
            usage.expired_tombstone_bytes = 0;
        }
    }
    usage
}

fn usage_of(tracked: &Tracked, is_sealed: bool, age: Duration) -> SegmentUsage {
    let header = tracked.segment.header();
    // In this order: a record exists before its entry.
    let live_records = tracked.live_records();
    SegmentUsage {
        id: header.id,
        kind: header.kind,
        is_sealed,
        base_seq: header.base_seq,
        len_bytes: tracked.segment.len_bytes().into(),
        records: tracked.records(),
        live_records,
        live_bytes: tracked.live_bytes(),
        retained_records: 0,
        expired_tombstone_bytes: tracked.tombstones() * TOMBSTONE_LEN_BYTES,
        age,
    }
}

/// The time since `then_ms`; zero if it is in the future.
pub(crate) fn age(now_ms: i64, then_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0))
}
