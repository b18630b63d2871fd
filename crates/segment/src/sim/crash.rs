//! Walking over everything that a crash may leave.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hightower_seams::mix64;

use super::disk::{Disk, Op, Picks};
use super::files::SimFs;
use super::rng::Rng;

/// How thoroughly crashes are explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPlan {
    /// Up to this many states at one operation boundary all are visited. The default is 4,096:
    /// twelve things with two ways each.
    pub exhaustive_limit: u64,
    /// How many states are drawn where there are more, besides "nothing more was written" and "all
    /// was".
    pub samples: u64,
    /// What they are drawn from.
    pub seed: u64,
}

impl Default for CrashPlan {
    fn default() -> Self {
        Self { exhaustive_limit: 4096, samples: 64, seed: 0 }
    }
}

/// A crash: when, and what reached the disk. Prints as `op/choice`, and parses from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CrashPoint {
    /// How many recorded operations happened before it.
    pub op: usize,
    /// What reached the disk.
    pub choice: Choice,
}

/// What reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The `n`-th of all combinations; 0 is "only what was synced".
    Nth(u64),
    /// Drawn from a seed.
    Drawn(u64),
    /// Everything, as after the death of the process alone.
    Everything,
}

impl fmt::Display for CrashPoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.choice {
            Choice::Nth(nth) => write!(formatter, "{}/n{nth}", self.op),
            Choice::Drawn(seed) => write!(formatter, "{}/s{seed}", self.op),
            Choice::Everything => write!(formatter, "{}/all", self.op),
        }
    }
}

/// The text is no crash point: `17/n3`, `17/s12345` or `17/all` expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no crash point: 17/n3, 17/s12345 or 17/all expected")]
pub struct ParseCrashPointError;

impl FromStr for CrashPoint {
    type Err = ParseCrashPointError;

    fn from_str(text: &str) -> Result<Self, ParseCrashPointError> {
        let (op, choice) = text.split_once('/').ok_or(ParseCrashPointError)?;
        let number = |digits: &str| digits.parse().map_err(|_| ParseCrashPointError);
        let choice = match (choice, choice.split_at_checked(1)) {
            ("all", _) => Choice::Everything,
            (_, Some(("n", digits))) => Choice::Nth(number(digits)?),
            (_, Some(("s", digits))) => Choice::Drawn(number(digits)?),
            _ => return Err(ParseCrashPointError),
        };
        Ok(Self { op: op.parse().map_err(|_| ParseCrashPointError)?, choice })
    }
}

/// A file system as a crash may have left it.
#[derive(Debug)]
pub struct CrashState {
    /// The file system: nothing on it is pending, nobody has it locked.
    pub fs: SimFs,
    /// Which crash it was.
    pub point: CrashPoint,
}

/// All crash states of a workload; made by [`SimFs::crash_states`].
#[derive(Debug)]
pub struct CrashStates {
    plan: CrashPlan,
    ops: Arc<[Op]>,
    promise: bool,
    disk: Disk,
    op: usize,
    alternatives: Vec<usize>,
    /// How many combinations there are at this boundary; `None` if too many.
    combinations: Option<u64>,
    /// How many of this boundary's states were given.
    given: u64,
}

impl SimFs {
    /// Every state that a crash at any boundary of the operations recorded so far may leave, or a
    /// sample of them; see [`CrashPlan`]. The process's death alone is among them, as
    /// [`Choice::Everything`] or the last [`Choice::Nth`].
    #[must_use]
    pub fn crash_states(&self, plan: CrashPlan) -> CrashStates {
        let (disk, ops, promise) = self.recording();
        let mut states =
            CrashStates { plan, ops, promise, disk, op: 0, alternatives: Vec::new(), combinations: None, given: 0 };
        states.arrive();
        states
    }

    /// The same for one operation boundary: after the first `op` recorded operations.
    pub fn crash_states_at(&self, op: usize, plan: CrashPlan) -> impl Iterator<Item = CrashState> {
        let (mut disk, ops, promise) = self.recording();
        ops.iter().take(op).for_each(|op| disk.apply(op));
        let ops = Vec::new().into();
        let mut states =
            CrashStates { plan, ops, promise, disk, op, alternatives: Vec::new(), combinations: None, given: 0 };
        states.arrive();
        states
    }

    /// The state that one crash leaves.
    #[must_use]
    pub fn crash_at(&self, point: CrashPoint) -> Self {
        let (mut disk, ops, promise) = self.recording();
        ops.iter().take(point.op).for_each(|op| disk.apply(op));
        settle(&disk, &disk.alternatives(), point.choice, promise)
    }
}

impl CrashStates {
    fn arrive(&mut self) {
        self.alternatives = self.disk.alternatives();
        let product = self.alternatives.iter().try_fold(1_u64, |product, ways| product.checked_mul(*ways as u64));
        self.combinations = product.filter(|product| *product <= self.plan.exhaustive_limit);
        self.given = 0;
    }

    fn choice(&self) -> Option<Choice> {
        match self.combinations {
            Some(combinations) => (self.given < combinations).then_some(Choice::Nth(self.given)),
            None if self.given == 0 => Some(Choice::Nth(0)),
            None if self.given == 1 => Some(Choice::Everything),
            None => (self.given < self.plan.samples + 2)
                .then(|| Choice::Drawn(mix64(self.plan.seed ^ mix64(self.op as u64) ^ mix64(!self.given)))),
        }
    }
}

impl Iterator for CrashStates {
    type Item = CrashState;

    fn next(&mut self) -> Option<CrashState> {
        loop {
            if let Some(choice) = self.choice() {
                self.given += 1;
                let fs = settle(&self.disk, &self.alternatives, choice, self.promise);
                return Some(CrashState { fs, point: CrashPoint { op: self.op, choice } });
            }
            let op = self.ops.get(self.op)?;
            self.disk.apply(op);
            self.op += 1;
            self.arrive();
        }
    }
}

fn settle(disk: &Disk, alternatives: &[usize], choice: Choice, promise: bool) -> SimFs {
    let given: Vec<usize>;
    let mut picks = match choice {
        Choice::Nth(nth) => {
            given = digits(nth, alternatives);
            Picks::Given(given.iter())
        }
        Choice::Everything => {
            given = alternatives.iter().map(|ways| ways - 1).collect();
            Picks::Given(given.iter())
        }
        Choice::Drawn(seed) => {
            let mut rng = Rng(seed);
            let newest_in_16 = [2, 8, 14][usize::try_from(rng.below(3)).unwrap_or_default()];
            Picks::Drawn { rng, newest_in_16 }
        }
    };
    SimFs::from_disk(disk.settle(&mut picks), promise)
}

/// `nth` in the mixed radix of `alternatives`.
fn digits(mut nth: u64, alternatives: &[usize]) -> Vec<usize> {
    let digit = |ways: &usize| {
        let ways = (*ways).max(1) as u64;
        let digit = nth % ways;
        nth /= ways;
        usize::try_from(digit).unwrap_or_default()
    };
    alternatives.iter().map(digit).collect()
}
