//! A position in a range, without a guard.

use core::ops::Bound;

use crate::epoch::Guard;
use crate::hash::KeyHasher;
use crate::map::Map;
use crate::range::{MapRange, prefix_end};

/// A position in a range without a guard: the rest of the range, as two owned bounds.
///
/// For scans that are too long for one guard: resume, take some entries, advance the cursor, drop
/// the guard, and repeat. Resuming costs one descent (about as much as an insert's) and no
/// allocation beyond the bounds.
///
/// ```
/// use hightower_index::{Cursor, pin};
///
/// let (mut writer, map) = hightower_index::new::<u32>();
/// for number in 0..100_u32 {
///     writer.insert(&number.to_be_bytes(), number);
/// }
/// let mut cursor = Cursor::prefix(&[0, 0, 0]);
/// let mut seen = 0;
/// loop {
///     let guard = pin(); // a new guard for every ten entries
///     let mut taken = 0;
///     for entry in cursor.resume(&map, &guard).take(10) {
///         taken += 1;
///         cursor.advance_past(entry.key());
///     }
///     seen += taken;
///     if taken == 0 {
///         break;
///     }
/// }
/// assert_eq!(seen, 100);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    lower: Bound<Vec<u8>>,
    upper: Bound<Vec<u8>>,
}

impl Cursor {
    /// A cursor over the keys between two bounds.
    ///
    /// ```
    /// use std::ops::Bound;
    /// let cursor = hightower_index::Cursor::range(Bound::Included(b"a"), Bound::Unbounded);
    /// ```
    #[must_use]
    pub fn range(lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Self {
        Self { lower: lower.map(<[u8]>::to_vec), upper: upper.map(<[u8]>::to_vec) }
    }

    /// A cursor over the keys that start with `prefix`.
    ///
    /// ```
    /// let cursor = hightower_index::Cursor::prefix(b"/pods/");
    /// ```
    #[must_use]
    pub fn prefix(prefix: &[u8]) -> Self {
        Self { lower: Bound::Included(prefix.to_vec()), upper: prefix_end(prefix) }
    }

    /// An iterator over the rest of the range.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// let cursor = hightower_index::Cursor::prefix(b"");
    /// assert_eq!(cursor.resume(&map, &hightower_index::pin()).count(), 1);
    /// ```
    pub fn resume<'g, V, H: KeyHasher>(&self, map: &'g Map<V, H>, guard: &'g Guard) -> MapRange<'g, V> {
        map.range(as_slice(&self.lower), as_slice(&self.upper), guard)
    }

    /// Skips all keys up to and including `key`.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// let mut cursor = hightower_index::Cursor::prefix(b"");
    /// cursor.advance_past(b"a");
    /// assert_eq!(cursor.resume(&map, &hightower_index::pin()).count(), 0);
    /// ```
    pub fn advance_past(&mut self, key: &[u8]) {
        replace(&mut self.lower, key);
    }

    /// Skips all keys from `key` on, for scans from the back.
    ///
    /// ```
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// let mut cursor = hightower_index::Cursor::prefix(b"");
    /// cursor.retreat_before(b"a");
    /// assert_eq!(cursor.resume(&map, &hightower_index::pin()).count(), 0);
    /// ```
    pub fn retreat_before(&mut self, key: &[u8]) {
        replace(&mut self.upper, key);
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

/// Makes `bound` exclude `key`, in the memory that it has.
fn replace(bound: &mut Bound<Vec<u8>>, key: &[u8]) {
    let mut bytes = match core::mem::replace(bound, Bound::Unbounded) {
        Bound::Included(bytes) | Bound::Excluded(bytes) => bytes,
        Bound::Unbounded => Vec::new(),
    };
    bytes.clear();
    bytes.extend_from_slice(key);
    *bound = Bound::Excluded(bytes);
}
