//! The radix tree: adding, replacing and removing leaves.
//!
//! Every change that readers can see is one atomic store: of a child's slot in its node, or of the
//! slot of a rebuilt node. So a reader sees the tree before or after the change. Unlinked memory
//! goes to the deferred frees. All loops descend; nothing recurses.
//!
//! Invariant: every leaf in the tree is in the table too, for any hasher. So a leaf that the table
//! has dropped can be freed when no reader sees it. The branch bytes on the path to a leaf do not
//! prove that it is the searched one: before a replacement or removal its address is compared.
//!
//! Invariant: every node has at least two entries (children and terminal together). So a removal
//! leaves at least one, and a single remaining entry replaces the node.

use core::marker::PhantomData;

use crate::arena::Arena;
use crate::bytes::common_len;
use crate::deferred_free::{DeferredFrees, Garbage};
use crate::leaf::Leaf;
use crate::node::{Node, NodePlan};
use crate::pointee::Pointee;
use crate::sync::{AtomicPtr, Ordering};
use crate::tagged_ptr::TaggedPtr;

/// Number of nodes of one level that stay in the processor's private caches: some hundred KiB.
const NEAR_NODES: usize = 2048;

/// The tree. Readers start at [`Tree::root`] under a guard.
pub(crate) struct Tree<V> {
    root: AtomicPtr<u8>,
    holds: PhantomData<V>,
}

/// Whether a key's leaf is a node's terminal, or the child of a byte.
#[derive(Clone, Copy)]
enum Branch {
    End,
    Byte(u8),
}

fn branch(key: &[u8], depth: usize) -> Branch {
    key.get(depth).map_or(Branch::End, |byte| Branch::Byte(*byte))
}

fn attach(plan: &mut NodePlan, branch: Branch, link: TaggedPtr) {
    match branch {
        Branch::End => plan.terminal = link,
        Branch::Byte(byte) => plan.push(byte, link),
    }
}

fn load(place: &AtomicPtr<u8>) -> TaggedPtr {
    TaggedPtr::from_raw(place.load(Ordering::Acquire))
}

fn publish(place: &AtomicPtr<u8>, link: TaggedPtr) {
    place.store(link.raw(), Ordering::Release);
}

impl<V> Tree<V> {
    pub(crate) fn new() -> Self {
        Self { root: AtomicPtr::new(core::ptr::null_mut()), holds: PhantomData }
    }

    #[inline(always)]
    pub(crate) fn root(&self) -> TaggedPtr {
        load(&self.root)
    }

    /// Follows the path to `key` through the nodes near the root, which are usually cached, and
    /// prefetches the first uncached one below them. Returns the pointer to it and its depth in the
    /// key.
    ///
    /// # Safety
    ///
    /// A guard lives during the call, or nobody writes.
    #[inline]
    pub(crate) unsafe fn prefetch_below_top(&self, key: &[u8]) -> (TaggedPtr, usize) {
        let (mut link, mut depth) = (self.root(), 0);
        // The maximum number of nodes of this level.
        let mut nodes = 1;
        while nodes <= NEAR_NODES {
            // SAFETY: the caller's promise.
            let Pointee::Node(node) = (unsafe { link.follow::<V>() }) else { break };
            depth += node.prefix_len_bytes();
            let Some(place) = key.get(depth).and_then(|&byte| node.find(byte)) else {
                return (TaggedPtr::NOTHING, depth);
            };
            link = load(place);
            depth += 1;
            nodes *= node.capacity();
        }
        link.prefetch();
        (link, depth)
    }

    /// Reads the prefetched node, and prefetches the next one.
    ///
    /// # Safety
    ///
    /// As for [`prefetch_below_top`](Self::prefetch_below_top), which gave link and depth; the
    /// guard has lived since.
    #[inline]
    pub(crate) unsafe fn prefetch_further(&self, key: &[u8], link: TaggedPtr, depth: usize) {
        // SAFETY: the caller's promise.
        let Pointee::Node(node) = (unsafe { link.follow::<V>() }) else { return };
        let byte = key.get(depth + node.prefix_len_bytes());
        if let Some(place) = byte.and_then(|&byte| node.find(byte)) {
            load(place).prefetch();
        }
    }

