//! Ranges in all spellings: every kind of bounds, cursors, first and last keys.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::iter::FusedIterator;
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::ops::ControlFlow;

use hightower_engine::{Range, SingleNodeEngine, StoreConfig, Value, prefix_end};
use proptest::prelude::*;
use tempfile::TempDir;

fn keys(range: Range) -> Vec<String> {
    range.map(|entry| String::from_utf8(entry.unwrap().key().to_vec()).unwrap()).collect()
}

fn of_letters(letters: &str) -> (TempDir, SingleNodeEngine) {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    for letter in letters.chars() {
        engine.put(letter.to_string(), "value").unwrap();
    }
    (dir, engine)
}

#[test]
fn bounds_of_every_kind_need_no_type() {
    let (_dir, engine) = of_letters("abcde");
    let snapshot = engine.snapshot().unwrap();
    let whole = ["a", "b", "c", "d", "e"];
    assert_eq!(keys(engine.range(..).unwrap()), whole);
    assert_eq!(keys(snapshot.range(..)), whole);
    assert_eq!(keys(engine.iter().unwrap()), whole);
    assert_eq!(keys(snapshot.iter()), whole);
    assert_eq!(keys(engine.range("b".."d").unwrap()), ["b", "c"]);
    assert_eq!(keys(engine.range("b"..="d").unwrap()), ["b", "c", "d"]);
    assert_eq!(keys(engine.range("d"..).unwrap()), ["d", "e"]);
    assert_eq!(keys(engine.range(.."b").unwrap()), ["a"]);
    assert_eq!(keys(engine.range(..="b").unwrap()), ["a", "b"]);
    assert_eq!(keys(engine.range(b"b"..b"d").unwrap()), ["b", "c"]);
    assert_eq!(keys(engine.range(&b"a"[..]..b"bb").unwrap()), ["a", "b"]);
    assert_eq!(keys(engine.range(b"b".to_vec()..b"cc".to_vec()).unwrap()), ["b", "c"]);
    assert_eq!(keys(engine.range(String::from("d")..).unwrap()), ["d", "e"]);
    assert_eq!(keys(engine.range(Value::from("d")..).unwrap()), ["d", "e"]);
    assert_eq!(keys(engine.range((Excluded("b"), Unbounded)).unwrap()), ["c", "d", "e"]);
    assert_eq!(keys(engine.range((Excluded("b"), Included("d"))).unwrap()), ["c", "d"]);
    let bounds = "b".."c";
    assert_eq!(keys(engine.range(&bounds).unwrap()), keys(engine.range(bounds).unwrap()));
    // Empty ranges, with bounds in any order.
    assert_eq!(engine.range("d".."b").unwrap().count(), 0);
    assert_eq!(engine.range((Excluded("b"), Excluded("b"))).unwrap().count(), 0);
    let end = prefix_end(b"b").unwrap();
    assert_eq!(keys(engine.range(b"b".to_vec()..end).unwrap()), keys(engine.prefix("b").unwrap()));
}

#[test]
fn first_and_last_keys() {
    let (_dir, engine) = of_letters("");
    assert_eq!(engine.first_key_value().unwrap(), None);
    assert_eq!(engine.last_key_value().unwrap(), None);
    let empty = engine.snapshot().unwrap();
    for key in ["m", "a", "z"] {
        engine.put(key, key.to_uppercase()).unwrap();
    }
    assert_eq!(engine.first_key_value().unwrap(), Some((b"a".to_vec(), "A".into())));
    assert_eq!(engine.last_key_value().unwrap(), Some((b"z".to_vec(), "Z".into())));
    engine.delete("a").unwrap();
    engine.delete("z").unwrap();
    assert_eq!(engine.first_key_value().unwrap(), engine.last_key_value().unwrap());
    assert_eq!(empty.first_key_value().unwrap(), None);
}

