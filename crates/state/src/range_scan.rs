//! The scan of the iterators: batches from either end of a key range, at a snapshot.
//!
//! The unread keys between two bounds are the *middle*. A batch is read from one end of the middle
//! under a guard; its keys are copied, and returned without a guard. When the middle is empty, each
//! end continues with the far side of the other end's batch.
//!
//! A location in a batch may be retired before it is returned. A batch therefore stores the count
//! of retirements. When the count has changed, the scan returns the remaining items to the middle,
//! and reads them again under the caller's guard.
//!
//! [`RangeScan::visit`] is the fast path for callers that read all items in order: one guard covers
//! the whole visit, so it borrows the index's keys without a copy.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::ops::{Bound, ControlFlow, Range};
use std::sync::Arc;

use hightower_index::{EntryRef, Guard, Map};
use hightower_table::{EntryRun, TableEntry};

use crate::bounds;
use crate::change::EntryRecord;
use crate::entry::IndexEntry;
use crate::inner::SnapshotRegistration;
use crate::levels::view::Memtable;
use crate::location::Location;
use crate::mutants::planted;
use crate::sync::Ordering;
use crate::version::Version;

/// The size of the first batch: small, so that a short range is cheap. Each further batch is twice
/// as large.
const FIRST_BATCH_ITEMS: usize = 4;
const MAX_BATCH_ITEMS: usize = 64;
/// Maximum number of entries in a batch, visible or not, which bounds the lifetime of a guard.
pub(crate) const MAX_BATCH_SCANNED: usize = 4 * MAX_BATCH_ITEMS;

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

/// A key in place, and its entry.
pub type EntryInPlace<'a, L> = (&'a [u8], EntryRecord<L>);

/// An end of the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RangeEnd {
    Front,
    Back,
}

/// The keys of a range scan: one memtable, or all levels of a view.
pub(crate) trait ScanSource {
    /// The error that ends the scan.
    type Error;

    /// The map in the snapshot's view that has every key of this source, if there is one.
    fn map_in_place<'s>(&self, snapshot: &'s SnapshotRegistration) -> Option<&'s Map<IndexEntry>>;

    /// Reads visible entries from one end of the middle into a batch, until the batch has `items`
    /// or [`MAX_BATCH_SCANNED`] entries have been read; a block of a table is read to its end.
    /// Returns `false` at the end of the middle; else it writes the last key that was read into
    /// `last`, which is empty.
    fn fill(
        &mut self,
        batch: &mut ScanBatch,
        part: &ScanPart<'_>,
        guard: &Guard,
        last: &mut Vec<u8>,
    ) -> Result<bool, Self::Error>;

    /// Called when the middle has changed by anything other than a fill.
    fn start_again(&mut self);
}

/// The part of a range from which a batch is read.
pub(crate) struct ScanPart<'a> {
    pub(crate) snapshot: &'a Arc<SnapshotRegistration>,
    pub(crate) middle: &'a ScanMiddle,
    pub(crate) end: RangeEnd,
    pub(crate) items: usize,
    /// Without tombstones.
    pub(crate) live_only: bool,
}

/// One memtable.
pub(crate) enum OneMemtable {
    /// The active memtable of the snapshot's view.
    Active,
    Other(Memtable),
}

/// A range during a scan.
pub(crate) struct RangeScan<L, S> {
    source: S,
    snapshot: Arc<SnapshotRegistration>,
    location: PhantomData<fn(L) -> L>,
    live_only: bool,
    /// The middle; `None` when it is empty.
    middle: Option<ScanMiddle>,
    front: ScanBatch,
    back: ScanBatch,
    batch_items: usize,
    /// The last key of a fill, which keeps its memory.
    last: Vec<u8>,
    /// The count of retirements when both batches were read.
    retirements: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct ScanMiddle {
    pub(crate) from: Bound<Vec<u8>>,
    pub(crate) to: Bound<Vec<u8>>,
}

/// Items in the order in which their end returns them.
#[derive(Debug, Default)]
pub(crate) struct ScanBatch {
    keys: Vec<u8>,
    items: Vec<ScanItem>,
    /// The number of items that this end has returned.
    returned: usize,
}

#[derive(Clone, Debug)]
struct ScanItem {
    /// The place of the key among the batch's keys.
    key: Range<usize>,
    version: Version,
}

impl ScanItem {
    fn location<L: Location>(&self) -> L {
        L::from_bits(self.version.word.location())
    }
}

impl<L: Location, S: ScanSource> RangeScan<L, S> {
    pub(crate) fn new(source: S, snapshot: Arc<SnapshotRegistration>, from: Bound<&[u8]>, to: Bound<&[u8]>) -> Self {
        let owned = |bound: Bound<&[u8]>| bound.map(<[u8]>::to_vec);
        let middle = (!bounds::is_empty(from, to)).then(|| ScanMiddle { from: owned(from), to: owned(to) });
        Self::over(source, snapshot, middle)
    }

