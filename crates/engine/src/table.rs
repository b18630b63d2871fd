//! The segments that records are read from, found by id without a lock or a shared counter.
//!
//! A new segment is put into a free slot of the table, where readers see it at once. The table is
//! replaced when it is half full or when segments are removed. Readers use the table that was
//! current when they took their epoch guard; a replaced table is freed when the last such reader
//! ends. Adding a segment thus costs the same for any number of segments, except for the copy when
//! the number has doubled. Ids are consecutive except for gaps left by compaction, so a table with
//! at least twice as many slots as segments, indexed by the low bits of the id, finds most segments
//! in the first slot.

use std::cell::RefCell;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use hightower_index::{Guard, Published, prefetch_read};
use hightower_segment::{ReadAhead, Segment};
use hightower_table::SegmentCounts;

use crate::entry_counts::{EntryCounts, add, subtract};
use crate::error::{Error, Result};
use crate::mutants::planted;
use crate::place::{HintedPlace, MAX_SEGMENT_ID, Place};
use crate::sync::Mutex;
use hightower_state::SegmentSet;

/// A segment, and counts of the entries that point into it. The segment's other records are dead.
///
/// The holder of the state's writer lock (or the single thread that opens the store) updates the
/// counts, so that an addition needs no locked instruction. Any thread may read them.
#[derive(Debug)]
pub(crate) struct Tracked {
    pub(crate) segment: Arc<Segment>,
    /// The number of its records.
    records: AtomicU64,
    /// The entries of memtables.
    memtables: EntryCounts,
    /// The entries of tables: the sum over their footers.
    tables: EntryCounts,
    /// Of both, the ones that a higher level was seen to hide.
    hidden: EntryCounts,
    /// Whether the manifest no longer names it; older views may still lead to it.
    is_retired: AtomicBool,
}

impl Tracked {
    pub(crate) fn new(segment: Arc<Segment>) -> Self {
        Self {
            segment,
            records: AtomicU64::new(0),
            memtables: EntryCounts::default(),
            tables: EntryCounts::default(),
            hidden: EntryCounts::default(),
            is_retired: AtomicBool::new(false),
        }
    }

    /// Counts added records. The caller holds the state's writer lock, or no other thread knows the
    /// segment yet.
    pub(crate) fn add_records(&self, records: u64) {
        add(&self.records, records, Ordering::Relaxed);
    }

    /// The active memtable has a new entry for a record of this length. The caller holds the
    /// state's writer lock.
    #[inline]
    pub(crate) fn add_live(&self, len_bytes: u32, is_tombstone: bool) {
        add(&self.memtables.len_bytes, len_bytes.into(), Ordering::Relaxed);
        add(&self.memtables.entries, 1, Ordering::Release);
        if is_tombstone {
            add(&self.memtables.tombstones, 1, Ordering::Relaxed);
        }
    }

    /// An entry of the active memtable for a record of this length was replaced. The caller holds
    /// the state's writer lock.
    #[inline]
    pub(crate) fn remove_live(&self, len_bytes: u32, was_tombstone: bool) {
        subtract(&self.memtables.len_bytes, len_bytes.into());
        subtract(&self.memtables.entries, 1);
        if was_tombstone {
            subtract(&self.memtables.tombstones, 1);
        }
    }

    /// Adds entries of the active memtable, as counted when the store is opened.
    pub(crate) fn add_loaded(&self, counts: &SegmentCounts) {
        self.memtables.add(counts);
    }

    /// Never below [`live_records`](Self::live_records), if that is read first.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Acquire)
    }

    /// The number of entries that are tombstones.
    pub(crate) fn tombstones(&self) -> u64 {
        self.visible(|counts| &counts.tombstones)
    }

    /// Bytes of the records that entries point to.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.visible(|counts| &counts.len_bytes)
    }

    /// The number of the entries that point into it.
    pub(crate) fn live_records(&self) -> u64 {
        self.visible(|counts| &counts.entries)
    }

    /// A number over all entries without those that are known to be hidden.
    fn visible(&self, number: impl Fn(&EntryCounts) -> &AtomicU64) -> u64 {
        let of = |counts: &EntryCounts| number(counts).load(Ordering::Acquire);
        (of(&self.memtables) + of(&self.tables)).saturating_sub(of(&self.hidden))
    }
}

