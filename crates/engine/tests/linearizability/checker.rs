//! Checks whether a history of overlapping calls is linearizable: whether some sequential order of
//! the calls has the same outcomes.
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", J. Parallel and
//! Distributed Computing, 1993): take any call that may come first, apply it to the model,
//! continue, and backtrack if the outcome differs. A failed pair of taken calls and model state is
//! not tried again (Lowe, "Testing for linearizability", Concurrency and Computation, 2017).

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// The sequential model of the called object.
pub(crate) trait Model: Clone + Eq + Hash {
    type Operation: Debug;
    type Outcome: Debug + PartialEq;

    /// Applies the operation and returns its outcome.
    fn apply(&mut self, operation: &Self::Operation) -> Self::Outcome;
}

/// A call, with its begin and end on a clock that all threads share.
#[derive(Debug)]
pub(crate) struct Call<M: Model> {
    pub(crate) operation: M::Operation,
    pub(crate) began: u64,
    /// `None` if the outcome is unknown: the call may have taken effect at any time since its
    /// begin, or never.
    pub(crate) ended: Option<(u64, M::Outcome)>,
}

/// Maximum number of calls in a history.
pub(crate) const MAX_CALLS: usize = 128;

/// Whether the history is linearizable.
pub(crate) fn is_linearizable<M: Model>(start: &M, history: &[Call<M>]) -> bool {
    assert!(history.len() <= MAX_CALLS, "{} calls: more than a set has bits for", history.len());
    let known = (0..history.len()).filter(|at| history[*at].ended.is_some()).fold(0, |set, at| set | 1_u128 << at);
    search(start, history, known, 0, &mut HashSet::new())
}

fn search<M: Model>(
    state: &M,
    history: &[Call<M>],
    known: u128,
    taken: u128,
    dead_ends: &mut HashSet<(u128, M)>,
) -> bool {
    if taken & known == known {
        return true;
    }
    if dead_ends.contains(&(taken, state.clone())) {
        return false;
    }
    let left = || history.iter().enumerate().filter(|(at, _)| taken >> at & 1 == 0);
    // A call that began after another had ended comes after it.
    let first_end = left().filter_map(|(_, call)| call.ended.as_ref().map(|(ended, _)| *ended)).min();
    for (at, call) in left().filter(|(_, call)| first_end.is_none_or(|end| call.began < end)) {
        let mut next = state.clone();
        let outcome = next.apply(&call.operation);
        let fits = call.ended.as_ref().is_none_or(|(_, told)| *told == outcome);
        if fits && search(&next, history, known, taken | 1 << at, dead_ends) {
            return true;
        }
    }
    dead_ends.insert((taken, state.clone()));
    false
}
