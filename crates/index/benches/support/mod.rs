//! The subjects of the benchmarks: keys of three shapes, and four maps behind one trait, with the
//! same work.
//!
//! Keys are in one block in the order of their use, so that fetching the next key has the same low
//! cost for every map.

// Each user takes its own part.
#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam_skiplist::SkipMap;
use hashbrown::{DefaultHashBuilder, HashTable};
use hightower_index::{Map, Writer, pin};

/// A small generator, so that runs repeat (xorshift64*, Vigna 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, (self.next() % (at as u64 + 1)) as usize);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    Decimal,
    Random,
    Path,
}

pub const SHAPES: [Shape; 3] = [Shape::Decimal, Shape::Random, Shape::Path];

impl Shape {
    pub fn name(self) -> &'static str {
        match self {
            Self::Decimal => "decimal",
            Self::Random => "random16",
            Self::Path => "path",
        }
    }

    fn key(self, number: u64) -> Vec<u8> {
        let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        match self {
            Self::Decimal => format!("{number:016}").into_bytes(),
            Self::Random => [random.next().to_be_bytes(), (random.next() ^ number).to_be_bytes()].concat(),
            Self::Path => format!("/registry/pods/ns-{:03}/app-{:04x}-{number:08x}", number % 200, number / 200 % 1000)
                .into_bytes(),
        }
    }
}

/// Keys in one block.
pub struct Keys {
    bytes: Vec<u8>,
    len_bytes: usize,
}

impl Keys {
    /// The keys numbered from `first`, shuffled by `seed`.
    pub fn new(shape: Shape, first: u64, count: usize, seed: u64) -> Self {
        let mut numbers: Vec<u64> = (first..first + count as u64).collect();
        Random(seed).shuffle(&mut numbers);
        let len_bytes = shape.key(first).len();
        let mut bytes = Vec::with_capacity(count * len_bytes);
        numbers.iter().for_each(|number| bytes.extend_from_slice(&shape.key(*number)));
        Self { bytes, len_bytes }
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.bytes.chunks_exact(self.len_bytes)
    }

    pub fn get(&self, at: usize) -> &[u8] {
        &self.bytes[at * self.len_bytes..][..self.len_bytes]
    }

    pub fn len(&self) -> usize {
        self.bytes.len() / self.len_bytes
    }
}

/// Forty bytes, as a versioned store keeps them per key.
#[derive(Default)]
pub struct Entry {
    pub words: [AtomicU64; 5],
}

impl Entry {
    pub fn new(value: u64) -> Self {
        let entry = Self::default();
        entry.set(value);
        entry
    }

    pub fn set(&self, value: u64) {
        self.words.iter().take(3).for_each(|word| word.store(value, Relaxed));
    }

    pub fn read(&self) -> u64 {
        self.words[0].load(Relaxed)
    }
}

/// A map under test.
pub trait Subject {
    const NAME: &'static str;
    const ORDERED: bool = true;
    fn empty() -> Self;
    fn insert(&mut self, key: &[u8], value: u64);
    fn get(&self, key: &[u8]) -> Option<u64>;
    fn overwrite(&mut self, key: &[u8], value: u64);
    /// The sum over all entries in key order, keys read too.
    fn scan(&self) -> u64;
}

fn touch(key: &[u8], entry: &Entry) -> u64 {
    entry.read().wrapping_add(u64::from(key[key.len() - 1]))
}

pub struct Hightower {
    pub writer: Writer<Entry>,
    pub map: Map<Entry>,
}

impl Subject for Hightower {
    const NAME: &'static str = "hightower-index";

    fn empty() -> Self {
        let (writer, map) = hightower_index::new();
        Self { writer, map }
    }

    fn insert(&mut self, key: &[u8], value: u64) {
        self.writer.get_or_insert_with(key, || Entry::new(value));
    }

    fn get(&self, key: &[u8]) -> Option<u64> {
        self.map.get(key, &pin()).map(Entry::read)
    }

    fn overwrite(&mut self, key: &[u8], value: u64) {
        self.writer.get(key).unwrap().set(value);
    }

    fn scan(&self) -> u64 {
        self.map.iter(&pin()).fold(0, |sum, entry| sum.wrapping_add(touch(entry.key(), entry.value())))
    }
}

const SHARDS: usize = 64;

type Shard = RwLock<HashTable<(Box<[u8]>, Entry)>>;

/// The map to beat for lookups: shards of a hash table, each under a lock, keys boxed.
pub struct Sharded {
    shards: Vec<Shard>,
    hasher: DefaultHashBuilder,
}

impl Sharded {
    fn shard(&self, key: &[u8]) -> (usize, u64) {
        let hash = self.hasher.hash_one(key);
        ((hash >> 50) as usize % SHARDS, hash)
    }
}

impl Subject for Sharded {
    const NAME: &'static str = "sharded hashbrown";
    const ORDERED: bool = false;

    fn empty() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::new(HashTable::new())).collect();
        Self { shards, hasher: DefaultHashBuilder::default() }
    }

    fn insert(&mut self, key: &[u8], value: u64) {
        let (shard, hash) = self.shard(key);
        let mut shard = self.shards[shard].write().unwrap();
        let hasher = |(key, _): &(Box<[u8]>, Entry)| self.hasher.hash_one(&**key);
        shard.entry(hash, |(each, _)| &**each == key, hasher).or_insert_with(|| (key.into(), Entry::new(value)));
    }

    fn get(&self, key: &[u8]) -> Option<u64> {
        let (shard, hash) = self.shard(key);
        self.shards[shard].read().unwrap().find(hash, |(each, _)| &**each == key).map(|(_, entry)| entry.read())
    }

    fn overwrite(&mut self, key: &[u8], value: u64) {
        let (shard, hash) = self.shard(key);
        self.shards[shard].write().unwrap().find(hash, |(each, _)| &**each == key).unwrap().1.set(value);
    }

    fn scan(&self) -> u64 {
        0
    }
}

pub struct Skip(SkipMap<Box<[u8]>, Entry>);

impl Subject for Skip {
    const NAME: &'static str = "crossbeam-skiplist";

    fn empty() -> Self {
        Self(SkipMap::new())
    }

    fn insert(&mut self, key: &[u8], value: u64) {
        self.0.get_or_insert_with(key.into(), || Entry::new(value));
    }

    fn get(&self, key: &[u8]) -> Option<u64> {
        self.0.get(key).map(|entry| entry.value().read())
    }

    fn overwrite(&mut self, key: &[u8], value: u64) {
        self.0.get(key).unwrap().value().set(value);
    }

    fn scan(&self) -> u64 {
        self.0.iter().fold(0, |sum, entry| sum.wrapping_add(touch(entry.key(), entry.value())))
    }
}

pub struct Tree(RwLock<BTreeMap<Box<[u8]>, Entry>>);

impl Subject for Tree {
    const NAME: &'static str = "RwLock<BTreeMap>";

    fn empty() -> Self {
        Self(RwLock::new(BTreeMap::new()))
    }

    fn insert(&mut self, key: &[u8], value: u64) {
        self.0.write().unwrap().entry(key.into()).or_insert_with(|| Entry::new(value));
    }

    fn get(&self, key: &[u8]) -> Option<u64> {
        self.0.read().unwrap().get(key).map(Entry::read)
    }

    fn overwrite(&mut self, key: &[u8], value: u64) {
        self.0.write().unwrap().get(key).unwrap().set(value);
    }

    fn scan(&self) -> u64 {
        self.0.read().unwrap().iter().fold(0, |sum, (key, entry)| sum.wrapping_add(touch(key, entry)))
    }
}