#[test]
fn a_cursor_need_not_be_a_key() {
    let (_dir, engine) = of_letters("abcde");
    let whole = || engine.range(..).unwrap();
    assert_eq!(keys(whole().after("b")), ["c", "d", "e"]);
    assert_eq!(keys(whole().after("bb")), ["c", "d", "e"]);
    assert_eq!(keys(whole().after("")), ["a", "b", "c", "d", "e"]);
    assert_eq!(keys(whole().after("e")), [""; 0]);
    assert_eq!(keys(whole().before("b")), ["a"]);
    assert_eq!(keys(whole().before("")), [""; 0]);
    assert_eq!(keys(whole().after("b").before("d")), ["c"]);
    assert_eq!(keys(whole().after("d").before("b")), [""; 0]);
    // A cursor outside the range does not widen it.
    assert_eq!(keys(engine.range("b".."d").unwrap().after("a")), ["b", "c"]);
    assert_eq!(keys(engine.range("b".."d").unwrap().before("z")), ["b", "c"]);
    assert_eq!(keys(engine.range("b".."d").unwrap().after("d")), [""; 0]);
}

#[test]
fn pages_give_every_key_once() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    for number in 0..250 {
        engine.put(format!("jobs/{number:03}"), "").unwrap();
    }
    engine.put("jobs", "").unwrap();
    engine.put("k", "").unwrap();
    let mut seen = Vec::new();
    loop {
        let mut page = engine.prefix("jobs/").unwrap();
        if let Some(cursor) = seen.last() {
            page = page.after(cursor);
        }
        let page = page.collect_pairs(17).unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|(key, _)| key));
    }
    assert_eq!(seen.len(), 250);
    assert!(seen.is_sorted());
}

fn assert_fused<I: FusedIterator + DoubleEndedIterator>(_: &I) {}

#[test]
fn a_range_that_has_ended_stays_so() {
    let (_dir, engine) = of_letters("ab");
    let mut range = engine.range(..).unwrap();
    assert_fused(&range);
    assert_eq!(range.by_ref().count(), 2);
    engine.put("c", "").unwrap();
    assert!((0..3).all(|_| range.next().is_none() && range.next_back().is_none()));
    range = range.after("a");
    assert!(range.next().is_none());
}

#[test]
fn entries_of_short_and_long_keys() {
    let dir = TempDir::new().unwrap();
    let engine = SingleNodeEngine::open(dir.path()).unwrap();
    let long = "k".repeat(65_520);
    let written = ["k", "k234567890123456789012", "k2345678901234567890123", long.as_str()];
    for key in written {
        engine.put(key, key).unwrap();
    }
    for (entry, key) in engine.iter().unwrap().zip(["k", written[1], written[2], written[3]]) {
        let entry = entry.unwrap();
        assert_eq!(entry.key(), key.as_bytes());
        assert_eq!(entry.clone().into_pair().unwrap(), (key.as_bytes().to_vec(), key.into()));
    }
}

/// A step of a caller on a range.
#[derive(Clone, Debug)]
enum Step {
    Next,
    NextBack,
    Visit(usize),
    After(u8),
    Before(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Next),
        3 => Just(Step::NextBack),
        1 => (0..6_usize).prop_map(Step::Visit),
        1 => any::<u8>().prop_map(Step::After),
        1 => any::<u8>().prop_map(Step::Before),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Cursors, steps from both ends and visits, in any order, compared with a list of keys.
    #[test]
    fn cursors_in_the_middle_of_a_walk(
        written in prop::collection::btree_set(any::<u8>(), 0..40),
        steps in prop::collection::vec(any_step(), 0..40),
    ) {
        let dir = TempDir::new().unwrap();
        let engine = SingleNodeEngine::open(dir.path()).unwrap();
        for key in &written {
            engine.put([*key], [*key]).unwrap();
        }
        let mut left: std::collections::VecDeque<u8> = written.into_iter().collect();
        let mut range = engine.range(..).unwrap();
        for step in steps {
            match step {
                Step::Next => prop_assert_eq!(range.next().map(|entry| entry.unwrap().key()[0]), left.pop_front()),
                Step::NextBack => prop_assert_eq!(range.next_back().map(|entry| entry.unwrap().key()[0]), left.pop_back()),
                Step::Visit(most) => {
                    let mut visited = Vec::new();
                    if most > 0 {
                        range.for_each_pair(|key, _| {
                            visited.push(key[0]);
                            if visited.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                        }).unwrap();
                    }
                    let expected: Vec<u8> = left.drain(..most.min(left.len())).collect();
                    prop_assert_eq!(visited, expected);
                }
                Step::After(cursor) => {
                    range = range.after([cursor]);
                    left.retain(|key| *key > cursor);
                }
                Step::Before(cursor) => {
                    range = range.before([cursor]);
                    left.retain(|key| *key < cursor);
                }
            }
        }
        let rest: Vec<u8> = range.map(|entry| entry.unwrap().key()[0]).collect();
        prop_assert_eq!(rest, Vec::from(left));
    }
}

