//! A checkpoint's file, and the tallies of live bytes that it must agree with.

use hightower_segment::{Dir, Mapping, map_checkpoint};

use crate::checkpoint::block::{BlockCursor, EntryValue};
use crate::checkpoint::codec::{Checkpoint, CheckpointError, CheckpointHeader, Covered};
use crate::checkpoint::fold::Unusable;

impl From<CheckpointError> for Unusable {
    fn from(error: CheckpointError) -> Self {
        Self::Because(error.to_string())
    }
}

/// A checkpoint of this store, mapped.
pub(crate) struct Mapped {
    mapping: Mapping,
    header: CheckpointHeader,
}

impl Mapped {
    pub(crate) fn open(dir: &dyn Dir, name: &str, store_id: [u8; 16]) -> Result<Self, Unusable> {
        let mapping = map_checkpoint(dir, name).map_err(|error| Unusable::Because(error.to_string()))?;
        let header = Checkpoint::open(mapping.published_from(0).unwrap_or_default())?.header;
        if header.store_id != store_id {
            return Err(Unusable::Because("it belongs to another store".into()));
        }
        Ok(Self { mapping, header })
    }

    pub(crate) fn checkpoint(&self) -> Result<Checkpoint<'_>, Unusable> {
        Ok(Checkpoint::open(self.mapping.published_from(0).unwrap_or_default())?)
    }

    pub(crate) fn max_version(&self) -> u64 {
        self.header.max_version
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.header.file_len
    }
}

/// Checks that keys can be looked up in place: one key of each block must be found. Returns the
/// problem.
pub(crate) fn verify_order(dir: &dyn Dir, name: &str) -> Result<(), String> {
    let mapping = map_checkpoint(dir, name).map_err(|error| error.to_string())?;
    let checkpoint =
        Checkpoint::open(mapping.published_from(0).unwrap_or_default()).map_err(|error| error.to_string())?;
    let mut cursor = BlockCursor::new();
    for number in 0..checkpoint.header.blocks() {
        let block = checkpoint.block(number).map_err(|error| error.to_string())?;
        let key = block.first_key().map_err(|error| error.to_string())?;
        if !checkpoint.find(key, &mut cursor).map_err(|error| error.to_string())? {
            return Err(format!("the key {} is not found in place", key.escape_ascii()));
        }
    }
    Ok(())
}

/// Numbers of records and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) tombstone_bytes: u64,
}

impl Sums {
    pub(crate) fn count(&mut self, len_bytes: u32, is_tombstone: bool) {
        self.records += 1;
        self.bytes += u64::from(len_bytes);
        self.tombstone_bytes += if is_tombstone { u64::from(len_bytes) } else { 0 };
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.tombstone_bytes += other.tombstone_bytes;
    }
}

/// A covered segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) covered: Covered,
    /// Whether the segment still exists. Records of a removed one were moved to other segments by
    /// compaction.
    pub(crate) is_there: bool,
}

impl Account {
    pub(crate) fn new(covered: Covered, is_there: bool) -> Self {
        Self { covered, is_there }
    }

    /// Whether an entry may be in the covered part of this segment.
    pub(crate) fn can_hold(&self, value: &EntryValue) -> bool {
        value.offset.checked_add(value.len_bytes).is_some_and(|end| end <= self.covered.len_bytes)
    }

    /// Whether the entries add up to the checkpoint's numbers.
    pub(crate) fn agrees(&self, booked: &Sums) -> bool {
        let Covered { live_records, live_bytes, tombstone_bytes, .. } = self.covered;
        !self.is_there || *booked == Sums { records: live_records, bytes: live_bytes, tombstone_bytes }
    }
}
