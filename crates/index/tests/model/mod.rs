//! The model check: the same operations on a map and a `BTreeMap`, which must agree after each.
//!
//! Bytes decide the operations, so that property tests, long random runs and a fuzzer use the same
//! function: [`check_bytes`] accepts any bytes.

// Each test binary, and the fuzzer, uses a part of this.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::Bound;

use hightower_index::{Cursor, HINT_BITS, KeyHasher, Map, SeededHasher, Writer, pin, with_hasher_and_hints};

/// A hasher that keeps only the bits of `mask`, so that tags, directory indices or whole hashes
/// collide.
pub struct MaskedHasher {
    pub inner: SeededHasher,
    pub mask: u64,
}

impl KeyHasher for MaskedHasher {
    fn hash(&self, key: &[u8]) -> u64 {
        self.inner.hash(key) & self.mask
    }
}

/// All bits; no tag; no position in the bucket; no directory index; no bits.
pub const MASKS: [u64; 5] = [u64::MAX, !0xff, !0xffff_ffff, 0x0000_ffff_ffff_ffff, 0];

/// A hint that depends on all bits of a value.
#[allow(clippy::cast_possible_truncation, reason = "the upper half is meant")]
fn hint_of(value: &u64) -> u32 {
    (value.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// One step of a history.
#[derive(Clone, Debug)]
pub enum Operation {
    Insert(Vec<u8>, u64),
    GetOrInsert(Vec<u8>, u64),
    Remove(Vec<u8>),
    Get(Vec<u8>),
    Range(Vec<u8>, Vec<u8>, u8),
    Prefix(Vec<u8>),
    Reclaim,
}

/// A map and its model.
pub struct Pair {
    pub writer: Writer<u64, MaskedHasher>,
    pub map: Map<u64, MaskedHasher>,
    pub model: BTreeMap<Vec<u8>, u64>,
}

impl Pair {
    pub fn new(mask: u64) -> Self {
        let (writer, map) = with_hasher_and_hints(MaskedHasher { inner: SeededHasher::new(7), mask }, hint_of);
        Self { writer, map, model: BTreeMap::new() }
    }

    /// Applies `operation` to both, and compares the results.
    pub fn step(&mut self, operation: &Operation) {
        match operation {
            Operation::Insert(key, value) => {
                assert_eq!(self.writer.insert(key, *value), self.model.insert(key.clone(), *value).is_some());
            }
            Operation::GetOrInsert(key, value) => {
                let found = self.model.get(key).copied();
                let (now, made) = if value % 2 == 0 {
                    self.writer.upsert(key, &self.map, &pin(), || *value, |entry, made| (*entry.value(), made))
                } else {
                    let (now, made) = self.writer.get_or_insert_with(key, || *value);
                    (*now, made)
                };
                assert_eq!((now, made), (found.unwrap_or(*value), found.is_none()));
                self.model.insert(key.clone(), found.unwrap_or(*value));
            }
            Operation::Remove(key) => assert_eq!(self.writer.remove(key), self.model.remove(key).is_some()),
            Operation::Get(key) => {
                assert_eq!(self.map.get(key, &pin()), self.model.get(key));
                assert_eq!(self.writer.get(key), self.model.get(key));
                self.compare_hint(key);
            }
            Operation::Range(low, high, mode) => self.compare_range(low, high, *mode),
            Operation::Prefix(prefix) => self.compare_prefix(prefix),
            Operation::Reclaim => drop(self.writer.reclaim()),
        }
        assert_eq!(self.map.len(), self.model.len());
    }

    /// The last hint of a lookup of a present key is that of the key.
    fn compare_hint(&self, key: &[u8]) {
        let (guard, mut told) = (pin(), None);
        let found = self.map.get_hinted(key, &guard, |hint| told = Some(hint));
        assert_eq!(found, self.model.get(key));
        if let Some(value) = found {
            assert_eq!(told, Some(hint_of(value) & ((1 << HINT_BITS) - 1)));
        }
    }

    /// Compares a range with steps from both ends: bit `i` of `mode` selects the end of step `i`;
    /// its low bits also select the bounds.
    fn compare_range(&self, low: &[u8], high: &[u8], mode: u8) {
        let (low, high) = if low <= high { (low, high) } else { (high, low) };
        let lower = bound(low, mode);
        let upper = bound(high, mode / 3);
        if low == high && matches!((lower, upper), (Bound::Excluded(_), Bound::Excluded(_))) {
            return; // the model panics on these; the map returns an empty range
        }
        let guard = pin();
        let mut range = self.map.range(lower, upper, &guard);
        let mut expected = self.model.range::<[u8], _>((lower, upper));
        for turn in 0.. {
            let from_front = mode == 0 || (mode != 1 && mode.rotate_left(turn % 8) & 1 == 0);
            let (found, wanted) =
                if from_front { (range.next(), expected.next()) } else { (range.next_back(), expected.next_back()) };
            assert_eq!(
                found.map(|entry| (entry.key(), entry.value())),
                wanted.map(|(key, value)| (key.as_slice(), value))
            );
            if wanted.is_none() {
                break;
            }
        }
        assert!(range.next().is_none() && range.next_back().is_none());
    }

    fn compare_prefix(&self, prefix: &[u8]) {
        let guard = pin();
        let found = self.map.prefix(prefix, &guard).map(|entry| (entry.key(), entry.value()));
        let expected = self
            .model
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        assert!(found.eq(expected.map(|(key, value)| (key.as_slice(), value))));
    }

    /// Applies the operations in `bytes`, as [`check_bytes`] does.
    pub fn follow(&mut self, bytes: &[u8]) {
        let mut bytes = bytes.iter().copied();
        while let Some(code) = bytes.next() {
            self.step(&operation(code, &mut bytes));
        }
    }

    /// Compares everything: every lookup, scans in both directions, whole and by cursor, and
    /// grouped lookups.
    pub fn compare_all(&self) {
        let guard = pin();
        let all = || self.model.iter().map(|(key, value)| (key.as_slice(), value));
        assert!(self.map.iter(&guard).map(|entry| (entry.key(), entry.value())).eq(all()));
        assert!(self.map.iter(&guard).rev().map(|entry| (entry.key(), entry.value())).eq(all().rev()));
        let keys: Vec<&[u8]> = self.model.keys().map(Vec::as_slice).collect();
        let mut expected = self.model.values();
        self.map.get_many(&keys, &guard, |at, entry| {
            assert_eq!(entry.map(|entry| (entry.key(), entry.value())), Some((keys[at], expected.next().unwrap())));
        });
        assert!(expected.next().is_none());
        keys.iter().for_each(|key| self.compare_hint(key));
        self.compare_by_cursor();
    }

    fn compare_by_cursor(&self) {
        let mut cursor = Cursor::prefix(b"");
        let mut expected = self.model.iter();
        loop {
            let guard = pin();
            let mut taken = 0;
            for entry in cursor.resume(&self.map, &guard).take(7) {
                assert_eq!(
                    (entry.key(), entry.value()),
                    expected.next().map(|(key, value)| (key.as_slice(), value)).unwrap()
                );
                cursor.advance_past(entry.key());
                taken += 1;
            }
            if taken == 0 {
                break;
            }
        }
        assert!(expected.next().is_none());
    }

    /// Removes everything and checks that the memory is freed.
    pub fn empty(mut self, empty_bytes: usize) {
        for (key, _) in std::mem::take(&mut self.model) {
            assert!(self.writer.remove(&key));
        }
        assert_eq!((self.map.len(), self.map.iter(&pin()).count()), (0, 0));
        // Guards of other tests in this process may delay this while their threads wait for a
        // processor.
        for _ in 0..20_000 {
            if self.writer.reclaim() == 0 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        // The rest is the smallest table, in chunks of a separate size class.
        assert!(
            self.map.memory_bytes() <= empty_bytes + 4 * 32 * 1024,
            "{} bytes left, {empty_bytes} at first",
            self.map.memory_bytes()
        );
    }
}

fn bound(key: &[u8], mode: u8) -> Bound<&[u8]> {
    match mode % 3 {
        0 => Bound::Included(key),
        1 => Bound::Excluded(key),
        _ => Bound::Unbounded,
    }
}

/// Decodes a history from any bytes and checks it: the whole fuzz target.
pub fn check_bytes(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let mask = MASKS[usize::from(bytes.next().unwrap_or(0)) % MASKS.len()];
    let mut pair = Pair::new(mask);
    while let Some(code) = bytes.next() {
        pair.step(&operation(code, &mut bytes));
    }
    pair.compare_all();
}

fn operation(code: u8, bytes: &mut impl Iterator<Item = u8>) -> Operation {
    let value = u64::from(code) << 8 | u64::from(bytes.next().unwrap_or(0));
    match code % 16 {
        0..=5 => Operation::Insert(key(bytes), value),
        6 | 7 => Operation::GetOrInsert(key(bytes), value),
        8..=11 => Operation::Remove(key(bytes)),
        12 => Operation::Get(key(bytes)),
        13 => Operation::Range(key(bytes), key(bytes), code.rotate_left(3) ^ u8::try_from(value & 0xff).unwrap_or(0)),
        14 => Operation::Prefix(key(bytes)),
        _ => Operation::Reclaim,
    }
}

/// A key of a few shapes: short and dense, a prefix of others, or long.
pub fn key(bytes: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let shape = bytes.next().unwrap_or(0);
    let mut next = || bytes.next().unwrap_or(0);
    match shape % 8 {
        0 => vec![next()],
        1 => vec![next() % 4, next()],
        2 => vec![next() % 2, next() % 2, next() % 8, next()],
        3 => vec![b'a'; usize::from(next()) % 24],
        4 => [vec![b'a'; usize::from(next()) % 24], vec![next() % 4]].concat(),
        5 => [b"/registry/pods/".to_vec(), vec![b'0' + next() % 3, b'/', next()]].concat(),
        6 => (0..next() % 8).map(|_| [0, 1, 254, 255][usize::from(next()) % 4]).collect(),
        _ => [vec![next() % 2; 300], vec![next() % 3; usize::from(next()) % 5]].concat(),
    }
}
