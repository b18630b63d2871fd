//! The segments that records are read from, found by id without a lock or a shared counter.
//!
//! The table is replaced as a whole when a segment comes or goes; readers look at the one that was current when they came, under an
//! epoch guard, and the old one is freed once none of them is left. Ids are consecutive but for gaps that compaction leaves, so a table of twice as
//! many slots, indexed by the low bits of the id, finds most segments at the first look.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hightower_index::{Guard, Published, prefetch_read};
use hightower_segment::Segment;

use crate::error::{Error, Result};
use crate::place::{HintedPlace, MAX_SEGMENT_ID, Place};
use crate::sync::Mutex;

/// A segment, and how much of it still counts.
///
/// The books are kept by whoever holds the state's writer lock (or loads the store, alone), so that adding needs no locked instruction; anybody
/// may read them.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) segment: Arc<Segment>,
    /// How many records it holds.
    records: AtomicU64,
    /// Bytes of records that are the latest of their key, tombstones included.
    live_bytes: AtomicU64,
    /// How many such records.
    live_records: AtomicU64,
    /// Bytes of those of them that are tombstones.
    tombstone_bytes: AtomicU64,
}

impl Tracked {
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            records: AtomicU64::new(0),
            live_bytes: AtomicU64::new(0),
            live_records: AtomicU64::new(0),
            tombstone_bytes: AtomicU64::new(0),
        }
    }

    /// So many records were added. The caller holds the state's writer lock, or nobody else knows the segment yet.
    pub(crate) fn add_records(&self, records: u64) {
        add(&self.records, records, Ordering::Relaxed);
    }

    /// A record of so many bytes became the latest of its key. The caller holds the state's writer lock.
    pub(crate) fn add_live(&self, len_bytes: u32, is_tombstone: bool) {
        add(&self.live_bytes, len_bytes.into(), Ordering::Relaxed);
        add(&self.live_records, 1, Ordering::Release);
        if is_tombstone {
            add(&self.tombstone_bytes, len_bytes.into(), Ordering::Relaxed);
        }
    }

    /// A record of so many bytes was overtaken. The caller holds the state's writer lock.
    pub(crate) fn remove_live(&self, len_bytes: u32, was_tombstone: bool) {
        subtract(&self.live_bytes, len_bytes.into());
        subtract(&self.live_records, 1);
        if was_tombstone {
            subtract(&self.tombstone_bytes, len_bytes.into());
        }
    }

    /// So many records, found all at once when the store is opened, are the latest of their keys.
    pub(crate) fn add_loaded(&self, records: u64, bytes: u64, tombstone_bytes: u64) {
        add(&self.live_records, records, Ordering::Release);
        add(&self.live_bytes, bytes, Ordering::Relaxed);
        add(&self.tombstone_bytes, tombstone_bytes, Ordering::Relaxed);
    }

    /// Read after [`live_records`](Self::live_records), it is never below it.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Acquire)
    }

    pub(crate) fn tombstone_bytes(&self) -> u64 {
        self.tombstone_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn live_records(&self) -> u64 {
        self.live_records.load(Ordering::Acquire)
    }
}

/// Adds to a number that others read but nobody else changes at the moment.
#[inline]
fn add(number: &AtomicU64, more: u64, order: Ordering) {
    number.store(number.load(Ordering::Relaxed).wrapping_add(more), order);
}

/// Takes away from such a number.
#[inline]
fn subtract(number: &AtomicU64, less: u64) {
    number.store(number.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Relaxed);
}

/// All segments, as of one moment.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// A power of two of slots, at least twice as many as segments; a segment stands in the first free slot from its id's on. The id stands
    /// beside it, so that the search touches nothing else.
    slots: Vec<Option<(u32, Arc<Tracked>)>>,
    /// The segments by the ends of their ids: of those with one end, one of them.
    hinted: Vec<Option<Arc<Segment>>>,
}

