//! The registry of live snapshots: a table of slots that snapshots claim and free without waiting.
//!
//! # The protocol
//!
//! A writer that decides whether an old version is needed must not miss a concurrent snapshot:
//!
//! | snapshot | writer, at the end of commit n |
//! | --- | --- |
//! | 1. claims a slot (`PENDING`) and counts the change | 1. visible := n |
//! | 2. full fence | 2. full fence |
//! | 3. S := visible | 3. reads the count of changes; if it moved, reads the slots |
//! | 4. slot := S | 4. keeps the old version if some S below n needs it |
//!
//! Because of the two fences, either the snapshot reads a visible seq of n or more, and does not
//! need the version replaced by commit n, or the writer sees the claim. Both sides take a fixed
//! number of steps. (Store, fence, load on both sides: Dekker's pattern.)
//!
//! The slots are in blocks of doubling size, which are freed only with the registry. Claiming a
//! slot therefore needs one compare-and-swap and no lock.

use std::sync::OnceLock;
use std::time::Duration;

use crate::mutants::planted;
use crate::sync::{AtomicU64, AtomicUsize, Ordering, fence};

/// A free slot.
const FREE: u64 = 0;
/// A slot whose snapshot has not stored its seq yet. (A stored seq is the seq plus one.)
const PENDING: u64 = u64::MAX;
/// Slots of the first block.
const FIRST_BLOCK_SLOTS: usize = if cfg!(loom) { 2 } else { 16 };

/// The live snapshots.
#[derive(Debug)]
pub(crate) struct SnapshotRegistry {
    first: SlotBlock,
    /// Counts claims and releases, so that the writer reads the slots only after a change.
    changes: AtomicU64,
}

#[derive(Debug)]
struct SlotBlock {
    slots: Box<[SnapshotSlot]>,
    /// The number of claimed slots, including slots that are being claimed.
    used: AtomicUsize,
    next: OnceLock<Box<SlotBlock>>,
}

#[derive(Debug)]
struct SnapshotSlot {
    seq_plus_one: AtomicU64,
    since_ms: AtomicU64,
}

/// A claimed slot. It must be returned to [`SnapshotRegistry::release`].
#[derive(Debug)]
pub(crate) struct SnapshotTicket {
    block: usize,
    slot: usize,
}

/// The writer's copy of the live snapshots.
#[derive(Debug, Default)]
pub(crate) struct LiveSnapshots {
    /// Ascending.
    seqs: Vec<u64>,
    /// Whether a snapshot has claimed a slot but not yet stored its seq.
    has_pending: bool,
    /// The registry's count of changes when the copy was read.
    changes: u64,
}

impl SnapshotRegistry {
    pub(crate) fn new() -> Self {
        Self { first: SlotBlock::new(FIRST_BLOCK_SLOTS), changes: AtomicU64::new(0) }
    }

    /// Takes a snapshot of `visible`. From now on, the writer keeps the versions for a reader at
    /// the returned seq.
    pub(crate) fn register(&self, visible: &AtomicU64, now: Duration) -> (SnapshotTicket, u64) {
        let (ticket, slot) = self.claim();
        slot.since_ms.store(whole_ms(now), Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::AcqRel);
        if !planted("register_without_fence") {
            fence(Ordering::SeqCst);
        }
        let seq = visible.load(Ordering::Acquire);
        slot.seq_plus_one.store(seq + 1, Ordering::Release);
        (ticket, seq)
    }

