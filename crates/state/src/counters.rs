//! Counters that readers can read. Only the writer changes them.

use crate::sync::{AtomicU64, AtomicUsize, Ordering};
use crate::version::Word;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    live_keys: AtomicUsize,
    tombstones: AtomicUsize,
    max_version: AtomicU64,
}

/// The changes of the counters by a commit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Delta {
    live_keys: isize,
    tombstones: isize,
    max_version: u64,
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

impl Counters {
    pub(crate) fn live_keys(&self) -> usize {
        self.live_keys.load(Ordering::Acquire)
    }

    pub(crate) fn tombstones(&self) -> usize {
        self.tombstones.load(Ordering::Acquire)
    }

    pub(crate) fn max_version(&self) -> u64 {
        self.max_version.load(Ordering::Acquire)
    }

    /// Adds a delta. Only the writer does this, so plain loads and stores are enough.
    pub(crate) fn add(&self, delta: &Delta) {
        add(&self.live_keys, delta.live_keys);
        add(&self.tombstones, delta.tombstones);
        let max_version = self.max_version.load(Ordering::Relaxed);
        if delta.max_version > max_version {
            self.max_version.store(delta.max_version, Ordering::Release);
        }
    }
}

fn add(counter: &AtomicUsize, by: isize) {
    if by != 0 {
        counter.store(counter.load(Ordering::Relaxed).wrapping_add_signed(by), Ordering::Release);
    }
}
