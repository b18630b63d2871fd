//! The kinds and capacities of inner nodes.

/// The kind of a node, by its search for a child. The values are the tags of pointers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum NodeKind {
    Four = 2,
    Sixteen = 3,
    FortyEight = 4,
    Full = 5,
}

impl NodeKind {
    #[inline(always)]
    pub(crate) fn from_tag(tag: usize) -> Self {
        match tag {
            2 => Self::Four,
            3 => Self::Sixteen,
            4 => Self::FortyEight,
            _ => Self::Full,
        }
    }

    /// Words between head and children: 1, 2, 32 and 0, computed without a branch, which would
    /// often be mispredicted.
    #[inline(always)]
    pub(crate) const fn key_words(self) -> usize {
        (0x0020_0201 >> (8 * (self as usize - Self::Four as usize))) & 0xff
    }
}

/// All capacities of nodes, ascending.
pub(crate) const CAPACITIES: [(u16, NodeKind); 9] = [
    (2, NodeKind::Four),
    (4, NodeKind::Four),
    (8, NodeKind::Sixteen),
    (12, NodeKind::Sixteen),
    (16, NodeKind::Sixteen),
    (24, NodeKind::FortyEight),
    (32, NodeKind::FortyEight),
    (48, NodeKind::FortyEight),
    (256, NodeKind::Full),
];
