//! Deferred frees: unlinked memory, which waits until no reader can see it.
//!
//! The writer collects unlinked memory in batches, and passes the flag of each full batch to the
//! epoch collector, which raises it when every guard of that time has ended. Only the writer frees
//! memory, so the arena needs no locks, and no reader pays for freeing.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::directory::TableBlock;
use crate::epoch::pin;
use crate::sync::{AtomicBool, Ordering};
use crate::tagged_ptr::TaggedPtr;

/// Items of a full batch.
const BATCH_ITEMS: usize = 64;
/// Maximum number of freed batches per sealed batch, which bounds the cost of a write.
const BATCHES_PER_STEP: usize = 2;

/// A block that waits to be freed.
#[derive(Clone, Copy)]
pub(crate) enum Garbage {
    /// A leaf, with its value, or an inner node, alone.
    TreePart(TaggedPtr),
    /// A part of the point table.
    TableBlock(TableBlock),
}

struct GarbageBatch {
    items: Vec<Garbage>,
    unseen: Arc<AtomicBool>,
}

/// Raises a batch's flag.
///
/// # Safety
///
/// `flag` came from `Arc::into_raw`, and is given away.
unsafe fn raise(flag: *mut ()) {
    // SAFETY: the caller's promise.
    unsafe { Arc::from_raw(flag.cast_const().cast::<AtomicBool>()) }.store(true, Ordering::Release);
}

/// The queue of garbage.
pub(crate) struct DeferredFrees {
    open: Vec<Garbage>,
    sealed: VecDeque<GarbageBatch>,
}

impl DeferredFrees {
    pub(crate) const fn new() -> Self {
        Self { open: Vec::new(), sealed: VecDeque::new() }
    }

    /// Adds an unlinked block. `true` when the batch is full and [`DeferredFrees::seal`] is due.
    pub(crate) fn push(&mut self, retired: Garbage) {
        self.open.push(retired);
    }

    pub(crate) fn is_due(&self) -> bool {
        self.open.len() >= BATCH_ITEMS
    }

    /// Passes the collected garbage to the epoch collector.
    pub(crate) fn seal(&mut self) {
        let guard = pin();
        if !self.open.is_empty() {
            let unseen = Arc::new(AtomicBool::new(crate::mutants::planted("early_free")));
            let flag = Arc::into_raw(Arc::clone(&unseen)).cast_mut().cast();
            // SAFETY: the flag is an `Arc`'s, given away with it, and may be raised from any thread
            // at any time.
            unsafe { guard.defer(flag, raise) };
            let items = core::mem::replace(&mut self.open, Vec::with_capacity(BATCH_ITEMS));
            self.sealed.push_back(GarbageBatch { items, unseen });
        }
        guard.flush();
    }

    /// Batches that no reader can see, a few at a time.
    pub(crate) fn take_unseen(&mut self, all: bool) -> Vec<Vec<Garbage>> {
        let limit = if all { usize::MAX } else { BATCHES_PER_STEP };
        let mut free = Vec::new();
        while free.len() < limit && self.sealed.front().is_some_and(|batch| batch.unseen.load(Ordering::Acquire)) {
            free.extend(self.sealed.pop_front().map(|batch| batch.items));
        }
        free
    }

    /// All garbage, for use without readers.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Garbage> {
        let sealed = core::mem::take(&mut self.sealed);
        sealed.into_iter().flat_map(|batch| batch.items).chain(core::mem::take(&mut self.open))
    }

    /// The number of waiting items.
    pub(crate) fn len(&self) -> usize {
        self.open.len() + self.sealed.iter().map(|batch| batch.items.len()).sum::<usize>()
    }
}
