//! Watches inform a commit that other commits have changed a range of keys that it requires
//! unchanged.
//!
//! A range can be long, so it is not read under the commit lock. Instead:
//!
//! | the commit with the requirement | every other commit n |
//! | --- | --- |
//! | 1. adds its watch to the list and counts it | 1. changes the entries of the index |
//! | 2. full fence | 2. publishes, with a full fence |
//! | 3. walks the ranges: has an entry a seqno above the required one? | 3. reads the count; if it is not 0, tells the watches its keys |
//! | 4. takes the commit lock, and asks the watch | |
//!
//! Because of the two fences, either the walk sees the entries of commit n, or commit n sees the
//! watch. (Store, fence, load on both sides: Dekker's pattern.) While one commit holds the lock, no
//! other is between its steps, so the answer is complete. A watch lives only during one commit.
//! While no watch is alive, a commit pays one relaxed load.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use hightower_state::{ChangeSince, LeveledKvState, LeveledSnapshot};

use crate::bounds::{OwnedBounds, lower_rank, upper_rank};
use crate::error::Result;
use crate::keyspace::{KeyspaceId, UserKey};
use crate::mutants::planted;
use crate::place::Place;
use crate::sync::{Mutex, step};

/// A requirement that nothing in a range has changed since a seqno.
#[derive(Clone, Debug)]
pub(crate) struct RangeRequirement {
    pub(crate) bounds: OwnedBounds,
    pub(crate) since: u64,
}

impl RangeRequirement {
    pub(crate) fn from(&self) -> Bound<&[u8]> {
        self.bounds.0.as_ref().map(Vec::as_slice)
    }

    pub(crate) fn to(&self) -> Bound<&[u8]> {
        self.bounds.1.as_ref().map(Vec::as_slice)
    }

    pub(crate) fn keyspace(&self) -> KeyspaceId {
        match self.from() {
            Bound::Included(from) | Bound::Excluded(from) => UserKey::of(from).keyspace,
            Bound::Unbounded => KeyspaceId::DEFAULT,
        }
    }

    fn begins_before(&self, key: &[u8]) -> bool {
        match self.from() {
            Bound::Included(from) => from <= key,
            Bound::Excluded(from) => from < key,
            Bound::Unbounded => true,
        }
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        let ends_behind = match self.to() {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        ends_behind && self.begins_before(key)
    }
}

/// The finding of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RangeFinding {
    /// `key`, in the range of this requirement, has changed. `found` is the version of its new
    /// value; `None` if it has none.
    Changed { requirement: usize, key: Vec<u8>, found: Option<u64> },
    /// The store remembers only changes since `known_since`, later than this requirement needs.
    Forgotten { requirement: usize, known_since: u64 },
    /// A required seqno is above that of the latest commit.
    Ahead { since: u64, latest: u64 },
}

/// The watches of a store.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    count: AtomicUsize,
    watches: Mutex<Vec<Arc<Watched>>>,
}

#[derive(Debug)]
struct Watched {
    requirements: Arc<Vec<RangeRequirement>>,
    reaches: Vec<Reach>,
    /// The first finding.
    finding: Mutex<Option<RangeFinding>>,
}

/// A requirement in the order of the lower bounds, and which one of those up to it reaches
/// farthest: two numbers of requirements.
#[derive(Debug)]
struct Reach {
    requirement: usize,
    farthest: usize,
}

impl Watched {
    fn new(requirements: &Arc<Vec<RangeRequirement>>) -> Self {
        let mut order: Vec<usize> = (0..requirements.len()).collect();
        order.sort_unstable_by_key(|&at| lower_rank(&requirements[at].bounds.0));
        let reaches = order.into_iter().scan(None, |farthest, requirement| {
            let before = farthest.unwrap_or(requirement);
            let upper = |at: usize| upper_rank(&requirements[at].bounds.1);
            let is_farther = upper(before) < upper(requirement) || planted("last_begun_range_only");
            let farthest = *farthest.insert(if is_farther { requirement } else { before });
            Some(Reach { requirement, farthest })
        });
        Self { reaches: reaches.collect(), requirements: Arc::clone(requirements), finding: Mutex::new(None) }
    }

    /// Whether a commit with this seqno may be a change that nothing was found of before.
    fn may_find(&self, seqno: u64) -> bool {
        self.finding.lock().is_none() && self.requirements.iter().any(|wanted| seqno > wanted.since)
    }