impl Table {
    fn of(tracked: impl Iterator<Item = Arc<Tracked>>) -> Self {
        let all: Vec<_> = tracked.collect();
        let mut table =
            Self { slots: vec![None; (all.len() * 2).next_power_of_two()], hinted: vec![None; HintedPlace::SEGMENTS] };
        let mask = table.slots.len() - 1;
        for tracked in all {
            let id = tracked.segment.id();
            table.hinted[HintedPlace::segment_of(id)] = Some(Arc::clone(&tracked.segment));
            let mut at = id as usize & mask;
            while table.slots[at].is_some() {
                at = (at + 1) & mask;
            }
            table.slots[at] = Some((id, tracked));
        }
        table
    }

    /// The segment with this id.
    #[inline]
    pub(crate) fn find(&self, id: u32) -> Option<&Arc<Tracked>> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = id as usize & mask;
        // Half of the slots are empty, so the search ends.
        while let Some((found, tracked)) = self.slots.get(at)?.as_ref() {
            if *found == id {
                return Some(tracked);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Asks the processor for the first bytes of the record at `place`, for a read that follows soon.
    #[inline]
    pub(crate) fn prefetch(&self, place: Place) {
        if let Some(tracked) = self.find(place.segment) {
            prefetch_read(tracked.segment.bytes_from(place.offset));
        }
    }

    /// Asks the processor for the first bytes of the record that a hint tells of, if there is one.
    #[inline]
    pub(crate) fn prefetch_hinted(&self, hint: HintedPlace) {
        if let Some(Some(segment)) = self.hinted.get(hint.segment()) {
            prefetch_read(segment.bytes_from(hint.offset()));
        }
    }

    /// All segments, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Tracked>> {
        self.slots.iter().flatten().map(|(_, tracked)| tracked)
    }
}

/// The current table, and the lock that changes of it take turns with.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    current: Published<Table>,
    changing: Mutex<()>,
}

impl Segments {
    /// The current table, for as long as the guard lives.
    #[inline]
    pub(crate) fn table<'g>(&'g self, guard: &'g Guard) -> Option<&'g Table> {
        self.current.load(guard)
    }

    /// The segment with this id, for as long as the guard lives.
    #[inline]
    pub(crate) fn find<'g>(&'g self, id: u32, guard: &'g Guard) -> Option<&'g Arc<Tracked>> {
        self.table(guard)?.find(id)
    }

    /// Bytes of records that are the latest of their key, in all segments.
    pub(crate) fn live_bytes(&self) -> u64 {
        let guard = hightower_index::pin();
        self.table(&guard).into_iter().flat_map(Table::iter).map(|tracked| tracked.live_bytes()).sum()
    }

    /// All segments, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Tracked>> {
        let guard = hightower_index::pin();
        let mut all: Vec<_> = self.table(&guard).into_iter().flat_map(Table::iter).cloned().collect();
        all.sort_by_key(|tracked| tracked.segment.id());
        all
    }

    /// Adds a segment, unless it is there; gives the one that is.
    pub(crate) fn add(&self, segment: Arc<Segment>) -> Result<Arc<Tracked>> {
        let id = segment.id();
        if id > MAX_SEGMENT_ID {
            let (found, limit) = (u64::from(id), u64::from(MAX_SEGMENT_ID));
            return Err(Error::LimitExceeded { what: "segment id", found, limit });
        }
        let _turn = self.changing.lock();
        let guard = hightower_index::pin();
        if let Some(known) = self.find(id, &guard) {
            return Ok(Arc::clone(known));
        }
        let tracked = Arc::new(Tracked::new(segment));
        let all = self.table(&guard).into_iter().flat_map(Table::iter).cloned();
        let table = Table::of(all.chain([Arc::clone(&tracked)]));
        self.replace(table, &guard);
        Ok(tracked)
    }

    /// Takes segments out. Readers that came before keep what they have found.
    pub(crate) fn remove(&self, ids: &[u32]) {
        let _turn = self.changing.lock();
        let guard = hightower_index::pin();
        let kept = self.table(&guard).into_iter().flat_map(Table::iter);
        let table = Table::of(kept.filter(|tracked| !ids.contains(&tracked.segment.id())).cloned());
        self.replace(table, &guard);
    }

    /// Hands the old table over for freeing at once: it holds segments, whose files wait for it.
    fn replace(&self, table: Table, guard: &Guard) {
        self.current.store(Some(Box::new(table)), guard);
        guard.flush();
    }
}
