//! Walking the tree in key order, forwards or backwards, without recursion: however long the keys, the path beyond its first nodes is in a vector.
//!
//! A walk sees each node as it is when it looks. A key that is there for the whole walk is seen once: nodes that are replaced stay as they were under
//! the guard, and what is added to a node only adds codes that the walk either has passed or has yet to reach.

use core::cmp::Ordering;
use core::mem::MaybeUninit;
use core::ops::Bound;

use crate::bytes::{common_len, compare};
use crate::leaf::Leaf;
use crate::link::{Link, Target};
use crate::node::{CODE_MAX, CODE_TERMINAL, Code, Node, code_of};
use crate::search::Lanes;

/// One direction of walking.
pub(crate) trait Direction {
    /// The place in a node where a walk of it starts.
    const START: Code;
    /// Which of a node's things comes next at or after `at`, and where to go on; `None` there means that nothing is left.
    fn next(node: Node<'_>, at: Code) -> Option<(Code, Link)>;
    /// The place after `code`.
    fn after(code: Code) -> Option<Code>;
    /// Whether `code` comes before `other`.
    fn is_before(code: Code, other: Code) -> bool;
    /// Whether keys that are greater (true) or less (false) than the bound are ahead.
    const RISING: bool;
}

/// Towards greater keys.
pub(crate) struct Forward;
/// Towards lesser keys.
pub(crate) struct Backward;

impl Direction for Forward {
    const START: Code = CODE_TERMINAL;
    const RISING: bool = true;

    #[inline(always)]
    fn next(node: Node<'_>, at: Code) -> Option<(Code, Link)> {
        node.ceil(at)
    }

    #[inline(always)]
    fn after(code: Code) -> Option<Code> {
        (code < CODE_MAX).then_some(code + 1)
    }

    #[inline(always)]
    fn is_before(code: Code, other: Code) -> bool {
        code < other
    }
}

impl Direction for Backward {
    const START: Code = CODE_MAX;
    const RISING: bool = false;

    #[inline(always)]
    fn next(node: Node<'_>, at: Code) -> Option<(Code, Link)> {
        node.floor(at)
    }

    #[inline(always)]
    fn after(code: Code) -> Option<Code> {
        code.checked_sub(1)
    }

    #[inline(always)]
    fn is_before(code: Code, other: Code) -> bool {
        code > other
    }
}

/// A node on the path, and what of it is still ahead.
///
/// The children of a small node are put in order once, when the walk comes to it; what is added to it later may be missed. Those of a large
/// one are looked for one by one.
#[derive(Clone, Copy)]
struct Frame<'g> {
    node: Node<'g>,
    /// Of a small node: the children ahead.
    lanes: Lanes,
    /// Of a large node: the first place ahead. Of a small one: its terminal, if that is ahead.
    at: Option<Code>,
}

impl<'g> Frame<'g> {
    #[inline(always)]
    fn new<D: Direction>(node: Node<'g>, at: Option<Code>) -> Self {
        if !node.is_small() {
            return Self { node, lanes: Lanes::NONE, at };
        }
        let Some(from) = at else { return Self { node, lanes: Lanes::NONE, at } };
        let mut lanes = node.lanes_in_order(D::RISING);
        if from != D::START {
            while let Some(lane) = lanes.peek()
                && D::is_before(code_of(node.byte_of_lane(lane)), from)
            {
                lanes.next();
            }
        }
        let at = (!D::is_before(CODE_TERMINAL, from)).then_some(CODE_TERMINAL);
        let frame = Self { node, lanes, at };
        frame.prefetch_second();
        frame
    }

    /// Asks for the child after the next one, which was asked for before.
    #[inline(always)]
    fn prefetch_second(&self) {
        if let Some(lane) = self.lanes.peek_second() {
            self.node.child_in_lane(lane).prefetch();
        }
    }

    /// Asks for the next child.
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

