//! Keys and values: the same for every store, and derived from numbers, so that every answer can be
//! checked without stored data.
//!
//! A key is 16 bytes long: 11 hexadecimal digits that scatter groups of 1,000 keys over the key
//! space, then the place in the group as `/dd/d`. So a prefix of 12 bytes holds 1,000 keys and a
//! prefix of 15 bytes holds 10.
//!
//! A value starts with its key and a generation, and continues with words derived from both: a
//! wrong, torn or mixed-up value fails [`Values::check`], and compression gains nothing.

use anyhow::{Result, bail, ensure};

/// Length of a key, in bytes.
pub(crate) const KEY_LEN_BYTES: usize = 16;
/// Number of keys with the same first [`GROUP_PREFIX_LEN_BYTES`] bytes.
pub(crate) const GROUP_KEYS: u64 = 1000;
/// Length of the common prefix of 1,000 keys, in bytes.
pub(crate) const GROUP_PREFIX_LEN_BYTES: usize = 12;
/// Length of the common prefix of 10 keys, in bytes.
pub(crate) const TEN_PREFIX_LEN_BYTES: usize = 15;
/// Values up to this length have distinct words; the middle of longer ones repeats, so that
/// creating them costs little.
const FRESH_LEN_BYTES: usize = 512;
/// Length of key and generation at the start of every value.
const HEAD_LEN_BYTES: usize = KEY_LEN_BYTES + 8;

/// A key.
pub(crate) type Key = [u8; KEY_LEN_BYTES];

/// Permutes the 64-bit numbers (the finalizer of SplitMix64, Steele, Lea and Flood 2014).
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The key with number `index`.
pub(crate) fn key(index: u64) -> Key {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut key = *b"00000000000/00/0";
    let group = mix(index / GROUP_KEYS);
    for (place, byte) in key.iter_mut().take(11).enumerate() {
        *byte = HEX[((group >> (60 - 4 * place)) & 15) as usize];
    }
    let place = index % GROUP_KEYS;
    key[12] = HEX[(place / 100) as usize];
    key[13] = HEX[(place / 10 % 10) as usize];
    key[15] = HEX[(place % 10) as usize];
    key
}

/// An absent key, between two present ones.
pub(crate) fn absent_key(index: u64) -> Key {
    let mut key = key(index);
    key[15] = key[15] - b'0' + b'a';
    key
}

/// The numbers of the keys below `count` in the order of the keys' bytes.
pub(crate) fn sorted_indexes(count: u64) -> impl Iterator<Item = u64> {
    let mut groups: Vec<u64> = (0..count.div_ceil(GROUP_KEYS)).collect();
    groups.sort_unstable_by_key(|&group| mix(group));
    groups.into_iter().flat_map(move |group| group * GROUP_KEYS..((group + 1) * GROUP_KEYS).min(count))
}

/// A sequence of random numbers (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    /// A sequence that depends only on `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        Self(mix(seed))
    }

    /// The next 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A permutation of the numbers below `count`: a Feistel network over the next even number of bits,
/// repeated until the result is below `count`.
#[derive(Clone, Copy)]
pub(crate) struct Permutation {
    count: u64,
    half_bits: u32,
    seed: u64,
}

impl Permutation {
    /// A permutation that depends only on `count` and `seed`.
    pub(crate) fn new(count: u64, seed: u64) -> Self {
        let bits = 64 - count.max(2).saturating_sub(1).leading_zeros();
        Self { count, half_bits: bits.div_ceil(2), seed }
    }

    /// The image of `index`.
    pub(crate) fn at(&self, index: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let mut x = index;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for round in 0..4 {
                (left, right) = (right, left ^ (mix(right ^ self.seed.rotate_left(round * 16)) & mask));
            }
            x = (left << self.half_bits) | right;
            if x < self.count {
                return x;
            }
        }
    }
}

/// Zipfian ranks with the constant of YCSB, 0.99 (Gray and others, "Quickly Generating
/// Billion-Record Synthetic Databases", 1994).
pub(crate) struct Zipfian {
    count: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
}

impl Zipfian {
    const THETA: f64 = 0.99;

    /// Ranks below `count`.
    pub(crate) fn new(count: u64) -> Self {
        let zeta: f64 = (1..=count).map(|rank| (rank as f64).powf(-Self::THETA)).sum();
        let zeta_two = 1.0 + 0.5f64.powf(Self::THETA);
        let count = count as f64;
        let eta = (1.0 - (2.0 / count).powf(1.0 - Self::THETA)) / (1.0 - zeta_two / zeta);
        Self { count, alpha: 1.0 / (1.0 - Self::THETA), zeta, eta }
    }

