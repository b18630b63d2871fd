//! The atomics and the epoch guard: those of `std` and the index, or those of the model checker.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

#[cfg(not(loom))]
pub(crate) use hightower_index::Guard;

/// A guard without effect: the models reclaim memory by reference counts.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct NoGuard;

#[cfg(loom)]
pub(crate) use self::NoGuard as Guard;
