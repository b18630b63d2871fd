//! Walking the tree in key order, forwards or backwards, without recursion: the path beyond its
//! first nodes is in a vector, for keys of any length.
//!
//! A walk sees each node at the moment of its read. It returns each key that exists during the
//! whole walk once: replaced nodes stay unchanged under the guard, and an added child only adds
//! codes that the walk has passed or will reach.

use core::cmp::Ordering;
use core::mem::MaybeUninit;
use core::ops::Bound;

use crate::bytes::{common_len, compare};
use crate::leaf::Leaf;
use crate::node::{ByteCode, CODE_MAX, CODE_TERMINAL, Node, code_of};
use crate::pointee::Pointee;
use crate::search::Lanes;
use crate::tagged_ptr::TaggedPtr;

/// One direction of walking.
pub(crate) trait Direction {
    /// The position in a node where a walk of the node starts.
    const START: ByteCode;
    /// The next child or terminal of a node at or after `at`, and the position to continue; `None`
    /// at the end of the node.
    fn next(node: Node<'_>, at: ByteCode) -> Option<(ByteCode, TaggedPtr)>;
    /// The position after `code`.
    fn after(code: ByteCode) -> Option<ByteCode>;
    /// Whether `code` comes before `other`.
    fn is_before(code: ByteCode, other: ByteCode) -> bool;
    /// Whether the keys ahead are greater (`true`) or less (`false`) than the bound.
    const RISING: bool;
}

/// Towards greater keys.
pub(crate) struct Forward;
/// Towards smaller keys.
pub(crate) struct Backward;

impl Direction for Forward {
    const START: ByteCode = CODE_TERMINAL;
    const RISING: bool = true;

    #[inline(always)]
    fn next(node: Node<'_>, at: ByteCode) -> Option<(ByteCode, TaggedPtr)> {
        node.ceil(at)
    }

    #[inline(always)]
    fn after(code: ByteCode) -> Option<ByteCode> {
        (code < CODE_MAX).then_some(code + 1)
    }

    #[inline(always)]
    fn is_before(code: ByteCode, other: ByteCode) -> bool {
        code < other
    }
}

impl Direction for Backward {
    const START: ByteCode = CODE_MAX;
    const RISING: bool = false;

    #[inline(always)]
    fn next(node: Node<'_>, at: ByteCode) -> Option<(ByteCode, TaggedPtr)> {
        node.floor(at)
    }

    #[inline(always)]
    fn after(code: ByteCode) -> Option<ByteCode> {
        code.checked_sub(1)
    }

    #[inline(always)]
    fn is_before(code: ByteCode, other: ByteCode) -> bool {
        code > other
    }
}

/// A node on the path, and its remaining part.
///
/// The children of a small node are sorted once, when the walk reaches it; later additions may be
/// missed. Those of a large node are searched one by one.
#[derive(Clone, Copy)]
struct Frame<'g> {
    node: Node<'g>,
    /// For a small node: the remaining children.
    lanes: Lanes,
    /// For a large node, and one that is not yet sorted: the next position. For a small one: its
    /// terminal, if it remains.
    at: Option<ByteCode>,
    /// Whether the children of a small node are sorted.
    is_ordered: bool,
}

impl<'g> Frame<'g> {
    #[inline(always)]
    fn new<D: Direction>(node: Node<'g>, at: Option<ByteCode>) -> Self {
        let unordered = Self::unordered(node, at);
        let Some(from) = at.filter(|_| node.is_small()) else { return Self { is_ordered: true, ..unordered } };
        let mut lanes = node.lanes_in_order(D::RISING);
        if from != D::START {
            while let Some(lane) = lanes.peek()
                && D::is_before(code_of(node.byte_of_lane(lane)), from)
            {
                lanes.next();
            }
        }
        let at = (!D::is_before(CODE_TERMINAL, from)).then_some(CODE_TERMINAL);
        let frame = Self { node, lanes, at, is_ordered: true };
        frame.prefetch_second();
        frame
    }

