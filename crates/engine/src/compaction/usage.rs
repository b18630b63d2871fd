//! The segments in numbers, as the compactor wants them.

use std::collections::HashMap;
use std::time::Duration;

use hightower_compactor::SegmentUsage;

use crate::core::Core;
use crate::mutants::planted;
use crate::table::Tracked;

impl Core {
    /// All segments in numbers, by id.
    pub(crate) fn usage(&self) -> Vec<SegmentUsage> {
        // Time passes also while nothing is written: a stamp counts what has elapsed if the clock is
        // behind.
        let now_ms = if planted("idle_time_stands_still") { self.time.now_ms() } else { self.time.stamp_ms() };
        let all = self.segments.all();
        // Which are sealed is asked before anything is counted: then all that the sealed ones hold has been
        // taken into account in the counts of the others. The other way round, a segment that is
        // written and sealed meanwhile would be taken for a victim while what its tombstones have overtaken
        // still counted as live.
        let sealed: Vec<bool> = all.iter().map(|tracked| tracked.segment.is_sealed()).collect();
        // What lives is counted before what snapshots retain: a record that is overtaken in between is
        // counted twice. The other way round it would not be counted at all, and its segment might
        // be taken for dead.
        let mut usage: Vec<_> = all
            .iter()
            .zip(sealed)
            .map(|(tracked, is_sealed)| {
                usage_of(tracked, is_sealed, age(now_ms, tracked.segment.header().base_timestamp))
            })
            .collect();
        let (retained, has_snapshots) = self.retained_records();
        for usage in &mut usage {
            usage.retained_records = retained.get(&usage.id).copied().unwrap_or(0);
            // Which tombstones a snapshot hides is known only record by record; here it is enough not to
            // promise too much.
            if has_snapshots || usage.age < self.config.compaction.tombstone_grace {
                usage.expired_tombstone_bytes = 0;
            }
        }
        usage
    }

    /// How many records of each segment only snapshots read, and whether there are snapshots at
    /// all. The turn is held, so nobody relocates.
    fn retained_records(&self) -> (HashMap<u32, u64>, bool) {
        // Counted, not asked for the oldest one's seq: a snapshot that is being taken has not said its seq
        // yet.
        let mut retained = HashMap::new();
        // A store that is being closed takes no more runs.
        let Ok(state) = self.index.handle() else { return (retained, true) };
        let has_snapshots = state.stats().snapshots > 0;
        state.for_each_retained(|_, place| *retained.entry(place.segment).or_default() += 1);
        (retained, has_snapshots)
    }
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