    /// Ends a snapshot.
    pub(crate) fn release(&self, ticket: &SnapshotTicket) {
        let Some(block) = self.blocks().nth(ticket.block) else { return };
        block.slots[ticket.slot].seq_plus_one.store(FREE, Ordering::Release);
        block.used.fetch_sub(1, Ordering::AcqRel);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    fn claim(&self) -> (SnapshotTicket, &SnapshotSlot) {
        let hint = self.changes.load(Ordering::Relaxed);
        let mut block = &self.first;
        let mut depth = 0;
        loop {
            if let Some(slot) = block.claim(hint) {
                return (SnapshotTicket { block: depth, slot }, &block.slots[slot]);
            }
            block = block.next.get_or_init(|| Box::new(SlotBlock::new(block.slots.len() * 2)));
            depth += 1;
        }
    }

    fn blocks(&self) -> impl Iterator<Item = &SlotBlock> {
        std::iter::successors(Some(&self.first), |block| block.next.get().map(Box::as_ref))
    }

    /// The seq of the oldest live snapshot, and the clock's time at its creation.
    pub(crate) fn oldest(&self) -> Option<(u64, Duration)> {
        let slots = self.blocks().flat_map(|block| block.slots.iter());
        let known = slots.filter_map(|slot| match slot.seq_plus_one.load(Ordering::Acquire) {
            FREE | PENDING => None,
            seq => Some((seq - 1, Duration::from_millis(slot.since_ms.load(Ordering::Relaxed)))),
        });
        known.min()
    }

    /// Whether a snapshot may read below `seq`, which must be published. A snapshot without a
    /// stored seq counts.
    pub(crate) fn may_read_below(&self, seq: u64) -> bool {
        fence(Ordering::SeqCst);
        self.blocks().flat_map(|block| block.slots.iter()).any(|slot| match slot.seq_plus_one.load(Ordering::Acquire) {
            FREE => false,
            PENDING => true,
            known => known - 1 < seq,
        })
    }

    /// Whether a snapshot reads below `seq`, which must be published. Waits for a snapshot without
    /// a stored seq, which takes some instructions.
    pub(crate) fn reads_below(&self, seq: u64) -> bool {
        fence(Ordering::SeqCst);
        self.blocks().flat_map(|block| block.slots.iter()).any(|slot| {
            loop {
                match slot.seq_plus_one.load(Ordering::Acquire) {
                    FREE => return false,
                    PENDING => std::thread::yield_now(),
                    known => return known - 1 < seq,
                }
            }
        })
    }

    /// The number of live snapshots.
    pub(crate) fn len(&self) -> usize {
        self.blocks().map(|block| block.used.load(Ordering::Acquire)).sum()
    }
}

impl SlotBlock {
    fn new(slots: usize) -> Self {
        let slots =
            (0..slots).map(|_| SnapshotSlot { seq_plus_one: AtomicU64::new(FREE), since_ms: AtomicU64::new(0) });
        Self { slots: slots.collect(), used: AtomicUsize::new(0), next: OnceLock::new() }
    }