    /// A node whose children are sorted when the walk returns to it. Most nodes above the start of
    /// a short scan are never sorted.
    #[inline(always)]
    fn unordered(node: Node<'g>, at: Option<ByteCode>) -> Self {
        Self { node, lanes: Lanes::NONE, at, is_ordered: false }
    }

    #[inline(always)]
    fn put_in_order<D: Direction>(&mut self) {
        if !self.is_ordered {
            *self = Self::new::<D>(self.node, self.at);
        }
    }

    /// Prefetches the child after the next one, which was prefetched before.
    #[inline(always)]
    fn prefetch_second(&self) {
        if let Some(lane) = self.lanes.peek_second() {
            self.node.child_in_lane(lane).prefetch();
        }
    }

    /// Prefetches the next child.
    #[inline(always)]
    fn prefetch_first<D: Direction>(&self) {
        if let Some(lane) = self.lanes.peek() {
            self.node.child_in_lane(lane).prefetch();
        } else if !self.node.is_small()
            && let Some((_, link)) = self.at.and_then(|at| D::next(self.node, at))
        {
            link.prefetch();
        }
    }

    /// Takes the next leaves of a small node, up to the first entry that is not a leaf, and
    /// prefetches them: most of a walk, and cheaper in sequence.
    ///
    /// # Safety
    ///
    /// The frame is of a tree of `V`, and a guard lives for `'g`, or nobody writes during `'g`.
    #[inline(always)]
    unsafe fn take_leaves<V, D: Direction>(&mut self, leaves: &mut [Option<Leaf<'g, V>>], count: &mut usize) {
        // Before the lanes of a rising walk comes the terminal. A large node has no lanes.
        if D::RISING && self.at.is_some() {
            if !self.node.is_small() || !self.node.terminal_link().is_nothing() {
                return;
            }
            self.at = None;
        }
        let mut lanes = self.lanes;
        while let Some(place) = leaves.get_mut(*count)
            && let Some(lane) = lanes.peek()
            // SAFETY: the caller's promise.
            && let Pointee::Leaf(leaf) = unsafe { self.node.child_in_lane(lane).follow() }
        {
            leaf.prefetch();
            *place = Some(leaf);
            *count += 1;
            lanes.next();
        }
        self.lanes = lanes;
    }

    /// Takes the next entry. It may be empty.
    #[inline(always)]
    fn advance<D: Direction>(&mut self) -> Option<TaggedPtr> {
        if !self.node.is_small() {
            let (code, link) = self.at.and_then(|at| D::next(self.node, at))?;
            self.at = D::after(code);
            self.node.prefetch_child(self.at.and_then(D::after));
            return Some(link);
        }
        if D::RISING && self.at.take().is_some() {
            return Some(self.node.terminal_link());
        }
        if let Some(lane) = self.lanes.next() {
            let link = self.node.child_in_lane(lane);
            self.prefetch_second();
            return Some(link);
        }
        self.at.take().map(|_| self.node.terminal_link())
    }
}

/// Number of frames in the path itself: the depth of most trees.
const NEAR_FRAMES: usize = 12;

/// The path of a walk, from the root down. A short path allocates nothing.
struct Path<'g> {
    /// The first of them; those below `len` are there.
    near: [MaybeUninit<Frame<'g>>; NEAR_FRAMES],
    len: usize,
    far: Vec<Frame<'g>>,
}

impl<'g> Path<'g> {
    const fn new() -> Self {
        Self { near: [const { MaybeUninit::uninit() }; NEAR_FRAMES], len: 0, far: Vec::new() }
    }

    #[inline(always)]
    fn push(&mut self, frame: Frame<'g>) {
        match self.near.get_mut(self.len) {
            Some(place) => {
                place.write(frame);
                self.len += 1;
            }
            None => self.far.push(frame),
        }
    }

