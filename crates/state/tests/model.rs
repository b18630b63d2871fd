//! The plain state: it is a join, and it agrees with the shortest statement of the rules.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::ops::Bound;

use hightower_log::Command;
use hightower_state::{ApplyOutcome, KvState};
use proptest::prelude::*;

/// Commands of one key with one version are the same command.
fn command(key: u8, version: u64) -> Command {
    let stamp = version.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(key);
    let (key, timestamp) = (vec![key], i64::try_from(stamp >> 1).unwrap());
    if stamp.is_multiple_of(4) {
        Command::Delete { key, version, timestamp }
    } else {
        Command::Set { key, value: stamp.to_le_bytes()[..(stamp % 9) as usize].to_vec(), version, timestamp }
    }
}

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let version = prop_oneof![0_u64..20, Just(u64::MAX), any::<u64>()];
    prop::collection::vec((0_u8..8, version).prop_map(|(key, version)| command(key, version)), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn order_repeats_and_grouping_do_not_matter(
        commands in commands().prop_flat_map(|commands| (Just(commands.clone()), Just(commands).prop_shuffle())),
        repeats in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let (commands, mut other) = commands;
        let straight: KvState = commands.iter().cloned().collect();
        if !commands.is_empty() {
            other.extend(repeats.iter().map(|at| at.get(&commands).clone()));
        }
        let mut cuts: Vec<_> = cuts.iter().map(|at| at.index(other.len() + 1)).collect();
        cuts.sort_unstable();
        let mut merged = KvState::new();
        for group in cuts.iter().chain([&other.len()]).scan(0, |from, &to| Some(std::mem::replace(from, to)..to)) {
            merged.merge(other[group].iter().cloned().collect());
        }
        prop_assert_eq!(merged.digest(), straight.digest());
        prop_assert_eq!(&merged, &straight);
    }

    #[test]
    fn the_highest_version_wins(commands in commands()) {
        let mut winners = BTreeMap::<Vec<u8>, Command>::new();
        let mut state = KvState::new();
        for command in &commands {
            let seen = winners.get(command.key()).is_some_and(|winner| winner.version() >= command.version());
            let expected = match (seen, command.value()) {
                (true, _) => ApplyOutcome::IgnoredStale,
                (false, Some(_)) => ApplyOutcome::Applied,
                (false, None) => ApplyOutcome::Removed,
            };
            prop_assert_eq!(state.apply(command), expected);
            if !seen {
                winners.insert(command.key().to_vec(), command.clone());
            }
        }
        let live: Vec<_> = winners.values().filter_map(|winner| Some((winner.key(), winner.value()?))).collect();
        prop_assert_eq!(state.iter().collect::<Vec<_>>(), &live[..]);
        prop_assert_eq!(state.len(), live.len());
        prop_assert_eq!(state.tombstones().count(), winners.len() - live.len());
        for (key, winner) in &winners {
            let record = state.record(key).unwrap();
            prop_assert_eq!((record.version, record.timestamp, record.value), (winner.version(), winner.timestamp(), winner.value()));
        }
    }

    #[test]
    fn the_digest_sees_every_part_of_a_record(commands in commands(), at in any::<prop::sample::Index>(), part in 0..5) {
        let set = |key: &[u8], value: &[u8], version, timestamp| {
            Command::Set { key: key.to_vec(), value: value.to_vec(), version, timestamp }
        };
        // At least one key exists.
        let state: KvState = commands.into_iter().chain([set(b"always", b"there", 1, 1)]).collect();
        let live: Vec<_> = state.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
        let (key, value) = at.get(&live).clone();
        let record = state.record(&key).unwrap();
        let (version, timestamp) = (record.version, record.timestamp);
        let changed = match part {
            0 => set(&[&key[..], b"x"].concat(), &value, version, timestamp),
            1 => set(&key, &[&value[..], b"x"].concat(), version, timestamp),
            2 => set(&key, &value, version ^ 1, timestamp),
            3 => set(&key, &value, version, timestamp ^ 1),
            _ => Command::Delete { key: key.clone(), version, timestamp },
        };
        let others = state.iter().filter(|(other, _)| *other != key).map(|(other, value)| {
            let record = state.record(other).unwrap();
            set(other, value, record.version, record.timestamp)
        });
        let others: Vec<_> = others.collect();
        let original: KvState = others.iter().cloned().chain([set(&key, &value, version, timestamp)]).collect();
        let altered: KvState = others.into_iter().chain([changed]).collect();
        prop_assert_ne!(original.digest(), altered.digest());
    }
}

#[test]
fn bounds_that_cross_hold_nothing() {
    let state: KvState = (0..8).map(|key| command(key, 3)).collect();
    let (low, high) = (&[1_u8][..], &[5_u8][..]);
    assert_eq!(state.range(Bound::Included(high), Bound::Included(low)).count(), 0);
    assert_eq!(state.range(Bound::Excluded(low), Bound::Excluded(low)).count(), 0);
    assert_eq!(state.range(Bound::Unbounded, Bound::Unbounded).count(), state.len());
}