/// A slot: empty, or an id and its segment.
type Slot = OnceLock<(u32, Arc<Tracked>)>;

/// The segments of the last replacement of the table, and those added since.
#[derive(Debug)]
pub(crate) struct Table {
    /// The number of slots is a power of two, and at least twice the number of segments. A segment
    /// is in the first free slot at or behind that of its id. The id is beside it, so that the
    /// search touches nothing else.
    slots: Box<[Slot]>,
    /// The segments by the low bits of their ids; of several with the same low bits, the one added
    /// first.
    hinted: Box<[OnceLock<Arc<Segment>>]>,
}

impl Table {
    /// The smallest number of slots of a table.
    const LEAST_SLOTS: usize = 16;

    fn of(all: &[Arc<Tracked>]) -> Self {
        // A quarter to an eighth of the slots is used, so that at least as many segments can be
        // added before the next copy.
        let slots = (all.len() * 4).next_power_of_two().max(Self::LEAST_SLOTS);
        let table = Self {
            slots: std::iter::repeat_with(OnceLock::new).take(slots).collect(),
            hinted: std::iter::repeat_with(OnceLock::new).take(HintedPlace::SEGMENTS).collect(),
        };
        all.iter().for_each(|tracked| table.put(tracked));
        table
    }

    /// Puts a segment into the first free slot at or behind that of its id. Only the caller changes
    /// the table, and half of it is free.
    fn put(&self, tracked: &Arc<Tracked>) {
        let id = tracked.segment.id();
        let mask = self.slots.len() - 1;
        // A segment with the same low bits of its id may already be there.
        let _first_come = self.hinted[HintedPlace::segment_of(id)].set(Arc::clone(&tracked.segment));
        let mut at = id as usize & mask;
        while self.slots[at].set((id, Arc::clone(tracked))).is_err() {
            at = (at + 1) & mask;
        }
    }

    /// The segment with this id.
    #[inline]
    pub(crate) fn find(&self, id: u32) -> Option<&Arc<Tracked>> {
        let mask = self.slots.len().wrapping_sub(1);
        let mut at = id as usize & mask;
        // Half of the slots are empty, so the search ends.
        while let Some((found, tracked)) = self.slots.get(at)?.get() {
            if *found == id {
                return Some(tracked);
            }
            at = (at + 1) & mask;
        }
        None
    }

    /// Prefetches the first bytes of the record at `place`, for a read that follows soon.
    #[inline]
    pub(crate) fn prefetch(&self, place: Place) {
        if let Some(tracked) = self.find(place.segment) {
            prefetch_read(tracked.segment.bytes_from(place.offset));
        }
    }

    /// The same for a reader of many records; starts read-ahead of the device while they are
    /// adjacent.
    #[inline]
    pub(crate) fn prefetch_in_order(&self, place: Place, order: &RefCell<&mut SequentialReads>) {
        let Some(tracked) = self.find(place.segment) else { return };
        order.borrow_mut().read_ahead(place, tracked);
        prefetch_read(tracked.segment.bytes_from(place.offset));
    }

    /// Prefetches the first bytes of the record at a hint's place, if its segment exists.
    #[inline]
    pub(crate) fn prefetch_hinted(&self, hint: HintedPlace) {
        if let Some(segment) = self.hinted.get(hint.segment()).and_then(OnceLock::get) {
            prefetch_read(segment.bytes_from(hint.offset()));
        }
    }

    /// All segments, in any order, retired ones too.
    fn iter(&self) -> impl Iterator<Item = &Arc<Tracked>> {
        self.slots.iter().filter_map(OnceLock::get).map(|(_, tracked)| tracked)
    }