    /// Claims a free slot, if one exists. Examines each slot once.
    fn claim(&self, hint: u64) -> Option<usize> {
        let len = self.slots.len();
        if self.used.fetch_add(1, Ordering::AcqRel) < len {
            let start = usize::try_from(hint % len as u64).unwrap_or(0);
            let order = (start..len).chain(0..start);
            if let Some(slot) = order.into_iter().find(|&slot| self.slots[slot].claim()) {
                return Some(slot);
            }
        }
        self.used.fetch_sub(1, Ordering::AcqRel);
        None
    }
}

impl SnapshotSlot {
    fn claim(&self) -> bool {
        self.seq_plus_one.load(Ordering::Relaxed) == FREE
            && self.seq_plus_one.compare_exchange(FREE, PENDING, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl LiveSnapshots {
    /// Reads the registry again if it has changed, and returns whether it has. Only the writer
    /// calls this, after publishing.
    pub(crate) fn refresh(&mut self, registry: &SnapshotRegistry) -> bool {
        if !planted("retain_without_fence") {
            fence(Ordering::SeqCst);
        }
        let changes = registry.changes.load(Ordering::Acquire);
        if changes == self.changes && !self.has_pending {
            return false;
        }
        self.changes = changes;
        self.has_pending = false;
        self.seqs.clear();
        let used = registry.blocks().filter(|block| block.used.load(Ordering::Acquire) > 0);
        for slot in used.flat_map(|block| block.slots.iter()) {
            match slot.seq_plus_one.load(Ordering::Acquire) {
                FREE => {}
                PENDING => self.has_pending = true,
                seq => self.seqs.push(seq - 1),
            }
        }
        self.seqs.sort_unstable();
        true
    }

    /// Whether a snapshot may read a version that was the newest from seq `from` until before seq
    /// `until`.
    pub(crate) fn needs(&self, from: u64, until: u64) -> bool {
        self.has_pending || self.newest_reader(from, until).is_some()
    }

    /// The newest known snapshot that reads such a version.
    pub(crate) fn newest_reader(&self, from: u64, until: u64) -> Option<u64> {
        let until = if planted("needs_off_by_one") { until - 1 } else { until };
        let below = self.seqs.partition_point(|&seq| seq < until);
        let newest = *self.seqs.get(below.checked_sub(1)?)?;
        (newest >= from).then_some(newest)
    }

    /// Whether a snapshot at exactly this seq is alive.
    pub(crate) fn contains(&self, seq: u64) -> bool {
        self.seqs.binary_search(&seq).is_ok()
    }

    /// Whether a snapshot has no stored seq yet, so that no version can be dropped.
    pub(crate) fn has_pending(&self) -> bool {
        self.has_pending
    }

    /// Whether every live snapshot is at `seq` or later.
    pub(crate) fn all_reach(&self, seq: u64) -> bool {
        !self.has_pending && self.seqs.first().is_none_or(|&oldest| oldest >= seq)
    }
}

fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_millis(5);

    #[test]
    fn snapshots_beyond_the_first_block_are_seen_and_released_in_any_order() {
        let registry = SnapshotRegistry::new();
        let mut live = LiveSnapshots::default();
        let mut tickets: Vec<_> =
            (0..1000).map(|seq| registry.register(&AtomicU64::new(seq), NOW).0).enumerate().collect();
        assert!(live.refresh(&registry));
        assert!(!live.refresh(&registry), "nothing has changed since the last refresh");
        assert_eq!(live.seqs, (0..1000).collect::<Vec<_>>());
        tickets.sort_by_key(|(at, _)| at % 7);
        for (done, (_, ticket)) in tickets.iter().enumerate() {
            assert_eq!(registry.len(), 1000 - done);
            registry.release(ticket);
        }
        assert!(live.refresh(&registry));
        assert!(live.seqs.is_empty() && registry.oldest().is_none());
    }

    #[test]
    fn a_version_is_needed_by_snapshots_within_its_time_only() {
        let registry = SnapshotRegistry::new();
        let mut live = LiveSnapshots::default();
        registry.register(&AtomicU64::new(10), NOW);
        registry.register(&AtomicU64::new(20), NOW);
        live.refresh(&registry);
        assert!(live.needs(10, 11) && live.needs(5, 11) && live.needs(15, 30));
        assert!(!live.needs(11, 20) && !live.needs(21, 30) && !live.needs(1, 10));
        assert_eq!(live.newest_reader(1, 30), Some(20));
        assert!(live.all_reach(10) && !live.all_reach(11));
        assert_eq!(registry.oldest(), Some((10, NOW)));
        assert!(registry.may_read_below(11) && !registry.may_read_below(10));
        let (ticket, _) = registry.claim();
        assert!(registry.may_read_below(10), "its seq may turn out to be lower");
        registry.release(&ticket);
    }

    #[test]
    fn a_snapshot_on_its_way_is_waited_for() {
        for (found, expected) in [(9, true), (10, false)] {
            let registry = SnapshotRegistry::new();
            let (_ticket, slot) = registry.claim();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(20));
                    slot.seq_plus_one.store(found + 1, Ordering::Release);
                });
                assert_eq!(registry.reads_below(10), expected);
            });
        }
    }
}
