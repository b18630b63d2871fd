//! The choice of segments to rewrite.
//!
//! [`CompactionPolicy`] is an extension point. [`CostBenefit`] is the default, [`SizeTiered`] an
//! alternative. The engine ignores chosen segments that are unsealed or do not exist.

use std::cmp::Reverse;
use std::fmt::Debug;

use hightower_log::SegmentKind;

use crate::config::CompactionConfig;
use crate::mutants::planted;
use crate::tombstone::free_alone;
use crate::usage::{Goal, SegmentUsage};

/// Chooses the segments of the next run.
///
/// ```
/// use hightower_compactor::{CompactionConfig, CompactionPolicy, Goal, SegmentUsage};
///
/// /// Rewrites nothing that has a live record.
/// #[derive(Debug)]
/// struct DropOnly;
///
/// impl CompactionPolicy for DropOnly {
///     fn choose(&self, segments: &[SegmentUsage], _: Goal, _: &CompactionConfig) -> Vec<u32> {
///         segments.iter().filter(|usage| usage.is_dead()).map(|usage| usage.id).collect()
///     }
/// }
/// ```
pub trait CompactionPolicy: Debug + Send + Sync {
    /// The ids of the segments to rewrite next, in order; none to stop. The engine calls it again
    /// after each run, until it returns none.
    fn choose(&self, segments: &[SegmentUsage], goal: Goal, config: &CompactionConfig) -> Vec<u32>;
}

/// The default policy: the best ratio of freed bytes to cost, weighted by age, as in the
/// log-structured file system of Rosenblum and Ousterhout (1992).
///
/// For a segment with the live share `u`, rewriting costs `1 + u` (reading all, writing the live
/// rest) and frees `1 - u`. The live records of an old segment will rarely change, so its garbage
/// is worth collecting earlier; a young segment will soon have more garbage. So the ratio is
/// multiplied by a weight that grows with age and levels off.
#[derive(Clone, Copy, Debug, Default)]
pub struct CostBenefit;

/// The age at which a segment has half of the maximum weight of age.
const HALF_WEIGHT_AGE_S: f64 = 300.0;
/// The weight of a new segment, relative to a very old one.
const YOUNGEST_WEIGHT: f64 = 0.4;

impl CompactionPolicy for CostBenefit {
    fn choose(&self, segments: &[SegmentUsage], goal: Goal, config: &CompactionConfig) -> Vec<u32> {
        let mut victims: Vec<u32> = segments.iter().filter(|usage| usage.is_dead()).map(|usage| usage.id).collect();
        let log = Log::of(segments);
        let rest = match goal {
            Goal::Full => log.all_with_garbage(config),
            Goal::Background => log.best(config),
        };
        victims.extend(rest);
        victims
    }
}

/// A segment, and the bytes that rewriting it would free.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    usage: &'a SegmentUsage,
    free_bytes: u64,
    /// Droppable tombstones, except for older segments that block them.
    blocked_bytes: u64,
}

/// The sums over all segments.
#[derive(Debug)]
struct Log<'a> {
    candidates: Vec<Candidate<'a>>,
    len_bytes: u64,
    free_bytes: u64,
}

impl<'a> Log<'a> {
    fn of(segments: &'a [SegmentUsage]) -> Self {
        let free_alone = free_alone(segments);
        let candidate = |usage: &'a SegmentUsage| Candidate::new(usage, free_alone.contains(&usage.id));
        let candidates: Vec<_> = segments.iter().map(candidate).collect();
        Self {
            len_bytes: segments.iter().map(|usage| usage.len_bytes).sum(),
            free_bytes: candidates.iter().map(|candidate| candidate.free_bytes).sum(),
            candidates,
        }
    }

    /// Segments with garbage, oldest first, so that records hidden by a tombstone are dropped
    /// before it.
    fn all_with_garbage(&self, config: &CompactionConfig) -> Vec<u32> {
        let mut chosen: Vec<_> = self.candidates.iter().filter(|candidate| candidate.is_eligible()).collect();
        chosen.sort_by_key(|candidate| candidate.order());
        within_budget(chosen, config)
    }

