//! Random insertions, removals and scans of the index, compared with a `BTreeMap`.
#![no_main]

use std::collections::BTreeMap;
use std::ops::Bound;

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    Insert(Vec<u8>, u32),
    Remove(Vec<u8>),
    Get(Vec<u8>),
    Prefix(Vec<u8>),
    Range(Vec<u8>, Vec<u8>),
}

fuzz_target!(|input: (u64, Vec<Step>)| {
    let (seed, steps) = input;
    let (mut writer, map) = hightower_index::with_hasher_seed::<u32>(seed);
    let mut model = BTreeMap::new();
    for step in steps {
        let guard = hightower_index::pin();
        match step {
            Step::Insert(key, value) => assert_eq!(writer.insert(&key, value), model.insert(key, value).is_some()),
            Step::Remove(key) => assert_eq!(writer.remove(&key), model.remove(&key).is_some()),
            Step::Get(key) => assert_eq!(map.get(&key, &guard), model.get(&key)),
            Step::Prefix(prefix) => {
                let found = map.prefix(&prefix, &guard).map(|entry| (entry.key().to_vec(), *entry.value()));
                let expected = model.iter().filter(|(key, _)| key.starts_with(&prefix));
                assert!(found.eq(expected.map(|(key, value)| (key.clone(), *value))));
            }
            Step::Range(from, to) => {
                let bounds = (Bound::Included(&from[..]), Bound::Excluded(&to[..]));
                let found = map.range(bounds.0, bounds.1, &guard).rev().map(|entry| entry.key().to_vec());
                let expected = model.iter().rev().filter(|(key, _)| **key >= from && **key < to);
                assert!(found.eq(expected.map(|(key, _)| key.clone())));
            }
        }
    }
    assert_eq!(map.len(), model.len());
});
