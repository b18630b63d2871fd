//! The published view: the levels of one moment, which a reader gets with one load.

use std::sync::Arc;

use hightower_index::{Guard, Map};

use crate::counters::KeyCounts;
use crate::entry::IndexEntry;
use crate::levels::segment_set::SegmentSet;
use crate::levels::table_list::TableLevel;

/// A memtable: the index of the commits between two freezes, and the counts of its keys.
#[derive(Clone)]
pub(crate) struct Memtable {
    pub(crate) map: Map<IndexEntry>,
    pub(crate) counts: Arc<KeyCounts>,
}

/// The levels of a state. The holder of the writer's lock replaces the whole view. A read loads it
/// once and uses no other; a snapshot holds it.
#[derive(Clone)]
pub(crate) struct View {
    /// The memtable that commits go to.
    pub(crate) active: Memtable,
    /// `None` while the active memtable is the only level.
    pub(crate) lower: Option<Arc<LowerLevels>>,
    /// The number of this view: views of a state are numbered in order.
    pub(crate) number: u64,
}

/// The immutable levels below the active memtable.
#[derive(Clone, Default)]
pub(crate) struct LowerLevels {
    /// Newest first.
    pub(crate) frozen: Vec<Memtable>,
    /// Newest first.
    pub(crate) tables: Vec<Arc<TableLevel>>,
    /// The segments that entries of tables may point into.
    pub(crate) segments: SegmentSet,
}

impl Memtable {
    pub(crate) fn new(map: Map<IndexEntry>) -> Self {
        Self { map, counts: Arc::default() }
    }

    /// Whether both are the same memtable.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.counts, &other.counts)
    }

    /// Whether no view has this memtable any more.
    pub(crate) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.counts) == 1
    }

    /// The entry of a key.
    #[inline]
    pub(crate) fn get<'g>(&'g self, key: &[u8], guard: &'g Guard) -> Option<&'g IndexEntry> {
        self.map.get(key, guard)
    }
}

impl View {
    /// The first view of a state.
    pub(crate) fn new(map: Map<IndexEntry>) -> Self {
        Self { active: Memtable::new(map), lower: None, number: 0 }
    }

    pub(crate) fn frozen(&self) -> &[Memtable] {
        self.lower.as_deref().map_or(&[], |lower| &lower.frozen)
    }

    pub(crate) fn tables(&self) -> &[Arc<TableLevel>] {
        self.lower.as_deref().map_or(&[], |lower| &lower.tables)
    }

    /// The memtables, newest first.
    pub(crate) fn memtables(&self) -> impl Iterator<Item = &Memtable> {
        std::iter::once(&self.active).chain(self.frozen())
    }
}
