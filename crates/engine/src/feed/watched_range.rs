//! Ranges of keys that feeds watch, and the search of those that hold a key.

use std::ops::Bound;

use crate::bounds::KeyBounds;
use crate::mutants::planted;

/// A half-open range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchedRange {
    from: Vec<u8>,
    /// `None` for no upper bound.
    to: Option<Vec<u8>>,
}

impl WatchedRange {
    pub(crate) fn of(bounds: &impl KeyBounds) -> Self {
        let (from, to) = bounds.key_bounds();
        Self {
            from: match from {
                Bound::Included(key) => key.to_vec(),
                Bound::Excluded(key) => successor(key),
                Bound::Unbounded => Vec::new(),
            },
            to: match to {
                Bound::Included(key) => Some(successor(key)),
                Bound::Excluded(key) => Some(key.to_vec()),
                Bound::Unbounded => None,
            },
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.from.as_slice() <= key && self.ends_behind(key)
    }

    fn ends_behind(&self, key: &[u8]) -> bool {
        self.to.as_deref().is_none_or(|to| key < to)
    }
}

/// The least key above this one.
fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// An interval tree over ranges, without pointers: the ranges in the order of their lower bounds
/// are a balanced binary tree, with the middle one as the root.
#[derive(Debug, Default)]
pub(crate) struct RangeIndex {
    nodes: Vec<RangeNode>,
}

#[derive(Debug)]
struct RangeNode {
    range: WatchedRange,
    id: u64,
    /// The node of its subtree whose range ends last.
    last: usize,
}

impl RangeIndex {
    /// It costs O(n log n) comparisons.
    pub(crate) fn of(ranges: impl Iterator<Item = (u64, WatchedRange)>) -> Self {
        let mut nodes: Vec<_> = ranges.map(|(id, range)| RangeNode { range, id, last: 0 }).collect();
        nodes.sort_unstable_by(|left, right| left.range.from.cmp(&right.range.from));
        let count = nodes.len();
        let mut index = Self { nodes };
        index.set_last(0, count);
        index
    }

    /// Sets the last ends in the subtree of these nodes; returns that of its root.
    fn set_last(&mut self, from: usize, to: usize) -> Option<usize> {
        let root = Self::root(from, to)?;
        let below = [self.set_last(from, root), self.set_last(root + 1, to)];
        let last = below.into_iter().flatten().fold(root, |last, other| {
            let ends_later = match (&self.nodes[last].range.to, &self.nodes[other].range.to) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(last), Some(other)) => other > last,
            };
            if ends_later && !planted("only_own_end_of_a_range") { other } else { last }
        });
        self.nodes[root].last = last;
        Some(last)
    }

    fn root(from: usize, to: usize) -> Option<usize> {
        (from < to).then(|| from + (to - from) / 2)
    }

    /// Calls `hit` with the id of each range that holds the key. It costs O(log n) comparisons for
    /// each of them, and for none.
    pub(crate) fn for_each_with(&self, key: &[u8], mut hit: impl FnMut(u64)) {
        self.search(0, self.nodes.len(), key, &mut hit);
    }

    fn search(&self, from: usize, to: usize, key: &[u8], hit: &mut impl FnMut(u64)) {
        let Some(root) = Self::root(from, to) else { return };
        let node = &self.nodes[root];
        if !self.nodes[node.last].range.ends_behind(key) {
            return;
        }
        self.search(from, root, key, hit);
        if node.range.from.as_slice() <= key {
            if node.range.ends_behind(key) {
                hit(node.id);
            }
            self.search(root + 1, to, key, hit);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound::{self, Excluded, Included, Unbounded};

    use super::{RangeIndex, WatchedRange};

    fn range(bounds: (Bound<&str>, Bound<&str>)) -> WatchedRange {
        WatchedRange::of(&bounds)
    }

    #[test]
    fn a_range_holds_the_keys_between_its_bounds() {
        let held = |bounds| {
            let keys = ["a", "b", "b\0", "c", "d", "e"].into_iter();
            keys.filter(|key| range(bounds).contains(key.as_bytes())).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(held((Included("b"), Excluded("d"))), "b b\0 c");
        assert_eq!(held((Excluded("b"), Included("d"))), "b\0 c d");
        assert_eq!(held((Unbounded, Included("b"))), "a b");
        assert_eq!(held((Included("d"), Unbounded)), "d e");
        assert_eq!(held((Included("d"), Excluded("b"))), "");
        assert_eq!(held((Unbounded, Unbounded)), "a b b\0 c d e");
    }

    #[test]
    fn the_index_finds_the_ranges_that_hold_a_key() {
        let mut random: u64 = 7;
        let mut next = move |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        };
        for count in [0, 1, 2, 3, 10, 100] {
            let ranges: Vec<WatchedRange> = (0..count)
                .map(|_| {
                    let (from, len) = (next(50), next(20));
                    let (from, to) = (format!("{from:02}"), format!("{:02}", from + len));
                    let to = if len == 0 { Unbounded } else { Excluded(to) };
                    WatchedRange::of(&(if from == "00" { Unbounded } else { Included(from) }, to))
                })
                .collect();
            let index = RangeIndex::of((0..).zip(ranges.iter().cloned()));
            for key in (0..75).map(|key| format!("{key:02}")) {
                let mut found = Vec::new();
                index.for_each_with(key.as_bytes(), |id| found.push(id));
                found.sort_unstable();
                let held = (0..).zip(&ranges).filter(|(_, range)| range.contains(key.as_bytes()));
                assert_eq!(found, held.map(|(id, _)| id).collect::<Vec<u64>>(), "{key} in {ranges:?}");
            }
        }
    }
}
