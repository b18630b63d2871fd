//! Iterators in key order.

use core::fmt;
use core::ops::{Bound, ControlFlow};

use crate::bytes::compare;
use crate::entry_ref::EntryRef;
use crate::leaf::Leaf;
use crate::tagged_ptr::TaggedPtr;
use crate::walk::{Backward, Direction, Forward, Walk};

/// Number of leaves in a window.
const WINDOW_LEAVES: usize = 32;
/// Number of leaves that the walk returns at once.
const CHUNK_LEAVES: usize = 8;
/// Maximum prefetch distance of leaves. It is smaller at first, so that a short scan does not walk
/// far beyond its end.
const LEAVES_AHEAD: usize = 16;
const FIRST_LEAVES_AHEAD: usize = 4;
/// Prefetch distance of the targets of values, in leaves.
///
/// They are prefetched one by one, not in batches: some processors (for instance AMD's Zen 4) drop
/// a prefetch while 24 cache lines are pending. A batch of 32 values of three lines each waited for
/// most of them: 143 ns per entry instead of 80.
const VALUES_AHEAD: usize = 8;

/// The leaves around a position in a range: earlier ones were returned, the targets of the next few
/// are prefetched, and the later ones are prefetched themselves. Numbers count from the start of
/// the range, and are positions in the ring modulo its length.
struct Window<'g, V> {
    leaves: [Option<Leaf<'g, V>>; WINDOW_LEAVES],
    next: usize,
    /// Up to this number values were read, and are inside the range.
    asked: usize,
    /// Up to this number leaves are in the ring.
    taken: usize,
    leaves_ahead: usize,
    /// Whether the walk has reached the end of the range.
    is_last: bool,
}

impl<'g, V> Window<'g, V> {
    const fn new() -> Self {
        Self {
            leaves: [None; WINDOW_LEAVES],
            next: 0,
            asked: 0,
            taken: 0,
            leaves_ahead: FIRST_LEAVES_AHEAD,
            is_last: false,
        }
    }

    /// The next leaf of a walk that goes up to `end`. `hook` is called with the values some leaves
    /// ahead.
    ///
    /// # Safety
    ///
    /// As for [`Walk::take`].
    #[inline(always)]
    unsafe fn next<D: Direction>(
        &mut self,
        walk: &mut Walk<'g, V>,
        end: Bound<&[u8]>,
        hook: &impl Fn(&V),
    ) -> Option<Leaf<'g, V>> {
        if self.taken <= self.next + self.leaves_ahead && !self.is_last {
            // SAFETY: the caller's promise.
            unsafe { self.take::<D>(walk) };
        }
        while self.asked < self.taken.min(self.next + VALUES_AHEAD) {
            if self.asked.is_multiple_of(CHUNK_LEAVES) {
                self.cut::<D>(end);
                if self.asked == self.taken {
                    break;
                }
            }
            if let Some(leaf) = self.leaves[self.asked % WINDOW_LEAVES] {
                hook(leaf.value());
            }
            self.asked += 1;
        }
        if self.next == self.asked {
            return None;
        }
        let leaf = self.leaves[self.next % WINDOW_LEAVES];
        self.next += 1;
        leaf
    }

    /// Takes the next leaves of the walk and prefetches them.
    ///
    /// # Safety
    ///
    /// As for [`Walk::take`].
    #[inline]
    unsafe fn take<D: Direction>(&mut self, walk: &mut Walk<'g, V>) {
        // Until the walk is at its end, whole chunks are taken.
        let chunk = &mut self.leaves[self.taken % WINDOW_LEAVES..][..CHUNK_LEAVES];
        // SAFETY: the caller's promise.
        let len = unsafe { walk.take::<D>(chunk) };
        self.taken += len;
        self.is_last = len < CHUNK_LEAVES;
        self.leaves_ahead = (self.leaves_ahead * 2).min(LEAVES_AHEAD);
    }

    /// Drops the leaves beyond the end of the range, if the range ends in the next chunk. Keys are
    /// in order, so the last key of a chunk nearly always decides for all.
    #[inline]
    fn cut<D: Direction>(&mut self, end: Bound<&[u8]>) {
        let len = (self.taken - self.asked).min(CHUNK_LEAVES);
        let chunk = &self.leaves[self.asked % WINDOW_LEAVES..][..len];
        let is_inside = |leaf: &Option<Leaf<'_, V>>| {
            leaf.is_some_and(|leaf| if D::RISING { is_below(leaf.key(), end) } else { is_above(leaf.key(), end) })
        };
        if chunk.last().is_none_or(is_inside) {
            return;
        }
        self.taken = self.asked + chunk.partition_point(is_inside);
        self.is_last = true;
    }
}

