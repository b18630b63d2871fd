//! The outcomes of concurrent calls are those of some sequential order of the calls.
//!
//! Threads put, delete, read, scan, add and commit conditional batches on three keys and a counter
//! of the real engine: mapped and positioned appends, with and without the commit thread, beside
//! compactions and checkpoints, some with a failing file system. Each history is then checked; a
//! write with an error may have taken effect or not.
//!
//! `HIGHTOWER_TEST_CASES` sets the number of histories (default 200), `HIGHTOWER_TEST_SEED` the
//! first. Threads are scheduled by the machine, so a seed repeats the calls but not their order: a
//! failure prints the whole history.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

mod checker;
#[path = "../common/mod.rs"]
mod common;
mod cross_check;
mod random;
mod recorder;
mod store;

use checker::{Call, is_linearizable};
use common::setting;
use recorder::{Setup, record};
use store::{Operation, Outcome, Required, Store};

/// The history in order of time, for the output.
fn tell(history: &mut [Call<Store>]) -> String {
    history.sort_by_key(|call| call.began);
    let line = |call: &Call<Store>| match &call.ended {
        Some((ended, outcome)) => format!("{:>4}..{ended:<4} {:?} -> {outcome:?}\n", call.began, call.operation),
        None => format!("{:>4}..     {:?} -> unknown\n", call.began, call.operation),
    };
    history.iter().map(line).collect()
}

#[test]
fn every_history_is_linearizable() {
    let (first, cases) = (setting("HIGHTOWER_TEST_SEED", 0), setting("HIGHTOWER_TEST_CASES", 200));
    let (mut calls, mut overlapping, mut unknown) = (0, 0, 0);
    for seed in first..first + cases {
        let setup = Setup::of(seed);
        let mut history = record(setup);
        calls += history.len();
        unknown += history.iter().filter(|call| call.ended.is_none()).count();
        overlapping += overlaps(&mut history);
        if !is_linearizable(&Store::default(), &history) {
            panic!(
                "{setup:?}: no order of these calls explains what they were told:\n{}\nrecord it again: HIGHTOWER_TEST_SEED={seed} HIGHTOWER_TEST_CASES=200 cargo test -p hightower-engine --test linearizability",
                tell(&mut history)
            );
        }
    }
    println!(
        "linearizability: {cases} histories from seed {first}, {calls} calls, {overlapping} of them beside others, {unknown} with an unknown outcome, 0 violations"
    );
    assert!(overlapping > calls / 20, "only {overlapping} of {calls} calls overlap: the threads took turns");
}

/// The number of calls that began before the end of the previous one.
fn overlaps(history: &mut [Call<Store>]) -> usize {
    history.sort_by_key(|call| call.began);
    let is_beside = |pair: &[Call<Store>]| pair[0].ended.as_ref().is_none_or(|(ended, _)| *ended > pair[1].began);
    history.windows(2).filter(|pair| is_beside(pair)).count()
}

fn call(operation: Operation, began: u64, ended: u64, outcome: Outcome) -> Call<Store> {
    Call { operation, began, ended: Some((ended, outcome)) }
}

#[test]
fn wrong_histories_are_refused() {
    let put = || call(Operation::Put(0, 1), 0, 1, Outcome::Done);
    let get = |began, ended, found| call(Operation::Get(0), began, ended, Outcome::Got(found));
    let check = |history: &[Call<Store>]| is_linearizable(&Store::default(), history);
    assert!(check(&[put(), get(2, 3, Some(1))]));
    assert!(!check(&[put(), get(2, 3, None)]), "a stale read");
    let during = || call(Operation::Put(0, 1), 0, 9, Outcome::Done);
    assert!(check(&[during(), get(1, 2, None), get(3, 4, Some(1))]));
    assert!(!check(&[during(), get(1, 2, Some(1)), get(3, 4, None)]), "reads that go back");
    let unknown = || Call::<Store> { operation: Operation::Put(0, 1), began: 0, ended: None };
    assert!(check(&[unknown(), get(1, 2, None), get(3, 4, Some(1)), get(5, 6, Some(1))]));
    assert!(!check(&[unknown(), get(1, 2, Some(1)), get(3, 4, None)]), "a failed write that came and went");
    let batch = call(
        Operation::Batch { require: vec![(0, Required::Absent)], changes: vec![(0, Some(2)), (1, Some(2))], added: 0 },
        0,
        9,
        Outcome::Committed,
    );
    let scan = call(Operation::Scan, 1, 2, Outcome::Saw(Store { values: [Some(2), None, None], counter: 0 }));
    assert!(!check(&[batch, scan]), "half of a batch");
    let claim = |value| {
        let claim =
            Operation::Batch { require: vec![(0, Required::Absent)], changes: vec![(0, Some(value))], added: 0 };
        call(claim, 0, 9, Outcome::Committed)
    };
    assert!(!check(&[claim(1), claim(2)]), "both won");
    let add = |counted| call(Operation::Add(1), 0, 9, Outcome::Counted(counted));
    assert!(check(&[add(2), add(1)]));
    assert!(!check(&[add(1), add(1)]), "a lost update");
}