    /// The segments that the manifest names, in any order.
    fn named(&self) -> impl Iterator<Item = &Arc<Tracked>> {
        self.iter().filter(|tracked| !tracked.is_retired.load(Ordering::Acquire))
    }
}

/// Detects that a reader of many records reads segments from front to back, one or several in turn,
/// and then starts read-ahead of the device.
#[derive(Debug, Default)]
pub(crate) struct SequentialReads {
    streams: [Stream; Self::STREAMS],
    /// The stream of the last record.
    last: usize,
    /// The next stream to replace, unless its records were adjacent since it was last considered.
    next_victim: usize,
}

/// The reads of one segment.
#[derive(Debug, Default)]
struct Stream {
    segment: u32,
    offset: u32,
    /// The number of consecutive records that lay shortly behind their predecessor.
    run: u32,
    ahead: ReadAhead,
}

impl SequentialReads {
    /// The number of segments that a scan may read in turn. Each compaction sorts only its own
    /// records, so a scan alternates between outputs of several.
    const STREAMS: usize = 16;
    /// Maximum number of them that count as readers of whole segments: the system reads up to
    /// many megabytes ahead of each, which small memory does not hold for all.
    const WHOLE_MAX: usize = 4;
    /// The number of consecutive records that starts read-ahead.
    const RUN: u32 = 8;
    /// The largest distance of consecutive records. A record further behind is read alone.
    const NEAR_BYTES: u32 = 64 << 10;

    /// Notes that the reader is at `place` in this segment.
    #[inline]
    pub(crate) fn read_ahead(&mut self, place: Place, tracked: &Tracked) {
        let Place { segment, offset } = place;
        let is_last = self.streams.get(self.last).is_some_and(|stream| stream.segment == segment);
        if !is_last && !self.find(place) {
            return;
        }
        let Some(stream) = self.streams.get_mut(self.last) else { return };
        // A scan prefetches its next records again when it continues under a new guard.
        if stream.offset.wrapping_sub(offset) <= Self::NEAR_BYTES && !planted("scans_lose_their_order") {
            return;
        }
        let is_near = offset.wrapping_sub(stream.offset) <= Self::NEAR_BYTES;
        stream.offset = offset;
        if !is_near {
            (stream.run, stream.ahead) = (0, ReadAhead::from(offset));
        } else if stream.run < Self::RUN {
            stream.run += 1;
        } else if stream.ahead.is_due(offset) {
            self.ask(offset, tracked);
        }
    }

    #[cold]
    fn ask(&mut self, offset: u32, tracked: &Tracked) {
        let in_order = self.streams.iter().filter(|stream| stream.ahead.is_in_order()).count();
        if let Some(stream) = self.streams.get_mut(self.last) {
            let may_read_all = in_order < Self::WHOLE_MAX || planted("every_stream_reads_all");
            tracked.segment.read_ahead(&mut stream.ahead, offset, may_read_all);
        }
    }

    /// Makes the segment's stream the last one. A segment without a stream may take over one whose
    /// records were not adjacent lately.
    fn find(&mut self, Place { segment, offset }: Place) -> bool {
        if let Some(found) = self.streams.iter().position(|stream| stream.segment == segment) {
            self.last = if planted("scans_follow_one_segment") { 0 } else { found };
            return true;
        }
        self.next_victim = (self.next_victim + 1) % Self::STREAMS;
        let Some(victim) = self.streams.get_mut(self.next_victim) else { return false };
        if victim.run > 0 {
            victim.run -= 1;
        } else {
            *victim = Stream { segment, offset, run: 0, ahead: ReadAhead::from(offset) };
        }
        false
    }
}

/// Sums over all segments, updated with each change of the table.
#[derive(Debug, Default)]
struct Totals {
    /// Number of segments, retired ones too.
    segments: usize,
    /// Total length of the segments that no longer grow.
    sealed_bytes: u64,
    /// The other segments, and those that were sealed since the last look.
    unsealed: Vec<Arc<Tracked>>,
    /// The number of them at which they are looked at again.
    look_at: usize,
}

