//! Tagged pointers: the slots of the tree. Each points to nothing, a leaf or an inner node; the low
//! three bits are the tag.

use crate::leaf::Leaf;
use crate::prefetch::prefetch_line;

const TAG_BITS: usize = 0b111;
pub(crate) const TAG_LEAF: usize = 1;

/// A tagged pointer in a slot of the tree; zero means nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TaggedPtr(*mut u8);

impl TaggedPtr {
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
    pub(crate) fn is_nothing(self) -> bool {
        self.0.is_null()
    }

    #[inline(always)]
    pub(crate) fn tag(self) -> usize {
        self.0.addr() & TAG_BITS
    }

    /// The address without its tag.
    #[inline(always)]
    pub(crate) fn address(self) -> *mut u8 {
        self.0.map_addr(|address| address & !TAG_BITS)
    }

    /// Prefetches the first line of a leaf, or the first three of a node.
    #[inline(always)]
    pub(crate) fn prefetch(self) {
        prefetch_line(self.0);
        if self.tag() > TAG_LEAF {
            prefetch_line(self.0.wrapping_add(64));
            prefetch_line(self.0.wrapping_add(128));
        }
    }
}
