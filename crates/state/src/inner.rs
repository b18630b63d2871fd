//! The shared parts of a state: the view, the visibility of commits, and the writer's data.

use std::sync::Arc;

use hightower_index::{Guard, Map, PublishedArc, Writer, pin};
use hightower_seams::Clock;

use crate::counters::{Delta, MaxVersion};
use crate::entry::{IndexEntry, LatestVersion};
use crate::gc_queue::GcQueue;
use crate::in_flight::ChainChange;
use crate::levels::View;
use crate::lock::Mutex;
use crate::mvcc::MvccState;
use crate::snapshot_registry::{LiveSnapshots, SnapshotTicket};
use crate::sync::AtomicU64;

/// The state that handles, the writer, snapshots and iterators share.
pub(crate) struct StateInner {
    /// Changed by the writer alone.
    view: PublishedArc<View>,
    pub(crate) mvcc: MvccState,
    pub(crate) max_version: MaxVersion,
    /// Counts the calls of `retire_locations`.
    pub(crate) retirements: AtomicU64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) writer: Mutex<WriterState>,
}

impl StateInner {
    pub(crate) fn new(view: View, index: Writer<IndexEntry>, clock: Arc<dyn Clock>) -> Self {
        Self {
            view: PublishedArc::new(Arc::new(view)),
            mvcc: MvccState::new(),
            max_version: MaxVersion::default(),
            retirements: AtomicU64::new(0),
            clock,
            writer: Mutex::new(WriterState::new(index)),
        }
    }

    /// The current view: for one read, or for the holder of the writer's lock.
    #[inline]
    pub(crate) fn view<'g>(&'g self, guard: &'g Guard) -> &'g View {
        self.view.load(guard)
    }

    /// The map of the active memtable.
    #[inline]
    pub(crate) fn map<'g>(&'g self, guard: &'g Guard) -> &'g Map<IndexEntry> {
        &self.view(guard).active.map
    }

    /// Adds to the counts of the active memtable. Only the writer does this.
    #[inline]
    pub(crate) fn count(&self, delta: &Delta, guard: &Guard) {
        self.view(guard).active.counts.add(delta);
        self.max_version.raise(delta.max_version);
    }

    /// The latest version of an entry, tombstones included.
    pub(crate) fn latest(&self, entry: &IndexEntry, guard: &Guard) -> Option<LatestVersion> {
        self.mvcc.latest(entry, guard, || self.clock.elapsed())
    }
}

/// The state that only the writer uses.
pub(crate) struct WriterState {
    pub(crate) index: Writer<IndexEntry>,
    pub(crate) live: LiveSnapshots,
    pub(crate) gc_queue: GcQueue,
    /// Old versions in entries.
    pub(crate) old_versions: usize,
    /// A buffer for the bytes of a key during one call.
    scratch: Vec<u8>,
}

impl WriterState {
    pub(crate) fn new(index: Writer<IndexEntry>) -> Self {
        Self {
            index,
            live: LiveSnapshots::default(),
            gc_queue: GcQueue::default(),
            old_versions: 0,
            scratch: Vec::new(),
        }
    }

    pub(crate) fn account(&mut self, kept: ChainChange) {
        self.old_versions += kept.added;
        self.old_versions -= kept.dropped;
    }

    /// Examines up to `budget` old versions whose snapshot has ended. Returns whether the queue has
    /// more.
    pub(crate) fn reclaim(&mut self, map: &Map<IndexEntry>, budget: usize, guard: &Guard) -> bool {
        if self.gc_queue.is_empty() {
            return false;
        }
        self.gc_queue.orphan(&self.live);
        if self.live.has_pending() {
            return self.gc_queue.has_orphans();
        }
        let mut key = std::mem::take(&mut self.scratch);
        for _ in 0..budget {
            let Some(seq) = self.gc_queue.pop_orphan(&mut key) else { break };
            let Some(entry) = map.get(&key, guard) else { continue };
            self.old_versions -= entry.older_versions().trim(&self.live, guard);
            if let Some(until) = entry.older_versions().until_of(seq, guard) {
                self.gc_queue.push(&key, seq, until, &self.live);
            }
        }
        self.scratch = key;
        self.gc_queue.has_orphans()
    }
}

/// A snapshot's slot in the registry. Dropping it frees the slot.
pub(crate) struct SnapshotRegistration {
    pub(crate) inner: Arc<StateInner>,
    pub(crate) view: Arc<View>,
    pub(crate) seq: u64,
    ticket: SnapshotTicket,
}

impl SnapshotRegistration {
    /// Takes a snapshot of the newest published commit.
    pub(crate) fn new(inner: &Arc<StateInner>) -> Self {
        let view = inner.view.load_arc(&pin());
        let (ticket, seq) = inner.mvcc.snapshot(inner.clock.elapsed());
        Self { inner: Arc::clone(inner), view, seq, ticket }
    }
}

impl Drop for SnapshotRegistration {
    fn drop(&mut self) {
        self.inner.mvcc.registry.release(&self.ticket);
    }
}
