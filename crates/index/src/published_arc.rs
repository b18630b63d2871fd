//! A cell that holds an `Arc`, read without locks and without counting, and replaced atomically.
//!
//! As [`Published`](crate::Published), but never empty, and a reader that needs the content for
//! longer than a guard takes an `Arc` of it.

use core::fmt;
use core::marker::PhantomData;
use std::sync::Arc;

use crate::epoch::{Guard, pin};
use crate::sync::{AtomicPtr, Ordering};

/// An atomically replaceable `Arc<T>` of eight bytes. The cell's own reference is released by
/// epochs.
///
/// ```
/// use std::sync::Arc;
/// use hightower_index::{PublishedArc, pin};
///
/// let cell = PublishedArc::new(Arc::new(1));
/// let guard = pin();
/// let (lent, kept) = (cell.load(&guard), cell.load_arc(&guard));
/// cell.store(Arc::new(2), &guard);
/// assert_eq!((lent, cell.load(&guard)), (&1, &2));
/// drop(guard);
/// assert_eq!(*kept, 1);
/// ```
pub struct PublishedArc<T> {
    cell: AtomicPtr<T>,
    owns: PhantomData<Arc<T>>,
}

// SAFETY: the cell owns an `Arc<T>` and hands out `&T` and `Arc<T>` on any thread, which may be the
// last to drop it: T is Send and Sync, as for an `Arc`.
unsafe impl<T: Send + Sync> Send for PublishedArc<T> {}
// SAFETY: see above.
unsafe impl<T: Send + Sync> Sync for PublishedArc<T> {}

impl<T: Send + Sync + 'static> PublishedArc<T> {
    /// A cell with `value`.
    ///
    /// ```
    /// let cell = hightower_index::PublishedArc::new(7.into());
    /// assert_eq!(cell.load(&hightower_index::pin()), &7);
    /// ```
    #[must_use]
    pub fn new(value: Arc<T>) -> Self {
        Self { cell: AtomicPtr::new(Arc::into_raw(value).cast_mut()), owns: PhantomData }
    }

    /// The current content. The reference lives as long as the guard and the cell.
    ///
    /// Cost: one acquire load. Example: [`PublishedArc`].
    #[inline]
    pub fn load<'g>(&'g self, _guard: &'g Guard) -> &'g T {
        // SAFETY: the pointer came from an Arc and was published with release. The cell's reference
        // to it is released by epochs, so not while the guard lives; dropping the cell itself needs
        // it unborrowed.
        unsafe { &*self.cell.load(Ordering::Acquire) }
    }

    /// The current content, for longer than a guard. Cost: a load, and a count that other threads
    /// share.
    ///
    /// Example: [`PublishedArc`].
    #[inline]
    pub fn load_arc(&self, _guard: &Guard) -> Arc<T> {
        let value = self.cell.load(Ordering::Acquire);
        // SAFETY: as in `load`, the cell's reference exists as long as the guard, so the count is
        // above zero; the new reference is this Arc's.
        unsafe {
            Arc::increment_strong_count(value);
            Arc::from_raw(value)
        }
    }

    /// Replaces the content. The cell's reference to the old one is released when no guard can see
    /// it.
    ///
    /// ```
    /// use hightower_index::{PublishedArc, pin};
    /// let cell = PublishedArc::new(1.into());
    /// cell.store(2.into(), &pin());
    /// assert_eq!(cell.load(&pin()), &2);
    /// ```
    pub fn store(&self, value: Arc<T>, guard: &Guard) {
        let old = self.cell.swap(Arc::into_raw(value).cast_mut(), Ordering::AcqRel);
        // SAFETY: the reference is out of the cell, so only guards that exist now can see it; T is
        // Send, Sync and 'static, so it may be released on any thread at any time.
        unsafe { guard.defer(old.cast(), release::<T>) }
    }
}

/// Releases a reference that was removed from its cell.
///
/// # Safety
///
/// It came from `Arc::into_raw` of an `Arc<T>`, nobody can see it any more, and it is released
/// once.
unsafe fn release<T>(value: *mut ()) {
    // SAFETY: the caller's promise.
    drop(unsafe { Arc::from_raw(value.cast::<T>().cast_const()) });
}

impl<T> Drop for PublishedArc<T> {
    fn drop(&mut self) {
        // SAFETY: the cell owns this reference, and `&mut self` shows that nobody borrows it.
        drop(unsafe { Arc::from_raw(self.cell.load(Ordering::Relaxed).cast_const()) });
    }
}

impl<T: Send + Sync + fmt::Debug + 'static> fmt::Debug for PublishedArc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PublishedArc").field(self.load(&pin())).finish()
    }
}
