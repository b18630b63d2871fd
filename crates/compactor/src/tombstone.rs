//! The rule for dropping tombstones.
//!
//! A tombstone must stay while any file could revive an older command of its key. An exact answer
//! per key would need a read of every segment. A sufficient answer for all keys needs two numbers
//! per segment:
//!
//! 1. The engine appends a command only if it wins. So the records of a key are in the log in
//!    ascending order of their versions, and every command older than a tombstone was committed
//!    before it. A segment whose commits all came after the tombstone has no older command.
//! 2. A current tombstone is the newest command of its key, so all other records of that key are
//!    dead. A segment without dead records has none of them.
//!
//! So a tombstone in an input can be dropped if each remaining segment either has no dead records
//! or began after the tombstone. This holds for moved records too: they were the newest when they
//! were moved (or a snapshot read them, and then they count as dead), and the base seq of an output
//! bounds the newest of them.
//!
//! The numbers are taken before the inputs are read. A record that dies later was replaced by a
//! later commit, which is in no input. A crash reverts nothing: the engine makes the log durable up
//! to the read position before it removes the inputs, and removes the tombstone from memory only
//! after that.
//!
//! The dead records of a segment are those that no entry of any level of the state points to. An
//! older command of the key may still have an entry in a lower level, which the tombstone hides;
//! the host looks for it ([`Host::hides_older`](crate::Host::hides_older)).

use std::collections::{HashMap, HashSet};

use hightower_log::SegmentKind;

use crate::mutants::planted;
use crate::usage::SegmentUsage;

/// Decides for which inputs of a run tombstones can be dropped.
#[derive(Clone, Debug)]
pub struct TombstoneRule {
    /// The inputs, each with a seq above all its commits.
    bounds: HashMap<u32, u64>,
    /// The lowest seq that a dead record outside the inputs may have; `u64::MAX` if there is none.
    oldest_outside: u64,
}

impl TombstoneRule {
    /// The rule for a run that removes `inputs`, out of all segments of the store.
    #[must_use]
    pub fn new(segments: &[SegmentUsage], inputs: &[u32]) -> Self {
        let ends = CommitEnds::of(segments);
        let bounds: HashMap<u32, u64> = inputs.iter().map(|id| (*id, ends.get(*id))).collect();
        let outside = segments.iter().filter(|usage| !bounds.contains_key(&usage.id));
        let oldest = outside.filter_map(oldest_dead).min();
        Self { bounds, oldest_outside: oldest.unwrap_or(u64::MAX) }
    }

    /// Whether a tombstone in this segment can be dropped with regard to other segments. The rule
    /// does not cover its grace and snapshots.
    #[must_use]
    pub fn allows(&self, segment: u32) -> bool {
        let bound = self.bounds.get(&segment);
        bound.is_some_and(|bound| *bound <= self.oldest_outside || planted("tombstone_unblocked"))
    }
}

/// The ids of the segments whose tombstones could be dropped in a run with this segment as the only
/// input. Equal to a [`TombstoneRule`] per segment, but in one pass.
pub(crate) fn free_alone(segments: &[SegmentUsage]) -> HashSet<u32> {
    let ends = CommitEnds::of(segments);
    // The oldest dead record outside of a segment is the oldest of all, or the next one if the
    // oldest is in the segment itself.
    let (mut oldest, mut next) = ((u64::MAX, None), u64::MAX);
    for (seq, id) in segments.iter().filter_map(|usage| Some((oldest_dead(usage)?, usage.id))) {
        if seq < oldest.0 {
            (oldest, next) = ((seq, Some(id)), oldest.0);
        } else {
            next = next.min(seq);
        }
    }
    let outside = |id: u32| if oldest.1 == Some(id) { next } else { oldest.0 };
    let is_free = |id: &u32| ends.get(*id) <= outside(*id) || planted("tombstone_unblocked");
    segments.iter().map(|usage| usage.id).filter(is_free).collect()
}

/// The lowest seq that a dead record of the segment may have; `None` if it has none.
fn oldest_dead(usage: &SegmentUsage) -> Option<u64> {
    let seq = match usage.kind {
        SegmentKind::Append => usage.base_seq,
        SegmentKind::Compacted => 0,
    };
    (!is_clean(usage)).then_some(seq)
}

