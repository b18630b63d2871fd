//! The published view: the levels of one moment, which readers reach with one load.

use std::sync::Arc;

use hightower_index::Map;

use crate::counters::KeyCounts;
use crate::entry::IndexEntry;

/// The index of what was written lately, and the counts of its keys.
#[derive(Clone)]
pub(crate) struct Memtable {
    pub(crate) map: Map<IndexEntry>,
    pub(crate) counts: Arc<KeyCounts>,
}

/// The levels, changed as one by whoever holds the writer's lock. A reader loads the view once for
/// each read and keeps to it; a snapshot holds it.
#[derive(Clone)]
pub(crate) struct View {
    /// Where commits go.
    pub(crate) active: Memtable,
}

impl Memtable {
    pub(crate) fn new(map: Map<IndexEntry>) -> Self {
        Self { map, counts: Arc::default() }
    }
}
