//! Links: what a place in the tree holds. Nothing, a leaf, or an inner node, told apart by the low three bits of the pointer.

use crate::leaf::Leaf;
use crate::node::{Kind, Node};
use crate::prefetch::prefetch_line;

const TAG_BITS: usize = 0b111;
const TAG_LEAF: usize = 1;

/// A tagged pointer as a place in the tree holds it; all zero means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Link(*mut u8);

/// What a [`Link`] leads to.
pub(crate) enum Target<'g, V> {
    Nothing,
    Leaf(Leaf<'g, V>),
    Node(Node<'g>),
}

impl Link {
    pub(crate) const NOTHING: Self = Self(core::ptr::null_mut());

    #[inline(always)]
    pub(crate) fn from_raw(raw: *mut u8) -> Self {
        Self(raw)
    }

    #[inline(always)]
    pub(crate) fn raw(self) -> *mut u8 {
        self.0
    }

    #[inline(always)]
    pub(crate) fn leaf<V>(leaf: Leaf<'_, V>) -> Self {
        Self(leaf.as_raw().map_addr(|address| address | TAG_LEAF))
    }

    #[inline(always)]
    pub(crate) fn node(node: Node<'_>) -> Self {
        Self(node.as_raw().map_addr(|address| address | node.kind() as usize))
    }

    #[inline(always)]
    pub(crate) fn is_nothing(self) -> bool {
        self.0.is_null()
    }

    /// Follows the link.
    ///
    /// # Safety
    ///
    /// The link was read from a tree of `V`, and what it leads to stays alive for `'g`.
    #[inline(always)]
    pub(crate) unsafe fn follow<'g, V>(self) -> Target<'g, V> {
        let tag = self.0.addr() & TAG_BITS;
        let target = self.0.map_addr(|address| address & !TAG_BITS);
        // SAFETY: links are made only by `leaf` and `node`, so the tag tells what the address is; it is alive by the caller's promise.
        unsafe {
            match tag {
                0 => Target::Nothing,
                TAG_LEAF => Target::Leaf(Leaf::from_raw(target)),
                _ => Target::Node(Node::from_raw(target, Kind::from_tag(tag))),
            }
        }
    }

    /// Asks for the first line of a leaf, or the first three of a node.
    #[inline(always)]
    pub(crate) fn prefetch(self) {
        prefetch_line(self.0);
        if self.0.addr() & TAG_BITS > TAG_LEAF {
            prefetch_line(self.0.wrapping_add(64));
            prefetch_line(self.0.wrapping_add(128));
        }
    }
}