/// Whether the segment has no dead record.
fn is_clean(usage: &SegmentUsage) -> bool {
    // The numbers of an unsealed segment may be too high, never too low.
    usage.dead_records() == 0
}

/// For each segment a seq above those of the commits of all its records.
struct CommitEnds(HashMap<u32, u64>);

impl CommitEnds {
    fn of(segments: &[SegmentUsage]) -> Self {
        let mut by_id: Vec<&SegmentUsage> = segments.iter().collect();
        by_id.sort_unstable_by_key(|usage| std::cmp::Reverse(usage.id));
        let mut later = u64::MAX;
        let mut end = |usage: &SegmentUsage| match usage.kind {
            SegmentKind::Compacted => (usage.id, usage.base_seq),
            SegmentKind::Append => {
                let next = later.min(usage.base_seq);
                (usage.id, std::mem::replace(&mut later, next))
            }
        };
        Self(by_id.into_iter().map(&mut end).collect())
    }

    fn get(&self, id: u32) -> u64 {
        self.0.get(&id).copied().unwrap_or(u64::MAX)
    }
}

/// The base seq of a run's outputs: above the commits of all records of the inputs.
#[must_use]
pub fn output_base_seq(segments: &[SegmentUsage], inputs: &[u32]) -> u64 {
    let ends = CommitEnds::of(segments);
    inputs.iter().map(|id| ends.get(*id)).max().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn usage(id: u32, kind: SegmentKind, base_seq: u64, dead: u64) -> SegmentUsage {
        SegmentUsage {
            id,
            kind,
            is_sealed: true,
            base_seq,
            len_bytes: 1000,
            records: 10,
            live_records: 10 - dead,
            live_bytes: 500,
            retained_records: 0,
            expired_tombstone_bytes: 0,
            age: Duration::ZERO,
        }
    }

    #[test]
    fn an_older_segment_with_dead_records_blocks_and_a_clean_or_newer_one_does_not() {
        use SegmentKind::{Append, Compacted};
        let segments = |oldest_dead| {
            vec![
                usage(1, Append, 1, oldest_dead),
                usage(2, Append, 100, 5),
                usage(3, Append, 200, 5),
                usage(4, Append, 300, 5),
            ]
        };
        assert!(TombstoneRule::new(&segments(0), &[2]).allows(2));
        assert!(!TombstoneRule::new(&segments(1), &[2]).allows(2));
        assert!(TombstoneRule::new(&segments(1), &[1, 2]).allows(2));
        let rule = TombstoneRule::new(&segments(0), &[2, 4]);
        assert!(rule.allows(2), "segment 3 came later than segment 2");
        assert!(!rule.allows(4), "segment 3 came before segment 4, and nothing bounds segment 4");
        assert!(!rule.allows(3), "not an input");

        let mut with_output = segments(0);
        with_output.push(usage(5, Compacted, 100, 0));
        assert!(TombstoneRule::new(&with_output, &[5]).allows(5), "commits from 100 on came after it");
        with_output[4].base_seq = 101;
        assert!(!TombstoneRule::new(&with_output, &[5]).allows(5));
        with_output[4] = usage(5, Compacted, 100, 1);
        assert!(!TombstoneRule::new(&with_output, &[2]).allows(2), "what it holds may be as old as anything");
    }

    #[test]
    fn asked_for_all_at_once_the_rule_says_the_same() {
        use SegmentKind::{Append, Compacted};
        let mut state = 1_u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..2000 {
            let mut base_seq = 1;
            let segments: Vec<_> = (1..=u32::try_from(draw(6)).unwrap())
                .map(|id| {
                    base_seq += draw(3);
                    let kind = if draw(3) == 0 { Compacted } else { Append };
                    usage(id, kind, base_seq, draw(3).saturating_sub(1))
                })
                .collect();
            let alone = free_alone(&segments);
            for usage in &segments {
                let rule = TombstoneRule::new(&segments, &[usage.id]);
                assert_eq!(alone.contains(&usage.id), rule.allows(usage.id), "{} of {segments:?}", usage.id);
            }
        }
    }
}
