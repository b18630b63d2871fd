//! The scan of the iterators: batches from either end of a key range, at a snapshot.
//!
//! The unread keys between two bounds are the *middle*. A batch is read from one end of the middle
//! under a guard; its keys are copied, and returned without a guard. When the middle is empty, each
//! end continues with the other end's batch, from its far side.
//!
//! A location that was read in advance may be retired before it is returned. So a batch stores the
//! count of retirements. When the count has changed, the scan returns the remaining items to the
//! middle, and reads them again under the caller's guard.
//!
//! [`RangeScan::visit`] is the fast path for callers that read all items in order: one guard covers
//! the whole visit, so it borrows the index's keys without a copy.

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use hightower_index::{EntryRef, Guard};

use crate::bounds;
use crate::change::EntryRecord;
use crate::entry::IndexEntry;
use crate::inner::SnapshotRegistration;
use crate::location::Location;
use crate::mutants::planted;
use crate::sync::Ordering;
use crate::version::Version;

/// The size of the first batch: small, so that a short range is cheap. Each next one doubles.
const FIRST_BATCH_ITEMS: usize = 4;
const MAX_BATCH_ITEMS: usize = 64;
/// Maximum number of entries in a batch, visible or not, which bounds the lifetime of a guard.
const MAX_BATCH_SCANNED: usize = 4 * MAX_BATCH_ITEMS;

/// The prefetch distance, in items. Records are prefetched one by one, because a processor drops
/// most prefetches of a whole batch.
const ITEMS_AHEAD: usize = 8;

/// The reason for the end of a visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visited {
    /// The range is finished.
    All,
    /// The visit reached its limit of entries; more may follow.
    Some,
    /// The visitor stopped it.
    Stopped,
}

/// An end of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeEnd {
    Front,
    Back,
}

/// A range during a scan.
pub(crate) struct RangeScan<L> {
    snapshot: Arc<SnapshotRegistration>,
    location: PhantomData<fn(L) -> L>,
    live_only: bool,
    /// The middle; `None` when it is empty.
    middle: Option<ScanMiddle>,
    front: ScanBatch,
    back: ScanBatch,
    batch_items: usize,
    /// The count of retirements that both batches were taken at.
    retirements: u64,
}

