//! Enumeration of all states that a crash may leave.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use hightower_seams::mix64;

use super::disk::{Disk, Op, Picks};
use super::rng::Rng;
use super::simulated_fs::SimFs;

/// The extent of the exploration of crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrashPlan {
    /// Maximum number of states at one operation boundary for a visit of all. The default is 4,096:
    /// twelve items with two alternatives each.
    pub exhaustive_limit: u64,
    /// Number of states drawn if there are more, besides "nothing more was written" and "everything
    /// was written".
    pub samples: u64,
    /// Seed of the drawn states.
    pub seed: u64,
}

impl Default for CrashPlan {
    fn default() -> Self {
        Self { exhaustive_limit: 4096, samples: 64, seed: 0 }
    }
}

/// A crash: its moment, and the state of the disk. Its text form is `op/choice`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CrashPoint {
    /// Number of recorded operations before it.
    pub op: usize,
    /// The writes that reached the disk.
    pub choice: Choice,
}

/// The writes that reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The `n`-th of all combinations; 0 is "only synced writes".
    Nth(u64),
    /// Drawn from a seed.
    Drawn(u64),
    /// Everything, as after a kill of the process only.
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

/// The text is not a crash point: `17/n3`, `17/s12345` or `17/all` expected.
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

/// A possible state of the file system after a crash.
#[derive(Debug)]
pub struct CrashState {
    /// The file system, without pending writes and locks.
    pub fs: SimFs,
    /// The crash.
    pub point: CrashPoint,
}

/// All crash states of a workload; from [`SimFs::crash_states`].
#[derive(Debug)]
pub struct CrashStates {
    plan: CrashPlan,
    ops: Arc<[Op]>,
    promise: bool,
    disk: Disk,
    op: usize,
    alternatives: Vec<usize>,
    /// The number of combinations at this boundary; `None` if too many.
    combinations: Option<u64>,
    /// The number of returned states of this boundary.
    given: u64,
}

impl SimFs {
    /// All possible states after a crash at any boundary of the operations recorded so far, or a
    /// sample of them; see [`CrashPlan`]. A kill of the process only is among them, as
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

    /// The state after one crash.
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