/// The number of maps of segments in a directory with the advice of random access.
#[cfg(target_os = "linux")]
fn read_at_random(dir: &std::path::Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let (mut count, mut is_it) = (0, false);
    for line in maps.lines() {
        if let Some(flags) = line.strip_prefix("VmFlags:") {
            count += usize::from(is_it && flags.split_whitespace().any(|flag| flag == "rr"));
        } else if line.contains("-p ") || line.contains("--s ") || line.contains("w-s ") {
            is_it = line.contains(" r--s ") && line.contains(dir.to_str().unwrap()) && line.ends_with(".seg");
        }
    }
    count
}

/// A store with segments of `len_bytes` and a value of 1,000 bytes under each key, open for reading
/// only: none of its threads maps or unmaps a segment between two counts.
#[cfg(target_os = "linux")]
fn read_only_store(len_bytes: u64, keys: impl Iterator<Item = u32>) -> (TempDir, SingleNodeEngine) {
    let dir = TempDir::new().unwrap();
    let config = StoreConfig::at(dir.path()).with_max_segment_size(len_bytes).with_min_segment_size(len_bytes);
    let engine = SingleNodeEngine::with_config(config).unwrap();
    for key in keys {
        engine.put(key.to_be_bytes(), [1; 1000]).unwrap();
    }
    engine.close().unwrap();
    let engine = SingleNodeEngine::open_read_only(dir.path()).unwrap();
    (dir, engine)
}

/// The system reads ahead for a long scan while the scan lives.
#[test]
#[cfg(target_os = "linux")]
fn a_long_scan_has_the_system_read_ahead_until_it_is_dropped() {
    let (dir, engine) = read_only_store(16 << 20, 0..2500);
    let dir = dir.path().canonicalize().unwrap();
    let whole = read_at_random(&dir);
    assert!(whole > 0);
    let mut scan = engine.range(..).unwrap();
    let visit = |scan: &mut Range, mut left: usize| {
        scan.for_each_pair(|_, _| {
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    };
    visit(&mut scan, 300);
    assert_eq!(read_at_random(&dir), whole, "it may end soon");
    visit(&mut scan, 1700);
    assert_eq!(read_at_random(&dir), whole - 1);
    drop(scan);
    assert_eq!(read_at_random(&dir), whole);
    let mut entries = engine.iter().unwrap();
    assert_eq!(entries.by_ref().take(2400).count(), 2400);
    assert_eq!(read_at_random(&dir), whole - 1, "the same for an iterator");
}

/// The number of segments in which the system reads ahead for `scan`, after `records` more records.
#[cfg(target_os = "linux")]
fn read_ahead_after(scan: &mut Range, mut records: usize, dir: &std::path::Path, whole: usize) -> usize {
    scan.for_each_pair(|_, _| {
        records -= 1;
        if records == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    whole - read_at_random(dir)
}

/// Segments that the scan has finished do not count towards the limit.
#[test]
#[cfg(target_os = "linux")]
fn a_scan_through_many_segments_has_the_system_read_ahead_in_each() {
    let (dir, engine) = read_only_store(2 << 20, 0..16_000);
    let dir = dir.path().canonicalize().unwrap();
    let whole = read_at_random(&dir);
    let mut scan = engine.range(..).unwrap();
    let in_order = [500; 31].map(|records| read_ahead_after(&mut scan, records, &dir, whole));
    // There is no read-ahead at the beginning and at the end of a segment.
    assert!(in_order.iter().all(|count| *count <= 1), "{in_order:?}");
    assert!(in_order.iter().sum::<usize>() > 15, "{in_order:?}");
}

/// The system's read-ahead may be many megabytes per segment, so a scan that alternates between
/// more than four segments uses windows instead.
#[test]
#[cfg(target_os = "linux")]
fn a_scan_of_many_segments_in_turn_has_the_system_read_ahead_in_few() {
    let (dir, engine) = read_only_store(2 << 20, (0..8).flat_map(|run| (0..2000).map(move |key| key * 8 + run)));
    let dir = dir.path().canonicalize().unwrap();
    let whole = read_at_random(&dir);
    let mut scan = engine.range(..).unwrap();
    assert_eq!(read_ahead_after(&mut scan, 8 * 1000, &dir, whole), 4);
}