#[derive(Clone, Debug)]
struct ScanMiddle {
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

/// Items in the order in which their end returns them.
#[derive(Debug, Default)]
struct ScanBatch {
    keys: Vec<u8>,
    items: VecDeque<ScanItem>,
}

#[derive(Clone, Copy, Debug)]
struct ScanItem {
    key_start: usize,
    key_end: usize,
    version: Version,
}

impl ScanItem {
    fn location<L: Location>(&self) -> L {
        L::from_bits(self.version.word.location())
    }
}

impl<L: Location> RangeScan<L> {
    pub(crate) fn new(snapshot: Arc<SnapshotRegistration>, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Self {
        let owned = |bound: Bound<&[u8]>| bound.map(<[u8]>::to_vec);
        let middle = (!bounds::is_empty(from, to)).then(|| ScanMiddle { from: owned(from), to: owned(to) });
        Self::over(snapshot, middle)
    }

    /// A scan of the keys that begin with `prefix`.
    pub(crate) fn of_prefix(snapshot: Arc<SnapshotRegistration>, prefix: &[u8]) -> Self {
        let to = bounds::prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        Self::over(snapshot, Some(ScanMiddle { from: Bound::Included(prefix.to_vec()), to }))
    }

    fn over(snapshot: Arc<SnapshotRegistration>, middle: Option<ScanMiddle>) -> Self {
        Self {
            snapshot,
            location: PhantomData,
            live_only: false,
            middle,
            front: ScanBatch::default(),
            back: ScanBatch::default(),
            batch_items: FIRST_BATCH_ITEMS,
            retirements: 0,
        }
    }

    /// The same scan without tombstones.
    pub(crate) fn live_only(self) -> Self {
        Self { live_only: true, ..self }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.snapshot.seq
    }

    /// The next item from one end. `ahead` is called with each location some items before it is
    /// returned.
    pub(crate) fn next(&mut self, end: RangeEnd, guard: &Guard, ahead: impl Fn(L)) -> Option<(&[u8], EntryRecord<L>)> {
        self.check_retirements();
        while self.batch(end).items.is_empty() && self.middle.is_some() {
            self.fill(end, guard, &ahead);
        }
        let from = if self.batch(end).items.is_empty() { end.other() } else { end };
        let batch = self.batch(from);
        let item = batch.pop(from == end)?;
        if let Some(later) = batch.peek(from == end, ITEMS_AHEAD - 1) {
            ahead(later.location());
        }
        Some((batch.key(&item), EntryRecord::new(&item.version)))
    }

    /// Skips the keys up to and including `key`.
    pub(crate) fn skip_to_after(&mut self, key: &[u8]) {
        self.give_back();
        let Some(middle) = &mut self.middle else { return };
        let is_behind = match &middle.from {
            Bound::Included(from) | Bound::Excluded(from) => key >= from.as_slice(),
            Bound::Unbounded => true,
        };
        if is_behind {
            let excluded = !planted("cursor_given_again");
            middle.from = if excluded { Bound::Excluded(key.to_vec()) } else { Bound::Included(key.to_vec()) };
        }
        self.drop_empty_middle();
    }

    /// Ends the scan before `key`.
    pub(crate) fn stop_before(&mut self, key: &[u8]) {
        self.give_back();
        let Some(middle) = &mut self.middle else { return };
        let is_before = match &middle.to {
            Bound::Included(to) | Bound::Excluded(to) => key <= to.as_slice(),
            Bound::Unbounded => true,
        };
        if is_before {
            middle.to = Bound::Excluded(key.to_vec());
        }
        self.drop_empty_middle();
    }

    fn drop_empty_middle(&mut self) {
        let is_empty = |middle: &ScanMiddle| bounds::is_empty(borrow(&middle.from), borrow(&middle.to));
        self.middle = self.middle.take().filter(|middle| !is_empty(middle));
    }

    /// Calls `visit` with the items from the front, until it breaks or `limit` entries were
    /// examined, visible or not. `ahead` as in [`next`](Self::next).
    pub(crate) fn visit(
        &mut self,
        limit: usize,
        guard: &Guard,
        ahead: impl Fn(L),
        mut visit: impl FnMut(&[u8], EntryRecord<L>) -> ControlFlow<()>,
    ) -> Visited {
        let mut left = limit;
        loop {
            if left == 0 {
                return Visited::Some;
            }
            if self.front.items.is_empty() && self.middle.is_some() {
                if let Some(visited) = self.visit_middle(&mut left, guard, &ahead, &mut visit) {
                    return visited;
                }
                continue;
            }
            // Items that calls of `next` have read, from either end.
            left -= 1;
            let Some((key, record)) = self.next(RangeEnd::Front, guard, &ahead) else { return Visited::All };
            if visit(key, record).is_break() {
                return Visited::Stopped;
            }
        }
    }

    /// Visits the middle; `None` if it is used up.
    fn visit_middle(
        &mut self,
        left: &mut usize,
        guard: &Guard,
        ahead: &impl Fn(L),
        visit: &mut impl FnMut(&[u8], EntryRecord<L>) -> ControlFlow<()>,
    ) -> Option<Visited> {
        let mut rest = MiddleRest { middle: self.middle.take(), last: None, slot: &mut self.middle };
        let ScanMiddle { from, to } = rest.middle.as_ref()?;
        let inner = &self.snapshot.inner;
        let (seq, live_only) = (self.snapshot.seq, self.live_only);
        // An old snapshot may need an older location; then only the prefetch is wasted.
        let prefetch = |entry: &IndexEntry| ahead(L::from_bits(entry.newest_location()));
        let mut end = None;
        let last = &mut rest.last;
        let map = &self.snapshot.view.active.map;
        let flow = map.visit(borrow(from), borrow(to), guard, prefetch, |entry| {
            *left -= 1;
            // Set before `visit`, which may panic: the middle then begins behind this key.
            *last = Some(entry.key());
            let version = inner.mvcc.at(entry.value(), seq, guard);
            let version = version.filter(|version| !(live_only && version.word.is_tombstone()));
            if version.is_some_and(|version| visit(entry.key(), EntryRecord::new(&version)).is_break()) {
                end = Some(Visited::Stopped);
                return ControlFlow::Break(());
            }
            if *left == 0 {
                end = Some(Visited::Some);
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        debug_assert_eq!(flow.is_break(), end.is_some());
        if end.is_none() {
            rest.middle = None;
        }
        end
    }

    fn batch(&mut self, end: RangeEnd) -> &mut ScanBatch {
        match end {
            RangeEnd::Front => &mut self.front,
            RangeEnd::Back => &mut self.back,
        }
    }

    /// Returns the unread items to the middle if locations have been retired since they were read.
    fn check_retirements(&mut self) {
        let retirements = self.snapshot.inner.retirements.load(Ordering::SeqCst);
        if retirements == self.retirements || planted("retirement_ignored") {
            return;
        }
        self.retirements = retirements;
        self.give_back();
    }

    /// Returns the unread items to the middle.
    fn give_back(&mut self) {
        let lowest = self.front.first_key().or_else(|| self.middle.is_none().then(|| self.back.last_key()).flatten());
        let highest = self.back.first_key().or_else(|| self.middle.is_none().then(|| self.front.last_key()).flatten());
        let middle = self.middle.take();
        let (from, to) = middle.map_or((None, None), |middle| (Some(middle.from), Some(middle.to)));
        let from = lowest.map(Bound::Included).or(from);
        let to = highest.map(Bound::Included).or(to);
        self.middle = from.zip(to).map(|(from, to)| ScanMiddle { from, to });
        self.front.clear();
        self.back.clear();
    }

    /// Takes a batch from one end of the middle.
    fn fill(&mut self, end: RangeEnd, guard: &Guard, ahead: &impl Fn(L)) {
        let Some(ScanMiddle { from, to }) = self.middle.take() else { return };
        let snapshot = Arc::clone(&self.snapshot);
        let range = snapshot.view.active.map.range(borrow(&from), borrow(&to), guard);
        self.batch(end).clear();
        let last = match end {
            RangeEnd::Front => self.scan(end, range, guard),
            RangeEnd::Back => self.scan(end, range.rev(), guard),
        };
        self.batch_items = (self.batch_items * 2).min(MAX_BATCH_ITEMS);
        self.middle = last.map(|last| match end {
            RangeEnd::Front => ScanMiddle { from: Bound::Excluded(last), to },
            RangeEnd::Back => ScanMiddle { from, to: Bound::Excluded(last) },
        });
        // Last, because it runs the caller's code.
        self.batch(end).items.iter().take(ITEMS_AHEAD).for_each(|item| ahead(item.location()));
    }

    /// Reads visible entries into a batch until it is full. Returns the last key that was read, or
    /// `None` at the end.
    fn scan<'g>(
        &mut self,
        end: RangeEnd,
        entries: impl Iterator<Item = EntryRef<'g, IndexEntry>>,
        guard: &'g Guard,
    ) -> Option<Vec<u8>> {
        for (scanned, entry) in entries.enumerate() {
            if let Some(version) = self.visible(&entry, guard) {
                self.batch(end).push(entry.key(), version);
            }
            if self.batch(end).items.len() == self.batch_items || scanned + 1 == MAX_BATCH_SCANNED {
                return Some(entry.key().to_vec());
            }
        }
        None
    }

    fn visible(&self, entry: &EntryRef<'_, IndexEntry>, guard: &Guard) -> Option<Version> {
        let version = self.snapshot.inner.mvcc.at(entry.value(), self.snapshot.seq, guard)?;
        (!self.live_only || !version.word.is_tombstone()).then_some(version)
    }
}

/// The rest of the middle during a visit. Its drop writes it back, even if the visitor panics.
struct MiddleRest<'a, 'g> {
    middle: Option<ScanMiddle>,
    /// The last examined key.
    last: Option<&'g [u8]>,
    slot: &'a mut Option<ScanMiddle>,
}

impl Drop for MiddleRest<'_, '_> {
    fn drop(&mut self) {
        let mut middle = self.middle.take();
        if let (Some(middle), Some(last)) = (&mut middle, self.last) {
            exclude(&mut middle.from, last);
        }
        if !planted("panic_ends_the_range") || !std::thread::panicking() {
            *self.slot = middle;
        }
    }
}

impl RangeEnd {
    fn other(self) -> Self {
        match self {
            Self::Front => Self::Back,
            Self::Back => Self::Front,
        }
    }
}

impl ScanBatch {
    fn push(&mut self, key: &[u8], version: Version) {
        let key_start = self.keys.len();
        self.keys.extend_from_slice(key);
        self.items.push_back(ScanItem { key_start, key_end: self.keys.len(), version });
    }

    /// The next item from this end's batch, or from the other end's.
    fn pop(&mut self, by_own_end: bool) -> Option<ScanItem> {
        if by_own_end { self.items.pop_front() } else { self.items.pop_back() }
    }

    /// The item behind `skipped` others.
    fn peek(&self, by_own_end: bool, skipped: usize) -> Option<&ScanItem> {
        self.items.get(if by_own_end { skipped } else { self.items.len().checked_sub(skipped + 1)? })
    }

    fn key(&self, item: &ScanItem) -> &[u8] {
        self.keys.get(item.key_start..item.key_end).unwrap_or_default()
    }

    fn first_key(&self) -> Option<Vec<u8>> {
        self.items.front().map(|item| self.key(item).to_vec())
    }

    fn last_key(&self) -> Option<Vec<u8>> {
        self.items.back().map(|item| self.key(item).to_vec())
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.items.clear();
    }
}

fn borrow(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// Makes a lower bound exclude `key`, in the memory that it has.
fn exclude(bound: &mut Bound<Vec<u8>>, key: &[u8]) {
    let mut bytes = match std::mem::replace(bound, Bound::Unbounded) {
        Bound::Included(bytes) | Bound::Excluded(bytes) => bytes,
        Bound::Unbounded => Vec::new(),
    };
    bytes.clear();
    bytes.extend_from_slice(key);
    *bound = Bound::Excluded(bytes);
}
