//! Transactions beside the plain model: random calls, ranges from both ends, savepoints.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on ends here, and says what it saw"
)]

#[path = "linearizability/random.rs"]
mod random;

use std::collections::BTreeMap;
use std::ops::Bound;

use hightower_engine::{SingleNodeEngine, Transaction};
use random::Random;
use tempfile::TempDir;

/// Random calls on a transaction, beside the plain model: a map of the snapshot with the writes
/// over it.
#[test]
fn a_transaction_sees_what_the_model_sees() {
    let cases = std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    for seed in 0..cases {
        let mut random = Random(seed);
        let dir = TempDir::new().unwrap();
        let engine = SingleNodeEngine::open(dir.path()).unwrap();
        let key = |random: &mut Random| format!("{:02}", random.below(30));
        let mut stored = BTreeMap::new();
        for _ in 0..random.below(40) {
            let (key, value) = (key(&mut random), random.below(1000).to_string());
            engine.put(&key, &value).unwrap();
            stored.insert(key, value);
        }
        let mut transaction = engine.transaction().unwrap();
        let mut model = stored.clone();
        let mut savepoints = Vec::new();
        for step in 0..60 {
            let at = key(&mut random);
            match random.below(9) {
                0 | 1 => {
                    transaction.put(&at, step.to_string()).unwrap();
                    model.insert(at, step.to_string());
                }
                2 => {
                    transaction.delete(&at).unwrap();
                    model.remove(&at);
                }
                3 => savepoints.push((transaction.savepoint(), model.clone())),
                4 if !savepoints.is_empty() => {
                    let chosen = random.below(savepoints.len() as u64) as usize;
                    savepoints.truncate(chosen + 1);
                    transaction.rollback_to(&savepoints[chosen].0).unwrap();
                    model = savepoints[chosen].1.clone();
                }
                5 => {
                    let expected = model.get(&at).map(|value| value.as_bytes().to_vec());
                    assert_eq!(transaction.get(&at).unwrap().map(|value| value.to_vec()), expected, "seed {seed}");
                    assert_eq!(transaction.contains_key(&at).unwrap(), expected.is_some(), "seed {seed}");
                }
                _ => compare_ranges(&transaction, &model, at, &mut random, seed),
            }
            // Not seen: the snapshot stays.
            engine.put(key(&mut random), "of another").unwrap();
        }
    }
}

/// Reads a range from both ends in a random order.
fn compare_ranges(
    transaction: &Transaction<'_>,
    model: &BTreeMap<String, String>,
    from: String,
    random: &mut Random,
    seed: u64,
) {
    let to = format!("{:02}", random.below(32));
    let to = if random.below(2) == 0 { Bound::Excluded(to) } else { Bound::Included(to) };
    let from = if random.below(2) == 0 { Bound::Included(from) } else { Bound::Excluded(from) };
    let inside = |key: &&String| {
        let is_behind = match &from {
            Bound::Included(from) => *key >= from,
            Bound::Excluded(from) => *key > from,
            Bound::Unbounded => true,
        };
        is_behind
            && match &to {
                Bound::Included(to) => *key <= to,
                Bound::Excluded(to) => *key < to,
                Bound::Unbounded => true,
            }
    };
    let mut expected: std::collections::VecDeque<_> = model.iter().filter(|(key, _)| inside(key)).collect();
    let mut range = transaction.range((from.clone(), to.clone())).unwrap();
    loop {
        let is_back = random.below(2) == 0;
        let (found, wanted) =
            if is_back { (range.next_back(), expected.pop_back()) } else { (range.next(), expected.pop_front()) };
        let found = found.map(|entry| entry.unwrap().into_pair().unwrap());
        let wanted = wanted.map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()));
        assert_eq!(found.map(|(key, value)| (key, value.to_vec())), wanted, "seed {seed}");
        if expected.is_empty() && range.next().is_none() {
            return;
        }
    }
}
