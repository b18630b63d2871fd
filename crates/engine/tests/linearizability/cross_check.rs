//! Compares the checker with that of Stateright, on small random histories, linearizable and not.

use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

use super::checker::{Call, Model, is_linearizable};
use super::common::setting;
use super::random::Random;
use super::store::{KEYS, Operation, Outcome, Required, Store};

const THREADS: usize = 3;

impl SequentialSpec for Store {
    type Op = Operation;
    type Ret = Outcome;

    fn invoke(&mut self, operation: &Operation) -> Outcome {
        self.apply(operation)
    }
}

/// The current call of a thread.
#[derive(Clone, Debug)]
struct Pending {
    operation: Operation,
    began: u64,
    outcome: Option<Outcome>,
}

fn operation(random: &mut Random, value: u32) -> Operation {
    let key = usize::try_from(random.below(KEYS as u64)).unwrap();
    match random.below(7) {
        0 | 1 => Operation::Put(key, value),
        2 => Operation::Delete(key),
        3 => Operation::Get(key),
        4 => Operation::Scan,
        5 => Operation::Add(1 + i64::try_from(random.below(3)).unwrap()),
        _ => {
            let required = match random.below(3) {
                0 => Required::Absent,
                1 => Required::Present,
                _ => Required::Is(u32::try_from(random.below(u64::from(value) + 1)).unwrap()),
            };
            Operation::Batch {
                require: vec![(key, required)],
                changes: vec![(key, Some(value)), ((key + 1) % KEYS, None)],
                added: i64::try_from(random.below(2)).unwrap(),
            }
        }
    }
}

/// Another possible outcome of the call.
fn lie(random: &mut Random, outcome: &Outcome) -> Outcome {
    let other = |value: Option<u32>| value.map_or(Some(0), |value| value.checked_sub(1));
    match outcome {
        Outcome::Done => Outcome::Done,
        Outcome::Got(value) => Outcome::Got(other(*value)),
        Outcome::Saw(store) => {
            let mut store = store.clone();
            let at = usize::try_from(random.below(KEYS as u64)).unwrap();
            store.values[at] = other(store.values[at]);
            Outcome::Saw(store)
        }
        Outcome::Counted(counter) => Outcome::Counted(counter - 1),
        Outcome::Committed => Outcome::Rejected,
        Outcome::Rejected => Outcome::Committed,
    }
}

/// Calls begin, take effect and end in random order; half of the histories then get one wrong
/// outcome. Returns both checkers' verdicts.
fn verdicts(seed: u64) -> (bool, bool) {
    let mut random = Random(seed);
    let lies = random.below(2) == 0;
    let (mut store, mut clock) = (Store::default(), 0);
    let mut threads: [Option<Pending>; THREADS] = [const { None }; THREADS];
    let mut tester = LinearizabilityTester::new(Store::default());
    let mut history: Vec<Call<Store>> = Vec::new();
    for _ in 0..24 {
        let at = usize::try_from(random.below(THREADS as u64)).unwrap();
        clock += 1;
        match threads[at].take() {
            None => {
                let value = u32::try_from(clock).unwrap();
                let operation = operation(&mut random, value);
                tester.on_invoke(at, operation.clone()).unwrap();
                threads[at] = Some(Pending { operation, began: clock, outcome: None });
            }
            Some(pending @ Pending { outcome: None, .. }) => {
                let outcome = Some(store.apply(&pending.operation));
                threads[at] = Some(Pending { outcome, ..pending });
            }
            Some(Pending { operation, began, outcome: Some(outcome) }) => {
                let outcome = if lies && random.below(4) == 0 { lie(&mut random, &outcome) } else { outcome };
                tester.on_return(at, outcome.clone()).unwrap();
                history.push(Call { operation, began, ended: Some((clock, outcome)) });
            }
        }
    }
    let in_flight = threads.into_iter().flatten();
    history.extend(in_flight.map(|pending| Call { operation: pending.operation, began: pending.began, ended: None }));
    (is_linearizable(&Store::default(), &history), tester.is_consistent())
}

#[test]
fn the_checker_agrees_with_an_independent_one() {
    let (mut right, mut wrong) = (0, 0);
    let first = setting("HIGHTOWER_TEST_SEED", 0);
    for seed in first..first + 2000 {
        let (ours, theirs) = verdicts(seed);
        assert_eq!(ours, theirs, "the verdicts on history {seed} differ: ours first");
        *(if ours { &mut right } else { &mut wrong }) += 1;
    }
    println!("cross-check: 2000 small histories, {right} linearizable and {wrong} not, both checkers agree on each");
    assert!(right > 500 && wrong > 300, "{right} right, {wrong} wrong: too one-sided to say anything");
}