    #[inline(always)]
    fn pop(&mut self) {
        if self.far.pop().is_none() {
            self.len = self.len.saturating_sub(1);
        }
    }

    /// Prefetches the next children of the two lowest nodes of a short path: a new walk will need
    /// them soon, and has not prefetched them yet.
    #[inline(always)]
    fn prefetch_beside<D: Direction>(&mut self) {
        // SAFETY: as in `last_mut`.
        let frames = self.near[..self.len].iter_mut().rev().take(2).map(|frame| unsafe { frame.assume_init_mut() });
        frames.for_each(|frame| {
            frame.put_in_order::<D>();
            frame.prefetch_first::<D>();
        });
    }

    #[inline(always)]
    fn last_mut(&mut self) -> Option<&mut Frame<'g>> {
        if !self.far.is_empty() {
            return self.far.last_mut();
        }
        // SAFETY: `push` has written those below `len`.
        self.near[..self.len].last_mut().map(|frame| unsafe { frame.assume_init_mut() })
    }
}

/// The far end of a range during the descent to its near end.
struct Beside<'k> {
    /// The end's key, while it has the path's bytes as a prefix.
    key: Option<&'k [u8]>,
    is_excluded: bool,
}

impl<'k> Beside<'k> {
    #[inline(always)]
    fn new(end: Bound<&'k [u8]>) -> Self {
        let (key, is_excluded) = match end {
            Bound::Included(key) => (Some(key), false),
            Bound::Excluded(key) => (Some(key), true),
            Bound::Unbounded => (None, false),
        };
        Self { key, is_excluded }
    }

    /// The path continues with `bytes`, from `depth` on.
    #[inline(always)]
    fn pass(&mut self, depth: usize, bytes: &[u8]) {
        self.key = self.key.filter(|key| key.get(depth..).is_some_and(|rest| rest.starts_with(bytes)));
    }

    /// Whether an entry from `behind` on, in a node at `depth` of the path, may be inside the
    /// range. If the end has left the path, it is beyond this whole node.
    #[inline(always)]
    fn may_hold<D: Direction>(&self, depth: usize, behind: Option<ByteCode>) -> bool {
        let (Some(behind), Some(key)) = (behind, self.key) else { return behind.is_some() };
        match (D::RISING, key.get(depth)) {
            (true, Some(&byte)) if self.is_excluded && key.len() == depth + 1 => behind < code_of(byte),
            (true, Some(&byte)) => behind <= code_of(byte),
            // All keys with the end's key as a prefix are greater.
            (true, None) => false,
            (false, Some(&byte)) => behind >= code_of(byte),
            (false, None) => true,
        }
    }
}

/// A walk in progress.
pub(crate) struct Walk<'g, V> {
    path: Path<'g>,
    first: Option<Leaf<'g, V>>,
}

impl<'g, V> Walk<'g, V> {
    /// A walk that starts at `bound`, its lower end if the direction is ascending, otherwise its
    /// upper end. It may continue beyond `end`, the other one.
    ///
    /// # Safety
    ///
    /// `root` is the root of a tree of `V`, and a guard lives for `'g`, or nobody writes during
    /// `'g`.
    pub(crate) unsafe fn start<D: Direction>(root: TaggedPtr, bound: Bound<&[u8]>, end: Bound<&[u8]>) -> Self {
        let mut walk = Self { path: Path::new(), first: None };
        let (key, inclusive) = match bound {
            Bound::Unbounded => {
                // SAFETY: the caller's promise.
                unsafe { walk.enter::<D>(root) };
                return walk;
            }
            Bound::Included(key) => (key, true),
            Bound::Excluded(key) => (key, false),
        };
        // SAFETY: the caller's promise.
        unsafe { walk.seek::<D>(root, key, inclusive, end) };
        walk
    }

    unsafe fn enter<D: Direction>(&mut self, link: TaggedPtr) {
        // SAFETY: the caller's promise.
        match unsafe { link.follow() } {
            Pointee::Nothing => {}
            Pointee::Leaf(leaf) => self.first = Some(leaf),
            Pointee::Node(node) => self.push::<D>(node, Some(D::START)),
        }
    }

