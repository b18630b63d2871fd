//! A cell that holds an optional boxed value, read without locks and replaced atomically.
//!
//! The cell is one pointer. A writer stores a complete value with release; a reader that loads the
//! pointer with acquire sees the complete value. The replaced value is freed by epochs, after all
//! guards that could have seen it have ended.

use core::fmt;
use core::marker::PhantomData;
use core::ptr;

use crate::epoch::{Guard, pin};
use crate::sync::{AtomicPtr, Ordering};

/// An atomically replaceable `Option<Box<T>>` of eight bytes, reclaimed by epochs.
///
/// For version chains, copy-on-write tables, and other data that is read often and replaced as a
/// whole. Any number of threads may read and replace concurrently. A long chain (a `T` that
/// contains a `Published<T>`) should implement `Drop` as a loop with [`Published::take`], because
/// the default drop recurses.
///
/// ```
/// use hightower_index::{Published, pin};
///
/// let table = Published::new(vec![1, 2, 3]);
/// let guard = pin();
/// let before = table.load(&guard);
/// table.store(Some(Box::new(vec![4])), &guard);
/// assert_eq!(before, Some(&vec![1, 2, 3])); // still valid under the guard
/// assert_eq!(table.load(&guard), Some(&vec![4]));
/// ```
pub struct Published<T> {
    cell: AtomicPtr<T>,
    owns: PhantomData<Box<T>>,
}

// SAFETY: the cell owns a `Box<T>`, which may be dropped on another thread (T: Send); a shared cell
// hands out `&T` (T: Sync), and a replaced content is dropped on whichever thread collects (T:
// Send).
unsafe impl<T: Send + Sync> Send for Published<T> {}
// SAFETY: see above.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T> Published<T> {
    /// A cell with `value`.
    ///
    /// ```
    /// let cell = hightower_index::Published::new(7);
    /// assert_eq!(cell.load(&hightower_index::pin()), Some(&7));
    /// ```
    #[must_use]
    pub fn new(value: T) -> Self {
        Self::from(Some(Box::new(value)))
    }

    /// A cell that holds nothing.
    ///
    /// ```
    /// let cell = hightower_index::Published::<u8>::empty();
    /// assert!(cell.is_empty());
    /// ```
    #[cfg(not(loom))]
    #[must_use]
    pub const fn empty() -> Self {
        Self { cell: AtomicPtr::new(ptr::null_mut()), owns: PhantomData }
    }

    /// A cell that holds nothing.
    #[cfg(loom)]
    #[must_use]
    pub fn empty() -> Self {
        Self::from(None)
    }

    /// The current content. The reference lives as long as the guard and the cell.
    ///
    /// Cost: one acquire load.
    ///
    /// ```
    /// let cell = hightower_index::Published::new("x".to_string());
    /// let guard = hightower_index::pin();
    /// assert_eq!(cell.load(&guard).map(String::as_str), Some("x"));
    /// ```
    #[inline]
    pub fn load<'g>(&'g self, _guard: &'g Guard) -> Option<&'g T> {
        let value = self.cell.load(Ordering::Acquire);
        // SAFETY: a non-null pointer came from a Box and was published with release. A thread that
        // takes it out of the cell frees it by epochs, so not while the guard lives; dropping the
        // cell requires that nothing borrows it.
        unsafe { value.as_ref() }
    }

    /// Whether the cell is empty.
    ///
    /// ```
    /// assert!(!hightower_index::Published::new(1).is_empty());
    /// ```
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cell.load(Ordering::Acquire).is_null()
    }

    /// Takes the content. The exclusive borrow proves that no reader is active.
    ///
    /// ```
    /// let mut cell = hightower_index::Published::new(3);
    /// assert_eq!(cell.take(), Some(Box::new(3)));
    /// assert!(cell.is_empty());
    /// ```
    #[inline]
    pub fn take(&mut self) -> Option<Box<T>> {
        let value = self.cell.load(Ordering::Relaxed);
        self.cell.store(ptr::null_mut(), Ordering::Relaxed);
        if value.is_null() {
            return None;
        }
        // SAFETY: the pointer came from Box::into_raw, the cell owned it, and `&mut self` shows
        // that nobody borrows it.
        Some(unsafe { Box::from_raw(value) })
    }

    fn into_raw(value: Option<Box<T>>) -> *mut T {
        value.map_or(ptr::null_mut(), Box::into_raw)
    }
}

