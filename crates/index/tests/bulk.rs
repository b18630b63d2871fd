//! Maps built from sorted runs, against maps built by single inserts.

#![allow(clippy::unwrap_used)]

mod model;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use hightower_index::{BulkError, Map, SortedRun, Writer, new};
use model::{MASKS, MaskedHasher, Operation, Pair};
use proptest::prelude::*;

/// Runs of the model's entries, cut at `cuts`, each filled by a separate thread.
fn runs(pair: &Pair, cuts: &[prop::sample::Index]) -> Vec<SortedRun<u64, MaskedHasher>> {
    let entries: Vec<(&Vec<u8>, &u64)> = pair.model.iter().collect();
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(entries.len() + 1)).collect();
    cuts.extend([0, entries.len()]);
    cuts.sort_unstable();
    std::thread::scope(|scope| {
        let fill = |part: &[usize]| {
            let (mut run, entries) = (pair.map.sorted_run(), &entries[part[0]..part[1]]);
            scope.spawn(move || {
                entries.iter().for_each(|(key, value)| run.push(key, **value).unwrap());
                run
            })
        };
        let threads: Vec<_> = cuts.windows(2).map(fill).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn key_set(bytes: &[u8]) -> BTreeMap<Vec<u8>, u64> {
    let mut bytes = bytes.iter().copied();
    let mut keys = BTreeMap::new();
    while bytes.len() > 0 {
        keys.insert(model::key(&mut bytes), keys.len() as u64);
    }
    keys
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn joined_runs_hold_what_single_inserts_would(
        bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 200 } else { 6_000 }),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        mask in prop::sample::select(&MASKS[..]),
        threads in 0_usize..4,
        after in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut pair = Pair::new(mask);
        let empty_bytes = pair.map.memory_bytes();
        pair.model = key_set(&bytes);
        let runs = runs(&pair, &cuts);
        prop_assert_eq!(pair.writer.join_runs(runs, threads), Ok(pair.model.len()));
        prop_assert_eq!(pair.map.len(), pair.model.len());
        pair.compare_all();
        pair.follow(&after);
        pair.compare_all();
        // Runs allocate regions of 2 MiB, of which the smallest table may keep one.
        pair.empty(empty_bytes + (2 << 20));
    }

    #[test]
    fn building_from_any_order_holds_what_single_inserts_would(
        bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 100 } else { 2_000 }),
        sorted in any::<prop::sample::Index>(),
    ) {
        let mut pair = Pair::new(u64::MAX);
        pair.model = key_set(&bytes);
        let mut entries: Vec<_> = pair.model.clone().into_iter().collect();
        let sorted = sorted.index(entries.len() + 1);
        entries[sorted..].reverse();
        let twice: Vec<_> = entries.iter().take(3).cloned().collect();
        prop_assert_eq!(pair.writer.bulk_build(entries.into_iter().chain(twice)), pair.model.len());
        pair.compare_all();
    }
}

#[test]
fn a_large_build_is_like_single_inserts_in_content_and_memory() {
    let count = if cfg!(miri) { 100 } else { 60_000_u64 };
    for spread in [7, 0x9e37_79b9_7f4a_7c15_u64] {
        let mut pair = Pair::new(u64::MAX);
        let empty_bytes = pair.map.memory_bytes();
        pair.model = (0..count).map(|number| (number.wrapping_mul(spread).to_be_bytes().to_vec(), number)).collect();
        let (mut single, singles) = new::<u64>();
        pair.model.iter().for_each(|(key, value)| assert!(!single.insert(key, *value)));
        while single.reclaim() > 0 {
            std::thread::yield_now();
        }
        let cuts: Vec<_> = (1..4_usize).map(|cut| cut * pair.model.len() / 4).collect();
        let mut runs: Vec<_> = (0..4).map(|_| pair.map.sorted_run()).collect();
        for (at, (key, value)) in pair.model.iter().enumerate() {
            runs[cuts.partition_point(|cut| *cut <= at)].push(key, *value).unwrap();
        }
        assert_eq!(pair.writer.join_runs(runs, 2), Ok(pair.model.len()));
        while pair.writer.reclaim() > 0 {
            std::thread::yield_now();
        }
        pair.compare_all();
        // Four runs and two fillers may each leave a part of a region of 2 MiB unused.
        let (built, grown) = (pair.map.memory_bytes(), singles.memory_bytes());
        assert!(built <= grown + grown / 20 + 6 * (2 << 20), "{built} bytes built at once, {grown} one by one");
        // A map of this size allocates regions of 2 MiB, and the smallest table may have a block in
        // the last of them, which then stays.
        pair.empty(empty_bytes + (2 << 20));
    }
}

