//! Versions and timestamps with any value, on every path and on commands that start a new segment,
//! and clocks that jump.
//!
//! A caller's number affects only its own key, and only by its version; no tombstone is dropped
//! before its grace is over by the engine's own clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use hightower_engine::{Clock, Components};

use crate::hostile::operations::Mix;
use crate::hostile::random::{Random, mix};
use crate::hostile::round::Round;
use crate::hostile::store::Store;
use crate::hostile::storm::{config, model, run as storm};

const MIX: Mix = &[
    ("put", 60),
    ("delete", 40),
    ("submit", 200),
    ("batch", 20),
    ("require", 20),
    ("async", 20),
    ("get", 60),
    ("range", 5),
    ("snapshot", 5),
    ("held", 10),
    ("stats", 5),
    ("checkpoint", 5),
    ("compact", 20),
    ("export", 1),
    ("close", 6),
    ("drop", 2),
];

/// A clock that jumps back and forth; the time since its start is monotonic.
#[derive(Debug)]
struct Stepping {
    started: Instant,
    base_ms: i64,
    /// The longest jump in either direction.
    reach_ms: i64,
    asked: AtomicU64,
    last_ms: AtomicI64,
}

impl Clock for Stepping {
    fn now_ms(&self) -> i64 {
        let asked = self.asked.fetch_add(1, Ordering::Relaxed);
        if asked.is_multiple_of(50) {
            let far = i64::try_from(mix(asked) >> 2).unwrap_or(0) % self.reach_ms.max(1);
            self.last_ms.store(if asked.is_multiple_of(100) { far } else { -far }, Ordering::Relaxed);
        }
        self.base_ms.saturating_add(self.last_ms.load(Ordering::Relaxed))
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

pub(super) fn run(round: &Round) -> Result<()> {
    let mut random = Random::new(round.plan.seed);
    let mut config = config(&mut random, &round.store_dir());
    // Small segments: many commands start a new one.
    config.max_segment_size = random.pick(&[4 << 10, 4 << 10, 16 << 10]);
    config.min_segment_size = 4 << 10;
    let grace = Duration::from_secs(3600);
    config.compaction.tombstone_grace = grace;
    let base_ms = random.pick(&[1_700_000_000_000, 0, -5_000, i64::MAX / 2, i64::MIN / 2]);
    // With jumps of a fraction of the grace, no tombstone may be dropped; with longer ones each
    // may.
    let reach_ms = random.pick(&[1, 600_000, 600_000, i64::MAX]);
    let stepping =
        Stepping { started: Instant::now(), base_ms, reach_ms, asked: AtomicU64::new(0), last_ms: AtomicI64::new(0) };
    let components = Components::default().with_clock(Arc::new(stepping));
    let store = Store::open(config, components, &round.scratch(), model(300), &round.plan)?;
    store.model.forgets_tombstones.store(reach_ms > 600_000, Ordering::Relaxed);
    storm(&store, &round.plan, &mut random, MIX)?;
    store.finish(1)
}
