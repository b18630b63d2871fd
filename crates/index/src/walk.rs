//! Walking the tree in key order, forwards or backwards, with the path in a vector (never on the stack, however long the keys).
//!
//! A walk sees each node as it is when it looks. A key that is there for the whole walk is seen once: nodes that are replaced stay as they were under
//! the guard, and what is added to a node only adds codes that the walk either has passed or has yet to reach.

use core::ops::Bound;

use crate::leaf::Leaf;
use crate::link::{Link, Target};
use crate::node::{CODE_MAX, CODE_TERMINAL, Code, Node, code_of};
use crate::tree::common_len;

/// One direction of walking.
pub(crate) trait Direction {
    /// The place in a node where a walk of it starts.
    const START: Code;
    /// Which of a node's things comes next at or after `at`, and where to go on; `None` there means that nothing is left.
    fn next(node: Node<'_>, at: Code) -> Option<(Code, Link)>;
    /// The place after `code`.
    fn after(code: Code) -> Option<Code>;
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
}

struct Frame<'g> {
    node: Node<'g>,
    at: Option<Code>,
}

/// A walk that is under way.
pub(crate) struct Walk<'g, V> {
    path: Vec<Frame<'g>>,
    first: Option<Leaf<'g, V>>,
}

impl<'g, V> Walk<'g, V> {
    /// A walk that starts at `bound`, which is its lower end if the direction is rising, else its upper.
    ///
    /// # Safety
    ///
    /// `root` is the root of a tree of `V`, and a guard lives for `'g`, or nobody writes during `'g`.
    pub(crate) unsafe fn start<D: Direction>(root: Link, bound: Bound<&[u8]>) -> Self {
        let mut walk = Self { path: Vec::with_capacity(16), first: None };
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
            Target::Node(node) => self.push(node, Some(D::START)),
        }
    }

    #[inline(always)]
    fn push(&mut self, node: Node<'g>, at: Option<Code>) {
        node.prefetch_children();
        self.path.push(Frame { node, at });
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
                    let ahead = if D::RISING { leaf.key() > key } else { leaf.key() < key };
                    self.first = (ahead || (inclusive && leaf.key() == key)).then_some(leaf);
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
                    self.push(node, Some(D::START));
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
                return self.push(node, at);
            };
            self.path.push(Frame { node, at: D::after(code_of(byte)) });
            let Some(place) = node.find(byte) else { return };
            link = Link::from_raw(place.load(crate::sync::Ordering::Acquire));
            depth += 1;
        }
    }

    /// The next leaf.
    ///
    /// # Safety
    ///
    /// What [`Walk::start`] was promised still holds.
    #[inline]
    pub(crate) unsafe fn next<D: Direction>(&mut self) -> Option<Leaf<'g, V>> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            let top = self.path.last_mut()?;
            let Some((code, link)) = top.at.and_then(|at| D::next(top.node, at)) else {
                self.path.pop();
                continue;
            };
            top.at = D::after(code);
            top.node.prefetch_child(top.at.and_then(D::after));
            // SAFETY: the caller's promise.
            match unsafe { link.follow() } {
                Target::Nothing => {}
                Target::Leaf(leaf) => return Some(leaf),
                Target::Node(node) => self.push(node, Some(D::START)),
            }
        }
    }
}