impl Totals {
    /// Total length of all segments.
    fn len_bytes(&mut self) -> u64 {
        let mut grown = 0;
        let sealed_bytes = &mut self.sealed_bytes;
        self.unsealed.retain(|tracked| {
            let is_sealed = tracked.segment.is_sealed();
            let len = u64::from(tracked.segment.len_bytes());
            *(if is_sealed { &mut *sealed_bytes } else { &mut grown }) += len;
            !is_sealed
        });
        *sealed_bytes + grown
    }
}

/// The current table, and the lock of its changes.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    current: Published<Table>,
    totals: Mutex<Totals>,
}

impl Segments {
    /// These segments, with the numbers of their records. Unlike [`add`](Self::add), it leaves no
    /// replaced table behind that would hold them until the end of an epoch.
    pub(crate) fn of(segments: impl Iterator<Item = (Arc<Segment>, u64)>) -> Result<Self> {
        let tracked = segments.map(|(segment, records)| {
            check_id(segment.id())?;
            let tracked = Tracked::new(segment);
            tracked.add_records(records);
            Ok(Arc::new(tracked))
        });
        let all: Vec<Arc<Tracked>> = tracked.collect::<Result<_>>()?;
        let table = Published::new(Table::of(&all));
        let mut totals = Totals { segments: all.len(), unsealed: all, ..Totals::default() };
        totals.len_bytes();
        Ok(Self { current: table, totals: Mutex::new(totals) })
    }

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

    /// The number of segments.
    pub(crate) fn count(&self) -> usize {
        self.totals.lock().segments
    }

