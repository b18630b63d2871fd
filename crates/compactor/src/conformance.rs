//! The rules of a [`CompactionPolicy`], as checks that its author runs in a test: [`check_policy`].
//!
//! ```
//! use hightower_compactor::{CostBenefit, SizeTiered, conformance::check_policy};
//!
//! assert_eq!(check_policy(&CostBenefit), Ok(()));
//! assert_eq!(check_policy(&SizeTiered::default()), Ok(()));
//! ```

use std::time::Duration;

use hightower_log::SegmentKind;

use crate::config::CompactionConfig;
use crate::policy::CompactionPolicy;
use crate::usage::{Goal, SegmentUsage};

/// A rule that a policy has broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyViolation {
    /// The rule.
    pub rule: &'static str,
    /// The segments passed to the policy.
    pub segments: Vec<SegmentUsage>,
    /// The chosen segments.
    pub chosen: Vec<u32>,
}

impl std::fmt::Display for PolicyViolation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: chose {:?} of {:#?}", self.rule, self.chosen, self.segments)
    }
}

impl std::error::Error for PolicyViolation {}

const SEGMENT_LEN_BYTES: u64 = 1 << 20;
const RECORDS: u64 = 1_000;
/// Maximum number of rounds until a policy must choose nothing.
const ROUNDS_MAX: usize = 1_000;

/// Passes logs of many kinds to a policy, rewrites the chosen segments, and checks that the policy
///
/// * chooses only sealed segments of the passed ones, each once;
/// * chooses nothing in a fully live log, in both goals;
/// * terminates, and with the goal of freeing everything leaves no fully dead segment.
///
/// # Errors
///
/// [`PolicyViolation`].
pub fn check_policy(policy: &dyn CompactionPolicy) -> Result<(), PolicyViolation> {
    let config = CompactionConfig::default();
    for goal in [Goal::Background, Goal::Full] {
        for count in [0, 1, 2, 7, 40] {
            let live = log(count, |_| RECORDS);
            let chosen = choose(policy, &live, goal, &config)?;
            ensure(chosen.is_empty(), "a fully live log is not rewritten", &live, &chosen)?;
            // Live shares that differ between segments; some segments are fully dead or fully live.
            for factor in [3, 5, 7, 11] {
                settle(policy, log(count, |id| RECORDS * (u64::from(id) * factor % 11) / 10), goal, &config)?;
            }
            settle(policy, log(count, |_| 0), goal, &config)?;
        }
    }
    Ok(())
}

/// Segments in commit order, the last one unsealed; `live` returns the number of live records of
/// each.
fn log(count: u32, live: impl Fn(u32) -> u64) -> Vec<SegmentUsage> {
    let segment = |id| {
        let live_records = live(id).min(RECORDS);
        SegmentUsage {
            id,
            kind: SegmentKind::Append,
            is_sealed: id != count,
            base_seq: u64::from(id) * RECORDS,
            len_bytes: SEGMENT_LEN_BYTES,
            records: RECORDS,
            live_records,
            live_bytes: SEGMENT_LEN_BYTES * live_records / RECORDS,
            retained_records: 0,
            expired_tombstone_bytes: 0,
            age: Duration::from_secs(60 * u64::from(count - id)),
        }
    };
    (1..=count).map(segment).collect()
}

fn choose(
    policy: &dyn CompactionPolicy,
    segments: &[SegmentUsage],
    goal: Goal,
    config: &CompactionConfig,
) -> Result<Vec<u32>, PolicyViolation> {
    let chosen = policy.choose(segments, goal, config);
    let sealed = |id: &u32| segments.iter().any(|usage| usage.id == *id && usage.is_sealed);
    ensure(chosen.iter().all(sealed), "only sealed segments of the passed ones are chosen", segments, &chosen)?;
    let mut distinct = chosen.clone();
    distinct.sort_unstable();
    distinct.dedup();
    ensure(distinct.len() == chosen.len(), "each segment is chosen once", segments, &chosen)?;
    Ok(chosen)
}

/// Rewrites the segments that the policy chooses, until it chooses none.
fn settle(
    policy: &dyn CompactionPolicy,
    mut segments: Vec<SegmentUsage>,
    goal: Goal,
    config: &CompactionConfig,
) -> Result<(), PolicyViolation> {
    for _ in 0..ROUNDS_MAX {
        let chosen = choose(policy, &segments, goal, config)?;
        if chosen.is_empty() {
            let left = segments.iter().any(|usage| usage.is_sealed && usage.is_dead());
            return ensure(goal == Goal::Background || !left, "fully dead segments are freed", &segments, &chosen);
        }
        let (victims, mut rest): (Vec<_>, Vec<_>) = segments.into_iter().partition(|usage| chosen.contains(&usage.id));
        rest.extend(survivors(&victims, &rest));
        segments = rest;
    }
    Err(PolicyViolation { rule: "a policy terminates", segments, chosen: Vec::new() })
}

/// The output segment of the victims' live records.
fn survivors(victims: &[SegmentUsage], rest: &[SegmentUsage]) -> Option<SegmentUsage> {
    let records = victims.iter().map(|usage| usage.live_records).sum();
    let id = victims.iter().chain(rest).map(|usage| usage.id).max()? + 1;
    let base_seq = victims.iter().map(|usage| usage.base_seq).max()? + RECORDS;
    let len_bytes = victims.iter().map(|usage| usage.live_bytes).sum();
    (records > 0).then_some(SegmentUsage {
        id,
        kind: SegmentKind::Compacted,
        is_sealed: true,
        base_seq,
        len_bytes,
        records,
        live_records: records,
        live_bytes: len_bytes,
        retained_records: 0,
        expired_tombstone_bytes: 0,
        age: Duration::ZERO,
    })
}

fn ensure(holds: bool, rule: &'static str, segments: &[SegmentUsage], chosen: &[u32]) -> Result<(), PolicyViolation> {
    if holds { Ok(()) } else { Err(PolicyViolation { rule, segments: segments.to_vec(), chosen: chosen.to_vec() }) }
}

#[cfg(test)]
mod tests {
    use super::{CompactionConfig, CompactionPolicy, Goal, SegmentUsage, check_policy};

    #[derive(Debug)]
    struct Everything;

    impl CompactionPolicy for Everything {
        fn choose(&self, segments: &[SegmentUsage], _: Goal, _: &CompactionConfig) -> Vec<u32> {
            segments.iter().filter(|usage| usage.is_sealed).map(|usage| usage.id).collect()
        }
    }

    #[derive(Debug)]
    struct Nothing;

    impl CompactionPolicy for Nothing {
        fn choose(&self, _: &[SegmentUsage], _: Goal, _: &CompactionConfig) -> Vec<u32> {
            Vec::new()
        }
    }

    #[test]
    fn policies_that_do_too_much_or_too_little_are_found_out() {
        let rule = |policy: &dyn CompactionPolicy| check_policy(policy).map_err(|violation| violation.rule);
        assert_eq!(rule(&Everything), Err("a fully live log is not rewritten"));
        assert_eq!(rule(&Nothing), Err("fully dead segments are freed"));
    }
}
