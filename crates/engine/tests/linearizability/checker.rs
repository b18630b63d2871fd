//! Is a history of overlapping calls what some order of the calls, one after the other, would have
//! given?
//!
//! The search of Wing and Gong ("Testing and verifying concurrent objects", J. Parallel and
//! Distributed Computing, 1993): take any call that no other has to come before, apply it to the
//! model, go on, and step back where the outcome does not fit. What has been seen not to lead
//! anywhere, a set of calls taken and the state they gave, is not tried again (Lowe, "Testing for
//! linearizability", Concurrency and Computation, 2017).

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What the calls are made to, as it would be without concurrency.
pub(crate) trait Model: Clone + Eq + Hash {
    type Operation: Debug;
    type Outcome: Debug + PartialEq;

    /// Does the operation and gives its outcome.
    fn apply(&mut self, operation: &Self::Operation) -> Self::Outcome;
}

/// A call, with the moments at which it began and ended, on one clock for all.
#[derive(Debug)]
pub(crate) struct Call<M: Model> {
    pub(crate) operation: M::Operation,
    pub(crate) began: u64,
    /// `None` if nobody knows what became of it: it may have happened at any time since it began,
    /// or not at all.
    pub(crate) ended: Option<(u64, M::Outcome)>,
}

/// The most calls of a history.
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