    /// Sets the content of an empty tree, atomically. For the writer only.
    pub(crate) fn set_root(&self, root: TaggedPtr) {
        publish(&self.root, root);
    }

    /// Adds a leaf. Its key is not in the tree, unless the hasher is inconsistent: then the leaf
    /// replaces the existing one, which stays in the table.
    ///
    /// # Safety
    ///
    /// The caller is the one writer.
    pub(crate) unsafe fn insert(&self, leaf: Leaf<'_, V>, arena: &mut Arena, deferred_frees: &mut DeferredFrees) {
        let key = leaf.key();
        let mut place = &self.root;
        let mut depth = 0;
        loop {
            let link = load(place);
            // SAFETY: only the writer retires what the tree reaches, and not during this call.
            let node = match unsafe { link.follow::<V>() } {
                Pointee::Nothing => return publish(place, TaggedPtr::leaf(leaf)),
                Pointee::Leaf(other) if other.key() == key => return publish(place, TaggedPtr::leaf(leaf)),
                Pointee::Leaf(other) => return publish(place, fork(arena, other, leaf, depth)),
                Pointee::Node(node) => node,
            };
            let prefix = node.prefix();
            let shared = common_len(&key[depth..], prefix);
            if shared < prefix.len() {
                publish(place, split(arena, node, leaf, depth, shared));
                return deferred_frees.push(Garbage::TreePart(link));
            }
            depth += shared;
            let Branch::Byte(byte) = branch(key, depth) else {
                return publish(node.terminal(), TaggedPtr::leaf(leaf));
            };
            match node.find(byte).filter(|child| !load(child).is_nothing()) {
                Some(child) => place = child,
                None if node.try_add(byte, TaggedPtr::leaf(leaf)) => return,
                None => {
                    let mut plan = NodePlan::new(node.terminal_link());
                    node.add_to(&mut plan, None);
                    if crate::mutants::planted("visible_too_soon") {
                        publish(
                            place,
                            TaggedPtr::node(NodePlan::new(node.terminal_link()).build(arena, [prefix, &[], &[]])),
                        );
                    }
                    plan.push(byte, TaggedPtr::leaf(leaf));
                    publish(place, TaggedPtr::node(plan.build(arena, [prefix, &[], &[]])));
                    return deferred_frees.push(Garbage::TreePart(link));
                }
            }
            depth += 1;
        }
    }

    /// Replaces `old` by `leaf`, which has the same key. If the tree does not contain exactly
    /// `old`, nothing happens.
    ///
    /// # Safety
    ///
    /// The caller is the one writer.
    pub(crate) unsafe fn replace(&self, old: Leaf<'_, V>, leaf: Leaf<'_, V>) {
        let mut place = &self.root;
        let mut depth = 0;
        loop {
            // SAFETY: as in insert.
            match unsafe { load(place).follow::<V>() } {
                Pointee::Nothing => return,
                Pointee::Leaf(found) if found != old && !crate::mutants::planted("any_leaf_replaced") => return,
                Pointee::Leaf(_) => return publish(place, TaggedPtr::leaf(leaf)),
                Pointee::Node(node) => {
                    depth += node.prefix().len();
                    let Some(next) = step(node, leaf.key(), depth) else { return };
                    place = next;
                    depth += 1;
                }
            }
        }
    }

    /// Removes `leaf`. If the tree does not contain exactly this leaf, nothing happens.
    ///
    /// # Safety
    ///
    /// The caller is the one writer.
    pub(crate) unsafe fn remove(&self, leaf: Leaf<'_, V>, arena: &mut Arena, deferred_frees: &mut DeferredFrees) {
        let key = leaf.key();
        let mut place = &self.root;
        let mut depth = 0;
        // The node that `place` is in, and the place that leads to it.
        let mut above: Option<(Node<'_>, &AtomicPtr<u8>)> = None;
        loop {
            // SAFETY: as in insert.
            match unsafe { load(place).follow::<V>() } {
                Pointee::Nothing => return,
                Pointee::Leaf(found) if found != leaf && !crate::mutants::planted("any_leaf_removed") => return,
                Pointee::Leaf(_) => break,
                Pointee::Node(node) => {
                    depth += node.prefix().len();
                    let Some(next) = step(node, key, depth) else { return };
                    above = Some((node, place));
                    place = next;
                    depth += 1;
                }
            }
        }
        match above {
            None => publish(place, TaggedPtr::NOTHING),
            Some((node, parent)) => detach::<V>(node, parent, branch(key, depth - 1), arena, deferred_frees),
        }
    }
}

/// The slot of the key's next step below `node`, whose prefix ends at `depth`.
fn step<'g>(node: Node<'g>, key: &[u8], depth: usize) -> Option<&'g AtomicPtr<u8>> {
    match branch(key, depth) {
        Branch::End => Some(node.terminal()),
        Branch::Byte(byte) => node.find(byte),
    }
}

