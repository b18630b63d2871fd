//! The form of a point-table entry during the table's construction and in its list.

use crate::entry::RecordPointer;

/// A key's hash, and the place of its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PointEntry {
    pub(crate) hash: u64,
    pub(crate) pointer: RecordPointer,
}

impl PointEntry {
    pub(crate) const LEN: usize = 16;

    pub(crate) fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.pointer.segment.to_le_bytes());
        bytes[12..].copy_from_slice(&self.pointer.offset.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; Self::LEN]) -> Self {
        let [h0, h1, h2, h3, h4, h5, h6, h7, s0, s1, s2, s3, o0, o1, o2, o3] = *bytes;
        let hash = u64::from_le_bytes([h0, h1, h2, h3, h4, h5, h6, h7]);
        let (segment, offset) = (u32::from_le_bytes([s0, s1, s2, s3]), u32::from_le_bytes([o0, o1, o2, o3]));
        Self { hash, pointer: RecordPointer { segment, offset } }
    }
}
