//! The segments in numbers, as the compactor wants them.

use std::collections::HashMap;
use std::time::Duration;

use hightower_compactor::SegmentUsage;

use crate::core::Core;
use crate::table::Tracked;

impl Core {
    /// All segments in numbers, by id.
    pub(crate) fn usage(&self) -> Vec<SegmentUsage> {
        let (retained, has_snapshots) = self.retained_records();
        let now_ms = self.components.clock.now_ms();
        let usage = |tracked: &Tracked| {
            let age = age(now_ms, tracked.segment.header().base_timestamp);
            // Which tombstones a snapshot hides is known only record by record; here it is enough not to promise too much.
            let may_forget = !has_snapshots && age >= self.config.compaction.tombstone_grace;
            usage_of(tracked, age, retained.get(&tracked.segment.id()).copied().unwrap_or(0), may_forget)
        };
        self.segments.all().iter().map(|tracked| usage(tracked)).collect()
    }

    /// How many records of each segment only snapshots read, and whether there are snapshots at all.
    fn retained_records(&self) -> (HashMap<u32, u64>, bool) {
        let writer = self.state.writer();
        let mut retained = HashMap::new();
        writer.for_each_retained(|_, place| *retained.entry(place.segment).or_default() += 1);
        // Counted, not asked for the oldest one's seq: a snapshot that is being taken has not said its seq yet.
        let has_snapshots = writer.stats().snapshots > 0;
        (retained, has_snapshots)
    }
}

fn usage_of(tracked: &Tracked, age: Duration, retained_records: u64, may_forget: bool) -> SegmentUsage {
    let header = tracked.segment.header();
    // In this order: records come before they are live.
    let live_records = tracked.live_records();
    SegmentUsage {
        id: header.id,
        kind: header.kind,
        is_sealed: tracked.segment.is_sealed(),
        base_seq: header.base_seq,
        len_bytes: tracked.segment.len_bytes().into(),
        records: tracked.records(),
        live_records,
        live_bytes: tracked.live_bytes(),
        retained_records,
        expired_tombstone_bytes: if may_forget { tracked.tombstone_bytes() } else { 0 },
        age,
    }
}

/// The time since `then_ms`; none if that lies ahead.
pub(crate) fn age(now_ms: i64, then_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0))
}