    /// A scan of the keys that begin with `prefix`.
    pub(crate) fn of_prefix(source: S, snapshot: Arc<SnapshotRegistration>, prefix: &[u8]) -> Self {
        let to = bounds::prefix_end(prefix).map_or(Bound::Unbounded, Bound::Excluded);
        Self::over(source, snapshot, Some(ScanMiddle { from: Bound::Included(prefix.to_vec()), to }))
    }

    fn over(source: S, snapshot: Arc<SnapshotRegistration>, middle: Option<ScanMiddle>) -> Self {
        Self {
            source,
            snapshot,
            location: PhantomData,
            live_only: false,
            middle,
            front: ScanBatch::default(),
            back: ScanBatch::default(),
            batch_items: FIRST_BATCH_ITEMS,
            last: Vec::new(),
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

    /// The next item from one end. Calls `ahead` with each location some items before returning it.
    #[inline]
    pub(crate) fn next(
        &mut self,
        end: RangeEnd,
        guard: &Guard,
        ahead: impl Fn(L),
    ) -> Result<Option<EntryInPlace<'_, L>>, S::Error> {
        self.check_retirements();
        while self.batch(end).is_empty() && self.middle.is_some() {
            self.fill(end, guard, &ahead)?;
        }
        let from = if self.batch(end).is_empty() { end.other() } else { end };
        let batch = self.batch(from);
        let Some(item) = batch.pop(from == end) else { return Ok(None) };
        if let Some(later) = batch.peek(from == end, ITEMS_AHEAD - 1) {
            ahead(later.location());
        }
        Ok(Some((batch.key(&item), EntryRecord::new(&item.version))))
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
    ) -> Result<Visited, S::Error> {
        let mut left = limit;
        let snapshot = Arc::clone(&self.snapshot);
        let map = self.source.map_in_place(&snapshot);
        loop {
            if left == 0 {
                return Ok(Visited::Some);
            }
            if let Some(map) = map
                && self.front.is_empty()
                && self.middle.is_some()
            {
                if let Some(visited) = self.visit_middle(map, &mut left, guard, &ahead, &mut visit) {
                    return Ok(visited);
                }
                continue;
            }
            // Visits an item that either end has read ahead.
            left -= 1;
            let Some((key, record)) = self.next(RangeEnd::Front, guard, &ahead)? else { return Ok(Visited::All) };
            if visit(key, record).is_break() {
                return Ok(Visited::Stopped);
            }
            // The guard of this visit keeps the locations of the batch.
            while left > 0
                && let Some(item) = self.front.pop(true)
            {
                left -= 1;
                if let Some(later) = self.front.peek(true, ITEMS_AHEAD - 1) {
                    ahead(later.location());
                }
                if visit(self.front.key(&item), EntryRecord::new(&item.version)).is_break() {
                    return Ok(Visited::Stopped);
                }
            }
        }
    }

    /// Visits the middle; `None` when it is used up.
    fn visit_middle(
        &mut self,
        map: &Map<IndexEntry>,
        left: &mut usize,
        guard: &Guard,
        ahead: &impl Fn(L),
        visit: &mut impl FnMut(&[u8], EntryRecord<L>) -> ControlFlow<()>,
    ) -> Option<Visited> {
        let mut rest = MiddleRest { middle: self.middle.take(), last: None, slot: &mut self.middle };
        let ScanMiddle { from, to } = rest.middle.as_ref()?;
        let inner = &self.snapshot.inner;
        let (seq, live_only) = (self.snapshot.seq, self.live_only);
        // An old snapshot may need an older location. Then only the prefetch is wasted.
        let prefetch = |entry: &IndexEntry| ahead(L::from_bits(entry.newest_location()));
        let mut end = None;
        let last = &mut rest.last;
        let flow = map.visit(borrow(from), borrow(to), guard, prefetch, |entry| {
            *left -= 1;
            // Set before `visit`, which may panic. The middle then begins after this key.
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

    /// Returns the batches' items to the middle if locations have been retired since the batches
    /// were read.
    fn check_retirements(&mut self) {
        let retirements = self.snapshot.inner.retirements.load(Ordering::SeqCst);
        if retirements == self.retirements || planted("retirement_ignored") {
            return;
        }
        self.retirements = retirements;
        self.give_back();
    }

    /// Returns the batches' items to the middle.
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
        self.source.start_again();
    }

    /// Reads a batch from one end of the middle. An error ends the scan.
    fn fill(&mut self, end: RangeEnd, guard: &Guard, ahead: &impl Fn(L)) -> Result<(), S::Error> {
        let Some(middle) = self.middle.take() else { return Ok(()) };
        let batch = match end {
            RangeEnd::Front => &mut self.front,
            RangeEnd::Back => &mut self.back,
        };
        batch.clear();
        let (snapshot, items, live_only) = (&self.snapshot, self.batch_items, self.live_only);
        let part = ScanPart { snapshot, middle: &middle, end, items, live_only };
        self.last.clear();
        let filled = self.source.fill(batch, &part, guard, &mut self.last);
        let has_more = filled.inspect_err(|_| {
            self.front.clear();
            self.back.clear();
        })?;
        self.batch_items = (self.batch_items * 2).min(MAX_BATCH_ITEMS);
        if has_more {
            let mut middle = middle;
            match end {
                RangeEnd::Front => exclude(&mut middle.from, &self.last),
                RangeEnd::Back => exclude(&mut middle.to, &self.last),
            }
            self.middle = Some(middle);
        }
        // This comes last, because it runs the caller's code.
        self.batch(end).left().iter().take(ITEMS_AHEAD).for_each(|item| ahead(item.location()));
        Ok(())
    }
}

impl ScanSource for OneMemtable {
    type Error = Infallible;

    fn map_in_place<'s>(&self, snapshot: &'s SnapshotRegistration) -> Option<&'s Map<IndexEntry>> {
        matches!(self, Self::Active).then_some(&snapshot.view.active.map)
    }

    fn fill(
        &mut self,
        batch: &mut ScanBatch,
        part: &ScanPart<'_>,
        guard: &Guard,
        last: &mut Vec<u8>,
    ) -> Result<bool, Infallible> {
        let map = match self {
            Self::Active => &part.snapshot.view.active.map,
            Self::Other(memtable) => &memtable.map,
        };
        let range = map.range(borrow(&part.middle.from), borrow(&part.middle.to), guard);
        Ok(match part.end {
            RangeEnd::Front => scan(batch, part, range, guard, last),
            RangeEnd::Back => scan(batch, part, range.rev(), guard, last),
        })
    }

    /// Nothing to do: each fill begins at the middle.
    fn start_again(&mut self) {}
}

/// Reads visible entries into a batch until it is full, as [`ScanSource::fill`] does.
fn scan<'g>(
    batch: &mut ScanBatch,
    part: &ScanPart<'_>,
    entries: impl Iterator<Item = EntryRef<'g, IndexEntry>>,
    guard: &'g Guard,
    last: &mut Vec<u8>,
) -> bool {
    let mvcc = &part.snapshot.inner.mvcc;
    for (scanned, entry) in entries.enumerate() {
        let version = mvcc.at(entry.value(), part.snapshot.seq, guard);
        if let Some(version) = version.filter(|version| !part.live_only || !version.word.is_tombstone()) {
            batch.push(entry.key(), version);
        }
        if batch.len() == part.items || scanned + 1 == MAX_BATCH_SCANNED {
            last.extend_from_slice(entry.key());
            return true;
        }
    }
    false
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
    /// The items that are left.
    fn left(&self) -> &[ScanItem] {
        self.items.get(self.returned..).unwrap_or_default()
    }

    /// The number of items that are left.
    pub(crate) fn len(&self) -> usize {
        self.items.len() - self.returned
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn push(&mut self, key: &[u8], version: Version) {
        let start = self.keys.len();
        self.keys.extend_from_slice(key);
        self.items.push(ScanItem { key: start..self.keys.len(), version });
    }

    /// Adds the keys of a run that have a version.
    pub(crate) fn push_run(&mut self, run: EntryRun<'_>, version: impl Fn(&TableEntry) -> Option<Version>) {
        let start = self.keys.len();
        self.keys.extend_from_slice(run.bytes());
        let item = |(key, entry): (Range<usize>, &TableEntry)| {
            Some(ScanItem { key: start + key.start..start + key.end, version: version(entry)? })
        };
        self.items.reserve(run.len());
        self.items.extend(run.places().filter_map(item));
    }

    /// The next item from this end's batch, or from the other end's.
    fn pop(&mut self, by_own_end: bool) -> Option<ScanItem> {
        if !by_own_end {
            return if self.is_empty() { None } else { self.items.pop() };
        }
        let item = self.items.get(self.returned).cloned()?;
        self.returned += 1;
        Some(item)
    }

    /// The item behind `skipped` others.
    fn peek(&self, by_own_end: bool, skipped: usize) -> Option<&ScanItem> {
        let left = self.left();
        left.get(if by_own_end { skipped } else { left.len().checked_sub(skipped + 1)? })
    }

    fn key(&self, item: &ScanItem) -> &[u8] {
        self.keys.get(item.key.clone()).unwrap_or_default()
    }

    fn first_key(&self) -> Option<Vec<u8>> {
        self.left().first().map(|item| self.key(item).to_vec())
    }

    fn last_key(&self) -> Option<Vec<u8>> {
        self.left().last().map(|item| self.key(item).to_vec())
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.items.clear();
        self.returned = 0;
    }
}

fn borrow(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// Makes a bound exclude `key`, and reuses its memory.
fn exclude(bound: &mut Bound<Vec<u8>>, key: &[u8]) {
    let mut bytes = match std::mem::replace(bound, Bound::Unbounded) {
        Bound::Included(bytes) | Bound::Excluded(bytes) => bytes,
        Bound::Unbounded => Vec::new(),
    };
    bytes.clear();
    bytes.extend_from_slice(key);
    *bound = Bound::Excluded(bytes);
}