    /// The best candidates, up to the number that reaches the share at which to stop.
    fn best(&self, config: &CompactionConfig) -> Vec<u32> {
        let blocked: u64 = self.candidates.iter().map(|candidate| candidate.blocked_bytes).sum();
        let exceeds = |free: u64, len: u64, percent: u8| u128::from(free) * 100 > u128::from(len) * u128::from(percent);
        let mut chosen: Vec<&Candidate<'_>> = Vec::new();
        if exceeds(self.free_bytes, self.len_bytes, config.start_percent) {
            let mut worth: Vec<_> = self.candidates.iter().filter(|candidate| candidate.is_worth_it(config)).collect();
            worth.sort_by(|a, b| b.score().total_cmp(&a.score()).then(a.usage.id.cmp(&b.usage.id)));
            let (mut free, mut len) = (self.free_bytes, self.len_bytes);
            chosen.extend(worth.into_iter().take_while(|candidate| {
                let go_on = exceeds(free, len, config.stop_percent);
                free = free.saturating_sub(candidate.free_bytes);
                len = len.saturating_sub(candidate.free_bytes);
                go_on
            }));
        }
        if chosen.is_empty() && exceeds(blocked.saturating_mul(2), self.len_bytes, config.start_percent) {
            // Tombstones have accumulated that are blocked by segments with too little garbage to
            // be chosen otherwise.
            chosen.extend(self.candidates.iter().filter(|candidate| candidate.is_eligible()));
            chosen.sort_by_key(|candidate| candidate.order());
        }
        within_budget(chosen, config)
    }
}

/// The first candidates with live bytes within the budget of a run; at least one.
fn within_budget(candidates: Vec<&Candidate<'_>>, config: &CompactionConfig) -> Vec<u32> {
    let mut live_bytes = 0_u64;
    let fits = |candidate: &&Candidate<'_>| {
        let first = live_bytes == 0;
        live_bytes = live_bytes.saturating_add(candidate.usage.live_bytes);
        first || live_bytes <= config.max_run_bytes
    };
    candidates.into_iter().take_while(fits).map(|candidate| candidate.usage.id).collect()
}

impl<'a> Candidate<'a> {
    fn new(usage: &'a SegmentUsage, is_free_alone: bool) -> Self {
        let tombstones = usage.expired_tombstone_bytes;
        let is_allowed = tombstones > 0 && usage.is_sealed && is_free_alone;
        let (free, blocked) = if is_allowed { (tombstones, 0) } else { (0, tombstones) };
        Self { usage, free_bytes: usage.dead_bytes().saturating_add(free), blocked_bytes: blocked }
    }

    /// Whether rewriting the segment frees anything.
    fn is_eligible(&self) -> bool {
        let has_garbage = self.usage.dead_records() > self.usage.retained_records || self.free_bytes > 0;
        self.usage.is_sealed && !self.usage.is_dead() && (has_garbage || planted("live_rewritten"))
    }

    fn is_worth_it(&self, config: &CompactionConfig) -> bool {
        let share = u128::from(self.free_bytes) * 100;
        self.is_eligible() && share >= u128::from(self.usage.len_bytes) * u128::from(config.min_victim_percent)
    }

    /// Benefit over cost, weighted by age.
    #[allow(clippy::cast_precision_loss, reason = "a score, not an account")]
    fn score(&self) -> f64 {
        let free = self.free_bytes as f64 / (self.usage.len_bytes as f64).max(1.0);
        let age_s = self.usage.age.as_secs_f64();
        let weight = YOUNGEST_WEIGHT + (1.0 - YOUNGEST_WEIGHT) * age_s / (age_s + HALF_WEIGHT_AGE_S);
        free / (2.0 - free).max(0.1) * weight
    }

    /// The order by the age of its records.
    fn order(&self) -> (bool, u32) {
        (self.usage.kind == SegmentKind::Append, self.usage.id)
    }
}

/// Merges segments of similar size when enough of them exist: fewer, larger segments at the price
/// of more garbage in between.
#[derive(Clone, Copy, Debug)]
pub struct SizeTiered {
    /// Number of segments of a tier in a run, at least 2. Segments are in the same tier if their
    /// lengths have the same number of bits.
    pub min_segments: usize,
}

impl Default for SizeTiered {
    fn default() -> Self {
        Self { min_segments: 4 }
    }
}