    #[inline(always)]
    fn push<D: Direction>(&mut self, node: Node<'g>, at: Option<ByteCode>) {
        self.path.push(Frame::new::<D>(node, at));
    }

    /// Descends towards `key`, and keeps at each node the position behind the taken one, unless
    /// everything there is beyond the end. In a scan of one prefix this drops all nodes above it,
    /// so that the walk ends without comparing keys.
    unsafe fn seek<D: Direction>(&mut self, root: TaggedPtr, key: &[u8], inclusive: bool, end: Bound<&[u8]>) {
        let mut link = root;
        let mut depth = 0;
        let mut beside = Beside::new(end);
        loop {
            // SAFETY: the caller's promise.
            let node = match unsafe { link.follow::<V>() } {
                Pointee::Nothing => return,
                Pointee::Leaf(leaf) => {
                    leaf.prefetch();
                    self.path.prefetch_beside::<D>();
                    let is_ahead = match compare(leaf.key(), key) {
                        Ordering::Equal => inclusive,
                        order => (order == Ordering::Greater) == D::RISING,
                    };
                    self.first = is_ahead.then_some(leaf);
                    return;
                }
                Pointee::Node(node) => node,
            };
            let prefix = node.prefix();
            let shared = common_len(&key[depth..], prefix);
            if shared < prefix.len() {
                // All keys below are on one side: above a key that ends in the prefix, or as the
                // first differing byte says.
                let above = key.get(depth + shared).is_none_or(|byte| prefix[shared] > *byte);
                if above == D::RISING {
                    self.push::<D>(node, Some(D::START));
                }
                return;
            }
            beside.pass(depth, prefix);
            depth += shared;
            let Some(&byte) = key.get(depth) else {
                // The key ends here: all below are above it, but for its own leaf in the terminal.
                let at = match (D::RISING, inclusive) {
                    (true, true) | (false, true) => Some(CODE_TERMINAL),
                    (true, false) => D::after(CODE_TERMINAL),
                    (false, false) => None,
                };
                return self.push::<D>(node, at);
            };
            let behind = D::after(code_of(byte));
            if beside.may_hold::<D>(depth, behind) {
                self.path.push(Frame::unordered(node, behind));
            }
            beside.pass(depth, &[byte]);
            let Some(place) = node.find(byte) else { return };
            link = TaggedPtr::from_raw(place.load(crate::sync::Ordering::Acquire));
            depth += 1;
        }
    }

    /// Fills `leaves` with the next leaves and prefetches them; returns their number, which is
    /// smaller than the room only at the end.
    ///
    /// # Safety
    ///
    /// What [`Walk::start`] was promised still holds.
    #[inline]
    pub(crate) unsafe fn take<D: Direction>(&mut self, leaves: &mut [Option<Leaf<'g, V>>]) -> usize {
        let mut count = 0;
        if let Some(first) = self.first.take()
            && let Some(place) = leaves.first_mut()
        {
            *place = Some(first);
            count = 1;
        }
        while let Some(top) = self.path.last_mut() {
            top.put_in_order::<D>();
            // SAFETY: the caller's promise.
            unsafe { top.take_leaves::<V, D>(leaves, &mut count) };
            let entered = loop {
                if count == leaves.len() {
                    return count;
                }
                let Some(link) = top.advance::<D>() else { break None };
                // SAFETY: the caller's promise.
                match unsafe { link.follow() } {
                    Pointee::Nothing => {}
                    Pointee::Leaf(leaf) => {
                        leaf.prefetch();
                        leaves[count] = Some(leaf);
                        count += 1;
                    }
                    Pointee::Node(node) => break Some(node),
                }
            };
            match entered {
                Some(node) => self.push::<D>(node, Some(D::START)),
                None => self.path.pop(),
            }
        }
        count
    }
}
