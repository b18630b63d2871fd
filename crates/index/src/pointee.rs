//! Dereferencing of tagged pointers.

use crate::leaf::Leaf;
use crate::node::Node;
use crate::node_kind::NodeKind;
use crate::tagged_ptr::{TAG_LEAF, TaggedPtr};

/// The target of a [`TaggedPtr`].
pub(crate) enum Pointee<'g, V> {
    Nothing,
    Leaf(Leaf<'g, V>),
    Node(Node<'g>),
}

impl TaggedPtr {
    #[inline(always)]
    pub(crate) fn node(node: Node<'_>) -> Self {
        Self::from_raw(node.as_raw().map_addr(|address| address | node.kind() as usize))
    }

    /// Follows the pointer.
    ///
    /// # Safety
    ///
    /// The pointer was read from a tree of `V`, and what it leads to stays alive for `'g`.
    #[inline(always)]
    pub(crate) unsafe fn follow<'g, V>(self) -> Pointee<'g, V> {
        let (tag, target) = (self.tag(), self.address());
        // SAFETY: only `leaf` and `node` create pointers, so the tag states the type at the
        // address; it is alive by the caller's promise.
        unsafe {
            match tag {
                0 => Pointee::Nothing,
                TAG_LEAF => Pointee::Leaf(Leaf::from_raw(target)),
                _ => Pointee::Node(Node::from_raw(target, NodeKind::from_tag(tag))),
            }
        }
    }
}
