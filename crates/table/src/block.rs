//! The head of all blocks: checksum, length and level. *Leaves* are the blocks of entries, *nodes*
//! those of the index.

use std::ops::Range;

use crate::checksum::Salt;
use crate::error::{Damaged, damaged};
use crate::planted;

/// The length of the head: checksum, length, length of the previous block, level, count.
pub(crate) const HEAD_LEN: usize = 14;
/// The longest block. A reader checks a block's length before it reads the block.
pub(crate) const MAX_BLOCK_LEN: usize = 256 << 10;
/// A block is complete when it has this many entries or children.
pub(crate) const LEAF_ENTRIES: usize = 32;
pub(crate) const NODE_CHILDREN: usize = 64;
/// A block is also complete when its keys take this many bytes.
pub(crate) const FULL_BLOCK_BYTES: usize = 4096;

/// The head of a block, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockHead {
    pub(crate) len: usize,
    /// In a leaf: the length of the previous leaf, 0 in the first.
    pub(crate) previous_len: u32,
    /// 0 in a leaf, 1 in a node above leaves, ...
    pub(crate) level: u8,
    pub(crate) count: usize,
}

/// Reserves room for the head of a block, whose body follows.
pub(crate) fn begin(block: &mut Vec<u8>) {
    block.clear();
    block.resize(HEAD_LEN, 0);
}

/// Writes the head of a complete block that will stand at `offset`.
pub(crate) fn seal(block: &mut [u8], salt: Salt, offset: u64, previous_len: u32, level: u8, count: usize) {
    let len = u32::try_from(block.len()).unwrap_or(u32::MAX);
    let count = u8::try_from(count).unwrap_or(u8::MAX);
    let Some((head, _)) = block.split_first_chunk_mut::<HEAD_LEN>() else { return };
    head[4..8].copy_from_slice(&len.to_le_bytes());
    head[8..12].copy_from_slice(&previous_len.to_le_bytes());
    head[12] = level;
    head[13] = count;
    let check = salt.check(offset, block.get(4..).unwrap_or_default());
    if let Some(place) = block.first_chunk_mut() {
        *place = check.to_le_bytes();
    }
}

/// The block that begins at `offset`, within `area` of the file. Verifies the whole block.
pub(crate) fn open<'a>(
    file: &'a [u8],
    salt: Salt,
    offset: u64,
    area: &Range<u64>,
) -> Result<(BlockHead, &'a [u8]), Damaged> {
    if offset < area.start || offset >= area.end {
        return Err(damaged(offset, "an offset outside the area of the blocks"));
    }
    let most = usize::try_from(area.end - offset).unwrap_or(usize::MAX).min(MAX_BLOCK_LEN);
    let rest = usize::try_from(offset).ok().and_then(|start| file.get(start..)).unwrap_or_default();
    let rest = rest.get(..most.min(rest.len())).unwrap_or_default();
    let Some(head) = rest.first_chunk::<HEAD_LEN>() else { return Err(damaged(offset, "a truncated block")) };
    let [c0, c1, c2, c3, l0, l1, l2, l3, p0, p1, p2, p3, level, count] = *head;
    let len = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let Some(block) = rest.get(..len).filter(|block| block.len() >= HEAD_LEN) else {
        return Err(damaged(offset, "a block that reaches beyond the area of the blocks"));
    };
    let checked = block.get(4..).unwrap_or_default();
    if salt.check(offset, checked) != u32::from_le_bytes([c0, c1, c2, c3]) && !planted("table_block_unverified") {
        return Err(damaged(offset, "wrong checksum of a block"));
    }
    if count == 0 {
        return Err(damaged(offset, "a block without entries"));
    }
    let previous_len = u32::from_le_bytes([p0, p1, p2, p3]);
    Ok((BlockHead { len, previous_len, level, count: usize::from(count) }, block))
}

/// The length of the common prefix of two byte strings.
#[inline]
pub(crate) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    let mut common = 0;
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        let differs = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differs != 0 {
            return common + differs.trailing_zeros() as usize / 8;
        }
        common += 8;
    }
    let rest = |bytes: &'_ [u8]| bytes.len().saturating_sub(common);
    let most = rest(a).min(rest(b));
    let tail = |bytes| <[u8]>::get(bytes, common..common + most).unwrap_or_default();
    common + tail(a).iter().zip(tail(b)).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::common_prefix;

    #[test]
    fn prefixes_of_any_length_are_counted() {
        for len in 0..40 {
            for differs in 0..=len {
                let a: Vec<u8> = (0..len).collect();
                let mut b = a.clone();
                let expected = usize::from(differs);
                if let Some(byte) = b.get_mut(expected) {
                    *byte ^= 0x55;
                }
                assert_eq!(common_prefix(&a, &b), expected);
                assert_eq!(common_prefix(&a, &b[..expected]), expected);
            }
        }
    }
}
