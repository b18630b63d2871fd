//! The segments in numbers, as the compactor wants them.

use std::collections::HashMap;
use std::time::Duration;

use hightower_compactor::SegmentUsage;

use crate::mutants::planted;
use crate::read_path::ReadPath;
use crate::table::Tracked;
use crate::time::StoreTime;

/// All segments in numbers, by id. Tombstones younger than `grace` count as live.
pub(crate) fn usage(read: &ReadPath, time: &StoreTime, grace: Duration) -> Vec<SegmentUsage> {
    // Time passes also while nothing is written: a stamp counts the elapsed time if the clock is
    // behind.
    let now_ms = if planted("idle_time_stands_still") { time.now_ms() } else { time.stamp_ms() };
    let all = read.segments.all();
    // First which segments are sealed, then the counts: so the counts of the others include all
    // that the sealed ones hold. The other way round, a segment that is written and sealed in
    // between could become a victim while records that its tombstones have overtaken still counted
    // as live.
    let sealed: Vec<bool> = all.iter().map(|tracked| tracked.segment.is_sealed()).collect();
    // First live records, then records that snapshots retain: a record that is overtaken in between
    // counts twice. The other way round it would not count at all, and its segment could pass for
    // dead.
    let mut usage: Vec<_> = all
        .iter()
        .zip(sealed)
        .map(|(tracked, is_sealed)| usage_of(tracked, is_sealed, age(now_ms, tracked.segment.header().base_timestamp)))
        .collect();
    let (retained, has_snapshots) = retained_records(read);
    for usage in &mut usage {
        usage.retained_records = retained.get(&usage.id).copied().unwrap_or(0);
        // Which tombstones a snapshot hides is known only record by record. Here it is enough not
        // to promise too much.
        if has_snapshots || usage.age < grace {
            usage.expired_tombstone_bytes = 0;
        }
    }
    usage
}

/// How many records of each segment only snapshots read, and whether there are snapshots at all.
/// The turn is held, so no record moves meanwhile.
fn retained_records(read: &ReadPath) -> (HashMap<u32, u64>, bool) {
    let mut retained = HashMap::new();
    // A store that is being closed takes no more runs.
    let Ok(state) = read.index.handle() else { return (retained, true) };
    // By their number, not by the seqno of the oldest: a snapshot that is being taken has none yet.
    let has_snapshots = state.stats().snapshots > 0;
    state.for_each_retained(|_, place| *retained.entry(place.segment).or_default() += 1);
    (retained, has_snapshots)
}

fn usage_of(tracked: &Tracked, is_sealed: bool, age: Duration) -> SegmentUsage {
    let header = tracked.segment.header();
    // In this order: records come before they are live.
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
        expired_tombstone_bytes: tracked.tombstone_bytes(),
        age,
    }
}

/// The time since `then_ms`; none if that lies ahead.
pub(crate) fn age(now_ms: i64, then_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0))
}
