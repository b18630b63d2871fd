//! Building a tree from keys in ascending order, and joining two adjacent trees.
//!
//! Only the nodes on the path to the last key can still grow, so only these are open: a stack, with
//! the deepest on top. When a key shares a shorter prefix with its predecessor, the nodes below
//! that prefix are complete, and each is built once, at its final size. The children of all open
//! nodes are in one vector, those of deeper nodes behind those of their ancestors.

use core::marker::PhantomData;

use crate::arena::Arena;
use crate::bytes::common_len;
use crate::leaf::Leaf;
use crate::node::{Node, NodePlan, build};
use crate::pointee::Pointee;
use crate::tagged_ptr::TaggedPtr;

/// A node that is not yet built.
struct OpenNode {
    /// The length of the common prefix of all keys below it.
    end: usize,
    terminal: TaggedPtr,
    /// The position of its first child in the vector of children.
    first_child: usize,
}

/// A tree that grows at its right end and is not reachable by other code.
pub(crate) struct BulkBuilder<V> {
    open: Vec<OpenNode>,
    children: Vec<(u8, TaggedPtr)>,
    /// The last leaf, which is not attached yet.
    last: TaggedPtr,
    holds: PhantomData<V>,
}

impl<V> BulkBuilder<V> {
    pub(crate) const fn new() -> Self {
        Self { open: Vec::new(), children: Vec::new(), last: TaggedPtr::NOTHING, holds: PhantomData }
    }

    /// The leaf of the greatest key.
    pub(crate) fn last(&self) -> Option<Leaf<'_, V>> {
        // SAFETY: the link is nothing or a leaf of V, which nobody frees while the builder is
        // borrowed.
        match unsafe { self.last.follow() } {
            Pointee::Leaf(leaf) => Some(leaf),
            Pointee::Nothing | Pointee::Node(_) => None,
        }
    }

    /// Adds a leaf with a key above all previous ones, which shares `shared` bytes with the last.
    pub(crate) fn push(&mut self, arena: &mut Arena, leaf: Leaf<'_, V>, shared: usize) {
        if !self.last.is_nothing() {
            let below = self.close(arena, Some(shared));
            if self.open.last().is_none_or(|top| top.end < shared) {
                self.open.push(OpenNode {
                    end: shared,
                    terminal: TaggedPtr::NOTHING,
                    first_child: self.children.len(),
                });
            }
            self.attach(below);
        }
        self.last = TaggedPtr::leaf(leaf);
    }

    /// Builds all nodes, and returns the root.
    pub(crate) fn finish(mut self, arena: &mut Arena) -> TaggedPtr {
        self.close(arena, None)
    }

    /// Builds the open nodes that end below `floor`, where a node is or will be. Returns the
    /// topmost of them, or the last leaf.
    fn close(&mut self, arena: &mut Arena, floor: Option<usize>) -> TaggedPtr {
        let mut below = self.last;
        while self.open.last().is_some_and(|top| Some(top.end) > floor) {
            self.attach(below);
            let (Some(top), Some(last)) = (self.open.pop(), self.last()) else { break };
            let above = self.open.last().map(|open| open.end).max(floor);
            let start = above.map_or(0, |end| end + 1);
            let children = &self.children[top.first_child..];
            below = TaggedPtr::node(build(arena, [&last.key()[start..top.end], &[], &[]], top.terminal, children));
            self.children.truncate(top.first_child);
        }
        below
    }

    /// Attaches the path to the last key to the deepest open node.
    fn attach(&mut self, link: TaggedPtr) {
        // SAFETY: as in `last`; what lives on is copied out.
        let Pointee::Leaf(last) = (unsafe { self.last.follow::<V>() }) else { return };
        let Some(top) = self.open.last_mut() else { return };
        match last.key().get(top.end) {
            Some(byte) => self.children.push((*byte, link)),
            None => top.terminal = link,
        }
    }
}

/// One of two trees in a join, without their common prefix so far.
#[derive(Clone, Copy)]
struct Side<'g> {
    link: TaggedPtr,
    /// The rest of the node's prefix or of the leaf's key.
    rest: &'g [u8],
    /// Whether none of the prefix was taken.
    is_whole: bool,
}

/// The parts of a side behind the common prefix: the child on the seam, and the others.
struct SideParts<'g> {
    terminal: TaggedPtr,
    children: Vec<(u8, TaggedPtr)>,
    seam: Option<(u8, Side<'g>)>,
}

/// A node on the seam, before the child between `before` and `after` is known.
struct Joint<'g> {
    prefix: &'g [u8],
    terminal: TaggedPtr,
    before: Vec<(u8, TaggedPtr)>,
    byte: u8,
    after: Vec<(u8, TaggedPtr)>,
}

