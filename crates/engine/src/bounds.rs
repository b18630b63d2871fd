//! Bounds of key ranges, in the forms of callers.

use std::ops::{Bound, RangeBounds};

pub use hightower_state::prefix_end;

/// The lower and the upper bound of a range of keys, with bytes of their own.
pub type OwnedBounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The forms of key ranges: `..`, `a..b`, `a..=b`, `a..`, `..b`, `..=b`, and a pair of [`Bound`]s,
/// of any type of bytes.
///
/// Both ends must have the same type. Byte string literals of different lengths have different
/// types: write `&b"a"[..]..b"bb"`, or `"a".."bb"`. If the type of a pair cannot be inferred, as in
/// `(Unbounded, Unbounded)`, write `..`.
///
/// ```
/// use std::ops::Bound::{Excluded, Unbounded};
/// # use hightower_engine::SingleNodeEngine;
/// # let dir = tempfile::tempdir().unwrap();
/// # let engine = SingleNodeEngine::open(dir.path())?;
///
/// for key in ["a", "b", "c", "d"] {
///     engine.put(key, "")?;
/// }
/// assert_eq!(engine.range(..)?.count(), 4);
/// assert_eq!(engine.range("a".."c")?.count(), 2);
/// assert_eq!(engine.range(&b"a"[..]..b"bb")?.count(), 2);
/// assert_eq!(engine.range(String::from("b")..=String::from("c"))?.count(), 2);
/// assert_eq!(engine.range((Excluded("b"), Unbounded))?.count(), 2);
/// # Ok::<(), hightower_engine::Error>(())
/// ```
pub trait KeyBounds {
    /// The lower and the upper bound.
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>);
}

impl KeyBounds for std::ops::RangeFull {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Unbounded, Bound::Unbounded)
    }
}

macro_rules! bounds_of_keys {
    ($($range:ty),*) => {$(
        impl<K: AsRef<[u8]>> KeyBounds for $range {
            fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
                (self.start_bound().map(AsRef::as_ref), self.end_bound().map(AsRef::as_ref))
            }
        }
    )*};
}

bounds_of_keys!(
    std::ops::Range<K>,
    std::ops::RangeFrom<K>,
    std::ops::RangeInclusive<K>,
    std::ops::RangeTo<K>,
    std::ops::RangeToInclusive<K>
);

impl<K: AsRef<[u8]>> KeyBounds for (Bound<K>, Bound<K>) {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.0.as_ref().map(AsRef::as_ref), self.1.as_ref().map(AsRef::as_ref))
    }
}

impl<B: KeyBounds + ?Sized> KeyBounds for &B {
    fn key_bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (**self).key_bounds()
    }
}

/// The order of lower bounds.
pub(crate) fn lower_rank(bound: &Bound<Vec<u8>>) -> (Option<&[u8]>, bool) {
    match bound {
        Bound::Unbounded => (None, false),
        Bound::Included(key) => (Some(key), false),
        Bound::Excluded(key) => (Some(key), true),
    }
}

/// The order of upper bounds.
pub(crate) fn upper_rank(bound: &Bound<Vec<u8>>) -> (bool, &[u8], bool) {
    match bound {
        Bound::Excluded(key) => (false, key, false),
        Bound::Included(key) => (false, key, true),
        Bound::Unbounded => (true, &[], true),
    }
}
