//! A key with its value, for readers.

use core::fmt;

use crate::leaf::Leaf;

/// A key and its value in the map, valid as long as the guard of the read.
///
/// ```
/// let (mut writer, map) = hightower_index::new::<u32>();
/// writer.insert(b"a", 1);
/// let guard = hightower_index::pin();
/// let entry = map.iter(&guard).next().unwrap();
/// assert_eq!((entry.key(), *entry.value()), (&b"a"[..], 1));
/// ```
pub struct EntryRef<'g, V> {
    leaf: Leaf<'g, V>,
}

// SAFETY: an entry is a shared reference to key and value.
unsafe impl<V: Sync> Send for EntryRef<'_, V> {}
// SAFETY: see above.
unsafe impl<V: Sync> Sync for EntryRef<'_, V> {}

impl<V> Clone for EntryRef<'_, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<V> Copy for EntryRef<'_, V> {}

impl<'g, V> EntryRef<'g, V> {
    #[inline(always)]
    pub(crate) fn new(leaf: Leaf<'g, V>) -> Self {
        Self { leaf }
    }

    /// The key.
    ///
    /// ```
    /// # let (mut writer, map) = hightower_index::new::<u32>();
    /// # writer.insert(b"a", 1);
    /// # let guard = hightower_index::pin();
    /// assert_eq!(map.iter(&guard).next().unwrap().key(), b"a");
    /// ```
    #[inline(always)]
    #[must_use]
    pub fn key(self) -> &'g [u8] {
        self.leaf.key()
    }

    /// The value.
    ///
    /// ```
    /// # let (mut writer, map) = hightower_index::new::<u32>();
    /// # writer.insert(b"a", 1);
    /// # let guard = hightower_index::pin();
    /// assert_eq!(map.iter(&guard).next().unwrap().value(), &1);
    /// ```
    #[inline(always)]
    #[must_use]
    pub fn value(self) -> &'g V {
        self.leaf.value()
    }
}

impl<V: fmt::Debug> fmt::Debug for EntryRef<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EntryRef").field("key", &self.key()).field("value", &self.value()).finish()
    }
}