/// A node with two leaves that share at least their first `depth` bytes.
fn fork<V>(arena: &mut Arena, old: Leaf<'_, V>, new: Leaf<'_, V>, depth: usize) -> TaggedPtr {
    let shared = common_len(&old.key()[depth..], &new.key()[depth..]);
    let end = depth + shared;
    let mut plan = NodePlan::new(TaggedPtr::NOTHING);
    attach(&mut plan, branch(old.key(), end), TaggedPtr::leaf(old));
    attach(&mut plan, branch(new.key(), end), TaggedPtr::leaf(new));
    TaggedPtr::node(plan.build(arena, [&new.key()[depth..end], &[], &[]]))
}

/// A node with `leaf` and a copy of `node`, which share only the first `shared` bytes of the node's
/// prefix.
fn split<V>(arena: &mut Arena, node: Node<'_>, leaf: Leaf<'_, V>, depth: usize, shared: usize) -> TaggedPtr {
    let prefix = node.prefix();
    let lower = node.copied(arena, [&prefix[shared + 1..], &[], &[]]);
    let mut plan = NodePlan::new(TaggedPtr::NOTHING);
    plan.push(prefix[shared], TaggedPtr::node(lower));
    attach(&mut plan, branch(leaf.key(), depth + shared), TaggedPtr::leaf(leaf));
    TaggedPtr::node(plan.build(arena, [&prefix[..shared], &[], &[]]))
}

/// Removes one leaf from `node`, and replaces the node if the rest fits a smaller one. `place` is
/// the slot of the node.
fn detach<V>(
    node: Node<'_>,
    place: &AtomicPtr<u8>,
    gone: Branch,
    arena: &mut Arena,
    deferred_frees: &mut DeferredFrees,
) {
    let old = load(place);
    let (live, terminal) = match gone {
        Branch::End => (node.live(), TaggedPtr::NOTHING),
        Branch::Byte(_) => (node.live() - 1, node.terminal_link()),
    };
    let lonely = live + usize::from(!terminal.is_nothing()) == 1;
    if !lonely && !node.is_sparse(live) {
        return match gone {
            Branch::End => publish(node.terminal(), TaggedPtr::NOTHING),
            Branch::Byte(byte) => node.clear(byte),
        };
    }
    let mut plan = NodePlan::new(terminal);
    node.add_to(
        &mut plan,
        match gone {
            Branch::End => None,
            Branch::Byte(byte) => Some(byte),
        },
    );
    if lonely {
        let (link, merged) = collapse::<V>(&plan, node, arena);
        publish(place, link);
        deferred_frees.push(Garbage::TreePart(old));
        if let Some(merged) = merged {
            deferred_frees.push(Garbage::TreePart(merged));
        }
        return;
    }
    publish(place, TaggedPtr::node(plan.build(arena, [node.prefix(), &[], &[]])));
    deferred_frees.push(Garbage::TreePart(old));
}

/// The replacement of a node with one remaining entry: the entry, or for a node a copy with joined
/// prefixes. Also returns the copied node.
fn collapse<V>(plan: &NodePlan, node: Node<'_>, arena: &mut Arena) -> (TaggedPtr, Option<TaggedPtr>) {
    let Some(&(byte, child)) = plan.children().first() else { return (plan.terminal, None) };
    // SAFETY: the writer's call; the child is in the tree.
    match unsafe { child.follow::<V>() } {
        Pointee::Node(lower) => {
            let joined = lower.copied(arena, [node.prefix(), &[byte], lower.prefix()]);
            (TaggedPtr::node(joined), Some(child))
        }
        Pointee::Leaf(_) | Pointee::Nothing => (child, None),
    }
}