    /// What comes next, and leaves it behind. It may be nothing.
    #[inline(always)]
    fn advance<D: Direction>(&mut self) -> Option<Link> {
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

/// Frames that lie in the path itself: as many as most trees are deep.
const NEAR_FRAMES: usize = 12;

/// The nodes that a walk is in, from the root down. A short path takes no memory elsewhere.
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

    /// Asks for what follows in the two lowest nodes of a short path: a walk that has just begun will come there soon, and nothing was asked for yet.
    #[inline(always)]
    fn prefetch_beside<D: Direction>(&self) {
        // SAFETY: as in `last_mut`.
        let frames = self.near[..self.len].iter().rev().take(2).map(|frame| unsafe { frame.assume_init_ref() });
        frames.for_each(Frame::prefetch_first::<D>);
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

/// A walk that is under way.
pub(crate) struct Walk<'g, V> {
    path: Path<'g>,
    first: Option<Leaf<'g, V>>,
}

impl<'g, V> Walk<'g, V> {
    /// A walk that starts at `bound`, which is its lower end if the direction is rising, else its upper.
    ///
    /// # Safety
    ///
    /// `root` is the root of a tree of `V`, and a guard lives for `'g`, or nobody writes during `'g`.
    pub(crate) unsafe fn start<D: Direction>(root: Link, bound: Bound<&[u8]>) -> Self {
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
        unsafe { walk.seek::<D>(root, key, inclusive) };
        walk
    }

    unsafe fn enter<D: Direction>(&mut self, link: Link) {
        // SAFETY: the caller's promise.
        match unsafe { link.follow() } {
            Target::Nothing => {}
            Target::Leaf(leaf) => self.first = Some(leaf),
            Target::Node(node) => self.push::<D>(node, Some(D::START)),
        }
    }

    #[inline(always)]
    fn push<D: Direction>(&mut self, node: Node<'g>, at: Option<Code>) {
        self.path.push(Frame::new::<D>(node, at));
    }

    /// Descends towards `key`, leaving at each node the place behind the one taken.
    unsafe fn seek<D: Direction>(&mut self, root: Link, key: &[u8], inclusive: bool) {
        let mut link = root;
        let mut depth = 0;
        loop {
            // SAFETY: the caller's promise.
            let node = match unsafe { link.follow::<V>() } {
                Target::Nothing => return,
                Target::Leaf(leaf) => {
                    leaf.prefetch();
                    self.path.prefetch_beside::<D>();
                    let is_ahead = match compare(leaf.key(), key) {
                        Ordering::Equal => inclusive,
                        order => (order == Ordering::Greater) == D::RISING,
                    };
                    self.first = is_ahead.then_some(leaf);
                    return;
                }
                Target::Node(node) => node,
            };
            let prefix = node.prefix();
            let shared = common_len(&key[depth..], prefix);
            if shared < prefix.len() {
                // All keys below are on one side: above a key that ends in the prefix, or as the first differing byte says.
                let above = key.get(depth + shared).is_none_or(|byte| prefix[shared] > *byte);
                if above == D::RISING {
                    self.push::<D>(node, Some(D::START));
                }
                return;
            }
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
            self.push::<D>(node, D::after(code_of(byte)));
            let Some(place) = node.find(byte) else { return };
            link = Link::from_raw(place.load(crate::sync::Ordering::Acquire));
            depth += 1;
        }
    }

    /// Puts the next leaves into `leaves` and asks for their memory; gives how many there were, fewer than there is room for only at the end.
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
            let entered = loop {
                if count == leaves.len() {
                    return count;
                }
                let Some(link) = top.advance::<D>() else { break None };
                // SAFETY: the caller's promise.
                match unsafe { link.follow() } {
                    Target::Nothing => {}
                    Target::Leaf(leaf) => {
                        leaf.prefetch();
                        leaves[count] = Some(leaf);
                        count += 1;
                    }
                    Target::Node(node) => break Some(node),
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
