//! The read set of a transaction: the keys and the parts of ranges that it has read.

use std::ops::Bound;
use std::sync::Arc;

use crate::batch::{Batch, Requirement};
use crate::bounds::{OwnedBounds, lower_rank, upper_rank};
use crate::error::Result;
use crate::expect::Expect;
use crate::keyspace::{KeyspaceId, UserKey};
use crate::mutants::planted;
use crate::transaction::counters::over_limit;
use crate::watch::RangeRequirement;

/// Repeated keys are first removed at this number of keys, then at each doubling.
const DEDUPLICATED_FROM: usize = 64;

/// Ranges are first merged at this number of ranges, then at each doubling.
const MERGED_FROM: usize = 1024;

/// The most keys that a commit validates under the commit lock, some 50 µs. More are validated as
/// ranges of one key, which needs no lock.
const KEYS_UNDER_LOCK_MAX: usize = 256;

/// Memory of a key and of a range besides their bytes.
const KEY_BYTES: usize = size_of::<Requirement>();
const RANGE_BYTES: usize = size_of::<ReadRange>();

/// The keys and ranges that a transaction has read.
#[derive(Debug)]
pub(super) struct ReadSet {
    keys: Vec<Requirement>,
    /// Number of keys at which they are deduplicated next.
    deduplicate_at: usize,
    ranges: Vec<ReadRange>,
    /// Number of living iterators over ranges. While there are any, ranges keep their numbers.
    open_ranges: usize,
    /// Number of ranges at which they are merged next.
    merge_at: usize,
    len_bytes: usize,
    /// The length of the set when it was forgotten.
    forgotten_at_bytes: Option<usize>,
}

/// A range, and the parts of it that were read from either end.
#[derive(Debug)]
struct ReadRange {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
    /// The last key that was read from the front.
    front: Option<Vec<u8>>,
    back: Option<Vec<u8>>,
    is_whole: bool,
}

/// The number of a range in a read set; `None` if the set was forgotten.
pub(super) type RangeNumber = Option<usize>;

impl Default for ReadSet {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            deduplicate_at: DEDUPLICATED_FROM,
            ranges: Vec::new(),
            open_ranges: 0,
            merge_at: MERGED_FROM,
            len_bytes: 0,
            forgotten_at_bytes: None,
        }
    }
}

impl ReadSet {
    /// The memory of the set, approximately.
    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Forgets the reads, and all later ones. A commit with writes is then impossible.
    pub(super) fn forget(&mut self) {
        let forgotten_at_bytes = self.forgotten_at_bytes.or(Some(self.len_bytes));
        *self = Self { forgotten_at_bytes, open_ranges: self.open_ranges, ..Self::default() };
    }

    /// An error if the set was forgotten.
    pub(super) fn check_kept(&self, limit_bytes: usize) -> Result<()> {
        match self.forgotten_at_bytes {
            Some(len_bytes) if !planted("forgotten_reads_committed") => Err(over_limit(len_bytes, limit_bytes)),
            _ => Ok(()),
        }
    }

    /// Adds a key and the version of its value.
    pub(super) fn note_key(&mut self, key: &[u8], version: Option<u64>) {
        if self.forgotten_at_bytes.is_some() {
            return;
        }
        // A key is often read again soon.
        if self.keys.iter().rev().take(4).any(|read| read.key == key) {
            return;
        }
        if self.keys.len() == self.deduplicate_at {
            self.deduplicate();
        }
        let expect = version.map_or(Expect::Absent, Expect::Version);
        self.keys.push(Requirement { key: key.to_vec(), expect });
        self.len_bytes += key.len() + KEY_BYTES;
    }

    /// A snapshot has one version of each key, so equal keys are equal reads.
    fn deduplicate(&mut self) {
        self.keys.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        let len_bytes = &mut self.len_bytes;
        self.keys.dedup_by(|left, right| {
            let is_again = left.key == right.key;
            if is_again {
                *len_bytes -= left.key.len() + KEY_BYTES;
            }
            is_again
        });
        self.deduplicate_at = (self.keys.len() * 2).max(DEDUPLICATED_FROM);
    }

    /// Adds a range with no part read yet.
    pub(super) fn open_range(&mut self, from: Bound<&[u8]>, to: Bound<&[u8]>) -> RangeNumber {
        self.open_ranges += 1;
        if self.forgotten_at_bytes.is_some() {
            return None;
        }
        if self.ranges.len() >= self.merge_at && self.open_ranges == 1 {
            self.merge();
        }
        let owned = |bound: Bound<&[u8]>| bound.map(<[u8]>::to_vec);
        let range = ReadRange { from: owned(from), to: owned(to), front: None, back: None, is_whole: false };
        self.len_bytes += range.len_bytes();
        self.ranges.push(range);
        Some(self.ranges.len() - 1)
    }