impl CompactionPolicy for SizeTiered {
    fn choose(&self, segments: &[SegmentUsage], goal: Goal, config: &CompactionConfig) -> Vec<u32> {
        if goal == Goal::Full {
            return CostBenefit.choose(segments, goal, config);
        }
        let mut victims: Vec<u32> = segments.iter().filter(|usage| usage.is_dead()).map(|usage| usage.id).collect();
        let log = Log::of(segments);
        let mut eligible: Vec<_> = log.candidates.iter().filter(|candidate| candidate.is_worth_it(config)).collect();
        let tier = |candidate: &Candidate<'_>| candidate.usage.len_bytes.checked_ilog2();
        eligible.sort_by_key(|candidate| (tier(candidate), Reverse(candidate.free_bytes)));
        let groups = eligible.chunk_by(|a, b| tier(a) == tier(b));
        if let Some(group) = groups.into_iter().find(|group| group.len() >= self.min_segments.max(2)) {
            victims.extend(within_budget(group.to_vec(), config));
        }
        victims
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn usage(id: u32, live: u64, age_s: u64) -> SegmentUsage {
        SegmentUsage {
            id,
            kind: SegmentKind::Append,
            is_sealed: true,
            base_seq: u64::from(id) * 100,
            len_bytes: 1000,
            records: 100,
            live_records: live / 10,
            live_bytes: live,
            retained_records: 0,
            expired_tombstone_bytes: 0,
            age: Duration::from_secs(age_s),
        }
    }

    fn background(segments: &[SegmentUsage]) -> Vec<u32> {
        CostBenefit.choose(segments, Goal::Background, &CompactionConfig::default())
    }

    #[test]
    fn a_live_log_is_left_alone_and_dead_segments_always_go() {
        assert_eq!(background(&[usage(1, 1000, 9), usage(2, 1000, 5)]), []);
        assert_eq!(background(&[usage(1, 1000, 9), usage(2, 0, 5), usage(3, 990, 5)]), [2]);
        let mut active = usage(4, 0, 0);
        active.is_sealed = false;
        assert_eq!(background(&[usage(1, 1000, 9), active]), []);
        let mut pinned = usage(5, 0, 5);
        pinned.retained_records = 100;
        assert_eq!(background(&[pinned]), [], "a snapshot reads all of it");
    }

    #[test]
    fn garbage_and_age_decide() {
        assert_eq!(background(&[usage(1, 900, 9), usage(2, 300, 9), usage(3, 900, 9)])[0], 2);
        assert_eq!(background(&[usage(1, 500, 5), usage(2, 500, 9000), usage(3, 900, 9)])[0], 2);
        assert_eq!(background(&[usage(1, 800, 9), usage(2, 800, 9)]), [], "20 % is below the start");
        let config = CompactionConfig::default();
        let full = CostBenefit.choose(&[usage(1, 990, 9), usage(2, 1000, 9), usage(3, 500, 9)], Goal::Full, &config);
        assert_eq!(full, [1, 3], "the full one has nothing to give");
    }

    #[test]
    fn tombstones_count_as_garbage_once_nothing_blocks_them() {
        let mut graves = usage(2, 1000, 9);
        graves.expired_tombstone_bytes = 900;
        let newer = |mut usage: SegmentUsage| {
            usage.id = 3;
            usage.base_seq = 300;
            usage
        };
        let clean = [usage(1, 1000, 9), graves.clone(), newer(usage(3, 950, 9))];
        assert_eq!(background(&clean), [2]);
        let blocked = [usage(1, 990, 9), graves, newer(usage(3, 1000, 9))];
        assert_eq!(background(&blocked), [1], "the one in the way goes first, little as there is in it");
    }

    #[test]
    fn a_run_keeps_to_its_budget_but_takes_one_at_least() {
        let config = CompactionConfig { max_run_bytes: 1 << 20, ..CompactionConfig::default() };
        let large = |id| SegmentUsage { len_bytes: 10 << 20, live_bytes: 900 << 10, ..usage(id, 500, 9) };
        let chosen = CostBenefit.choose(&[large(1), large(2), large(3)], Goal::Full, &config);
        assert_eq!(chosen, [1]);
    }

    #[test]
    fn size_tiered_merges_equals_only() {
        let policy = SizeTiered { min_segments: 3 };
        let config = CompactionConfig::default();
        let sized = |id, len_bytes| SegmentUsage { len_bytes, ..usage(id, 500, 9) };
        let segments = [sized(1, 1000), sized(2, 1001), sized(3, 50_000), usage(4, 1000, 9)];
        assert_eq!(policy.choose(&segments, Goal::Background, &config), []);
        let segments = [sized(1, 1000), sized(2, 1001), sized(3, 50_000), sized(4, 1002)];
        assert_eq!(policy.choose(&segments, Goal::Background, &config).len(), 3);
        assert_eq!(policy.choose(&segments, Goal::Full, &config).len(), 4);
    }
}
