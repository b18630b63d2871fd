//! Where the crate gets its atomics from, so that one place decides.

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU16, AtomicU64, AtomicUsize, Ordering};
