//! Ranges of keys that feeds watch, and the search of those that hold a key.

use std::ops::Bound;

use crate::keyspace::StoredBounds;
use crate::mutants::planted;

/// A half-open range of keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WatchedRange {
    from: Vec<u8>,
    /// `None` for no upper bound.
    to: Option<Vec<u8>>,
}

impl WatchedRange {
    pub(crate) fn of(bounds: &StoredBounds<'_>) -> Self {
        Self {
            from: match bounds.from() {
                Bound::Included(key) => key.to_vec(),
                Bound::Excluded(key) => successor(key),
                Bound::Unbounded => Vec::new(),
            },
            to: match bounds.to() {
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

/// The first bytes of a key as a number, filled up with zeros. Keys have the order of their heads;
/// those with equal heads are compared as a whole.
fn head_of(key: &[u8]) -> u64 {
    let mut head = [0; 8];
    let len = key.len().min(head.len());
    head[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(head)
}

/// The ranges of all feeds, for the search of those that hold a key.
///
/// They are a list of trees, each at least `TREE_SHRINK` times as long as the next one. New ranges
/// become a tree of their own, which is merged with its neighbours until that is so. So a feed that
/// comes or goes costs O(log n) on average, however many there are.
#[derive(Debug, Default)]
pub(crate) struct RangeIndex {
    trees: Vec<RangeTree>,
    /// The ranges that no tree has yet.
    added: Vec<WatchedId>,
    /// Number of ranges in the trees whose feeds are gone.
    removed: usize,
}

/// See [`RangeIndex`].
const TREE_SHRINK: usize = 4;

#[derive(Debug)]
struct WatchedId {
    range: WatchedRange,
    id: u64,
}

impl RangeIndex {
    pub(crate) fn add(&mut self, id: u64, range: WatchedRange) {
        self.added.push(WatchedId { range, id });
    }

    /// Notes that one of the feeds is gone. Its range is still found until the next rebuild.
    pub(crate) fn note_removed(&mut self) {
        self.removed += 1;
    }

    /// Takes the changes up; `is_alive` tells which feeds are not gone.
    pub(crate) fn refresh(&mut self, is_alive: impl Fn(u64) -> bool) {
        let len = self.len();
        if self.added.is_empty() && self.removed * 2 <= len {
            return;
        }
        let mut ranges = std::mem::take(&mut self.added);
        let removes = self.removed * 2 > len;
        while let Some(tree) = self.trees.pop_if(|tree| removes || ranges.len() * TREE_SHRINK > tree.nodes.len()) {
            ranges.extend(tree.nodes.into_iter().map(|node| node.watched));
        }
        if removes && !planted("removed_feeds_stay_in_the_index") {
            ranges.retain(|watched| is_alive(watched.id));
            self.removed = 0;
        }
        if !ranges.is_empty() {
            self.trees.push(RangeTree::of(ranges));
        }
    }

    /// The number of ranges, with those of feeds that are gone.
    fn len(&self) -> usize {
        self.added.len() + self.trees.iter().map(|tree| tree.nodes.len()).sum::<usize>()
    }

    /// Calls `hit` with the id of each range that holds the key, as of the last
    /// [`refresh`](Self::refresh). For each of them, and for none, it costs O(log n) comparisons,
    /// mostly of numbers.
    pub(crate) fn for_each_with(&self, key: &[u8], mut hit: impl FnMut(u64)) {
        let key = (head_of(key), key);
        for tree in &self.trees {
            tree.search(0, tree.nodes.len(), key, &mut hit);
        }
    }
}

/// An interval tree over ranges, without pointers: the ranges in the order of their lower bounds
/// are a balanced binary tree, with the middle one as the root.
#[derive(Debug)]
struct RangeTree {
    /// The heads of each node: what most of the search reads.
    heads: Vec<NodeHeads>,
    nodes: Vec<RangeNode>,
}

#[derive(Clone, Copy, Debug)]
struct NodeHeads {
    from: u64,
    /// The highest number if there is no upper bound.
    to: u64,
    /// The same of the range in its subtree that ends last.
    last_to: u64,
}

#[derive(Debug)]
struct RangeNode {
    watched: WatchedId,
    /// The node of its subtree whose range ends last.
    last: usize,
}

impl RangeTree {
    /// It costs O(n log n) comparisons, O(n) if the ranges are a few sorted runs.
    fn of(mut ranges: Vec<WatchedId>) -> Self {
        ranges.sort_by(|left, right| left.range.from.cmp(&right.range.from));
        let nodes: Vec<_> = ranges.into_iter().map(|watched| RangeNode { watched, last: 0 }).collect();
        let mut tree = Self { heads: Vec::new(), nodes };
        tree.set_last(0, tree.nodes.len());
        let end_of = |range: &WatchedRange| range.to.as_deref().map_or(u64::MAX, head_of);
        let heads = |node: &RangeNode| NodeHeads {
            from: head_of(&node.watched.range.from),
            to: end_of(&node.watched.range),
            last_to: end_of(tree.range(node.last)),
        };
        tree.heads = tree.nodes.iter().map(heads).collect();
        tree
    }

    /// Sets the last ends in the subtree of these nodes; returns that of its root.
    fn set_last(&mut self, from: usize, to: usize) -> Option<usize> {
        let root = Self::root(from, to)?;
        let below = [self.set_last(from, root), self.set_last(root + 1, to)];
        let last = below.into_iter().flatten().fold(root, |last, other| {
            let ends_later = match (&self.range(last).to, &self.range(other).to) {
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

    fn range(&self, node: usize) -> &WatchedRange {
        &self.nodes[node].watched.range
    }

    /// Searches the subtree of these nodes for a key with its head.
    fn search(&self, mut from: usize, to: usize, (head, key): (u64, &[u8]), hit: &mut impl FnMut(u64)) {
        let ends_behind = |end: u64, node: usize| end > head || (end == head && self.range(node).ends_behind(key));
        while let Some(root) = Self::root(from, to) {
            let heads = self.heads[root];
            if !ends_behind(heads.last_to, self.nodes[root].last) {
                return;
            }
            self.search(from, root, (head, key), hit);
            let begins_behind = heads.from > head || (heads.from == head && self.range(root).from.as_slice() > key);
            if begins_behind {
                return;
            }
            if ends_behind(heads.to, root) {
                hit(self.nodes[root].watched.id);
            }
            from = root + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::ops::Bound::{self, Excluded, Included, Unbounded};

    use super::{RangeIndex, WatchedRange};
    use crate::keyspace::KeyspaceId;

    fn range((from, to): (Bound<&str>, Bound<&str>)) -> WatchedRange {
        WatchedRange::of(&KeyspaceId::DEFAULT.stored_bounds(from.map(str::as_bytes), to.map(str::as_bytes)))
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

    fn randomly() -> impl FnMut(u64) -> u64 {
        let mut random: u64 = 7;
        move |bound| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % bound
        }
    }

    /// Feeds come and go. Some keys differ in their first eight bytes, others behind them.
    #[test]
    fn the_index_finds_the_ranges_that_hold_a_key() {
        let mut next = randomly();
        for (count, prefix) in
            [0, 1, 2, 3, 10, 100, 400].into_iter().flat_map(|count| [(count, ""), (count, "tenants/")])
        {
            let (mut index, mut alive) = (RangeIndex::default(), BTreeMap::new());
            for id in 0..count {
                let (from, len) = (next(50), next(20));
                let (from, to) = (format!("{prefix}{from:02}"), format!("{prefix}{:02}", from + len));
                let to = if len == 0 { Unbounded } else { Excluded(to.as_str()) };
                let range = range((if from == "00" { Unbounded } else { Included(from.as_str()) }, to));
                index.add(id, range.clone());
                alive.insert(id, range);
                if next(3) == 0 && alive.remove(&next(id + 1)).is_some() {
                    index.note_removed();
                }
                if next(3) == 0 {
                    index.refresh(|id| alive.contains_key(&id));
                }
            }
            index.refresh(|id| alive.contains_key(&id));
            let numbers = (0..75).map(|number| format!("{prefix}{number:02}"));
            for key in
                numbers.chain(["", "tenants", "tenants/", "tenants0", "\u{ff}\u{ff}\u{ff}\u{ff}"].map(String::from))
            {
                let mut found = Vec::new();
                index.for_each_with(key.as_bytes(), |id| found.extend(alive.contains_key(&id).then_some(id)));
                found.sort_unstable();
                let held = alive.iter().filter(|(_, range)| range.contains(key.as_bytes()));
                assert_eq!(found, held.map(|(id, _)| *id).collect::<Vec<u64>>(), "{key} in {alive:?}");
            }
        }
    }

    #[test]
    fn the_index_stays_small_while_feeds_come_and_go() {
        let (mut index, mut alive) = (RangeIndex::default(), BTreeSet::new());
        for id in 0..2_000_u64 {
            index.add(id, range((Included("a"), Unbounded)));
            alive.insert(id);
            index.refresh(|id| alive.contains(&id));
            if id >= 100 && alive.remove(&(id - 100)) {
                index.note_removed();
            }
            index.refresh(|id| alive.contains(&id));
            assert!(index.trees.len() <= 5, "{} trees", index.trees.len());
            assert!(index.len() <= 2 * alive.len() + 1, "{} ranges for {} feeds", index.len(), alive.len());
        }
    }
}
