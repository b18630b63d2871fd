//! Histories compared with a `BTreeMap`: random ones, and ones that visit every form of a node.
//!
//! `HIGHTOWER_TEST_CASES=N` runs N random operations in the long test (default 20 000).

mod model;

use model::{MASKS, Operation, Pair, check_bytes};
use proptest::prelude::*;

/// A small generator, so that runs repeat (xorshift64*, Vigna 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self) -> impl Iterator<Item = u8> {
        std::iter::repeat_with(|| (self.next() >> 56) as u8)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn any_history_agrees(bytes in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 200 } else { 4_000 })) {
        check_bytes(&bytes);
    }
}

#[test]
fn long_histories_agree() {
    let operations = std::env::var("HIGHTOWER_TEST_CASES").ok().and_then(|cases| cases.parse().ok());
    let operations: u64 = operations.unwrap_or(if cfg!(miri) { 300 } else { 20_000 });
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for mask in MASKS {
        let mut pair = Pair::new(mask);
        let empty_bytes = pair.map.memory_bytes();
        for step in 0..operations / MASKS.len() as u64 {
            // Phases of growth and of shrinking, so that nodes and buckets have all sizes.
            let growing = (step / 4096).is_multiple_of(2);
            let key = model::key(&mut random.bytes());
            let other = model::key(&mut random.bytes());
            let mode = random.bytes().next().unwrap_or(0);
            pair.step(&match random.below(32) {
                0..14 => {
                    if growing {
                        Operation::Insert(key, step)
                    } else {
                        Operation::Remove(key)
                    }
                }
                14..20 => Operation::GetOrInsert(key, step),
                20..25 => Operation::Remove(key),
                25..30 => Operation::Get(key),
                30 if step % 64 == 0 => Operation::Range(key, other, mode),
                31 if step % 64 == 0 => Operation::Prefix(key),
                _ => Operation::Get(key),
            });
        }
        pair.compare_all();
        pair.empty(empty_bytes);
    }
}

#[test]
fn every_node_grows_and_shrinks() {
    for prefix in [&b""[..], b"p", &[7; 40]] {
        let mut pair = Pair::new(u64::MAX);
        let key = |byte: u8| [prefix, &[byte.wrapping_mul(89)]].concat();
        let key_below = |byte: u8| [prefix, &[byte.wrapping_mul(89), 1, 2]].concat();
        pair.step(&Operation::Insert(prefix.to_vec(), 1));
        for byte in 0..=255 {
            pair.step(&Operation::Insert(key(byte), u64::from(byte)));
            pair.step(&Operation::Insert(key_below(byte), u64::from(byte)));
            if !cfg!(miri) || byte % 31 == 0 {
                pair.compare_all();
            }
        }
        for byte in 0..=255_u8 {
            pair.step(&Operation::Remove(key(byte.wrapping_mul(13))));
            if !cfg!(miri) || byte % 31 == 0 {
                pair.compare_all();
            }
            pair.step(&Operation::Remove(key_below(byte.wrapping_mul(13))));
        }
        pair.step(&Operation::Remove(prefix.to_vec()));
        pair.compare_all();
    }
}

#[test]
fn long_keys_that_are_prefixes_of_each_other() {
    let len_bytes = if cfg!(miri) { 200 } else { 65_536 };
    let mut pair = Pair::new(u64::MAX);
    let empty_bytes = pair.map.memory_bytes();
    let longest = vec![b'x'; len_bytes];
    let step = if cfg!(miri) { 11 } else { 97 };
    for len in (0..=len_bytes).step_by(step) {
        pair.step(&Operation::Insert(longest[..len].to_vec(), len as u64));
    }
    let mut other = longest.clone();
    other[len_bytes / 2] = b'y';
    pair.step(&Operation::Insert(longest.clone(), 1));
    pair.step(&Operation::Insert(other, 2));
    pair.compare_all();
    pair.step(&Operation::Range(longest[..len_bytes / 3].to_vec(), longest, 0));
    pair.empty(empty_bytes);
}

#[test]
fn a_chain_of_every_length_neither_recurses_nor_leaks() {
    let len_bytes = if cfg!(miri) { 60 } else { 4_000 };
    let mut pair = Pair::new(u64::MAX);
    let empty_bytes = pair.map.memory_bytes();
    for len in 0..len_bytes {
        pair.step(&Operation::Insert(vec![0; len], len as u64));
    }
    pair.compare_all();
    pair.empty(empty_bytes);
}

/// Hashes with a common prefix defeat splitting, so buckets grow. Their empty siblings from splits
/// must be freed when the map is emptied.
#[test]
fn hashes_that_begin_alike_leave_nothing_behind() {
    let keys: u32 = if cfg!(miri) { 1_200 } else { 20_000 };
    for mask in [MASKS[3], 0x00ff_ffff_ffff_ffff, 0x8000_ffff_ffff_ffff] {
        let mut pair = Pair::new(mask);
        let empty_bytes = pair.map.memory_bytes();
        for key in 0..keys {
            pair.step(&Operation::Insert(key.to_be_bytes().to_vec(), u64::from(key)));
        }
        pair.empty(empty_bytes);
    }
}

#[test]
fn crossed_bounds_are_empty() {
    use std::ops::Bound::{Excluded, Included};
    let mut pair = Pair::new(u64::MAX);
    for key in [b"a", b"b", b"c"] {
        pair.step(&Operation::Insert(key.to_vec(), 0));
    }
    let guard = hightower_index::pin();
    for (lower, upper) in
        [(Excluded(&b"b"[..]), Excluded(&b"b"[..])), (Included(b"c"), Included(b"a")), (Excluded(b"b"), Included(b"b"))]
    {
        assert!(pair.map.range(lower, upper, &guard).next().is_none());
        assert!(pair.map.range(lower, upper, &guard).next_back().is_none());
    }
}