    pub(super) fn close_range(&mut self) {
        self.open_ranges -= 1;
    }

    /// Notes that the range was read from one end up to and including `key`.
    pub(super) fn note_range_to(&mut self, number: RangeNumber, key: &[u8], is_from_back: bool) {
        let Some(range) = number.and_then(|number| self.ranges.get_mut(number)) else { return };
        let end = if is_from_back { &mut range.back } else { &mut range.front };
        let end = end.get_or_insert_default();
        self.len_bytes = self.len_bytes + key.len() - end.len();
        end.clear();
        end.extend_from_slice(key);
    }

    /// Notes that the range was read as a whole.
    pub(super) fn note_whole_range(&mut self, number: RangeNumber) {
        if let Some(range) = number.and_then(|number| self.ranges.get_mut(number)) {
            range.is_whole = !planted("end_of_range_unread");
        }
    }

    /// Merges ranges that overlap or were read repeatedly.
    fn merge(&mut self) {
        let ranges = merged(std::mem::take(&mut self.ranges));
        let whole = |(from, to)| ReadRange { from, to, front: None, back: None, is_whole: true };
        self.ranges = ranges.into_iter().map(whole).collect();
        let of_ranges: usize = self.ranges.iter().map(ReadRange::len_bytes).sum();
        self.len_bytes = of_ranges + self.keys.iter().map(|read| read.key.len() + KEY_BYTES).sum::<usize>();
        self.merge_at = (self.ranges.len() * 2).max(MERGED_FROM);
    }

    /// Adds the reads to a batch, as requirements.
    pub(super) fn take_into(&mut self, batch: &mut Batch, snapshot_seqno: u64) {
        if self.keys.len() > KEYS_UNDER_LOCK_MAX {
            self.deduplicate();
        }
        let Self { mut keys, mut ranges, .. } = std::mem::take(self);
        if planted("reads_not_validated") {
            return;
        }
        if keys.len() > KEYS_UNDER_LOCK_MAX && !planted("many_keys_under_the_lock") {
            ranges.extend(keys.drain(..).map(|read| ReadRange::of_key(read.key)));
        }
        batch.requirements = keys;
        let since = snapshot_seqno;
        let requirements: Vec<_> =
            merged(ranges).into_iter().map(|bounds| RangeRequirement { bounds, since }).collect();
        if !requirements.is_empty() {
            batch.ranges = Some(Arc::new(requirements));
        }
    }
}

impl ReadRange {
    fn of_key(key: Vec<u8>) -> Self {
        let (from, to) = (Bound::Included(key.clone()), Bound::Included(key));
        Self { from, to, front: None, back: None, is_whole: true }
    }

    fn len_bytes(&self) -> usize {
        let of = |bound: &Bound<Vec<u8>>| match bound {
            Bound::Included(key) | Bound::Excluded(key) => key.len(),
            Bound::Unbounded => 0,
        };
        of(&self.from) + of(&self.to) + RANGE_BYTES
    }

    /// The parts that were read.
    fn into_parts(self) -> impl Iterator<Item = OwnedBounds> {
        let Self { from, to, front, back, is_whole } = self;
        let parts = if is_whole {
            [Some((from, to)), None]
        } else {
            [front.map(|front| (from, Bound::Included(front))), back.map(|back| (Bound::Included(back), to))]
        };
        parts.into_iter().flatten()
    }
}

/// The parts of ranges that were read, in order, without overlaps.
fn merged(ranges: Vec<ReadRange>) -> Vec<OwnedBounds> {
    let mut parts: Vec<_> = ranges.into_iter().flat_map(ReadRange::into_parts).collect();
    parts.sort_unstable_by(|(left, _), (right, _)| lower_rank(left).cmp(&lower_rank(right)));
    let mut merged: Vec<OwnedBounds> = Vec::with_capacity(parts.len());
    for (from, to) in parts {
        match merged.last_mut() {
            Some((first, end)) if reaches(end, &from) && is_one_keyspace(first, &from) => {
                if upper_rank(end) < upper_rank(&to) {
                    *end = to;
                }
            }
            _ => merged.push((from, to)),
        }
    }
    merged
}

/// Whether the ranges with these lower bounds are in one keyspace.
fn is_one_keyspace(one: &Bound<Vec<u8>>, other: &Bound<Vec<u8>>) -> bool {
    keyspace_of(one) == keyspace_of(other) || planted("ranges_of_keyspaces_merged")
}

/// The keyspace of the range with this lower bound.
fn keyspace_of(from: &Bound<Vec<u8>>) -> KeyspaceId {
    match from {
        Bound::Included(key) | Bound::Excluded(key) => UserKey::of(key).keyspace,
        Bound::Unbounded => KeyspaceId::DEFAULT,
    }
}