/// One end of a range: its walk, and its prefetched leaves.
struct End<'g, V> {
    /// `None` until the first step.
    walk: Option<Walk<'g, V>>,
    window: Window<'g, V>,
    /// The last leaf that this end returned.
    last: Option<Leaf<'g, V>>,
}

impl<'g, V> End<'g, V> {
    const fn new() -> Self {
        Self { walk: None, window: Window::new(), last: None }
    }

    /// The next leaf of this end; prefetches the following ones. The walk goes from `start` to
    /// `end`.
    ///
    /// # Safety
    ///
    /// `root` is the root of a tree of `V` and a guard lives for `'g`.
    #[inline]
    unsafe fn next<D: Direction>(
        &mut self,
        root: TaggedPtr,
        start: &Bound<Box<[u8]>>,
        end: &Bound<Box<[u8]>>,
        hook: &impl Fn(&V),
    ) -> Option<Leaf<'g, V>> {
        // SAFETY: the caller's promise.
        unsafe {
            let walk = self.walk.get_or_insert_with(|| Walk::start::<D>(root, borrow(start), borrow(end)));
            self.window.next::<D>(walk, borrow(end), hook)
        }
    }
}

/// Calls `visit` with the entries between two bounds, in key order, until it breaks.
///
/// # Safety
///
/// `root` is the root of a tree of `V` and a guard lives for `'g`.
pub(crate) unsafe fn visit<'g, V: 'g>(
    root: TaggedPtr,
    lower: Bound<&[u8]>,
    upper: Bound<&[u8]>,
    hook: impl Fn(&V),
    mut visit: impl FnMut(EntryRef<'g, V>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    // SAFETY: the caller's promise.
    let mut walk = unsafe { Walk::start::<Forward>(root, lower, upper) };
    let mut window = Window::new();
    // SAFETY: the caller's promise.
    while let Some(leaf) = unsafe { window.next::<Forward>(&mut walk, upper, &hook) } {
        visit(EntryRef::new(leaf))?;
    }
    ControlFlow::Continue(())
}

fn borrow(bound: &Bound<Box<[u8]>>) -> Bound<&[u8]> {
    match bound {
        Bound::Included(key) => Bound::Included(key),
        Bound::Excluded(key) => Bound::Excluded(key),
        Bound::Unbounded => Bound::Unbounded,
    }
}

fn own(bound: Bound<&[u8]>) -> Bound<Box<[u8]>> {
    bound.map(Box::from)
}

/// The least key that is greater than every key that starts with `prefix`, as an upper bound.
pub(crate) fn prefix_end(prefix: &[u8]) -> Bound<Vec<u8>> {
    let Some(last) = prefix.iter().rposition(|byte| *byte != u8::MAX) else { return Bound::Unbounded };
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Bound::Excluded(end)
}

/// An iterator over a map's entries in key order, from both ends. [`Map::range`](crate::Map::range)
/// and [`Map::prefix`](crate::Map::prefix) create it.
///
/// It is weakly consistent: it returns every key that exists during its whole life once, in order,
/// and may or may not return keys that are added or removed meanwhile. Up to 24 entries are
/// prefetched.
///
/// ```
/// let (mut writer, map) = hightower_index::new::<u32>();
/// for key in ["a", "b", "c"] {
///     writer.insert(key.as_bytes(), 0);
/// }
/// let guard = hightower_index::pin();
/// let keys: Vec<&[u8]> = map.iter(&guard).rev().map(|entry| entry.key()).collect();
/// assert_eq!(keys, [b"c", b"b", b"a"]);
/// ```
pub struct MapRange<'g, V, F = fn(&V)> {
    root: TaggedPtr,
    lower: Bound<Box<[u8]>>,
    upper: Bound<Box<[u8]>>,
    front: End<'g, V>,
    back: End<'g, V>,
    hook: F,
    done: bool,
}