    /// Total length of all segments. Reads only the unsealed ones.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.totals.lock().len_bytes()
    }

    /// Bytes of the records that entries point to, in all segments. Reads each.
    pub(crate) fn live_bytes(&self) -> u64 {
        let guard = hightower_index::pin();
        self.table(&guard).into_iter().flat_map(Table::named).map(|tracked| tracked.live_bytes()).sum()
    }

    /// All segments that the manifest names, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Tracked>> {
        let guard = hightower_index::pin();
        let mut all: Vec<_> = self.table(&guard).into_iter().flat_map(Table::named).cloned().collect();
        all.sort_unstable_by_key(|tracked| tracked.segment.id());
        all
    }

    /// Adds a segment, unless its id is already in the table; returns the one in the table.
    pub(crate) fn add(&self, segment: Arc<Segment>) -> Result<Arc<Tracked>> {
        let id = segment.id();
        check_id(id)?;
        let mut totals = self.totals.lock();
        let guard = hightower_index::pin();
        if let Some(known) = self.find(id, &guard) {
            return Ok(Arc::clone(known));
        }
        let tracked = Arc::new(Tracked::new(segment));
        totals.segments += 1;
        totals.unsealed.push(Arc::clone(&tracked));
        if totals.unsealed.len() >= totals.look_at {
            totals.len_bytes();
            totals.look_at = totals.unsealed.len() * 2 + Table::LEAST_SLOTS;
        }
        let has_room =
            |table: &&Table| totals.segments * 2 <= table.slots.len() && !planted("table_copied_by_each_add");
        match self.table(&guard).filter(has_room) {
            Some(table) => table.put(&tracked),
            None => {
                let all: Vec<_> = self.table(&guard).into_iter().flat_map(Table::iter).cloned().collect();
                self.replace(&[all, vec![Arc::clone(&tracked)]].concat(), &guard);
            }
        }
        Ok(tracked)
    }

    /// The ids of these segments, for the state.
    pub(crate) fn set(&self) -> SegmentSet {
        SegmentSet::new(self.all().iter().map(|tracked| tracked.segment.id()))
    }

    /// Sets the counts of the tables' entries. The caller holds the state's writer lock, or no
    /// other thread knows the state yet.
    pub(crate) fn set_table_counts(&self, counts: &[SegmentCounts]) {
        self.set_counts(counts, |tracked| &tracked.tables);
    }

    /// Sets the counts of the tables' entries that higher levels hide. The caller holds the turn.
    pub(crate) fn set_hidden_counts(&self, counts: &[SegmentCounts]) {
        self.set_counts(counts, |tracked| &tracked.hidden);
    }

    /// `counts` are sorted by segment; a segment without counts gets zeros.
    fn set_counts(&self, counts: &[SegmentCounts], of: impl Fn(&Tracked) -> &EntryCounts) {
        for tracked in self.all() {
            let id = tracked.segment.id();
            let found = counts.binary_search_by_key(&id, |counts| counts.segment).ok().and_then(|at| counts.get(at));
            of(&tracked).set(found.unwrap_or(&SegmentCounts::default()));
        }
    }

    /// A memtable with these entries has become a table. The caller holds the state's writer lock.
    pub(crate) fn remove_from_memtables(&self, counts: &[SegmentCounts]) {
        let guard = hightower_index::pin();
        for counts in counts {
            if let Some(tracked) = self.find(counts.segment, &guard) {
                tracked.memtables.subtract(counts);
            }
        }
    }

    /// Marks segments as no longer named by the manifest. Readers still find them.
    pub(crate) fn retire(&self, ids: &[u32]) -> Vec<Arc<Tracked>> {
        let mut totals = self.totals.lock();
        let guard = hightower_index::pin();
        let retired: Vec<_> = ids.iter().filter_map(|id| self.find(*id, &guard)).cloned().collect();
        retired.iter().for_each(|tracked| tracked.is_retired.store(true, Ordering::Release));
        let named: Vec<_> = self.table(&guard).into_iter().flat_map(Table::named).cloned().collect();
        *totals = Totals {
            segments: self.table(&guard).into_iter().flat_map(Table::iter).count(),
            unsealed: named,
            ..Totals::default()
        };
        totals.len_bytes();
        retired
    }

    /// Removes segments, and returns them. Readers under earlier guards keep what they have found.
    pub(crate) fn remove(&self, ids: &[u32]) -> Vec<Arc<Tracked>> {
        let ids: HashSet<u32> = ids.iter().copied().collect();
        let mut totals = self.totals.lock();
        let guard = hightower_index::pin();
        let all = self.table(&guard).into_iter().flat_map(Table::iter).cloned();
        let (gone, kept): (Vec<_>, Vec<_>) = all.partition(|tracked| ids.contains(&tracked.segment.id()));
        let named = kept.iter().filter(|tracked| !tracked.is_retired.load(Ordering::Acquire)).cloned().collect();
        *totals = Totals { segments: kept.len(), unsealed: named, ..Totals::default() };
        totals.len_bytes();
        self.replace(&kept, &guard);
        gone
    }

    /// Replaces the table, and flushes the old one to the epoch collector at once, because the
    /// files of removed segments wait for it.
    fn replace(&self, all: &[Arc<Tracked>], guard: &Guard) {
        self.current.store(Some(Box::new(Table::of(all))), guard);
        guard.flush();
    }
}