    /// The first requirement that a commit of a key violates. Costs a binary search, and if a range
    /// holds the key, a look at each.
    fn violated(&self, seqno: u64, key: &[u8]) -> Option<usize> {
        let begun = self.reaches.partition_point(|reach| self.requirements[reach.requirement].begins_before(key));
        let Reach { farthest, .. } = self.reaches[..begun].last()?;
        let is_held = self.requirements[*farthest].contains(key);
        is_held.then(|| self.requirements.iter().position(|wanted| seqno > wanted.since && wanted.contains(key)))?
    }

    fn find(&self, finding: RangeFinding) {
        self.finding.lock().get_or_insert(finding);
    }
}

/// A live watch. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct RangeWatch {
    watches: Arc<Watches>,
    watched: Arc<Watched>,
    /// The result of the walk.
    walked: Result<()>,
}

impl Watches {
    /// Starts to watch the ranges, then walks them. The watch then knows every change since the
    /// required seqnos: by commits published before, and by later ones. `snapshot` is the one at
    /// which the ranges were read, if it is still held.
    pub(crate) fn watch(
        self: &Arc<Self>,
        requirements: &Arc<Vec<RangeRequirement>>,
        state: &LeveledKvState<Place>,
        snapshot: Option<&LeveledSnapshot<Place>>,
    ) -> RangeWatch {
        let watched = Arc::new(Watched::new(requirements));
        let mut watch = RangeWatch { watches: Arc::clone(self), watched, walked: Ok(()) };
        if planted("walk_before_watch") {
            watch.walked = watch.walk(state, snapshot);
        }
        if !planted("ranges_checked_before_the_lock_only") {
            let mut watches = self.watches.lock();
            watches.push(Arc::clone(&watch.watched));
            self.count.store(watches.len(), Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        step();
        if !planted("walk_before_watch") {
            watch.walked = watch.walk(state, snapshot);
        }
        watch
    }

    /// Notifies the watches of the keys of a published commit, each with the version of its value.
    #[inline]
    pub(crate) fn note<'k>(&self, seqno: u64, written: impl Iterator<Item = (&'k [u8], Option<u64>)>) {
        if self.count.load(Ordering::Relaxed) != 0 {
            self.tell(seqno, written);
        }
    }

    #[cold]
    fn tell<'k>(&self, seqno: u64, written: impl Iterator<Item = (&'k [u8], Option<u64>)>) {
        let watches = self.watches.lock();
        let mut untold: Vec<&Arc<Watched>> = watches.iter().filter(|watched| watched.may_find(seqno)).collect();
        for (key, found) in written.filter(|(_, found)| found.is_some() || !planted("deletes_untold")) {
            untold.retain(|watched| {
                let violated = watched.violated(seqno, key);
                let found = violated.map(|requirement| RangeFinding::Changed { requirement, key: key.to_vec(), found });
                found.map(|finding| watched.find(finding)).is_none()
            });
        }
    }
}

impl RangeWatch {
    /// Searches the ranges for changes since the required seqnos. The active memtable knows the
    /// changes since it began. For earlier ones, the snapshot at which the ranges were read is
    /// compared with the present.
    fn walk(&self, state: &LeveledKvState<Place>, snapshot: Option<&LeveledSnapshot<Place>>) -> Result<()> {
        let latest = state.visible_seq();
        let mut now = None;
        for (requirement, wanted) in self.watched.requirements.iter().enumerate() {
            if wanted.since > latest && !planted("ranges_unchanged_since_the_future") {
                self.watched.find(RangeFinding::Ahead { since: wanted.since, latest });
                break;
            }
            let (from, to) = (wanted.from(), wanted.to());
            let mut change = state.active_memtable().change_since(from, to, wanted.since);
            if let (ChangeSince::Forgotten { .. }, Some(before)) = (&change, snapshot)
                && before.seq() == wanted.since
                && !planted("flushed_changes_forgotten")
            {
                change = before.first_difference(now.get_or_insert_with(|| state.snapshot()), from, to)?;
                if planted("flushed_changes_unseen") {
                    change = ChangeSince::None;
                }
            }
            let finding = match change {
                ChangeSince::None => {
                    step();
                    continue;
                }
                ChangeSince::Changed { key, version: found } => RangeFinding::Changed { requirement, key, found },
                ChangeSince::Forgotten { known_since } => RangeFinding::Forgotten { requirement, known_since },
            };
            self.watched.find(finding);
            break;
        }
        Ok(())
    }

