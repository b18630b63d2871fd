//! Builds the block index, level by level, from the separators of the level below.

use crate::append_file::AppendFile;
use crate::block;
use crate::checksum::Salt;
use crate::error::TableError;
use crate::node::NodeBuilder;
use crate::spill::{Spill, SpillReader, SpillStream};

/// The length of a separator, and the offset of its block.
const HEAD_LEN: usize = 8;

/// The blocks of one level, in the order of writing.
#[derive(Debug, Default)]
pub(crate) struct IndexWriter {
    stream: SpillStream,
    count: u64,
    /// The offset of the last pushed block.
    last: u64,
}

impl IndexWriter {
    /// Adds the next block of the level.
    pub(crate) fn push(&mut self, separator: &[u8], offset: u64, spill: &mut Spill) -> Result<(), TableError> {
        let [o0, o1, o2, o3, o4, o5, _, _] = offset.to_le_bytes();
        let [l0, l1] = u16::try_from(separator.len()).unwrap_or(u16::MAX).to_le_bytes();
        self.stream.push(&[l0, l1, o0, o1, o2, o3, o4, o5], spill)?;
        self.stream.push(separator, spill)?;
        self.count += 1;
        self.last = offset;
        Ok(())
    }

    /// Writes the levels above; returns the offset of the root, and its level.
    pub(crate) fn finish(self, salt: Salt, out: &mut AppendFile, spill: &mut Spill) -> Result<(u64, u8), TableError> {
        let mut below = self;
        let mut level = 0;
        while below.count > 1 {
            level += 1;
            below = below.level_above(level, salt, out, spill)?;
        }
        Ok((below.last, level))
    }

    fn level_above(self, level: u8, salt: Salt, out: &mut AppendFile, spill: &mut Spill) -> Result<Self, TableError> {
        let mut above = Self::default();
        let mut node = NodeBuilder::default();
        let mut block = Vec::new();
        let mut reader = self.stream.into_reader();
        let mut separator = Vec::new();
        for place in 0..self.count {
            let offset = next_of(&mut reader, &mut separator, spill)?;
            node.push(&separator, offset);
            if node.is_full() || place + 1 == self.count {
                let at = out.position();
                above.push(node.first_separator(), at, spill)?;
                let count = node.len();
                node.encode(&mut block);
                block::seal(&mut block, salt, at, 0, level, count);
                out.append(&block)?;
            }
        }
        Ok(above)
    }
}

fn next_of(reader: &mut SpillReader, separator: &mut Vec<u8>, spill: &mut Spill) -> Result<u64, TableError> {
    let mut head = [0; HEAD_LEN];
    reader.read_exact(&mut head, spill)?;
    let [l0, l1, o0, o1, o2, o3, o4, o5] = head;
    separator.clear();
    separator.resize(u16::from_le_bytes([l0, l1]).into(), 0);
    reader.read_exact(separator, spill)?;
    Ok(u64::from_le_bytes([o0, o1, o2, o3, o4, o5, 0, 0]))
}