fn check_id(id: u32) -> Result<()> {
    let (found, limit) = (u64::from(id), u64::from(MAX_SEGMENT_ID));
    if found > limit { Err(Error::LimitExceeded { what: "segment id", found, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use hightower_index::pin;
    use hightower_segment::sim::SimFs;
    use hightower_segment::{AppendMode, Purpose, Segment, SegmentStore, Stamp, StoreOptions};

    use super::{Segments, SequentialReads, Tracked};
    use crate::place::Place;

    /// Empty segments with ascending ids.
    fn segments(count: usize) -> Vec<Arc<Segment>> {
        let stamp = Stamp { max_version: 0, timestamp: 0 };
        let options =
            StoreOptions { segment_len_bytes: 1024, appends: AppendMode::Positioned, ..StoreOptions::default() };
        let (_store, recovery) = SegmentStore::open(Arc::new(SimFs::new()), Path::new("/store"), options).unwrap();
        let (mut appender, _) = recovery.finish(stamp).unwrap();
        let rolls = std::iter::repeat_with(|| appender.roll(64, Purpose::Reclaim, stamp).unwrap());
        rolls.take(count).collect()
    }

    #[test]
    fn adding_copies_the_table_only_when_it_has_doubled() {
        let table = Segments::default();
        let all = segments(600);
        let (mut copies, mut last) = (0, 0);
        for (at, segment) in all.iter().enumerate() {
            table.add(Arc::clone(segment)).unwrap();
            let guard = pin();
            // A copy is created before its predecessor is freed, so it has another address.
            let now = std::ptr::from_ref(table.table(&guard).unwrap()).addr();
            copies += usize::from(now != last);
            last = now;
            assert!(all[..=at].iter().rev().take(20).all(|added| table.find(added.id(), &guard).is_some()));
        }
        assert_eq!((table.count(), table.all().len()), (600, 600));
        // A table of 16 slots, 64 from the ninth segment on, and so on to 2,048.
        assert!(copies <= 6, "{copies} tables for 600 segments");
        let lens = |some: &[Arc<Segment>]| some.iter().map(|segment| u64::from(segment.len_bytes())).sum::<u64>();
        assert_eq!(table.len_bytes(), lens(&all));

        let (gone, kept) = all.split_at(400);
        let ids: Vec<u32> = gone.iter().map(|segment| segment.id()).collect();
        assert_eq!(table.remove(&ids).len(), 400);
        let guard = pin();
        assert!(gone.iter().all(|segment| table.find(segment.id(), &guard).is_none()));
        assert!(kept.iter().all(|segment| table.find(segment.id(), &guard).is_some()));
        assert_eq!((table.count(), table.len_bytes()), (200, lens(kept)));
    }

    #[test]
    fn a_scan_that_goes_through_many_segments_in_turn_reads_ahead_in_each() {
        let (table, mut all) = (Segments::default(), segments(SequentialReads::STREAMS * 2));
        // The ids of some are alike but for a few bits.
        all.rotate_left(SequentialReads::STREAMS / 2 + 1);
        let (even, odd): (Vec<_>, Vec<_>) = all.into_iter().partition(|segment| segment.id() % 2 == 0);
        let add = |segment| table.add(segment).unwrap();
        let (even, odd): (Vec<_>, Vec<_>) = (even.into_iter().map(add).collect(), odd.into_iter().map(add).collect());
        let mut order = SequentialReads::default();
        let read = |some: &[Arc<Tracked>], round: u32, order: &mut SequentialReads| {
            for tracked in some {
                order.read_ahead(Place { segment: tracked.segment.id(), offset: 64 + round * 1000 }, tracked);
            }
        };
        let is_in_order = |order: &SequentialReads, some: &[Arc<Tracked>]| {
            let has =
                |id| order.streams.iter().any(|stream| stream.segment == id && stream.run == SequentialReads::RUN);
            some.iter().all(|tracked| has(tracked.segment.id()))
        };
        (0..=SequentialReads::RUN).for_each(|round| read(&even, round, &mut order));
        assert!(is_in_order(&order, &even));
        // A few records of the others do not take their streams; many records do, after the streams
        // have ended.
        read(&odd, 0, &mut order);
        (0..=SequentialReads::RUN).for_each(|round| read(&even, SequentialReads::RUN + round, &mut order));
        assert!(is_in_order(&order, &even));
        (0..SequentialReads::RUN * 4).for_each(|round| read(&odd, round, &mut order));
        assert!(is_in_order(&order, &odd));
    }

    #[test]
    fn a_scan_that_asks_for_records_again_has_not_lost_its_order() {
        let (table, all) = (Segments::default(), segments(1));
        let tracked = table.add(Arc::clone(&all[0])).unwrap();
        let mut order = SequentialReads::default();
        let mut read = |record: u32| {
            order.read_ahead(Place { segment: tracked.segment.id(), offset: 64 + record * 1000 }, &tracked);
            order.streams[order.last].run
        };
        (0..256).for_each(|record| _ = read(record));
        // Under the next guard it starts with the segments that it had only requested.
        assert!((240..512).all(|record| read(record) == SequentialReads::RUN));
        assert_eq!(read(0), 0, "it has gone back");
    }
}
