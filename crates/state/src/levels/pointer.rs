//! Conversion between locations and the pointers of tables. The lowest 32 bits of a location are
//! the offset, the bits above are the segment.

use hightower_table::{EntryKind, RecordPointer, TableEntry};

use crate::change::EntryRecord;
use crate::location::{Location, LocationBits};
use crate::outcome::CommandKind;

/// The location of a pointer; `None` if its segment is 2^30 or more, which no location can hold.
pub(crate) fn location_of<L: Location>(pointer: RecordPointer) -> Option<L> {
    LocationBits::new(u64::from(pointer.segment) << 32 | u64::from(pointer.offset)).map(L::from_bits)
}

/// The pointer of a location.
pub(crate) fn pointer_of<L: Location>(location: L) -> RecordPointer {
    let bits = location.to_bits().get();
    #[allow(clippy::cast_possible_truncation, reason = "the halves of a 62-bit number")]
    RecordPointer { segment: (bits >> 32) as u32, offset: bits as u32 }
}

/// The table entry of a record.
pub(crate) fn entry_of<L: Location>(record: &EntryRecord<L>) -> TableEntry {
    let kind = match record.kind {
        CommandKind::Set => EntryKind::Set,
        CommandKind::Delete => EntryKind::Tombstone,
    };
    TableEntry { version: record.version, kind, pointer: pointer_of(record.location), len_bytes: record.len_bytes }
}

/// The record of a table entry; `None` if its pointer is not a location.
pub(crate) fn record_of<L: Location>(entry: &TableEntry) -> Option<EntryRecord<L>> {
    let kind = if entry.is_tombstone() { CommandKind::Delete } else { CommandKind::Set };
    let location = location_of(entry.pointer)?;
    Some(EntryRecord { location, version: entry.version, kind, len_bytes: entry.len_bytes })
}
