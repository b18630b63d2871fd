//! The older versions of one entry that snapshots need, newest first.
//!
//! They form a list of nodes, which are immutable except for their locations. Readers traverse it
//! under a guard. The writer adds a version at the head. To drop versions that no snapshot needs,
//! it builds a new list and publishes it with one store. Both lists share their tail, so a reader
//! of the old list misses nothing.

use std::sync::Arc;

use crate::location::LocationBits;
use crate::snapshot_registry::LiveSnapshots;
use crate::sync::{AtomicU64, Guard, Ordering};
use crate::version::{Version, Word};

/// One old version.
#[derive(Debug)]
pub(crate) struct OldVersion {
    word: AtomicU64,
    seq: u64,
    /// The seq of the commit that replaced it: it was the newest version from `seq` on, before
    /// `until`.
    until: u64,
    version: u64,
    len_bytes: u32,
    next: Option<Arc<OldVersion>>,
}

impl OldVersion {
    /// The memory of one kept version, in bytes: the node and the counters of its allocation.
    pub(crate) const LEN_BYTES: usize = size_of::<Self>() + 2 * size_of::<usize>();

    fn new(old: &Version, until: u64, next: Option<Arc<OldVersion>>) -> Self {
        let word = AtomicU64::new(old.word.settled().raw());
        Self { word, seq: old.seq, until, version: old.version, len_bytes: old.len_bytes, next }
    }

    fn copy(&self, next: Option<Arc<OldVersion>>) -> Self {
        Self::new(&self.version(), self.until, next)
    }

    fn version(&self) -> Version {
        let word = Word::from_raw(self.word.load(Ordering::Acquire));
        Version { word, seq: self.seq, version: self.version, len_bytes: self.len_bytes }
    }

    fn is_needed(&self, live: &LiveSnapshots) -> bool {
        live.needs(self.seq, self.until)
    }

    fn walk(&self) -> impl Iterator<Item = &OldVersion> {
        std::iter::successors(Some(self), |kept| kept.next.as_deref())
    }
}

impl Drop for OldVersion {
    /// Drops the list in a loop, so that a long list does not recurse.
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut kept) = next.and_then(Arc::into_inner) {
            next = kept.next.take();
        }
    }
}

/// The list's head.
#[derive(Debug, Default)]
pub(crate) struct VersionChain {
    head: ChainHead,
}

impl VersionChain {
    /// Adds a version at the head, which commit `until` replaces or has just replaced.
    pub(crate) fn push(&self, old: &Version, until: u64, guard: &Guard) {
        let next = self.head.with(guard, |head| head.map(|head| Arc::new(head.copy(head.next.clone()))));
        self.head.store(Some(OldVersion::new(old, until, next)), guard);
    }

    /// The newest kept version with a seq up to `seq`.
    pub(crate) fn find(&self, seq: u64, guard: &Guard) -> Option<Version> {
        self.head.with(guard, |head| head?.walk().find(|kept| kept.seq <= seq).map(OldVersion::version))
    }

    /// The commit that replaced the version of seq `seq`, if that version is kept.
    pub(crate) fn until_of(&self, seq: u64, guard: &Guard) -> Option<u64> {
        self.head.with(guard, |head| head?.walk().find(|kept| kept.seq == seq).map(|kept| kept.until))
    }

    /// Drops versions that no live snapshot needs, and returns their number. The cost is one step
    /// per kept version.
    pub(crate) fn trim(&self, live: &LiveSnapshots, guard: &Guard) -> usize {
        let trimmed = self.head.with(guard, |head| {
            let head = head?;
            let needed: Vec<&OldVersion> = head.walk().filter(|kept| kept.is_needed(live)).collect();
            let dropped = head.walk().count() - needed.len();
            (dropped > 0).then(|| (dropped, rebuild(&needed)))
        });
        let Some((dropped, head)) = trimmed else { return 0 };
        self.head.store(head, guard);
        dropped
    }

    /// Points kept versions at `old` to `new`; returns whether one existed.
    pub(crate) fn relocate(&self, old: LocationBits, new: LocationBits, guard: &Guard) -> bool {
        let relocate = |kept: &OldVersion| {
            let word = Word::from_raw(kept.word.load(Ordering::Acquire));
            let is_there = word.location() == old;
            if is_there {
                kept.word.store(word.moved_to(new).raw(), Ordering::Release);
            }
            is_there
        };
        self.head.with(guard, |head| head.is_some_and(|head| head.walk().filter(|kept| relocate(kept)).count() > 0))
    }

    /// Calls `each` with every kept version, newest first.
    pub(crate) fn for_each(&self, guard: &Guard, each: impl FnMut(Version)) {
        self.head.with(guard, |head| {
            let versions = head.into_iter().flat_map(OldVersion::walk).map(OldVersion::version);
            versions.for_each(each);
        });
    }
}

fn rebuild(needed: &[&OldVersion]) -> Option<OldVersion> {
    let (first, rest) = needed.split_first()?;
    let next = rest.iter().rev().fold(None, |next, kept| Some(Arc::new(kept.copy(next))));
    Some(first.copy(next))
}

#[cfg(not(loom))]
use published::ChainHead;

#[cfg(not(loom))]
mod published {
    use hightower_index::{Guard, Published};

    use super::OldVersion;

    /// The head of a list, reclaimed by epochs.
    #[derive(Debug, Default)]
    pub(super) struct ChainHead(Published<OldVersion>);

    impl ChainHead {
        pub(super) fn with<R>(&self, guard: &Guard, read: impl FnOnce(Option<&OldVersion>) -> R) -> R {
            read(self.0.load(guard))
        }

        pub(super) fn store(&self, head: Option<OldVersion>, guard: &Guard) {
            self.0.store(head.map(Box::new), guard);
        }
    }
}

#[cfg(loom)]
use listed::ChainHead;

#[cfg(loom)]
mod listed {
    use std::sync::{Arc, Mutex};

    use super::OldVersion;
    use crate::sync::{AtomicUsize, Guard, Ordering};

    /// The head of a list in the models: an index into a table of all heads, never reclaimed. It
    /// has the memory orderings of the real cell, so that the models' readers can lag like real
    /// ones.
    #[derive(Debug)]
    pub(super) struct ChainHead {
        /// 0 for an empty list, otherwise the index in the table plus one.
        place: AtomicUsize,
        heads: Mutex<Vec<Arc<OldVersion>>>,
    }

    impl Default for ChainHead {
        fn default() -> Self {
            Self { place: AtomicUsize::new(0), heads: Mutex::default() }
        }
    }

    impl ChainHead {
        pub(super) fn with<R>(&self, _guard: &Guard, read: impl FnOnce(Option<&OldVersion>) -> R) -> R {
            let place = self.place.load(Ordering::Acquire);
            let head = place.checked_sub(1).map(|place| Arc::clone(&self.heads.lock().unwrap()[place]));
            read(head.as_deref())
        }

        pub(super) fn store(&self, head: Option<OldVersion>, _guard: &Guard) {
            let place = head.map_or(0, |head| {
                let mut heads = self.heads.lock().unwrap();
                heads.push(Arc::new(head));
                heads.len()
            });
            self.place.store(place, Ordering::Release);
        }
    }
}