impl<'g, V> MapRange<'g, V> {
    /// # Safety
    ///
    /// `root` is the root of a tree of `V` and a guard lives for `'g`.
    pub(crate) unsafe fn new(root: TaggedPtr, lower: Bound<&[u8]>, upper: Bound<&[u8]>) -> Self {
        let (lower, upper) = (own(lower), own(upper));
        Self { root, lower, upper, front: End::new(), back: End::new(), hook: |_| {}, done: false }
    }
}

impl<'g, V, F: Fn(&V)> MapRange<'g, V, F> {
    /// Calls `hook` with each value some entries before it is returned, so that it can prefetch the
    /// value's target (see [`prefetch_read`](crate::prefetch_read)). It may be called for a few
    /// values beyond the range's end.
    ///
    /// ```
    /// use std::cell::Cell;
    /// let (mut writer, map) = hightower_index::new::<u32>();
    /// writer.insert(b"a", 1);
    /// let guard = hightower_index::pin();
    /// let asked = Cell::new(0);
    /// let range = map.iter(&guard).prefetch_with(|value| asked.set(*value));
    /// assert_eq!(range.count(), 1);
    /// assert_eq!(asked.get(), 1);
    /// ```
    pub fn prefetch_with<G: Fn(&V)>(self, hook: G) -> MapRange<'g, V, G> {
        let Self { root, lower, upper, front, back, hook: _, done } = self;
        MapRange { root, lower, upper, front, back, hook, done }
    }

    fn end<T>(&mut self) -> Option<T> {
        self.done = true;
        None
    }
}

fn is_below(key: &[u8], upper: Bound<&[u8]>) -> bool {
    match upper {
        Bound::Included(end) => compare(key, end).is_le(),
        Bound::Excluded(end) => compare(key, end).is_lt(),
        Bound::Unbounded => true,
    }
}

fn is_above(key: &[u8], lower: Bound<&[u8]>) -> bool {
    match lower {
        Bound::Included(start) => compare(key, start).is_ge(),
        Bound::Excluded(start) => compare(key, start).is_gt(),
        Bound::Unbounded => true,
    }
}

impl<'g, V, F: Fn(&V)> Iterator for MapRange<'g, V, F> {
    type Item = EntryRef<'g, V>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        // SAFETY: the promise of MapRange::new.
        let Some(leaf) = (unsafe { self.front.next::<Forward>(self.root, &self.lower, &self.upper, &self.hook) })
        else {
            return self.end();
        };
        if self.back.last.is_some_and(|last| compare(leaf.key(), last.key()).is_ge()) {
            return self.end();
        }
        self.front.last = Some(leaf);
        Some(EntryRef::new(leaf))
    }
}

impl<V, F: Fn(&V)> DoubleEndedIterator for MapRange<'_, V, F> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        // SAFETY: the promise of MapRange::new.
        let Some(leaf) = (unsafe { self.back.next::<Backward>(self.root, &self.upper, &self.lower, &self.hook) })
        else {
            return self.end();
        };
        if self.front.last.is_some_and(|last| compare(leaf.key(), last.key()).is_le()) {
            return self.end();
        }
        self.back.last = Some(leaf);
        Some(EntryRef::new(leaf))
    }
}

impl<V, F: Fn(&V)> core::iter::FusedIterator for MapRange<'_, V, F> {}

impl<V, F> fmt::Debug for MapRange<'_, V, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MapRange").field("done", &self.done).finish_non_exhaustive()
    }
}