impl<T: Send + Sync + 'static> Published<T> {
    /// Replaces the content. The old one is dropped when no guard can see it.
    ///
    /// ```
    /// use hightower_index::{Published, pin};
    /// let cell = Published::new(1);
    /// let guard = pin();
    /// cell.store(None, &guard);
    /// assert!(cell.is_empty());
    /// ```
    #[inline]
    pub fn store(&self, value: Option<Box<T>>, guard: &Guard) {
        let old = self.cell.swap(Self::into_raw(value), Ordering::AcqRel);
        Self::retire(old, guard);
    }

    /// Replaces the content and returns the old one, which is dropped when no guard can see it.
    ///
    /// ```
    /// use hightower_index::{Published, pin};
    /// let cell = Published::new(1);
    /// let guard = pin();
    /// assert_eq!(cell.swap(Some(Box::new(2)), &guard), Some(&1));
    /// ```
    #[inline]
    pub fn swap<'g>(&self, value: Option<Box<T>>, guard: &'g Guard) -> Option<&'g T> {
        let old = self.cell.swap(Self::into_raw(value), Ordering::AcqRel);
        Self::retire(old, guard);
        // SAFETY: the old value is dropped only after this guard has ended.
        unsafe { old.as_ref() }
    }

    /// Replaces the content if it is still `current` (the same allocation, not an equal value).
    ///
    /// # Errors
    ///
    /// Returns `value` if the cell has another content.
    ///
    /// ```
    /// use hightower_index::{Published, pin};
    /// let cell = Published::new(1);
    /// let guard = pin();
    /// let seen = cell.load(&guard);
    /// assert!(cell.replace_if(seen, Some(Box::new(2)), &guard).is_ok());
    /// assert_eq!(cell.replace_if(seen, Some(Box::new(3)), &guard), Err(Some(Box::new(3))));
    /// assert_eq!(cell.load(&guard), Some(&2));
    /// ```
    pub fn replace_if(&self, current: Option<&T>, value: Option<Box<T>>, guard: &Guard) -> Result<(), Option<Box<T>>> {
        let expected = current.map_or(ptr::null_mut(), |seen| ptr::from_ref(seen).cast_mut());
        let new = Self::into_raw(value);
        match self.cell.compare_exchange(expected, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(old) => {
                Self::retire(old, guard);
                Ok(())
            }
            Err(_) if new.is_null() => Err(None),
            // SAFETY: `new` was made from a Box above and has not been published.
            Err(_) => Err(Some(unsafe { Box::from_raw(new) })),
        }
    }

    #[inline]
    fn retire(old: *mut T, guard: &Guard) {
        if old.is_null() {
            return;
        }
        // SAFETY: the value is out of the cell, so only guards that exist now can see it; T is Send
        // and 'static, so it may be dropped on any thread at any time.
        unsafe { guard.defer(old.cast(), free::<T>) }
    }
}

/// Drops a value that was removed from its cell.
///
/// # Safety
///
/// It came from `Box::into_raw` of a `Box<T>`, nobody can see it any more, and it is freed once.
unsafe fn free<T>(value: *mut ()) {
    // SAFETY: the caller's promise.
    drop(unsafe { Box::from_raw(value.cast::<T>()) });
}

impl<T> From<Option<Box<T>>> for Published<T> {
    fn from(value: Option<Box<T>>) -> Self {
        Self { cell: AtomicPtr::new(Self::into_raw(value)), owns: PhantomData }
    }
}

impl<T> Default for Published<T> {
    fn default() -> Self {
        Self::empty()
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<T: fmt::Debug> fmt::Debug for Published<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Published").field(&self.load(&pin())).finish()
    }
}