#[test]
fn runs_that_do_not_fit_are_refused() {
    let (mut writer, map): (Writer<u32>, Map<u32>) = new();
    let run = |map: &Map<u32>, keys: &[&str]| {
        let mut run = map.sorted_run();
        keys.iter().for_each(|key| run.push(key.as_bytes(), 1).unwrap());
        run
    };
    let (_other_writer, other) = new();
    assert_eq!(writer.join_runs([run(&other, &["a"])], 1), Err(BulkError::OtherMap));
    assert_eq!(writer.join_runs([run(&map, &["a", "b"]), run(&map, &["b"])], 1), Err(BulkError::OutOfOrder));
    assert_eq!(writer.join_runs([run(&map, &["b"]), run(&map, &[]), run(&map, &["a"])], 1), Err(BulkError::OutOfOrder));
    assert_eq!((map.len(), map.iter(&hightower_index::pin()).count()), (0, 0));
    assert_eq!(writer.join_runs([run(&map, &[]), run(&map, &["a"]), run(&map, &[])], 9), Ok(1));
    assert_eq!(writer.join_runs([run(&map, &["b"])], 1), Err(BulkError::NotEmpty));
    assert_eq!(writer.join_runs([run(&map, &[])], 1), Err(BulkError::NotEmpty));
    assert_eq!(map.len(), 1);
    for (before, after) in [("", ""), ("a", "a"), ("ab", "a"), ("b", "ab"), ("aa", "a")] {
        let mut run = run(&map, &[before]);
        assert_eq!(run.push(after.as_bytes(), 2), Err(BulkError::OutOfOrder));
        assert_eq!(run.len(), 1);
    }
}

#[test]
fn long_keys_meet_at_a_seam() {
    let len_bytes = if cfg!(miri) { 64 } else { 20_000 };
    let mut pair = Pair::new(u64::MAX);
    let long = vec![b'x'; len_bytes];
    pair.model = (0..len_bytes).step_by(31).map(|len| (long[..len].to_vec(), len as u64)).collect();
    pair.model.insert([&long[..len_bytes / 2], b"y"].concat(), 1);
    pair.model.insert([&long[..], b"y"].concat(), 2);
    let mut runs: Vec<_> = pair.model.iter().map(|_| pair.map.sorted_run()).collect();
    runs.iter_mut().zip(&pair.model).for_each(|(run, (key, value))| run.push(key, *value).unwrap());
    assert_eq!(pair.writer.join_runs(runs, 2), Ok(pair.model.len()));
    pair.compare_all();
    pair.step(&Operation::Remove(long[..31].to_vec()));
    pair.compare_all();
}

/// The values of runs are dropped once, whether the runs are joined, refused or dropped.
#[test]
fn every_value_of_a_run_is_dropped_once() {
    struct Counted<'a>(&'a AtomicU64);
    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Relaxed);
        }
    }
    let dropped = AtomicU64::new(0);
    let (mut writer, map) = new();
    let run = |from: u32| {
        let mut run = map.sorted_run();
        (from..from + 100).for_each(|number| assert!(run.push(&number.to_be_bytes(), Counted(&dropped)).is_ok()));
        assert!(run.push(&from.to_be_bytes(), Counted(&dropped)).is_err());
        run
    };
    drop(run(0));
    assert_eq!(dropped.load(Relaxed), 101);
    assert!(writer.join_runs([run(0), run(50)], 1).is_err());
    assert_eq!(dropped.load(Relaxed), 303);
    assert_eq!(writer.join_runs([run(0), run(100)], 2), Ok(200));
    assert_eq!(dropped.load(Relaxed), 305);
    drop((writer, map));
    assert_eq!(dropped.load(Relaxed), 505);
}