    /// The first finding, if any. The answer is complete only under the commit lock.
    ///
    /// # Errors
    ///
    /// That of the walk.
    pub(crate) fn finding(&self) -> Result<Option<RangeFinding>> {
        self.walked.clone()?;
        Ok(self.watched.finding.lock().clone())
    }
}

impl Drop for RangeWatch {
    fn drop(&mut self) {
        let mut watches = self.watches.watches.lock();
        watches.retain(|watched| !Arc::ptr_eq(watched, &self.watched));
        self.watches.count.store(watches.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "numbers below 5")]
mod tests {
    use super::*;

    #[test]
    fn a_requirement_holds_the_keys_between_its_bounds() {
        let range = |from, to| RangeRequirement { bounds: (from, to), since: 0 };
        let b = || b"b".to_vec();
        let d = || b"d".to_vec();
        let held = |range: RangeRequirement| {
            ["a", "b", "c", "d", "e"].into_iter().filter(|key| range.contains(key.as_bytes())).collect::<String>()
        };
        assert_eq!(held(range(Bound::Included(b()), Bound::Excluded(d()))), "bc");
        assert_eq!(held(range(Bound::Excluded(b()), Bound::Included(d()))), "cd");
        assert_eq!(held(range(Bound::Unbounded, Bound::Included(b()))), "ab");
        assert_eq!(held(range(Bound::Included(d()), Bound::Unbounded)), "de");
        assert_eq!(held(range(Bound::Included(d()), Bound::Excluded(b()))), "");
    }

    /// Also where ranges overlap, are empty or inverted, and for each seqno.
    #[test]
    fn a_key_violates_the_first_requirement_that_holds_it() {
        let mut state = 1_u64;
        let mut below = |limit: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % limit
        };
        for round in 0..2000 {
            let mut bound = |kinds| {
                let key = (0..=below(2)).map(|_| b"abcd"[below(4) as usize]).collect();
                match below(kinds) {
                    0 => Bound::Unbounded,
                    kind if kind % 2 == 0 => Bound::Included(key),
                    _ => Bound::Excluded(key),
                }
            };
            let bounds: Vec<_> = (0..round % 9).map(|_| (bound(12), bound(12))).collect();
            let required = bounds.into_iter().map(|bounds| RangeRequirement { bounds, since: below(3) });
            let watched = Watched::new(&Arc::new(required.collect()));
            for key in [&b"a"[..], b"aa", b"ac", b"b", b"bb", b"cd", b"d", b"dd", b"e"] {
                for seqno in 0..4 {
                    let is_hit = |wanted: &RangeRequirement| seqno > wanted.since && wanted.contains(key);
                    let expected = watched.requirements.iter().position(is_hit);
                    assert_eq!(watched.violated(seqno, key), expected, "{key:?} at {seqno}: {watched:?}");
                    assert!(expected.is_none() || watched.may_find(seqno));
                }
            }
        }
    }

    #[test]
    fn a_watch_is_told_later_commits_and_ends_with_its_drop() {
        let (watches, state) = (Arc::new(Watches::default()), LeveledKvState::new());
        state.writer().resume(5).unwrap();
        let wanted = RangeRequirement { bounds: (Bound::Included(b"b".to_vec()), Bound::Unbounded), since: 5 };
        let watch = watches.watch(&Arc::new(vec![wanted]), &state, None);
        watches.note(5, [(&b"c"[..], Some(1))].into_iter());
        watches.note(6, [(&b"a"[..], Some(2))].into_iter());
        assert_eq!(watch.finding().unwrap(), None, "not since 5, or not in the range");
        watches.note(7, [(&b"a"[..], Some(3)), (b"c", None)].into_iter());
        watches.note(8, [(&b"c"[..], Some(4))].into_iter());
        let first = RangeFinding::Changed { requirement: 0, key: b"c".to_vec(), found: None };
        assert_eq!(watch.finding().unwrap(), Some(first));
        drop(watch);
        assert_eq!((watches.count.load(Ordering::Relaxed), watches.watches.lock().len()), (0, 0));
    }
}