    /// The next rank; 0 is the most frequent.
    pub(crate) fn rank(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5f64.powf(Self::THETA) {
            return 1;
        }
        let rank = self.count * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.count as u64 - 1)
    }
}

/// Creates and checks values of one length.
pub(crate) struct Values {
    buffer: Vec<u8>,
}

impl Values {
    /// Values of `len_bytes` (at least 32).
    pub(crate) fn new(len_bytes: usize) -> Self {
        let mut random = Random::new(len_bytes as u64);
        Self { buffer: (0..len_bytes.max(32)).map(|_| random.next().to_le_bytes()[0]).collect() }
    }

    /// The value of `key` in its `generation`.
    pub(crate) fn make(&mut self, key: &Key, generation: u64) -> &[u8] {
        let seed = seed_of(key, generation);
        let len = self.buffer.len();
        let fresh = len.min(FRESH_LEN_BYTES);
        self.buffer[..KEY_LEN_BYTES].copy_from_slice(key);
        self.buffer[KEY_LEN_BYTES..HEAD_LEN_BYTES].copy_from_slice(&generation.to_le_bytes());
        for (place, word) in self.buffer[HEAD_LEN_BYTES..fresh].chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&mix(seed.wrapping_add(place as u64)).to_le_bytes());
        }
        self.buffer[len - 8..].copy_from_slice(&mix(!seed).to_le_bytes());
        &self.buffer
    }

    /// Checks that `value` is a result of [`make`](Self::make) for `key`: its length, its first 24
    /// and its last 8 bytes.
    pub(crate) fn check(&self, key: &Key, value: &[u8]) -> Result<()> {
        ensure!(value.len() == self.buffer.len(), "a value of {} bytes instead of {}", value.len(), self.buffer.len());
        let (Some((found, rest)), Some(last)) = (value.split_first_chunk(), value.last_chunk()) else {
            bail!("a value of {} bytes", value.len());
        };
        ensure!(words(found) == words(key), "the value of another key");
        let generation = rest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let seed = seed_of(key, generation);
        ensure!(u64::from_le_bytes(*last) == mix(!seed), "a torn value");
        Ok(())
    }
}

/// A key as two numbers.
pub(crate) fn words(key: &Key) -> [u64; 2] {
    let whole = u128::from_le_bytes(*key);
    [whole as u64, (whole >> 64) as u64]
}

fn seed_of(key: &Key, generation: u64) -> u64 {
    let [low, high] = words(key);
    low ^ high.rotate_left(21) ^ generation.rotate_left(42)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permutation_hits_every_number_once() {
        for count in [1, 2, 3, 1000, 4097] {
            let permutation = Permutation::new(count, 7);
            let mut all: Vec<u64> = (0..count).map(|index| permutation.at(index)).collect();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn keys_are_distinct_and_sorted_indexes_sort_them() {
        let keys: Vec<Key> = sorted_indexes(25_500).map(key).collect();
        assert_eq!(keys.len(), 25_500);
        assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(keys.binary_search(&absent_key(77)).is_err());
    }

    #[test]
    fn prefixes_hold_ten_and_a_thousand_keys() {
        let keys: Vec<Key> = (0..10_000).map(key).collect();
        let sharing = |len: usize| keys.iter().filter(|other| other[..len] == keys[4321][..len]).count();
        assert_eq!(sharing(GROUP_PREFIX_LEN_BYTES), 1000);
        assert_eq!(sharing(TEN_PREFIX_LEN_BYTES), 10);
    }

    #[test]
    fn a_value_passes_for_its_key_alone_and_whole() {
        for len in [64, 100, 512, 4096] {
            let mut values = Values::new(len);
            let mut value = values.make(&key(5), 9).to_vec();
            assert!(values.check(&key(5), &value).is_ok());
            assert!(values.check(&key(6), &value).is_err());
            assert!(values.check(&key(5), &value[..len - 1]).is_err());
            value[len - 1] ^= 1;
            assert!(values.check(&key(5), &value).is_err());
        }
    }

    #[test]
    fn low_ranks_are_the_frequent_ones() {
        let (zipfian, mut random) = (Zipfian::new(1000), Random::new(1));
        let mut counts = vec![0u32; 1000];
        for _ in 0..100_000 {
            counts[zipfian.rank(&mut random) as usize] += 1;
        }
        assert!(counts[0] > 10_000 && counts[0] > counts[1] && counts[1] > counts[50]);
    }
}