/// Whether no key lies between a range that ends with `end` and one that begins with `from`.
fn reaches(end: &Bound<Vec<u8>>, from: &Bound<Vec<u8>>) -> bool {
    match (end, from) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => true,
        (Bound::Excluded(end), Bound::Excluded(from)) => from < end,
        (Bound::Included(end) | Bound::Excluded(end), Bound::Included(from) | Bound::Excluded(from)) => from <= end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(from: Bound<&str>, to: Bound<&str>) -> ReadRange {
        let owned = |bound: Bound<&str>| bound.map(|key| key.as_bytes().to_vec());
        ReadRange { from: owned(from), to: owned(to), front: None, back: None, is_whole: true }
    }

    fn shown(ranges: &[OwnedBounds]) -> Vec<String> {
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let of = |(from, to): &OwnedBounds| {
            let from = match from {
                Bound::Included(key) => format!("[{}", text(key)),
                Bound::Excluded(key) => format!("({}", text(key)),
                Bound::Unbounded => "(".into(),
            };
            let to = match to {
                Bound::Included(key) => format!("{}]", text(key)),
                Bound::Excluded(key) => format!("{})", text(key)),
                Bound::Unbounded => ")".into(),
            };
            format!("{from},{to}")
        };
        ranges.iter().map(of).collect()
    }

    #[test]
    fn ranges_merge_where_they_leave_no_key_out() {
        use Bound::{Excluded, Included, Unbounded};
        let of = |ranges: Vec<ReadRange>| shown(&merged(ranges));
        assert_eq!(of(vec![whole(Included("c"), Included("d")), whole(Included("a"), Excluded("c"))]), ["[a,d]"]);
        assert_eq!(of(vec![whole(Included("a"), Excluded("c")), whole(Excluded("c"), Unbounded)]), ["[a,c)", "(c,)"]);
        assert_eq!(of(vec![whole(Included("a"), Included("c")), whole(Excluded("c"), Unbounded)]), ["[a,)"]);
        assert_eq!(of(vec![whole(Unbounded, Excluded("z")), whole(Included("b"), Included("c"))]), ["(,z)"]);
        assert_eq!(of(vec![whole(Excluded("a"), Included("b")), whole(Included("a"), Included("b"))]), ["[a,b]"]);
        assert_eq!(of(vec![whole(Included("a"), Excluded("b")), whole(Included("a"), Included("b"))]), ["[a,b]"]);
        assert_eq!(of(vec![whole(Included("a"), Unbounded), whole(Included("x"), Included("y"))]), ["[a,)"]);
    }

    #[test]
    fn only_the_read_parts_of_a_range_count() {
        let mut reads = ReadSet::default();
        let range = reads.open_range(Bound::Included(b"a"), Bound::Excluded(b"z"));
        let unread = reads.open_range(Bound::Included(b"m"), Bound::Excluded(b"n"));
        for key in [b"b", b"c"] {
            reads.note_range_to(range, key, false);
        }
        reads.note_range_to(range, b"y", true);
        let parts = |reads: &mut ReadSet| shown(&merged(std::mem::take(&mut reads.ranges)));
        assert_eq!(parts(&mut reads), ["[a,c]", "[y,z)"]);
        let range = reads.open_range(Bound::Included(b"a"), Bound::Excluded(b"z"));
        reads.note_range_to(range, b"b", false);
        reads.note_whole_range(range);
        assert_eq!((parts(&mut reads), unread), (vec!["[a,z)".to_owned()], Some(1)));
    }

    #[test]
    fn keys_and_ranges_that_are_read_again_cost_no_more_memory() {
        let mut reads = ReadSet::default();
        for round in 0..1000 {
            for number in 0..100_u32 {
                reads.note_key(&number.to_be_bytes(), Some(1));
            }
            let range = reads.open_range(Bound::Included(b"a"), Bound::Unbounded);
            reads.note_range_to(range, b"b", false);
            reads.close_range();
            let len_bytes = reads.len_bytes();
            assert!(len_bytes < 200 * (KEY_BYTES + 4) + 1100 * (RANGE_BYTES + 2), "round {round}: {len_bytes}");
        }
        let mut batch = Batch::new();
        reads.deduplicate();
        reads.take_into(&mut batch, 7);
        let ranges: Vec<_> = batch.range_requirements().collect();
        assert_eq!(ranges, [(Bound::Included(&b"a"[..]), Bound::Included(&b"b"[..]), 7)]);
        assert_eq!((batch.requirements().count(), reads.len_bytes()), (100, 0));
    }
}
