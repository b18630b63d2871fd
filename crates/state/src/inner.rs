//! The shared parts of a state: the view, the visibility of commits, and the writer's data.

use std::sync::{Arc, Weak};

use hightower_index::{Guard, Map, PublishedArc, SeededHasher, Writer, pin};
use hightower_seams::Clock;

use crate::counters::{Delta, MaxVersion};
use crate::entry::{IndexEntry, LatestVersion};
use crate::gc_queue::GcQueue;
use crate::in_flight::ChainChange;
use crate::levels::table_list::TableList;
use crate::levels::view::{Memtable, View};
use crate::lock::Mutex;
use crate::mvcc::MvccState;
use crate::snapshot_registry::{LiveSnapshots, SnapshotTicket};
use crate::snapshot_view::consistent_snapshot;
use crate::sync::{AtomicU64, Ordering};

/// The data that handles, the writer, snapshots and iterators share.
pub(crate) struct StateInner {
    /// Only the writer changes it.
    view: PublishedArc<View>,
    /// The hasher and the hints of the memtables' maps.
    hasher: SeededHasher,
    hint_of: fn(&IndexEntry) -> u32,
    pub(crate) mvcc: MvccState,
    pub(crate) max_version: MaxVersion,
    /// Counts the calls of `retire_locations`.
    pub(crate) retirements: AtomicU64,
    /// Changes up to this seqno may be unknown: they were loaded, or their tombstones were removed.
    pub(crate) forgotten_seq: AtomicU64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) writer: Mutex<WriterState>,
}

impl StateInner {
    pub(crate) fn new(hasher: SeededHasher, hint_of: fn(&IndexEntry) -> u32, clock: Arc<dyn Clock>) -> Self {
        let (index, map) = hightower_index::with_hasher_and_hints(hasher.clone(), hint_of);
        Self {
            view: PublishedArc::new(Arc::new(View::new(map))),
            hasher,
            hint_of,
            mvcc: MvccState::new(),
            max_version: MaxVersion::default(),
            retirements: AtomicU64::new(0),
            forgotten_seq: AtomicU64::new(0),
            clock,
            writer: Mutex::new(WriterState::new(index)),
        }
    }

    /// The current view, for one read or for the holder of the writer's lock.
    #[inline]
    pub(crate) fn view<'g>(&'g self, guard: &'g Guard) -> &'g View {
        self.view.load(guard)
    }

    /// The seq of the newest published commit.
    pub(crate) fn visible(&self) -> u64 {
        self.mvcc.visible.load(Ordering::Acquire)
    }

    /// The current view, for use beyond the lifetime of a guard.
    pub(crate) fn view_arc(&self) -> Arc<View> {
        self.view.load_arc(&pin())
    }

    /// Replaces the view, and returns the old one. Only the holder of the writer's lock does this.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut View), guard: &Guard) -> Weak<View> {
        let old = self.view.load_arc(guard);
        let mut view = View::clone(&old);
        change(&mut view);
        view.number += 1;
        self.view.store(Arc::new(view), guard);
        Arc::downgrade(&old)
    }

    /// An empty map for a new memtable, with its writer.
    pub(crate) fn new_map(&self) -> (Writer<IndexEntry>, Map<IndexEntry>) {
        hightower_index::with_hasher_and_hints(self.hasher.clone(), self.hint_of)
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

/// The data that only the writer uses.
pub(crate) struct WriterState {
    pub(crate) index: Writer<IndexEntry>,
    pub(crate) live: LiveSnapshots,
    pub(crate) gc_queue: GcQueue,
    /// Number of old versions in entries.
    pub(crate) old_versions: usize,
    pub(crate) tables: TableList,
    /// Memtables that the current view no longer has, but older views may have.
    pub(crate) retired: Vec<Memtable>,
    /// The earlier views, of which some may still be in use.
    pub(crate) older_views: Vec<Weak<View>>,
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
            tables: TableList::default(),
            retired: Vec::new(),
            older_views: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Continues with a new, empty index. The old versions in the former index are no longer
    /// dropped one by one: the views that read them hold its whole memtable.
    pub(crate) fn replace_index(&mut self, index: Writer<IndexEntry>) {
        self.index = index;
        self.gc_queue = GcQueue::default();
        self.old_versions = 0;
    }

    /// Notes a view that was replaced.
    pub(crate) fn note_older(&mut self, view: Weak<View>) {
        self.older_views.retain(|view| view.strong_count() > 0);
        self.older_views.push(view);
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

/// A view and a seq. Dropping it frees the snapshot's slot in the registry.
pub(crate) struct SnapshotRegistration {
    pub(crate) inner: Arc<StateInner>,
    pub(crate) view: Arc<View>,
    pub(crate) seq: u64,
    /// `None` if the snapshot reads only versions that are kept without it.
    ticket: Option<SnapshotTicket>,
}

impl SnapshotRegistration {
    /// Takes a snapshot of the newest published commit.
    pub(crate) fn new(inner: &Arc<StateInner>) -> Self {
        let guard = pin();
        let (view, (ticket, seq)) = consistent_snapshot(
            || inner.view.load_arc(&guard),
            |view| std::ptr::eq(&raw const **view, inner.view.load(&guard)),
            || inner.mvcc.snapshot(inner.clock.elapsed()),
            |(ticket, _)| inner.mvcc.registry.release(&ticket),
        );
        Self { inner: Arc::clone(inner), view, seq, ticket: Some(ticket) }
    }

    /// The newest published commit, without a slot: for memtables that are frozen.
    pub(crate) fn unregistered(inner: &Arc<StateInner>) -> Self {
        let (view, seq) = (inner.view_arc(), inner.visible());
        Self { inner: Arc::clone(inner), view, seq, ticket: None }
    }
}

impl Drop for SnapshotRegistration {
    fn drop(&mut self) {
        if let Some(ticket) = &self.ticket {
            self.inner.mvcc.registry.release(ticket);
        }
    }
}
