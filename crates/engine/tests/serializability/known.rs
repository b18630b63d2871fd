//! Histories with a known answer, and random small ones on which the checker and an exhaustive
//! search must agree.

use crate::checker::{Anomaly, anomaly};
use crate::history::{Step, Transacted, runs};
use crate::random::Random;
use Step::{Append, Read, ReadRange};

fn verdict(transactions: &[&[Step]]) -> Option<Anomaly> {
    let history: Vec<_> = transactions.iter().map(|steps| Transacted::committed(steps.to_vec())).collect();
    assert_eq!(is_serializable(&history, 2), anomaly(&history, 2).is_none(), "{history:?}");
    anomaly(&history, 2)
}

#[test]
fn good_histories_have_no_anomaly() {
    assert_eq!(verdict(&[]), None);
    assert_eq!(verdict(&[&[Append(0, 1), Read(0, vec![1])], &[Read(0, vec![])], &[Read(0, vec![1])]]), None);
    assert_eq!(
        verdict(&[&[Read(0, vec![1]), Append(0, 2)], &[Append(0, 1)], &[ReadRange(vec![vec![1, 2], vec![]])]]),
        None
    );
    assert_eq!(verdict(&[&[Append(0, 1), Append(0, 2)], &[Append(0, 3)], &[Read(0, vec![3, 1, 2])]]), None);
}

#[test]
fn each_anomaly_has_its_name() {
    let aborted = Transacted { is_committed: false, ..Transacted::committed(vec![Append(0, 1)]) };
    let reader = Transacted::committed(vec![Read(0, vec![1])]);
    assert_eq!(anomaly(&[aborted, reader.clone()], 1), Some(Anomaly::AbortedRead));
    assert_eq!(anomaly(&[reader], 1), Some(Anomaly::AbortedRead), "of nobody");
    assert_eq!(verdict(&[&[Append(0, 1), Append(0, 2)], &[Read(0, vec![1])]]), Some(Anomaly::IntermediateRead));
    assert_eq!(verdict(&[&[Append(0, 1), Read(0, vec![])]]), Some(Anomaly::Internal), "own write not seen");
    assert_eq!(verdict(&[&[Append(0, 1)], &[Read(0, vec![]), Read(0, vec![1])]]), Some(Anomaly::Internal));
    let forks: &[&[Step]] = &[&[Append(0, 1)], &[Append(0, 2)], &[Read(0, vec![1])], &[Read(0, vec![2])]];
    assert_eq!(verdict(forks), Some(Anomaly::NoOrder));
    let writes: &[&[Step]] =
        &[&[Append(0, 1), Append(1, 2)], &[Append(0, 3), Append(1, 4)], &[ReadRange(vec![vec![1, 3], vec![4, 2]])]];
    assert_eq!(verdict(writes), Some(Anomaly::WriteCycle));
    let flow: &[&[Step]] = &[&[Append(0, 1), Read(1, vec![2])], &[Append(1, 2), Read(0, vec![1])]];
    assert_eq!(verdict(flow), Some(Anomaly::CircularFlow));
    let read_skew: &[&[Step]] = &[&[Append(0, 1), Append(1, 2)], &[Read(0, vec![1]), Read(1, vec![])]];
    assert_eq!(verdict(read_skew), Some(Anomaly::SingleMiss));
    let lost_update: &[&[Step]] =
        &[&[Read(0, vec![]), Append(0, 1)], &[Read(0, vec![]), Append(0, 2)], &[Read(0, vec![1, 2])]];
    assert_eq!(verdict(lost_update), Some(Anomaly::SingleMiss));
    let write_skew: &[&[Step]] = &[&[Read(0, vec![]), Append(1, 1)], &[Read(1, vec![]), Append(0, 2)]];
    assert_eq!(verdict(write_skew), Some(Anomaly::WriteSkew));
    let phantom: &[&[Step]] =
        &[&[ReadRange(vec![vec![], vec![]]), Append(0, 1)], &[ReadRange(vec![vec![], vec![]]), Append(1, 2)]];
    assert_eq!(verdict(phantom), Some(Anomaly::Phantom));
}

/// Whether an order of the committed transactions explains all reads: by trying all.
fn is_serializable(history: &[Transacted], lists: usize) -> bool {
    fn search(left: &[&Transacted], state: &[Vec<u64>]) -> bool {
        left.is_empty()
            || (0..left.len()).any(|next| {
                let mut after = state.to_vec();
                let rest: Vec<_> = left.iter().enumerate().filter(|(at, _)| *at != next).map(|(_, it)| *it).collect();
                runs(left[next], &mut after) && search(&rest, &after)
            })
    }
    let committed: Vec<_> = history.iter().filter(|transacted| transacted.is_committed).collect();
    search(&committed, &vec![Vec::new(); lists])
}

/// A history of a store that is wrong in several ways: transactions read one snapshot each, which
/// is older than their commit, or no snapshot, and nothing is validated.
fn of_a_weak_store(random: &mut Random) -> Vec<Transacted> {
    const LISTS: usize = 2;
    let mut versions = vec![vec![Vec::new(); LISTS]];
    let mut history = Vec::new();
    let mut value = 0;
    for _ in 0..random.below(3) + 2 {
        let lag = if random.below(3) == 0 { random.below(versions.len() as u64) as usize } else { 0 };
        let mut own = vec![Vec::new(); LISTS];
        let mut steps = Vec::new();
        for _ in 0..random.below(3) + 1 {
            let lag = if random.below(8) == 0 { random.below(versions.len() as u64) as usize } else { lag };
            let seen = &versions[versions.len() - 1 - lag];
            let whole = |list: usize| [seen[list].as_slice(), own[list].as_slice()].concat();
            let list = random.below(LISTS as u64) as usize;
            match random.below(4) {
                0 | 1 => {
                    value += 1;
                    own[list].push(value);
                    steps.push(Append(list, value));
                }
                2 => steps.push(Read(list, whole(list))),
                _ => steps.push(ReadRange((0..LISTS).map(whole).collect())),
            }
        }
        let is_committed = random.below(8) != 0;
        if is_committed || random.below(4) == 0 {
            let mut state = versions[versions.len() - 1].clone();
            for (list, own) in own.into_iter().enumerate() {
                state[list].extend(own);
            }
            if random.below(12) == 0 {
                let list = random.below(LISTS as u64) as usize;
                state[list].reverse();
            }
            versions.push(state);
        }
        history.push(Transacted { steps, is_committed, seqno: 0 });
    }
    history
}

#[test]
fn the_checker_agrees_with_an_exhaustive_search() {
    let mut random = Random(20_261_130);
    let (mut good, mut kinds) = (0, std::collections::BTreeMap::new());
    for case in 0..crate::setting("HIGHTOWER_TEST_CASES", 30_000) {
        let history = of_a_weak_store(&mut random);
        let found = anomaly(&history, 2);
        assert_eq!(found.is_none(), is_serializable(&history, 2), "case {case}: {found:?} in {history:#?}");
        good += u32::from(found.is_none());
        *kinds.entry(found).or_insert(0) += 1;
    }
    println!("{kinds:?}");
    assert!(kinds.len() >= 9 && good > 0, "not all kinds of histories: {kinds:?}");
}
