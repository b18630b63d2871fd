//! Counters for readers. Only the writer changes them.

use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::version::Word;

/// The counts of a memtable's keys.
#[derive(Debug, Default)]
pub(crate) struct KeyCounts {
    live_keys: AtomicUsize,
    tombstones: AtomicUsize,
}

/// The highest version that was ever applied.
#[derive(Debug, Default)]
pub(crate) struct MaxVersion(AtomicU64);

/// The changes of the counters by a commit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delta {
    live_keys: isize,
    tombstones: isize,
    pub(crate) max_version: u64,
}

impl Delta {
    pub(crate) fn add(&mut self, word: Word, version: u64) {
        self.count(word, 1);
        self.max_version = self.max_version.max(version);
    }

    pub(crate) fn remove(&mut self, word: Word) {
        self.count(word, -1);
    }

    /// Adds the counts of another delta.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.live_keys += other.live_keys;
        self.tombstones += other.tombstones;
        self.max_version = self.max_version.max(other.max_version);
    }

    fn count(&mut self, word: Word, by: isize) {
        if word.is_tombstone() {
            self.tombstones += by;
        } else {
            self.live_keys += by;
        }
    }
}

impl KeyCounts {
    pub(crate) fn live_keys(&self) -> usize {
        self.live_keys.load(Ordering::Acquire)
    }

    pub(crate) fn tombstones(&self) -> usize {
        self.tombstones.load(Ordering::Acquire)
    }

    /// Adds a delta. Only the writer does this, so plain loads and stores are enough.
    pub(crate) fn add(&self, delta: &Delta) {
        add(&self.live_keys, delta.live_keys);
        add(&self.tombstones, delta.tombstones);
    }
}

impl MaxVersion {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Raises it to `version`. Only the writer does this.
    pub(crate) fn raise(&self, version: u64) {
        if version > self.0.load(Ordering::Relaxed) {
            self.0.store(version, Ordering::Release);
        }
    }
}

fn add(counter: &AtomicUsize, by: isize) {
    if by != 0 {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Release);
    }
}