/// Joins two trees, where all keys of the first are below those of the second. Only the nodes on
/// the seam are rebuilt.
///
/// # Safety
///
/// Both are trees of `V` in this arena that nobody else can reach, every key of `left` is less than
/// every key of `right`, and neither is used again.
pub(crate) unsafe fn join<V>(arena: &mut Arena, left: TaggedPtr, right: TaggedPtr) -> TaggedPtr {
    if left.is_nothing() {
        return right;
    }
    if right.is_nothing() {
        return left;
    }
    let mut replaced = Vec::new();
    let mut joints = Vec::new();
    // SAFETY: the caller's promise; replaced nodes are freed at the end.
    let mut link = unsafe { descend::<V>(arena, left, right, &mut joints, &mut replaced) };
    while let Some(joint) = joints.pop() {
        let children: Vec<_> = joint.before.into_iter().chain([(joint.byte, link)]).chain(joint.after).collect();
        link = TaggedPtr::node(build(arena, [joint.prefix, &[], &[]], joint.terminal, &children));
    }
    for node in replaced {
        // SAFETY: its content is in the new nodes, and by the caller's promise nobody can reach it.
        unsafe { node.free(arena) };
    }
    link
}

/// Descends the seam while both sides have a child with the same byte. Returns the lowest joined
/// node.
///
/// # Safety
///
/// As for [`join`].
unsafe fn descend<'g, V: 'g>(
    arena: &mut Arena,
    left: TaggedPtr,
    right: TaggedPtr,
    joints: &mut Vec<Joint<'g>>,
    replaced: &mut Vec<Node<'g>>,
) -> TaggedPtr {
    let mut depth = 0;
    // SAFETY: the caller's promise; leaves and replaced nodes live until the join is complete.
    unsafe {
        let (mut left, mut right) = (Side::of::<V>(left, depth), Side::of::<V>(right, depth));
        loop {
            let shared = common_len(left.rest, right.rest);
            let prefix = &left.rest[..shared];
            depth += shared + 1;
            let from_left = left.parts::<V>(shared, depth, true, replaced);
            let from_right = right.parts::<V>(shared, depth, false, replaced);
            let terminal = if from_left.terminal.is_nothing() { from_right.terminal } else { from_left.terminal };
            let (mut before, after) = (from_left.children, from_right.children);
            match (from_left.seam, from_right.seam) {
                (Some((byte, lower_left)), Some((other, lower_right))) if byte == other => {
                    joints.push(Joint { prefix, terminal, before, byte, after });
                    (left, right) = (lower_left, lower_right);
                }
                (lower_left, lower_right) => {
                    for (byte, side) in lower_left.into_iter().chain(lower_right) {
                        before.push((byte, side.settle::<V>(arena, replaced)));
                    }
                    before.extend(after);
                    return TaggedPtr::node(build(arena, [prefix, &[], &[]], terminal, &before));
                }
            }
        }
    }
}

impl<'g> Side<'g> {
    /// # Safety
    ///
    /// The link is from a tree of `V` that lives for `'g`; `depth` is where its part of the keys
    /// begins.
    unsafe fn of<V: 'g>(link: TaggedPtr, depth: usize) -> Self {
        // SAFETY: the caller's promise.
        let rest = match unsafe { link.follow::<'g, V>() } {
            Pointee::Nothing => &[],
            Pointee::Leaf(leaf) => leaf.key().get(depth..).unwrap_or_default(),
            Pointee::Node(node) => node.prefix(),
        };
        Self { link, rest, is_whole: true }
    }

    /// Splits the side behind the common prefix of `shared` bytes. The rest begins at `depth` of
    /// the keys.
    ///
    /// # Safety
    ///
    /// As for [`join`].
    unsafe fn parts<V: 'g>(
        self,
        shared: usize,
        depth: usize,
        seam_is_last: bool,
        replaced: &mut Vec<Node<'g>>,
    ) -> SideParts<'g> {
        if let Some(&byte) = self.rest.get(shared) {
            let lower = Self { rest: &self.rest[shared + 1..], is_whole: false, ..self };
            return SideParts { terminal: TaggedPtr::NOTHING, children: Vec::new(), seam: Some((byte, lower)) };
        }
        // SAFETY: the caller's promise.
        let Pointee::Node(node) = (unsafe { self.link.follow::<'g, V>() }) else {
            return SideParts { terminal: self.link, children: Vec::new(), seam: None };
        };
        replaced.push(node);
        let mut plan = NodePlan::new(node.terminal_link());
        node.add_to(&mut plan, None);
        let mut children = plan.children().to_vec();
        children.sort_unstable_by_key(|(byte, _)| *byte);
        let seam = if seam_is_last { children.pop() } else { (!children.is_empty()).then(|| children.remove(0)) };
        // SAFETY: as above.
        let seam = seam.map(|(byte, link)| (byte, unsafe { Self::of::<V>(link, depth) }));
        SideParts { terminal: plan.terminal, children, seam }
    }

    /// The side as a child: itself, or a copy under the rest of its prefix.
    ///
    /// # Safety
    ///
    /// As for [`join`].
    unsafe fn settle<V: 'g>(self, arena: &mut Arena, replaced: &mut Vec<Node<'g>>) -> TaggedPtr {
        // SAFETY: the caller's promise.
        match unsafe { self.link.follow::<'g, V>() } {
            Pointee::Node(node) if !self.is_whole => {
                replaced.push(node);
                TaggedPtr::node(node.copied(arena, [self.rest, &[], &[]]))
            }
            _ => self.link,
        }
    }
}
