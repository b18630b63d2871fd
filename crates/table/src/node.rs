//! Nodes of the block index: from separators to the blocks one level below.
//!
//! A child's separator is the shortest byte string that is above all keys before the child and at
//! or below its first key. The first separator of a level is empty. A node stores the common prefix
//! of its separators once. A binary search runs in place.

use std::cmp::Ordering;

use crate::block::{self, FULL_BLOCK_BYTES, HEAD_LEN, NODE_CHILDREN, common_prefix};
use crate::error::{Damaged, damaged};

/// The end of a separator, and the offset of its child.
const ROW_LEN: usize = 10;

/// Collects the children of a node.
#[derive(Debug, Default)]
pub(crate) struct NodeBuilder {
    separators: Vec<u8>,
    ends: Vec<usize>,
    children: Vec<u64>,
}

impl NodeBuilder {
    pub(crate) fn len(&self) -> usize {
        self.children.len()
    }

    /// A node has at least two children, so that each level has fewer blocks than the one below.
    pub(crate) fn is_full(&self) -> bool {
        self.len() >= NODE_CHILDREN || self.len() >= 2 && self.separators.len() >= FULL_BLOCK_BYTES
    }

    pub(crate) fn push(&mut self, separator: &[u8], child: u64) {
        self.separators.extend_from_slice(separator);
        self.ends.push(self.separators.len());
        self.children.push(child);
    }

    /// The separator of the node itself.
    pub(crate) fn first_separator(&self) -> &[u8] {
        self.separator(0)
    }

    fn separator(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(place).and_then(|end| self.separators.get(start..*end)).unwrap_or_default()
    }

    /// Writes the body after the room for the head, and begins a new node.
    pub(crate) fn encode(&mut self, block: &mut Vec<u8>) {
        block::begin(block);
        let last = self.separator(self.len().saturating_sub(1));
        let prefix = common_prefix(self.first_separator(), last);
        block.extend_from_slice(&u16::try_from(prefix).unwrap_or(u16::MAX).to_le_bytes());
        block.extend_from_slice(last.get(..prefix).unwrap_or_default());
        let mut end = 0_u32;
        for (place, child) in self.children.iter().enumerate() {
            end += u32::try_from(self.separator(place).len() - prefix).unwrap_or(0);
            block.extend_from_slice(&end.to_le_bytes());
            block.extend_from_slice(child.to_le_bytes().get(..6).unwrap_or_default());
        }
        for place in 0..self.len() {
            block.extend_from_slice(self.separator(place).get(prefix..).unwrap_or_default());
        }
        self.separators.clear();
        self.ends.clear();
        self.children.clear();
    }
}

/// A verified node in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IndexNode<'a> {
    prefix: &'a [u8],
    rows: &'a [[u8; ROW_LEN]],
    suffixes: &'a [u8],
    offset: u64,
}

impl<'a> IndexNode<'a> {
    /// Reads a verified block that begins at `offset` of the file.
    pub(crate) fn parse(block: &'a [u8], count: usize, offset: u64) -> Result<Self, Damaged> {
        Self::parts(block, count, offset).ok_or_else(|| damaged(offset, "a block without the parts of a node"))
    }

    fn parts(block: &'a [u8], count: usize, offset: u64) -> Option<Self> {
        let (prefix_len, rest) = block.get(HEAD_LEN..)?.split_first_chunk()?;
        let (prefix, rest) = rest.split_at_checked(u16::from_le_bytes(*prefix_len).into())?;
        let (rows, suffixes) = rest.split_at_checked(count.checked_mul(ROW_LEN)?)?;
        let node = Self { prefix, rows: rows.as_chunks().0, suffixes, offset };
        (node.end(count.checked_sub(1)?) == suffixes.len()).then_some(node)
    }

    fn end(&self, place: usize) -> usize {
        self.rows.get(place).map_or(0, |[a, b, c, d, ..]| u32::from_le_bytes([*a, *b, *c, *d]) as usize)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    fn suffix(&self, place: usize) -> Result<&'a [u8], Damaged> {
        let start = place.checked_sub(1).map_or(0, |before| self.end(before));
        let found = self.suffixes.get(start..self.end(place));
        found.ok_or_else(|| damaged(self.offset, "separators of a node that overlap"))
    }

    /// The separator of the child at this place.
    pub(crate) fn separator(&self, place: usize) -> Result<Vec<u8>, Damaged> {
        Ok([self.prefix, self.suffix(place)?].concat())
    }

    /// Whether its separators ascend, and are above `before`.
    pub(crate) fn is_rising(&self, before: &mut Option<Vec<u8>>) -> Result<bool, Damaged> {
        for place in 0..self.len() {
            let separator = self.separator(place)?;
            if before.as_ref().is_some_and(|before| *before >= separator) {
                return Ok(false);
            }
            *before = Some(separator);
        }
        Ok(true)
    }

    /// The offset of the child at this place.
    pub(crate) fn child(&self, place: usize) -> u64 {
        self.rows
            .get(place)
            .map_or(0, |[_, _, _, _, a, b, c, d, e, f]| u64::from_le_bytes([*a, *b, *c, *d, *e, *f, 0, 0]))
    }

    /// The only child that can hold `target`: the last child whose separator is at or below it,
    /// otherwise the first child.
    pub(crate) fn child_of(&self, target: &[u8]) -> Result<u64, Damaged> {
        let place = match target.get(..self.prefix.len().min(target.len())).unwrap_or_default().cmp(self.prefix) {
            Ordering::Less => 0,
            Ordering::Greater => self.len() - 1,
            Ordering::Equal => {
                let rest = target.get(self.prefix.len()..).unwrap_or_default();
                let (mut low, mut high) = (0, self.len());
                while low < high {
                    let middle = low + (high - low) / 2;
                    if self.suffix(middle)? <= rest { low = middle + 1 } else { high = middle }
                }
                low.saturating_sub(1)
            }
        };
        Ok(self.child(place))
    }
}
