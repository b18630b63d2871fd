//! A planted bug, and the tests that must catch it.

use crate::cfgs::Cfgs;

/// The catcher that is not a test: the storms of this program, of the kinds in `filter`.
pub(super) const HOSTILE: &str = "hostile";

pub(super) struct Mutant {
    pub(super) name: &'static str,
    pub(super) rule: &'static str,
    pub(super) shows: Shows,
    /// Tried in this order.
    pub(super) caught_by: &'static [Catcher],
}

/// The symptom of a planted bug in its catchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    /// They fail. A catcher that hangs instead has not caught it.
    ByFailing,
    /// They fail, or wait forever for an event that the bug has lost.
    ByHanging,
}

/// A test, or several whose names contain `filter`.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Catcher {
    pub(super) cfgs: Cfgs,
    pub(super) package: &'static str,
    /// The test's file; `lib` for unit tests; `hostile` for storms of the kinds in `filter`.
    pub(super) test: &'static str,
    pub(super) filter: &'static str,
    pub(super) variables: &'static [(&'static str, &'static str)],
}

pub(super) const fn plain(package: &'static str, test: &'static str, filter: &'static str) -> Catcher {
    Catcher { cfgs: Cfgs::Mutants, package, test, filter, variables: &[] }
}

pub(super) const fn caught(name: &'static str, rule: &'static str, caught_by: &'static [Catcher]) -> Mutant {
    Mutant { name, rule, shows: Shows::ByFailing, caught_by }
}

/// Storms of some kinds, for five seconds.
pub(super) const fn storms(kinds: &'static str) -> Catcher {
    plain("xtask", HOSTILE, kinds)
}

pub(super) const fn engine(filter: &'static str) -> Catcher {
    plain("hightower-engine", "engine", filter)
}

/// Crashes of the whole engine.
pub(super) const ENGINE_CRASHES: Catcher =
    Catcher { variables: &[("HIGHTOWER_TEST_STATES", "20000")], ..plain("hightower-engine", "crash", "every_crash") };

pub(super) const fn within_engine(filter: &'static str) -> Catcher {
    plain("hightower-engine", "lib", filter)
}
