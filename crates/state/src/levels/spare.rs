//! A memtable that is created before it is needed.

use std::fmt;
use std::marker::PhantomData;

use hightower_index::Writer;

use crate::entry::IndexEntry;
use crate::inner::StateInner;
use crate::levels::view::Memtable;

/// An empty memtable for a freeze, from
/// [`LeveledKvState::spare_memtable`](crate::LeveledKvState::spare_memtable). It is created before
/// the writer's lock is taken, because it costs allocations.
pub struct SpareMemtable<L> {
    pub(crate) index: Writer<IndexEntry>,
    pub(crate) memtable: Memtable,
    location: PhantomData<fn(L) -> L>,
}

impl<L> SpareMemtable<L> {
    pub(crate) fn new(inner: &StateInner) -> Self {
        let (index, map) = inner.new_map();
        Self { index, memtable: Memtable::new(map), location: PhantomData }
    }
}

impl<L> fmt::Debug for SpareMemtable<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpareMemtable").finish_non_exhaustive()
    }
}
